package control

import (
	"context"
	"fmt"
	"slices"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

// noteCell keeps what a worker says of a cell, and has the loop look at once if the cell may be stuck. c.mu is held.
func (c *Control) noteCell(worker string, st *clusterpb.CellStatus, heard time.Time) {
	if c.cells[st.Job] == nil {
		c.cells[st.Job] = map[cellKey]*cellNote{}
	}
	key := cellKey{st.Cell.Replica, st.Cell.Column}
	note := &cellNote{worker: worker, status: st, heard: heard, best: st.BusySeconds}
	if old := c.cells[st.Job][key]; old != nil && old.status.Generation == st.Generation && old.best > 0 {
		note.best = min(old.best, st.BusySeconds)
	}
	c.cells[st.Job][key] = note
	if st.InPhaseSeconds >= c.cfg.Patience.Floor.Seconds() {
		c.kick()
	}
}

// watched is what is known of how workers get on. c.mu is held.
func (c *Control) watched(view fsm.View) sched.Watched {
	in := sched.Watched{View: view, Sessions: make(sched.Sessions, 0, len(c.roster.inOrder)),
		Cells: map[string][]sched.Progress{}, Named: map[string]bool{}, Patience: c.cfg.Patience}
	for _, s := range c.roster.inOrder {
		if s.joined > 0 {
			in.Sessions = append(in.Sessions, sched.Session{Worker: s.enrolled,
				Liveness: sched.Liveness{Connected: true, Heard: s.heard}})
		}
	}
	for _, t := range c.troubles {
		in.Named[t.Key] = true
	}
	for name, cells := range c.cells {
		j := view.Jobs[name]
		if j == nil {
			continue
		}
		for _, n := range cells {
			if n.status.Generation == j.Generation {
				in.Cells[name] = append(in.Cells[name], progress(n))
			}
		}
		slices.SortFunc(in.Cells[name], func(a, b sched.Progress) int {
			if d := a.Cell.Replica - b.Cell.Replica; d != 0 {
				return int(d)
			}
			return int(a.Cell.Column - b.Cell.Column)
		})
	}
	return in
}

func progress(n *cellNote) sched.Progress {
	s := n.status
	p := sched.Progress{Cell: sched.Place{Replica: s.Cell.Replica, Column: s.Cell.Column}, Worker: n.worker, Step: s.Step,
		Phase: s.Phase, Train: s.Kind != "", InPhase: span(s.InPhaseSeconds), Usual: span(s.UsualSeconds),
		Busy: span(s.BusySeconds), Best: span(n.best), Heard: n.heard}
	if s.Kind == "forward" {
		p.Phase = "forward " + p.Phase
	}
	for _, w := range s.WaitsFor {
		p.WaitsFor = append(p.WaitsFor, sched.Place{Replica: w.GetReplica(), Column: w.GetColumn()})
	}
	return p
}

// span is a number of seconds that came over the wire.
func span(seconds float64) time.Duration {
	const most = 1e9
	if !(seconds > 0) { // not a number is no time either
		return 0
	}
	return time.Duration(min(seconds, most) * float64(time.Second))
}

// judge looks for workers that do not get on, writes down what is new, and gives up those whose grace is over. It
// returns when to look again.
func (c *Control) judge(ctx context.Context, now time.Time) time.Duration {
	view, _ := c.cfg.Node.View()
	c.mu.Lock()
	in := c.watched(view)
	before := c.troubles
	c.mu.Unlock()
	found, at := sched.Judge(now, in)
	next := idle
	if !at.IsZero() {
		next = min(max(at.Sub(now), time.Millisecond), idle)
	}
	for _, t := range found {
		if !in.Named[t.Key] {
			c.cfg.Log.Warn(t.Text, "worker", t.Worker, "job", t.Job, "generation", t.Generation)
			c.write(ctx, &commandpb.Command{Ignorable: true, Kind: &commandpb.Command_RecordEvent{
				RecordEvent: &commandpb.RecordEvent{Kind: "hang", Job: t.Job, Worker: t.Worker, Text: t.Text}}})
		}
		if t.Replace {
			c.write(ctx, replacing(t))
			next = 0
		}
	}
	still := make(map[string]bool, len(found))
	for _, t := range found {
		still[t.Key] = true
	}
	for _, t := range before {
		if !still[t.Key] {
			c.over(ctx, view, t)
		}
	}
	c.mu.Lock()
	c.troubles = found
	c.mu.Unlock()
	return next
}

// over writes down that a worker gets on again, if it is still there for it.
func (c *Control) over(ctx context.Context, view fsm.View, t sched.Trouble) {
	w := view.Workers[t.Worker]
	if w == nil || w.Lost || w.Hung {
		return
	}
	j := view.Jobs[t.Job]
	if t.Kind != sched.Halted && (j == nil || j.Generation != t.Generation || j.State != fsm.Running) {
		return
	}
	words := map[string]string{sched.Halted: "is heard of again", sched.Stuck: "gets on again",
		sched.Slow: "is as fast as before"}[t.Kind]
	if words == "" {
		return
	}
	c.write(ctx, &commandpb.Command{Ignorable: true, Kind: &commandpb.Command_RecordEvent{
		RecordEvent: &commandpb.RecordEvent{Kind: "hang", Job: t.Job, Worker: t.Worker,
			Text: fmt.Sprintf("worker %s %s", w.Registered.Name, words)}}})
}

// replacing is what ends a trouble whose grace is over.
func replacing(t sched.Trouble) *commandpb.Command {
	if t.Kind == sched.Locked {
		return &commandpb.Command{Kind: &commandpb.Command_ReleaseJob{ReleaseJob: &commandpb.ReleaseJob{Job: t.Job,
			Generation: t.Generation, Reason: t.Text}}}
	}
	return decision(sched.Lose{Worker: t.Worker, Reason: t.Text, Hung: true})
}

// write puts a command into the log that can be done without: what is not written now is found again.
func (c *Control) write(ctx context.Context, cmd *commandpb.Command) {
	if _, err := c.cfg.Node.Apply(ctx, cmd); err != nil {
		c.cfg.Log.Warn("judgement was not written", "command", fmt.Sprintf("%T", cmd.Kind), "err", err)
	}
}

// trouble is what is the matter with a worker, in words. c.mu is held.
func (c *Control) trouble(worker string) string {
	for _, t := range c.troubles {
		if t.Worker == worker {
			return t.Text
		}
	}
	return ""
}

// hold is what holds a job up, in words. c.mu is held.
func (c *Control) hold(job string) string {
	for _, t := range c.troubles {
		if t.Job == job {
			return t.Text
		}
	}
	return ""
}
