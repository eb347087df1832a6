package control

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

// handled is the last report of a worker's process that is written down.
type handled struct {
	incarnation string
	sequence    uint64
}

// Report writes down what a worker reports and acknowledges it. A report that the state refuses, because a newer
// generation runs say, is acknowledged too, and so is one that makes no sense: sending it again would change nothing.
// An error means that this node could not write it; the worker will send it again, here or to another. A report that
// comes again after that is written once.
func (s *Session) Report(ctx context.Context, r *clusterpb.Report) error {
	s.heardNow()
	if s.isHandled(r.Sequence) {
		s.ack(r.Sequence, nil)
		return nil
	}
	cmd, err := command(r, s.worker)
	if err != nil {
		s.c.cfg.Log.Warn("report makes no sense", "worker", s.worker, "job", r.Job, "sequence", r.Sequence, "err", err)
	} else if err := s.write(ctx, r, cmd); err != nil {
		return err
	}
	if e := r.GetEvaluation(); e != nil {
		s.c.tellRate(ctx, r.Job, e)
	}
	dropped, err := s.c.retain(ctx, r.Job)
	if err != nil {
		return err
	}
	if p := r.GetPart(); p != nil {
		if err := s.partEnded(ctx, p.Evaluation, r.Generation); err != nil {
			return err
		}
	}
	s.setHandled(r.Sequence)
	s.heardNow() // what the log took of the worker's time is not its silence
	s.ack(r.Sequence, nil)
	if len(dropped) > 0 {
		s.c.tellDropped(dropped)
	}
	s.c.kick()
	return nil
}

// write puts a report into the log. A refusal is no error.
func (s *Session) write(ctx context.Context, r *clusterpb.Report, cmd *commandpb.Command) error {
	res, err := s.c.cfg.Node.Apply(ctx, cmd)
	if err != nil && res.Refused == nil {
		return fmt.Errorf("write report %d: %w", r.Sequence, err)
	}
	if err != nil {
		s.c.cfg.Log.Info("report refused", "worker", s.worker, "job", r.Job, "generation", r.Generation,
			"kind", fmt.Sprintf("%T", r.Kind), "err", err)
	}
	return nil
}

func (s *Session) isHandled(sequence uint64) bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	h := s.c.handled[s.worker]
	return h.incarnation == s.incarnation && sequence <= h.sequence
}

func (s *Session) setHandled(sequence uint64) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if h := s.c.handled[s.worker]; h.incarnation != s.incarnation || sequence > h.sequence {
		s.c.handled[s.worker] = handled{s.incarnation, sequence}
	}
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

// tellRate writes down that the learning rate has changed, if it has with an evaluation.
func (c *Control) tellRate(ctx context.Context, name string, e *clusterpb.Evaluation) {
	view, _ := c.cfg.Node.View()
	all := view.Jobs[name].GetEvaluations()
	i := slices.IndexFunc(all, func(other *commandpb.RecordEvaluation) bool { return other.Step == e.Step })
	if i < 1 || all[i-1].Rate == 0 || e.Rate == 0 || all[i-1].Rate == e.Rate {
		return
	}
	c.write(ctx, &commandpb.Command{Ignorable: true, Kind: &commandpb.Command_RecordEvent{
		RecordEvent: &commandpb.RecordEvent{Kind: "rate", Job: name, Text: fmt.Sprintf(
			"job %s: learning rate %.5g instead of %.5g after step %d", name, e.Rate, all[i-1].Rate, e.Step)}}})
}

