package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"colonnade/cudakern"
)

// memory stands in for a device: its buffers are of the heap, its landings files that processes map. What is given back
// is the first to be used again.
type memory struct {
	cudakern.Device // nil: the exchange calls nothing else
	dir             string
	deaf            error  // says Attach and Reach
	puts            func() // called before every Put

	mu    sync.Mutex
	made  int
	back  chan struct{} // a token after a landing is given back
	spare []string
	lent  int
}

func newMemory(dir string) *memory { return &memory{dir: dir, back: make(chan struct{}, 1)} }

func (d *memory) NewLanding(n int) (cudakern.Landing, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var path string
	if len(d.spare) > 0 {
		path, d.spare = d.spare[0], d.spare[1:]
	} else {
		d.made++
		path = filepath.Join(d.dir, fmt.Sprintf("%d-%p-%d", os.Getpid(), d, d.made))
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, err
	}
	if err := os.Truncate(path, int64(n)); err != nil {
		return nil, err
	}
	d.lent++
	return mapLanding(path, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.lent--
		d.spare = append(d.spare, path)
		select {
		case d.back <- struct{}{}:
		default: // the one before has not been seen yet
		}
	})
}

// kept is how many landings have not been given back.
func (d *memory) kept() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lent
}

func (d *memory) Attach(handle []byte) (cudakern.Landing, error) {
	if d.deaf != nil {
		return nil, d.deaf
	}
	return mapLanding(string(handle), func() {})
}

func (d *memory) Reach(cudakern.Landing) error { return d.deaf }

func (d *memory) Put(_ cudakern.Stream, to cudakern.Landing, at int, src cudakern.Buffer) error {
	if d.puts != nil {
		d.puts()
	}
	return to.(*mapped).use(at, func(b []byte) { copy(b, src.(bytesOnDevice)) })
}

func (d *memory) Take(_ cudakern.Stream, dst cudakern.Buffer, from cudakern.Landing, at int) error {
	return from.(*mapped).use(at, func(b []byte) { copy(dst.(bytesOnDevice), b) })
}

type mapped struct {
	path string
	over func()
	mu   sync.Mutex
	b    []byte
}

func mapLanding(path string, over func()) (*mapped, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return &mapped{path: path, over: over, b: b}, err
}

func (m *mapped) Bytes() int              { return len(m.b) }
func (m *mapped) Handle() ([]byte, error) { return []byte(m.path), nil }

func (m *mapped) use(at int, f func([]byte)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.b == nil {
		return cudakern.ErrClosed
	}
	f(m.b[at:])
	return nil
}

func (m *mapped) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.b == nil {
		return nil
	}
	err := unix.Munmap(m.b)
	m.b = nil
	m.over()
	return err
}

type bytesOnDevice []byte

func (bytesOnDevice) Shape() cudakern.Shape   { return nil }
func (bytesOnDevice) Layout() cudakern.Layout { return cudakern.Plain }
func (b bytesOnDevice) Bytes() int            { return len(b) }
func (bytesOnDevice) Free()                   {}

type atOnce struct{ cudakern.Stream }

func (atOnce) Sync() error { return nil }

// buffered sends and receives buffers of a device where there is a way, as the trainer does.
type buffered struct {
	BufferExchanger
	landed, staged atomic.Int64 // messages received
}

func (b *buffered) Send(ctx context.Context, to Cell, tag Tag, data []byte) error {
	sent, err := b.SendBuffer(ctx, to, tag, atOnce{}, bytesOnDevice(data))
	if err == nil && !sent {
		err = b.BufferExchanger.Send(ctx, to, tag, data)
	}
	return err
}

func (b *buffered) Recv(ctx context.Context, from Cell, tag Tag, into []byte) error {
	host := make([]byte, len(into))
	landed, err := b.RecvBuffer(ctx, from, tag, atOnce{}, bytesOnDevice(into), host)
	if err != nil {
		return err
	}
	if landed {
		b.landed.Add(1)
		return nil
	}
	b.staged.Add(1)
	copy(into, host)
	return nil
}

// devices gives every local cell of a group a device.
func devices(g *Group, d *memory) {
	g.Largest, g.Devices = ChunkBytes, map[Cell]cudakern.Device{}
	for _, c := range g.Local {
		g.Devices[c] = d
	}
}

