package control

import (
	"context"
	"slices"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

// Drain has the cells of a worker go elsewhere and none come to it, or, with undo, lets it have cells again.
func (c *Control) Drain(ctx context.Context, worker string, undo bool) error {
	if err := c.mustLead(); err != nil {
		return err
	}
	_, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_DrainWorker{
		DrainWorker: &commandpb.DrainWorker{Worker: worker, Undo: undo}}})
	c.kick()
	return err
}

// Worker returns a worker as operators see it, by what this node knows.
func (c *Control) Worker(id string) *clusterpb.Worker {
	view, _ := c.cfg.Node.View()
	if view.Workers[id] == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.workerPB(view, id)
}

// Workers returns all workers, by id.
func (c *Control) Workers(ctx context.Context) ([]*clusterpb.Worker, error) {
	s := &clusterpb.StatusReply{}
	err := c.Status(ctx, s, false)
	return s.Workers, err
}

// drained says whether a worker that is drained may end: no job has a cell on it, and no cell elsewhere may still have
// to fetch a checkpoint's file from it. c.mu is held.
func (c *Control) drained(view fsm.View, id string) bool {
	if !view.Workers[id].GetDraining() {
		return false
	}
	if _, works := partsOf(view)[id]; works {
		return false
	}
	for name, j := range view.Jobs {
		switch j.State {
		case fsm.Running, fsm.Stopping:
		case fsm.Recovering:
			if len(cellsOn(j, id)) > 0 || wrote(j, id) {
				return false
			}
			continue
		default:
			continue
		}
		if len(cellsOn(j, id)) > 0 || wrote(j, id) && !j.FromMemory && !c.begun(name, j) {
			return false
		}
	}
	return true
}

// wrote says whether a file of the newest checkpoint of a job is a worker's.
func wrote(j *commandpb.JobRecord, id string) bool {
	good := fsm.Usable(j)
	return len(good) > 0 && slices.ContainsFunc(good[len(good)-1].Files, func(f *commandpb.CheckpointFile) bool {
		return f.Worker == id
	})
}

// begun says whether all cells of the newest generation have their state. c.mu is held.
func (c *Control) begun(name string, j *commandpb.JobRecord) bool {
	n := 0
	for _, note := range c.cells[name] {
		if note.status.Generation == j.Generation && note.status.Memory != "" {
			n++
		}
	}
	return n == len(j.Placement)
}

// tellDrain tells a worker what has become of its being drained. c.mu is held.
func (s *Session) tellDrain(view fsm.View, w *commandpb.WorkerRecord, c *Control) {
	now := clusterpb.Drain{Draining: w.Draining}
	now.Drained = w.Draining && c.drained(view, s.worker)
	if now.Draining == s.draining && now.Drained == s.drained {
		return
	}
	s.draining, s.drained = now.Draining, now.Drained
	s.send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Drain{
		Drain: &clusterpb.Drain{Draining: now.Draining, Drained: now.Drained}}})
}

// warm has a worker without cells get ready for the first job under way that could run there. c.mu is held.
func (s *Session) warm(view fsm.View, w *commandpb.WorkerRecord) {
	if w.Draining || w.Hung || !s.memory || len(s.told) > 0 {
		return
	}
	first := s.c.roster.firstUnder(view, kind{w.Registered.Device.GetNumerics(), false})
	if j := s.c.roster.firstUnder(view, kind{w.Registered.Device.GetDirectNumerics(), true}); j != nil &&
		(first == nil || sched.Before(j, first)) {
		first = j
	}
	if first == nil || s.warmed == first.Submitted.Job {
		return
	}
	s.warmed = first.Submitted.Job
	s.send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Warm{
		Warm: &clusterpb.Warm{Job: first.Submitted.Job, Spec: first.Submitted.Spec, Peers: s.c.peers(view, first)}}})
}
