package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// ringPair is both ends of a ring in a directory of its own.
func ringPair(t *testing.T) (reads, writes *ring) {
	t.Helper()
	reads, nonce, err := makeRing([]string{t.TempDir()}, "w", minSlotBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reads.close)
	if reads.proven(nonce) {
		t.Fatal("proven before anyone has opened it")
	}
	writes, err = openRing(reads.path, nonce, minSlotBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(writes.close)
	if !reads.proven(nonce) {
		t.Fatal("not proven")
	}
	return reads, writes
}

// TestNoWakeUpIsLost has both ends sleep and wake a few thousand times in turn. They would sleep for an hour: one
// wake-up that is lost fails the test.
func TestNoWakeUpIsLost(t *testing.T) {
	reads, writes := ringPair(t)
	reads.recheck, writes.recheck = time.Hour, time.Hour
	const chunks = 20000
	done := make(chan error, 2)
	go func() {
		for i := uint32(0); i < chunks; {
			n, err := writes.room()
			switch {
			case err != nil:
				done <- err
				return
			case n == 0:
				writes.waitForRoom()
			default:
				writes.put(&header{kind: kindData, chunk: i, total: 4}, []byte{byte(i), 1, 2, 3})
				i++
			}
		}
		done <- nil
	}()
	go func() {
		for i := uint32(0); i < chunks; {
			h, p, ok, err := reads.next()
			switch {
			case err != nil || ok && (h.chunk != i || !bytes.Equal(p, []byte{byte(i), 1, 2, 3})):
				done <- fmt.Errorf("chunk %d is %d %v: %w", i, h.chunk, p, err)
				return
			case !ok:
				reads.waitForChunk()
			default:
				reads.take()
				i++
			}
		}
		done <- nil
	}()
	for range 2 {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("both sleep, or one does for ever")
		}
	}
}

// TestAPokeEndsASleep pokes ends that sleep for an hour.
func TestAPokeEndsASleep(t *testing.T) {
	reads, writes := ringPair(t)
	reads.recheck, writes.recheck = time.Hour, time.Hour
	for range ringSlots {
		writes.put(&header{kind: kindData}, nil)
		reads.count++ // as if all had been read, and no room made
	}
	for name, c := range map[string]struct {
		r     *ring
		sleep func()
	}{"reader": {reads, reads.waitForChunk}, "writer": {writes, writes.waitForRoom}} {
		awake := make(chan struct{})
		go func() {
			defer close(awake)
			c.sleep()
		}()
		for limit := time.After(time.Minute); ; {
			c.r.poke() // may come before the sleep
			select {
			case <-awake:
			case <-limit:
				t.Fatalf("the %s sleeps on", name)
			default:
				continue
			}
			break
		}
	}
}

// TestMadMemoryIsHarmless writes noise over the whole ring, or over parts of it, while it is read: whatever lies there,
// reading ends, within bounds, with an error or a chunk that fits.
func TestMadMemoryIsHarmless(t *testing.T) {
	reads, writes := ringPair(t)
	r := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for i := range 20000 {
		reads.count, writes.count = 0, 0
		reads.written.Store(0)
		reads.taken.Store(0)
		writes.put(&header{kind: kindData, total: 100}, make([]byte, 100))
		for range 1 + i%4 {
			at := []int{atWritten, atTaken, ringPage, ringPage + 60}[r.IntN(4)] + r.IntN(64)
			reads.mem[at] = byte(r.Uint32())
		}
		h, payload, ok, err := reads.next()
		n, full := writes.room()
		switch {
		case reads.written.Load() > ringSlots && err == nil || writes.taken.Load() != 0 && writes.taken.Load() != 1 &&
			full == nil:
			t.Fatalf("written %d, taken %d: nobody wonders", reads.written.Load(), writes.taken.Load())
		case n < 0 || n > ringSlots:
			t.Fatalf("room for %d chunks", n)
		case err != nil:
			refused++
			if !errors.Is(err, errRing) {
				t.Fatal(err)
			}
		case ok && (int(h.length) != len(payload) || len(payload) > minSlotBytes):
			t.Fatalf("chunk %+v with %d bytes", h, len(payload))
		}
	}
	if refused < 1000 {
		t.Errorf("%d of 20000 damaged rings were refused", refused)
	}
}

