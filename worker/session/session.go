// Package session is a worker's standing with the coordinator: it registers, keeps the lease with heartbeats, passes
// assignments on, delivers reports until they are acknowledged, and reconnects, to any of the coordinators it knows,
// for as long as the worker lives. Training does not wait for it.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"colonnade/proto/clusterpb"
)

// Protocol is the version of the wire contract this worker speaks.
const Protocol = 1

// Errors that end a session for good.
var (
	ErrGoodbye     = errors.New("coordinator ended the session")
	ErrUnreachable = errors.New("no coordinator answers")
)

// Handler is what a session drives: the worker's cells. Its methods return quickly.
type Handler interface {
	Assign(*clusterpb.Assign)
	Revoke(*clusterpb.Revoke)
	Stop(*clusterpb.Stop)
	// Dropped names checkpoints that retention gave up; their files may go.
	Dropped([]*clusterpb.Manifest)
	// Running says which assignments are being worked on, for a coordinator that we reconnect to.
	Running() []*clusterpb.Running
	// Cells says how far every cell is.
	Cells() []*clusterpb.CellStatus
}

// Config is what a session is made of.
type Config struct {
	Coordinators []string            // host:port, tried in turn
	Register     *clusterpb.Register // Running is filled in at every connect
	Handler      Handler
	FirstTimeout time.Duration // how long to look for a coordinator that has never answered; 0: for ever
	Log          *slog.Logger
	DialOptions  []grpc.DialOption // for tests; transport credentials included
}

// Session is one worker's session. Make it with New, then Run it.
type Session struct {
	cfg Config

	mu      sync.Mutex
	next    uint64              // sequence number of the next report
	pending []*clusterpb.Report // not acknowledged yet, in order
	wake    chan struct{}       // something was added to pending
	seen    bool                // a coordinator has answered before
}

// New makes a session.
func New(cfg Config) *Session {
	return &Session{cfg: cfg, next: 1, wake: make(chan struct{}, 1)}
}

// Report queues something the coordinator must write down. It is sent in order, and again after every reconnect, until
// it is acknowledged.
func (s *Session) Report(r *clusterpb.Report) {
	s.mu.Lock()
	r.Sequence = s.next
	s.next++
	s.pending = append(s.pending, r)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Pending is the number of reports not acknowledged yet.
func (s *Session) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending)
}

func (s *Session) acknowledge(sequence uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.pending) > 0 && s.pending[0].Sequence <= sequence {
		s.pending = s.pending[1:]
	}
}

// after returns the pending reports behind sequence.
func (s *Session) after(sequence uint64) []*clusterpb.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.pending {
		if r.Sequence > sequence {
			return append([]*clusterpb.Report(nil), s.pending[i:]...)
		}
	}
	return nil
}

// Backoff between attempts to connect: doubled from the first to the last, with jitter so that workers that lost one
// coordinator do not come back as one. The jitter reaches nothing but the time of a connect.
const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 2 * time.Second
)

// Run keeps the session until ctx ends, the coordinator says goodbye, or none has ever answered within FirstTimeout.
func (s *Session) Run(ctx context.Context) error {
	started := time.Now()
	backoff := firstBackoff
	for i := 0; ; i++ {
		address := s.cfg.Coordinators[i%len(s.cfg.Coordinators)]
		welcomed, err := s.attach(ctx, address)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, ErrGoodbye):
			return err
		case welcomed:
			s.seen, backoff = true, firstBackoff
			s.cfg.Log.Warn("session with coordinator broke", "coordinator", address, "err", err)
		case !s.seen && s.cfg.FirstTimeout > 0 && time.Since(started) > s.cfg.FirstTimeout:
			return fmt.Errorf("%w at %v within %v: %w", ErrUnreachable, s.cfg.Coordinators, s.cfg.FirstTimeout, err)
		default:
			s.cfg.Log.Debug("coordinator does not answer", "coordinator", address, "err", err)
		}
		wait := time.NewTimer(backoff/2 + rand.N(backoff/2))
		select {
		case <-ctx.Done():
			wait.Stop()
			return context.Cause(ctx)
		case <-wait.C:
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

// attach runs one stream until it breaks.
func (s *Session) attach(ctx context.Context, address string) (welcomed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opts := s.cfg.DialOptions
	if opts == nil {
		opts = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	conn, err := grpc.NewClient(address, opts...)
	if err != nil {
		return false, fmt.Errorf("dial coordinator: %w", err)
	}
	defer conn.Close()
	stream, err := clusterpb.NewSessionClient(conn).Attach(ctx)
	if err != nil {
		return false, fmt.Errorf("attach: %w", err)
	}
	hello := registerOf(s.cfg.Register, s.cfg.Handler.Running())
	err = stream.Send(&clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Register{Register: hello}})
	if err != nil {
		return false, fmt.Errorf("register: %w", err)
	}
	first, err := stream.Recv()
	if err != nil {
		return false, fmt.Errorf("register: %w", err)
	}
	if g := first.GetGoodbye(); g != nil {
		return false, fmt.Errorf("%w: %s", ErrGoodbye, g.Reason)
	}
	w := first.GetWelcome()
	if w == nil || w.HeartbeatMs == 0 {
		return false, fmt.Errorf("coordinator at %s answers with %T instead of a welcome", address, first.Kind)
	}
	s.cfg.Log.Info("attached to coordinator", "coordinator", address, "cluster", w.Cluster)

	sent := make(chan error, 1)
	go func() { sent <- s.sendLoop(ctx, stream, time.Duration(w.HeartbeatMs)*time.Millisecond) }()
	err = s.receiveLoop(stream)
	cancel()
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	return true, err
}
