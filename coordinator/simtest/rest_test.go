package simtest

import (
	"bytes"
	"cmp"
	"fmt"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/commandpb"
)

// descent is where a fork begins: a checkpoint of another job.
type descent struct {
	source string // the job that was named
	job    string // whose files they are
	step   uint64
	state  []uint64                    // by column
	files  []*commandpb.CheckpointFile // by cell
}

// specKey tells jobs apart that have had one name.
type specKey struct {
	job  string
	seed uint64
}

func (j jobSpec) key() specKey { return specKey{j.name, j.seed} }

// origin is with which step a column begins, and in what state.
func (j jobSpec) origin(column int) (step, value uint64) {
	if j.from != nil {
		return j.from.step, j.from.state[column]
	}
	return 0, j.initial(column)
}

// ---- the operator

// branch has an operator fork a job from a checkpoint, once in a life.
func (s *sim) branch() {
	if s.forked > 0 || !s.chance(5) {
		return
	}
	spec := s.jobs[s.r.IntN(len(s.jobs))]
	j := s.view.Jobs[spec.name]
	if j == nil || len(fsm.Usable(j)) == 0 {
		return
	}
	good := fsm.Usable(j)
	r := good[s.r.IntN(len(good))]
	s.forked++
	f := jobSpec{name: fmt.Sprintf("fork-%d", s.forked), replicas: spec.replicas, columns: spec.columns,
		steps: r.Step + 5 + s.r.Uint64N(15), every: 2 + s.r.Uint64N(8), keep: s.r.Uint64N(4), seed: s.r.Uint64(),
		copies: 1 + s.r.Uint64N(6), turn: s.r.Uint64(), from: &descent{source: spec.name, step: r.Step,
			job: cmp.Or(r.OfJob, spec.name), files: r.Files}}
	for k := range int(spec.columns) {
		f.from.state = append(f.from.state, s.check.state(spec, k, r.Step))
	}
	s.jobs = append(s.jobs, f)
	s.submit(f)
}

// remove has an operator delete a job that is at rest, once in a life, and mostly submit another of its name; besides
// forks that have lost what they began with, for which nothing else is left.
func (s *sim) remove() {
	i := s.r.IntN(len(s.jobs))
	name := s.jobs[i].name
	j := s.view.Jobs[name]
	if j == nil {
		return
	}
	rests := fsm.Ended(j.State) || j.State == fsm.Queued
	lost := j.Parent != nil && j.State != fsm.Done && len(fsm.Usable(j)) == 0
	switch {
	case lost && j.State == fsm.Recovering:
		s.apply(&commandpb.Command{Kind: &commandpb.Command_RequestStop{RequestStop: &commandpb.RequestStop{Job: name,
			Now: true}}})
	case lost && rests:
		s.deleteJob(i, false)
	case rests && s.deleted == 0 && j.Generation > 0 && s.chance(4):
		s.deleteJob(i, s.r.IntN(3) > 0)
	}
}

// deleteJob deletes a job, has workers delete its files, and has another of its name submitted.
func (s *sim) deleteJob(i int, again bool) {
	spec := s.jobs[i]
	j := s.view.Jobs[spec.name]
	var own []uint64
	for _, r := range j.Checkpoints {
		if r.OfJob == "" {
			own = append(own, r.Step)
		}
	}
	if s.apply(&commandpb.Command{Kind: &commandpb.Command_DeleteJob{DeleteJob: &commandpb.DeleteJob{
		Job: spec.name}}}) != nil {
		return // a fork needs it
	}
	s.deleted++
	for _, w := range s.workers {
		if x := s.sessions[w.id]; x != nil {
			x.toWorker(func() {
				w.dropped(spec.name, own)
				s.check.isGone(w, j)
			})
		}
	}
	if s.jobs[i].gone = !again; !again {
		s.done = s.allDone()
		return
	}
	fresh := spec // of the same shape
	fresh.seed, fresh.steps, fresh.from, fresh.turn, fresh.bad = s.r.Uint64(), 10+s.r.Uint64N(20), nil, 0, 0
	s.jobs[i] = fresh
	s.after(s.between(0, 3*time.Second), func() { s.submit(fresh) })
}

// ---- the checks

// asks keeps up with what an operator wants of a job: what was asked last, but a job that stops does not pause instead.
func (c *checker) asks(r *commandpb.RequestStop, after *commandpb.JobRecord) {
	if r.Pause && (c.asked[r.Job] == "" || after.State == fsm.Paused) {
		c.asked[r.Job] = fsm.Paused
	} else if !r.Pause {
		c.asked[r.Job] = fsm.Stopped
	}
}

// checkRest wants a job to be stopped or paused only if an operator has asked for that, or for a veto: whoever makes
// way goes on by itself. One that has come to rest behind a step has a checkpoint of it.
func (c *checker) checkRest(before, now *commandpb.JobRecord, cmd *commandpb.Command) {
	name := now.Submitted.Job
	if now.State != fsm.Stopped && now.State != fsm.Paused || before == nil || before.State == now.State ||
		cmd.GetVetoStep() != nil {
		return
	}
	if c.asked[name] != now.State {
		c.s.fail("job %s is %s, and what was asked for is %q: %s", name, now.State, c.asked[name], now.Reason)
	}
	if now.State == fsm.Paused {
		c.paused++
	}
	if x := cmd.GetCellStopped(); x != nil {
		if c.rests[name] = x.Step; !c.good[name][x.Step] {
			c.s.fail("job %s is %s after step %d, and there is no checkpoint of it", name, now.State, x.Step)
		}
	}
}

