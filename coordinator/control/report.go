package control

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
	"colonnade/shard/job"
)

// Report writes down what a worker reports and acknowledges it. A report that the state refuses, because a newer
// generation runs say, is acknowledged too: sending it again would change nothing. An error means that this node could
// not write it; the worker will send it again, here or to another.
func (s *Session) Report(ctx context.Context, r *clusterpb.Report) error {
	for _, cmd := range commands(r, s.worker) {
		res, err := s.c.cfg.Node.Apply(ctx, cmd)
		if err != nil && res.Refused == nil {
			return fmt.Errorf("write report %d: %w", r.Sequence, err)
		}
		if err != nil {
			s.c.cfg.Log.Info("report refused", "worker", s.worker, "job", r.Job, "generation", r.Generation,
				"kind", fmt.Sprintf("%T", r.Kind), "err", err)
		}
	}
	dropped, err := s.c.retain(ctx, r.Job)
	if err != nil {
		return err
	}
	s.ack(r.Sequence, nil)
	if len(dropped) > 0 {
		s.c.tellDropped(dropped)
	}
	s.c.kick()
	return nil
}

func (s *Session) ack(sequence uint64, dropped []*clusterpb.Manifest) {
	s.send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Ack{Ack: &clusterpb.Ack{
		Sequence: sequence, Dropped: dropped}}})
}

// tellDropped has every worker delete what it keeps of dropped checkpoints.
func (c *Control) tellDropped(dropped []*clusterpb.Manifest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sessions {
		s.ack(0, dropped)
	}
}

// commands is a report as the log has it.
func commands(r *clusterpb.Report, worker string) []*commandpb.Command {
	switch k := r.Kind.(type) {
	case *clusterpb.Report_Checkpoint:
		w := k.Checkpoint
		return one(&commandpb.Command_CheckpointWritten{CheckpointWritten: &commandpb.CheckpointWritten{Job: r.Job,
			Generation: r.Generation, Step: w.Step, PlanDigest: w.PlanDigest, Numerics: w.Numerics, File: filePB(w.File)}})
	case *clusterpb.Report_Evaluation:
		e := k.Evaluation
		return one(&commandpb.Command_RecordEvaluation{RecordEvaluation: &commandpb.RecordEvaluation{Job: r.Job,
			Generation: r.Generation, Step: e.Step, Epoch: e.Epoch, Images: e.Images, Top1Errors: e.Top1Errors,
			Top5Errors: e.Top5Errors, Loss: e.Loss, TrainLoss: e.TrainLoss}})
	case *clusterpb.Report_Finished:
		return one(&commandpb.Command_CellFinished{CellFinished: &commandpb.CellFinished{Job: r.Job,
			Generation: r.Generation, Cell: cellCommand(k.Finished.Cell), Step: k.Finished.Step, Digest: k.Finished.Digest}})
	case *clusterpb.Report_Stopped:
		return one(&commandpb.Command_CellStopped{CellStopped: &commandpb.CellStopped{Job: r.Job,
			Generation: r.Generation, Cell: cellCommand(k.Stopped.Cell), Step: k.Stopped.Step}})
	case *clusterpb.Report_Bad:
		return one(&commandpb.Command_MarkCheckpointBad{MarkCheckpointBad: &commandpb.MarkCheckpointBad{Job: r.Job,
			Step: k.Bad.Step, Cell: cellCommand(k.Bad.Cell), Reason: k.Bad.Reason}})
	case *clusterpb.Report_Failed:
		if k.Failed.Permanent {
			return one(&commandpb.Command_FailJob{FailJob: &commandpb.FailJob{Job: r.Job, Generation: r.Generation,
				Reason: k.Failed.Reason}})
		}
		return one(&commandpb.Command_ReleaseJob{ReleaseJob: &commandpb.ReleaseJob{Job: r.Job, Generation: r.Generation,
			Reason: k.Failed.Reason}})
	case *clusterpb.Report_CheckpointFailed:
		return one(&commandpb.Command_RecordEvent{RecordEvent: &commandpb.RecordEvent{Kind: "checkpoint-failed", Job: r.Job,
			Worker: worker, Text: fmt.Sprintf("job %s: checkpoint of step %d was not written: %s; training goes on", r.Job,
				k.CheckpointFailed.Step, k.CheckpointFailed.Reason)}})
	}
	return nil
}

