package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"colonnade/proto/exchangepb"
)

// raw is a peer that puts on the wire whatever a test wants.
type raw struct {
	conn   *grpc.ClientConn
	stream grpc.ClientStream
	cancel context.CancelFunc
}

// rawCodec sends bytes as they are, under the name of the real codec, and receives with the real one.
type rawCodec struct{ codec }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	return codec{}.Marshal(v)
}

// dialRaw opens a stream to a node and says hello as cell 1 of worker "raw".
func dialRaw(t *testing.T, address string, generation uint64, dial ...grpc.DialOption) (*raw, error) {
	t.Helper()
	dial = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, dial...)
	conn, err := grpc.NewClient(address, dial...)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &raw{conn: conn, cancel: cancel}
	desc := &exchangepb.Exchange_ServiceDesc.Streams[0]
	r.stream, err = conn.NewStream(ctx, desc, exchangepb.Exchange_Open_FullMethodName, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		r.close()
		return nil, err
	}
	var zero [32]byte
	hello, err := proto.Marshal(&exchangepb.Hello{Job: "job", Generation: generation,
		FromColumn: 1, Worker: "raw", PlanDigest: zero[:], Numerics: "test"})
	if err != nil {
		t.Fatal(err)
	}
	f := dataFrame(generation, Tag{}, 0, hello, len(hello))
	f.kind = kindHello
	r.send(f)
	var answer incoming
	if err := r.stream.RecvMsg(&answer); err != nil {
		r.close()
		return nil, err
	}
	answer.free()
	return r, nil
}

// send puts a frame, or bytes, on the wire. Whether the other end still listens is not the question here.
func (r *raw) send(v any) { _ = r.stream.SendMsg(v) }

func (r *raw) close() {
	r.cancel()
	r.conn.Close()
}

// dataFrame is a good frame from cell 1 to cell 0.
func dataFrame(generation uint64, tag Tag, chunk uint32, payload []byte, total int) *outgoing {
	return &outgoing{payload: payload, header: header{kind: kindData, job: jobHash("job"), generation: generation,
		tag: tag, from: Cell{Column: 1}, to: Cell{}, total: uint64(total), chunk: chunk}}
}

// sink is a worker that welcomes peers and only listens.
type sink struct {
	exchangepb.UnimplementedExchangeServer
	asleep bool // after its welcome
}

func (s sink) Open(stream grpc.BidiStreamingServer[exchangepb.Frame, exchangepb.Frame]) error {
	for first := true; ; first = false {
		var f incoming
		if err := stream.RecvMsg(&f); err != nil {
			return nil
		}
		f.free()
		if first {
			hello := &outgoing{header: header{kind: kindHello, job: f.job, generation: f.generation}}
			if err := stream.SendMsg(hello); err != nil {
				return err
			}
		}
		if s.asleep {
			<-stream.Context().Done()
			return nil
		}
	}
}

// startSink serves a sink and returns its address.
func startSink(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(ServerOptions()...)
	exchangepb.RegisterExchangeServer(s, sink{})
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return l.Addr().String()
}

// joinRaw joins cell 0 on a real mesh with cell 1 on a raw peer.
func joinRaw(t *testing.T, n *node, sink string, generation uint64) (*Membership, *raw) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var m *Membership
	var joined error
	var wait sync.WaitGroup
	wait.Go(func() {
		m, joined = n.mesh.Join(ctx, Group{Job: "job", Generation: generation, Numerics: "test", Local: []Cell{{}},
			Peers: []Peer{{Cell: Cell{Column: 1}, Worker: "raw", Address: sink}}})
	})
	var r *raw
	var err error
	for r == nil && ctx.Err() == nil {
		if r, err = dialRaw(t, n.address, generation); err != nil && status.Code(err) != codes.Unavailable {
			break
		}
	}
	wait.Wait()
	if err != nil || joined != nil {
		t.Fatal(err, joined)
	}
	return m, r
}

