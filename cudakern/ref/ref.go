// Package ref is the reference device: every op straight from its definition, in float64, in pure Go, slow and
// obvious. Other devices are held against it; PyTorch holds it (testdata, written by scripts/fixtures).
package ref

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync/atomic"
	"unsafe"

	"colonnade/cudakern"
)

// Numerics is the id of this device's arithmetic.
const Numerics = "ref/1/float64"

// device implements cudakern.Device. Buffers hold float64; the host sees float32.
type device struct{ live atomic.Int64 }

// New returns a reference device.
func New() cudakern.Device { return &device{} }

func (d *device) Info() cudakern.Info {
	return cudakern.Info{Name: "ref", Model: "reference, float64", Numerics: Numerics}
}

func (d *device) Live() int { return int(d.live.Load()) }

func (d *device) Close() error {
	if n := d.Live(); n != 0 {
		return fmt.Errorf("close device ref: %d buffers, streams and ops are still in use", n)
	}
	return nil
}

// buffer holds either numbers or bytes, with canaries on both sides: whoever writes through Mapped, or through a
// slice that reaches too far, is found out by Intact.
type buffer struct {
	d     *device
	shape cudakern.Shape
	v     []float64
	raw   []byte
	all   []byte // v or raw as bytes, with the canaries
	freed bool
}

// canary is the number of bytes on each side, all of value canaryByte.
const (
	canary     = 64
	canaryByte = 0xc9
)

// guarded returns n bytes of zeros between canaries.
func guarded(n int) (all, inner []byte) {
	words := make([]float64, (n+7)/8+2*canary/8) // aligned for float64
	return guard(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), n+2*canary), n)
}

// guard puts canaries on both sides of n bytes.
func guard(all []byte, n int) (whole, inner []byte) {
	for i := range canary {
		all[i], all[canary+n+i] = canaryByte, canaryByte
	}
	return all, all[canary : canary+n : canary+n]
}

// Intact says whether nothing has written past the buffer's ends.
func (b *buffer) Intact() error {
	for i := range canary {
		if b.all[i] != canaryByte || b.all[len(b.all)-1-i] != canaryByte {
			return fmt.Errorf("ref: buffer %v: written past its ends", b.shape)
		}
	}
	return nil
}

func (b *buffer) Shape() cudakern.Shape   { return b.shape }
func (b *buffer) Layout() cudakern.Layout { return cudakern.Plain }
func (b *buffer) Bytes() int              { return len(b.Mapped()) }

// Mapped is the buffer's memory: float64 values, or the bytes of AllocBytes.
func (b *buffer) Mapped() []byte {
	if b.raw != nil {
		return b.raw
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(b.v))), 8*len(b.v))
}

func (b *buffer) Free() {
	if b.freed {
		panic(fmt.Sprintf("ref: buffer %v freed twice", b.shape))
	}
	b.freed = true
	b.d.live.Add(-1)
}

func (d *device) Alloc(s cudakern.Shape, l cudakern.Layout) (cudakern.Buffer, error) {
	if l != cudakern.Plain || s.Len() < 1 {
		return nil, fmt.Errorf("alloc %v %s: %w", s, l, cudakern.ErrShape)
	}
	d.live.Add(1)
	all, inner := guarded(8 * s.Len())
	v := unsafe.Slice((*float64)(unsafe.Pointer(unsafe.SliceData(inner))), s.Len())
	return &buffer{d: d, shape: append(cudakern.Shape(nil), s...), v: v, all: all}, nil
}

// Room is what a buffer takes with its canaries.
func (d *device) Room(s cudakern.Shape, l cudakern.Layout) (int, error) {
	if l != cudakern.Plain || s.Len() < 1 {
		return 0, fmt.Errorf("alloc %v %s: %w", s, l, cudakern.ErrShape)
	}
	return (8*s.Len() + 2*canary + cudakern.PlaceAlign - 1) / cudakern.PlaceAlign * cudakern.PlaceAlign, nil
}

// AllocAt makes a buffer in the caller's memory; what has been there before stays.
func (d *device) AllocAt(s cudakern.Shape, l cudakern.Layout, memory []byte) (cudakern.Buffer, error) {
	room, err := d.Room(s, l)
	if err != nil {
		return nil, err
	}
	if len(memory) != room || uintptr(unsafe.Pointer(unsafe.SliceData(memory)))%cudakern.PlaceAlign != 0 {
		return nil, fmt.Errorf("alloc %v in %d bytes of memory, want %d, aligned to %d: %w", s, len(memory), room,
			cudakern.PlaceAlign, cudakern.ErrShape)
	}
	d.live.Add(1)
	all, inner := guard(memory[:8*s.Len()+2*canary], 8*s.Len())
	v := unsafe.Slice((*float64)(unsafe.Pointer(unsafe.SliceData(inner))), s.Len())
	return &buffer{d: d, shape: append(cudakern.Shape(nil), s...), v: v, all: all}, nil
}

