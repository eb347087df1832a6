package fsm

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"colonnade/proto/commandpb"
)

// find returns a job's checkpoint record of a step and its place, or where it would go.
func find(j *commandpb.JobRecord, step uint64) (int, *commandpb.CheckpointRecord) {
	i, ok := slices.BinarySearchFunc(j.Checkpoints, step, func(r *commandpb.CheckpointRecord, step uint64) int {
		switch {
		case r.Step < step:
			return -1
		case r.Step > step:
			return 1
		}
		return 0
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

// checkpointWritten adds a cell's file; the last one commits the checkpoint.
func (a *applier) checkpointWritten(c *commandpb.CheckpointWritten) error {
	j, err := a.current(c.Job, c.Generation)
	if err != nil {
		return err
	}
	f := c.File
	place := rank(j, f.GetCell())
	switch {
	case f == nil || place < 0 || len(f.Sha256) != sha256.Size || len(f.Digest) != sha256.Size ||
		c.Step > j.Submitted.Steps:
		return fmt.Errorf("job %s: checkpoint file of step %d: %w", c.Job, c.Step, ErrInvalid)
	case c.Numerics != j.Numerics:
		return fmt.Errorf("job %s: checkpoint under %s instead of %s: %w", c.Job, c.Numerics, j.Numerics, ErrNumerics)
	}
	i, r := find(j, c.Step)
	if r == nil || r.Generation != c.Generation {
		// A step that is done again replaces what an earlier generation wrote: the files lie under the same names.
		fresh := &commandpb.CheckpointRecord{Step: c.Step, Generation: c.Generation, PlanDigest: c.PlanDigest,
			Numerics: c.Numerics}
		if r == nil {
			j.Checkpoints = slices.Insert(j.Checkpoints, i, fresh)
		} else {
			j.Checkpoints[i] = fresh
		}
		r = fresh
	}
	if string(r.PlanDigest) != string(c.PlanDigest) {
		return fmt.Errorf("job %s: checkpoint of step %d: plans of its cells differ: %w", c.Job, c.Step, ErrInvalid)
	}
	at, found := slices.BinarySearchFunc(r.Files, place, func(f *commandpb.CheckpointFile, place int) int {
		return rank(j, f.Cell) - place
	})
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

func (a *applier) markCheckpointBad(c *commandpb.MarkCheckpointBad) error {
	j, err := a.job(c.Job)
	if err != nil {
		return err
	}
	_, r := find(j, c.Step)
	if r == nil || !r.Committed {
		return fmt.Errorf("job %s, step %d: %w", c.Job, c.Step, ErrNoCheckpoint)
	}
	r.Bad = c.Reason
	a.keep(j)
	a.event("checkpoint-bad", c.Job, "", "job %s: checkpoint of step %d cannot be used: %s", c.Job, c.Step, c.Reason)
	return nil
}

func (a *applier) dropCheckpoints(c *commandpb.DropCheckpoints) error {
	j, err := a.job(c.Job)
	if err != nil {
		return err
	}
	j.Checkpoints = slices.DeleteFunc(j.Checkpoints, func(r *commandpb.CheckpointRecord) bool {
		return slices.Contains(c.Steps, r.Step)
	})
	a.keep(j)
	return nil
}