// one makes a command of its kind; protoc-gen-go keeps the kinds' interface to itself.
func one(kind any) []*commandpb.Command {
	c := &commandpb.Command{}
	switch k := kind.(type) {
	case *commandpb.Command_CheckpointWritten:
		c.Kind = k
	case *commandpb.Command_RecordEvaluation:
		c.Kind = k
	case *commandpb.Command_CellFinished:
		c.Kind = k
	case *commandpb.Command_CellStopped:
		c.Kind = k
	case *commandpb.Command_MarkCheckpointBad:
		c.Kind = k
	case *commandpb.Command_FailJob:
		c.Kind = k
	case *commandpb.Command_ReleaseJob:
		c.Kind = k
	case *commandpb.Command_RecordEvent:
		c.Kind, c.Ignorable = k, true
	}
	return []*commandpb.Command{c}
}

// retain drops the checkpoints of a job beyond those it keeps, and returns their manifests.
func (c *Control) retain(ctx context.Context, name string) ([]*clusterpb.Manifest, error) {
	view, _ := c.cfg.Node.View()
	j := view.Jobs[name]
	if j == nil {
		return nil, nil
	}
	good := fsm.Usable(j)
	keep := fsm.Keep(j)
	if len(good) <= keep {
		return nil, nil
	}
	oldest := good[len(good)-keep].Step // that is kept
	var steps []uint64
	var out []*clusterpb.Manifest
	for _, r := range j.Checkpoints {
		if r.Step < oldest {
			steps = append(steps, r.Step)
			out = append(out, ManifestPB(j, r))
		}
	}
	res, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_DropCheckpoints{
		DropCheckpoints: &commandpb.DropCheckpoints{Job: name, Steps: steps}}})
	if err != nil && res.Refused == nil {
		return nil, fmt.Errorf("drop checkpoints: %w", err)
	}
	if err != nil { // one of those that stay was found bad meanwhile: what is still in the state keeps its files
		return nil, nil
	}
	return out, nil
}

// Submit writes a new job into the log. With resume, the same job under the same name is gone on with, or left alone if
// it is under way or done.
func (c *Control) Submit(ctx context.Context, spec []byte, resume bool) (name string, err error) {
	j, err := job.Decode(spec)
	if err != nil {
		return "", err
	}
	view, _ := c.cfg.Node.View()
	if old := view.Jobs[j.Name]; old != nil && resume {
		before, err := job.Decode(old.Submitted.Spec)
		if err != nil {
			return "", err
		}
		if before.Identity() != j.Identity() {
			return "", fmt.Errorf("job %s: %w, and it is another one: "+
				"its network, data or recipe differ; give this one another name",
				j.Name, fsm.ErrJobExists)
		}
		if old.State != fsm.Stopped && old.State != fsm.Failed {
			return j.Name, nil
		}
		return j.Name, c.Resume(ctx, &commandpb.ResumeJob{Job: j.Name})
	}
	_, err = c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_SubmitJob{SubmitJob: &commandpb.SubmitJob{
		Job: j.Name, Spec: spec, Steps: j.Steps(), Replicas: int32(j.Replicas), Columns: int32(j.Columns),
		Keep: uint64(j.Checkpoint.Keep)}}})
	c.kick()
	return j.Name, err
}

// Resume goes on with a stopped or failed job.
func (c *Control) Resume(ctx context.Context, r *commandpb.ResumeJob) error {
	_, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_ResumeJob{ResumeJob: r}})
	c.kick()
	return err
}

// Stop stops a job. Stopping one that has ended is no error.
func (c *Control) Stop(ctx context.Context, name string, now bool) error {
	_, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_RequestStop{
		RequestStop: &commandpb.RequestStop{Job: name, Now: now}}})
	c.kick()
	if errors.Is(err, fsm.ErrJobState) {
		return nil
	}
	return err
}

// cellStatuses returns a job's noted cells in (replica, column) order. c.mu is held.
func (c *Control) cellStatuses(name string, generation uint64) []*clusterpb.CellStatus {
	var out []*clusterpb.CellStatus
	for _, n := range c.cells[name] {
		if n.status.Generation == generation {
			out = append(out, n.status)
		}
	}
	slices.SortFunc(out, func(a, b *clusterpb.CellStatus) int {
		if d := a.Cell.Replica - b.Cell.Replica; d != 0 {
			return int(d)
		}
		return int(a.Cell.Column - b.Cell.Column)
	})
	return out
}
