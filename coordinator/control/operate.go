package control

import (
	"context"
	"errors"
	"fmt"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
	"colonnade/shard/job"
)

// Fork writes a new job into the log that goes on from a checkpoint of another one. step 0 is the newest good one.
func (c *Control) Fork(ctx context.Context, spec []byte, from string, step uint64, request string) (string, error) {
	j, err := job.Decode(spec)
	if err != nil {
		return "", err
	}
	view, parent, err := c.find(ctx, from)
	if err != nil {
		return "", err
	}
	if old := view.Jobs[j.Name]; old != nil && (old.Parent == nil || request == "" || old.Submitted.Request != request) {
		return "", refuse(fsm.ErrJobExists, "job %s exists already and is %s; give the fork another name with --job",
			j.Name, old.State)
	}
	good := fsm.Usable(parent)
	if step == 0 && len(good) == 0 {
		return "", refuse(fsm.ErrNoCheckpoint, "job %s has no checkpoint to go on from; see: coordinator checkpoint list %s",
			from, from)
	}
	if step == 0 {
		step = good[len(good)-1].Step
	}
	before, err := job.Decode(parent.Submitted.Spec)
	if err != nil {
		return "", fmt.Errorf("job %s as it was submitted: %w", from, err)
	}
	if err := continues(j, before, parent, step); err != nil {
		return "", err
	}
	s := submission(j, spec, request)
	s.FromJob, s.FromStep, s.Changes = from, step, job.Differences(j, before)
	_, err = c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_SubmitJob{SubmitJob: s}})
	c.kick()
	return j.Name, err
}

// continues wants of a fork that the other job's state is one of its own: the same plan, and, if its course goes by
// evaluations, those that it would have made.
func continues(j, before *job.Job, parent *commandpb.JobRecord, step uint64) error {
	mine, err := j.Plan()
	if err != nil {
		return err
	}
	theirs, err := before.Plan()
	if err != nil {
		return err
	}
	if mine.Digest() != theirs.Digest() {
		return refuse(fsm.ErrInvalid, "job %s computes another network than %s, whose state it cannot go on from; change "+
			"its recipe only", j.Name, before.Name)
	}
	var known job.History
	for _, e := range parent.Evaluations {
		if n := float64(max(e.Images, 1)); e.Step <= step {
			known = known.With(job.Evaluation{Step: e.Step, Top1: e.Top1Errors / n, Top5: e.Top5Errors / n,
				Loss: e.Loss})
		}
	}
	if _, missing, ok := j.Until(step, known); j.Adaptive() && !ok {
		return refuse(fsm.ErrInvalid, "the rate of %s follows evaluations, and %s has none after step %d; keep its batch "+
			"and evaluate.every, or give a schedule: --set recipe.plateau=null --set 'recipe.schedule=[...]'", j.Name,
			before.Name, missing)
	}
	return nil
}

// Pause stops a job at a step boundary, after a checkpoint, to be resumed.
func (c *Control) Pause(ctx context.Context, name, request string) error {
	if err := c.mustLead(); err != nil {
		return err
	}
	_, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_RequestStop{
		RequestStop: &commandpb.RequestStop{Job: name, Request: request, Pause: true}}})
	c.kick()
	if errors.Is(err, fsm.ErrJobState) {
		return nil // it is at rest
	}
	return err
}

// CheckpointNow has a job stop at the next step boundary, write a checkpoint, and go on from it in a new generation.
func (c *Control) CheckpointNow(ctx context.Context, name string) error {
	_, j, err := c.find(ctx, name)
	switch {
	case err != nil:
		return err
	case j.Moving: // it writes one now
		return nil
	case j.State != fsm.Running:
		return refuse(fsm.ErrJobState, "job %s is %s, only one that runs writes checkpoints; see: coordinator checkpoint "+
			"list %s", name, j.State, name)
	}
	_, err = c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_MoveJob{MoveJob: &commandpb.MoveJob{
		Job: name, Generation: j.Generation, Reason: "an operator asked for a checkpoint"}}})
	c.kick()
	return err
}

// DeleteJob forgets a job and has workers delete the files of its checkpoints, which it returns.
func (c *Control) DeleteJob(ctx context.Context, name, request string) ([]*clusterpb.Manifest, error) {
	if err := c.mustLead(); err != nil {
		return nil, err
	}
	view, _ := c.cfg.Node.View()
	var own []*clusterpb.Manifest
	if j := view.Jobs[name]; j != nil {
		own = ownFiles(j, j.Checkpoints)
	}
	_, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_DeleteJob{
		DeleteJob: &commandpb.DeleteJob{Job: name, Request: request}}})
	if err != nil {
		return nil, err
	}
	c.tellDropped(own)
	c.kick()
	return own, nil
}

// ownFiles are the manifests of those checkpoints whose files are the job's own.
func ownFiles(j *commandpb.JobRecord, all []*commandpb.CheckpointRecord) (out []*clusterpb.Manifest) {
	for _, r := range all {
		if r.OfJob == "" {
			out = append(out, ManifestPB(j, r))
		}
	}
	return out
}

// Pin has retention keep a checkpoint, or not any more.
func (c *Control) Pin(ctx context.Context, name string, step uint64, undo bool) error {
	if err := c.mustLead(); err != nil {
		return err
	}
	_, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_PinCheckpoint{
		PinCheckpoint: &commandpb.PinCheckpoint{Job: name, Step: step, Undo: undo}}})
	c.kick()
	return err
}

// DeleteCheckpoint forgets a checkpoint and has workers delete its files.
func (c *Control) DeleteCheckpoint(ctx context.Context, name string, step uint64, request string) error {
	if err := c.mustLead(); err != nil {
		return err
	}
	view, _ := c.cfg.Node.View()
	var own []*clusterpb.Manifest
	for _, r := range view.Jobs[name].GetCheckpoints() {
		if r.Step == step {
			own = ownFiles(view.Jobs[name], []*commandpb.CheckpointRecord{r})
		}
	}
	_, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_DeleteCheckpoint{
		DeleteCheckpoint: &commandpb.DeleteCheckpoint{Job: name, Step: step, Request: request}}})
	if err != nil {
		return err
	}
	c.tellDropped(own)
	return nil
}

// parentPB is where a fork comes from.
func parentPB(view fsm.View, j *commandpb.JobRecord) *clusterpb.Parent {
	p := j.Parent
	if p == nil {
		return nil
	}
	from := view.Jobs[p.Job]
	return &clusterpb.Parent{Job: p.Job, Step: p.Step, Digest: p.Digest, Changes: p.Changes,
		Deleted: from == nil || from.SubmittedUnixNs != p.SubmittedUnixNs}
}
