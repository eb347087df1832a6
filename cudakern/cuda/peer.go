//go:build cuda && cgo

package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"gorgonia.org/cu"

	"colonnade/cudakern"
)

// Handle is how another process of this host reaches a buffer: what the driver gives for the allocation it lies in,
// where it lies there, and which process has it.
type Handle struct {
	memory [ipcBytes]byte
	offset uint64
	bytes  uint64
	pid    uint64
}

// HandleBytes is the length of a handle as bytes.
const HandleBytes = ipcBytes + 24

// Bytes are the handle as it travels.
func (h Handle) Bytes() []byte {
	b := append(make([]byte, 0, HandleBytes), h.memory[:]...)
	for _, v := range []uint64{h.offset, h.bytes, h.pid} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// ReadHandle is the handle in bytes that have travelled.
func ReadHandle(b []byte) (h Handle, err error) {
	if len(b) != HandleBytes {
		return h, fmt.Errorf("%d bytes are no handle of device memory, which has %d: %w", len(b), HandleBytes,
			cudakern.ErrShape)
	}
	copy(h.memory[:], b)
	for i, v := range []*uint64{&h.offset, &h.bytes, &h.pid} {
		*v = binary.LittleEndian.Uint64(b[ipcBytes+8*i:])
	}
	return h, nil
}

// Share lets other processes of this host reach a buffer, until it is freed. ErrUnsupported where the driver has no
// such thing.
func (d *Device) Share(b cudakern.Buffer) (Handle, error) {
	own, err := buf("share", "the buffer", b)
	if err == nil && (own == nil || own.d != d || own.slab == nil) {
		err = fmt.Errorf("share: the buffer is not of %s: %w", d.name, cudakern.ErrUnsupported)
	}
	if err != nil {
		return Handle{}, err
	}
	h := Handle{offset: uint64(own.from + guardBytes), bytes: uint64(own.bytes), pid: uint64(os.Getpid())}
	err = d.do(func() (err error) {
		h.memory, err = ipcHandle(own.slab.at)
		return err
	})
	if err != nil {
		return Handle{}, fmt.Errorf("share a buffer of %s with another process: %w", d.name, unsupported(err))
	}
	return h, nil
}

// unsupported wraps what a driver says that cannot do something into ErrUnsupported too, unless the device is lost.
func unsupported(err error) error {
	if errors.Is(err, cudakern.ErrLost) || errors.Is(err, cudakern.ErrUnsupported) {
		return err
	}
	return fmt.Errorf("%w (%w)", err, cudakern.ErrUnsupported)
}

// mapping is another process's allocation in our address space: the driver maps each once.
type mapping struct {
	at   cu.DevicePtr
	uses int
}

// Remote is a buffer of another process.
type Remote struct {
	d     *Device
	h     Handle
	at    cu.DevicePtr
	ended bool
}

// Attach reaches a buffer that another process of this host shares. It counts as alive until it is closed, which must
// be before the other process frees the buffer.
func (d *Device) Attach(h Handle) (*Remote, error) {
	if h.pid == uint64(os.Getpid()) {
		return nil, fmt.Errorf("attach to a buffer of this very process: %w; use Copy", cudakern.ErrUnsupported)
	}
	r := &Remote{d: d, h: h}
	err := d.do(func() error {
		m := d.mappings[h.memory]
		if m == nil {
			at, err := ipcOpen(h.memory)
			if err != nil {
				return err
			}
			m = &mapping{at: at}
			d.mappings[h.memory] = m
		}
		m.uses++
		r.at = m.at + cu.DevicePtr(h.offset)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("attach %s to a buffer of process %d: %w", d.name, h.pid, unsupported(err))
	}
	d.opened()
	return r, nil
}

// Close lets the buffer go, behind all that is enqueued.
func (r *Remote) Close() error {
	if r.ended {
		panic("cuda: a buffer of another process is let go twice")
	}
	r.ended = true
	r.d.settle()
	err := r.d.do(func() error {
		m := r.d.mappings[r.h.memory]
		if m.uses--; m.uses > 0 {
			return nil
		}
		delete(r.d.mappings, r.h.memory)
		return ipcClose(m.at)
	})
	r.d.closed()
	return err
}

// Put enqueues a copy of src into another process's buffer. When Sync returns it has arrived; that process has to be
// told so, and must not use its buffer meanwhile.
func (d *Device) Put(s cudakern.Stream, dst *Remote, src cudakern.Buffer) error {
	st, from, err := operands("put", s, src, int(dst.h.bytes))
	if err != nil {
		return err
	}
	if dst.ended {
		return fmt.Errorf("put: the other process's buffer was let go: %w", cudakern.ErrClosed)
	}
	return st.enqueue(func() error {
		return failed(cu.MemcpyAsync(dst.at, from.addr, int64(from.bytes), st.s), "cuMemcpyAsync",
			sizeOf(int64(from.bytes))+" to another process")
	})
}

// copyBetween enqueues a copy between two GPUs of this process: straight if they reach each other's memory, else by a
// way of the driver's.
func (st *stream) copyBetween(dst, src *buffer) error {
	return st.enqueue(func() error {
		if err := st.d.reachable(src.d, dst.d); err != nil {
			return err
		}
		return failed(cu.MemcpyPeerAsync(dst.addr, dst.d.ctx, src.addr, src.d.ctx, int64(src.bytes), st.s),
			"cuMemcpyPeerAsync", fmt.Sprintf("%s from %s to %s", sizeOf(int64(src.bytes)), src.d.name, dst.d.name))
	})
}

// reachable lets the stream's GPU reach the others' memory where the hardware can; on the device's thread.
func (d *Device) reachable(others ...*Device) error {
	for _, o := range others {
		if o.dev == d.dev || d.asked[o.dev] {
			continue
		}
		d.asked[o.dev] = true
		if can, err := d.dev.CanAccessPeer(o.dev); err != nil || can == 0 {
			continue
		}
		if err := o.ctx.EnablePeerAccess(0); err != nil && codeOf(err) != codePeerEnabled {
			return failed(err, "cuCtxEnablePeerAccess", "from "+d.name+" to "+o.name)
		}
	}
	return nil
}
