package rpc

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"colonnade/coordinator/control"
	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
)

// watchEvery is the least time between two updates of one watch: workers are heard as often, and nobody reads faster.
const watchEvery = 500 * time.Millisecond

// WatchJob implements the Operator service. Updates are of the job as it is then: a slow watcher misses states in
// between, but no event. The first one brings what the job has come through, the others also what happens to the
// cluster.
func (s *Server) WatchJob(r *clusterpb.GetJobRequest, stream grpc.ServerStreamingServer[clusterpb.JobUpdate]) error {
	if err := named(r.Name); err != nil {
		return err
	}
	ctx := stream.Context()
	var l *look
	for changed := s.Control.Changed(); ; changed = s.Control.Changed() {
		var err error
		if l == nil {
			l, err = s.lookAt(stream, r.Name, 0, true)
		} else {
			seen := l.seen
			l, err = s.looks.share(ctx, changed, lookKey{r.Name, seen}, func() (*look, error) {
				return s.lookAt(stream, r.Name, seen, false)
			})
		}
		if err != nil {
			return s.status(err)
		}
		if err := stream.SendMsg(l.message); err != nil {
			return err
		}
		if l.ended {
			return nil
		}
		if err := s.untilChanged(ctx, changed); err != nil {
			return err
		}
	}
}

// look is what a watcher is told at one time, as it is sent.
type look struct {
	message *grpc.PreparedMsg
	seen    uint64 // index of the last event
	ended   bool   // so has the job
}

// lookAt asks how a job is and what has happened since an event.
func (s *Server) lookAt(stream grpc.ServerStream, job string, seen uint64, first bool) (*look, error) {
	j, events, err := s.Control.Follow(stream.Context(), job, seen)
	if err != nil {
		return nil, err
	}
	u := &clusterpb.JobUpdate{Job: control.Brief(j)}
	for _, e := range events {
		seen = max(seen, e.Index)
		if e.Job == job || e.Job == "" && !first {
			u.Events = append(u.Events, e)
		}
	}
	l := &look{message: &grpc.PreparedMsg{}, seen: seen, ended: fsm.Ended(j.State)}
	return l, l.message.Encode(stream, u)
}

// looks are what watchers have been told since something changed. Who wants the same before anything changes is sent
// the same bytes: fifty watchers ask the state, and make a message, hardly more often than one. It is never older than
// a watcher's pause, so one that hears of a leader that leads no more hears of it as soon as before.
type looks struct {
	mu      sync.Mutex
	changed <-chan struct{} // not closed when these were made
	places  map[lookKey]*place
}

type lookKey struct {
	job  string
	seen uint64
}

// place is where watchers find a look, or one of them makes it.
type place struct {
	seat  chan struct{} // holds a token while somebody makes one
	look  *look
	asked time.Time
}

// share returns what was made for another watcher, or makes it.
func (l *looks) share(ctx context.Context, changed <-chan struct{}, key lookKey, anew func() (*look, error)) (*look,
	error) {
	p := l.place(changed, key)
	select {
	case p.seat <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.seat }()
	if p.look != nil && time.Since(p.asked) < watchEvery {
		return p.look, nil
	}
	asked := time.Now()
	fresh, err := anew()
	if err != nil {
		return nil, err
	}
	p.look, p.asked = fresh, asked
	return fresh, nil
}

func (l *looks) place(changed <-chan struct{}, key lookKey) *place {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed != changed || l.places == nil {
		l.changed, l.places = changed, map[lookKey]*place{}
	}
	p := l.places[key]
	if p == nil {
		p = &place{seat: make(chan struct{}, 1)}
		l.places[key] = p
	}
	return p
}
