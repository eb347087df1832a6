package buddy

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/zeebo/xxh3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"colonnade/proto/exchangepb"
	"colonnade/worker/arena"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testKey is a cell whose state is a little more than two pieces.
func testKey() arena.Key {
	return arena.Key{Cluster: "c", Job: "j", Column: 1, Identity: [32]byte{1}, Plan: [32]byte{2}, Numerics: "cpu/1",
		Layout: [32]byte{3}, HalfBytes: 2*pieceBytes + 4096}
}

// state is what a cell of a step holds.
func state(step uint64) []byte {
	b := make([]byte, testKey().HalfBytes)
	r := rand.NewChaCha8([32]byte{byte(step), byte(step >> 8)})
	r.Read(b)
	return b
}

// put makes a copy whole, as a cell's own worker does.
func put(t testing.TB, s *Store, generation, step, keep uint64) {
	t.Helper()
	a, err := s.Begin(testKey(), generation, step, keep)
	if err != nil {
		t.Fatal(err)
	}
	copy(a.Room(), state(step))
	a.Filled()
	if err := a.Done(); err != nil {
		t.Fatal(err)
	}
}

func heldSteps(s *Store) (steps []uint64) {
	for _, c := range s.Held("c", "") {
		steps = append(steps, c.Step)
	}
	slices.Sort(steps)
	return steps
}

func holds(t testing.TB, s *Store, want ...uint64) {
	t.Helper()
	if got := heldSteps(s); !slices.Equal(got, want) {
		t.Errorf("holds copies of steps %v, want %v", got, want)
	}
}

// TestWhatIsKept: the newest copy that all cells have, and the next; of older generations what all had until the newest
// has one.
func TestWhatIsKept(t *testing.T) {
	s := New(nil)
	put(t, s, 1, 10, 0)
	put(t, s, 1, 20, 10)
	holds(t, s, 10, 20)
	put(t, s, 1, 30, 10) // some cell has not got step 20
	holds(t, s, 10, 30)
	put(t, s, 2, 33, 0) // from step 32, say
	holds(t, s, 10, 30, 33)
	put(t, s, 2, 40, 0) // some cell has not got step 33
	holds(t, s, 10, 30, 40)
	put(t, s, 3, 42, 0)
	put(t, s, 4, 44, 0)
	put(t, s, 5, 46, 0)
	holds(t, s, 10, 42, 44, 46)
	put(t, s, 5, 50, 46)
	holds(t, s, 46, 50)
	if err := s.Drop(testKey(), 5, 50); err != nil {
		t.Fatal(err)
	}
	holds(t, s, 50)
	if n := s.Forget("c", "j", 5); n != 0 {
		t.Errorf("%d copies of the newest generation are forgotten", n)
	}
	if n := s.Forget("c", "j", 6); n != 1 || s.Bytes() != 0 {
		t.Errorf("%d copies forgotten, %d bytes left", n, s.Bytes())
	}
}

// TestGenerationsThatAreOver may neither add nor drop.
func TestGenerationsThatAreOver(t *testing.T) {
	s := New(nil)
	put(t, s, 2, 10, 0)
	late, err := s.Begin(testKey(), 2, 20, 10)
	if err != nil {
		t.Fatal(err)
	}
	s.Fence("c", "j", 3)
	if err := late.Write(0, nil, xxh3.HashSeed(nil, 0)); err != nil {
		t.Fatal(err)
	}
	copy(late.Room(), state(20))
	late.Filled()
	if err := late.Done(); !errors.Is(err, ErrStale) {
		t.Errorf("a copy that became whole behind the fence: %v", err)
	}
	if _, err := s.Begin(testKey(), 2, 30, 20); !errors.Is(err, ErrStale) {
		t.Errorf("a copy that begins behind the fence: %v", err)
	}
	if err := s.Drop(testKey(), 2, 30); !errors.Is(err, ErrStale) {
		t.Errorf("a drop behind the fence: %v", err)
	}
	holds(t, s, 10)
	put(t, s, 3, 40, 0)
	holds(t, s, 10, 40)
	if s.Sweep("d"); len(heldSteps(s)) > 0 || s.Bytes() > 0 {
		t.Errorf("of another cluster: %v, %d bytes", heldSteps(s), s.Bytes())
	}
}

// TestRoom: a copy for which the machine has no memory is refused, and costs none of those that are there.
func TestRoom(t *testing.T) {
	free := uint64(4 * testKey().HalfBytes)
	s := New(func() uint64 { return free })
	put(t, s, 1, 10, 0)
	free = uint64(testKey().HalfBytes)
	if _, err := s.Begin(testKey(), 1, 20, 10); !errors.Is(err, ErrNoRoom) {
		t.Errorf("no memory is left: %v", err)
	}
	holds(t, s, 10)
}

// A copy that somebody reads outlives its being dropped, whatever comes meanwhile.
func TestReadWhileDropped(t *testing.T) {
	s := New(nil)
	put(t, s, 1, 10, 0)
	c, err := s.Open("c", "j", 0, 1, 10)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, 1, 20, 0)
	put(t, s, 1, 30, 20)
	put(t, s, 1, 40, 30)
	if _, err := s.Open("c", "j", 0, 1, 10); !errors.Is(err, ErrNone) {
		t.Errorf("dropped: %v", err)
	}
	if !bytes.Equal(c.Data(), state(10)) {
		t.Error("what is read has been written over")
	}
	before := s.Bytes()
	c.Close()
	if got := before - s.Bytes(); got != uint64(testKey().HalfBytes) {
		t.Errorf("%d bytes given back", got)
	}
}