// command is a report as the log has it.
func command(r *clusterpb.Report, worker string) (*commandpb.Command, error) {
	c := &commandpb.Command{}
	cell, wanted := reportedCell(r)
	if wanted && cell == nil {
		return nil, fmt.Errorf("%T names no cell", r.Kind)
	}
	switch k := r.Kind.(type) {
	case *clusterpb.Report_Checkpoint:
		w := k.Checkpoint
		c.Kind = &commandpb.Command_CheckpointWritten{CheckpointWritten: &commandpb.CheckpointWritten{Job: r.Job,
			Generation: r.Generation, Step: w.Step, PlanDigest: w.PlanDigest, Numerics: w.Numerics, File: filePB(w.File)}}
	case *clusterpb.Report_Evaluation:
		e := k.Evaluation
		c.Kind = &commandpb.Command_RecordEvaluation{RecordEvaluation: &commandpb.RecordEvaluation{Job: r.Job,
			Generation: r.Generation, Step: e.Step, Epoch: e.Epoch, Images: e.Images, Top1Errors: e.Top1Errors,
			Top5Errors: e.Top5Errors, Loss: e.Loss, TrainLoss: e.TrainLoss, Rate: e.Rate}}
	case *clusterpb.Report_Finished:
		c.Kind = &commandpb.Command_CellFinished{CellFinished: &commandpb.CellFinished{Job: r.Job,
			Generation: r.Generation, Cell: cellCommand(cell), Step: k.Finished.Step, Digest: k.Finished.Digest}}
	case *clusterpb.Report_Stopped:
		c.Kind = &commandpb.Command_CellStopped{CellStopped: &commandpb.CellStopped{Job: r.Job,
			Generation: r.Generation, Cell: cellCommand(cell), Step: k.Stopped.Step}}
	case *clusterpb.Report_Bad:
		c.Kind = &commandpb.Command_MarkCheckpointBad{MarkCheckpointBad: &commandpb.MarkCheckpointBad{Job: r.Job,
			Step: k.Bad.Step, Cell: cellCommand(cell), Reason: oneLine(k.Bad.Reason), Generation: r.Generation}}
	case *clusterpb.Report_Failed:
		reason := oneLine(k.Failed.Reason)
		if v := k.Failed.Veto; v != nil {
			c.Kind = &commandpb.Command_VetoStep{VetoStep: vetoCommand(r, v)}
			break
		}
		if k.Failed.Permanent {
			c.Kind = &commandpb.Command_FailJob{FailJob: &commandpb.FailJob{Job: r.Job, Generation: r.Generation,
				Reason: reason}}
			break
		}
		c.Kind = &commandpb.Command_ReleaseJob{ReleaseJob: &commandpb.ReleaseJob{Job: r.Job, Generation: r.Generation,
			Reason: reason, Memory: k.Failed.Memory}}
	case *clusterpb.Report_Part:
		return partCommand(r, k.Part), nil
	case *clusterpb.Report_CheckpointFailed:
		c.Ignorable = true
		c.Kind = &commandpb.Command_RecordEvent{RecordEvent: &commandpb.RecordEvent{Kind: "checkpoint-failed", Job: r.Job,
			Worker: worker, Text: fmt.Sprintf("job %s: checkpoint of step %d was not written: %s; training goes on", r.Job,
				k.CheckpointFailed.Step, oneLine(k.CheckpointFailed.Reason))}}
	default:
		return nil, fmt.Errorf("kind %T is not known", r.Kind)
	}
	return c, nil
}

// reportedCell is the cell a report is about, for the kinds that need one.
func reportedCell(r *clusterpb.Report) (cell *clusterpb.Cell, wanted bool) {
	switch k := r.Kind.(type) {
	case *clusterpb.Report_Checkpoint:
		return k.Checkpoint.GetFile().GetCell(), true
	case *clusterpb.Report_Finished:
		return k.Finished.GetCell(), true
	case *clusterpb.Report_Stopped:
		return k.Stopped.GetCell(), true
	case *clusterpb.Report_Bad:
		return k.Bad.GetCell(), true
	}
	return nil, false
}

// oneLine makes one line of a reason: status prints it word for word.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
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
		if r.Step < oldest && !fsm.Kept(view, j, r) {
			steps = append(steps, r.Step)
			out = append(out, ManifestPB(j, r))
		}
	}
	if len(steps) == 0 {
		return nil, nil
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
