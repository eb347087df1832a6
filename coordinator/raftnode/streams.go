package raftnode

import (
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// streams makes raft's stream layer of plain connections: every one begins with a hello. It owns a goroutine that
// accepts, one for every connection that has not said hello yet, and all connections it has handed to raft.
type streams struct {
	base    raft.StreamLayer
	address raft.ServerAddress // that others know this node by
	hello   func() hello       // of this node, for raft
	judge   func(hello) answer
	ended   func(node string) // a connection that raft took from a node has ended; does not block

	ready chan net.Conn
	done  chan struct{}
	tasks sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

var _ raft.StreamLayer = (*streams)(nil)

func newStreams(base raft.StreamLayer, address raft.ServerAddress, own func() hello,
	judge func(hello) answer, ended func(string)) *streams {
	return &streams{base: base, address: address, hello: own, judge: judge, ended: ended, ready: make(chan net.Conn),
		done: make(chan struct{}), open: map[net.Conn]struct{}{}}
}

// start begins to take connections.
func (s *streams) start() { s.tasks.Go(s.accept) }

func (s *streams) accept() {
	for {
		conn, err := s.base.Accept()
		if err == nil {
			s.take(conn)
			continue
		}
		pause := time.NewTimer(acceptAgain)
		select {
		case <-s.done:
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// acceptAgain is how long to wait when no connection can be taken: too many files are open, say.
const acceptAgain = 50 * time.Millisecond

// take has a new connection say hello, unless all is over.
func (s *streams) take(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return
	}
	c := &stream{Conn: conn, of: s}
	s.open[c] = struct{}{}
	s.tasks.Go(func() { s.receive(c) })
}

// receive hears a hello and answers it.
func (s *streams) receive(c *stream) {
	if err := c.SetDeadline(time.Now().Add(helloLimit)); err != nil {
		c.Close()
		return
	}
	h, err := readHello(c)
	if err != nil {
		c.Close()
		return
	}
	a := s.judge(h)
	if _, err = c.Write(a.encode()); err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil || !a.accepted || h.kind != forRaft {
		c.Close()
		return
	}
	s.mu.Lock()
	c.from = h.from
	s.mu.Unlock()
	select {
	case s.ready <- c:
	case <-s.done:
		c.Close()
	}
}

// Accept implements net.Listener.
func (s *streams) Accept() (net.Conn, error) {
	select {
	case c := <-s.ready:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It ends every connection that was accepted, and returns when nothing runs any more.
func (s *streams) Close() error {
	s.mu.Lock()
	var all []net.Conn
	if !s.closed {
		s.closed = true
		close(s.done)
		for c := range s.open {
			all = append(all, c)
		}
	}
	s.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
	err := s.base.Close()
	s.tasks.Wait()
	return err
}

// Addr implements net.Listener: raft tells it to the others.
func (s *streams) Addr() net.Addr { return nodeAddress(s.address) }

// nodeAddress is an address as a net.Addr.
type nodeAddress raft.ServerAddress

func (nodeAddress) Network() string  { return "tcp" }
func (a nodeAddress) String() string { return string(a) }

// Dial implements raft.StreamLayer for addresses that meant makes.
func (s *streams) Dial(target raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	h := s.hello()
	address, node, _ := strings.Cut(string(target), meantSign)
	h.to = node
	conn, _, err := s.greet(raft.ServerAddress(address), h, timeout)
	return conn, err
}

// greet connects and says hello.
func (s *streams) greet(address raft.ServerAddress, h hello, timeout time.Duration) (net.Conn, answer, error) {
	conn, err := s.base.Dial(address, timeout)
	if err != nil {
		return nil, answer{}, err
	}
	a, err := greet(conn, h, timeout)
	return conn, a, err
}

// stream is an accepted connection.
type stream struct {
	net.Conn
	of   *streams
	from string // the node it is from, once it is raft's; under of.mu
}

// Close implements net.Conn.
func (c *stream) Close() error {
	c.of.mu.Lock()
	_, open := c.of.open[c]
	from := c.from
	delete(c.of.open, c)
	c.of.mu.Unlock()
	err := c.Conn.Close()
	if open && from != "" {
		c.of.ended(from)
	}
	return err
}

// transport is raft's own, told which node each call is meant for: raft's stream layer hears of addresses only.
type transport struct{ *raft.NetworkTransport }

// meantSign is between address and node; no host:port has it.
const meantSign = "#"

func meant(id raft.ServerID, address raft.ServerAddress) raft.ServerAddress {
	return address + meantSign + raft.ServerAddress(id)
}

// AppendEntriesPipeline implements raft.Transport.
func (t transport) AppendEntriesPipeline(id raft.ServerID, a raft.ServerAddress) (raft.AppendPipeline, error) {
	return t.NetworkTransport.AppendEntriesPipeline(id, meant(id, a))
}

// AppendEntries implements raft.Transport.
func (t transport) AppendEntries(id raft.ServerID, a raft.ServerAddress, in *raft.AppendEntriesRequest,
	out *raft.AppendEntriesResponse) error {
	return t.NetworkTransport.AppendEntries(id, meant(id, a), in, out)
}

// RequestVote implements raft.Transport.
func (t transport) RequestVote(id raft.ServerID, a raft.ServerAddress, in *raft.RequestVoteRequest,
	out *raft.RequestVoteResponse) error {
	return t.NetworkTransport.RequestVote(id, meant(id, a), in, out)
}

// RequestPreVote implements raft.WithPreVote.
func (t transport) RequestPreVote(id raft.ServerID, a raft.ServerAddress, in *raft.RequestPreVoteRequest,
	out *raft.RequestPreVoteResponse) error {
	return t.NetworkTransport.RequestPreVote(id, meant(id, a), in, out)
}

// InstallSnapshot implements raft.Transport.
func (t transport) InstallSnapshot(id raft.ServerID, a raft.ServerAddress, in *raft.InstallSnapshotRequest,
	out *raft.InstallSnapshotResponse, data io.Reader) error {
	return t.NetworkTransport.InstallSnapshot(id, meant(id, a), in, out, data)
}

// TimeoutNow implements raft.Transport.
func (t transport) TimeoutNow(id raft.ServerID, a raft.ServerAddress, in *raft.TimeoutNowRequest,
	out *raft.TimeoutNowResponse) error {
	return t.NetworkTransport.TimeoutNow(id, meant(id, a), in, out)
}

var (
	_ raft.Transport   = transport{}
	_ raft.WithPreVote = transport{}
	_ raft.WithClose   = transport{}
)
