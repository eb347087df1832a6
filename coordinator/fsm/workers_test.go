package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"colonnade/proto/commandpb"
)

func drain(worker string, undo bool) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_DrainWorker{DrainWorker: &commandpb.DrainWorker{Worker: worker,
		Undo: undo}}}
}

func moves(job string, generation uint64) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_MoveJob{MoveJob: &commandpb.MoveJob{Job: job,
		Generation: generation, Reason: "w1 is drained"}}}
}

// working is a registration of a process that still runs something.
func working(worker, incarnation string) *commandpb.Command {
	return with(register(worker, incarnation), (*commandpb.Command).GetRegisterWorker,
		func(r *commandpb.RegisterWorker) { r.Working = true })
}

// A worker that hangs is one until it has ended what it works on, or is another process.
func TestHungUntilItHasEnded(t *testing.T) {
	hung := with(lose("w1", "stuck"), (*commandpb.Command).GetLoseWorker, func(l *commandpb.LoseWorker) { l.Hung = true })
	l := newLog(t, after(running(), hung)...)
	if w := l.View().Workers["w1"]; !w.Lost || !w.Hung || l.View().Jobs["j"].State != Recovering {
		t.Fatalf("given up: %v, the job is %s", w, l.View().Jobs["j"].State)
	}
	for _, step := range []struct {
		c    *commandpb.Command
		hung bool
	}{{working("w1", "a"), true}, {register("w1", "a"), false}, {hung, true}, {working("w1", "b"), false}} {
		l.must(t, step.c)
		if w := l.View().Workers["w1"]; w.Hung != step.hung {
			t.Errorf("after %v it hangs: %v", step.c, w.Hung)
		}
	}
}

// Being drained outlives the loss of a worker and its process; asking again changes nothing.
func TestDrainedStaysDrained(t *testing.T) {
	l := newLog(t, begin()...)
	if err := l.apply(t, drain("w9", false)); !errors.Is(err, ErrNoWorker) ||
		!strings.Contains(err.Error(), "coordinator worker list") {
		t.Errorf("draining nobody: %v", err)
	}
	for _, c := range []*commandpb.Command{drain("w1", false), lose("w1", "silent"), register("w1", "b")} {
		l.must(t, c)
		if !l.View().Workers["w1"].Draining {
			t.Errorf("%v undoes it", c)
		}
	}
	before := l.bytes(t)
	l.must(t, drain("w1", false))
	if string(before) != string(l.bytes(t)) {
		t.Error("asking again has changed something")
	}
	l.must(t, drain("w1", true))
	if l.View().Workers["w1"].Draining {
		t.Error("it cannot be undone")
	}
}

func TestMove(t *testing.T) {
	stopAll := []*commandpb.Command{stopped("j", 1, 4, cell(0, 0)), stopped("j", 1, 4, cell(0, 1))}
	for name, tt := range map[string]struct {
		more   []*commandpb.Command
		state  string
		reason string
	}{
		"asked for":              {nil, Stopping, "w1 is drained"},
		"one cell has stopped":   {stopAll[:1], Stopping, "w1 is drained"},
		"all cells have stopped": {stopAll, Recovering, "stopped after step 4 to go on elsewhere: w1 is drained"},
		"a worker is lost": {[]*commandpb.Command{lose("w1", "silent")}, Recovering,
			"worker name-of-w1 is lost: silent"},
		"a cell has failed": {[]*commandpb.Command{release("j", 1, "broken")}, Recovering, "broken"},
		"an operator wants a stop": {after([]*commandpb.Command{stop("j", false)}, stopAll...), Stopped,
			"stopped after step 4"},
		"an operator stops it": {[]*commandpb.Command{stop("j", true)}, Stopped, "stopped by an operator"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLog(t, after(after(running(), moves("j", 1)), tt.more...)...)
			j := l.View().Jobs["j"]
			if j.State != tt.state || j.Reason != tt.reason || j.Moving != (tt.state == Stopping) || j.Failures > 0 && name !=
				"a cell has failed" {
				t.Errorf("the job is %s (%s), moving %v, failures %d", j.State, j.Reason, j.Moving, j.Failures)
			}
			if tt.state == Recovering && len(j.Placement) != 2 {
				t.Errorf("it is not known where its cells were: %v", j.Placement)
			}
		})
	}
	l := newLog(t, running()...)
	for _, c := range []*commandpb.Command{moves("j", 2), moves("k", 1)} {
		if err := l.apply(t, c); err == nil {
			t.Errorf("%v is accepted", c)
		}
	}
	l.must(t, moves("j", 1))
	if err := l.apply(t, moves("j", 1)); !errors.Is(err, ErrJobState) {
		t.Errorf("moving what moves: %v", err)
	}
}

