package control

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
	"colonnade/shard/job"
)

// TestAJobWithoutWinograd waits for workers that can, runs under their numerics for it, and shows them.
func TestAJobWithoutWinograd(t *testing.T) {
	inBubble(t, func(r *rig) {
		able := func(id string) *clusterpb.Register {
			reg := registration(id)
			reg.Device.DirectNumerics, reg.Device.Threads = "n/direct", 3
			return reg
		}
		old := r.attach(registration("a-old")) // first by id
		if _, err := r.Submit(r.ctx, spec(t, "j", "winograd: off"), false, ""); err != nil {
			t.Fatal(err)
		}
		r.beat(5*time.Second, old)
		old.quiet()
		if j := r.job(); j.State != fsm.Queued || j.Numerics != "" || !strings.Contains(j.Reason,
			"(winograd: off): 1 worker cannot") {
			t.Errorf("job %v", j)
		}
		a := r.attach(able("a"))
		s, err := r.Attach(r.ctx, able("b")) // the last of two: it is welcomed and assigned at once
		if err != nil {
			t.Fatal(err)
		}
		b := worker{s, r}
		for _, w := range []worker{a, b} {
			all := w.pending()
			m := all[len(all)-1].GetAssign()
			if len(m.GetCells()) != 1 {
				t.Fatalf("worker %s is assigned %v", w.worker, m)
			}
			if j, err := job.Decode(m.Spec); err != nil || !j.Direct() {
				t.Errorf("worker %s is to run %v: %v", w.worker, j, err)
			}
		}
		old.quiet()
		if j := r.job(); j.State != fsm.Running || j.Numerics != "n/direct" {
			t.Errorf("job %v", j)
		}
		one, other := written(0, 10), written(1, 10)
		one.Numerics, other.Numerics = "n/direct", "n/direct"
		a.report(1, 1, one)
		b.report(1, 1, other)
		if c, err := r.Checkpoints(r.ctx, "j"); err != nil || len(c.Checkpoints) != 1 ||
			c.Checkpoints[0].Numerics != "n/direct" {
			t.Errorf("checkpoints %v: %v", c, err)
		}
		var status clusterpb.StatusReply
		r.Status(r.ctx, &status, true)
		first := status.Workers[0]
		if first.Id != "a" || first.Device.DirectNumerics != "n/direct" || first.Device.Threads != 3 {
			t.Errorf("worker %v", first)
		}

		// It goes on under them too.
		b.Detach()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		again := able("b")
		again.Incarnation = "second"
		again.Device.DirectNumerics = "n/newer/direct"
		b = r.attach(again)
		r.beat(10*time.Second, a, b, old)
		b.quiet()
		if j := r.job(); j.State != fsm.Running || j.Generation != 2 || j.Numerics != "n/direct" ||
			j.Placement[0].Worker != "a" || j.Placement[1].Worker != "a" {
			t.Errorf("job %v", j)
		}
	})
}
