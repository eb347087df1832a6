// Package session is a worker's standing with the coordinator: it registers, keeps the lease with heartbeats, passes
// assignments on, delivers reports until they are acknowledged, and reconnects, to any of the coordinators it knows,
// for as long as the worker lives. Training does not wait for it.
package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
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
	// Part says how far the part of an evaluation is that is being computed; nil: there is none.
	Part() *clusterpb.PartStatus
	// Welcomed is called at the start of every session, with the cluster's id.
	Welcomed(cluster string)
	// Ask ends what runs of a job and answers with Session.Answer when it has ended.
	Ask(*clusterpb.Ask)
	Forget(*clusterpb.Forget)
	// Buddies says who keeps copies of the states of a job's cells.
	Buddies(*clusterpb.Buddies)
	// Drain says whether cells are placed on this worker, and whether it may end.
	Drain(*clusterpb.Drain)
	// Warm names a job to get ready for.
	Warm(*clusterpb.Warm)
}

// Config is what a session is made of.
type Config struct {
	Coordinators []string            // host:port, tried in turn; one that does not lead may know of more
	Register     *clusterpb.Register // Running is filled in at every connect
	Handler      Handler
	FirstTimeout time.Duration // how long to look for a coordinator that has never answered; 0: for ever
	Log          *slog.Logger
	DialOptions  []grpc.DialOption // for tests; transport credentials included
	// Logs, if not nil, takes what the worker's log has had since the last time, to be sent with a heartbeat.
	Logs func() []*clusterpb.LogRecord
	// Health returns how the GPU is when that is new, nil otherwise; nil: there is no GPU.
	Health func() *clusterpb.DeviceHealth
}

// Session is one worker's session. Make it with New, then Run it.
type Session struct {
	cfg Config

	mu      sync.Mutex
	next    uint64              // sequence number of the next report
	pending []*clusterpb.Report // not acknowledged yet, in order
	answers []*clusterpb.Holdings
	wake    chan struct{} // something was added to pending or to answers
	seen    bool          // a coordinator has answered before
	stands  bool          // one has welcomed this worker, and the stream has not broken since
	learned []string      // where else coordinators are, by the word of the last one
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
	s.rouse()
}

// Answer sends what a coordinator asked for with the next heartbeat, which is sent at once. It is not sent again: who
// leads after a break asks anew.
func (s *Session) Answer(h *clusterpb.Holdings) {
	s.mu.Lock()
	s.answers = append(s.answers, h)
	s.mu.Unlock()
	s.rouse()
}

func (s *Session) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// taken returns the answers to be sent.
func (s *Session) taken() []*clusterpb.Holdings {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.answers
	s.answers = nil
	return out
}

// Pending is the number of reports not acknowledged yet.
func (s *Session) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending)
}

// Connected says whether a coordinator has the worker in its cluster now.
func (s *Session) Connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stands
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
	lastBackoff  = time.Second            // a new leader grants three before it judges
	lostBackoff  = 200 * time.Millisecond // while they elect a leader
)

// connectLimit is how long one of several coordinators may take to be connected, and redirects how often one may send
// the worker to another before it takes a rest.
const (
	connectLimit = time.Second
	redirects    = 3
)

// answerTimeout is how long a coordinator may take to welcome a worker: one that is stopped, or cut off without its
// connections breaking, must not keep the worker from asking the next. It may have to write the worker down first.
const answerTimeout = 5 * time.Second

// errSilent means that a coordinator's connection stands, but nothing comes over it.
var errSilent = errors.New("it is silent")

// elsewhere is the answer of a coordinator that does not lead: who does, as far as it knows.
type elsewhere struct {
	leader string // host:port, or empty
	error
}

func (e *elsewhere) Unwrap() error { return e.error }

