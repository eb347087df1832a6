package fsm

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"

	"colonnade/proto/commandpb"
)

// find returns a job's checkpoint record of a step and its place, or where it would go.
func find(j *commandpb.JobRecord, step uint64) (int, *commandpb.CheckpointRecord) {
	i, ok := slices.BinarySearchFunc(j.Checkpoints, step, func(r *commandpb.CheckpointRecord, step uint64) int {
		return cmp.Compare(r.Step, step)
	})
	if !ok {
		return i, nil
	}
	return i, j.Checkpoints[i]
}

// usable returns the committed, good checkpoint of a step, or nil.
func usable(j *commandpb.JobRecord, step uint64) *commandpb.CheckpointRecord {
	if _, r := find(j, step); r != nil && r.Committed && r.Bad == "" {
		return r
	}
	return nil
}

// Usable returns a job's committed, good checkpoints, by step.
func Usable(j *commandpb.JobRecord) []*commandpb.CheckpointRecord {
	var out []*commandpb.CheckpointRecord
	for _, r := range j.Checkpoints {
		if r.Committed && r.Bad == "" {
			out = append(out, r)
		}
	}
	return out
}

// Keep is how many good checkpoints of a job retention leaves: at least one.
func Keep(j *commandpb.JobRecord) int { return int(min(max(j.Submitted.Keep, 1), maxKeep)) }

// maxKeep is more checkpoints than anybody keeps.
const maxKeep = 1 << 30

// summed says whether a file comes with a checksum that it can be verified by: XXH3 of 128 bits, or the SHA-256 that
// workers of old sent.
func summed(f *commandpb.CheckpointFile) bool {
	return len(f.Xxh3) == 16 || len(f.Sha256) == sha256.Size
}

// checkpointWritten adds a cell's file; the last one commits the checkpoint.
func (a *applier) checkpointWritten(c *commandpb.CheckpointWritten) error {
	j, err := a.current(c.Job, c.Generation)
	if err != nil {
		return err
	}
	f := c.File
	place := rank(j, f.GetCell())
	switch {
	case f == nil || place < 0 || !summed(f) || len(f.Digest) != sha256.Size ||
		c.Step > j.Submitted.Steps:
		return fmt.Errorf("job %s: checkpoint file of step %d: %w", c.Job, c.Step, ErrInvalid)
	case c.Numerics != j.Numerics:
		return fmt.Errorf("job %s: checkpoint under %s instead of %s: %w", c.Job, c.Numerics, j.Numerics, ErrNumerics)
	}
	r := record(j, c)
	if string(r.PlanDigest) != string(c.PlanDigest) {
		return fmt.Errorf("job %s: checkpoint of step %d: plans of its cells differ: %w", c.Job, c.Step, ErrInvalid)
	}
	at, found := slices.BinarySearchFunc(r.Files, place, func(f *commandpb.CheckpointFile, place int) int {
		return rank(j, f.Cell) - place
	})
	if found && r.Committed && string(r.Files[at].Digest) != string(f.Digest) {
		return fmt.Errorf("job %s: checkpoint of step %d: cell %s has another state than the committed one: %w", c.Job,
			c.Step,
			CellName(f.Cell), ErrInvalid)
	}
	if r.OfJob != "" {
		return nil // the files of the job that this one was forked from stay its first checkpoint
	}
	if other := differs(r, f); other != nil {
		j.AvoidMemory = true // it holds what one of them computed wrongly
		a.release(j, fmt.Sprintf("after step %d cells %s and %s, replicas of one column, have different states: "+
			"a device or its memory computes wrongly; see coordinator job show %s and test the workers of both with "+
			"worker verify", c.Step, CellName(other.Cell), CellName(f.Cell), c.Job))
		a.keep(j)
		return nil
	}
	if r.Generation != c.Generation {
		r.Rewritten = max(r.Rewritten, c.Generation)
	}
	if found {
		r.Files[at] = f
	} else {
		r.Files = slices.Insert(r.Files, at, f)
	}
	if len(r.Files) == cells(j) && !r.Committed {
		r.Committed, r.CommittedUnixNs, j.Failures = true, a.now, 0
		a.event("checkpoint", c.Job, "", "job %s: checkpoint of step %d committed", c.Job, c.Step)
	}
	a.keep(j)
	return nil
}

