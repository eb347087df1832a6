package simtest

import (
	"bytes"
	"crypto/sha256"
	"strings"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/commandpb"
)

// checker looks at everything that happens. It keeps its own account of what must not be lost.
type checker struct {
	s         *sim
	good      map[string]map[uint64]bool // committed checkpoints that nobody has given up, by job
	placed    map[groupKey]string        // placement of every generation that ever was
	newest    map[string]uint64          // generation, by job
	processes map[groupKey]int           // incarnation that began a generation, by job and worker
	committed int
	lost      int

	done       map[string]uint64 // step that all cells of a job have finished, in its newest generation
	could      map[string]uint64 // newest generation that could not go on from memory, by job
	remembered int
}

func newChecker(s *sim) *checker {
	return &checker{s: s, good: map[string]map[uint64]bool{}, placed: map[groupKey]string{}, newest: map[string]uint64{},
		processes: map[groupKey]int{}, done: map[string]uint64{}, could: map[string]uint64{}}
}

// decided looks at a decision.
func (c *checker) decided(in sched.Input, d sched.Decision) {
	s := c.s
	for _, a := range d.Actions {
		l, ok := a.(sched.Lose)
		if !ok {
			c.checkRestore(a.(sched.Assign))
			c.checkMemory(in.View.Jobs[a.(sched.Assign).Job], a.(sched.Assign))
			continue
		}
		c.lost++
		if s.now.Sub(s.since) < in.Rules.Lease {
			s.fail("worker %s is judged %v after the leader began", l.Worker, s.now.Sub(s.since))
		}
		for _, w := range s.workers {
			// Heartbeats come every half second and travel for at most a tenth of one.
			if w.id == l.Worker && w.session != nil && w.session.open && s.now.Sub(w.session.heard) < in.Rules.Lease/2 {
				s.fail("worker %s is given up (%s), but is here and talks", l.Worker, l.Reason)
			}
		}
	}
	if len(d.Actions) > 0 {
		return
	}
	for name, j := range in.View.Jobs {
		if why := d.Reasons[name]; (j.State == fsm.Queued || j.State == fsm.Recovering) && (why == "" ||
			strings.Contains(why, "\n")) {
			s.fail("job %s is %s for the reason %q", name, j.State, why)
		}
	}
}

// checkRestore wants the newest good checkpoint, so that nothing is done again that need not be.
func (c *checker) checkRestore(a sched.Assign) {
	newest := uint64(0)
	for step := range c.good[a.Job] {
		newest = max(newest, step)
	}
	if a.Restore != newest || a.HasRestore != (newest > 0) {
		c.s.fail("generation %d of %s begins at step %d (%v), the newest good checkpoint is of step %d", a.Generation, a.Job,
			a.Restore, a.HasRestore, newest)
	}
}

// began wants a generation to be begun by one process of a worker only: another has lost what the first one had.
func (c *checker) began(a assignment, w *worker) {
	key := groupKey{a.job + " on " + w.id, a.generation}
	if old, ok := c.processes[key]; ok && old != w.incarnation {
		c.s.fail("generation %d of %s is begun by incarnations %d and %d of worker %s", a.generation, a.job, old,
			w.incarnation, w.id)
	}
	c.processes[key] = w.incarnation
}

// applied looks at what an entry of the log has done.
func (c *checker) applied(before, after fsm.View, cmd *commandpb.Command, refused error) {
	s := c.s
	if refused == nil {
		c.account(cmd, after)
	}
	runs := map[string]string{}
	for _, spec := range s.jobs {
		j := after.Jobs[spec.name]
		if j == nil {
			continue
		}
		c.checkGood(spec, j)
		c.checkGeneration(spec, j)
		if old := before.Jobs[spec.name]; old != nil && old.State == fsm.Done && (j.State != fsm.Done ||
			!bytes.Equal(j.Digest, old.Digest)) {
			s.fail("job %s was done and is %s", spec.name, j.State)
		}
		if j.State == fsm.Done && !bytes.Equal(j.Digest, spec.digest()) {
			s.fail("job %s is done with digest %x, and can only have %x", spec.name, j.Digest, spec.digest())
		}
		if j.State != fsm.Running && j.State != fsm.Stopping {
			continue
		}
		for _, p := range j.Placement {
			if other := runs[p.Worker]; other != "" && other != spec.name {
				s.fail("worker %s has cells of %s and of %s", p.Worker, other, spec.name)
			}
			runs[p.Worker] = spec.name
		}
	}
}