// checkDrop wants no checkpoint to go that a paused job goes on from, or a fork begins with.
func (c *checker) checkDrop(job string, step uint64) {
	if at, rests := c.rests[job]; rests && at == step {
		c.s.fail("job %s is at rest after step %d, and the checkpoint of it is dropped", job, step)
	}
	if heir := c.heir(job, step); heir != "" {
		c.s.fail("the checkpoint of step %d of %s is dropped, with which %s begins", step, job, heir)
	}
}

// heir is a fork that begins with a checkpoint of another job, and may still need its files.
func (c *checker) heir(job string, step uint64) string {
	for _, f := range c.s.jobs {
		if f.from != nil && f.from.job == job && f.from.step == step && c.good[f.name][step] {
			return f.name
		}
	}
	return ""
}

// submitted notes a job that is new; a fork has the checkpoint that it begins with, and its source keeps it.
func (c *checker) submitted(k *commandpb.SubmitJob, after fsm.View) {
	delete(c.left, k.Job)
	if k.FromJob == "" {
		return
	}
	c.forked++
	c.good[k.Job] = map[uint64]bool{k.FromStep: true}
}

// checkBegins wants a fork that begins anew to begin with the files that its source had when it was forked.
func (c *checker) checkBegins(in sched.Input, a sched.Assign) {
	from := c.s.spec(a.Job).from
	if from == nil {
		return
	}
	if !a.HasRestore && !a.FromMemory || a.Restore < from.step {
		c.s.fail("generation %d of %s begins at step %d, and the job with step %d of %s", a.Generation, a.Job, a.Restore,
			from.step, from.job)
	}
	for _, r := range in.View.Jobs[a.Job].Checkpoints {
		if r.Step != from.step {
			continue
		}
		for i, f := range from.files {
			if r.OfJob != from.job || r.Files[i].Worker != f.Worker || !bytes.Equal(r.Files[i].Sha256, f.Sha256) {
				c.s.fail("%s began with the checkpoint of step %d of %s, and has other files of it now", a.Job, from.step, from.job)
			}
		}
	}
}

// deletesJob notes that a job is gone, with all there was to be kept of it.
func (c *checker) deletesJob(job string) {
	c.deleted++
	for step := range c.good[job] {
		if heir := c.heir(job, step); heir != "" {
			c.s.fail("job %s is deleted, and %s begins with its step %d", job, heir, step)
		}
	}
	c.left[job] = c.newest[job]
	for _, of := range []map[string]uint64{c.done, c.could, c.history, c.rests} {
		delete(of, job)
	}
	delete(c.good, job)
	delete(c.asked, job)
	delete(c.safe, job)
	delete(c.seen, job)
	delete(c.owed, job)
}

// isGone wants a worker that was told of it to have no file of the checkpoints of a job that is deleted.
func (c *checker) isGone(w *worker, j *commandpb.JobRecord) {
	job := j.Submitted.Job
	for _, r := range j.Checkpoints {
		for i := range r.Files {
			if _, there := w.disk[keyOf(job, r, i)]; there && r.OfJob == "" {
				c.s.fail("job %s is deleted, and worker %s still has its file of step %d, cell %d", job, w.id, r.Step, i)
			}
		}
	}
}

// checkOthers wants an entry of the log to change no other job than its own, and none to bring a deleted one back.
func (c *checker) checkOthers(before, after fsm.View, cmd *commandpb.Command) {
	for job := range c.left {
		if after.Jobs[job] != nil {
			c.s.fail("job %s is deleted, and is back: %v", job, cmd)
		}
	}
	own, one := jobOf(cmd)
	if !one {
		return
	}
	for name, j := range before.Jobs {
		if name != own && after.Jobs[name] != j {
			c.s.fail("job %s is changed by what is said of %s: %v", name, own, cmd)
		}
	}
}

// jobOf is the job that a command is about, if it is about one.
func jobOf(cmd *commandpb.Command) (job string, one bool) {
	switch k := cmd.Kind.(type) {
	case *commandpb.Command_RegisterWorker, *commandpb.Command_LoseWorker:
		return "", false
	case *commandpb.Command_SubmitJob:
		return k.SubmitJob.Job, true
	case *commandpb.Command_DeleteJob:
		return k.DeleteJob.Job, true
	case *commandpb.Command_AssignJob:
		return k.AssignJob.Job, true
	case *commandpb.Command_ReleaseJob:
		return k.ReleaseJob.Job, true
	case *commandpb.Command_RequestStop:
		return k.RequestStop.Job, true
	case *commandpb.Command_ResumeJob:
		return k.ResumeJob.Job, true
	case *commandpb.Command_CheckpointWritten:
		return k.CheckpointWritten.Job, true
	case *commandpb.Command_MarkCheckpointBad:
		return k.MarkCheckpointBad.Job, true
	case *commandpb.Command_DropCheckpoints:
		return k.DropCheckpoints.Job, true
	case *commandpb.Command_CellFinished:
		return k.CellFinished.Job, true
	case *commandpb.Command_CellStopped:
		return k.CellStopped.Job, true
	case *commandpb.Command_MoveJob:
		return k.MoveJob.Job, true
	case *commandpb.Command_VetoStep:
		return k.VetoStep.Job, true
	case *commandpb.Command_SetQueue:
		return k.SetQueue.Job, true
	case *commandpb.Command_PreemptJob:
		return k.PreemptJob.Job, true
	}
	return "", true // about none
}
