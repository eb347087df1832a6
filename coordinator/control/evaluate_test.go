package control

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
)

// testPack has two parts, 512 and 100 images.
func testPack() *clusterpb.EvaluationPack {
	return &clusterpb.EvaluationPack{Path: "/test.pack", Id: "cd", Images: 612, Channels: 1, Height: 12, Width: 12,
		Classes: 8}
}

// tested is a job that runs on two workers and has a checkpoint of step 10.
func (r *rig) tested() {
	r.t.Helper()
	a, b := r.running()
	a.report(1, 1, written(0, 10))
	b.report(1, 1, written(1, 10))
}

// taker is a worker that takes parts of evaluations, and has no cells.
func (r *rig) taker(id string, running ...*clusterpb.Running) worker {
	r.t.Helper()
	reg := registration(id)
	reg.Evaluates, reg.Running = true, running
	return r.attach(reg)
}

// evaluate asks for job j to be tested.
func (r *rig) evaluate(change func(*clusterpb.EvaluateRequest)) (*clusterpb.EvaluationStatus, error) {
	q := &clusterpb.EvaluateRequest{Models: []*clusterpb.EvaluateModel{{Job: "j"}}, Pack: testPack(), Request: "q"}
	if change != nil {
		change(q)
	}
	return r.Evaluate(r.ctx, q)
}

// part is the part that a worker is told to compute.
func (w worker) part() *clusterpb.Assign {
	w.r.t.Helper()
	a := w.next().GetAssign()
	if a.GetPart() == nil {
		w.r.t.Fatalf("worker %s is sent %v, want a part", w.worker, a)
	}
	return a
}

// given is the part among the messages that wait.
func (w worker) given() *clusterpb.Assign {
	w.r.t.Helper()
	for _, m := range w.pending() {
		if m.GetAssign().GetPart() != nil {
			return m.GetAssign()
		}
	}
	w.r.t.Fatalf("worker %s is given no part", w.worker)
	return nil
}

// evaluated reports a part's end.
func (w worker) evaluated(sequence uint64, a *clusterpb.Assign) {
	w.r.t.Helper()
	n := a.Part.Images
	err := w.Report(w.r.ctx, &clusterpb.Report{Sequence: sequence, Job: a.Job, Generation: a.Generation,
		Kind: &clusterpb.Report_Part{Part: &clusterpb.PartEvaluated{Evaluation: a.Part.Evaluation,
			Sum: &clusterpb.EvaluationSum{Images: n, Loss: 2.5, Top1Errors: 3, Top5Errors: 1,
				Classes:  []*clusterpb.ClassSum{{Label: 7, Images: n, Loss: 2.5, Top1Errors: 3, Top5Errors: 1}},
				Confused: []*clusterpb.ConfusedSum{{Label: 7, TakenFor: 1, Images: 3}, {Label: 7, TakenFor: 7, Images: n - 3}}}}}})
	if err != nil {
		w.r.t.Fatal(err)
	}
}

// at says that a worker works on a part.
func (w worker) at(a *clusterpb.Assign, passes uint64) {
	w.Heartbeat(&clusterpb.Heartbeat{Part: &clusterpb.PartStatus{Evaluation: a.Part.Evaluation, Generation: a.Generation,
		Phase: "test", Passes: passes, Computing: true}})
}

// TestPartsAreAssigned follows an evaluation from the request to its figures.
func TestPartsAreAssigned(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.tested()
		c := r.taker("c")
		e, err := r.evaluate(nil)
		if err != nil || e.Parts != 2 || e.Models[0].Step != 10 || e.State != fsm.Running {
			t.Fatalf("%v, %v", e, err)
		}
		again, err := r.evaluate(nil) // its answer was lost
		if err != nil || again.Id != e.Id {
			t.Errorf("asked again: %v, %v", again, err)
		}
		first := c.part()
		p := first.Part
		if first.Job != fmt.Sprintf("evaluation/%d", e.Id) || p.First != 0 || p.Images != 512 || p.Views != 1 ||
			p.Batch != 64 || len(p.Models) != 1 || len(p.Models[0].Checkpoint.Files) != 2 ||
			p.Models[0].Checkpoint.Files[0].Address != "a:1" ||
			len(first.Peers) != 3 {
			t.Errorf("assigned %v", first)
		}
		c.at(first, 256)
		if e, err = r.Evaluation(r.ctx, e.Id); err != nil || e.Passes != 256 || e.AllPasses != 612 || len(e.Places) != 1 ||
			e.Places[0].WorkerName != "name-c" || e.Places[0].Phase != "test" {
			t.Errorf("half of the first part: %v, %v", e, err)
		}
		c.evaluated(1, first)
		second := c.given()
		if second.GetPart().GetFirst() != 512 || second.Part.Images != 100 || second.Generation <= first.Generation {
			t.Fatalf("then assigned %v", second)
		}
		c.evaluated(2, second)
		e, err = r.Evaluation(r.ctx, e.Id)
		if err != nil || e.State != fsm.Done || e.Done != 2 || e.Sum.Images != 612 || e.Sum.Loss != 5 ||
			len(e.Digest) != 32 ||
			e.Sum.Confused[0].Images != 6 || e.Passes != e.AllPasses {
			t.Errorf("came to %v, %v", e, err)
		}
		all, err := r.Evaluations(r.ctx, "j")
		if err != nil || len(all) != 1 || all[0].Sum.Images != 612 || len(all[0].Sum.Classes) != 0 {
			t.Errorf("the list: %v, %v", all, err)
		}
	})
}

