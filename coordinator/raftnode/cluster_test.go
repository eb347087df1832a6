package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"colonnade/coordinator/fsm"
)

// network carries connections between nodes of one process, over net.Pipe so that it works on synctest's time. Nodes
// that are cut off can neither dial nor be dialled, and what they had is broken.
type network struct {
	mu     sync.Mutex
	layers map[raft.ServerAddress]*layer
	off    map[raft.ServerAddress]bool
	wall   [2]raft.ServerAddress // between these two a firewall refuses connections
	conns  map[net.Conn][2]raft.ServerAddress
}

func newNetwork() *network {
	return &network{layers: map[raft.ServerAddress]*layer{}, off: map[raft.ServerAddress]bool{},
		conns: map[net.Conn][2]raft.ServerAddress{}}
}

func (w *network) listen(address raft.ServerAddress) *layer {
	l := &layer{network: w, address: address, accept: make(chan net.Conn), done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.layers[address] = l
	return l
}

// cut takes a node off the network, or puts it back.
func (w *network) cut(address raft.ServerAddress, off bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.off[address] = off
	for c, ends := range w.conns {
		if off && slices.Contains(ends[:], address) {
			c.Close()
			delete(w.conns, c)
		}
	}
}

// firewall breaks all connections between two nodes and has new ones refused.
func (w *network) firewall(a, b raft.ServerAddress) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wall = [2]raft.ServerAddress{a, b}
	for c, ends := range w.conns {
		if slices.Contains(ends[:], a) && slices.Contains(ends[:], b) {
			c.Close()
			delete(w.conns, c)
		}
	}
}

type layer struct {
	*network
	address raft.ServerAddress
	accept  chan net.Conn
	done    chan struct{}
	once    sync.Once
}

var (
	errUnreachable = errors.New("unreachable")
	errRefused     = fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
)

func (l *layer) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *layer) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *layer) Addr() net.Addr { return address(l.address) }

type address raft.ServerAddress

func (address) Network() string  { return "memory" }
func (a address) String() string { return string(a) }

func (l *layer) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	l.mu.Lock()
	target, off := l.layers[to], l.off[to] || l.off[l.address]
	wall := l.address != to && slices.Contains(l.wall[:], to) && slices.Contains(l.wall[:], l.address)
	l.mu.Unlock()
	switch {
	case target == nil || off:
		return nil, errUnreachable
	case wall:
		return nil, errRefused
	}
	here, there := net.Pipe()
	select {
	case target.accept <- there:
	case <-target.done:
		return nil, errRefused
	case <-time.After(timeout):
		return nil, errUnreachable
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	ends := [2]raft.ServerAddress{l.address, to}
	l.conns[here], l.conns[there] = ends, ends
	return here, nil
}

// cluster is three nodes with directories of their own.
type cluster struct {
	t     *testing.T
	net   *network
	dirs  [3]string
	nodes [3]*Node
}

func addressOf(i int) raft.ServerAddress { return raft.ServerAddress(fmt.Sprintf("node-%d", i)) }

func (c *cluster) start(i int) {
	c.t.Helper()
	n, err := New(Config{Directory: c.dirs[i], Address: addressOf(i), Streams: c.net.listen(addressOf(i)), Join: i > 0,
		Trailing: 4,
		Log:      slog.New(slog.DiscardHandler), Now: time.Now})
	must(c.t, err)
	c.nodes[i] = n
}

func (c *cluster) stop(i int) {
	c.t.Helper()
	must(c.t, c.nodes[i].Close())
	c.nodes[i] = nil
}

// leader waits until a node that is on the network leads, and has applied all that was committed before.
func (c *cluster) leader() int {
	c.t.Helper()
	for range 1000 {
		for i, n := range c.nodes {
			if n != nil && !c.net.off[addressOf(i)] && n.IsLeader() && n.Barrier(c.t.Context()) == nil {
				return i
			}
		}
		time.Sleep(10 * time.Millisecond) // synctest's time
	}
	c.t.Fatal("no leader within ten seconds")
	return -1
}

// submit submits jobs to whoever leads.
func (c *cluster) submit(names ...string) {
	c.t.Helper()
	for _, name := range names {
		for range 100 {
			_, err := c.nodes[c.leader()].Apply(c.t.Context(), submit(name))
			if err == nil || errors.Is(err, fsm.ErrJobExists) { // by a try whose answer was lost
				break
			}
			if !errors.Is(err, ErrNotLeader) {
				c.t.Fatalf("submit %s: %v", name, err)
			}
		}
	}
}

