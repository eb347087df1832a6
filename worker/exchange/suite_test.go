package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) {
	if os.Getenv(peerVariable) != "" {
		os.Exit(peerProcess())
	}
	goleak.VerifyTestMain(m)
}

// node is one worker of a test.
type node struct {
	mesh    *Mesh
	server  *grpc.Server
	address string
	served  chan struct{}
}

func startNode(t testing.TB, id string, cfg Config) *node {
	t.Helper()
	cfg.Worker, cfg.Log = id, slog.New(slog.DiscardHandler)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &node{mesh: New(cfg), address: l.Addr().String(), served: make(chan struct{})}
	n.server = n.mesh.NewServer()
	go func() {
		defer close(n.served)
		if err := n.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		n.server.Stop()
		<-n.served
		n.mesh.Close()
	})
	return n
}

// carrier is a way a test spreads cells over workers and links them.
type carrier struct {
	perWorker int // cells on a worker; 0: all on one
	force     Carrier
	devices   bool // cells are on devices that copy to each other
}

// at says which worker each cell is on.
func (c carrier) at(cells int) []int {
	at := make([]int, cells)
	for i := range at {
		if c.perWorker > 0 {
			at[i] = i / c.perWorker
		}
	}
	return at
}

// join joins that many cells.
func (c carrier) join(t *testing.T, ctx context.Context, cells int, cfg Config) ([]Exchanger, []*Membership) {
	t.Helper()
	dir := t.TempDir()
	ex, members := joinAll(t, ctx, c.at(cells), cfg, func(_ int, g *Group) {
		if g.Carrier = c.force; c.devices {
			devices(g, newMemory(dir))
		}
	})
	for i := range ex {
		if c.devices {
			ex[i] = &buffered{BufferExchanger: ex[i].(BufferExchanger)}
		}
	}
	return ex, members
}

// carriers are what every test of the suite runs with.
var carriers = map[string]carrier{
	"local":               {},
	"shm":                 {perWorker: 1},
	"grpc":                {perWorker: 1, force: CarrierGRPC},
	"local and shm":       {perWorker: 2},
	"grpc within":         {force: CarrierGRPC},
	"shm within":          {force: CarrierSHM},
	"shm between, forced": {perWorker: 2, force: CarrierSHM},
	"peer":                {perWorker: 1, devices: true},
	"peer within":         {devices: true},
	"peer, forced":        {perWorker: 2, devices: true, force: CarrierPeer},
}

func cellsOf(n int) []Cell {
	out := make([]Cell, n)
	for i := range out {
		out[i] = Cell{Column: i}
	}
	return out
}

// joinAll joins `cells` cells, cell i on worker at[i].
func joinAll(t testing.TB, ctx context.Context, at []int, cfg Config,
	change func(worker int, g *Group)) ([]Exchanger, []*Membership) {
	t.Helper()
	workers := 0
	for _, w := range at {
		workers = max(workers, w+1)
	}
	nodes := make([]*node, workers)
	for i := range nodes {
		nodes[i] = startNode(t, fmt.Sprintf("w%d", i), cfg)
	}
	members := make([]*Membership, workers)
	errs := make([]error, workers)
	var wait sync.WaitGroup
	for w := range nodes {
		g := Group{Job: "job", Generation: 3, Numerics: "test", Address: nodes[w].address}
		for i, c := range cellsOf(len(at)) {
			if at[i] == w {
				g.Local = append(g.Local, c)
			} else {
				g.Peers = append(g.Peers, Peer{Cell: c, Worker: fmt.Sprintf("w%d", at[i]), Address: nodes[at[i]].address})
			}
		}
		if change != nil {
			change(w, &g)
		}
		wait.Go(func() { members[w], errs[w] = nodes[w].mesh.Join(ctx, g) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		for _, m := range members {
			if m != nil {
				m.Close()
			}
		}
		t.Fatal(err)
	}
	out := make([]Exchanger, len(at))
	for i, c := range cellsOf(len(at)) {
		out[i] = members[at[i]].Exchanger(c)
	}
	t.Cleanup(func() {
		var wait sync.WaitGroup
		for _, m := range members {
			wait.Go(func() { m.Close() })
		}
		wait.Wait()
	})
	return out, members
}

// eachCarrier runs a test with every carrier.
func eachCarrier(t *testing.T, cells int, f func(t *testing.T, ctx context.Context, ex []Exchanger, m []*Membership)) {
	for name, c := range carriers {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			ex, members := c.join(t, ctx, cells, Config{})
			f(t, ctx, ex, members)
		})
	}
}

func payload(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7) ^ byte(i>>8) ^ seed
	}
	return b
}

