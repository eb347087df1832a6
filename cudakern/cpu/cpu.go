//go:build cgo

// Package cpu is the CPU device: float32, convolutions by Winograd's algorithm or oneDNN's direct ones, and the rest in
// C++ of its own, on as many threads as it is opened with. Maps whose channels divide into blocks are kept blocked
// (N x C/B x H x W x B) from one op to the next; others are plain. Weights are in whatever layout their op likes.
package cpu

/*
#cgo CXXFLAGS: -O3 -g1 -std=c++17 -Wno-psabi
#cgo LDFLAGS: -ldnnl -lgomp
#include "engine.h"
*/
import "C"

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"colonnade/cudakern"
)

// kernels is the version of this package's own arithmetic: part of the numerics id. 4: tanh is one of its ops.
const kernels = 4

// device implements cudakern.Device.
type device struct {
	config
	live    atomic.Int64
	block   int // channels in a block of maps
	blocked cudakern.Layout
	team    *C.ck_team // threads that ops are cut among

	mu      sync.Mutex
	weights map[cudakern.Layout]*C.ck_layout // by name, once an op has asked for it
}

// New opens the processor.
func New(options ...Option) (cudakern.Device, error) {
	c := config{winograd: winogradAuto, path: -1, threads: 1}
	for _, o := range options {
		o(&c)
	}
	if c.path < 0 {
		c.path = int(C.ck_best_path())
	}
	if C.ck_path_runs(C.int(c.path)) == 0 {
		return nil, fmt.Errorf("this processor cannot run the kernels for %s: %w", pathName(c.path), cudakern.ErrUnsupported)
	}
	if c.threads < 1 {
		return nil, fmt.Errorf("%d threads: %w; give one or more", c.threads, cudakern.ErrUnsupported)
	}
	b := int(C.ck_block(C.int(c.path)))
	d := &device{config: c, block: b, blocked: cudakern.Layout(fmt.Sprintf("nChw%dc", b)),
		weights: map[cudakern.Layout]*C.ck_layout{}}
	err := native("start threads", func(e *C.char) C.int {
		d.team = C.ck_team_new(C.int(c.threads), flag(c.fine), e)
		return flag(d.team == nil)
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// paths are the instruction sets that Winograd's kernels are compiled for and this processor can run.
func paths() (out []int) {
	for p := range int(C.CK_PATHS) {
		if C.ck_path_runs(C.int(p)) != 0 {
			out = append(out, p)
		}
	}
	return out
}

func pathName(path int) string { return C.GoString(C.ck_path_name(C.int(path))) }

// convolutions names the instruction set of our kernels of convolution, the algorithm, and the tiles it chooses from.
func (d *device) convolutions() string {
	s := "kernels-" + pathName(d.path)
	if d.winograd == winogradOff {
		return s + "/direct"
	}
	s += "/winograd"
	for i := C.int(0); C.ck_tile(i) != 0; i++ {
		s += fmt.Sprintf("-f%d", int(C.ck_tile(i)))
	}
	return s
}

func (d *device) Info() cudakern.Info {
	return cudakern.Info{Name: "cpu", Model: model(), Memory: memory(),
		Numerics: fmt.Sprintf("cpu/%d/%s/lanes-%d/%s", kernels, C.GoString(C.ck_version()), C.CK_LANES, d.convolutions())}
}

// model and memory are what the kernel says of the machine, for people.
func model() string {
	if v := procField("/proc/cpuinfo", "model name"); v != "" {
		return v
	}
	return "unknown processor"
}

func memory() int64 {
	var kib int64
	fmt.Sscan(procField("/proc/meminfo", "MemAvailable"), &kib)
	return kib << 10
}

func procField(path, key string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (d *device) Live() int { return int(d.live.Load()) }

func (d *device) Close() error {
	if n := d.Live(); n != 0 {
		return fmt.Errorf("close device cpu: %d buffers, streams and ops are still in use", n)
	}
	C.ck_team_free(d.team)
	d.team = nil
	return nil
}

// guardBytes of guardByte lie on both sides of every buffer: an op that writes past an end is found at the latest when
// the buffer is freed. 64 keeps the buffer on a cache line.
const (
	guardBytes = 64
	guardByte  = 0xC5
)

// buffer is C memory, or the caller's.
type buffer struct {
	d      *device
	shape  cudakern.Shape
	layout cudakern.Layout
	p      unsafe.Pointer
	bytes  int
	placed bool // in the caller's memory
}

func (b *buffer) Shape() cudakern.Shape   { return b.shape }
func (b *buffer) Layout() cudakern.Layout { return b.layout }
func (b *buffer) Bytes() int              { return b.bytes }
func (b *buffer) Mapped() []byte          { return unsafe.Slice((*byte)(b.p), b.bytes) }

func (b *buffer) Free() {
	if b.p == nil {
		panic(fmt.Sprintf("cpu: buffer %v freed twice", b.shape))
	}
	if err := b.Intact(); err != nil {
		panic(err.Error()) // memory is corrupt: nothing computed since can be trusted
	}
	if !b.placed {
		C.ck_free(unsafe.Add(b.p, -guardBytes))
	}
	b.p = nil
	b.d.live.Add(-1)
}

// guards are the bytes before and behind the buffer.
func (b *buffer) guards() (before, behind []byte) {
	return unsafe.Slice((*byte)(unsafe.Add(b.p, -guardBytes)), guardBytes),
		unsafe.Slice((*byte)(unsafe.Add(b.p, b.bytes)), guardBytes)
}

// Intact says whether nothing has written past the buffer's ends.
func (b *buffer) Intact() error {
	before, behind := b.guards()
	for i := range guardBytes {
		if before[i] != guardByte || behind[i] != guardByte {
			return fmt.Errorf("cpu: something has written past the ends of buffer %v %s", b.shape, b.layout)
		}
	}
	return nil
}

// floats is a buffer's memory as C takes it.
func floats(b cudakern.Buffer) *C.float {
	if b == nil {
		return nil
	}
	return (*C.float)(b.(*buffer).p)
}

// octets is a buffer made by AllocBytes, as C sees it.
func octets(b cudakern.Buffer) *C.uint8_t { return (*C.uint8_t)(b.(*buffer).p) }

func (d *device) allocate(s cudakern.Shape, l cudakern.Layout, bytes int) (*buffer, error) {
	p := C.ck_alloc(C.size_t(bytes + 2*guardBytes))
	if p == nil {
		return nil, fmt.Errorf("alloc %v: %d bytes: %w", s, bytes, cudakern.ErrMemory)
	}
	return d.guarded(s, l, p, bytes), nil
}

// guarded makes a buffer of memory that has room for it and its guards.
func (d *device) guarded(s cudakern.Shape, l cudakern.Layout, p unsafe.Pointer, bytes int) *buffer {
	d.live.Add(1)
	b := &buffer{d: d, shape: append(cudakern.Shape(nil), s...), layout: l, p: unsafe.Add(p, guardBytes), bytes: bytes}
	before, behind := b.guards()
	for i := range guardBytes {
		before[i], behind[i] = guardByte, guardByte
	}
	return b
}

// Room is what a buffer takes with its guards, rounded up so that the next one is aligned too.
func (d *device) Room(s cudakern.Shape, l cudakern.Layout) (int, error) {
	n, err := d.size(s, l)
	if err != nil {
		return 0, err
	}
	return (n + 2*guardBytes + cudakern.PlaceAlign - 1) / cudakern.PlaceAlign * cudakern.PlaceAlign, nil
}

// AllocAt makes a buffer in memory outside of Go's heap: what has been there before stays.
func (d *device) AllocAt(s cudakern.Shape, l cudakern.Layout, memory []byte) (cudakern.Buffer, error) {
	room, err := d.Room(s, l)
	if err != nil {
		return nil, err
	}
	if len(memory) != room || uintptr(unsafe.Pointer(unsafe.SliceData(memory)))%cudakern.PlaceAlign != 0 {
		return nil, fmt.Errorf("alloc %v %s in %d bytes of memory, want %d, aligned to %d: %w", s, l, len(memory), room,
			cudakern.PlaceAlign, cudakern.ErrShape)
	}
	n, err := d.size(s, l)
	if err != nil {
		return nil, err
	}
	b := d.guarded(s, l, unsafe.Pointer(unsafe.SliceData(memory)), n)
	b.placed = true
	return b, nil
}

func (d *device) Alloc(s cudakern.Shape, l cudakern.Layout) (cudakern.Buffer, error) {
	n, err := d.size(s, l)
	if err != nil {
		return nil, err
	}
	return d.allocate(s, l, n)
}

// size is the bytes a shape takes in a layout.
func (d *device) size(s cudakern.Shape, l cudakern.Layout) (int, error) {
	n := s.Len()
	for _, v := range s {
		if v < 1 {
			n = 0
		}
	}
	switch {
	case n < 1 || len(s) == 0:
	case l == cudakern.Plain:
		return 4 * n, nil
	case l == d.blocked:
		if len(s) == 4 && s[1]%d.block == 0 {
			return 4 * n, nil
		}
	default:
		if w := d.weightLayout(l); w != nil && strings.Contains(string(l), dimensions(s)) {
			return int(C.ck_layout_bytes(w)), nil
		}
	}
	return 0, fmt.Errorf("alloc %v %s: %w", s, l, cudakern.ErrShape)
}

// dimensions is how a layout's name has its shape: see describe in dnnl_compat.h.
func dimensions(s cudakern.Shape) string {
	var b strings.Builder
	b.WriteString("/d")
	for _, v := range s {
		fmt.Fprintf(&b, "%d,", v)
	}
	b.WriteString("/p")
	return b.String()
}

func (d *device) weightLayout(l cudakern.Layout) *C.ck_layout {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.weights[l]
}

func (d *device) AllocBytes(n int) (cudakern.Buffer, error) {
	if n < 1 {
		return nil, fmt.Errorf("alloc %d bytes: %w", n, cudakern.ErrShape)
	}
	return d.allocate(cudakern.Shape{n}, cudakern.Plain, n)
}

// hostBuffer is C memory too: the device reads and writes it where it is.
type hostBuffer struct{ *buffer }

func (h hostBuffer) Bytes() []byte { return h.Mapped() }

func (d *device) AllocHost(n int) (cudakern.HostBuffer, error) {
	b, err := d.allocate(cudakern.Shape{n}, cudakern.Plain, max(n, 1))
	if err != nil {
		return nil, err
	}
	return hostBuffer{b}, nil
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

// op counts as one live thing until it is closed.
type op struct{ d *device }

func (d *device) newOp() op { d.live.Add(1); return op{d} }
func (o op) Close()         { o.d.live.Add(-1) }

// native runs a C function that may fail.
func native(what string, f func(err *C.char) C.int) error {
	var msg [C.ERR_BYTES]C.char
	if f(&msg[0]) != 0 {
		return fmt.Errorf("%s: %s", what, C.GoString(&msg[0]))
	}
	return nil
}