// same waits until all running nodes have the leader's state, byte by byte, with the given jobs.
func (c *cluster) same(jobs int) {
	c.t.Helper()
	want := encoded(c.t, c.nodes[c.leader()])
	for range 1000 {
		same := true
		for _, n := range c.nodes {
			same = same && (n == nil || bytes.Equal(encoded(c.t, n), want))
		}
		if v, _ := c.nodes[c.leader()].View(); same && len(v.Jobs) == jobs {
			return
		}
		time.Sleep(10 * time.Millisecond) // synctest's time
	}
	c.t.Fatalf("nodes do not agree on %d jobs", jobs)
}

func newCluster(t *testing.T, dirs [3]string) *cluster {
	c := &cluster{t: t, net: newNetwork(), dirs: dirs}
	for i := range c.nodes {
		c.start(i)
	}
	if got := c.leader(); got != 0 {
		t.Fatalf("node %d leads before it was added", got)
	}
	for i := 1; i < 3; i++ {
		must(t, c.nodes[0].Admit(t.Context(), c.nodes[i].ID(), string(addressOf(i))))
	}
	return c
}

func (c *cluster) close() {
	for i, n := range c.nodes {
		if n != nil {
			c.stop(i)
		}
	}
}

func dirs(t *testing.T) [3]string { return [3]string{t.TempDir(), t.TempDir(), t.TempDir()} }

func jobs(prefix string, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf("%s-%d", prefix, i))
	}
	return out
}

func TestThreeNodes(t *testing.T) {
	d := dirs(t)
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, d)
		defer c.close()
		c.submit(jobs("all", 5)...)
		c.same(5)

		follower := (c.leader() + 1) % 3
		if _, err := c.nodes[follower].Apply(t.Context(), submit("x")); !errors.Is(err, ErrNotLeader) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("apply on a follower: %v", err)
		}
		if err := c.nodes[follower].Admit(t.Context(), "id", "nowhere"); !errors.Is(err, ErrNotLeader) {
			t.Errorf("add on a follower: %v", err)
		}

		// The leader is cut off: what it is asked to write is not acknowledged, the others go on without it.
		old := c.leader()
		c.net.cut(addressOf(old), true)
		if _, err := c.nodes[old].Apply(t.Context(), submit("lost")); !errors.Is(err, ErrNotLeader) {
			t.Errorf("apply on a leader that is cut off: %v", err)
		}
		if now := c.leader(); now == old {
			t.Fatalf("node %d still leads", now)
		}
		c.submit(jobs("without", 5)...)
		c.net.cut(addressOf(old), false)
		c.same(10)

		// A node that was away for longer than the log goes back is sent a snapshot, and starts again from what it has.
		away := (c.leader() + 1) % 3
		id := c.nodes[away].ID()
		c.stop(away)
		c.submit(jobs("away", 20)...)
		must(t, c.nodes[c.leader()].Snapshot(t.Context()))
		c.start(away)
		c.same(30)
		c.stop(away)
		c.start(away)
		c.submit("again")
		c.same(31)
		if c.nodes[away].ID() != id {
			t.Errorf("id %s became %s", id, c.nodes[away].ID())
		}

		// All are stopped and started; nothing is lost, and the cluster is what it was.
		c.close()
		for i := range c.nodes {
			c.start(i)
		}
		c.same(31)
		nodes, err := c.nodes[c.leader()].Nodes()
		must(t, err)
		for i, n := range c.nodes {
			if len(nodes) != 3 || !slices.ContainsFunc(nodes, func(s raft.Server) bool {
				return string(s.ID) == n.ID() && s.Address == addressOf(i) && s.Suffrage == raft.Voter
			}) {
				t.Fatalf("node %d is not of the cluster %v", i, nodes)
			}
		}

		// Two of three are enough, and then one that was taken out is not missed.
		gone := (c.leader() + 2) % 3
		must(t, c.nodes[c.leader()].Remove(t.Context(), c.nodes[gone].ID()))
		c.stop(gone)
		c.submit("two")
		c.same(32)
	})
}

// A node that is to join makes no cluster of its own, however long it waits and however often it starts.
func TestJoiningNodeWaits(t *testing.T) {
	d := dirs(t)
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, net: newNetwork(), dirs: d}
		for range 2 {
			c.start(1)
			time.Sleep(time.Minute) // synctest's time
			if c.nodes[1].IsLeader() || c.nodes[1].Leader() != "" {
				t.Fatal("it leads")
			}
			if _, err := c.nodes[1].Apply(t.Context(), submit("x")); !errors.Is(err, ErrNotLeader) {
				t.Errorf("apply: %v", err)
			}
			c.stop(1)
		}
	})
}
