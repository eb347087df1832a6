package simtest

import (
	"slices"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
)

// checkAgain wants no step to be done again that all cells had finished and could be placed to go on from, as far as
// workers have said what they hold: whoever holds them, and if it is one worker for all of them.
func (c *checker) checkAgain(in sched.Input, a sched.Assign) {
	j := in.View.Jobs[a.Job]
	if j.State != fsm.Recovering || j.AvoidMemory || j.MaxWorkers > 0 || j.FromMemory && j.MemoryTries >= 3 {
		return
	}
	for step := c.done[a.Job]; step > max(a.Restore, a.Memory); step-- {
		if c.recallable(in, a, step) {
			c.s.fail("generation %d of %s does the steps behind %d again, and what workers hold goes as far as %d", a.Generation,
				a.Job, max(a.Restore, a.Memory), step)
			return
		}
	}
}

// recallable says whether every cell can be placed on a worker that can go on from a step, by what workers have said.
func (c *checker) recallable(in sched.Input, a sched.Assign, step uint64) bool {
	columns := c.s.spec(a.Job).columns
	for i := range a.Placement {
		found := false
		for _, w := range c.s.workers {
			h, ok := of(in, w.id).Answers[a.Job]
			if !ok || h.Generation+1 != a.Generation || !of(in, w.id).Connected {
				continue
			}
			takes := c.takes(in, a.Job, w.id)
			found = found || slices.ContainsFunc(h.Held, func(x sched.Held) bool {
				return int(x.Replica*columns+x.Column) == i && x.Generation >= c.history[a.Job] && (takes || x.Copy) &&
					slices.Contains(x.Steps, step)
			})
		}
		if !found {
			return false
		}
	}
	return true
}

// takes says whether a worker can certainly take cells of a job: it is not drained, no other job has it, and none that
// is served first may want it.
func (c *checker) takes(in sched.Input, job, worker string) bool {
	if w := in.View.Workers[worker]; w == nil || w.Lost || w.Draining || w.Hung {
		return false
	}
	for name, j := range in.View.Jobs {
		if name == job {
			continue
		}
		on := map[string]bool{}
		for _, p := range j.Placement {
			on[p.Worker] = true
		}
		first := sched.Before(j, in.View.Jobs[job])
		switch j.State {
		case fsm.Running, fsm.Stopping:
			if on[worker] || first && (j.Moving || len(on) < len(j.Placement) || drains(in, on)) {
				return false
			}
		case fsm.Queued, fsm.Recovering:
			if first {
				return false
			}
		}
	}
	return true
}

// drains says whether one of some workers is drained.
func drains(in sched.Input, workers map[string]bool) bool {
	for id := range workers {
		if in.View.Workers[id].Draining {
			return true
		}
	}
	return false
}
