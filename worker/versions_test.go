package main

import (
	"context"
	"strings"
	"testing"

	"colonnade/worker/exchange"
	"colonnade/worker/train"
)

// A job whose workers are of two versions of the step cannot run until they are not: it fails at once, and says so.
func TestTwoVersionsAreAPermanentFailure(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	h, old := startHost(t, "h"), startHost(t, "old")
	ctx, cancel := context.WithCancel(t.Context())
	joined := make(chan struct{})
	go func() { // as a program would that is older
		defer close(joined)
		m, err := old.mesh.Join(ctx, exchange.Group{Job: j.Name, Generation: 1, Version: train.StepVersion - 1,
			Local: []exchange.Cell{{Column: 1}}, Peers: []exchange.Peer{{Worker: h.worker, Address: h.address}}})
		if err == nil {
			m.Close()
			t.Error("the older one has joined")
		}
	}()
	h.Assign(assign(j, 1, h, h, old))
	f := h.next(failed).GetFailed()
	cancel()
	<-joined
	// Whichever of the two looks first says it of the other.
	named := strings.Contains(f.Reason, "worker old is older") || strings.Contains(f.Reason, "worker h is newer")
	if !f.Permanent || !named ||
		!strings.Contains(f.Reason, "run the same version on all workers of job "+j.Name) {
		t.Errorf("reported %v", f)
	}
}
