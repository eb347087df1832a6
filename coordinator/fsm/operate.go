package fsm

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"

	"colonnade/proto/commandpb"
)

// PausedByOperator begins the reason of a job that an operator has paused.
const PausedByOperator = "paused by an operator"

// rest has a job that was asked to stop, or to pause, come to rest.
func (a *applier) rest(j *commandpb.JobRecord, reason string) {
	if j.Pausing {
		a.enter(j, Paused, PausedByOperator+": "+reason)
	} else {
		a.enter(j, Stopped, reason)
	}
	j.Placement = nil
}

// StateDigest is a checkpoint's: SHA-256 over the digests of its cells in their order.
func StateDigest(r *commandpb.CheckpointRecord) []byte {
	h := sha256.New()
	for _, f := range r.Files {
		h.Write(f.Digest)
	}
	return h.Sum(nil)
}

// fork gives a job that is submitted the checkpoint that it goes on from: the files stay the other job's.
func (a *applier) fork(j *commandpb.JobRecord) error {
	c := j.Submitted
	from, err := a.job(c.FromJob)
	if err != nil {
		return err
	}
	r := usable(from, c.FromStep)
	switch {
	case r == nil:
		return fmt.Errorf("job %s, step %d: %w; see: coordinator checkpoint list %s", c.FromJob, c.FromStep, ErrNoCheckpoint,
			c.FromJob)
	case c.Replicas != from.Submitted.Replicas || c.Columns != from.Submitted.Columns:
		return fmt.Errorf("job %s has %d replicas of %d columns, its checkpoint cannot be gone on with by %d of %d: %w",
			c.FromJob, from.Submitted.Replicas, from.Submitted.Columns, c.Replicas, c.Columns, ErrInvalid)
	case c.Steps <= c.FromStep:
		return fmt.Errorf("job %s ends after %d steps, and would begin with step %d of %s; give it more: "+
			"--set recipe.steps=N or recipe.epochs=N: %w", c.Job, c.Steps, c.FromStep, c.FromJob, ErrInvalid)
	case c.Direct != from.Submitted.Direct:
		return fmt.Errorf("job %s: winograd differs from that of %s, and so would its bits: %w", c.Job, c.FromJob, ErrInvalid)
	}
	j.Numerics = from.Numerics
	j.Checkpoints = []*commandpb.CheckpointRecord{{Step: r.Step, Generation: j.Generation, Files: r.Files,
		PlanDigest: r.PlanDigest, Numerics: r.Numerics, Committed: true, CommittedUnixNs: r.CommittedUnixNs,
		OfJob: cmp.Or(r.OfJob, c.FromJob)}}
	for _, e := range from.Evaluations { // a course that goes by them goes on from them
		if e.Step <= r.Step {
			j.Evaluations = append(j.Evaluations, e)
		}
	}
	j.Parent = &commandpb.ParentRecord{Job: c.FromJob, SubmittedUnixNs: from.SubmittedUnixNs, Step: r.Step,
		Digest: StateDigest(r), Changes: c.Changes}
	return nil
}

// Heir names a job that was forked from a checkpoint and still has to do with its files; empty: there is none.
func Heir(v View, job string, step uint64) string {
	heir := ""
	for name, other := range v.Jobs {
		if other.Parent == nil || heir != "" && name > heir {
			continue // the first by name, whatever the map's order
		}
		if _, r := find(other, step); r != nil && r.OfJob == job {
			heir = name
		}
	}
	return heir
}

// anyHeir names the first job, by name, that still has to do with files of another, and the step they are of. The other
// may have no record of that step any more: it has been gone back behind.
func anyHeir(v View, job string) (heir string, step uint64) {
	for name, other := range v.Jobs {
		if other.Parent == nil || heir != "" && name > heir {
			continue
		}
		for _, r := range other.Checkpoints {
			if r.OfJob == job {
				heir, step = name, r.Step
				break
			}
		}
	}
	return heir, step
}

// Kept says whether retention leaves a checkpoint, however old it is: it is pinned, it is tested, another job was
// forked from it, or it is what this job was forked from.
func Kept(v View, j *commandpb.JobRecord, r *commandpb.CheckpointRecord) bool {
	name := j.Submitted.Job
	return r.Pinned || r.OfJob != "" || Tested(v, name, r.Step) || Heir(v, name, r.Step) != ""
}

func (a *applier) pinCheckpoint(c *commandpb.PinCheckpoint) error {
	j, err := a.job(c.Job)
	if err != nil {
		return err
	}
	i, r := find(j, c.Step)
	switch {
	case r == nil || !r.Committed:
		return fmt.Errorf("job %s, step %d: %w; see: coordinator checkpoint list %s", c.Job, c.Step, ErrNoCheckpoint, c.Job)
	case r.Pinned != c.Undo: // it is so already
		return nil
	}
	changing(j, i).Pinned = !c.Undo
	a.keep(j)
	words := "pinned"
	if c.Undo {
		words = "no longer pinned"
	}
	a.event("checkpoint", c.Job, "", "job %s: checkpoint of step %d is %s", c.Job, c.Step, words)
	return nil
}

