package whole

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// wire is a network of hosts in one process, on whatever time the process has. What is sent travels for a while; a lost
// packet arrives when it is sent again; and what is sent on a way that is cut waits for the way to be whole, as TCP
// does.
type wire struct {
	mu    sync.Mutex
	r     *rand.Rand
	loss  int                // one packet in so many is lost; 0: none
	hosts map[string]*socket // that listen
	cut   map[[2]string]bool // ways from one host to another; a host's name is its address
	flows map[*flow]struct{}
	sent  int
	lost  int
}

func newWire(seed uint64) *wire {
	return &wire{r: rand.New(rand.NewPCG(seed, 7)), hosts: map[string]*socket{}, cut: map[[2]string]bool{},
		flows: map[*flow]struct{}{}}
}

// Times of the network.
const (
	leastLatency = 50 * time.Microsecond
	mostLatency  = 2 * time.Millisecond
	resent       = 200 * time.Millisecond // after a loss
)

// travel is when what is sent now arrives.
func (w *wire) travel() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := leastLatency + time.Duration(w.r.Int64N(int64(mostLatency-leastLatency)))
	w.sent++
	if w.loss > 0 && w.r.IntN(w.loss) == 0 {
		w.lost++
		d += resent
	}
	return time.Now().Add(d)
}

func (w *wire) isCut(from, to string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[[2]string{from, to}]
}

// setCut cuts a way or makes it whole.
func (w *wire) setCut(from, to string, cut bool) {
	w.mu.Lock()
	w.cut[[2]string{from, to}] = cut
	var waiting []*flow
	for f := range w.flows {
		waiting = append(waiting, f)
	}
	w.mu.Unlock()
	for _, f := range waiting {
		f.wake()
	}
}

// setLoss has one packet in n lost from now on; 0: none.
func (w *wire) setLoss(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loss = n
}

// socket is a host's listener.
type socket struct {
	wire    *wire
	address string
	ready   chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (w *wire) listen(address string) *socket {
	s := &socket{wire: w, address: address, ready: make(chan net.Conn, 64), done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[address] = s
	return s
}

func (s *socket) Accept() (net.Conn, error) {
	select {
	case c := <-s.ready:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *socket) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

func (s *socket) Addr() net.Addr { return place(s.address) }

type place string

func (place) Network() string  { return "tcp" }
func (p place) String() string { return string(p) }

var errRefused = fmt.Errorf("dial: %w", syscall.ECONNREFUSED)

// dial connects two hosts. On a way that is cut it waits until ctx ends.
func (w *wire) dial(ctx context.Context, from, to string) (net.Conn, error) {
	if w.isCut(from, to) || w.isCut(to, from) {
		<-ctx.Done()
		return nil, fmt.Errorf("dial %s: %w", to, context.Cause(ctx))
	}
	trip := time.NewTimer(time.Until(w.travel()))
	defer trip.Stop()
	select {
	case <-trip.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	w.mu.Lock()
	s := w.hosts[to]
	w.mu.Unlock()
	if s == nil {
		return nil, errRefused
	}
	there, back := w.flow(from, to), w.flow(to, from)
	select {
	case <-s.done: // of two that are ready, select takes either
		return nil, errRefused
	default:
	}
	select {
	case s.ready <- &conn{in: there, out: back, local: place(to), remote: place(from)}:
		return &conn{in: back, out: there, local: place(from), remote: place(to)}, nil
	case <-s.done:
		return nil, errRefused
	}
}

// flow is one direction of a connection.
type flow struct {
	wire     *wire
	from, to string

	mu       sync.Mutex
	change   *sync.Cond
	data     []packet
	last     time.Time // when the last of them arrives
	ended    bool      // by the sender, behind what is on its way
	broken   bool      // by the reader
	deadline time.Time
}

type packet struct {
	at time.Time
	b  []byte
}

func (w *wire) flow(from, to string) *flow {
	f := &flow{wire: w, from: from, to: to}
	f.change = sync.NewCond(&f.mu)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flows[f] = struct{}{}
	return f
}

func (f *flow) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.change.Broadcast()
}

func (f *flow) read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		now := time.Now()
		var next time.Time // when to look again
		switch {
		case f.broken:
			return 0, net.ErrClosed
		case !f.deadline.IsZero() && !now.Before(f.deadline):
			return 0, os.ErrDeadlineExceeded
		case f.wire.isCut(f.from, f.to):
		case len(f.data) > 0 && !f.data[0].at.After(now):
			n := copy(p, f.data[0].b)
			if f.data[0].b = f.data[0].b[n:]; len(f.data[0].b) == 0 {
				f.data = f.data[1:]
			}
			return n, nil
		case len(f.data) > 0:
			next = f.data[0].at
		case f.ended:
			return 0, io.EOF
		}
		if !f.deadline.IsZero() && (next.IsZero() || f.deadline.Before(next)) {
			next = f.deadline
		}
		if next.IsZero() {
			f.change.Wait()
			continue
		}
		alarm := time.AfterFunc(next.Sub(now), f.wake)
		f.change.Wait()
		alarm.Stop()
	}
}

func (f *flow) write(p []byte) (int, error) {
	at := f.wire.travel()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended || f.broken {
		return 0, net.ErrClosed
	}
	if at.Before(f.last) { // in order
		at = f.last
	}
	f.last = at
	f.data = append(f.data, packet{at, append([]byte(nil), p...)})
	f.change.Broadcast()
	return len(p), nil
}

// end is the sender's, stop the reader's side of closing a connection.
func (f *flow) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	f.change.Broadcast()
}

func (f *flow) stop() {
	f.mu.Lock()
	f.broken = true
	f.change.Broadcast()
	f.mu.Unlock()
	f.wire.mu.Lock()
	defer f.wire.mu.Unlock()
	delete(f.wire.flows, f)
}

// conn is one end of a connection.
type conn struct {
	in, out       *flow
	local, remote place
}

func (c *conn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *conn) Write(p []byte) (int, error) { return c.out.write(p) }
func (c *conn) LocalAddr() net.Addr         { return c.local }
func (c *conn) RemoteAddr() net.Addr        { return c.remote }

func (c *conn) Close() error {
	c.out.end()
	c.in.stop()
	return nil
}

// SetReadDeadline is all there is to deadlines: writing does not block.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.deadline = t
	c.in.change.Broadcast()
	return nil
}

func (c *conn) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