// TestAStaleWriterDoesNoHarm has a link's ring hold what a peer of an older generation, another job or another cell
// would write: it is refused, by name.
func TestAStaleWriterDoesNoHarm(t *testing.T) {
	for name, change := range map[string]func(h *header){
		"generation": func(h *header) { h.generation-- },
		"job":        func(h *header) { h.job++ },
		"from":       func(h *header) { h.from.Column = 7 },
		"to":         func(h *header) { h.to.Column = 7 },
		"kind":       func(h *header) { h.kind = kindBye },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			ex, members := carriers["shm"].join(t, ctx, 2, Config{})
			o := members[0].outs[[2]Cell{{}, {Column: 1}}].(*outLink)
			h := o.header(kindData, due)
			h.total = 8
			change(&h)
			o.ring.put(&h, make([]byte, 8))
			err := ex[1].Recv(ctx, Cell{}, due, make([]byte, 8))
			var peer *PeerError
			if !errors.As(err, &peer) || peer.Worker != "w0" || members[1].Err() == nil {
				t.Errorf("got %v, and the membership's error is %v", err, members[1].Err())
			}
		})
	}
}

// TestNothingIsLeft looks for ring files while links stand: there are none any more. What a process left that died in
// between is reaped, what is in use is not.
func TestNothingIsLeft(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, members := carriers["shm"].join(t, ctx, 2, Config{Rings: []string{dir}})
	if got := members[0].Carriers(Cell{}); got != "shm" {
		t.Fatalf("carrier %q", got)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in the directory: %v, %v", left, err)
	}
	live, _, err := makeRing([]string{dir}, "w/../1", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer live.close()
	orphan := filepath.Join(dir, "colonnade-dead-1-00.ring")
	other := filepath.Join(dir, "colonnade-of-someone.txt")
	for _, path := range []string{orphan, other} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reaped := ReapRings([]string{filepath.Join(dir, "missing"), dir})
	if len(reaped) != 1 || reaped[0] != orphan {
		t.Errorf("reaped %v, want %s", reaped, orphan)
	}
	for _, path := range []string{live.path, other} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

// TestOpenRingRefuses offers what is no ring of ours: it is refused, in one line, and not written to.
func TestOpenRingRefuses(t *testing.T) {
	dir := t.TempDir()
	r, nonce, err := makeRing([]string{dir}, "w", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	other := filepath.Join(dir, "colonnade-other.ring")
	short := filepath.Join(dir, "colonnade-short.ring")
	link := filepath.Join(dir, "colonnade-link.ring")
	err = errors.Join(os.WriteFile(other, make([]byte, ringSize(ChunkBytes)), 0o600), os.Symlink(r.path, link),
		os.WriteFile(short, r.mem[:ringPage], 0o600))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path  string
		nonce []byte
		slot  uint64
	}{
		"another file of the size": {other, nonce, ChunkBytes},
		"another nonce":            {r.path, make([]byte, nonceBytes), ChunkBytes},
		"no nonce":                 {r.path, nil, ChunkBytes},
		"another size":             {r.path, nonce, ChunkBytes + 4096},
		"no size":                  {r.path, nonce, 0},
		"a huge size":              {r.path, nonce, 1 << 62},
		"cut off":                  {short, nonce, ChunkBytes},
		"a link":                   {link, nonce, ChunkBytes},
		"a directory":              {dir, nonce, ChunkBytes},
		"no name of a ring":        {"/etc/passwd", nonce, ChunkBytes},
		"a relative path":          {"colonnade-x.ring", nonce, ChunkBytes},
		"nothing there":            {filepath.Join(dir, "colonnade-x.ring"), nonce, ChunkBytes},
	} {
		if got, err := openRing(c.path, c.nonce, c.slot); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if r.proven(nonce) {
		t.Error("something was written to the ring")
	}
}

// TestCarrierOfAPair joins two workers that can or cannot share memory.
func TestCarrierOfAPair(t *testing.T) {
	here, nowhere := Config{}, Config{Rings: []string{"/nonexistent"}}
	for name, c := range map[string]struct {
		force [2]Carrier
		cfg   [2]Config
		want  [2]string // what each sends over, or
		says  string    // the error of a forced one
	}{
		"auto":                {want: [2]string{"shm", "shm"}},
		"one forces gRPC":     {force: [2]Carrier{CarrierGRPC, CarrierAuto}, want: [2]string{"grpc", "grpc"}},
		"one forces shm":      {force: [2]Carrier{CarrierAuto, CarrierSHM}, want: [2]string{"shm", "shm"}},
		"other hosts":         {cfg: [2]Config{{Host: "a"}, {Host: "b"}}, want: [2]string{"grpc", "grpc"}},
		"no directory at one": {cfg: [2]Config{here, nowhere}, want: [2]string{"grpc", "shm"}},
		"no directory":        {cfg: [2]Config{nowhere, nowhere}, want: [2]string{"grpc", "grpc"}},
		"second directory": {
			cfg: [2]Config{{Rings: []string{"/nonexistent", t.TempDir()}}, here}, want: [2]string{"shm", "shm"}},
		"forced, other hosts": {force: [2]Carrier{CarrierSHM, CarrierSHM}, cfg: [2]Config{{Host: "a"}, {Host: "b"}},
			says: "different hosts"},
		"forced by one, other hosts": {force: [2]Carrier{CarrierAuto, CarrierSHM},
			cfg: [2]Config{{Host: "a"}, {Host: "b"}}, says: "different hosts"},
		"forced, no directory": {force: [2]Carrier{CarrierSHM, CarrierSHM}, cfg: [2]Config{here, nowhere},
			says: "/nonexistent"},
		"forced both": {force: [2]Carrier{CarrierSHM, CarrierGRPC}, says: "takes gRPC only"},
	} {
		t.Run(name, func(t *testing.T) { joinPair(t, c.force, c.cfg, c.want, c.says) })
	}
}

func joinPair(t *testing.T, force [2]Carrier, cfg [2]Config, want [2]string, says string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var nodes [2]*node
	for i := range nodes {
		nodes[i] = startNode(t, fmt.Sprintf("w%d", i), cfg[i])
	}
	var members [2]*Membership
	var errs [2]error
	var wait sync.WaitGroup
	for i, n := range nodes {
		g := Group{Job: "job", Generation: 1, Carrier: force[i], Local: []Cell{{Column: i}}, Peers: []Peer{{
			Cell: Cell{Column: 1 - i}, Worker: fmt.Sprintf("w%d", 1-i), Address: nodes[1-i].address}}}
		wait.Go(func() {
			if members[i], errs[i] = n.mesh.Join(ctx, g); errors.Is(errs[i], ErrCarrier) {
				cancel() // the other one would wait for ever
			}
		})
	}
	wait.Wait()
	var got [2]string
	for i, m := range members {
		if m != nil {
			got[i] = m.Carriers(Cell{Column: i})
			wait.Go(func() { m.Close() })
		}
	}
	wait.Wait()
	err := errors.Join(errs[:]...)
	switch {
	case says == "" && (err != nil || got != want):
		t.Errorf("carriers %q, %v; want %q", got, err, want)
	case says != "" && (!errors.Is(err, ErrCarrier) || !strings.Contains(err.Error(), says) ||
		!strings.Contains(err.Error(), "use --carrier auto")):
		t.Errorf("got %v, want an error that says %q and what to do", err, says)
	}
}

// TestASenderIsHeldBackInMemory wants a sender that nobody receives from to stop after two slots, one message in hand
// and a full queue, not to be taken for silent meanwhile, and to go on, with nothing lost, once somebody receives.
func TestASenderIsHeldBackInMemory(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const silence = 100 * time.Millisecond
	ex, members := carriers["shm"].join(t, ctx, 2, Config{Silence: silence})
	sent := 0
	for {
		enough, stop := context.WithTimeout(ctx, 3*silence)
		err := ex[0].Send(enough, Cell{Column: 1}, Tag{Step: uint64(sent)}, payload(1000, byte(sent)))
		stop()
		if err != nil {
			break
		}
		sent++
	}
	if sent != ringSlots+1+queueMessages {
		t.Errorf("%d messages were sent, want %d", sent, ringSlots+1+queueMessages)
	}
	if err := members[1].Err(); err != nil {
		t.Errorf("held back, the sender is lost: %v", err)
	}
	got := make([]byte, 1000)
	for i := range sent {
		err := ex[1].Recv(ctx, Cell{}, Tag{Step: uint64(i)}, got)
		if err != nil || !bytes.Equal(got, payload(1000, byte(i))) {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}
