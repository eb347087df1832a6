//go:build cuda && cgo

package cuda

import (
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"gorgonia.org/cu"

	"colonnade/cudakern"
)

// pinned are the ranges of host memory that the GPU reads and writes where they are, of the whole process: a cell's
// buffers may be of another device than the one that copies.
var pinned = struct {
	sync.RWMutex
	ranges []hostRange // by address
}{}

type hostRange struct{ from, to uintptr }

// isPinned says whether all of b is.
func isPinned(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	from := uintptr(unsafe.Pointer(&b[0]))
	pinned.RLock()
	defer pinned.RUnlock()
	i, found := slices.BinarySearchFunc(pinned.ranges, from, func(r hostRange, at uintptr) int {
		return compareAddress(r.from, at)
	})
	if !found {
		i--
	}
	return i >= 0 && from+uintptr(len(b)) <= pinned.ranges[i].to
}

func compareAddress(a, b uintptr) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func pin(r hostRange) {
	pinned.Lock()
	defer pinned.Unlock()
	i, _ := slices.BinarySearchFunc(pinned.ranges, r.from, func(r hostRange, at uintptr) int {
		return compareAddress(r.from, at)
	})
	pinned.ranges = slices.Insert(pinned.ranges, i, r)
}

func unpin(r hostRange) {
	pinned.Lock()
	defer pinned.Unlock()
	pinned.ranges = slices.DeleteFunc(pinned.ranges, func(have hostRange) bool { return have == r })
}

// hostBuffer is pinned memory.
type hostBuffer struct {
	d *Device
	p unsafe.Pointer
	n int
}

