package sched

import (
	"fmt"
	"slices"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// Ask is a question to a worker: what does its host hold of a job whose generation has ended?
type Ask struct {
	Worker, Job string
	Generation  uint64
}

// Holding is a worker's answer.
type Holding struct {
	Generation uint64 // that was asked about
	Held       []Held
}

// Held is a cell's state that a worker can go on from.
type Held struct {
	Replica, Column int32
	Generation      uint64   // that computed it
	Steps           []uint64 // finished steps, in any order
	Numerics        string
}

// maxTries is how many generations in a row may go on from one step in memory. One that ends without having got any
// further has lost nothing; but if that is because of what is in memory, it must not go on for ever.
const maxTries = 3

// forgetful says that a job must not go on from memory.
func forgetful(j *commandpb.JobRecord) bool {
	return j.State != fsm.Recovering || j.AvoidMemory || j.FromMemory && j.MemoryTries >= maxTries
}

// ask has every worker asked that could take a cell of a job that recovers, and says whose answer is waited for.
func ask(now time.Time, in Input, j *commandpb.JobRecord, workers []string, d *Decision) string {
	if forgetful(j) {
		return ""
	}
	waits := 0
	for _, id := range workers {
		if _, ok := answer(in, j, id); !ok && in.Sessions[id].Memory {
			d.Asks = append(d.Asks, Ask{id, j.Submitted.Job, j.Generation})
			waits++
		}
	}
	since := in.Leader
	if s := time.Unix(0, j.StateUnixNs); !s.After(now) {
		since = later(since, s)
	}
	deadline := since.Add(in.Rules.Ask)
	if waits == 0 || !now.Before(deadline) {
		return ""
	}
	d.wakeAt(deadline)
	return fmt.Sprintf("asks %s which steps they hold in memory", count(waits, "worker"))
}

// answer is what a worker says of a job's present generation.
func answer(in Input, j *commandpb.JobRecord, worker string) (Holding, bool) {
	h, ok := in.Holdings[worker][j.Submitted.Job]
	return h, ok && h.Generation == j.Generation
}

// remember places the cells of a job and has them go on from the newest step that each can reach where it is, if that
// is no older than the newest checkpoint. It says in words which, or why not.
func remember(in Input, j *commandpb.JobRecord, workers []string, numerics string, a *Assign) (words string) {
	a.Placement = spread(j, workers, nil)
	if forgetful(j) {
		return ""
	}
	reach := func(cell int, worker string) []uint64 { return reachable(in, j, numerics, cell, worker) }
	// The newest step that every cell has somewhere.
	var common []uint64
	missing := -1
	asked := false
	for i := range a.Placement {
		var steps []uint64
		for _, id := range workers {
			_, ok := answer(in, j, id)
			asked = asked || ok
			steps = append(steps, reach(i, id)...)
		}
		if i > 0 {
			steps = slices.DeleteFunc(steps, func(s uint64) bool { return !slices.Contains(common, s) })
		}
		if common = steps; len(steps) == 0 {
			missing = i
			break
		}
	}
	if !asked {
		return ""
	}
	slices.Sort(common)
	for _, step := range slices.Backward(common) {
		if step == 0 || step < a.Restore {
			break
		}
		fits := func(cell int, worker string) bool { return slices.Contains(reach(cell, worker), step) }
		placed := spread(j, workers, fits)
		if i := slices.IndexFunc(placed, func(p *commandpb.Placement) bool {
			return !fits(int(p.Cell.Replica*j.Submitted.Columns+p.Cell.Column), p.Worker)
		}); i >= 0 {
			missing = i
			continue
		}
		a.Placement, a.Memory, a.FromMemory = placed, step, true
		return fmt.Sprintf(", from step %d in memory", step)
	}
	from := "the start"
	if a.HasRestore {
		from = fmt.Sprintf("the checkpoint of step %d", a.Restore)
	}
	if missing >= 0 {
		return fmt.Sprintf(", from %s: no free worker's host holds cell %s in memory", from,
			fsm.CellName(a.Placement[missing].Cell))
	}
	return fmt.Sprintf(", from %s: memory holds nothing newer", from)
}

// reachable are the steps of a cell that a worker's host holds.
func reachable(in Input, j *commandpb.JobRecord, numerics string, cell int, worker string) (steps []uint64) {
	h, ok := answer(in, j, worker)
	if !ok {
		return nil
	}
	for _, held := range h.Held {
		if int(held.Replica*j.Submitted.Columns+held.Column) == cell && held.Column >= 0 && held.Replica >= 0 &&
			held.Column < j.Submitted.Columns && held.Numerics == numerics && held.Generation >= fsm.MemorySince(j) {
			for _, s := range held.Steps {
				if s <= j.Submitted.Steps {
					steps = append(steps, s)
				}
			}
		}
	}
	return steps
}
