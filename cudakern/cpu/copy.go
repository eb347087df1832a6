//go:build cgo

package cpu

/*
#include "engine.h"
*/
import "C"

import (
	"fmt"
	"unsafe"

	"colonnade/cudakern"
)

// blockOf is the block of a maps layout: 1 for plain maps, 0 for what is no layout of maps.
func (d *device) blockOf(l cudakern.Layout) int {
	switch l {
	case cudakern.Plain:
		return 1
	case d.blocked:
		return d.block
	}
	return 0
}

// mapsOf is a shape as maps: n, channels, pixels.
func mapsOf(s cudakern.Shape) (n, c, area int) {
	if len(s) == 4 {
		return s[0], s[1], s[2] * s[3]
	}
	return s[0], s[1:].Len(), 1
}

func (d *device) Upload(_ cudakern.Stream, dst cudakern.Buffer, src []float32) error {
	if dst.Shape().Len() != len(src) || dst.Bytes() < 4*len(src) {
		return fmt.Errorf("upload %d values to %v: %w", len(src), dst.Shape(), cudakern.ErrShape)
	}
	from := (*C.float)(unsafe.Pointer(unsafe.SliceData(src)))
	switch l := dst.Layout(); {
	case l == cudakern.Plain:
		copy(dst.(*buffer).Mapped(), float32Bytes(src))
	case d.blockOf(l) != 0:
		n, c, area := mapsOf(dst.Shape())
		C.ck_maps_reorder(d.team, C.int(n), C.int(c), C.int(area), 1, C.int(d.block), from, floats(dst))
	default:
		w := d.weightLayout(l)
		return native("upload", func(e *C.char) C.int { return C.ck_layout_from_plain(w, from, floats(dst), e) })
	}
	return nil
}

func (d *device) Download(_ cudakern.Stream, dst []float32, src cudakern.Buffer) error {
	if src.Shape().Len() != len(dst) || src.Bytes() < 4*len(dst) {
		return fmt.Errorf("download %v to %d values: %w", src.Shape(), len(dst), cudakern.ErrShape)
	}
	to := (*C.float)(unsafe.Pointer(unsafe.SliceData(dst)))
	switch l := src.Layout(); {
	case l == cudakern.Plain:
		copy(float32Bytes(dst), src.(*buffer).Mapped())
	case d.blockOf(l) != 0:
		n, c, area := mapsOf(src.Shape())
		C.ck_maps_reorder(d.team, C.int(n), C.int(c), C.int(area), C.int(d.block), 1, floats(src), to)
	default:
		w := d.weightLayout(l)
		return native("download", func(e *C.char) C.int { return C.ck_layout_to_plain(w, floats(src), to, e) })
	}
	return nil
}

func float32Bytes(v []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
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

// reorder converts between plain and blocked maps, and flattens either.
type reorder struct {
	op
	cudakern.ReorderDesc
	n, c, area, from, to int
}

func (d *device) NewReorder(c cudakern.ReorderDesc) (cudakern.Reorder, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	r := &reorder{ReorderDesc: c, from: d.blockOf(c.From), to: d.blockOf(c.To)}
	maps := c.FromShape // the side that has channels and pixels
	if len(maps) != 4 {
		maps = c.ToShape
	}
	r.n, r.c, r.area = mapsOf(maps)
	if r.from == 0 || r.to == 0 || r.c%r.from != 0 || r.c%r.to != 0 ||
		(r.from > 1 && len(c.FromShape) != 4) || (r.to > 1 && len(c.ToShape) != 4) {
		return nil, fmt.Errorf("reorder %v %s to %v %s: %w", c.FromShape, c.From, c.ToShape, c.To, cudakern.ErrUnsupported)
	}
	r.op = d.newOp()
	return r, nil
}

func (r *reorder) Run(_ cudakern.Stream, dst, src cudakern.Buffer) error {
	if err := cudakern.Check("reorder", "dst", dst, r.ToShape, r.To); err != nil {
		return err
	}
	if err := cudakern.Check("reorder", "src", src, r.FromShape, r.From); err != nil {
		return err
	}
	C.ck_maps_reorder(r.d.team, C.int(r.n), C.int(r.c), C.int(r.area), C.int(r.from), C.int(r.to), floats(src),
		floats(dst))
	return nil
}

// concat joins and cuts rows of plain features.
type concat struct {
	op
	cudakern.ConcatDesc
}

func (d *device) NewConcat(c cudakern.ConcatDesc) (cudakern.Concat, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &concat{d.newOp(), c}, nil
}

// row is image n's features of a plain buffer of `width` features, from `at` on.
func row(b cudakern.Buffer, n, width, at int) []byte { return b.(*buffer).Mapped()[4*(n*width+at):] }

func (c *concat) Join(_ cudakern.Stream, dst cudakern.Buffer, parts []cudakern.Buffer) error {
	if len(parts) != len(c.Parts) {
		return fmt.Errorf("concat: %d parts, want %d: %w", len(parts), len(c.Parts), cudakern.ErrShape)
	}
	if err := cudakern.Check("concat join", "dst", dst, cudakern.Shape{c.N, c.Total()}, cudakern.Plain); err != nil {
		return err
	}
	at := 0
	for p, w := range c.Parts {
		if err := cudakern.Check("concat join", "part", parts[p], cudakern.Shape{c.N, w}, cudakern.Plain); err != nil {
			return err
		}
		for n := range c.N {
			copy(row(dst, n, c.Total(), at)[:4*w], row(parts[p], n, w, 0))
		}
		at += w
	}
	return nil
}

func (c *concat) Cut(_ cudakern.Stream, part cudakern.Buffer, index int, src cudakern.Buffer) error {
	if index < 0 || index >= len(c.Parts) {
		return fmt.Errorf("concat cut: part %d of %d: %w", index, len(c.Parts), cudakern.ErrShape)
	}
	w, at := c.Parts[index], 0
	for _, p := range c.Parts[:index] {
		at += p
	}
	if err := cudakern.Check("concat cut", "src", src, cudakern.Shape{c.N, c.Total()}, cudakern.Plain); err != nil {
		return err
	}
	if err := cudakern.Check("concat cut", "part", part, cudakern.Shape{c.N, w}, cudakern.Plain); err != nil {
		return err
	}
	for n := range c.N {
		copy(row(part, n, w, 0)[:4*w], row(src, n, c.Total(), at))
	}
	return nil
}
