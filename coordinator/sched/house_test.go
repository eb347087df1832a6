package sched

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// house is a cluster in which all that is decided comes true at once: workers are there and say so, jobs that are to
// stop write a checkpoint and have stopped. What is decided must lead somewhere, and stay.
type house struct {
	t     *rapid.T
	state *fsm.State
	index uint64
	now   time.Time
	jobs  int
	seen  map[string]int
}

func newHouse(t *rapid.T, seen map[string]int, workers int, numerics ...string) *house {
	h := &house{t: t, state: fsm.New(), now: t0, seen: seen}
	for i := range workers {
		h.join(fmt.Sprintf("w%d", i), rapid.SampledFrom(numerics).Draw(t, "numerics"))
	}
	h.now = h.now.Add(time.Minute)
	return h
}

func (h *house) apply(c *commandpb.Command) {
	h.index++
	c.Version, c.DecidedUnixNs = fsm.Version, h.now.UnixNano()
	if r, err := h.state.Apply(h.index, c); err != nil || r.Refused != nil {
		h.t.Fatalf("%v: %v, %v", c, err, r.Refused)
	}
}

func (h *house) join(id, numerics string) {
	h.apply(&commandpb.Command{Kind: &commandpb.Command_RegisterWorker{RegisterWorker: &commandpb.RegisterWorker{
		Worker: id, Name: id, Incarnation: "i", Checkpoints: "/shared", Device: &commandpb.Device{Numerics: numerics}}}})
}

// submit submits a job that is drawn, of a priority.
func (h *house) submit(priority int32) {
	cells := rapid.Int32Range(1, 4).Draw(h.t, "cells")
	s := &commandpb.SubmitJob{Job: fmt.Sprintf("j%02d", h.jobs), Steps: 1 << 30, Replicas: 1, Columns: cells, Keep: 1,
		Priority: priority}
	h.jobs++
	s.MinWorkers, s.MaxWorkers = drawQuota(h.t, cells)
	h.now = h.now.Add(time.Second)
	h.apply(&commandpb.Command{Kind: &commandpb.Command_SubmitJob{SubmitJob: s}})
}

func drawQuota(t *rapid.T, cells int32) (least, most uint32) {
	if rapid.Bool().Draw(t, "quota") {
		most = uint32(rapid.Int32Range(1, cells).Draw(t, "most"))
	}
	if rapid.Bool().Draw(t, "minimum") {
		least = uint32(rapid.Int32Range(1, cells).Draw(t, "least"))
		if most > 0 {
			least = min(least, most)
		}
	}
	return least, most
}

// in are the jobs in a state, in the order of the queue.
func (h *house) in(states ...string) (out []*commandpb.JobRecord) {
	v := h.state.View()
	for _, name := range v.JobNames() {
		if slices.Contains(states, v.Jobs[name].State) {
			out = append(out, v.Jobs[name])
		}
	}
	slices.SortStableFunc(out, func(a, b *commandpb.JobRecord) int { return int(b.Priority) - int(a.Priority) })
	return out
}

// every has a command for every cell of a job.
func (h *house) every(j *commandpb.JobRecord, f func(c *commandpb.Cell, worker string) *commandpb.Command) {
	for _, p := range j.Placement {
		h.apply(f(p.Cell, p.Worker))
	}
}

// stop has all jobs that are to stop do so, a step behind where they began.
func (h *house) stop() (any bool) {
	for _, j := range h.in(fsm.Stopping) {
		any = true
		name, step := j.Submitted.Job, j.RestoreStep+1
		h.every(j, func(c *commandpb.Cell, worker string) *commandpb.Command {
			return &commandpb.Command{Kind: &commandpb.Command_CheckpointWritten{
				CheckpointWritten: &commandpb.CheckpointWritten{Job: name, Generation: j.Generation, Step: step,
					PlanDigest: []byte("p"), Numerics: j.Numerics, File: &commandpb.CheckpointFile{Cell: c, Worker: worker, Path: "f",
						Bytes: 1, Xxh3: make([]byte, 16), Digest: make([]byte, 32)}}}}
		})
		h.every(j, func(c *commandpb.Cell, _ string) *commandpb.Command {
			return &commandpb.Command{Kind: &commandpb.Command_CellStopped{CellStopped: &commandpb.CellStopped{Job: name,
				Generation: j.Generation, Cell: c, Step: step}}}
		})
	}
	return any
}