func (d *Device) allocHost(n int) (*hostBuffer, error) {
	h := &hostBuffer{d: d, n: max(n, 1)}
	if d.dry {
		h.p = unsafe.Pointer(unsafe.SliceData(make([]byte, h.n)))
		return h, nil
	}
	err := d.do(func() (err error) {
		h.p, err = allocPinned(h.n)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("alloc pinned memory on the host of %s: %w", d.name, err)
	}
	clear(h.Bytes())
	pin(h.span())
	return h, nil
}

func (d *Device) AllocHost(n int) (cudakern.HostBuffer, error) {
	h, err := d.allocHost(n)
	if err != nil {
		return nil, err
	}
	d.opened()
	return h, nil
}

func (h *hostBuffer) span() hostRange { return hostRange{uintptr(h.p), uintptr(h.p) + uintptr(h.n)} }

func (h *hostBuffer) Bytes() []byte { return unsafe.Slice((*byte)(h.p), h.n) }

// Free waits for copies that are enqueued and may still use the memory.
func (h *hostBuffer) Free() {
	h.release()
	h.d.closed()
}

func (h *hostBuffer) release() {
	if h.p == nil {
		panic(fmt.Sprintf("cuda: host buffer of %d bytes freed twice", h.n))
	}
	if h.d.dry {
		h.p = nil
		return
	}
	h.d.settle()
	unpin(h.span())
	_ = h.d.do(func() error { return failed(cu.MemFreeHost(h.p), "cuMemFreeHost", "") })
	h.p = nil
}

// staging is pinned memory that copies of other memory pass through, in pieces taken in turn.
type staging struct {
	st     *stream
	pieces [2]struct {
		host *hostBuffer
		used event // what must have passed before the piece is used anew; none if its stream is nil
	}
	next int
}

// stagingBytes is a piece's size: a copy of it takes long beside the calls that start it.
const stagingBytes = 1 << 20

func (st *stream) newStaging() (*staging, error) {
	s := &staging{st: st}
	for i := range s.pieces {
		h, err := st.d.allocHost(stagingBytes)
		if err != nil {
			s.free()
			return nil, err
		}
		s.pieces[i].host = h
	}
	return s, nil
}

// free gives the pieces back; nil has none.
func (s *staging) free() {
	if s == nil {
		return
	}
	for _, p := range s.pieces {
		if p.host != nil {
			p.host.release()
		}
	}
}

// upload copies host memory that may be reused when it returns.
func (st *stream) upload(dst *buffer, src []byte) (err error) {
	if st.d.dry {
		return nil
	}
	if st.in == nil {
		if st.in, err = st.newStaging(); err != nil {
			return err
		}
	}
	for at := 0; at < len(src); at += stagingBytes {
		p := &st.in.pieces[st.in.next%len(st.in.pieces)]
		st.in.next++
		if p.used.st != nil {
			if err := p.used.wait(); err != nil {
				return err
			}
		}
		n := copy(p.host.Bytes(), src[at:])
		if err := st.copyIn(dst, at, p.host.p, n); err != nil {
			return err
		}
		if p.used, err = st.record(); err != nil {
			return err
		}
	}
	return nil
}

// download copies to host memory and waits for it.
func (st *stream) download(dst []byte, src *buffer) (err error) {
	if st.d.dry {
		return nil
	}
	if st.out == nil {
		if st.out, err = st.newStaging(); err != nil {
			return err
		}
	}
	pieces := &st.out.pieces
	fetched := 0
	fetch := func() error { // the oldest piece that is under way
		if err := pieces[fetched/stagingBytes%len(pieces)].used.wait(); err != nil {
			return err
		}
		fetched += copy(dst[fetched:], pieces[fetched/stagingBytes%len(pieces)].host.Bytes())
		return nil
	}
	for at := 0; at < len(dst); at += stagingBytes {
		if at-fetched >= len(pieces)*stagingBytes {
			if err := fetch(); err != nil {
				return err
			}
		}
		p := &pieces[at/stagingBytes%len(pieces)]
		if err := st.copyOut(p.host.p, src, at, min(stagingBytes, len(dst)-at)); err != nil {
			return err
		}
		if p.used, err = st.record(); err != nil {
			return err
		}
	}
	for fetched < len(dst) {
		if err := fetch(); err != nil {
			return err
		}
	}
	return nil
}

// copyIn and copyOut enqueue a copy of pinned memory.
func (st *stream) copyIn(dst *buffer, at int, src unsafe.Pointer, n int) error {
	to := dst.addr + cu.DevicePtr(at)
	return st.enqueue(func() error {
		return failed(cu.MemcpyHtoDAsync(to, src, int64(n), st.s), "cuMemcpyHtoDAsync", sizeOf(int64(n)))
	})
}

func (st *stream) copyOut(dst unsafe.Pointer, src *buffer, at, n int) error {
	from := src.addr + cu.DevicePtr(at)
	return st.enqueue(func() error {
		return failed(cu.MemcpyDtoHAsync(dst, from, int64(n), st.s), "cuMemcpyDtoHAsync", sizeOf(int64(n)))
	})
}

// operands are a copy's stream and buffer.
func operands(op string, s cudakern.Stream, b cudakern.Buffer, n int) (*stream, *buffer, error) {
	st, err := onStream(op, s)
	if err != nil {
		return nil, nil, err
	}
	own, err := buf(op, "the buffer", b)
	if err == nil && own == nil {
		err = fmt.Errorf("%s: the buffer is missing: %w", op, cudakern.ErrShape)
	}
	if err == nil && own.bytes != n {
		err = fmt.Errorf("%s: %d bytes on the host, %v has %d: %w", op, n, own.shape, own.bytes, cudakern.ErrShape)
	}
	return st, own, err
}

func (d *Device) CopyIn(s cudakern.Stream, dst cudakern.Buffer, src []byte) error {
	st, to, err := operands("copy in", s, dst, len(src))
	if err != nil {
		return err
	}
	if !isPinned(src) {
		return st.upload(to, src)
	}
	return st.copyIn(to, 0, unsafe.Pointer(&src[0]), len(src))
}

// CopyOut of memory that is not pinned waits for the copy.
func (d *Device) CopyOut(s cudakern.Stream, dst []byte, src cudakern.Buffer) error {
	st, from, err := operands("copy out", s, src, len(dst))
	if err != nil {
		return err
	}
	if !isPinned(dst) {
		return st.download(dst, from)
	}
	return st.copyOut(unsafe.Pointer(&dst[0]), from, 0, len(dst))
}

func (d *Device) Upload(s cudakern.Stream, dst cudakern.Buffer, src []float32) error {
	st, to, err := operands("upload", s, dst, 4*len(src))
	if err != nil {
		return err
	}
	return st.upload(to, octets(src))
}

func (d *Device) Download(s cudakern.Stream, dst []float32, src cudakern.Buffer) error {
	st, from, err := operands("download", s, src, 4*len(dst))
	if err != nil {
		return err
	}
	return st.download(octets(dst), from)
}

// octets are numbers as the bytes they are in memory.
func octets(v []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}

func (d *Device) Copy(s cudakern.Stream, dst, src cudakern.Buffer) error {
	st, err := onStream("copy", s)
	if err != nil {
		return err
	}
	from, err := buf("copy", "src", src)
	if err != nil {
		return err
	}
	if from == nil {
		return fmt.Errorf("copy: src is missing: %w", cudakern.ErrShape)
	}
	to, err := buf("copy", "dst", dst)
	if err = first(cudakern.Check("copy", "dst", dst, src.Shape(), src.Layout()), err); err != nil {
		return err
	}
	if to.bytes != from.bytes {
		return fmt.Errorf("copy: %d bytes to %d: %w", from.bytes, to.bytes, cudakern.ErrShape)
	}
	if to.d.dev != from.d.dev {
		return st.copyBetween(to, from)
	}
	return st.enqueue(func() error {
		return failed(cu.MemcpyDtoDAsync(to.addr, from.addr, int64(from.bytes), st.s), "cuMemcpyDtoDAsync",
			sizeOf(int64(from.bytes)))
	})
}
