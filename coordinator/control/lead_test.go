package control

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

func TestFollowerEndsSessionsAndKnowsNothing(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		changed := r.Changed()
		r.node.leadership <- false
		a.over()
		b.over()
		select {
		case <-changed:
		default:
			t.Error("watchers are not told that the lead is lost")
		}
		if _, err := r.Attach(r.ctx, registration("a")); !errors.Is(err, ErrNotLeading) {
			t.Errorf("attach: %v", err)
		}
		if _, err := r.Job(r.ctx, "none"); !errors.Is(err, ErrNotLeading) {
			t.Errorf("job: %v", err)
		}
		if _, err := r.Jobs(r.ctx); !errors.Is(err, ErrNotLeading) {
			t.Errorf("jobs: %v", err)
		}
		if _, err := r.Checkpoints(r.ctx, "none"); !errors.Is(err, ErrNotLeading) {
			t.Errorf("checkpoints: %v", err)
		}
		time.Sleep(time.Minute)
		if n := count[*commandpb.Command_LoseWorker](r.node); n > 0 {
			t.Errorf("a follower gave up %d workers", n)
		}
		var s clusterpb.StatusReply
		if r.Status(r.ctx, &s, true); len(s.Jobs) != 1 || len(s.Workers) != 2 {
			t.Errorf("status without the lead: %v", &s)
		}
	})
}

// A new leader knows no sessions and grants everyone a lease before it judges.
func TestNewLeaderGrantsALease(t *testing.T) {
	for name, tell := range map[string]func(*rig){
		"told of the loss":   func(r *rig) { r.node.leadership <- false; synctest.Wait(); r.node.leadership <- true },
		"told of the return": func(r *rig) { r.node.leadership <- true }, // raft replaces an untold loss by what follows it
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(r *rig) {
				a, b := r.running()
				r.beat(time.Minute, a, b)
				tell(r)
				a.over()
				b.over()
				a.Detach()
				b.Detach()
				time.Sleep(sched.DefaultRules.Lease - time.Second)
				if g := r.job(); g.State != fsm.Running {
					t.Errorf("within the lease the job is %s: %s", g.State, g.Reason)
				}
				again := registration("a")
				again.Running = []*clusterpb.Running{{Job: "j", Generation: 1}}
				a = r.attach(again)
				r.beat(2*time.Second, a)
				if s := r.workerState("b"); s != "gone" || r.workerState("a") != "connected" {
					t.Errorf("after the lease the worker that stayed away is %s", s)
				}
			})
		})
	}
}

func TestLeadIsTakenUpWhenTheLogIsBusy(t *testing.T) {
	inBubble(t, func(r *rig) {
		var tries atomic.Int32
		r.node.mu.Lock()
		r.node.barrier = func() error {
			if tries.Add(1) < 5 {
				return errors.New("timed out enqueuing")
			}
			return nil
		}
		r.node.mu.Unlock()
		r.node.leadership <- true
		if err := r.Ready(r.ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if r.attach(registration("a")); tries.Load() != 5 {
			t.Errorf("%d tries", tries.Load())
		}
	})
}

// A decision that is refused over and over must not fill the log.
func TestRefusedDecisionsDoNotFillTheLog(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.attach(registration("a")), r.attach(registration("b"))
		var tries atomic.Int32
		r.node.hook(func(c *commandpb.Command) error {
			if c.GetAssignJob() != nil {
				tries.Add(1)
				return errors.New("refused")
			}
			return nil
		}, nil)
		r.submit()
		r.beat(20*time.Second, a, b)
		if n := tries.Load(); n < 5 || n > 100 {
			t.Errorf("%d tries in 20 s", n)
		}
	})
}

func TestReasonsAreShown(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.submit()
		if j := r.job(); j.State != fsm.Queued || !strings.Contains(j.Reason,
			"waits for a worker; start one with: worker run") {
			t.Errorf("%s: %s", j.State, j.Reason)
		}
		all, err := r.Jobs(r.ctx)
		if err != nil || len(all) != 1 || all[0].Spec != nil || len(r.job().Spec) == 0 {
			t.Errorf("jobs %v: %v", all, err)
		}
		if j := r.job(); j.Epochs != 10 || j.StepsPerEpoch != 10 || j.Batch != 4 {
			t.Errorf("%d epochs of %d steps of %d images", j.Epochs, j.StepsPerEpoch, j.Batch)
		}
	})
}

func TestWaitsEnd(t *testing.T) {
	inBubble(t, func(r *rig) {
		waited := make(chan error, 1)
		go func() { waited <- r.WaitWorkers(r.ctx, 2) }()
		r.attach(registration("a"))
		synctest.Wait()
		if len(waited) > 0 {
			t.Fatal("one worker is two")
		}
		r.attach(registration("b"))
		if err := <-waited; err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancelCause(r.ctx)
		enough := errors.New("enough")
		cancel(enough)
		if err := r.WaitWorkers(ctx, 3); !errors.Is(err, enough) {
			t.Errorf("wait for workers: %v", err)
		}
	})
}

// A worker that reads nothing is given up before it costs much memory.
func TestSlowReaderIsGivenUp(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, err := r.Attach(r.ctx, registration("a"))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 * outLimit {
			a.Heartbeat(&clusterpb.Heartbeat{})
		}
		worker{a, r}.over()
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.queue) > 2*outLimit+10 {
			t.Errorf("%d messages wait", len(a.queue))
		}
	})
}