// TestLandingCarriesMaps has columns of a replica hand over buffers and wants every one to land; what is too large, and
// what crosses between replicas, takes another way in its turn.
func TestLandingCarriesMaps(t *testing.T) {
	for name, at := range map[string][]int{"within": {0, 0}, "between": {0, 1}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			d := newMemory(t.TempDir())
			ex, members := joinAll(t, ctx, at, Config{}, func(_ int, g *Group) {
				devices(g, d)
				g.Carrier = CarrierPeer
			})
			for i, m := range members {
				if got := m.Carriers(Cell{Column: i}); got != "peer" {
					t.Errorf("carrier %q", got)
				}
			}
			var both [2]*buffered
			for i := range both {
				both[i] = &buffered{BufferExchanger: ex[i].(BufferExchanger)}
			}
			rounds(t, ctx, []Exchanger{both[0], both[1]}, 20)
			for i, b := range both {
				if b.landed.Load() != 20 || b.staged.Load() != 0 {
					t.Errorf("cell %d: %d messages landed, %d went through the host", i, b.landed.Load(), b.staged.Load())
				}
			}
			const steps = 6 // three of them before the other receives: one more than there are slots
			for step := range uint64(steps) {
				n := 1000 + int(step%2)*ChunkBytes
				if err := both[0].Send(ctx, Cell{Column: 1}, Tag{Step: step, Exchange: 1}, payload(n, byte(step))); err != nil {
					t.Fatal(err)
				}
			}
			for step := range uint64(steps) {
				got := make([]byte, 1000+int(step%2)*ChunkBytes)
				if err := both[1].Recv(ctx, Cell{}, Tag{Step: step, Exchange: 1}, got); err != nil ||
					!bytes.Equal(got, payload(len(got), byte(step))) {
					t.Fatalf("step %d: %v", step, err)
				}
			}
			if landed, staged := both[1].landed.Load()-20, both[1].staged.Load(); landed < 1 || staged < 3 {
				t.Errorf("%d of %d messages landed, %d went through the host", landed, steps, staged)
			}
			for _, m := range members {
				m.Close()
			}
			returned(t, d)
		})
	}
}

// returned waits until all landings have been given back.
func returned(t *testing.T, d *memory) {
	t.Helper()
	late := time.After(30 * time.Second)
	for d.kept() > 0 {
		select {
		case <-d.back:
		case <-late:
			t.Fatalf("%d landings are not given back", d.kept())
		}
	}
}

// TestNoLanding: devices that do not reach each other leave it to shared memory, with the reason; where copies from
// device to device were asked for, no link comes up.
func TestNoLanding(t *testing.T) {
	deaf := errors.New("no way from here")
	for name, c := range map[string]struct {
		at     []int
		change func(worker int, g *Group)
		want   string // carrier of cell 0
		why    string
	}{
		"within":           {[]int{0, 0}, nil, "local", ""},
		"between":          {[]int{0, 1}, nil, "shm", deaf.Error()},
		"forced within":    {[]int{0, 0}, func(_ int, g *Group) { g.Carrier = CarrierPeer }, "", deaf.Error()},
		"forced between":   {[]int{0, 1}, func(_ int, g *Group) { g.Carrier = CarrierPeer }, "", deaf.Error()},
		"one without":      {[]int{0, 1}, func(w int, g *Group) { onlyFirst(w, g) }, "shm", whyNoDevice},
		"one without, too": {[]int{1, 0}, func(w int, g *Group) { onlyFirst(w, g) }, "shm", whyNoDevice},
		"one forced": {[]int{0, 1}, func(w int, g *Group) {
			if g.Carrier = CarrierPeer; w == 1 {
				g.Carrier = CarrierSHM
			}
		}, "", "device to device"},
		"forced without devices": {[]int{0, 1}, func(_ int, g *Group) { g.Carrier, g.Devices = CarrierPeer, nil }, "",
			whyNoDevice},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			d := newMemory(t.TempDir())
			d.deaf = deaf
			change := func(w int, g *Group) {
				devices(g, d)
				if c.change != nil {
					c.change(w, g)
				}
			}
			if c.want == "" {
				refused(t, ctx, c.at, change, c.why)
			} else {
				ex, members := joinAll(t, ctx, c.at, Config{}, change)
				if got := members[c.at[0]].Carriers(Cell{}); got != c.want {
					t.Errorf("carrier %q", got)
				}
				if out, ok := members[c.at[0]].outs[[2]Cell{{}, {Column: 1}}].(*outLink); ok && !strings.Contains(out.why, c.why) {
					t.Errorf("why: %q", out.why)
				}
				rounds(t, ctx, ex, 3)
				for _, m := range members {
					m.Close()
				}
			}
			returned(t, d)
		})
	}
}

