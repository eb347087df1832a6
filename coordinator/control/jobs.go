package control

import (
	"context"
	"errors"
	"fmt"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
	"colonnade/shard/job"
)

// refusal is a known error in words that say what to do now.
type refusal struct {
	text  string
	known error
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.known }

func refuse(known error, format string, args ...any) error {
	return &refusal{fmt.Sprintf(format, args...), known}
}

// readable waits until the view has everything that any leader acknowledged before the call: this node still leads, by
// the word of a majority, in the term in which it had caught up. Another answers otherwise.
func (c *Control) readable(ctx context.Context) error {
	if err := c.mustLead(); err != nil {
		return err
	}
	c.mu.Lock()
	term := c.term
	c.mu.Unlock()
	if err := c.cfg.Node.VerifyLeader(ctx); err != nil {
		return fmt.Errorf("ask whether this coordinator still leads: %w", err)
	}
	if c.cfg.Node.Term() != term { // it has lost the lead and has it again
		return ErrNotLeading
	}
	return nil
}

// mustLead refuses what only a leader can have written: whether it still is one, writing shows.
func (c *Control) mustLead() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.leading {
		return ErrNotLeading
	}
	return nil
}

// Submit writes a new job into the log. With resume, the same job under the same name is gone on with, or left alone if
// it is under way or done.
//
// A request's id, if it has one, makes asking again harmless: the job that it made before is no reason to refuse it.
func (c *Control) Submit(ctx context.Context, spec []byte, resume bool, request string) (name string, err error) {
	j, err := job.Decode(spec)
	if err != nil {
		return "", err
	}
	if err := c.mustLead(); err != nil {
		return "", err
	}
	_, err = c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_SubmitJob{
		SubmitJob: submission(j, spec, request)}})
	if errors.Is(err, fsm.ErrJobExists) {
		return j.Name, c.submitAgain(ctx, j, resume, request)
	}
	c.kick()
	return j.Name, err
}

// submission is the command that submits a job, whose bytes are spec.
func submission(j *job.Job, spec []byte, request string) *commandpb.SubmitJob {
	q := j.Queued()
	return &commandpb.SubmitJob{Job: j.Name, Spec: spec, Steps: j.Steps(), Replicas: int32(j.Replicas),
		Columns: int32(j.Columns), Keep: uint64(j.Checkpoint.Keep), Direct: j.Direct(), Request: request,
		Priority: int32(q.Priority), MaxWorkers: uint32(q.MaxWorkers), MinWorkers: uint32(q.MinWorkers)}
}

// submitAgain is Submit of a name that is taken.
func (c *Control) submitAgain(ctx context.Context, j *job.Job, resume bool, request string) error {
	view, _ := c.cfg.Node.View()
	old := view.Jobs[j.Name]
	before, err := job.Decode(old.Submitted.Spec)
	if err != nil {
		return fmt.Errorf("job %s as it was submitted: %w", j.Name, err)
	}
	if before.Identity() != j.Identity() {
		return refuse(fsm.ErrJobExists, "job %s exists and is another one: its network, data, recipe or winograd differ; "+
			"give this one another name", j.Name)
	}
	if !resume {
		return refuse(fsm.ErrJobExists, "job %s exists already and is %s; go on with it by submitting with --resume, or "+
			"give this one another name", j.Name, old.State)
	}
	if q := j.Queued(); j.Queue != nil && old.State != fsm.Done {
		if err := c.setQueue(ctx, old, q, ""); err != nil {
			return err
		}
	}
	state, err := c.settled(ctx, j.Name)
	if err != nil || state != fsm.Stopped && state != fsm.Failed && state != fsm.Paused {
		return err
	}
	return c.Resume(ctx, &commandpb.ResumeJob{Job: j.Name, Request: request})
}

// settled returns a job's state once it is not about to stop.
func (c *Control) settled(ctx context.Context, name string) (string, error) {
	for {
		view, changed := c.cfg.Node.View()
		if j := view.Jobs[name]; j == nil || j.State != fsm.Stopping || j.Moving || j.Requeuing {
			return j.GetState(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", fmt.Errorf("job %s is still stopping: %w", name, context.Cause(ctx))
		}
	}
}

// Resume goes on with a stopped or failed job.
func (c *Control) Resume(ctx context.Context, r *commandpb.ResumeJob) error {
	if err := c.mustLead(); err != nil {
		return err
	}
	_, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_ResumeJob{ResumeJob: r}})
	if errors.Is(err, fsm.ErrJobState) {
		view, _ := c.cfg.Node.View()
		state := view.Jobs[r.Job].GetState()
		if j := view.Jobs[r.Job]; j.GetMoving() || j.GetRequeuing() {
			state = fsm.Running
		}
		return cannotResume(r.Job, state)
	}
	c.kick()
	return err
}

func cannotResume(name, state string) error {
	switch state {
	case fsm.Done:
		return refuse(fsm.ErrJobState, "job %s is done, there is nothing to resume; see: coordinator job show %s", name, name)
	case fsm.Stopping:
		return refuse(fsm.ErrJobState, "job %s is still stopping; resume it when it has stopped: coordinator job watch %s",
			name, name)
	}
	return refuse(fsm.ErrJobState, "job %s is %s already; follow it with: coordinator job watch %s", name, state, name)
}

// Stop stops a job. Stopping one that has ended is no error.
func (c *Control) Stop(ctx context.Context, name string, now bool, request string) error {
	if err := c.mustLead(); err != nil {
		return err
	}
	_, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_RequestStop{
		RequestStop: &commandpb.RequestStop{Job: name, Now: now, Request: request}}})
	c.kick()
	if errors.Is(err, fsm.ErrJobState) {
		return nil
	}
	return err
}
