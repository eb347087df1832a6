package fsm

import (
	"errors"
	"strings"
	"testing"

	"colonnade/proto/commandpb"
)

func preempt(job string, generation uint64, by string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_PreemptJob{PreemptJob: &commandpb.PreemptJob{Job: job,
		Generation: generation, By: by}}}
}

func setQueue(job string, priority int32, most, least uint32) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_SetQueue{SetQueue: &commandpb.SetQueue{Job: job, Priority: priority,
		MaxWorkers: most, MinWorkers: least}}}
}

// high is a job of a higher priority that waits.
func high(job string, priority int32) *commandpb.Command {
	c := submit(job, 1, 1, 10, 1)
	c.GetSubmitJob().Priority = priority
	return c
}

// A job that makes way stops at a step boundary and is queued again, in its place; whatever comes between does what it
// does to one that runs, and an operator's word stands.
func TestPreempt(t *testing.T) {
	stopAll := []*commandpb.Command{stopped("j", 1, 4, cell(0, 0)), stopped("j", 1, 4, cell(0, 1))}
	makesWay := "makes way for job k (priority 5): it stops at a step boundary and is queued again"
	for name, tt := range map[string]struct {
		more   []*commandpb.Command
		state  string
		reason string
	}{
		"asked for":              {nil, Stopping, makesWay},
		"one cell has stopped":   {stopAll[:1], Stopping, makesWay},
		"all cells have stopped": {stopAll, Queued, "preempted after step 4 by job k (priority 5)"},
		"a worker is lost": {[]*commandpb.Command{lose("w1", "silent")}, Recovering,
			"worker name-of-w1 is lost: silent"},
		"a cell has failed": {[]*commandpb.Command{release("j", 1, "broken")}, Recovering, "broken"},
		"a step is vetoed":  {[]*commandpb.Command{veto("j", 1, 5, cell(0, 0))}, Paused, ""},
		"an operator wants a stop": {after([]*commandpb.Command{stop("j", false)}, stopAll...), Stopped,
			"stopped after step 4"},
		"an operator wants a pause": {after([]*commandpb.Command{pause("j")}, stopAll...), Paused,
			"paused by an operator: stopped after step 4"},
		"an operator stops it": {[]*commandpb.Command{stop("j", true)}, Stopped, "stopped by an operator"},
		"the other one is gone meanwhile": {after([]*commandpb.Command{stop("k", true), deleteJob("k")}, stopAll...), Queued,
			"preempted after step 4 by job k (priority 5)"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLog(t, after(after(running(), high("k", 5), preempt("j", 1, "k")), tt.more...)...)
			j := l.View().Jobs["j"]
			if j.State != tt.state || tt.reason != "" && j.Reason != tt.reason || j.Requeuing != (tt.state == Stopping) ||
				j.Moving {
				t.Errorf("the job is %s (%s), to be queued %v", j.State, j.Reason, j.Requeuing)
			}
			if tt.state != Queued {
				return
			}
			if j.Preemptions != 1 || j.PreemptedBy != "k (priority 5)" || len(j.Placement) > 0 || j.Failures > 0 ||
				j.EndedUnixNs != 0 || !Preempted(j) {
				t.Errorf("preempted it is %v", j)
			}
			l.must(t, stop("j", false))
			if j := l.View().Jobs["j"]; j.State != Stopped {
				t.Errorf("stopped in the queue it is %s", j.State)
			}
		})
	}
}

// Nobody makes way for a job that is no higher, or that does not wait.
func TestPreemptRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		history []*commandpb.Command
		by      string
		want    error
	}{
		"as high":                {after(running(), high("k", 0)), "k", ErrInvalid},
		"lower":                  {after(running(), high("k", -1)), "k", ErrInvalid},
		"raised meanwhile":       {after(running(), high("k", 5), setQueue("j", 5, 0, 0)), "k", ErrInvalid},
		"for itself":             {running(), "j", ErrJobState},
		"no such job":            {running(), "k", ErrJobState},
		"for one that stopped":   {after(running(), high("k", 5), stop("k", true)), "k", ErrJobState},
		"of one that stops":      {after(running(), high("k", 5), stop("j", false)), "k", ErrJobState},
		"of one that is stopped": {after(running(), high("k", 5), stop("j", true)), "k", ErrJobState},
		"twice":                  {after(running(), high("k", 5), preempt("j", 1, "k")), "k", ErrJobState},
	} {
		l := newLog(t, tt.history...)
		if err := l.apply(t, preempt("j", 1, tt.by)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	l := newLog(t, after(running(), high("k", 5))...)
	if err := l.apply(t, preempt("j", 2, "k")); !errors.Is(err, ErrStale) {
		t.Errorf("of another generation: %v", err)
	}
}

// A job's place is changed at any time but at the end, once for a request, and never to what it cannot have.
func TestSetQueue(t *testing.T) {
	l := newLog(t, running()...)
	c := setQueue("j", 7, 2, 1)
	c.GetSetQueue().Request = "q"
	l.must(t, c)
	l.must(t, setQueue("j", -3, 0, 2))
	l.must(t, c) // asked again, it has taken effect before
	j := l.View().Jobs["j"]
	if j.Priority != -3 || j.MaxWorkers != 0 || j.MinWorkers != 2 || j.State != Running {
		t.Errorf("the job is %v", j)
	}
	if MostWorkers(j) != 2 || LeastWorkers(j) != 2 || NameOf(j) != "j (priority -3)" {
		t.Errorf("%s has %d to %d workers", NameOf(j), LeastWorkers(j), MostWorkers(j))
	}
	events := l.View().Events
	if last := events[len(events)-1].Text; last != "job j has priority -3, 2 workers at least, it had priority 7, "+
		"2 workers at most" {
		t.Errorf("the event is %q", last)
	}
	for what, c := range map[string]*commandpb.Command{"more than it has cells": setQueue("j", 0, 0, 3),
		"more than it may have": setQueue("j", 0, 1, 2)} {
		if err := l.apply(t, c); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := l.apply(t, setQueue("none", 0, 0, 0)); !errors.Is(err, ErrNoJob) {
		t.Errorf("of no job: %v", err)
	}
	l.must(t, finished("j", 1, 10, cell(0, 0)))
	l.must(t, finished("j", 1, 10, cell(0, 1)))
	if err := l.apply(t, setQueue("j", 1, 0, 0)); !errors.Is(err, ErrJobState) ||
		!strings.Contains(err.Error(), "; see: ") {
		t.Errorf("of a job that is done: %v", err)
	}
	bad := submit("m", 1, 2, 10, 1)
	bad.GetSubmitJob().MinWorkers = 3
	if err := l.apply(t, bad); !errors.Is(err, ErrInvalid) {
		t.Errorf("submitted to have more workers than cells: %v", err)
	}
}

// Files that a fork has are not deleted with their job, though that has gone back behind them.
func TestDeleteAfterGoingBack(t *testing.T) {
	s := applied(t, after(committed(4), forked(submit("k", 1, 2, 10, 1), "j", 4), stop("j", true), resume("j", 0),
		stop("j", true)))
	r, err := s.Apply(s.View().Index+1, &commandpb.Command{Version: Version, Kind: deleteJob("j").Kind})
	if err != nil || !errors.Is(r.Refused, ErrJobState) || !strings.Contains(r.Refused.Error(),
		"job k was forked from step 4 of j; delete that one first") {
		t.Errorf("%v, %v", err, r.Refused)
	}
}
