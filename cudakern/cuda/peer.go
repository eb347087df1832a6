//go:build cuda && cgo

package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"gorgonia.org/cu"

	"colonnade/cudakern"
)

var _ cudakern.Lander = (*Device)(nil)

// landing is an allocation of the driver's own, made here or in another process. It keeps the GPU's primary context,
// so that it does not need the Device it was made by.
type landing struct {
	dev     cu.Device
	ctx     cu.CUContext
	name    string // of the GPU
	at      cu.DevicePtr
	bytes   int
	process int // whose it is

	mu     sync.RWMutex
	closed bool
	uses   sync.WaitGroup // copies that are to be enqueued yet
}

// landingUnit is what landings are rounded up to: the driver shares whole pieces of this size with other processes,
// and nothing else is to lie in ours.
const landingUnit = 2 << 20

// newLanding makes a landing of what get gives, in the device's context.
func (d *Device) newLanding(n, process int, get func() (cu.DevicePtr, error)) (*landing, error) {
	l := &landing{dev: d.dev, name: d.name, bytes: n, process: process}
	err := d.do(func() (err error) {
		if l.ctx, err = d.dev.RetainPrimaryCtx(); err != nil {
			return failed(err, "cuDevicePrimaryCtxRetain", d.props.model)
		}
		if l.at, err = get(); err != nil {
			_ = d.dev.ReleasePrimaryCtx() // one of several
		}
		return err
	})
	return l, err
}

func (d *Device) NewLanding(n int) (cudakern.Landing, error) {
	if n < 1 || d.dry {
		return nil, fmt.Errorf("new landing of %d bytes: %w", n, cudakern.ErrShape)
	}
	l, err := d.newLanding(n, os.Getpid(), func() (cu.DevicePtr, error) {
		room := roundUp(int64(n), landingUnit)
		at, err := cu.MemAlloc(room)
		return at, failed(err, "cuMemAlloc", sizeOf(room))
	})
	if err != nil {
		return nil, fmt.Errorf("new landing on %s: %w", d.name, err)
	}
	return l, nil
}

func (l *landing) Bytes() int { return l.bytes }

// handleBytes is the length of a handle: the driver's, then the landing's bytes and its process's id, both u64.
const handleBytes = ipcBytes + 16

func (l *landing) Handle() ([]byte, error) {
	if err := l.enter(); err != nil {
		return nil, err
	}
	defer l.uses.Done()
	memory, err := ipcHandle(l.ctx, l.at)
	if err != nil {
		return nil, fmt.Errorf("share memory of %s with another process: %w", l.name, unsupported(err))
	}
	b := append(make([]byte, 0, handleBytes), memory[:]...)
	for _, v := range []int{l.bytes, l.process} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	return b, nil
}

func (d *Device) Attach(handle []byte) (cudakern.Landing, error) {
	if len(handle) != handleBytes {
		return nil, fmt.Errorf("%d bytes are no handle of device memory, which has %d: %w", len(handle), handleBytes,
			cudakern.ErrShape)
	}
	memory := [ipcBytes]byte(handle)
	n, pid := binary.LittleEndian.Uint64(handle[ipcBytes:]), binary.LittleEndian.Uint64(handle[ipcBytes+8:])
	if pid == uint64(os.Getpid()) {
		return nil, fmt.Errorf("attach to memory of this very process: %w", cudakern.ErrUnsupported)
	}
	l, err := d.newLanding(int(n), int(pid), func() (cu.DevicePtr, error) { return ipcOpen(memory) })
	if err != nil {
		return nil, fmt.Errorf("attach %s to memory of process %d: %w", d.name, pid, unsupported(err))
	}
	return l, nil
}

// unsupported wraps what a driver says that cannot do something into ErrUnsupported too, unless the device is lost.
func unsupported(err error) error {
	if errors.Is(err, cudakern.ErrLost) || errors.Is(err, cudakern.ErrUnsupported) {
		return err
	}
	return fmt.Errorf("%w (%w)", err, cudakern.ErrUnsupported)
}

// enter keeps a landing open until uses.Done.
func (l *landing) enter() error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return fmt.Errorf("landing on %s: %w", l.name, cudakern.ErrClosed)
	}
	l.uses.Add(1)
	return nil
}

func (l *landing) Close() error {
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		return nil
	}
	l.uses.Wait()
	give := freeLanding
	if l.process != os.Getpid() {
		give = ipcClose
	}
	err := first(give(l.ctx, l.at), failed(l.dev.ReleasePrimaryCtx(), "cuDevicePrimaryCtxRelease", ""))
	if err == nil || errors.Is(err, cudakern.ErrLost) { // said before, by whatever noticed it first
		return nil
	}
	return fmt.Errorf("close landing on %s: %w", l.name, err)
}