// A worker that is forgotten is gone from the state, and one that comes back is a new one.
func TestForgotten(t *testing.T) {
	l := newLog(t, after(begin(), register("w7", "a"), drain("w7", false), lose("w7", "silent"))...)
	view := l.View()
	l.must(t, forgotten("w7"))
	now := l.View()
	if now.Workers["w7"] != nil || !slices.Equal(now.Roll, RollOf(now)) {
		t.Errorf("it is still there: %v", now.Workers["w7"])
	}
	if view.Workers["w7"] == nil || !slices.Equal(view.Roll, RollOf(view)) {
		t.Error("a view of before has lost it too")
	}
	if e := now.Events[len(now.Events)-1]; !strings.Contains(e.Text, "w7 is forgotten: silent") {
		t.Errorf("the event says %q", e.Text)
	}
	l.must(t, register("w7", "a"))
	if w := l.View().Workers["w7"]; w.Lost || w.Draining {
		t.Errorf("it is back as %v", w)
	}
	for _, job := range l.View().Jobs {
		if job.State == Recovering {
			t.Errorf("job %s recovers because of it", job.Submitted.Job)
		}
	}
}

// A generation's mark counts as long as nobody has written the checkpoint anew since, whatever runs now.
func TestMarksOfAGenerationBefore(t *testing.T) {
	l := newLog(t, after(committed(4), release("j", 1, "x"), assign("j", 2, 4, place(2, "w0", "w1")...))...)
	l.must(t, badSince("j", 4, 1))
	if Usable(l.View().Jobs["j"]) != nil {
		t.Error("the checkpoint is still good")
	}
}

// The roll says of a worker how many cells jobs have there, from when they are placed until they have stopped; of a
// worker too that a damaged state has cells of and does not know, when it comes.
func TestRollCountsCells(t *testing.T) {
	l := newLog(t, after(begin(), register("w9", "a"), submit("k", 1, 3, 10, 2))...)
	cells := func(want string) {
		t.Helper()
		v := l.View()
		got := ""
		for _, e := range v.Roll {
			got += fmt.Sprintf("%s:%d ", e.ID, e.Cells)
		}
		if got != want || !slices.Equal(v.Roll, RollOf(v)) {
			t.Errorf("the roll has %q, want %q; made anew it is %v", got, want, RollOf(v))
		}
	}
	before := l.View()
	l.must(t, assign("k", 1, -1, place(3, "w9", "w0", "w9")...))
	cells("w0:1 w1:0 w9:2 ")
	l.must(t, register("w9", "a"))
	cells("w0:1 w1:0 w9:2 ")
	l.must(t, lose("w0", "silent"))
	cells("w0:0 w1:0 w9:0 ")
	if !slices.Equal(before.Roll, RollOf(before)) {
		t.Errorf("a view of before has %v", before.Roll)
	}

	l.must(t, assign("k", 2, -1, place(3, "w9", "w1", "w9")...))
	damaged := l.View()
	damaged.Workers = maps.Clone(damaged.Workers)
	delete(damaged.Workers, "w9")
	state, err := Decode(bytes.NewReader(encode(t, damaged)))
	if err != nil {
		t.Fatal(err)
	}
	l.State = state
	cells("w0:0 w1:1 ")
	l.must(t, register("w9", "b"))
	cells("w0:0 w1:1 w9:2 ")
	l.must(t, release("k", 2, "because"))
	cells("w0:0 w1:0 w9:0 ")
}
