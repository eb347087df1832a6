package fsm

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"colonnade/proto/commandpb"
)

// applied is the state after a history of which nothing is refused.
func applied(t *testing.T, history []*commandpb.Command) *State {
	t.Helper()
	s := New()
	for i, c := range history {
		c.Version, c.DecidedUnixNs = Version, int64(i+1)*1e9
		r, err := s.Apply(uint64(i+1), c)
		if err != nil || r.Refused != nil {
			t.Fatalf("%v: %v, %v", c, err, r.Refused)
		}
	}
	return s
}

// A job that is paused stops as one that is stopped does, and is resumed like it; a stop turns the pause into one.
func TestPause(t *testing.T) {
	ends := []*commandpb.Command{stopped("j", 1, 4, cell(0, 0)), stopped("j", 1, 4, cell(0, 1))}
	for name, tt := range map[string]struct {
		history []*commandpb.Command
		state   string
		reason  string
	}{
		"running": {after(after(committed(4), pause("j")), ends...), Paused,
			"paused by an operator: stopped after step 4"},
		"running, then stopped": {after(after(committed(4), pause("j"), stop("j", false)), ends...), Stopped,
			"stopped after step 4"},
		"stopping, then paused": {after(after(committed(4), stop("j", false), pause("j")), ends...), Stopped,
			"stopped after step 4"},
		"lost meanwhile":    {after(committed(4), pause("j"), release("j", 1, "x")), Paused, "paused by an operator: x"},
		"queued":            {after(begin(), pause("j")), Paused, PausedByOperator},
		"recovering":        {after(running(), release("j", 1, "x"), pause("j")), Paused, PausedByOperator},
		"resumed":           {after(begin(), pause("j"), resume("j", -1)), Queued, "resumed"},
		"at once after all": {after(running(), pause("j"), stop("j", true)), Stopped, "stopped by an operator"},
	} {
		t.Run(name, func(t *testing.T) {
			j := applied(t, tt.history).View().Jobs["j"]
			if j.State != tt.state || j.Reason != tt.reason || j.Pausing {
				t.Errorf("the job is %s: %s, pausing %t", j.State, j.Reason, j.Pausing)
			}
		})
	}
}

// A fork has its parent's state, its evaluations up to there and its numerics; what it began with stays its parent's
// file, whatever is written later, and is dropped by nobody.
func TestFork(t *testing.T) {
	again := written("k", 1, 4, cell(0, 0))
	again.GetCheckpointWritten().File.Digest = written("j", 1, 4, cell(0, 0)).GetCheckpointWritten().File.Digest
	s := applied(t, after(committed(2, 4, 6), evaluation("j", 1, 2, 3), evaluation("j", 1, 6, 2),
		forked(submit("k", 1, 2, 12, 1), "j", 4), assign("k", 1, 4, place(2, "w0", "w1")...),
		again, // of a stop before the first step
		written("k", 1, 8, cell(0, 0)), written("k", 1, 8, cell(0, 1)), forked(submit("l", 1, 2, 12, 1), "k", 4),
		drop("j", 2)))
	v := s.View()
	k, l := v.Jobs["k"], v.Jobs["l"]
	parent := usable(v.Jobs["j"], 4)
	if k.Numerics != "n0" || len(k.Evaluations) != 1 || k.Parent.Job != "j" || k.Parent.Step != 4 ||
		!bytes.Equal(k.Parent.Digest, StateDigest(parent)) {
		t.Errorf("the fork is %v", k)
	}
	if r := usable(k, 4); r.OfJob != "j" || !proto.Equal(r.Files[0], parent.Files[0]) {
		t.Errorf("it begins with %v", r)
	}
	if r := usable(l, 4); r.OfJob != "j" || l.Parent.Job != "k" {
		t.Errorf("a fork of the fork begins with %v of %s", r, l.Parent.Job)
	}
	if !Kept(v, v.Jobs["j"], parent) || !Kept(v, k, usable(k, 4)) || Kept(v, k, usable(k, 8)) {
		t.Error("what forks began with is not kept, or more than that")
	}
	refused := func(c *commandpb.Command) error {
		c.Version = Version
		r, err := s.Apply(s.View().Index+1, c)
		if err != nil {
			t.Fatal(err)
		}
		return r.Refused
	}
	if err := refused(drop("k", 4)); err == nil {
		t.Error("a fork's beginning is dropped")
	}
	if err := refused(deleteCheckpoint("j", 4)); err == nil || !strings.Contains(err.Error(), "job k was forked") {
		t.Errorf("what forks need is deleted: %v", err)
	}
}

// A new job of an old name counts its generations on: what is left of the old one is older than anything of the new.
func TestDeletedJobs(t *testing.T) {
	s := applied(t, after(done(), deleteJob("j"), submit("j", 1, 2, 10, 2)))
	if v := s.View(); v.Jobs["j"].Generation != 1 || v.Jobs["j"].State != Queued || len(v.Jobs["j"].Checkpoints) != 0 {
		t.Errorf("the new job is %v", v.Jobs["j"])
	}
	again := deleteJob("j")
	again.GetDeleteJob().Request = "q"
	history := after(done(), proto.CloneOf(again), proto.CloneOf(again)) // asked twice
	for i := range maxDeleted + 5 {
		name := fmt.Sprint("x", i)
		history = append(history, submit(name, 1, 1, 1, 1), deleteJob(name))
	}
	s = applied(t, append(history, submit("j", 1, 2, 10, 2)))
	if v := s.View(); len(v.Deleted) != maxDeleted || v.Jobs["j"].Generation != 1 || v.DeletedGeneration != 1 {
		t.Errorf("%d jobs are remembered; a new one begins behind generation %d", len(v.Deleted), v.Jobs["j"].Generation)
	}
}