// landingOf is a landing as an operand.
func landingOf(op string, m cudakern.Landing, at, n int) (*landing, error) {
	l, ok := m.(*landing)
	if !ok {
		return nil, fmt.Errorf("%s: the landing is of another kind of device (%T): %w", op, m, cudakern.ErrUnsupported)
	}
	if at < 0 || n > l.bytes-at {
		return nil, fmt.Errorf("%s: %d bytes at %d of a landing of %d: %w", op, n, at, l.bytes, cudakern.ErrShape)
	}
	return l, nil
}

// through enqueues a copy from or to a landing, which stays open until the driver knows of it.
func (st *stream) through(l *landing, f func() error) error {
	if err := l.enter(); err != nil {
		return err
	}
	if st.closed.Load() {
		l.uses.Done()
		return fmt.Errorf("stream of %s: %w", st.d.name, cudakern.ErrClosed)
	}
	err := st.failure()
	if err == nil {
		st.busy.Store(true)
		call := st.d.guarded(f)
		err = st.d.thread.post(st, func() error {
			defer l.uses.Done()
			return call()
		})
	}
	if err != nil {
		l.uses.Done()
	}
	return err
}

func (d *Device) Put(s cudakern.Stream, to cudakern.Landing, at int, src cudakern.Buffer) error {
	st, from, err := operands("put", s, src, bytesOf(src))
	if err != nil {
		return err
	}
	l, err := landingOf("put", to, at, from.bytes)
	if err != nil {
		return err
	}
	dst, what := l.at+cu.DevicePtr(at), sizeOf(int64(from.bytes))
	return st.through(l, func() error {
		switch {
		case l.process != os.Getpid():
			return failed(cu.MemcpyAsync(dst, from.addr, int64(from.bytes), st.s), "cuMemcpyAsync", what+" to another process")
		case l.dev != from.d.dev:
			return failed(cu.MemcpyPeerAsync(dst, l.ctx, from.addr, from.d.ctx, int64(from.bytes), st.s),
				"cuMemcpyPeerAsync", fmt.Sprintf("%s from %s to %s", what, from.d.name, l.name))
		}
		return failed(cu.MemcpyDtoDAsync(dst, from.addr, int64(from.bytes), st.s), "cuMemcpyDtoDAsync", what)
	})
}

func (d *Device) Take(s cudakern.Stream, dst cudakern.Buffer, from cudakern.Landing, at int) error {
	st, to, err := operands("take", s, dst, bytesOf(dst))
	if err != nil {
		return err
	}
	l, err := landingOf("take", from, at, to.bytes)
	if err == nil && l.dev != to.d.dev {
		err = fmt.Errorf("take: the landing is on %s, the buffer on %s: %w", l.name, to.d.name, cudakern.ErrUnsupported)
	}
	if err != nil {
		return err
	}
	src := l.at + cu.DevicePtr(at)
	return st.through(l, func() error {
		return failed(cu.MemcpyDtoDAsync(to.addr, src, int64(to.bytes), st.s), "cuMemcpyDtoDAsync", sizeOf(int64(to.bytes)))
	})
}

// bytesOf is a buffer's length, 0 of none, which operands refuses.
func bytesOf(b cudakern.Buffer) int {
	if b == nil {
		return 0
	}
	return b.Bytes()
}

func (d *Device) Reach(m cudakern.Landing) error {
	l, err := landingOf("reach", m, 0, 0)
	if err != nil {
		return err
	}
	can := false
	err = d.do(func() (err error) {
		can, err = d.reachable(l.dev, l.ctx, l.name)
		return err
	})
	if err == nil && !can {
		err = cannot("%s has no way to memory of %s but through the host", d.name, l.name)
	}
	return err
}

// copyBetween enqueues a copy between two GPUs of this process: straight if they reach each other's memory, else by a
// way of the driver's.
func (st *stream) copyBetween(dst, src *buffer) error {
	return st.enqueue(func() error {
		for _, o := range []*Device{src.d, dst.d} {
			if _, err := st.d.reachable(o.dev, o.ctx, o.name); err != nil {
				return err
			}
		}
		return failed(cu.MemcpyPeerAsync(dst.addr, dst.d.ctx, src.addr, src.d.ctx, int64(src.bytes), st.s),
			"cuMemcpyPeerAsync", fmt.Sprintf("%s from %s to %s", sizeOf(int64(src.bytes)), src.d.name, dst.d.name))
	})
}

// reachable lets this GPU reach another's memory where the hardware can, and says whether it can; on the device's
// thread.
func (d *Device) reachable(dev cu.Device, ctx cu.CUContext, name string) (bool, error) {
	if dev == d.dev {
		return true, nil
	}
	if can, asked := d.reaches[dev]; asked {
		return can, nil
	}
	if can, err := d.dev.CanAccessPeer(dev); err != nil || can == 0 {
		d.reaches[dev] = false
		return false, nil
	}
	if err := ctx.EnablePeerAccess(0); err != nil && codeOf(err) != codePeerEnabled {
		return false, failed(err, "cuCtxEnablePeerAccess", "from "+d.name+" to "+name)
	}
	d.reaches[dev] = true
	return true, nil
}
