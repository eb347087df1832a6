package train

import (
	"time"

	"colonnade/checkpoint"
	"colonnade/worker/exchange"
)

// Event is something a cell's run came to that must be written down. Events of one cell are reported in order.
type Event interface{ event() }

// Saved is a checkpoint file that is complete and durable.
type Saved struct {
	Cell       exchange.Cell
	Step       uint64
	Info       checkpoint.Info
	PlanDigest [32]byte
	Took       time.Duration // from snapshot to durable
	Stall      time.Duration // that training waited
}

// SaveFailed is a checkpoint that could not be written. Training goes on; the last checkpoint of a run is tried again.
type SaveFailed struct {
	Cell exchange.Cell
	Step uint64
	Err  error
}

// Evaluated is a pass over the whole test set.
type Evaluated struct {
	Step      uint64 // finished steps
	Score     Score
	TrainLoss float64 // mean over the steps of this epoch that this run has done
	Rate      float64 // the recipe's, of the steps that follow
}

// Finished says that a cell has done the job's last step; its final checkpoint was reported before.
type Finished struct {
	Cell   exchange.Cell
	Step   uint64
	Digest [32]byte
}

// Stopped says that a cell stopped at a step boundary as asked; its checkpoint was reported before.
type Stopped struct {
	Cell exchange.Cell
	Step uint64
}

func (Saved) event()      {}
func (SaveFailed) event() {}
func (Evaluated) event()  {}
func (Finished) event()   {}
func (Stopped) event()    {}
