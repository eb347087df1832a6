package buddy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"

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
	door := NewDoor(s)
	server := grpc.NewServer(grpc.MaxRecvMsgSize(2*pieceBytes), grpc.Creds(door))
	Register(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		door.Close()
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

// sent is a piece as it travels.
type sent struct {
	sum  uint64
	data []byte
}

// TestDamagedPieces: a copy that is damaged, cut short or out of order on its way is none. What is said of it is read,
// and the connection is good for the next.
func TestDamagedPieces(t *testing.T) {
	s := New(nil)
	address := serve(t, s)
	whole := Copy{data: state(10)}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := writeAll(conn, []byte{mark}); err != nil {
		t.Fatal(err)
	}
	send := func(change func([]sent)) error {
		var all []sent
		for i := range whole.pieces() {
			all = append(all, sent{whole.sum(i), bytes.Clone(whole.piece(i))})
		}
		change(all)
		k := testKey()
		if err := writeHeader(conn, headerOf(&k, 1, 10, 0)); err != nil {
			t.Fatal(err)
		}
		if said, err := readStatus(conn); err != nil || said != nil {
			t.Fatal(said, err)
		}
		for _, p := range all {
			if err := writePiece(conn, p.sum, p.data); err != nil {
				t.Fatal(err)
			}
		}
		said, err := readStatus(conn)
		if err != nil {
			t.Fatal(err)
		}
		if said != nil {
			said = inWords(said)
		}
		return said
	}
	for name, change := range map[string]func([]sent){
		"a bit is another":       func(p []sent) { p[1].data[17] ^= 4 },
		"the last bit is":        func(p []sent) { last := p[len(p)-1].data; last[len(last)-1] ^= 128 },
		"two changed places":     func(p []sent) { p[0], p[1] = p[1], p[0] },
		"its checksum is wrong":  func(p []sent) { p[2].sum++ },
		"everything is of zeros": func(p []sent) { clear(p[0].data); p[0].sum = 0 },
	} {
		if err := send(change); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if holds(t, s); s.Bytes() != 0 {
			t.Errorf("%s: %d bytes are kept of it", name, s.Bytes())
		}
	}
	if err := send(func([]sent) {}); err != nil {
		t.Error(err)
	}
	holds(t, s, 10)
}

// TestCutShort: of a copy whose sender ends in the middle nothing stays, nor of a header that is none.
func TestCutShort(t *testing.T) {
	s := New(nil)
	address := serve(t, s)
	for name, send := range map[string]func(net.Conn) error{
		"in a piece": func(c net.Conn) error {
			k := testKey()
			if err := writeHeader(c, headerOf(&k, 1, 10, 0)); err != nil {
				return err
			}
			if said, err := readStatus(c); err != nil || said != nil {
				return errors.Join(said, err)
			}
			return writePiece(c, 1, state(10)[:pieceBytes/2])
		},
		"in a header":       func(c net.Conn) error { return writeAll(c, []byte{100, 0, 0, 0, 1}) },
		"a header too long": func(c net.Conn) error { return writeAll(c, []byte{0, 0, 0, 1}) },
		"no header":         func(c net.Conn) error { return writeAll(c, []byte{2, 0, 0, 0, 0xff, 0xff}) },
	} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		err = writeAll(conn, []byte{mark})
		if err == nil {
			err = send(conn)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, syscall.ECONNRESET) { // the other side ends it
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
		if holds(t, s); s.Bytes() != 0 {
			t.Errorf("%s: %d bytes are kept", name, s.Bytes())
		}
	}
}

// TestTheSameConnection: copies go over one connection one after another, and over a new one when the other side has
// begun anew at the same address; one that is called off ends.
func TestTheSameConnection(t *testing.T) {
	own, theirs := New(nil), New(nil)
	c := client(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	for step := uint64(1); step <= 4; step++ {
		put(t, own, 1, step, 0)
		what, err := own.Open("c", "j", 0, 1, step)
		if err != nil {
			t.Fatal(err)
		}
		door := NewDoor(theirs)
		server := grpc.NewServer(grpc.Creds(door))
		done := make(chan error, 1)
		go func() { done <- server.Serve(l) }()
		for range 2 {
			if err := c.Put(t.Context(), address, what, 0); err != nil {
				t.Errorf("step %d: %v", step, err)
			}
		}
		door.mu.Lock()
		n := len(door.conns)
		door.mu.Unlock()
		if n != 1 {
			t.Errorf("%d connections", n)
		}
		holds(t, theirs, step)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.Put(over, address, what, 0); !errors.Is(err, context.Canceled) {
			t.Errorf("called off: %v", err)
		}
		what.Close()
		server.Stop()
		<-done
		door.Close()
		if l, err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
	}
	l.Close()
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

// BenchmarkPut is what a copy of alexnet-32's cell takes, from the cell's memory to another worker's store.
func BenchmarkPut(b *testing.B) {
	key := testKey()
	key.HalfBytes = 3_670_016
	own, theirs := New(nil), New(nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	door := NewDoor(theirs)
	server := grpc.NewServer(grpc.Creds(door))
	go server.Serve(l)
	defer door.Close()
	defer server.Stop()
	c := NewClient()
	defer c.Close()
	from := make([]byte, key.HalfBytes)
	b.SetBytes(int64(len(from)))
	step := uint64(0)
	for b.Loop() {
		step++
		a, err := own.Begin(key, 1, step, step-1)
		if err != nil {
			b.Fatal(err)
		}
		copy(a.Room(), from)
		a.Filled()
		if err := a.Done(); err != nil {
			b.Fatal(err)
		}
		what, err := own.Open("c", "j", 0, 1, step)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Put(b.Context(), l.Addr().String(), what, step-1); err != nil {
			b.Fatal(err)
		}
		what.Close()
	}
}
