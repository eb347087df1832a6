package fsm

import (
	"slices"

	"colonnade/proto/commandpb"
)

// copyJob copies a job's record for a command to change. What its lists hold is shared and must be replaced, not
// changed: for a checkpoint, changing does that.
func copyJob(j *commandpb.JobRecord) *commandpb.JobRecord {
	c := &commandpb.JobRecord{Submitted: j.Submitted, SubmittedUnixNs: j.SubmittedUnixNs, State: j.State,
		Reason: j.Reason, Generation: j.Generation, Placement: slices.Clone(j.Placement), RestoreStep: j.RestoreStep,
		HasRestore: j.HasRestore, Numerics: j.Numerics, Checkpoints: slices.Clone(j.Checkpoints),
		Evaluations: slices.Clone(j.Evaluations), Finished: slices.Clone(j.Finished), Stopped: slices.Clone(j.Stopped),
		StopNow: j.StopNow, Digest: j.Digest, EndedUnixNs: j.EndedUnixNs, ResumeStep: j.ResumeStep,
		HasResumeStep: j.HasResumeStep, StateUnixNs: j.StateUnixNs, Failures: j.Failures,
		Requests: slices.Clone(j.Requests), FromMemory: j.FromMemory, MemoryStep: j.MemoryStep, AvoidMemory: j.AvoidMemory,
		MemoryTries: j.MemoryTries, MemorySince: j.MemorySince, Moving: j.Moving, Vetoes: slices.Clone(j.Vetoes),
		Pausing: j.Pausing, Parent: j.Parent, Priority: j.Priority, MaxWorkers: j.MaxWorkers, MinWorkers: j.MinWorkers,
		Requeuing: j.Requeuing, Preemptions: j.Preemptions, PreemptedBy: j.PreemptedBy}
	if more := j.ProtoReflect().GetUnknown(); len(more) > 0 { // a newer program's
		c.ProtoReflect().SetUnknown(more)
	}
	return c
}

// changing has a job's record, which is a copy, get a copy of one of its checkpoints too, and returns that.
func changing(j *commandpb.JobRecord, i int) *commandpb.CheckpointRecord {
	r := j.Checkpoints[i]
	c := &commandpb.CheckpointRecord{Step: r.Step, Generation: r.Generation, Files: slices.Clone(r.Files),
		PlanDigest: r.PlanDigest, Numerics: r.Numerics, Committed: r.Committed, CommittedUnixNs: r.CommittedUnixNs,
		Bad: r.Bad, Rewritten: r.Rewritten, Pinned: r.Pinned, OfJob: r.OfJob}
	if more := r.ProtoReflect().GetUnknown(); len(more) > 0 {
		c.ProtoReflect().SetUnknown(more)
	}
	j.Checkpoints[i] = c
	return c
}