// finish ends a job that runs.
func (h *house) finish(j *commandpb.JobRecord) {
	h.every(j, func(c *commandpb.Cell, _ string) *commandpb.Command {
		return &commandpb.Command{Kind: &commandpb.Command_CellFinished{CellFinished: &commandpb.CellFinished{
			Job: j.Submitted.Job, Generation: j.Generation, Cell: c, Step: j.Submitted.Steps, Digest: make([]byte, 32)}}}
	})
}

func (h *house) input() Input {
	in := Input{View: h.state.View(), Leader: t0, Rules: DefaultRules}
	for _, e := range in.View.Roll {
		if !e.Record.Lost {
			in.Sessions = append(in.Sessions, Session{Worker: e.ID, Liveness: Liveness{Connected: true, Heard: h.now}})
		}
	}
	return in
}

// rest decides until nothing is decided any more, however long that is waited for.
func (h *house) rest() {
	begun, disturbed, for_ := map[string]bool{}, map[string]bool{}, map[string]bool{}
	places := h.standing()
	for round := 0; ; round++ {
		if round == 60 {
			h.t.Fatal("there is no end to what is decided")
		}
		in := h.input()
		d := Decide(h.now, in)
		h.t.Logf("at %v:\n%s", h.now.Sub(t0), render(d))
		for _, a := range d.Actions {
			by, job := "", ""
			switch a := a.(type) {
			case Preempt:
				by, job = a.By, a.Job
				h.seen["preempt"]++
			case Move:
				job = a.Job
				if _, rest, ok := strings.Cut(a.Reason, "makes way for job "); ok {
					by, _, _ = strings.Cut(strings.Fields(rest)[0], ",")
					h.seen["shrink"]++
				}
			case Assign:
				begun[a.Job] = true
				h.checkQuota(in.View.Jobs[a.Job], a)
			}
			if by != "" {
				if disturbed[job] || in.View.Jobs[by].Priority <= in.View.Jobs[job].Priority {
					h.t.Fatalf("job %s makes way for %s; before: %v", job, by, disturbed)
				}
				disturbed[job], for_[by] = true, true
				delete(begun, by)
			}
			h.apply(command(a, h.now))
		}
		if stopped := h.stop(); stopped || len(d.Actions) > 0 {
			continue
		}
		if d.Next.IsZero() || d.Next.Sub(h.now) > 20*time.Second {
			h.checkIdle(d)
			break
		}
		if quiet := h.onlyLeases(in, d); quiet {
			h.checkIdle(d)
			break
		}
		h.now = d.Next
	}
	for name := range for_ {
		if !begun[name] {
			h.t.Fatalf("jobs made way for %s, and it has not begun: %v", name, h.state.View().Jobs[name])
		}
	}
	for name, place := range h.standing() {
		if was, ok := places[name]; ok && was != place {
			h.t.Fatalf("job %s was %s in the queue's order, and is %s", name, was, place)
		}
	}
}

// onlyLeases says whether nothing but leases that will run out is waited for.
func (h *house) onlyLeases(in Input, d Decision) bool {
	return d.Next.Equal(h.now.Add(in.Rules.Lease))
}

// standing is, by job, by what it has its place in the order.
func (h *house) standing() map[string]string {
	out := map[string]string{}
	for name, j := range h.state.View().Jobs {
		out[name] = fmt.Sprint(j.Priority, j.SubmittedUnixNs)
	}
	return out
}

