package simtest

import (
	"slices"
	"time"

	"colonnade/coordinator/sched"
	"colonnade/proto/commandpb"
)

// heldCopy models a cell's state that a worker's process keeps, for itself or for a worker on another host.
type heldCopy struct{ generation, step, value uint64 }

type copyKey struct {
	job  string
	cell int
}

// progress is how far copies are: of one cell, or of the one that is furthest behind.
type progress struct{ tried, whole uint64 }

// told is who keeps copies of a worker's cells in a generation.
type told struct {
	generation uint64
	workers    []string
}

// settle gives up what a cell does not need, as worker/buddy does.
func (w *worker) settle(k copyKey, generation, keep uint64) {
	if keep == 0 {
		left := slices.DeleteFunc(w.copies[k], func(c heldCopy) bool { return c.generation == generation })
		if n := len(left); n > 3 {
			left = slices.Delete(left, 1, n-2)
		}
		w.copies[k] = left
		return
	}
	for i := range w.spec(k.job).cells() {
		old := copyKey{k.job, i}
		w.copies[old] = slices.DeleteFunc(w.copies[old], func(c heldCopy) bool { return c.generation < generation })
	}
	w.copies[k] = slices.DeleteFunc(w.copies[k], func(c heldCopy) bool { return c.step != keep })
}

// passes says whether a worker takes part in a generation's copies.
func (w *worker) passes(job string, generation uint64) bool {
	if generation < w.fences[job] {
		return false
	}
	w.fences[job] = generation
	return true
}

// keep makes a copy one of those a worker has.
func (w *worker) keep(k copyKey, c heldCopy) bool {
	if !w.passes(k.job, c.generation) {
		return false
	}
	all := slices.DeleteFunc(w.copies[k], func(old heldCopy) bool { return old.step == c.step })
	w.copies[k] = append(all, c)
	slices.SortFunc(w.copies[k], func(a, b heldCopy) int { return int(a.step) - int(b.step) })
	return true
}

// copyOf is the copy of a step that a worker has, of the given generation or newer.
func (w *worker) copyOf(k copyKey, step, since uint64) (heldCopy, bool) {
	for _, c := range w.copies[k] {
		if c.step == step && c.generation >= since {
			return c, true
		}
	}
	return heldCopy{}, false
}

// copied is what the verdicts of the step behind which a cell is now say about copies: the same to all cells.
func (r *run) copied(step uint64) progress {
	if all, ok := r.group.verdicts[step]; ok {
		return all
	}
	all := progress{^uint64(0), ^uint64(0)}
	for i := range r.on {
		p := r.group.copies[i]
		all.tried, all.whole = min(all.tried, p.tried), min(all.whole, p.whole)
	}
	r.group.verdicts[step] = all
	return all
}

// due begins a copy behind a step, if one is due and all cells are done with the one before.
func (w *worker) due(r *run, i int, c *cell) {
	all := r.copied(c.step)
	w.check.agreed(r, all.whole)
	if all.tried < c.begun || (c.step%r.spec.copies != 0 && !(r.fromMemory && c.begun == 0)) {
		return
	}
	c.begun = c.step
	p := r.group.copies[i]
	r.group.copies[i] = progress{p.tried, all.whole}
	if r.group.deaths == nil {
		r.group.deaths = map[uint64]int{}
	}
	if _, ok := r.group.deaths[c.step]; !ok {
		r.group.deaths[c.step] = w.check.deaths
	}
	k, h, keep := copyKey{r.job, i}, heldCopy{r.generation, c.step, c.value}, all.whole
	over := func(whole bool) {
		p := r.group.copies[i]
		if p.tried = h.step; whole {
			p.whole = h.step
		}
		r.group.copies[i] = p
	}
	t := w.buddies[r.job]
	if t.generation != r.generation || len(t.workers) == 0 || w.chance(20) || !w.passes(r.job, r.generation) {
		over(false) // nobody is there, or the cell has gone on meanwhile
		return
	}
	w.settle(k, r.generation, keep)
	w.keep(k, h)
	w.hand(r, k, h, keep, t.workers, over)
}