// serve offers a store on loopback.
func serve(t *testing.T, s *Store) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(2 * pieceBytes))
	Register(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func client(t *testing.T) *Client {
	t.Helper()
	c := NewClient()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestCopiesTravel(t *testing.T) {
	own, theirs := New(nil), New(nil)
	address, c, ctx := serve(t, theirs), client(t), t.Context()
	put(t, own, 1, 10, 0)
	what, err := own.Open("c", "j", 0, 1, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer what.Close()
	if err := c.Put(ctx, address, what, 0); err != nil {
		t.Fatal(err)
	}
	holds(t, theirs, 10)
	dst := make([]byte, testKey().HalfBytes)
	if err := c.Get(ctx, address, testKey(), 10, 1, dst); err != nil || !bytes.Equal(dst, state(10)) {
		t.Fatalf("fetched: %v", err)
	}
	if err := c.Get(ctx, address, testKey(), 11, 1, dst); !errors.Is(err, ErrNone) {
		t.Errorf("a step it does not have: %v", err)
	}
	if err := c.Get(ctx, address, testKey(), 10, 2, dst); !errors.Is(err, ErrNone) {
		t.Errorf("of a generation that was given up: %v", err)
	}
	for name, change := range map[string]func(*arena.Key){"identity": func(k *arena.Key) { k.Identity[0]++ },
		"numerics": func(k *arena.Key) { k.Numerics = "x" }, "layout": func(k *arena.Key) { k.Layout[0]++ },
		"plan": func(k *arena.Key) { k.Plan[0]++ }} {
		k := testKey()
		change(&k)
		if err := c.Get(ctx, address, k, 10, 1, dst); !errors.Is(err, ErrCorrupt) || strings.Contains(err.Error(), "\n") {
			t.Errorf("for a cell of another %s: %v", name, err)
		}
	}
	theirs.Fence("c", "j", 2)
	if err := c.Put(ctx, address, what, 0); !errors.Is(err, ErrStale) {
		t.Errorf("of a generation that is over: %v", err)
	}
	if err := c.Drop(ctx, address, testKey(), 2, 20); err != nil {
		t.Error(err)
	}
	holds(t, theirs)
	if err := c.Put(ctx, "127.0.0.1:1", what, 0); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("nobody is there: %v", err)
	}
}

// TestDamagedPieces: a copy that is damaged, cut short or out of order on its way is none.
func TestDamagedPieces(t *testing.T) {
	s := New(nil)
	address, c := serve(t, s), client(t)
	send := func(change func([]*exchangepb.CopyPiece) []*exchangepb.CopyPiece) error {
		var all []*exchangepb.CopyPiece
		_ = pieces(state(10), func(p *exchangepb.CopyPiece) error { all = append(all, p); return nil })
		all = change(all)
		return c.call(t.Context(), address, func(ctx context.Context, to exchangepb.CopiesClient, _ func()) error {
			stream, err := to.Put(ctx)
			if err != nil {
				return err
			}
			k := testKey()
			_ = stream.Send(&exchangepb.CopyPiece{Header: headerOf(&k, 1, 10, 0)})
			for _, p := range all {
				_ = stream.Send(p) // at its end, the answer says why
			}
			_, err = stream.CloseAndRecv()
			return err
		})
	}
	for name, change := range map[string]func([]*exchangepb.CopyPiece) []*exchangepb.CopyPiece{
		"a bit is another": func(p []*exchangepb.CopyPiece) []*exchangepb.CopyPiece {
			p[1].Data = bytes.Clone(p[1].Data)
			p[1].Data[17] ^= 4
			return p
		},
		"cut short":   func(p []*exchangepb.CopyPiece) []*exchangepb.CopyPiece { return p[:2] },
		"one is gone": func(p []*exchangepb.CopyPiece) []*exchangepb.CopyPiece { return append(p[:1:1], p[2]) },
		"two changed places": func(p []*exchangepb.CopyPiece) []*exchangepb.CopyPiece {
			p[0], p[1] = p[1], p[0]
			return p
		},
		"too much": func(p []*exchangepb.CopyPiece) []*exchangepb.CopyPiece {
			more := uint64(testKey().HalfBytes)
			return append(p, &exchangepb.CopyPiece{Offset: more, Data: []byte{1}, Xxh3: xxh3.HashSeed([]byte{1}, more)})
		},
	} {
		if err := send(change); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if holds(t, s); s.Bytes() != 0 {
			t.Errorf("%s: %d bytes are kept of it", name, s.Bytes())
		}
	}
	if err := send(func(p []*exchangepb.CopyPiece) []*exchangepb.CopyPiece { return p }); err != nil {
		t.Error(err)
	}
	holds(t, s, 10)
}

// TestHeaders: what no cell can be of is refused before memory is asked for.
func TestHeaders(t *testing.T) {
	k := testKey()
	for name, change := range map[string]func(*exchangepb.CopyHeader){
		"no job": func(h *exchangepb.CopyHeader) { h.Job = "" }, "no size": func(h *exchangepb.CopyHeader) { h.Bytes = 0 },
		"huge":          func(h *exchangepb.CopyHeader) { h.Bytes = 1 << 60 },
		"no plan":       func(h *exchangepb.CopyHeader) { h.Plan = nil },
		"another place": func(h *exchangepb.CopyHeader) { h.Column = -1 },
	} {
		h := headerOf(&k, 1, 10, 0)
		change(h)
		if _, err := keyIn(h); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := keyIn(nil); !errors.Is(err, ErrCorrupt) {
		t.Errorf("no header: %v", err)
	}
}