func onlyFirst(worker int, g *Group) {
	if worker > 0 {
		g.Devices = nil
	}
}

// refused wants no worker to join, and one at least to say why.
func refused(t *testing.T, ctx context.Context, at []int, change func(int, *Group), why string) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	nodes := []*node{startNode(t, "w0", Config{}), startNode(t, "w1", Config{})}
	said := make(chan error, len(nodes))
	for w, n := range nodes[:1+at[0]+at[1]] {
		g := Group{Job: "job", Generation: 3, Numerics: "test", Address: n.address}
		for i, c := range cellsOf(len(at)) {
			if at[i] == w {
				g.Local = append(g.Local, c)
			} else {
				g.Peers = append(g.Peers, Peer{Cell: c, Worker: fmt.Sprintf("w%d", at[i]), Address: nodes[at[i]].address})
			}
		}
		change(w, &g)
		go func() {
			m, err := n.mesh.Join(ctx, g)
			if m != nil {
				m.Close()
				err = errors.New("joined")
			}
			said <- err
		}()
	}
	var all error
	for range 1 + at[0] + at[1] {
		all = errors.Join(all, <-said)
		if errors.Is(all, ErrCarrier) { // the other may see its connection break before this one has returned
			cancel()
		}
	}
	if !errors.Is(all, ErrCarrier) || !strings.Contains(all.Error(), why) {
		t.Errorf("%v, want %q", all, why)
	}
}

// TestSleeperKeepsItsLanding stops a sender right before it copies into our memory, and kills another one: the landing
// stays out of use until the sleeper has let go of it, though the next generation runs meanwhile, and until the dead
// one is dead.
func TestSleeperKeepsItsLanding(t *testing.T) {
	dir := t.TempDir()
	d := newMemory(dir)
	n := startNode(t, "parent", Config{Silence: peerSilence, Rings: []string{dir}})
	sleeper := startChild(t, dir, deviceVariable+"=sleep")
	m := sleeper.join(t, n, 1, d)
	if got := m.Carriers(Cell{}); got != "peer" {
		t.Errorf("carrier %q", got)
	}
	err := trade(deviceEnd(m, Cell{}), 0, 1<<62, nil)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("silent for %v", peerSilence)) {
		if d.kept() == 0 {
			t.Log("the sleeper did not sleep, but says: ", sleeper.line(t))
		}
		t.Fatalf("the sleeper: %v", err)
	}
	m.Abort("peer lost")
	if d.kept() != 1 {
		t.Fatalf("%d landings are kept, one process may still write to its own", d.kept())
	}
	second := startChild(t, dir, deviceVariable+"=work")
	m = second.join(t, n, 2, d)
	landed := deviceEnd(m, Cell{})
	err = trade(landed, 0, 1<<62, func(step uint64) {
		switch step {
		case 10:
			if err := sleeper.cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Error(err)
			}
			if why := sleeper.line(t); why == "<nil>" || strings.Contains(why, "differ") {
				t.Errorf("the one that slept says %q", why)
			}
		case 20:
			if err := second.cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	})
	if err == nil || !strings.Contains(err.Error(), "its connection broke") || landed.landed.Load() < 20 {
		t.Errorf("the next generation: %v, %d messages landed", err, landed.landed.Load())
	}
	m.Abort("peer lost")
	returned(t, d)
}

// deviceEnd is a cell's end of the exchange that hands over buffers.
func deviceEnd(m *Membership, c Cell) *buffered {
	return &buffered{BufferExchanger: m.Exchanger(c).(BufferExchanger)}
}