func TestSizesBothWays(t *testing.T) {
	sizes := []int{0, 1, minSlotBytes + 1, ChunkBytes - 1, ChunkBytes, ChunkBytes + 1, 11<<20 + 3}
	eachCarrier(t, 2, func(t *testing.T, ctx context.Context, ex []Exchanger, _ []*Membership) {
		var wait sync.WaitGroup
		for me := range ex {
			wait.Go(func() {
				other := Cell{Column: 1 - me}
				for i, n := range sizes {
					tag := Tag{Step: uint64(i), Exchange: uint32(n)}
					data := payload(n, byte(me))
					if err := ex[me].Send(ctx, other, tag, data); err != nil {
						t.Error(err)
						return
					}
					clear(data) // the caller's again
					got := make([]byte, n)
					if err := ex[me].Recv(ctx, other, tag, got); err != nil {
						t.Error(err)
						return
					}
					if !bytes.Equal(got, payload(n, byte(1-me))) {
						t.Errorf("message of %d bytes differs", n)
					}
				}
			})
		}
		wait.Wait()
	})
}

func TestFourCellsManySteps(t *testing.T) {
	eachCarrier(t, 4, func(t *testing.T, ctx context.Context, ex []Exchanger, _ []*Membership) { rounds(t, ctx, ex, 50) })
}

// rounds has every cell send to every other and receive from every other, step by step.
func rounds(t *testing.T, ctx context.Context, ex []Exchanger, steps uint64) {
	t.Helper()
	var wait sync.WaitGroup
	for me := range ex {
		wait.Go(func() {
			for step := range steps {
				tag := Tag{Step: step, Exchange: 9}
				for o := range ex {
					if o == me {
						continue
					}
					if err := ex[me].Send(ctx, Cell{Column: o}, tag, payload(100+me, byte(step))); err != nil {
						t.Error(err)
						return
					}
				}
				for o := range ex {
					if o == me {
						continue
					}
					got := make([]byte, 100+o)
					if err := ex[me].Recv(ctx, Cell{Column: o}, tag, got); err != nil {
						t.Error(err)
						return
					}
					if !bytes.Equal(got, payload(100+o, byte(step))) {
						t.Errorf("step %d: message of cell %d differs", step, o)
					}
				}
			}
		})
	}
	wait.Wait()
}

func TestWrongTagOrLengthIsRefused(t *testing.T) {
	for name, want := range map[string]struct {
		tag Tag
		n   int
	}{
		"step":     {Tag{Step: 2, Exchange: 5}, 8},
		"exchange": {Tag{Step: 1, Exchange: 6}, 8},
		"longer":   {Tag{Step: 1, Exchange: 5}, 9},
		"shorter":  {Tag{Step: 1, Exchange: 5}, 7},
	} {
		t.Run(name, func(t *testing.T) {
			eachCarrier(t, 2, func(t *testing.T, ctx context.Context, ex []Exchanger, _ []*Membership) {
				if err := ex[0].Send(ctx, Cell{Column: 1}, Tag{Step: 1, Exchange: 5}, make([]byte, 8)); err != nil {
					t.Fatal(err)
				}
				err := ex[1].Recv(ctx, Cell{Column: 0}, want.tag, make([]byte, want.n))
				if !errors.Is(err, ErrOutOfOrder) {
					t.Fatalf("got %v, want %v", err, ErrOutOfOrder)
				}
			})
		})
	}
}

func TestCloseAndCancelUnblock(t *testing.T) {
	eachCarrier(t, 2, func(t *testing.T, ctx context.Context, ex []Exchanger, _ []*Membership) {
		cause := errors.New("enough")
		cctx, cancel := context.WithCancelCause(ctx)
		cancel(cause)
		if err := ex[0].Recv(cctx, Cell{Column: 1}, Tag{}, make([]byte, 1)); !errors.Is(err, cause) {
			t.Errorf("cancelled: got %v, want %v", err, cause)
		}
		got := make(chan error, 1)
		go func() { got <- ex[0].Recv(ctx, Cell{Column: 1}, Tag{}, make([]byte, 1)) }()
		ex[0].Close()
		if err := <-got; !errors.Is(err, ErrClosed) && !errors.Is(err, ErrPeerLost) {
			t.Errorf("closed: got %v, want %v", err, ErrClosed)
		}
	})
}

