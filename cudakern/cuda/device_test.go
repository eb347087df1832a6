//go:build cuda && cgo

package cuda

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"

	"gorgonia.org/cu"

	"colonnade/cudakern"
)

// openTest opens a device that must be whole at the end of the test.
func openTest(t *testing.T, name string, options ...Option) *Device {
	t.Helper()
	d, err := openWith(name, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func streamTest(t *testing.T, d *Device) *stream {
	t.Helper()
	st, err := d.NewStream()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st.(*stream)
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// pattern is n bytes that repeat with a period no size has.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i/251)
	}
	return b
}

// TestCopies moves bytes of every kind of host memory to the GPU and back, in sizes around a piece of the staging.
func TestCopies(t *testing.T) {
	d := openTest(t, "cuda:0")
	st := streamTest(t, d)
	for _, n := range []int{1, 3, 4096, stagingBytes, stagingBytes + 1, 2 * stagingBytes, 5*stagingBytes + 17} {
		want := pattern(n)
		a, b := must(d.AllocBytes(n))(t), must(d.AllocBytes(n))(t)
		host := must(d.AllocHost(n))(t)
		got := make([]byte, n)
		scratch := bytes.Clone(want)
		err := d.CopyIn(st, a, scratch)
		clear(scratch) // it was not pinned: it has been read
		err = errors.Join(err, d.Copy(st, b, a), d.CopyOut(st, host.Bytes(), b), st.Sync())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(host.Bytes(), want) {
			t.Errorf("%d bytes do not come back in pinned memory", n)
		}
		zero := must(d.AllocBytes(n))(t)
		err = errors.Join(d.CopyIn(st, zero, host.Bytes()), d.CopyOut(st, got, zero), st.Sync())
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes do not come back in other memory: %v", n, err)
		}
		for _, x := range []cudakern.Buffer{a, b, zero} {
			if err := x.(cudakern.Guarded).Intact(); err != nil {
				t.Error(err)
			}
			x.Free()
		}
		host.Free()
	}
}

// TestGuards: a byte written on either side of a buffer is found.
func TestGuards(t *testing.T) {
	d := openTest(t, "cuda:0")
	for _, at := range []int{-1, 13, -guardBytes} {
		b := must(d.AllocBytes(13))(t).(*buffer)
		poke := func(v byte) {
			err := d.do(func() error { return cu.MemsetD8(b.addr+cu.DevicePtr(at), v, 1) })
			if err != nil {
				t.Fatal(err)
			}
		}
		poke(1)
		if err := b.Intact(); err == nil {
			t.Errorf("a byte written at %d of 13 goes unseen", at)
		}
		poke(guardByte)
		b.Free()
	}
}

// TestZeroed: memory is zero although what was there before was not, and was being written until the buffer was freed.
func TestZeroed(t *testing.T) {
	d := openTest(t, "cuda:0")
	st := streamTest(t, d)
	const n = 1 << 20
	host := must(d.AllocHost(n))(t)
	copy(host.Bytes(), pattern(n))
	for range 8 {
		b := must(d.AllocBytes(n))(t)
		if err := d.CopyIn(st, b, host.Bytes()); err != nil {
			t.Fatal(err)
		}
		b.Free() // waits for the copy
		b = must(d.AllocBytes(n))(t)
		got := make([]byte, n)
		if err := d.CopyOut(st, got, b); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, make([]byte, n)) {
			t.Fatal("new memory is not zero")
		}
		b.Free()
	}
	host.Free()
}

// TestEvents: a stream that waits for another's event sees what that one did before, though many events have been
// recorded since.
func TestEvents(t *testing.T) {
	d := openTest(t, "cuda:0")
	one, two := streamTest(t, d), streamTest(t, d)
	const n = 1 << 20
	a, b := must(d.AllocBytes(n))(t), must(d.AllocBytes(n))(t)
	defer a.Free()
	defer b.Free()
	host, back := must(d.AllocHost(n))(t), must(d.AllocHost(n))(t)
	defer host.Free()
	defer back.Free()
	for round := range 20 {
		copy(host.Bytes(), pattern(n))
		host.Bytes()[0] = byte(round)
		if err := d.CopyIn(one, a, host.Bytes()); err != nil {
			t.Fatal(err)
		}
		ev := must(one.Record())(t)
		for range round {
			must(one.Record())(t)
		}
		err := errors.Join(two.Wait(ev), d.Copy(two, b, a), d.CopyOut(two, back.Bytes(), b), two.Sync())
		if err != nil || !bytes.Equal(back.Bytes(), host.Bytes()) {
			t.Fatalf("round %d: the copy behind the event is not whole: %v", round, err)
		}
		if done, err := ev.Done(); !done || err != nil {
			t.Fatalf("round %d: the event has been waited for and is not done: %v", round, err)
		}
		if err := one.Sync(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTogether uses a device from several goroutines, each with a stream of its own.
func TestTogether(t *testing.T) {
	d := openTest(t, "cuda:0")
	var wait sync.WaitGroup
	for lane := range 4 {
		st := streamTest(t, d)
		wait.Go(func() {
			for i := range 20 {
				n := 1000*(lane+1) + i
				want, got := pattern(n), make([]byte, n)
				b, err := d.AllocBytes(n)
				if err == nil {
					err = errors.Join(d.CopyIn(st, b, want), d.CopyOut(st, got, b))
					b.Free()
				}
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("lane %d, %d bytes: %v", lane, n, err)
					return
				}
			}
		})
	}
	wait.Wait()
}

// TestOwnership: what is still in use keeps the device from closing, and freeing twice panics.
func TestOwnership(t *testing.T) {
	d := openTest(t, "cuda:0")
	h := must(d.AllocHost(10))(t)
	st := must(d.NewStream())(t)
	if d.Live() != 2 {
		t.Errorf("a host buffer and a stream, %d things alive", d.Live())
	}
	if err := d.Close(); err == nil || !strings.Contains(err.Error(), "2 buffers") {
		t.Errorf("closes with things in use: %v", err)
	}
	h.Free()
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	for what, f := range map[string]func(){"host buffer": h.Free, "stream": func() { _ = st.Close() }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("a %s is given back twice, and nothing says so", what)
				}
			}()
			f()
		}()
	}
	if err := st.Sync(); !errors.Is(err, cudakern.ErrClosed) {
		t.Errorf("a closed stream syncs: %v", err)
	}
}