// deleteCheckpoint forgets one checkpoint that nothing needs.
func (a *applier) deleteCheckpoint(c *commandpb.DeleteCheckpoint) error {
	j, err := a.job(c.Job)
	if err != nil {
		return err
	}
	if asked(j, c.Request) {
		return nil
	}
	i, r := find(j, c.Step)
	if r == nil || !r.Committed {
		return fmt.Errorf("job %s, step %d: %w; see: coordinator checkpoint list %s", c.Job, c.Step, ErrNoCheckpoint, c.Job)
	}
	if err := a.mayDelete(j, r); err != nil {
		return err
	}
	j.Checkpoints = slices.Delete(j.Checkpoints, i, i+1)
	remember(j, c.Request)
	a.keep(j)
	a.event("checkpoint", c.Job, "", "job %s: checkpoint of step %d is deleted", c.Job, c.Step)
	return nil
}

// mayDelete refuses to delete a checkpoint that something needs.
func (a *applier) mayDelete(j *commandpb.JobRecord, r *commandpb.CheckpointRecord) error {
	name := j.Submitted.Job
	newest := len(Usable(j)) > 0 && Usable(j)[len(Usable(j))-1].Step == r.Step
	switch {
	case r.Pinned:
		return fmt.Errorf("job %s: checkpoint of step %d is pinned; first: coordinator checkpoint unpin %s %d: %w", name,
			r.Step, name, r.Step, ErrJobState)
	case Tested(a.s.v, name, r.Step):
		return fmt.Errorf("job %s: checkpoint of step %d is being tested; wait, or see: coordinator evaluate list: %w", name,
			r.Step, ErrJobState)
	case j.State != Done && newest:
		return fmt.Errorf("job %s is %s and goes on from its checkpoint of step %d; delete the job, or an older one: %w",
			name, j.State, r.Step, ErrJobState)
	case !Ended(j.State) && j.HasRestore && j.RestoreStep == r.Step || j.HasResumeStep && j.ResumeStep == r.Step:
		return fmt.Errorf("job %s is %s from its checkpoint of step %d; delete it when there is a newer one: %w", name,
			j.State, r.Step, ErrJobState)
	}
	if heir := Heir(a.s.v, name, r.Step); heir != "" {
		return fmt.Errorf("job %s was forked from step %d of %s; delete that one first: coordinator job delete %s: %w", heir,
			r.Step, name, heir, ErrJobState)
	}
	return nil
}

// maxDeleted is how many jobs that were deleted are remembered by name.
const maxDeleted = 1024

// deleteJob forgets a job that has come to rest, or has not begun.
func (a *applier) deleteJob(c *commandpb.DeleteJob) error {
	if c.Request != "" && slices.ContainsFunc(a.s.v.Deleted, func(d *commandpb.DeletedRecord) bool {
		return d.Job == c.Job && d.Request == c.Request
	}) {
		return nil
	}
	j, err := a.job(c.Job)
	if err != nil {
		return err
	}
	if !Ended(j.State) && j.State != Queued {
		return fmt.Errorf("job %s is %s; stop it first: coordinator job stop %s: %w", c.Job, j.State, c.Job, ErrJobState)
	}
	if heir, step := anyHeir(a.s.v, c.Job); heir != "" {
		return fmt.Errorf("job %s was forked from step %d of %s; delete that one first: coordinator job delete %s: %w",
			heir, step, c.Job, heir, ErrJobState)
	}
	for _, r := range j.Checkpoints {
		if Tested(a.s.v, c.Job, r.Step) {
			return fmt.Errorf("job %s: checkpoint of step %d is being tested; wait, or see: coordinator evaluate list: %w",
				c.Job, r.Step, ErrJobState)
		}
	}
	gone := slices.DeleteFunc(slices.Clone(a.s.v.Deleted), func(d *commandpb.DeletedRecord) bool { return d.Job == c.Job })
	gone = append(gone, &commandpb.DeletedRecord{Job: c.Job, Generation: j.Generation, Request: c.Request})
	for ; len(gone) > maxDeleted; gone = gone[1:] {
		a.s.v.DeletedGeneration = max(a.s.v.DeletedGeneration, gone[0].Generation)
	}
	a.s.v.Deleted = gone
	a.s.dropJob(c.Job)
	a.event("job", c.Job, "", "job %s is deleted, with %d checkpoints", c.Job, len(j.Checkpoints))
	return nil
}

// firstGeneration is the one before a new job's first: behind all of any job that had its name.
func (a *applier) firstGeneration(name string) uint64 {
	for _, d := range a.s.v.Deleted {
		if d.Job == name {
			return d.Generation
		}
	}
	return a.s.v.DeletedGeneration
}
