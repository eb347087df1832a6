//go:build cuda && cgo

package cuda

import (
	"errors"
	"fmt"
	"unsafe"

	"gorgonia.org/cu"

	"colonnade/cudakern"
)

// guardBytes of guardByte lie before a buffer, and at least as many behind it, up to the end of its block.
const (
	guardBytes = align
	guardByte  = 0xC5
)

// buffer is device memory: a block of the heap's, the guards included.
type buffer struct {
	d      *Device
	shape  cudakern.Shape
	addr   cu.DevicePtr // of the first element
	bytes  int
	slab   *slab // nil: an allocation of the driver's own, without guards
	from   int64 // of the block in the slab
	block  int64 // bytes of it
	freed  bool
	silent bool // not counted: workspace of an op
}

func (b *buffer) Shape() cudakern.Shape   { return b.shape }
func (b *buffer) Layout() cudakern.Layout { return cudakern.Plain }
func (b *buffer) Bytes() int              { return b.bytes }

// buf is a buffer as its operand, nil for nil. The op has checked its shape.
func buf(op, operand string, b cudakern.Buffer) (*buffer, error) {
	if b == nil {
		return nil, nil
	}
	own, ok := b.(*buffer)
	if !ok {
		return nil, fmt.Errorf("%s: %s is a buffer of another kind of device (%T): %w", op, operand, b, cudakern.ErrShape)
	}
	if own.freed {
		panic(fmt.Sprintf("cuda: %s: %s %v is used after it was freed", op, operand, own.shape))
	}
	return own, nil
}

// onStream is a stream as an op takes it.
func onStream(op string, st cudakern.Stream) (*stream, error) {
	s, ok := st.(*stream)
	if !ok {
		return nil, fmt.Errorf("%s: the stream is of another kind of device (%T): %w", op, st, cudakern.ErrUnsupported)
	}
	return s, nil
}

func (d *Device) Alloc(s cudakern.Shape, l cudakern.Layout) (cudakern.Buffer, error) {
	n := s.Len()
	for _, v := range s {
		if v < 1 {
			n = 0
		}
	}
	if n < 1 || len(s) == 0 || l != cudakern.Plain {
		return nil, fmt.Errorf("alloc %v %s: %w", s, l, cudakern.ErrShape)
	}
	b, err := d.allocate(append(cudakern.Shape(nil), s...), 4*n)
	if err != nil {
		return nil, err
	}
	d.opened()
	return b, nil
}

func (d *Device) AllocBytes(n int) (cudakern.Buffer, error) {
	if n < 1 {
		return nil, fmt.Errorf("alloc %d bytes: %w", n, cudakern.ErrShape)
	}
	b, err := d.allocate(cudakern.Shape{n}, n)
	if err != nil {
		return nil, err
	}
	d.opened()
	return b, nil
}

// workspace is a zeroed buffer that Live does not count: it is an op's own. It is given back with release.
func (d *Device) workspace(n int) (*buffer, error) {
	b, err := d.allocate(cudakern.Shape{n}, max(n, 4))
	if err != nil {
		return nil, err
	}
	b.silent = true
	return b, nil
}

// allocate finds room, and clears it. Nobody waits for it on a stream: it is done when allocate returns.
func (d *Device) allocate(s cudakern.Shape, n int) (*buffer, error) {
	b := &buffer{d: d, shape: s, bytes: n}
	d.heapMu.Lock()
	defer d.heapMu.Unlock()
	place := func() error { return d.place(b) }
	err := d.do(place)
	if d.dry {
		err = place()
	}
	if err != nil {
		return nil, d.explain(err, s, n)
	}
	return b, nil
}

// place finds room for a buffer and clears it; on the device's thread.
func (d *Device) place(b *buffer) error {
	n := int64(b.bytes)
	if d.exact && !d.dry {
		p, err := cu.MemAlloc(n)
		if err != nil {
			return failed(err, "cuMemAlloc", sizeOf(n))
		}
		b.addr = p
		return d.clear(b)
	}
	b.block = guardBytes + roundUp(n+guardBytes, align)
	var ok bool
	if b.slab, b.from, ok = d.heap.take(b.block); !ok {
		if err := d.grow(b.block); err != nil {
			return err
		}
		b.slab, b.from, _ = d.heap.take(b.block)
	}
	b.addr = b.slab.at + cu.DevicePtr(b.from+guardBytes)
	err := d.clear(b)
	if err != nil {
		b.slab.give(b.from, b.block)
	}
	return err
}