// Run keeps the session until ctx ends, the coordinator says goodbye, or none has ever answered within FirstTimeout.
func (s *Session) Run(ctx context.Context) error {
	started := time.Now()
	backoff := firstBackoff
	var why error // of the last attempt that was given its time
	last := ""    // whose session broke
	for {
		welcomed, electing := "", false
		queue, sent := s.order(last), 0
		for len(queue) > 0 && welcomed == "" {
			address := queue[0]
			queue = queue[1:]
			patience := answerTimeout
			if !s.seen && s.cfg.FirstTimeout > 0 {
				patience = max(min(patience, s.cfg.FirstTimeout-time.Since(started)), time.Millisecond)
			}
			ok, err := s.attach(ctx, address, patience)
			if why == nil || patience == answerTimeout || !errors.Is(err, errSilent) {
				why = err
			}
			var other *elsewhere
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case errors.Is(err, ErrGoodbye):
				return err
			case ok:
				welcomed = address
				s.cfg.Log.Warn("session with coordinator broke", "coordinator", address, "err", err)
				continue
			case errors.As(err, &other):
				electing = true
				if sent++; other.leader != "" && sent <= redirects {
					queue = append([]string{other.leader}, without(queue, other.leader)...)
				}
			}
			s.cfg.Log.Debug("coordinator does not answer", "coordinator", address, "err", err)
		}
		switch {
		case welcomed != "":
			s.seen, backoff, last = true, firstBackoff, welcomed
		case !s.seen && s.cfg.FirstTimeout > 0 && time.Since(started) >= s.cfg.FirstTimeout:
			return fmt.Errorf("%w at %s within %v: %w", ErrUnreachable, strings.Join(s.cfg.Coordinators, ", "),
				s.cfg.FirstTimeout, why)
		case electing:
			backoff = min(backoff, lostBackoff)
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

// order is whom to ask for a session: all coordinators known, the one whose session broke last.
func (s *Session) order(broke string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.cfg.Coordinators)
	for _, a := range s.learned {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	if i := slices.Index(all, broke); i >= 0 {
		all = append(slices.Delete(all, i, i+1), broke)
	}
	return all
}

func without(all []string, address string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(a string) bool { return a == address })
}

// attach runs one stream until it breaks.
func (s *Session) attach(ctx context.Context, address string, patience time.Duration) (welcomed bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(patience, func() { cancel(errSilent) })
	defer watch.Stop()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errSilent) {
			err = errSilent
		}
	}()
	opts := s.cfg.DialOptions
	if opts == nil {
		opts = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	conn, err := grpc.NewClient(address, opts...)
	if err != nil {
		return false, fmt.Errorf("dial coordinator: %w", err)
	}
	defer conn.Close()
	if err := s.connect(ctx, conn); err != nil {
		return false, err
	}
	stream, err := clusterpb.NewSessionClient(conn).Attach(ctx)
	if err != nil {
		return false, fmt.Errorf("attach: %w", reason(err))
	}
	w, err := s.register(stream, address)
	if err != nil {
		return false, err
	}
	watch.Stop()
	s.mu.Lock()
	s.learned, s.stands = w.Coordinators, true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.stands = false
	}()
	s.cfg.Log.Info("attached to coordinator", "coordinator", address, "cluster", w.Cluster)
	s.taken() // of what another session was asked
	s.cfg.Handler.Welcomed(w.Cluster)

	sent := make(chan error, 1)
	go func() {
		err := s.sendLoop(ctx, stream, time.Duration(w.HeartbeatMs)*time.Millisecond)
		if err != nil {
			cancel(err)
		}
		sent <- err
	}()
	err = s.receiveLoop(stream, watch, time.Duration(w.LeaseMs)*time.Millisecond)
	if errors.Is(context.Cause(ctx), errSilent) {
		err = errSilent // before cancel below makes it look like our doing
	}
	cancel(nil)
	if sendErr := <-sent; sendErr != nil && !errors.Is(err, ErrGoodbye) && !errors.Is(err, errSilent) {
		err = sendErr
	}
	return true, err
}

// connect waits until a connection stands or cannot be made. If there are others to ask, one that is stopped or cut off
// must not take long.
func (s *Session) connect(ctx context.Context, conn *grpc.ClientConn) error {
	if len(s.order("")) < 2 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready, connectivity.TransientFailure, connectivity.Shutdown:
			return nil // if it has failed, a call says of what
		case connectivity.Idle:
			conn.Connect()
		}
		if !conn.WaitForStateChange(ctx, state) {
			return errSilent
		}
	}
}

// register introduces the worker and waits to be welcomed.
func (s *Session) register(stream attachStream, address string) (*clusterpb.Welcome, error) {
	hello := registerOf(s.cfg.Register, s.cfg.Handler.Running())
	err := stream.Send(&clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Register{Register: hello}})
	if err != nil && !errors.Is(err, io.EOF) { // at the end of a stream, receiving says why it ended
		return nil, fmt.Errorf("register: %w", reason(err))
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, notThere(err)
	}
	if g := first.GetGoodbye(); g != nil {
		return nil, fmt.Errorf("%w: %s", ErrGoodbye, g.Reason)
	}
	w := first.GetWelcome()
	if w == nil || w.HeartbeatMs == 0 || w.LeaseMs == 0 {
		return nil, fmt.Errorf("coordinator at %s answers with %T instead of a welcome", address, first.Kind)
	}
	return w, nil
}