// differs returns a file of another replica of the file's column that holds another state. Replicas add the same sums
// to the same weights, so their states are equal after every step.
func differs(r *commandpb.CheckpointRecord, f *commandpb.CheckpointFile) *commandpb.CheckpointFile {
	for _, other := range r.Files {
		if other.Cell.GetColumn() == f.Cell.GetColumn() && other.Cell.GetReplica() != f.Cell.GetReplica() &&
			string(other.Digest) != string(f.Digest) {
			return other
		}
	}
	return nil
}

// record returns the record that a cell's file belongs to, made if need be. A step that is done again replaces what an
// earlier generation began or what could not be used, but joins a good checkpoint: its files hold the same state, and
// what is committed is not given up for what may never be complete.
func record(j *commandpb.JobRecord, c *commandpb.CheckpointWritten) *commandpb.CheckpointRecord {
	i, r := find(j, c.Step)
	if r != nil && (r.Generation == c.Generation || (r.Committed && r.Bad == "")) {
		return changing(j, i)
	}
	fresh := &commandpb.CheckpointRecord{Step: c.Step, Generation: c.Generation, PlanDigest: c.PlanDigest,
		Numerics: c.Numerics}
	if r == nil {
		j.Checkpoints = slices.Insert(j.Checkpoints, i, fresh)
	} else {
		j.Checkpoints[i] = fresh
	}
	return fresh
}

func (a *applier) markCheckpointBad(c *commandpb.MarkCheckpointBad) error {
	j, err := a.job(c.Job)
	if err != nil {
		return err
	}
	i, r := find(j, c.Step)
	if r == nil || !r.Committed {
		return fmt.Errorf("job %s, step %d: %w", c.Job, c.Step, ErrNoCheckpoint)
	}
	if written := max(r.Generation, r.Rewritten); c.Generation > 0 && c.Generation < written {
		return fmt.Errorf("job %s, step %d: generation %d found it bad, %d has written it anew: %w", c.Job, c.Step,
			c.Generation, written, ErrStale)
	}
	if c.Reason == "" {
		return fmt.Errorf("job %s, step %d: bad checkpoint without a reason: %w", c.Job, c.Step, ErrInvalid)
	}
	if r.Bad == "" {
		j.Failures = 0 // the next generation tries an older one, which is no repetition
	}
	changing(j, i).Bad = c.Reason
	a.keep(j)
	a.event("checkpoint-bad", c.Job, "", "job %s: checkpoint of step %d cannot be used: %s", c.Job, c.Step, c.Reason)
	return nil
}

// dropCheckpoints forgets checkpoints, but never one of the newest good ones that the job is to keep: what was decided
// when there were more may come after one of them was found bad.
func (a *applier) dropCheckpoints(c *commandpb.DropCheckpoints) error {
	j, err := a.job(c.Job)
	if err != nil {
		return err
	}
	good := Usable(j)
	for _, r := range good[max(len(good)-Keep(j), 0):] {
		if slices.Contains(c.Steps, r.Step) {
			return fmt.Errorf("job %s: checkpoint of step %d is one of the %d to keep: %w", c.Job, r.Step, Keep(j), ErrInvalid)
		}
	}
	for _, r := range j.Checkpoints {
		if slices.Contains(c.Steps, r.Step) && Kept(a.s.v, j, r) {
			return fmt.Errorf("job %s: checkpoint of step %d is pinned, tested, or where a fork begins: %w", c.Job, r.Step,
				ErrInvalid)
		}
	}
	j.Checkpoints = slices.DeleteFunc(j.Checkpoints, func(r *commandpb.CheckpointRecord) bool {
		return slices.Contains(c.Steps, r.Step)
	})
	a.keep(j)
	return nil
}