// hand tries to hand a copy to one worker after another.
func (w *worker) hand(r *run, k copyKey, h heldCopy, keep uint64, to []string, over func(bool)) {
	if len(to) == 0 {
		over(false)
		return
	}
	b := w.byID(to[0])
	incarnation := b.incarnation
	reached := func() bool { return b.alive && b.incarnation == incarnation && !b.off && !w.off && w.runs[r.job] == r }
	next := func() { w.hand(r, k, h, keep, to[1:], over) }
	w.after(w.between(time.Millisecond, 200*time.Millisecond), func() {
		if w.runs[r.job] != r {
			return
		}
		if !reached() || !b.passes(k.job, h.generation) {
			next()
			return
		}
		b.settle(k, h.generation, keep)
		w.after(w.between(time.Millisecond, 500*time.Millisecond), func() {
			switch {
			case w.runs[r.job] != r:
			case reached() && b.keep(k, h):
				over(true)
			default:
				next()
			}
		})
	})
}

func (s *sim) byID(id string) *worker {
	for _, w := range s.workers {
		if w.id == id {
			return w
		}
	}
	return nil
}

// fetch gives a cell a copy that another worker hands over. It fails for good if that one does not have it.
func (w *worker) fetch(r *run, i int) (c *cell, final bool) {
	b := w.byID(r.from[i])
	if !b.alive || b.off || w.off {
		return nil, false
	}
	h, ok := b.copyOf(copyKey{r.job, i}, r.memory, r.since)
	if !ok {
		w.check.promised(r, i, b)
		return nil, true
	}
	return w.recalled(r, i, h), true
}

// recalled makes an arena of a copy.
func (w *worker) recalled(r *run, i int, h heldCopy) *cell {
	w.check.adopts(&arena{generation: h.generation}, r, i, h.value)
	w.check.copied++
	c := &cell{step: h.step, value: h.value}
	w.place(r, i, c)
	return c
}

// recall gives a cell what it goes on from in memory, or has the generation fail.
func (w *worker) recall(r *run, i int) *cell {
	if r.from[i] != "" && r.from[i] != w.id {
		c, final := w.fetch(r, i)
		switch {
		case c != nil:
			return c
		case final:
			w.failsMemory(r, i)
		default:
			w.fails(r, "a copy cannot be fetched")
		}
		return nil
	}
	if c, ok := w.adopt(r, i); ok {
		return c
	}
	if h, ok := w.copyOf(copyKey{r.job, i}, r.memory, r.since); ok {
		return w.recalled(r, i, h)
	}
	w.check.promised(r, i, w)
	w.failsMemory(r, i)
	return nil
}

// copiesHeld is what a worker says of its copies.
func (w *worker) copiesHeld(spec jobSpec) (out []sched.Held) {
	for i := range spec.cells() {
		for _, c := range w.copies[copyKey{spec.name, i}] {
			out = append(out, sched.Held{Replica: int32(i) / spec.columns, Column: int32(i) % spec.columns,
				Generation: c.generation, Numerics: "n", Steps: []uint64{c.step}, Copy: true})
		}
	}
	return out
}

// tellBuddies says to a worker who keeps copies of its cells, if that is new.
func (x *session) tellBuddies(j *commandpb.JobRecord) {
	s := x.w.sim
	if s.ring == nil {
		s.ring = sched.NewRing(s.view, func(id string) bool { return s.sessions[id] != nil })
	}
	name, now := j.Submitted.Job, told{j.Generation, s.ring.After(x.w.id)}
	if was := x.buddies[name]; was.generation == now.generation && slices.Equal(was.workers, now.workers) {
		return
	}
	x.buddies[name] = now
	for _, id := range now.workers {
		x.w.sessions[id].holds[name] = true
	}
	x.toWorker(func() { x.w.buddies[name] = now })
}