// TestPartsOutliveSessions: a worker that reconnects, to this leader or to the next, is left alone at its part; one
// that comes back as another process is given it anew; one that gets no further loses it.
func TestPartsOutliveSessions(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.tested()
		c := r.taker("c")
		if _, err := r.evaluate(nil); err != nil {
			t.Fatal(err)
		}
		first := c.part()
		now := &clusterpb.Running{Job: first.Job, Generation: first.Generation}
		c.Detach()
		c = r.taker("c", now)
		c.quiet()
		r.node.leadership <- false
		synctest.Wait()
		r.node.leadership <- true
		synctest.Wait()
		c = r.taker("c", now)
		c.quiet()
		var owners []worker // of the checkpoint's files
		for _, id := range []string{"a", "b"} {
			reg := registration(id)
			reg.Running = []*clusterpb.Running{{Job: "j", Generation: 1}}
			owners = append(owners, r.attach(reg))
		}
		c.Detach()
		fresh := registration("c")
		fresh.Evaluates, fresh.Incarnation = true, "second"
		c = r.attach2(fresh)
		again := c.given()
		if again.Part.First != 0 || again.Generation <= first.Generation {
			t.Fatalf("as another process it is assigned %v", again)
		}
		other := registration("d")
		other.Evaluates = true
		d := r.attach2(other)
		d.evaluated(1, d.given())
		d.pending()
		for i := range uint64(130) { // of half a second; d is idle, c says the same all the time
			time.Sleep(500 * time.Millisecond)
			c.at(again, 64)
			for _, w := range append(owners, d) {
				w.Heartbeat(&clusterpb.Heartbeat{})
			}
			if i == 100 {
				d.quiet()
			}
		}
		taken := d.part()
		if taken.Part.First != 0 || c.next().GetRevoke().GetGeneration() != again.Generation {
			t.Errorf("assigned %v", taken)
		}
	})
}

func TestEvaluateRefuses(t *testing.T) {
	inBubble(t, func(r *rig) {
		if _, err := r.evaluate(nil); !errors.Is(err, fsm.ErrNoJob) {
			t.Errorf("before there is a job: %v", err)
		}
		r.submit()
		if _, err := r.evaluate(nil); !errors.Is(err, fsm.ErrNoCheckpoint) {
			t.Errorf("before there is a checkpoint: %v", err)
		}
	})
	inBubble(t, func(r *rig) {
		r.tested()
		for want, change := range map[string]func(*clusterpb.EvaluateRequest){
			"there is no job x; see: coordinator job list": func(q *clusterpb.EvaluateRequest) { q.Models[0].Job = "x" },
			"names no job":                                   func(q *clusterpb.EvaluateRequest) { q.Models = nil },
			"coordinator checkpoint list j":                  func(q *clusterpb.EvaluateRequest) { q.Models[0].HasStep = true },
			"has no test pack":                               func(q *clusterpb.EvaluateRequest) { q.Pack = nil },
			"was trained on 1x12x12; pack them the same way": func(q *clusterpb.EvaluateRequest) { q.Pack.Height = 13 },
			"pack it with the same classes":                  func(q *clusterpb.EvaluateRequest) { q.Pack.Classes = 99 },
			"use 1 or 10 views":                              func(q *clusterpb.EvaluateRequest) { q.Views = 3 },
			"no images":                                      func(q *clusterpb.EvaluateRequest) { q.Pack.Images = 0 },
		} {
			if e, err := r.evaluate(change); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, %v; want %q", e, err, want)
			}
		}
		if all, err := r.Evaluations(r.ctx, ""); err != nil || len(all) != 0 {
			t.Errorf("what was refused is kept: %v, %v", all, err)
		}
	})
}
