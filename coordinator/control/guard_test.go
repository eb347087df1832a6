package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

// vetoOf is a worker's report of a vetoed step.
func vetoOf(step uint64, skip bool) *clusterpb.CellFailed {
	return &clusterpb.CellFailed{Cell: &clusterpb.Cell{}, Step: step - 1, Reason: "cell r0c0: a spike", Permanent: true,
		Veto: &clusterpb.Veto{Cell: &clusterpb.Cell{Column: 1}, Step: step, Cause: fsm.Spike, Loss: 90, Limit: 7,
			Reason: "loss 90 is a spike", Skip: skip}}
}

// A vetoed step pauses the job with its cause; an operator's decision reaches the workers with the next generation.
func TestVetoPausesUntilAnOperatorDecides(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		a.report(1, 1, vetoOf(7, false))
		b.report(1, 1, vetoOf(7, false))
		j := r.job()
		if j.State != fsm.Paused || j.Reason != "loss 90 is a spike" || len(j.Vetoes) != 1 || j.Vetoes[0].Step != 7 ||
			j.Vetoes[0].Cell.Column != 1 || j.Vetoes[0].Outcome != fsm.VetoPaused || j.Vetoes[0].Loss != 90 {
			t.Fatalf("job %v", j)
		}
		r.beat(time.Second, a, b)
		a.pending()
		b.pending()
		if err := r.Resume(r.ctx, &commandpb.ResumeJob{Job: "j", SkipBatch: true}); err != nil {
			t.Fatal(err)
		}
		for _, w := range []worker{a, b} {
			if m := w.next().GetAssign(); m.GetGeneration() != 2 || !slices.Equal(m.Skipped, []uint64{7}) ||
				len(m.Accepted) > 0 {
				t.Errorf("worker %s is told %v", w.worker, m)
			}
		}
		if err := r.Resume(r.ctx, &commandpb.ResumeJob{Job: "j"}); err == nil || !strings.Contains(err.Error(), "running") {
			t.Errorf("resumed while it runs: %v", err)
		}
	})
}

// A vetoed step of a job that skips has the next generation do without its batch, whoever reports it first.
func TestVetoSkips(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		b.report(1, 1, &clusterpb.CellFailed{Cell: &clusterpb.Cell{Column: 1}, Reason: "peer lost"})
		a.report(1, 1, vetoOf(7, true))
		r.beat(4*time.Second, a, b)
		j := r.job()
		if len(j.Vetoes) != 1 || j.Vetoes[0].Outcome != fsm.VetoSkipped {
			// The generation after the broken link may have begun before: it comes to the same veto.
			a.report(2, j.Generation, vetoOf(7, true))
			r.beat(4*time.Second, a, b)
			j = r.job()
		}
		if j.State != fsm.Running || len(j.Vetoes) != 1 || j.Vetoes[0].Outcome != fsm.VetoSkipped {
			t.Fatalf("job %v", j)
		}
		all := b.pending()
		last := all[len(all)-1].GetAssign()
		if last.GetGeneration() != j.Generation || !slices.Equal(last.GetSkipped(), []uint64{7}) {
			t.Errorf("worker b is told %v", all)
		}
	})
}

// Status says where copies of cells' states go.
func TestBuddiesAreShown(t *testing.T) {
	inBubble(t, func(r *rig) {
		var all []worker
		for _, id := range []string{"a", "b"} {
			reg := registration(id)
			reg.Memory, reg.Machine = true, "machine-"+id
			all = append(all, r.attach(reg))
		}
		r.submit()
		r.beat(time.Second, all...)
		for id, want := range map[string]string{"a": "b", "b": "a"} {
			if got := r.Worker(id).Buddies; !slices.Equal(got, []string{want}) {
				t.Errorf("copies of the cells on %s go to %v, want %s", id, got, want)
			}
		}
		if err := r.Stop(r.ctx, "j", true, ""); err != nil {
			t.Fatal(err)
		}
		if got := r.Worker("a").Buddies; len(got) > 0 {
			t.Errorf("copies of a job that is stopped go to %v", got)
		}
	})
}