// badStreams are what a peer may do wrong after its hello; message 5 of step 9, two chunks, is due.
var badStreams = map[string]struct {
	send func(t *testing.T, r *raw)
	want error
	says string
}{
	"of an older generation": {send: func(t *testing.T, r *raw) {
		r.send(dataFrame(2, due, 0, first, len(whole)))
	}, want: ErrPeerLost, says: "generation 2"},
	"of a newer generation": {send: func(t *testing.T, r *raw) {
		r.send(dataFrame(4, due, 0, first, len(whole)))
	}, want: ErrPeerLost, says: "generation 4"},
	"of another job": {send: func(t *testing.T, r *raw) {
		f := dataFrame(3, due, 0, first, len(whole))
		f.job++
		r.send(f)
	}, want: ErrPeerLost, says: "bad frame"},
	"of another cell": {send: func(t *testing.T, r *raw) {
		f := dataFrame(3, due, 0, first, len(whole))
		f.from.Column = 2
		r.send(f)
	}, want: ErrPeerLost, says: "r0c2"},
	"to another cell": {send: func(t *testing.T, r *raw) {
		f := dataFrame(3, due, 0, first, len(whole))
		f.to.Column = 1
		r.send(f)
	}, want: ErrPeerLost, says: "bad frame"},
	"of an older step": {send: func(t *testing.T, r *raw) {
		r.send(dataFrame(3, Tag{Step: 8, Exchange: 5}, 0, first, len(whole)))
	}, want: ErrOutOfOrder, says: "step 8"},
	"of a newer step": {send: func(t *testing.T, r *raw) {
		r.send(dataFrame(3, Tag{Step: 10, Exchange: 5}, 0, first, len(whole)))
	}, want: ErrOutOfOrder, says: "step 10"},
	"of another exchange": {send: func(t *testing.T, r *raw) {
		r.send(dataFrame(3, Tag{Step: 9, Exchange: 6}, 0, first, len(whole)))
	}, want: ErrOutOfOrder, says: "exchange 6"},
	"duplicated": {send: func(t *testing.T, r *raw) {
		r.send(dataFrame(3, due, 0, first, len(whole)))
		r.send(dataFrame(3, due, 0, first, len(whole)))
	}, want: ErrOutOfOrder, says: "chunk 1 is due"},
	"reordered": {send: func(t *testing.T, r *raw) {
		r.send(dataFrame(3, due, 1, second, len(whole)))
		r.send(dataFrame(3, due, 0, first, len(whole)))
	}, want: ErrOutOfOrder, says: "chunk 0 is due"},
	"with a chunk too long": {send: func(t *testing.T, r *raw) {
		r.send(dataFrame(3, due, 0, first, len(whole)))
		r.send(dataFrame(3, due, 1, first, len(whole)))
	}, want: ErrOutOfOrder, says: "chunk 1"},
	"with an empty chunk": {send: func(t *testing.T, r *raw) {
		r.send(dataFrame(3, due, 0, nil, len(whole)))
	}, want: ErrOutOfOrder, says: "0 bytes"},
	"of another length": {send: func(t *testing.T, r *raw) {
		r.send(dataFrame(3, due, 0, first, len(whole)+1))
	}, want: ErrOutOfOrder, says: "bytes"},
	"cut off": {send: func(t *testing.T, r *raw) {
		r.send(dataFrame(3, due, 0, first, len(whole)))
		r.cancel()
	}, want: ErrPeerLost, says: "connection broke"},
	"ended too early": {send: func(t *testing.T, r *raw) {
		r.send(dataFrame(3, due, 0, first, len(whole)))
		f := dataFrame(3, Tag{}, 0, nil, 0)
		f.kind = kindBye
		r.send(f)
	}, want: ErrPeerLost, says: "left"},
	"truncated": {send: func(t *testing.T, r *raw) {
		b := wire(t, dataFrame(3, due, 0, first, len(whole)))
		r.send(b[:len(b)-1])
	}, want: ErrPeerLost, says: "bad frame"},
	"of no header": {send: func(t *testing.T, r *raw) {
		r.send([]byte("hello"))
	}, want: ErrPeerLost, says: "bad frame"},
	"corrupted": {send: func(t *testing.T, r *raw) {
		b := wire(t, dataFrame(3, due, 0, first, len(whole)))
		b[len(b)/2] ^= 4
		r.send(b)
	}, want: ErrPeerLost, says: "checksum"},
	"larger than any": {send: func(t *testing.T, r *raw) {
		r.send(make([]byte, 3*ChunkBytes))
	}, want: ErrPeerLost, says: "larger than max"},
}

var (
	due    = Tag{Step: 9, Exchange: 5}
	whole  = payload(ChunkBytes+100, 3)
	first  = whole[:ChunkBytes]
	second = whole[ChunkBytes:]
)

