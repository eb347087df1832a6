package train

import (
	"context"
	"time"
)

// StepTimes is how long one step took.
type StepTimes struct {
	Began, Ended time.Time
	Phases       []PhaseTime // in the order they ran
}

// PhaseTime is how long one phase of a step took.
type PhaseTime struct {
	Name string // as in Status; not always unique in a step
	Op   string // the name that columns have in common: "conv3 other blocks" for "conv3 block 1" in column 0
	Kind Kind
	MACs int64 // multiply-adds by the layer's definition, whatever the algorithm; 0 where nothing is multiplied
	Took time.Duration
}

// Measure does so many steps from the cell's state, as Run does them but for evaluations and checkpoints, and calls
// each behind every step; an error of that ends them. Like Run it locks its OS thread, and an error of it is a
// *CellError.
func (c *Cell) Measure(ctx context.Context, steps int, each func(StepTimes) error) error {
	return c.inRun(ctx, func(ctx context.Context) error {
		var t StepTimes
		c.timed = func(ph *phase, took time.Duration) {
			t.Phases = append(t.Phases, PhaseTime{Name: ph.name, Op: ph.op, Kind: ph.kind, MACs: ph.macs, Took: took})
		}
		defer func() { c.timed = nil }()
		for range steps {
			t = StepTimes{Began: c.now(), Phases: make([]PhaseTime, 0, len(t.Phases))}
			if _, err := c.oneStep(ctx); err != nil {
				return err
			}
			t.Ended = c.now()
			if err := each(t); err != nil {
				return err
			}
		}
		return c.settle(&pass{ctx: ctx, step: c.step - 1})
	})
}