// TestWhatWasSentArrivesThoughTheSenderHasLeft sends as many messages as every carrier takes without a receiver, some
// of them larger than both slots of memory, and leaves before any is received.
func TestWhatWasSentArrivesThoughTheSenderHasLeft(t *testing.T) {
	for name, c := range carriers {
		if c.perWorker != 1 { // who leaves must not be who receives
			continue
		}
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			ex, members := c.join(t, ctx, 2, Config{})
			size := func(i int) int { return 1000 + i%3*(ChunkBytes+ChunkBytes/4) }
			for i := range localMessages {
				if err := ex[0].Send(ctx, Cell{Column: 1}, Tag{Step: uint64(i)}, payload(size(i), byte(i))); err != nil {
					t.Fatal(err)
				}
			}
			members[0].Close()
			for i := range localMessages {
				got := make([]byte, size(i))
				if err := ex[1].Recv(ctx, Cell{Column: 0}, Tag{Step: uint64(i)}, got); err != nil ||
					!bytes.Equal(got, payload(size(i), byte(i))) {
					t.Fatalf("message %d: %v", i, err)
				}
			}
			var lost *PeerError
			err := ex[1].Recv(ctx, Cell{Column: 0}, Tag{Step: 40}, make([]byte, 1000))
			if !errors.As(err, &lost) || lost.Worker != "w0" {
				t.Fatalf("after the last message: got %v, want a lost peer on w0", err)
			}
		})
	}
}

func TestAbortSaysWhy(t *testing.T) {
	for _, name := range []string{"shm", "grpc"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			ex, members := carriers[name].join(t, ctx, 2, Config{})
			members[0].Abort("device on fire")
			err := ex[1].Recv(ctx, Cell{Column: 0}, Tag{}, make([]byte, 1))
			if !errors.Is(err, ErrPeerLost) || !strings.Contains(err.Error(), "device on fire") {
				t.Fatalf("got %v, want the peer's reason", err)
			}
		})
	}
}

func TestJoinRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(worker int, g *Group)
		want   error
	}{
		"stale":    {func(w int, g *Group) { g.Generation += uint64(w) }, ErrStale},
		"plan":     {func(w int, g *Group) { g.PlanDigest[0] = byte(w) }, ErrDisagree},
		"numerics": {func(w int, g *Group) { g.Numerics = fmt.Sprint(w) }, ErrDisagree},
		"version":  {func(w int, g *Group) { g.Version = uint32(1 + w) }, ErrVersions},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			a, b := startNode(t, "a", Config{}), startNode(t, "b", Config{})
			errs := make(chan error, 2)
			for w, n := range []*node{a, b} {
				other := []*node{b, a}[w]
				g := Group{Job: "job", Generation: 1, Local: []Cell{{Column: w}},
					Peers: []Peer{{Cell: Cell{Column: 1 - w}, Worker: "other", Address: other.address}}}
				c.change(w, &g)
				go func() {
					m, err := n.mesh.Join(ctx, g)
					if m != nil {
						m.Close()
					}
					if err != nil && !errors.Is(err, context.Canceled) {
						cancel() // the other one would wait for ever
					}
					errs <- err
				}()
			}
			first, second := <-errs, <-errs
			if !errors.Is(first, c.want) && !errors.Is(second, c.want) {
				t.Fatalf("got %v and %v, want %v", first, second, c.want)
			}
		})
	}
}

// Programs from before there were versions of a step accept anybody: the one that has a version names the other, and
// what to do, whichever end begins the link.
func TestOldPeersAreNamed(t *testing.T) {
	group := func(to string) Group {
		return Group{Job: "job", Generation: 1, Numerics: "test", Version: 2, Local: []Cell{{}},
			Peers: []Peer{{Cell: Cell{Column: 1}, Worker: "old", Address: to}}}
	}
	check := func(err error) {
		t.Helper()
		if !errors.Is(err, ErrVersions) || !errors.Is(err, ErrDisagree) || !strings.Contains(err.Error(), "worker") ||
			!strings.Contains(err.Error(), "older") || !strings.Contains(err.Error(), "run the same version on all workers") {
			t.Errorf("got %v, want the version named, and what to do", err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n := startNode(t, "us", Config{})
	_, err := n.mesh.Join(ctx, group(startSink(t)))
	check(err)

	silent, err := net.Listen("tcp", "127.0.0.1:0") // it only begins links
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	joined := make(chan error, 1)
	go func() {
		_, err := n.mesh.Join(ctx, group(silent.Addr().String()))
		joined <- err
	}()
	for {
		if _, err = dialRaw(t, n.address, 1); status.Code(err) != codes.Unavailable { // not joined yet
			break
		}
	}
	if status.Code(err) != codes.OutOfRange || !strings.Contains(err.Error(), "worker raw is older") {
		t.Errorf("the old one is told %v", err)
	}
	check(<-joined)
}