// keepers are the workers that may have copies of a job.
func (s *sim) keepers(job string) (out []string) {
	for _, w := range s.workers {
		if x := s.sessions[w.id]; x != nil && x.holds[job] {
			out = append(out, w.id)
		}
	}
	return out
}

// loseHost ends a machine: all processes on it, and what was in its memory.
func (s *sim) loseHost(host int) {
	s.logf("host %d is lost", host)
	s.check.loses(host)
	for _, w := range s.workers {
		if w.host == host {
			w.kill()
			s.after(s.between(10*time.Millisecond, 6*time.Second), w.start)
		}
	}
	s.memory[host] = nil
}

// agreed notes of which step all cells of a generation know that all have a whole copy.
func (c *checker) agreed(r *run, step uint64) {
	if step == 0 || c.newest[r.job] != r.generation {
		return
	}
	c.safe[r.job] = safety{r.group, r.generation, step}
	c.checkSafe(r.job)
}

// safety is a step that copies make safe.
type safety struct {
	group            *group
	generation, step uint64
}

// checkSafe wants each cell's copy of a step that all have copies of on two machines, unless a process has died since
// the copies were begun: then none of the machines can be lost without one being left.
func (c *checker) checkSafe(job string) {
	safe, ok := c.safe[job]
	// One that has gone back to a checkpoint makes all copies worthless; two that have not come as far as a copy that all
	// cells have leave what was before.
	if !ok || safe.group.deaths[safe.step] != c.deaths || c.history[job] > safe.generation ||
		c.newest[job] > safe.generation+2 {
		return
	}
	for i := range c.s.spec(job).cells() {
		on := map[int]bool{}
		for _, w := range c.s.workers {
			if _, has := w.copyOf(copyKey{job, i}, safe.step, 0); has {
				on[w.host] = true
			}
		}
		if len(on) < 2 {
			c.s.fail("all cells of %s have copies of step %d, but cell %d on %d machines only", job, safe.step, i, len(on))
		}
	}
}

// loses looks at a machine that is about to be lost.
func (c *checker) loses(int) {
	for _, j := range c.s.jobs {
		if r := c.s.view.Jobs[j.name]; r != nil && len(r.Placement) > 0 {
			c.checkSafe(j.name)
		}
	}
	c.machines++
}

// promised wants a copy not to go that a process has said it has, before the generation that was decided by that has
// fetched it.
func (c *checker) promised(r *run, i int, b *worker) {
	x := c.s.sessions[b.id]
	if x == nil || x.incarnation != b.incarnation || c.newest[r.job] != r.generation {
		return
	}
	if h := x.answers[r.job]; h.Generation+1 == r.generation && slices.ContainsFunc(h.Held, func(held sched.Held) bool {
		return held.Copy && held.Generation >= r.since && held.Steps[0] == r.memory &&
			held.Replica*r.spec.columns+held.Column == int32(i)
	}) {
		c.s.fail("worker %s has given up the copy of step %d of cell %d of %s, which generation %d goes on from", b.id,
			r.memory, i, r.job, r.generation)
	}
}

// reaches says whether a placement could have gone on from a step: each cell's worker, which has answered, reaches it,
// or somebody who has hands a copy over.
func (c *checker) reaches(in sched.Input, a sched.Assign, step uint64) bool {
	since := c.history[a.Job]
	answered := func(id string) bool {
		h, ok := of(in, id).Answers[a.Job]
		return ok && h.Generation+1 == a.Generation
	}
	for i, p := range a.Placement {
		found := false
		for _, w := range c.s.workers {
			if !answered(w.id) {
				continue
			}
			if _, has := w.copyOf(copyKey{a.Job, i}, step, since); has {
				found = true
			}
			for _, x := range w.arenasOf(a.Job, i) {
				_, has := x.held[step]
				found = found || has && x.generation >= since && w.id == p.Worker
			}
		}
		if !found {
			return false
		}
	}
	return true
}
