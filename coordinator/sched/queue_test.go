package sched

import (
	"fmt"
	"strings"
	"testing"

	"colonnade/coordinator/fsm"
)

// priority gives a job one.
func (w *world) priority(name string, priority int32) *world {
	w.View.Jobs[name].Priority = priority
	return w
}

// quota says how many workers a job must and may have.
func (w *world) quota(name string, least, most uint32) *world {
	w.View.Jobs[name].MinWorkers, w.View.Jobs[name].MaxWorkers = least, most
	return w
}

// preempted has a job stop to be queued again.
func (w *world) preempted(name string) *world {
	w.View.Jobs[name].State, w.View.Jobs[name].Requeuing = fsm.Stopping, true
	return w
}

// pooled is a world of so many workers that have been there for long, w0 and so on.
func pooled(now float64, workers int) *world {
	w := newWorld()
	for i := range workers {
		w.worker(fmt.Sprintf("w%d", i), "n0", 1).heard(fmt.Sprintf("w%d", i), now)
	}
	return w
}

// Every kind of decision that priorities and quotas lead to, word for word.
func TestGoldenQueue(t *testing.T) {
	// Jobs a, on w0 and w1, and b, on w2 and w3, have the pool; c, of two cells, waits.
	full := func(priority int32) *world {
		return pooled(20, 4).job("a", fsm.Running, 2, 2, "w0", "w1").job("b", fsm.Running, 2, 3, "w2", "w3").
			job("c", fsm.Queued, 2, 10).priority("c", priority)
	}
	// Job a, of four cells, has all four workers.
	wide := func() *world { return pooled(20, 4).job("a", fsm.Running, 4, 2, "w0", "w1", "w2", "w3") }
	var b strings.Builder
	for _, s := range []struct {
		name string
		now  float64
		in   *world
	}{
		{"the higher priority first, though submitted later", 20, pooled(20, 2).job("a", fsm.Queued, 2, 1).
			job("b", fsm.Queued, 2, 1).priority("b", 1)},
		{"below the usual priority", 20, pooled(20, 2).job("a", fsm.Queued, 2, 1).priority("a", -1).
			job("b", fsm.Queued, 2, 1)},
		{"equal priorities disturb nobody", 20, full(0)},
		{"the last in the queue makes way", 20, full(5)},
		{"the lowest makes way, though before in time", 20, full(5).priority("a", -1)},
		{"nobody of a higher priority makes way", 20, full(5).priority("a", 7).priority("b", 5)},
		{"a worker was lost a moment ago: nobody is disturbed yet", 18, full(5).worker("w8", "n0", 1).lost("w8", 17)},
		{"who has made way is waited for, and nobody else has to", 20, full(5).preempted("b")},
		{"an operator stops one: nobody has to make way", 20, full(5).job("j", fsm.Stopping, 1, 3, "w4").
			worker("w4", "n0", 1).heard("w4", 20)},
		{"one worker is free: enough to begin with", 20, pooled(20, 3).job("a", fsm.Running, 2, 2, "w0", "w1").
			job("c", fsm.Queued, 2, 10).priority("c", 5)},
		{"one worker is free, and it must have two", 20, pooled(20, 3).job("a", fsm.Running, 2, 2, "w0", "w1").
			job("c", fsm.Queued, 2, 10).priority("c", 5).quota("c", 2, 0)},
		{"it must have three: two jobs make way", 20, full(5).job("c", fsm.Queued, 4, 10).priority("c", 5).quota("c", 3, 0)},
		{"in vain: it must have three, and one of the others is higher", 20, full(5).job("c", fsm.Queued, 4, 10).
			priority("c", 5).quota("c", 3, 0).priority("a", 9)},
		{"more than there are", 20, full(5).job("c", fsm.Queued, 8, 10).priority("c", 5).quota("c", 8, 0)},
		{"more than there are holds nobody up", 20, pooled(20, 2).job("a", fsm.Queued, 4, 1).quota("a", 4, 0).
			job("b", fsm.Queued, 2, 1)},
		{"enough there are, but not free: they are kept", 20, pooled(20, 3).job("a", fsm.Running, 1, 1, "w0").
			job("b", fsm.Queued, 4, 1).quota("b", 3, 0).job("c", fsm.Queued, 1, 1)},
		{"one that has more than it must makes way on fewer", 20, wide().job("c", fsm.Queued, 1, 10).priority("c", 5)},
		{"one that must have all it has is queued again", 20, wide().quota("a", 4, 0).job("c", fsm.Queued, 1, 10).
			priority("c", 5)},
		{"only who is needed makes way", 20, pooled(20, 4).job("a", fsm.Running, 4, 2, "w0", "w1", "w2").
			quota("a", 3, 0).job("b", fsm.Running, 1, 3, "w3").job("c", fsm.Queued, 4, 10).priority("c", 5).quota("c", 3, 0)},
		{"two that wait, one that makes way for each", 20, full(5).job("j", fsm.Queued, 2, 10).priority("j", 4)},
		{"workers of other numerics are of no use", 20, pooled(20, 1).worker("w1", "n1", 1).heard("w1", 20).
			job("a", fsm.Running, 1, 2, "w0").job("b", fsm.Running, 1, 2, "w1").job("c", fsm.Recovering, 1, 10, "w0").
			priority("c", 5).priority("a", 9)},
		{"files it goes on from are away: nobody is disturbed for that", 15, pooled(15, 2).worker("w9", "n0", 1).
			lost("w9", 12).job("a", fsm.Running, 2, 2, "w0", "w1").job("c", fsm.Queued, 1, 12).priority("c", 5).
			checkpoints("c", 10).files("c", 10, "w9")},
		{"a worker that is drained is of no use", 20, func() *world {
			w := pooled(20, 2).job("a", fsm.Running, 2, 2, "w0", "w1").job("c", fsm.Queued, 2, 10).priority("c", 5).
				quota("c", 2, 0)
			w.View.Workers["w1"].Draining = true
			return w
		}()},
		{"a quota", 20, pooled(20, 4).job("a", fsm.Queued, 4, 1).quota("a", 0, 2).job("b", fsm.Queued, 2, 1)},
		{"a quota of one", 20, pooled(20, 4).job("a", fsm.Queued, 2, 1).quota("a", 0, 1)},
		{"cells do not spread beyond a quota", 20, crowded(20, 5).quota("j", 0, 1)},
		{"a quota that is lowered", 20, wide().quota("a", 0, 2)},
		{"on as many as the quota: where cells were", 20, pooled(20, 4).
			job("a", fsm.Recovering, 4, 10, "w3", "w3", "w1", "w1").quota("a", 0, 2)},
		{"a recovering job of a lower priority waits behind", 20, pooled(20, 2).job("a", fsm.Recovering, 2, 10, "w0", "w1").
			checkpoints("a", 10).job("b", fsm.Queued, 2, 10).priority("b", 1)},
	} {
		fmt.Fprintf(&b, "%s, at %v\n%s\n", s.name, at(s.now).Sub(t0), text(Decide(at(s.now), s.in.input())))
	}
	golden(t, "queue.txt", b.String())
}
