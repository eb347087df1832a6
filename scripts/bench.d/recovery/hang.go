package main

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"colonnade/proto/clusterpb"
	"colonnade/scripts/cluster"
)

// hang stops a worker that has a column, or holds a thread of it in the middle of its computing, and takes the time
// until an operator is told who it is. Then the worker goes on.
func (r *rig) hang(ctx context.Context, n int, out *result) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, w, err := r.victim(ctx, n)
	if err != nil {
		return err
	}
	newest, err := r.event(ctx, "", 0)
	if err != nil {
		return err
	}
	p := r.c.Workers[w]
	began := time.Now()
	release, how := func() { p.Signal(syscall.SIGCONT) }, "has stopped"
	if r.lost == "stopped" {
		p.Signal(syscall.SIGSTOP)
	} else {
		how = "is stuck"
		if release, err = cluster.HoldComputing(p.Pid(), filepath.Join(r.programs, "worker")); err != nil {
			return fmt.Errorf("hold a thread of worker-%d: %w", w+1, err)
		}
		began = time.Now() // a moment at which it computes had to be found
	}
	defer release()
	e, err := r.event(ctx, how, newest.GetIndex())
	took := time.Since(began)
	if err != nil {
		return err
	}
	release()
	k := kill{Seconds: took.Seconds(), Said: e.Text, Named: regexp.MustCompile(fmt.Sprintf(
		`^worker worker-%d \(cpu[^)]*\) %s: r0c%d (.*of )?step \d+.* for [\d.]+ s.*; r0c%d waits for it`,
		w+1, how, n%2, 1-n%2)).MatchString(e.Text)}
	out.Kills = append(out.Kills, k)
	return r.steps(ctx, r.c.InMemory(jobName, 2)+3, func(uint64, time.Time) {})
}

// event waits for an event of a worker that does not get on, behind an index of the log; how says of which kind. With
// how "" it is the newest of all, nil if there is none.
func (r *rig) event(ctx context.Context, how string, after uint64) (found *clusterpb.LogEvent, err error) {
	isHow := regexp.MustCompile(regexp.QuoteMeta(how))
	err = r.c.Until(ctx, "an event says that a worker "+how, func(ctx context.Context) bool {
		s, err := r.c.Client.Status(ctx, &clusterpb.StatusRequest{})
		if err != nil {
			return false
		}
		for _, e := range s.Events {
			if how == "" || found == nil && e.Index > after && e.Kind == "hang" && isHow.MatchString(e.Text) {
				found = e
			}
		}
		return how == "" || found != nil
	})
	return found, err
}