// digest is the only one a job can end with.
func (j jobSpec) digest() []byte {
	h := sha256.New()
	for i := range j.cells() {
		h.Write(digest(j.value(i, j.steps)))
	}
	return h.Sum(nil)
}

// value is the only state a cell can have after some steps.
func (j jobSpec) value(cell int, steps uint64) uint64 {
	v := j.initial(cell)
	for s := range steps {
		v = j.next(v, s)
	}
	return v
}

// account keeps up with what is good: a checkpoint is from the file that completes it until it is found bad, dropped by
// retention, or behind the step an operator resumes from.
func (c *checker) account(cmd *commandpb.Command, after fsm.View) {
	switch k := cmd.Kind.(type) {
	case *commandpb.Command_CheckpointWritten:
		w := k.CheckpointWritten
		if c.newest[w.Job] != w.Generation {
			c.s.fail("a file of generation %d was accepted in generation %d", w.Generation, c.newest[w.Job])
		}
		for _, r := range fsm.Usable(after.Jobs[w.Job]) {
			if r.Step == w.Step {
				if c.good[w.Job] == nil {
					c.good[w.Job] = map[uint64]bool{}
				}
				c.good[w.Job][w.Step] = true
				c.committed++
			}
		}
	case *commandpb.Command_MarkCheckpointBad:
		delete(c.good[k.MarkCheckpointBad.Job], k.MarkCheckpointBad.Step)
	case *commandpb.Command_DropCheckpoints:
		d := k.DropCheckpoints
		had := len(c.good[d.Job])
		for _, step := range d.Steps {
			delete(c.good[d.Job], step)
		}
		if had > 0 && len(c.good[d.Job]) == 0 {
			c.s.fail("retention has dropped the last good checkpoint of %s", d.Job)
		}
	case *commandpb.Command_ResumeJob:
		for step := range c.good[k.ResumeJob.Job] {
			if k.ResumeJob.FromStep && step > k.ResumeJob.Step {
				delete(c.good[k.ResumeJob.Job], step)
			}
		}
	case *commandpb.Command_CellFinished:
		if c.newest[k.CellFinished.Job] != k.CellFinished.Generation {
			c.s.fail("an end of generation %d was accepted in generation %d", k.CellFinished.Generation,
				c.newest[k.CellFinished.Job])
		}
	}
}

// checkGood wants every good checkpoint in the state, whole, with the only state it can have.
func (c *checker) checkGood(spec jobSpec, j *commandpb.JobRecord) {
	usable := map[uint64]*commandpb.CheckpointRecord{}
	for _, r := range fsm.Usable(j) {
		usable[r.Step] = r
	}
	for step := range c.good[spec.name] {
		r := usable[step]
		if r == nil || len(r.Files) != spec.cells() {
			c.s.fail("the good checkpoint of step %d of %s is gone", step, spec.name)
			return
		}
		for i, f := range r.Files {
			if !bytes.Equal(f.Digest, digest(spec.value(i, step))) {
				c.s.fail("the checkpoint of step %d of %s has a state of its own in cell %d", step, spec.name, i)
			}
		}
	}
}

// checkGeneration wants generations to go up one by one, and one placement for each for as long as it runs.
func (c *checker) checkGeneration(spec jobSpec, j *commandpb.JobRecord) {
	if old := c.newest[spec.name]; j.Generation != old && j.Generation != old+1 {
		c.s.fail("job %s went from generation %d to %d", spec.name, old, j.Generation)
	}
	c.newest[spec.name] = j.Generation
	if j.State != fsm.Running && j.State != fsm.Stopping {
		return
	}
	var on []string
	for _, p := range j.Placement {
		on = append(on, p.Worker)
	}
	key, now := groupKey{spec.name, j.Generation}, strings.Join(on, " ")
	if old, ok := c.placed[key]; (ok && old != now) || len(on) != spec.cells() {
		c.s.fail("generation %d of %s is on %q, and was on %q", j.Generation, spec.name, now, old)
	}
	c.placed[key] = now
}
