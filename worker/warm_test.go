package main

import (
	"testing"

	"colonnade/cudakern"
	"colonnade/proto/clusterpb"
	"colonnade/shard/job"
)

// ready waits until a spare has done what it can to be ready.
func (h *testHost) ready() *warming {
	h.t.Helper()
	h.mu.Lock()
	w := h.warm
	h.mu.Unlock()
	if w == nil {
		h.t.Fatal("it gets ready for nothing")
	}
	<-w.done
	return w
}

func (h *testHost) warmFor(j *job.Job) { h.Warm(&clusterpb.Warm{Job: j.Name, Spec: j.Encode()}) }

// A spare maps the packs of the job that it is told of, builds a cell of each column once and frees it: nothing of it
// is alive. Then it trains the job to the end that one ends with that was never warm.
func TestWarmSpare(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	digest := func(warm bool) string {
		h := startHost(t, "w")
		if warm {
			h.warmFor(j)
			if w := h.ready(); w.packs == nil || len(h.opened()) != j.Columns {
				t.Errorf("packs %v, %d devices were opened", w.packs, len(h.opened()))
			}
			for _, d := range h.opened() {
				if !d.closed.Load() || d.Live() != 0 || d.with != (cudakern.Settings{Threads: 1}) {
					t.Errorf("a device with %d things alive, closed: %v, %+v", d.Live(), d.closed.Load(), d.with)
				}
			}
			h.warmFor(j) // again: nothing more
			h.ready()
			if n := len(h.opened()); n != j.Columns {
				t.Errorf("when it is told again %d devices were opened", n)
			}
		}
		h.Assign(assign(j, 1, h, h, h))
		var out [2]string // by column: which ends first is chance
		for range out {
			f := h.next(finished).GetFinished()
			out[f.Cell.Column] = string(f.Digest)
		}
		h.idle()
		return out[0] + out[1]
	}
	if digest(true) != digest(false) {
		t.Error("being warm has reached the weights")
	}
}

// A job that is not to be had does no harm, and neither does one that comes while another is built, or an assignment.
func TestWarmSpareIsDisturbed(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	h := startHost(t, "w")
	gone := makeJob(t, makePack(t, 16), func(j *job.Job) { j.Name = "gone" })
	gone.Train.Path, gone.Train.ID = "/nowhere.pack", "ab"
	h.warmFor(gone)
	if w := h.ready(); w.packs != nil {
		t.Error("packs that are nowhere are mapped")
	}
	h.Warm(&clusterpb.Warm{Job: "nonsense", Spec: []byte("nonsense")})
	h.warmFor(j)
	h.Assign(assign(j, 1, h, h, h))
	h.next(finished)
	h.next(finished)
	h.idle()
	if len(h.opened()) < 2 {
		t.Errorf("%d devices were opened", len(h.opened()))
	}
	h.warmFor(j)
	h.ready()
}