// explain says what was wanted and what there was.
func (d *Device) explain(err error, s cudakern.Shape, n int) error {
	if errors.Is(err, cudakern.ErrMemory) {
		if free, total, e := d.memory(); e == nil {
			return fmt.Errorf("alloc %v on %s: %s wanted, %s of %s free; make the batch smaller or the columns more: %w", s,
				d.name, sizeOf(int64(n)), sizeOf(free), sizeOf(total), err)
		}
	}
	return fmt.Errorf("alloc %v on %s: %w", s, d.name, err)
}

// grow gets a slab from the driver in which n bytes have room: a large one, or just as large as must be if that is all
// there is.
func (d *Device) grow(n int64) error {
	n = roundUp(n, slabUnit)
	if d.dry {
		d.heap.add(0, max(n, d.heap.slabBytes))
		return nil
	}
	var err error
	for _, bytes := range []int64{max(n, d.heap.slabBytes), n} {
		var p cu.DevicePtr
		if p, err = cu.MemAlloc(bytes); err == nil {
			d.heap.add(p, bytes)
			return nil
		}
		err = failed(err, "cuMemAlloc", sizeOf(bytes))
	}
	return err
}

// clear zeroes a buffer and writes its guards.
func (d *Device) clear(b *buffer) error {
	if d.dry {
		return nil
	}
	if b.slab != nil {
		err := failed(cu.MemsetD8Async(b.slab.at+cu.DevicePtr(b.from), guardByte, b.block, d.zeroes), "cuMemsetD8Async",
			sizeOf(b.block))
		if err != nil {
			return err
		}
	}
	return first(failed(cu.MemsetD8Async(b.addr, 0, int64(b.bytes), d.zeroes), "cuMemsetD8Async", sizeOf(int64(b.bytes))),
		failed(d.zeroes.Synchronize(), "cuStreamSynchronize", ""))
}

// unused is what of the slabs is in no use.
func (d *Device) unused() (n int64) {
	d.heapMu.Lock()
	defer d.heapMu.Unlock()
	for _, s := range d.heap.slabs {
		for _, f := range s.free {
			n += f.to - f.from
		}
	}
	return n
}

// freeSlabs gives the heap's memory back to the driver.
func (d *Device) freeSlabs() (err error) {
	for _, s := range d.heap.slabs {
		err = first(err, failed(cu.MemFree(s.at), "cuMemFree", sizeOf(s.bytes)))
	}
	d.heap.slabs = nil
	return err
}

// Free waits for everything that is enqueued and may still use the buffer.
func (b *buffer) Free() {
	b.release()
	b.d.closed()
}

func (b *buffer) release() {
	if b.freed {
		panic(fmt.Sprintf("cuda: buffer %v freed twice", b.shape))
	}
	b.d.settle()
	if err := b.Intact(); err != nil && !errors.Is(err, cudakern.ErrLost) {
		panic(err.Error()) // memory is corrupt: nothing computed since can be trusted
	}
	b.d.heapMu.Lock()
	defer b.d.heapMu.Unlock()
	b.freed = true
	if b.slab != nil {
		b.slab.give(b.from, b.block)
		return
	}
	_ = b.d.do(func() error { return failed(cu.MemFree(b.addr), "cuMemFree", sizeOf(int64(b.bytes))) })
}

// settle waits for all streams that have something enqueued. What is wrong with them, they tell whoever uses them.
func (d *Device) settle() {
	d.mu.Lock()
	var busy []*stream
	for st := range d.streams {
		if st.busy.Load() {
			busy = append(busy, st)
		}
	}
	d.mu.Unlock()
	for _, st := range busy {
		_ = st.settle()
	}
}

// Intact says whether nothing has written past the buffer's ends.
func (b *buffer) Intact() error {
	if b.slab == nil || b.d.dry {
		return nil
	}
	b.d.settle()
	end := guardBytes + int64(b.bytes)
	for _, g := range []struct {
		where string
		span  span
	}{{"before", span{0, guardBytes}}, {"behind", span{end, b.block}}} {
		got := make([]byte, g.span.to-g.span.from)
		err := b.d.do(func() error {
			return failed(cu.MemcpyDtoH(unsafe.Pointer(&got[0]), b.slab.at+cu.DevicePtr(b.from+g.span.from), int64(len(got))),
				"cuMemcpyDtoH", "guard")
		})
		if err != nil {
			return fmt.Errorf("look at the guards of buffer %v: %w", b.shape, err)
		}
		for i, v := range got {
			if v != guardByte {
				return fmt.Errorf("cuda: something has written %s buffer %v of %d bytes, at byte %d of the guard", g.where,
					b.shape, b.bytes, i)
			}
		}
	}
	return nil
}

// sizeOf is a number of bytes for people, exactly.
func sizeOf(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB (%d bytes)", float64(n)/(1<<30), n)
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB (%d bytes)", float64(n)/(1<<20), n)
	}
	return fmt.Sprintf("%d bytes", n)
}