// TestBadFramesAreRefusedWithoutHarm has a peer break every rule in turn: the generation ends with an error that names
// it, and the next generation, on the same mesh, works.
func TestBadFramesAreRefusedWithoutHarm(t *testing.T) {
	for name, c := range badStreams {
		t.Run(name, func(t *testing.T) {
			n, to := startNode(t, "us", Config{}), startSink(t)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			m, r := joinRaw(t, n, to, 3)
			defer r.close()
			c.send(t, r)
			err := m.Exchanger(Cell{}).Recv(ctx, Cell{Column: 1}, due, make([]byte, len(whole)))
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || strings.ContainsAny(err.Error(), "\n") {
				t.Errorf("got %v, want %v that says %q", err, c.want, c.says)
			}
			var peer *PeerError
			if errors.Is(c.want, ErrPeerLost) &&
				(!errors.As(err, &peer) || peer.Worker != "raw" || peer.Cell != Cell{Column: 1}) {
				t.Errorf("%v does not name the peer", err)
			}
			m.Abort("bad frame")

			m, again := joinRaw(t, n, to, 4)
			defer again.close()
			again.send(dataFrame(4, due, 0, first, len(whole)))
			again.send(dataFrame(4, due, 1, second, len(whole)))
			got := make([]byte, len(whole))
			if err := m.Exchanger(Cell{}).Recv(ctx, Cell{Column: 1}, due, got); err != nil || !bytes.Equal(got, whole) {
				t.Errorf("the next generation: %v", err)
			}
			m.Abort("enough")
		})
	}
}

// TestAStaleHelloIsTurnedAway has peers knock that are behind, ahead, or a second time.
func TestAStaleHelloIsTurnedAway(t *testing.T) {
	n, to := startNode(t, "us", Config{}), startSink(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	m, r := joinRaw(t, n, to, 3)
	defer m.Close()
	defer r.close()
	for generation, want := range map[uint64]codes.Code{
		2: codes.FailedPrecondition, 3: codes.FailedPrecondition, 4: codes.Unavailable} {
		if _, err := dialRaw(t, n.address, generation); status.Code(err) != want {
			t.Errorf("hello of generation %d: got %v, want %v", generation, err, want)
		}
	}
	r.send(dataFrame(3, due, 0, second, len(second)))
	if err := m.Exchanger(Cell{}).Recv(ctx, Cell{Column: 1}, due, make([]byte, len(second))); err != nil {
		t.Errorf("the link that stood before: %v", err)
	}
	_, err := n.mesh.Join(ctx, Group{Job: "job", Generation: 2, Numerics: "test", Local: []Cell{{}}})
	if !errors.Is(err, ErrStale) || m.Err() != nil {
		t.Errorf("an older generation joins: %v; the newer one: %v", err, m.Err())
	}
}

func TestWhoListensIsNoWorker(t *testing.T) {
	n := startNode(t, "us", Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	}()
	defer func() {
		s.Stop()
		<-served
	}()
	_, err = n.mesh.Join(context.Background(), Group{Job: "job", Generation: 1, Local: []Cell{{}},
		Peers: []Peer{{Cell: Cell{Column: 1}, Worker: "other", Address: l.Addr().String()}}})
	if !errors.Is(err, ErrPeerLost) || !strings.Contains(err.Error(), "no worker") {
		t.Errorf("got %v", err)
	}
}

// TestRandomDelaysChangeNothing sends with every message delayed at random, over every carrier.
func TestRandomDelaysChangeNothing(t *testing.T) {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(5, 6))
	delay := func(ctx context.Context, _, _ Cell, _ Tag) {
		mu.Lock()
		d := time.Duration(r.IntN(2000)) * time.Microsecond
		mu.Unlock()
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	for name, c := range carriers {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			ex, _ := c.join(t, ctx, 4, Config{Delay: delay})
			rounds(t, ctx, ex, 30)
		})
	}
}

// TestASenderIsHeldBack wants a sender that nobody receives from to stop after a bounded amount, not to be taken for
// silent or dead meanwhile, and to go on, with nothing lost, once somebody does.
func TestASenderIsHeldBack(t *testing.T) {
	for name, most := range map[string]int{"local": 16, "grpc": 160} { // MiB: the package comment's bounds, and slack
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { holdBack(t, name == "local", most) })
		})
	}
}

