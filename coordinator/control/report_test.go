package control

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

func TestReportsAreWrittenOnceAndInOrder(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		a.report(1, 1, &clusterpb.CheckpointFailed{Cell: &clusterpb.Cell{}, Step: 10, Reason: "disk\nfull"})
		a.report(2, 1, &clusterpb.Evaluation{Step: 10, Images: 4, Top1Errors: 1})
		a.report(1, 1, &clusterpb.CheckpointFailed{Cell: &clusterpb.Cell{}, Step: 10, Reason: "disk\nfull"})
		a.Detach()
		again := registration("a")
		again.Running = []*clusterpb.Running{{Job: "j", Generation: 1}}
		a = r.attach(again)
		a.report(1, 1, &clusterpb.CheckpointFailed{Cell: &clusterpb.Cell{}, Step: 10, Reason: "disk\nfull"})
		events := 0
		_, all, err := r.Follow(r.ctx, "j", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			if e.Kind == "checkpoint-failed" {
				events++
				if !strings.Contains(e.Text, "disk; full") {
					t.Errorf("event %q", e.Text)
				}
			}
		}
		if events != 1 || len(r.job().Evaluations) != 1 {
			t.Errorf("%d events, evaluations %v", events, r.job().Evaluations)
		}
		// The same numbers from another process are other reports, and so are another worker's.
		restarted := registration("a")
		restarted.Incarnation = "second"
		a = r.attach2(restarted)
		r.beat(3*time.Second, a, b)
		a.pending()
		b.pending()
		a.report(1, 2, written(0, 20))
		b.report(1, 2, written(1, 20))
		if s := r.job().CommittedStep; s != 20 {
			t.Errorf("committed step %d", s)
		}
	})
}

// TestFollowIsOfOneMoment: what events tell has happened to the job that comes with them, whatever happens meanwhile.
func TestFollowIsOfOneMoment(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.running()
		step := atomic.Uint64{}
		r.node.mu.Lock()
		r.node.looked = func() *commandpb.Command { // an evaluation comes between any two looks at the state
			if step.Add(1) > 30 {
				return nil
			}
			return &commandpb.Command{Kind: &commandpb.Command_RecordEvaluation{RecordEvaluation: &commandpb.RecordEvaluation{
				Job: "j", Generation: 1, Step: step.Load(), Images: 4, Top1Errors: 1}}}
		}
		r.node.mu.Unlock()
		for range 5 {
			j, events, err := r.Follow(r.ctx, "j", 0)
			if err != nil {
				t.Fatal(err)
			}
			told := 0
			for _, e := range events {
				if e.Kind == "evaluation" {
					told++
				}
			}
			if told != len(j.Evaluations) {
				t.Errorf("events tell of %d evaluations, the job has %d", told, len(j.Evaluations))
			}
		}
	})
}

// What the state refuses is acknowledged, since sending it again would change nothing, and changes nothing.
func TestStaleReportsAreRefused(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		a.report(1, 1, &clusterpb.CellFailed{Reason: "lost peer"})
		b.report(1, 1, &clusterpb.CellFailed{Reason: "lost peer"}) // of the generation that has ended
		r.beat(3*time.Second, a, b)
		a.pending()
		b.pending()
		if g := r.job().Generation; g != 2 {
			t.Fatalf("generation %d", g)
		}
		sequence := uint64(1)
		for _, kind := range []any{written(0, 10), &clusterpb.CellFinished{Cell: &clusterpb.Cell{}, Step: jobSteps},
			&clusterpb.CellStopped{Cell: &clusterpb.Cell{}}, &clusterpb.CellFailed{Reason: "x", Permanent: true},
			&clusterpb.CellFailed{Reason: "x"}, &clusterpb.Evaluation{Step: 10}, &clusterpb.CheckpointBad{Step: 10,
				Cell: &clusterpb.Cell{}},
			nil, &clusterpb.CellStopped{}, &clusterpb.CellFinished{}, &clusterpb.CheckpointWritten{},
			&clusterpb.CheckpointBad{}} {
			sequence++
			a.report(sequence, 1, kind)
		}
		r.beat(time.Second, a, b)
		if j := r.job(); j.State != fsm.Running || j.Generation != 2 || len(j.Evaluations) > 0 || j.CommittedStep > 0 {
			t.Errorf("stale reports leave the job %v", j)
		}
		// A report without its cell must not be taken for one of cell (0, 0).
		a.report(sequence+1, 2, &clusterpb.CellStopped{})
		view, _ := r.node.View()
		if n := len(view.Jobs["j"].Stopped); n > 0 {
			t.Error("a report without a cell counts")
		}
	})
}

func TestReportThatIsNotWrittenIsNotAcknowledged(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, _ := r.running()
		broken := errors.New("no quorum")
		r.node.hook(func(*commandpb.Command) error { return broken }, nil)
		if err := a.Report(r.ctx, report(1, 1, written(0, 10))); !errors.Is(err, broken) {
			t.Errorf("report gives %v", err)
		}
		a.quiet()
		r.node.hook(nil, nil)
		a.report(1, 1, written(0, 10))
		if n := count[*commandpb.Command_CheckpointWritten](r.node); n != 1 {
			t.Errorf("written %d times", n)
		}
	})
}

func TestRetentionTellsEveryWorker(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		for i := range uint64(4) {
			a.report(i+1, 1, written(0, 10*(i+1)))
			rest := b.report(i+1, 1, written(1, 10*(i+1)))
			for _, w := range [][]*clusterpb.CoordinatorMessage{a.pending(), rest} {
				var dropped []uint64
				for _, m := range w {
					for _, d := range m.GetAck().GetDropped() {
						dropped = append(dropped, d.Step)
					}
				}
				var want []uint64
				if i >= 2 { // the job keeps two
					want = []uint64{10 * (i - 1)}
				}
				if !slices.Equal(dropped, want) {
					t.Errorf("after checkpoint %d steps %v are dropped, want %v", i+1, dropped, want)
				}
			}
		}
		reply, err := r.Checkpoints(r.ctx, "j")
		if err != nil || len(reply.Checkpoints) != 2 || !slices.Equal(reply.Directories, []string{"/a", "/b"}) {
			t.Errorf("checkpoints %v: %v", reply, err)
		}
	})
}

// A reason is one line wherever it is shown.
func TestBadCheckpointIsToldInOneLine(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		a.report(1, 1, written(0, 10))
		b.report(1, 1, written(1, 10))
		a.report(2, 1, &clusterpb.CheckpointBad{Step: 10, Cell: &clusterpb.Cell{}, Reason: "chunk 3\r\nis damaged"})
		reply, err := r.Checkpoints(r.ctx, "j")
		if err != nil || len(reply.Checkpoints) != 1 || reply.Checkpoints[0].Bad != "chunk 3; is damaged" {
			t.Errorf("checkpoints %v: %v", reply, err)
		}
	})
}

// An assignment names the checkpoint to restore first and the kept ones behind it.
func TestAssignmentNamesCheckpoints(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		for i := range uint64(3) {
			a.report(i+1, 1, written(0, 10*(i+1)))
			b.report(i+1, 1, written(1, 10*(i+1)))
		}
		a.pending()
		b.pending()
		var steps []uint64
		for _, m := range a.report(4, 1, &clusterpb.CellFailed{Reason: "x"}) {
			for _, c := range m.GetAssign().GetRestore() {
				steps = append(steps, c.Step)
			}
		}
		if !slices.Equal(steps, []uint64{30, 20}) {
			t.Errorf("restore %v", steps)
		}
	})
}
