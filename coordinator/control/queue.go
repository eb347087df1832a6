package control

import (
	"context"
	"errors"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
	"colonnade/shard/job"
)

// SetQueue changes how a job stands in the queue for workers; what a request does not give stays as it is.
func (c *Control) SetQueue(ctx context.Context, r *clusterpb.SetQueueRequest) error {
	_, j, err := c.find(ctx, r.Name)
	if err != nil {
		return err
	}
	now := job.Queue{Priority: int(j.Priority), MaxWorkers: int(j.MaxWorkers), MinWorkers: int(j.MinWorkers)}
	if r.Priority != nil {
		now.Priority = int(*r.Priority)
	}
	if r.MaxWorkers != nil {
		now.MaxWorkers = int(*r.MaxWorkers)
	}
	if r.MinWorkers != nil {
		now.MinWorkers = int(*r.MinWorkers)
	}
	return c.setQueue(ctx, j, now, r.Request)
}

// setQueue writes down how a job stands in the queue.
func (c *Control) setQueue(ctx context.Context, j *commandpb.JobRecord, q job.Queue, request string) error {
	name := j.Submitted.Job
	if err := q.Check(int(j.Submitted.Replicas) * int(j.Submitted.Columns)); err != nil {
		return refuse(fsm.ErrInvalid, "job %s: %v", name, err)
	}
	_, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_SetQueue{SetQueue: &commandpb.SetQueue{
		Job: name, Priority: int32(q.Priority), MaxWorkers: uint32(q.MaxWorkers), MinWorkers: uint32(q.MinWorkers),
		Request: request}}})
	c.kick()
	if errors.Is(err, fsm.ErrJobState) {
		return refuse(fsm.ErrJobState, "job %s is %s, it does not wait for workers any more; see: coordinator queue", name,
			fsm.Done)
	}
	return err
}

// places are the places of the jobs that wait for workers, by name, counted from 1.
func places(view fsm.View) map[string]uint32 {
	out := map[string]uint32{}
	for i, j := range sched.Queue(view) {
		out[j.Submitted.Job] = uint32(i + 1)
	}
	return out
}

// queuePB says how a job stands in the queue.
func queuePB(out *clusterpb.Job, j *commandpb.JobRecord, places map[string]uint32) {
	out.Priority, out.MaxWorkers, out.MinWorkers = j.Priority, j.MaxWorkers, j.MinWorkers
	out.Place, out.Preemptions, out.PreemptedBy = places[out.Name], j.Preemptions, j.PreemptedBy
}