// checkQuota wants a job to have no more workers than it may have, and no more cells on one than if it had as many as
// it must have: 4 cells on 3 workers are no faster than on 2, and stay where they were.
func (h *house) checkQuota(j *commandpb.JobRecord, a Assign) {
	on, most := map[string]uint32{}, uint32(0)
	for _, p := range a.Placement {
		on[p.Worker]++
		most = max(most, on[p.Worker])
	}
	n, cells := uint32(len(on)), uint32(j.Submitted.Replicas*j.Submitted.Columns)
	if least := max(j.MinWorkers, 1); j.MaxWorkers > 0 && n > j.MaxWorkers || most > (cells+least-1)/least {
		h.t.Fatalf("job %s of %d cells, on %d workers at least and %d at most, is on %d", j.Submitted.Job, cells,
			j.MinWorkers, j.MaxWorkers, n)
	}
}

// checkIdle looks at a cluster in which nothing more is decided: the first job in the queue that could ever begin
// cannot begin now, with what is free and what jobs of a lower priority have; and every job that waits says why.
func (h *house) checkIdle(d Decision) {
	v := h.state.View()
	holds := map[string]*commandpb.JobRecord{}
	for _, j := range h.in(fsm.Running) {
		for _, p := range j.Placement {
			if other := holds[p.Worker]; other != nil && other != j {
				h.t.Fatalf("jobs %s and %s both have worker %s", other.Submitted.Job, j.Submitted.Job, p.Worker)
			}
			holds[p.Worker] = j
		}
	}
	first := true
	waiting := h.in(fsm.Queued, fsm.Recovering)
	for i, j := range Queue(v) {
		if j != waiting[i] {
			h.t.Fatalf("place %d in the queue is %s's, want %s", i+1, j.Submitted.Job, waiting[i].Submitted.Job)
		}
	}
	for _, j := range waiting {
		if d.Reasons[j.Submitted.Job] == "" {
			h.t.Fatalf("job %s waits for no reason", j.Submitted.Job)
		}
		able, could := map[string]int{}, map[string]int{}
		for id, w := range v.Workers {
			n := w.Registered.Device.Numerics
			if w.Lost || w.Draining || j.Numerics != "" && n != j.Numerics {
				continue
			}
			able[n]++
			if other := holds[id]; other == nil || other.Priority < j.Priority {
				could[n]++
			}
		}
		least := max(int(j.MinWorkers), 1)
		most := func(m map[string]int) int { return slices.Max(append(slices.Collect(maps.Values(m)), 0)) }
		h.seen["waits"]++
		if most(able) < least {
			h.seen["too large"]++
			continue
		}
		if first && most(could) >= least {
			h.t.Fatalf("job %s waits (%s), and could begin on %d workers, of which it needs %d", j.Submitted.Job,
				d.Reasons[j.Submitted.Job], most(could), least)
		}
		first = false
	}
}

// TestQueueComesTrue lives through submissions, ends, changes of priorities and quotas, and workers that come and go.
func TestQueueComesTrue(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		h := newHouse(t, seen, rapid.IntRange(1, 6).Draw(t, "workers"), "n0", "n0", "n0", "n1")
		for range rapid.IntRange(1, 12).Draw(t, "events") {
			h.now = h.now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "later")) * time.Second)
			h.event()
			h.rest()
		}
	})
	for _, what := range []string{"preempt", "shrink", "waits", "too large"} {
		if seen[what] == 0 {
			t.Errorf("no run has shown %q: events are drawn badly", what)
		}
	}
	t.Log(seen)
}