func (d *device) AllocBytes(n int) (cudakern.Buffer, error) {
	if n < 1 {
		return nil, fmt.Errorf("alloc %d bytes: %w", n, cudakern.ErrShape)
	}
	d.live.Add(1)
	all, inner := guarded(n)
	return &buffer{d: d, shape: cudakern.Shape{n}, raw: inner, all: all}, nil
}

// hostBuffer is plain memory.
type hostBuffer struct {
	d *device
	b []byte
}

func (h *hostBuffer) Bytes() []byte { return h.b }
func (h *hostBuffer) Free()         { h.d.live.Add(-1) }

func (d *device) AllocHost(n int) (cudakern.HostBuffer, error) {
	d.live.Add(1)
	return &hostBuffer{d, make([]byte, n)}, nil
}

// stream does everything before it returns.
type stream struct{ d *device }

type event struct{}

func (event) Done() (bool, error)                     { return true, nil }
func (stream) Record() (cudakern.Event, error)        { return event{}, nil }
func (stream) Wait(cudakern.Event) error              { return nil }
func (stream) Sync() error                            { return nil }
func (s stream) Close() error                         { s.d.live.Add(-1); return nil }
func (d *device) NewStream() (cudakern.Stream, error) { d.live.Add(1); return stream{d}, nil }

func (d *device) Upload(_ cudakern.Stream, dst cudakern.Buffer, src []float32) error {
	v := vals(dst)
	if v == nil || len(v) != len(src) {
		return fmt.Errorf("upload %d values to %v: %w", len(src), dst.Shape(), cudakern.ErrShape)
	}
	for i, x := range src {
		v[i] = float64(x)
	}
	return nil
}

func (d *device) Download(_ cudakern.Stream, dst []float32, src cudakern.Buffer) error {
	v := vals(src)
	if v == nil || len(v) != len(dst) {
		return fmt.Errorf("download %v to %d values: %w", src.Shape(), len(dst), cudakern.ErrShape)
	}
	for i, x := range v {
		dst[i] = float32(x)
	}
	return nil
}

func (d *device) CopyIn(_ cudakern.Stream, dst cudakern.Buffer, src []byte) error {
	if dst.Bytes() != len(src) {
		return fmt.Errorf("copy in %d bytes to %d: %w", len(src), dst.Bytes(), cudakern.ErrShape)
	}
	copy(dst.(*buffer).Mapped(), src)
	return nil
}

func (d *device) CopyOut(_ cudakern.Stream, dst []byte, src cudakern.Buffer) error {
	if src.Bytes() != len(dst) {
		return fmt.Errorf("copy out %d bytes to %d: %w", src.Bytes(), len(dst), cudakern.ErrShape)
	}
	copy(dst, src.(*buffer).Mapped())
	return nil
}

func (d *device) Copy(_ cudakern.Stream, dst, src cudakern.Buffer) error {
	if err := cudakern.Check("copy", "dst", dst, src.Shape(), src.Layout()); err != nil {
		return err
	}
	copy(dst.(*buffer).Mapped(), src.(*buffer).Mapped())
	return nil
}

// vals is a buffer's numbers.
func vals(b cudakern.Buffer) []float64 { return b.(*buffer).v }

// op counts as one live thing until it is closed.
type op struct{ d *device }

func (d *device) newOp() op { d.live.Add(1); return op{d} }
func (o op) Close()         { o.d.live.Add(-1) }

// operand is a buffer and the shape it must have.
type operand struct {
	name  string
	b     cudakern.Buffer
	shape cudakern.Shape
}

func checkAll(op string, operands ...operand) error {
	for _, o := range operands {
		if err := cudakern.Check(op, o.name, o.b, o.shape, cudakern.Plain); err != nil {
			return err
		}
	}
	return nil
}

// int32At and putInt32 read and write an int32 buffer.
func int32At(b cudakern.Buffer, i int) int32 {
	return int32(binary.NativeEndian.Uint32(b.(*buffer).raw[4*i:]))
}

func putInt32(b cudakern.Buffer, i int, v int32) {
	binary.NativeEndian.PutUint32(b.(*buffer).raw[4*i:], uint32(v))
}

func relu(v float64) float64 { return math.Max(v, 0) }