// pair is two cells of one or two workers in virtual time.
func pair(t *testing.T, b *bubble, local bool) (ends []Exchanger, leave func()) {
	t.Helper()
	var meshes []*Mesh
	for i := range 2 {
		m := New(Config{Worker: fmt.Sprintf("w%d", i), Log: slog.New(slog.DiscardHandler),
			Dial: []grpc.DialOption{grpc.WithContextDialer(b.dial)}})
		b.start(fmt.Sprintf("127.0.0.%d:1", i+1), m.Register)
		meshes = append(meshes, m)
	}
	members := make([]*Membership, 2)
	var wait sync.WaitGroup
	for i, m := range meshes {
		// Virtual time stands still while someone sleeps in shared memory.
		g := Group{Job: "job", Generation: 1, Carrier: CarrierGRPC, Local: []Cell{{Column: i}}, Peers: []Peer{{
			Cell: Cell{Column: 1 - i}, Worker: fmt.Sprintf("w%d", 1-i), Address: fmt.Sprintf("127.0.0.%d:1", 2-i)}}}
		if local {
			g = Group{Job: "job", Generation: 1, Local: cellsOf(2)}
		}
		wait.Go(func() {
			var err error
			if members[i], err = m.Join(context.Background(), g); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
	second := members[1]
	if local {
		second = members[0]
	}
	return []Exchanger{members[0].Exchanger(Cell{}), second.Exchanger(Cell{Column: 1})}, func() {
		for i, m := range meshes {
			wait.Go(func() {
				if err := errors.Join(members[i].Close(), m.Close()); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
	}
}

func holdBack(t *testing.T, local bool, most int) {
	const messages, size = 200, ChunkBytes
	b := &bubble{t: t, listeners: map[string]*bufconn.Listener{}}
	ends, leave := pair(t, b, local)
	var sent atomic.Int32
	var wait sync.WaitGroup
	wait.Go(func() {
		data := payload(size, 1)
		for i := range messages {
			if err := ends[0].Send(context.Background(), Cell{Column: 1}, Tag{Step: uint64(i)}, data); err != nil {
				t.Error(err)
				return
			}
			sent.Add(1)
		}
	})
	time.Sleep(10 * DefaultSilence) // for longer than a peer may be silent: being held back is no silence
	if n := int(sent.Load()); n > most || n == 0 {
		t.Errorf("%d messages of %d bytes are on their way, want up to %d", n, size, most)
	}
	got, want := make([]byte, size), payload(size, 1)
	for i := range messages {
		err := ends[1].Recv(context.Background(), Cell{Column: 0}, Tag{Step: uint64(i)}, got)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	wait.Wait()
	leave()
	b.stop()
}

// stuck are the places a cell may be in when its generation is over.
var stuck = map[string]func(ctx context.Context, ex []Exchanger) error{
	"receiving": func(ctx context.Context, ex []Exchanger) error {
		return ex[0].Recv(ctx, Cell{Column: 1}, due, make([]byte, 10))
	},
	"sending": func(ctx context.Context, ex []Exchanger) error {
		for i := 0; ; i++ {
			if err := ex[0].Send(ctx, Cell{Column: 1}, Tag{Step: uint64(i)}, whole); err != nil {
				return err
			}
		}
	},
}

// TestAStuckGenerationEndsWhenAsked ends a generation whose cell is stuck in the exchange by its context, by Close and
// by a newer generation.
func TestAStuckGenerationEndsWhenAsked(t *testing.T) {
	over := errors.New("generation is over")
	for where, wait := range stuck {
		for _, carrier := range []string{"local", "shm", "grpc"} {
			for how, end := range map[string]struct {
				do   func(cancel context.CancelCauseFunc, m *Membership)
				want error
			}{
				"cancelled": {func(cancel context.CancelCauseFunc, _ *Membership) { cancel(over) }, over},
				"closed":    {func(_ context.CancelCauseFunc, m *Membership) { m.Close() }, ErrClosed},
				"newer": {func(_ context.CancelCauseFunc, m *Membership) {
					newer, err := m.mesh.Join(context.Background(), Group{Job: "job", Generation: 9, Local: []Cell{{}}})
					if err == nil {
						newer.Close()
					}
				}, ErrStale},
			} {
				t.Run(fmt.Sprint(where, " ", carrier, " ", how), func(t *testing.T) {
					ctx, cancel := context.WithCancelCause(context.Background())
					defer cancel(nil)
					ex, members := carriers[carrier].join(t, ctx, 2, Config{})
					got := make(chan error, 1)
					go func() { got <- wait(ctx, ex) }()
					end.do(cancel, members[0])
					if err := <-got; !errors.Is(err, end.want) {
						t.Errorf("got %v, want %v", err, end.want)
					}
				})
			}
		}
	}
}

// bubble is a network of meshes in virtual time.
type bubble struct {
	t         *testing.T
	listeners map[string]*bufconn.Listener
	servers   []*grpc.Server
	served    sync.WaitGroup
}

func (b *bubble) dial(ctx context.Context, address string) (net.Conn, error) {
	l, ok := b.listeners[address]
	if !ok {
		return nil, errors.New("connection refused")
	}
	return l.DialContext(ctx)
}

func (b *bubble) start(address string, register func(*grpc.Server)) {
	s := grpc.NewServer(ServerOptions()...)
	register(s)
	l := bufconn.Listen(1 << 20)
	b.listeners[address] = l
	b.servers = append(b.servers, s)
	b.served.Go(func() {
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			b.t.Errorf("serve: %v", err)
		}
	})
}

func (b *bubble) stop() {
	for _, s := range b.servers {
		s.Stop()
	}
	b.served.Wait()
}

// TestSilenceIsNoticedInTime has a peer that stays connected and says nothing: it is named within two seconds. One that
// only has nothing to send is not.
func TestSilenceIsNoticedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, listeners: map[string]*bufconn.Listener{}}
		dial := grpc.WithContextDialer(b.dial)
		mesh := New(Config{Worker: "us", Log: slog.New(slog.DiscardHandler), Dial: []grpc.DialOption{dial}})
		b.start("127.0.0.1:1", mesh.Register)
		b.start("127.0.0.2:1", func(s *grpc.Server) { exchangepb.RegisterExchangeServer(s, sink{asleep: true}) })
		peers := []Peer{{Cell: Cell{Column: 1}, Worker: "silent", Address: "127.0.0.2:1"}}
		type joined struct {
			m   *Membership
			err error
		}
		done := make(chan joined, 1)
		go func() {
			m, err := mesh.Join(context.Background(), Group{Job: "job", Generation: 3, Numerics: "test", Local: []Cell{{}},
				Peers: peers})
			done <- joined{m, err}
		}()
		synctest.Wait()
		if w := mesh.Waiting("job", 3); len(w) != 1 || w[0] != peers[0] {
			t.Errorf("waits for %v, want %v", w, peers)
		}
		if w := mesh.Waiting("job", 2); w != nil {
			t.Errorf("generation 2 waits for %v", w)
		}
		r, err := dialRaw(t, "127.0.0.1:1", 3, dial)
		if err != nil {
			t.Fatal(err)
		}
		j := <-done
		if j.err != nil {
			t.Fatal(j.err)
		}
		if w := mesh.Waiting("job", 3); w != nil {
			t.Errorf("all joined, and it waits for %v", w)
		}
		keepalive := dataFrame(3, Tag{}, 0, nil, 0)
		keepalive.kind = kindKeepalive
		for range 100 {
			time.Sleep(DefaultSilence / 2)
			r.send(keepalive)
		}
		synctest.Wait()
		if err := j.m.Err(); err != nil {
			t.Fatalf("a peer that speaks is lost: %v", err)
		}
		began := time.Now()
		err = j.m.Exchanger(Cell{}).Recv(context.Background(), Cell{Column: 1}, due, make([]byte, 1))
		var peer *PeerError
		if !errors.As(err, &peer) || peer.Worker != "silent" || !strings.Contains(err.Error(), "silent for 2s") {
			t.Errorf("got %v, want the silent peer's name", err)
		}
		if took := time.Since(began); took > 2*time.Second || took < time.Second {
			t.Errorf("noticed after %v", took)
		}
		began = time.Now()
		j.m.Abort("peer lost")
		if took := time.Since(began); took > DefaultSilence/abortPart {
			t.Errorf("giving up took %v", took)
		}
		r.close()
		if n := len(mesh.conns); n != 0 {
			t.Errorf("%d connections are left of a generation that is over", n)
		}
		mesh.Close()
		b.stop()
	})
}

// TestOurOwnSleepIsNotThePeersSilence fires one overdue tick, as a process sees that was stopped and goes on.
func TestOurOwnSleepIsNotThePeersSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := make(chan struct{})
		w := watchSilence(4*time.Hour, func() { close(lost) })
		w.timer.Stop()
		time.Sleep(24 * time.Hour) // stopped
		w.tick()                   // the one tick that was due
		for range 10 {
			w.heard()
			time.Sleep(150 * time.Minute)
		}
		w.hold()
		time.Sleep(24 * time.Hour)
		select {
		case <-lost:
			t.Fatal("called lost though it was heard of, or held back")
		default:
		}
		w.heard()
		began := time.Now()
		<-lost
		if took := time.Since(began); took > 4*time.Hour || took < 3*time.Hour {
			t.Errorf("noticed silence after %v", took)
		}
	})
}