// event has something happen.
func (h *house) event() {
	t := h.t
	running := h.in(fsm.Running)
	all := h.in(fsm.Queued, fsm.Recovering, fsm.Running)
	switch what := rapid.IntRange(0, 9).Draw(t, "event"); {
	case what < 5 || len(all) == 0:
		h.submit(rapid.Int32Range(-1, 2).Draw(t, "priority"))
	case what == 5 && len(running) > 0:
		h.finish(rapid.SampledFrom(running).Draw(t, "ends"))
	case what == 6:
		h.join(fmt.Sprintf("w%d", rapid.IntRange(0, 7).Draw(t, "worker")), "n0")
	case what == 7 && len(running) > 0:
		p := rapid.SampledFrom(rapid.SampledFrom(running).Draw(t, "of").Placement).Draw(t, "loses")
		h.apply(&commandpb.Command{Kind: &commandpb.Command_LoseWorker{LoseWorker: &commandpb.LoseWorker{Worker: p.Worker,
			Reason: "killed"}}})
	case what == 8 && len(running) > 0: // a checkpoint at once
		j := rapid.SampledFrom(running).Draw(t, "moves")
		h.apply(&commandpb.Command{Kind: &commandpb.Command_MoveJob{MoveJob: &commandpb.MoveJob{Job: j.Submitted.Job,
			Generation: j.Generation, Reason: "an operator asked for a checkpoint"}}})
	default:
		j := rapid.SampledFrom(all).Draw(t, "changes")
		least, most := drawQuota(t, j.Submitted.Columns)
		h.apply(&commandpb.Command{Kind: &commandpb.Command_SetQueue{SetQueue: &commandpb.SetQueue{Job: j.Submitted.Job,
			Priority: rapid.Int32Range(-1, 2).Draw(t, "priority"), MinWorkers: least, MaxWorkers: most}}})
	}
}

// TestNobodyStarves has jobs of one priority come for as long as one of them waits: it begins when those before it have
// had their turn, however many come behind it, and however small those are.
func TestNobodyStarves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		workers := rapid.IntRange(1, 4).Draw(t, "workers")
		h := newHouse(t, map[string]int{}, workers, "n0")
		for range rapid.IntRange(1, 6).Draw(t, "before") {
			h.submit(0)
			h.rest()
		}
		j := h.in(fsm.Queued, fsm.Running)
		last := j[len(j)-1].Submitted.Job
		if int(j[len(j)-1].MinWorkers) > workers {
			return // it waits until more join
		}
		for turns := (len(j) + 1) * (workers + 1); ; turns-- {
			if h.state.View().Jobs[last].State != fsm.Queued {
				return
			}
			if turns == 0 {
				t.Fatalf("job %s still waits: %v", last, h.state.View().Jobs[last])
			}
			h.submit(0)
			h.rest()
			if running := h.in(fsm.Running); len(running) > 0 {
				h.finish(rapid.SampledFrom(running).Draw(t, "ends"))
			}
			h.rest()
		}
	})
}

// TestQueueDecisions has worlds drawn as a leader may find them, with priorities, quotas and jobs that make way: what
// is decided is the same each time, stays until Next, and is accepted by the state.
func TestQueueDecisions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, now := drawWorld(t)
		for _, name := range slices.Sorted(maps.Keys(w.View.Jobs)) {
			j := w.View.Jobs[name]
			j.Priority = rapid.Int32Range(-1, 2).Draw(t, "priority")
			j.MinWorkers, j.MaxWorkers = drawQuota(t, j.Submitted.Replicas*j.Submitted.Columns)
			j.Requeuing = j.State == fsm.Stopping && !j.Moving && rapid.Bool().Draw(t, "requeued")
		}
		before := encode(t, w.View)
		d := Decide(now, w.input())
		if again := Decide(now, w.input()); render(d) != render(again) || d.Next != again.Next {
			t.Fatalf("decided twice:\n%s\n%s", render(d), render(again))
		}
		if string(encode(t, w.View)) != string(before) {
			t.Fatal("deciding has changed the input")
		}
		if checkLost(t, w.input(), now, d) == 0 {
			for name, j := range w.View.Jobs {
				if fsm.Waits(j) && (d.Reasons[name] == "") == !slices.ContainsFunc(d.Actions, func(a Action) bool {
					x, ok := a.(Assign)
					return ok && x.Job == name
				}) {
					t.Fatalf("job %s begins or says why not: %s", name, render(d))
				}
			}
		}
		checkNext(t, w.input(), now, d)
		holds(t, w, now)
	})
}
