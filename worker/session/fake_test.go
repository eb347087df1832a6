package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"colonnade/proto/clusterpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// All tests run in a bubble of virtual time: the pauses, leases and heartbeats below are the real ones.

const (
	lease     = 3 * time.Second
	heartbeat = lease / 6
)

// network is what the worker can dial.
type network struct {
	t     *testing.T
	mu    sync.Mutex
	at    map[string]*bufconn.Listener
	dials []time.Time
}

func newNetwork(t *testing.T) *network { return &network{t: t, at: map[string]*bufconn.Listener{}} }

func (n *network) dial(ctx context.Context, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dials = append(n.dials, time.Now())
	l := n.at[address]
	n.mu.Unlock()
	if l == nil {
		return nil, errors.New("connection refused")
	}
	return l.DialContext(ctx)
}

// taken returns when the worker dialled since it was last asked.
func (n *network) taken() []time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.dials
	n.dials = nil
	return out
}

// coordinator is a fake one. What it does with a worker is the test's to say, attachment by attachment.
type coordinator struct {
	clusterpb.UnimplementedSessionServer
	net      *network
	address  string
	server   *grpc.Server
	served   chan struct{}
	attached chan *attachment
	mute     bool        // takes streams and says nothing
	follower atomic.Bool // refuses to lead
	leader   string      // whom it names then
	first    *clusterpb.CoordinatorMessage
}

// attachment is one stream of a worker.
type attachment struct {
	register *clusterpb.Register
	stream   grpc.BidiStreamingServer[clusterpb.WorkerMessage, clusterpb.CoordinatorMessage]
	end      chan error // the test ends the stream
	deaf     chan struct{}

	mu      sync.Mutex
	reports []*clusterpb.Report
	beats   int
	answer  bool
}

func (n *network) start(address string) *coordinator {
	c := &coordinator{net: n, address: address, server: grpc.NewServer(), served: make(chan struct{}),
		attached: make(chan *attachment, 1000), first: &clusterpb.CoordinatorMessage{
			Kind: &clusterpb.CoordinatorMessage_Welcome{Welcome: &clusterpb.Welcome{Cluster: "test",
				LeaseMs: uint64(lease.Milliseconds()), HeartbeatMs: uint64(heartbeat.Milliseconds())}}}}
	clusterpb.RegisterSessionServer(c.server, c)
	l := bufconn.Listen(1 << 20)
	n.mu.Lock()
	n.at[address] = l
	n.mu.Unlock()
	go func() {
		defer close(c.served)
		if err := c.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			n.t.Errorf("serve: %v", err)
		}
	}()
	return c
}

func (c *coordinator) stop() {
	c.net.mu.Lock()
	delete(c.net.at, c.address)
	c.net.mu.Unlock()
	c.server.Stop()
	<-c.served
}

func (c *coordinator) Attach(
	stream grpc.BidiStreamingServer[clusterpb.WorkerMessage, clusterpb.CoordinatorMessage]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if c.follower.Load() {
		s, err := status.New(codes.Unavailable, "this coordinator does not lead").WithDetails(
			&clusterpb.Redirect{Leader: c.leader})
		if err != nil {
			return err
		}
		return s.Err()
	}
	a := &attachment{register: first.GetRegister(), stream: stream, end: make(chan error, 1),
		deaf: make(chan struct{}), answer: true}
	if c.mute {
		<-stream.Context().Done()
		return nil
	}
	if err := stream.Send(c.first); err != nil {
		return err
	}
	received := make(chan struct{})
	go func() {
		defer close(received)
		a.receive()
	}()
	c.attached <- a
	select {
	case err = <-a.end:
	case <-stream.Context().Done():
	}
	return err
}

func (a *attachment) receive() {
	for {
		m, err := a.stream.Recv()
		if err != nil {
			return
		}
		a.mu.Lock()
		if r := m.GetReport(); r != nil {
			a.reports = append(a.reports, r)
		}
		if m.GetHeartbeat() != nil {
			a.beats++
		}
		answer := a.answer && m.GetHeartbeat() != nil
		a.mu.Unlock()
		if answer {
			a.ack(0)
		}
	}
}

// got returns the sequence numbers of the reports that came.
func (a *attachment) got() []uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []uint64
	for _, r := range a.reports {
		out = append(out, r.Sequence)
	}
	return out
}

func (a *attachment) silence() {
	a.mu.Lock()
	a.answer = false
	a.mu.Unlock()
}

// say sends the worker a message. Whether it is still there is not the question here.
func (a *attachment) say(m *clusterpb.CoordinatorMessage) { _ = a.stream.Send(m) }

func (a *attachment) ack(sequence uint64, dropped ...*clusterpb.Manifest) {
	a.say(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Ack{Ack: &clusterpb.Ack{
		Sequence: sequence, Dropped: dropped}}})
}

// cells is a Handler that notes what it is told.
type cells struct {
	mu      sync.Mutex
	told    []string
	running []*clusterpb.Running
}

func (c *cells) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, what)
}

func (c *cells) notes() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.told)
}

func (c *cells) Assign(a *clusterpb.Assign)      { c.note("assign " + a.Job) }
func (c *cells) Revoke(r *clusterpb.Revoke)      { c.note("revoke " + r.Job) }
func (c *cells) Stop(s *clusterpb.Stop)          { c.note("stop " + s.Job) }
func (c *cells) Dropped(m []*clusterpb.Manifest) { c.note("dropped " + m[0].Job) }
func (c *cells) Welcomed(string)                 {}
func (c *cells) Ask(a *clusterpb.Ask)            { c.note("ask " + a.Job) }
func (c *cells) Forget(f *clusterpb.Forget)      { c.note("forget " + f.Job) }
func (c *cells) Buddies(b *clusterpb.Buddies)    { c.note("buddies of " + b.Job) }
func (c *cells) Drain(d *clusterpb.Drain)        { c.note(fmt.Sprint("drain ", d.Draining, d.Drained)) }
func (c *cells) Part() *clusterpb.PartStatus     { return nil }
func (c *cells) Warm(w *clusterpb.Warm)          { c.note("warm " + w.Job) }
func (c *cells) Running() []*clusterpb.Running {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running
}

func (c *cells) run(running ...*clusterpb.Running) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = running
}
func (c *cells) Cells() []*clusterpb.CellStatus { return nil }

// worker runs a session until the test ends it.
type worker struct {
	*Session
	cells  *cells
	cancel context.CancelCauseFunc
	ended  chan error
}

var errEnough = errors.New("enough")

func startWorker(n *network, change func(*Config), addresses ...string) *worker {
	w := &worker{cells: &cells{running: []*clusterpb.Running{{Job: "old", Generation: 7}}}, ended: make(chan error, 1)}
	cfg := Config{Coordinators: addresses, Register: &clusterpb.Register{Worker: "w", Incarnation: "i"},
		Handler: w.cells, Log: slog.New(slog.DiscardHandler), DialOptions: []grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(n.dial)}}
	if change != nil {
		change(&cfg)
	}
	w.Session = New(cfg)
	var ctx context.Context
	ctx, w.cancel = context.WithCancelCause(context.Background())
	go func() { w.ended <- w.Run(ctx) }()
	return w
}

// finish ends the worker and wants it to say why it ended.
func (w *worker) finish(t *testing.T) {
	t.Helper()
	w.cancel(errEnough)
	if err := <-w.ended; !errors.Is(err, errEnough) {
		t.Errorf("the session ended with %v, want %v", err, errEnough)
	}
}
