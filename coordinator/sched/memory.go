package sched

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
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
	Copy            bool // the worker hands it to others; else only who is on its host can go on from it
}

// maxTries is how many generations in a row may go on from one step in memory. One that ends without having got any
// further has lost nothing; but if that is because of what is in memory, it must not go on for ever.
const maxTries = 3

// forgetful says that a job must not go on from memory.
func forgetful(j *commandpb.JobRecord) bool {
	return j.State != fsm.Recovering || j.AvoidMemory || j.FromMemory && j.MemoryTries >= maxTries
}

// ask has every worker asked that could take a cell of a job that recovers, and says whose answer is waited for.
func ask(now time.Time, in Input, j *commandpb.JobRecord, workers []*candidate, d *Decision) string {
	if forgetful(j) {
		return ""
	}
	waits := 0
	for _, w := range workers {
		if _, ok := answer(w.session, j); !ok && w.session.Memory {
			d.Asks = append(d.Asks, Ask{w.id, j.Submitted.Job, j.Generation})
			waits++
		}
	}
	for _, id := range keepers(in, j, workers) {
		if _, ok := answer(in.Sessions.Of(id), j); !ok {
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

// keepers are, in order of id, the workers that may hand over copies of a job's cells, but could not take one: they run
// another job, or are to be drained.
func keepers(in Input, j *commandpb.JobRecord, workers []*candidate) (ids []string) {
	for _, id := range in.Keepers[j.Submitted.Job] {
		w, s := in.View.Workers[id], in.Sessions.Of(id)
		_, takes := slices.BinarySearchFunc(workers, id, func(w *candidate, id string) int { return cmp.Compare(w.id, id) })
		if w != nil && !w.Lost && s != nil && s.Connected && s.Memory && !takes {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// answer is what a worker says of a job's present generation.
func answer(s *Session, j *commandpb.JobRecord) (Holding, bool) {
	if s == nil {
		return Holding{}, false
	}
	h, ok := s.Answers[j.Submitted.Job]
	return h, ok && h.Generation == j.Generation
}

// remember places the cells of a job and has them go on from the newest step that each can reach where it is, if that
// is no older than the newest checkpoint. It returns whom it has placed them on, and says in words which step, or why
// none.
func remember(in Input, j *commandpb.JobRecord, workers []*candidate, numerics string, a *Assign) (used []*candidate,
	words string) {
	cells := int(j.Submitted.Replicas) * int(j.Submitted.Columns)
	forget := func(words string) ([]*candidate, string) {
		a.Placement, used = spread(j, workers, nil, apart(cells, len(workers)))
		return used, words
	}
	if forgetful(j) {
		return forget("")
	}
	others := keepers(in, j, workers)
	reached, asked := reachable(in, j, numerics, workers, others)
	if !asked {
		return forget("")
	}
	common, missing := commonSteps(reached, j.Submitted.Steps)
	for _, step := range slices.Backward(common) {
		if step == 0 || step < a.Restore {
			break
		}
		fits, sources := holders(reached, step, len(workers))
		// Cells that share a worker for what it remembers spread out later. Where the checkpoint is of this very step
		// nothing is lost by spreading at once, and a job that has stopped to spread must not come back.
		crowd := step > a.Restore
		placed, on, i := seat(j, workers, others, fits, sources, crowd)
		if i >= 0 {
			missing = i
			continue
		}
		a.Placement, a.Memory, a.FromMemory = placed, step, true
		return on, fmt.Sprintf(", from step %d in memory", step)
	}
	from := "the start"
	if a.HasRestore {
		from = fmt.Sprintf("the checkpoint of step %d", a.Restore)
	}
	if missing >= 0 {
		cell := &commandpb.Cell{Replica: int32(missing) / j.Submitted.Columns, Column: int32(missing) % j.Submitted.Columns}
		return forget(fmt.Sprintf(", from %s: no free worker's host holds cell %s in memory", from, fsm.CellName(cell)))
	}
	return forget(fmt.Sprintf(", from %s: memory holds nothing newer", from))
}

// seat places the cells of a job where their states are, none of the workers with more than its share; if that cannot
// be and they may crowd, with as few more on one as it takes. It returns the first cell whose state is out of reach
// where it was placed, or -1.
func seat(j *commandpb.JobRecord, workers []*candidate, others []string, fits [][]int, sources []int, crowd bool) (
	placed []*commandpb.Placement, on []*candidate, missing int) {
	full := apart(len(fits), len(workers))
	placed, on = spread(j, workers, fits, full)
	if missing = fetched(placed, workers, others, fits, sources); missing < 0 {
		return placed, on, missing
	}
	// A cell that stayed where it was may be in the way of one that can go nowhere else.
	matched := match(fits, sources, len(workers), full)
	if matched == nil {
		for i := range fits {
			if len(fits[i]) == 0 && sources[i] < 0 {
				return placed, on, i
			}
		}
		if !crowd {
			return placed, on, missing
		}
		full = full + 1 + sort.Search(len(fits)-full-1, func(more int) bool {
			return match(fits, sources, len(workers), full+1+more) != nil
		})
		if matched = match(fits, sources, len(workers), full); matched == nil { // too many to match: full is all cells
			matched = fits
		}
	}
	placed, on = spread(j, workers, matched, full)
	return placed, on, fetched(placed, workers, others, fits, sources)
}

// holders are, by cell, the workers of the first n that reach a step, ascending, and one of all that hands it to
// others; -1: there is none.
func holders(reached [][]reach, step uint64, n int) (fits [][]int, sources []int) {
	fits, sources = make([][]int, len(reached)), make([]int, len(reached))
	for i, all := range reached {
		sources[i] = -1
		for _, r := range all {
			if !slices.Contains(r.steps, step) {
				continue
			}
			if r.worker < n && (len(fits[i]) == 0 || fits[i][len(fits[i])-1] != r.worker) {
				fits[i] = append(fits[i], r.worker)
			}
			if r.copy && sources[i] < 0 {
				sources[i] = r.worker
			}
		}
	}
	return fits, sources
}

// fetched notes where cells that have been placed where their states are not get them from. It returns the first that
// can get it nowhere, or -1.
func fetched(placed []*commandpb.Placement, workers []*candidate, others []string, fits [][]int, sources []int) int {
	for i, p := range placed { // in the order of the cells
		switch {
		case slices.ContainsFunc(fits[i], func(at int) bool { return workers[at].id == p.Worker }):
		case sources[i] >= len(workers):
			p.Source = others[sources[i]-len(workers)]
		case sources[i] >= 0:
			p.Source = workers[sources[i]].id
		default:
			return i
		}
	}
	return -1
}

// reach is what one worker can reach of a cell.
type reach struct {
	worker int // its place among the candidates, or behind them among those that only hand over copies
	steps  []uint64
	copy   bool // and hands to others
}

// reachable is, by cell, what the workers' hosts hold of a job that it may go on from, in the order of the workers. It
// also says whether any worker has answered.
func reachable(in Input, j *commandpb.JobRecord, numerics string, workers []*candidate, others []string) (
	by [][]reach, asked bool) {
	by = make([][]reach, int(j.Submitted.Replicas)*int(j.Submitted.Columns))
	for at := range len(workers) + len(others) {
		var s *Session
		takes := at < len(workers)
		if takes {
			s = workers[at].session
		} else {
			s = in.Sessions.Of(others[at-len(workers)])
		}
		h, ok := answer(s, j)
		asked = asked || ok
		if !ok {
			continue
		}
		for _, held := range h.Held {
			if held.Column < 0 || held.Replica < 0 || held.Column >= j.Submitted.Columns ||
				held.Replica >= j.Submitted.Replicas || held.Numerics != numerics || held.Generation < fsm.MemorySince(j) ||
				(!takes && !held.Copy) {
				continue
			}
			cell := held.Replica*j.Submitted.Columns + held.Column
			by[cell] = append(by[cell], reach{at, held.Steps, held.Copy})
		}
	}
	return by, asked
}

// commonSteps are the steps up to the last that every cell has somewhere, ascending; if there are none, the first cell
// that has none in common with those before it.
func commonSteps(by [][]reach, last uint64) (common []uint64, missing int) {
	for i, all := range by {
		var steps []uint64
		for _, r := range all {
			steps = append(steps, r.steps...)
		}
		slices.Sort(steps)
		steps = slices.DeleteFunc(slices.Compact(steps), func(s uint64) bool {
			_, has := slices.BinarySearch(common, s)
			return s > last || i > 0 && !has
		})
		if common = steps; len(steps) == 0 {
			return nil, i
		}
	}
	return common, -1
}
