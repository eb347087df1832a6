package whole

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"colonnade/coordinator/rpc"
	"colonnade/proto/clusterpb"
	"colonnade/shard/score"
)

// testedImages are five parts.
const testedImages = 2300

// partSum is what some images come to: figures that add up otherwise in another order.
func partSum(first, images uint64) *clusterpb.EvaluationSum {
	x := float64(first + 3)
	s := &clusterpb.EvaluationSum{Images: images, Loss: math.Exp(20-float64(first)/50) / 3, Top1Errors: 1 / x,
		Top5Errors: 1 / (7 * x)}
	s.Classes = []*clusterpb.ClassSum{{Label: 3, Images: images, Loss: s.Loss, Top1Errors: 1 / x, Top5Errors: 1 / (7 * x)}}
	s.Confused = []*clusterpb.ConfusedSum{{Label: 3, TakenFor: uint32(first / 512), Images: images}}
	return s
}

// wantedDigest is that of all parts, added in order.
func wantedDigest() string {
	t := score.NewTally(8)
	for first := uint64(0); first < testedImages; first += 512 {
		s := partSum(first, min(512, testedImages-first))
		part := score.NewTally(8)
		part.Score = score.Score{Images: s.Images, Loss: s.Loss, Top1: s.Top1Errors, Top5: s.Top5Errors}
		part.ByClass[3] = part.Score
		if err := part.Set(score.Confused{Label: 3, As: int(first / 512), Images: s.Images}); err != nil {
			panic(err)
		}
		if err := t.Merge(part); err != nil {
			panic(err)
		}
	}
	return fmt.Sprintf("%x", t.Digest())
}

// work has a worker get on with its part of an evaluation, which takes half a second. w.mu is held.
func (w *trainer) work() *clusterpb.Report {
	a := w.part
	if a == nil {
		return nil
	}
	if w.ticks++; w.ticks < 10 {
		return nil
	}
	w.part = nil
	return &clusterpb.Report{Job: a.Job, Generation: a.Generation, Kind: &clusterpb.Report_Part{
		Part: &clusterpb.PartEvaluated{Evaluation: a.Part.Evaluation, Sum: partSum(a.Part.First, a.Part.Images)}}}
}

// Part implements session.Handler.
func (w *trainer) Part() *clusterpb.PartStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.part == nil {
		return nil
	}
	return &clusterpb.PartStatus{Evaluation: w.part.Part.Evaluation, Generation: w.part.Generation, Phase: "test",
		Passes: uint64(w.ticks), Computing: true}
}

// test asks for one evaluation of a job after another, beside its training, and wants each to come to what its parts
// come to, however leaders change meanwhile. The function it returns ends that, and says how many there were.
func (c *whole) test(ctx context.Context, job string) func() int {
	client, err := rpc.NewClient(coordinators(), c.dialler("10.0.3.1:1"))
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	done, want := 0, wantedDigest()
	var tasks sync.WaitGroup
	tasks.Go(func() {
		operator := clusterpb.NewOperatorClient(client)
		for n := 0; ctx.Err() == nil; n++ {
			if digest := c.testOnce(ctx, operator, job, fmt.Sprintf("test-%d", n)); digest == want {
				done++
			} else if ctx.Err() == nil {
				c.t.Errorf("evaluation %d came to %s, want %s", n, digest, want)
			}
		}
	})
	return func() int { cancel(); tasks.Wait(); client.Close(); return done }
}

// testOnce asks for an evaluation and returns its digest.
func (c *whole) testOnce(ctx context.Context, operator clusterpb.OperatorClient, job, request string) string {
	e, err := operator.Evaluate(ctx, &clusterpb.EvaluateRequest{Busy: true, Request: request,
		Models: []*clusterpb.EvaluateModel{{Job: job}}, Pack: &clusterpb.EvaluationPack{Path: "/e.pack", Id: "cd",
			Images: testedImages, Channels: 1, Height: 12, Width: 12, Classes: 8}})
	if err != nil {
		if ctx.Err() == nil {
			c.t.Errorf("evaluate: %v", err)
		}
		return ""
	}
	for range 600 { // a minute of virtual time
		all, err := operator.EvaluateList(ctx, &clusterpb.EvaluateListRequest{Job: job})
		if err != nil {
			return ""
		}
		for _, r := range all.Evaluations {
			if r.Id == e.Id && r.State != "running" {
				return fmt.Sprintf("%x", r.Digest)
			}
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return "nothing within a minute"
}
