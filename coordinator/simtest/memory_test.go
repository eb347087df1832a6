package simtest

import (
	"maps"
	"slices"

	"colonnade/coordinator/sched"
)

// arena models a cell's state in the memory of a host: it outlives the process that has it.
type arena struct {
	job        string
	cell       int
	generation uint64
	held       map[uint64]uint64 // values by finished steps: the newest, and mostly the one before
	owner      *run              // of the process that has it, as long as that works on it
	spoilt     bool
}

// set makes a step the only one.
func (a *arena) set(step, value uint64) { a.held = map[uint64]uint64{step: value} }

// advance writes the half that holds the step before the last.
func (a *arena) advance(step, value uint64) {
	a.held[step] = value
	if step >= 2 {
		delete(a.held, step-2)
	}
}

// takeBack drops the newest step.
func (a *arena) takeBack(step uint64) { delete(a.held, step) }

// tear is what a process leaves that is killed in the middle of the update behind a step: the half that it was writing,
// which held the step before, is nothing.
func (a *arena) tear(step uint64) { delete(a.held, step-1) }

// arenasOf are those of a host of one cell of a job; of all its cells if cell is negative.
func (w *worker) arenasOf(job string, cell int) (out []*arena) {
	for _, a := range w.memory[w.host] {
		if a.job == job && (cell < 0 || a.cell == cell) {
			out = append(out, a)
		}
	}
	return out
}

func (w *worker) dropArenas(gone func(*arena) bool) {
	w.memory[w.host] = slices.DeleteFunc(w.memory[w.host], gone)
}

// inUse says whether a process works on an arena.
func (a *arena) inUse() bool { return a.owner != nil && a.owner.w.runs[a.job] == a.owner }

// adopt gives a cell what its host holds of a step: in place if nobody works on it, else a copy.
func (w *worker) adopt(r *run, i int) (*cell, bool) {
	for _, a := range w.arenasOf(r.job, i) {
		value, ok := a.held[r.memory]
		if !ok || a.generation >= r.generation || a.generation < r.since || a.spoilt {
			continue
		}
		w.check.adopts(a, r, i, value)
		if a.inUse() {
			a = &arena{job: r.job, cell: i}
			w.memory[w.host] = append(w.memory[w.host], a)
		}
		a.generation, a.owner = r.generation, r
		a.set(r.memory, value)
		return &cell{step: r.memory, value: value, arena: a}, true
	}
	return nil, false
}

// place gives a cell that goes on from elsewhere an arena, and removes what older generations have left.
func (w *worker) place(r *run, i int, c *cell) {
	w.dropArenas(func(a *arena) bool {
		return a.job == r.job && a.cell == i && a.generation < r.generation && !a.inUse()
	})
	c.arena = &arena{job: r.job, cell: i, generation: r.generation, owner: r}
	c.arena.set(c.step, c.value)
	w.memory[w.host] = append(w.memory[w.host], c.arena)
}

// ask ends what runs and answers with what the host holds.
func (w *worker) ask(x *session, job string, generation uint64) {
	if r := w.runs[job]; r != nil {
		if r.generation > generation {
			return
		}
		w.over(job)
	}
	w.fences[job] = max(w.fences[job], generation+1)
	answer := sched.Holding{Generation: generation, Held: w.copiesHeld(w.spec(job))}
	for _, a := range w.arenasOf(job, -1) {
		spec := w.spec(job)
		answer.Held = append(answer.Held, sched.Held{Replica: int32(a.cell) / spec.columns,
			Column: int32(a.cell) % spec.columns, Generation: a.generation, Numerics: "n",
			Steps: slices.Sorted(maps.Keys(a.held))})
	}
	x.toLeader(func() {
		if w.sessions[w.id] == x {
			x.answers[job] = answer
			w.kick()
		}
	})
}

func (s *sim) spec(job string) jobSpec {
	for _, j := range s.jobs {
		if j.name == job {
			return j
		}
	}
	return jobSpec{}
}

// asks puts a decision's questions.
func (s *sim) asks(d sched.Decision) {
	for _, a := range d.Asks {
		x := s.sessions[a.Worker]
		if x == nil || x.asked[a.Job] == a.Generation {
			continue
		}
		x.asked[a.Job] = a.Generation
		x.toWorker(func() { x.w.ask(x, a.Job, a.Generation) })
	}
}

// spoil damages one arena that nobody works on: whoever goes on from it notices.
func (s *sim) spoil(w *worker) {
	for _, a := range w.memory[w.host] {
		if !a.inUse() {
			a.spoilt = true
			s.logf("what host %d holds of cell %d of %s is damaged", w.host, a.cell, a.job)
			return
		}
	}
}
