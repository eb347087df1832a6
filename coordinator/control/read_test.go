package control

import (
	"errors"
	"testing"
	"testing/synctest"

	"colonnade/proto/clusterpb"
)

// Reads ask whether this node still leads, in the term in which it had caught up.
func TestReadsAreOfALeaderOnly(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.submit()
		reads := map[string]func() error{
			"job":         func() error { _, err := r.Job(r.ctx, "j"); return err },
			"jobs":        func() error { _, err := r.Jobs(r.ctx); return err },
			"checkpoints": func() error { _, err := r.Checkpoints(r.ctx, "j"); return err },
			"status":      func() error { return r.Status(r.ctx, &clusterpb.StatusReply{}, false) },
			"backup":      func() error { _, err := r.Backup(r.ctx); return err },
		}
		all := func(when string, want error) {
			t.Helper()
			for name, read := range reads {
				if err := read(); !errors.Is(err, want) {
					t.Errorf("%s, %s: %v, want %v", when, name, err, want)
				}
			}
		}
		set := func(term uint64, verify error) {
			r.node.mu.Lock()
			defer r.node.mu.Unlock()
			r.node.term, r.node.verify = term, func() error { return verify }
		}
		all("leading", nil)
		deposed := errors.New("another leads")
		set(0, deposed)
		all("deposed and not told yet", deposed)
		set(2, nil)
		all("deposed and elected again, and not caught up yet", ErrNotLeading)
		r.node.leadership <- true
		synctest.Wait()
		all("caught up", nil)
		if err := r.Status(r.ctx, &clusterpb.StatusReply{}, true); err != nil {
			t.Errorf("what it knows by itself: %v", err)
		}
	})
}
