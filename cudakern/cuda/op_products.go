//go:build cuda && cgo

package cuda

import (
	"fmt"
	"math"
	"math/bits"
	"runtime"
	"unsafe"

	"gorgonia.org/cu"

	"colonnade/cudakern"
)

// What convolutions and dense layers have in common. kernels/DESIGN.md says how they are computed.

// tile is the part of a product that a block computes, a thread 8 x 8 elements of it. It does not reach the bits.
type tile struct{ m, n int }

func (t tile) String() string { return fmt.Sprintf("%dx%d", t.m, t.n) }
func (t tile) block() dim     { return dim{X: t.m * t.n / 64} }

// tiles are the shapes of tiles, and how well each uses a GPU that is full: measured by the instructions of its loop.
var tiles = map[tile]float64{{128, 128}: 1, {64, 128}: 0.97, {64, 64}: 0.92}

// Sizes of grids that a shape is cut for. They are those of a large GPU whichever there is: how often a sum is cut is a
// matter of shapes alone.
const (
	processors = 128 // SMs
	wanted     = 256 // blocks of 128 x 128 that keep them busy, or as much in smaller ones
)

// pick chooses the tile for m x n: the one with the least work in the busiest processor, what is beyond the matrix
// counted. parted products are cut further until all are busy, so of theirs the whole work counts.
func (d *Device) pick(m, n, layers int, parted bool, among ...tile) tile {
	var best tile
	least := math.Inf(1)
	for _, t := range among {
		if t == d.onlyTile {
			return t
		}
		blocks := float64(ceil(m, t.m)) * float64(ceil(n, t.n)) * float64(layers)
		if !parted {
			blocks = math.Ceil(blocks / processors)
		}
		if cost := blocks * float64(t.m*t.n) / tiles[t]; cost < least {
			best, least = t, cost
		}
	}
	return best
}

// cut says into how many parts a sum of length k is cut, each `each` long (a multiple of unit) but the last, so that
// m x n of them fill a GPU. No part is shorter than `least`, but the last. The tile has no say: it must not reach the
// bits.
func cut(m, n, k, least, unit int) (parts, each int) {
	area := ceil(m, 64) * ceil(n, 64) * 64 * 64
	parts = min(max(ceil(wanted*128*128, area), 1), max(k/least, 1))
	each = ceil(ceil(k, parts), unit) * unit
	return ceil(k, each), each
}

// flagsOf are the flags of a forward pass, as kernels/gemm.h has them.
func flagsOf(accumulate, relu bool) int {
	f := 0
	if accumulate {
		f |= 1
	}
	if relu {
		f |= 2
	}
	return f
}

// divisor is how kernels divide by d: x / d = (hi(x*multiplier) + x) >> shift for 0 <= x < 2^31, 1 <= d < 2^31.
func divisor(d int) (multiplier, shift uint32) {
	shift = uint32(bits.Len32(uint32(d - 1)))
	return uint32((1<<32)*(1<<shift-uint64(d))/uint64(d) + 1), shift
}

// table uploads numbers that a kernel looks things up in; they become part of the op.
func (o *op) table(v []int32) (*buffer, error) {
	b, err := o.workspace(4 * len(v))
	if err != nil {
		return nil, err
	}
	err = o.d.do(func() error { // whoever uses the op has it after this, so the copy needs no stream of theirs
		return first(failed(cu.MemcpyHtoDAsync(b.addr, unsafe.Pointer(&v[0]), int64(4*len(v)), o.d.zeroes),
			"cuMemcpyHtoDAsync", sizeOf(int64(4*len(v)))), failed(o.d.zeroes.Synchronize(), "cuStreamSynchronize", ""))
	})
	runtime.KeepAlive(v)
	if err != nil {
		return nil, fmt.Errorf("%s: upload a table: %w", o.name, err)
	}
	return b, nil
}

// sumParts adds parts of count numbers each, and finishes them: see sum_parts in kernels/dense.cu.
func (o *op) sumParts(st *stream, count, parts, n, flags int, partial, bias, out *buffer) error {
	return o.d.launch(st, "sum_parts", dim{X: ceil(count, 256)}, dim{X: 256}, 0, uint32(count), parts, n, flags, partial,
		bias, out)
}

// kernelName is the name of a product's kernel in the arithmetic that the device was opened with.
func (d *Device) kernelName(pass string, t tile) string {
	if d.tf32 {
		pass += "_tf32"
	}
	return pass + "_" + t.String()
}

// algorithm names the arithmetic of products.
func (d *Device) algorithm() string {
	if d.tf32 {
		return "tf32"
	}
	return "direct"
}

// countable refuses products with more elements than the kernels count.
func countable(op string, shapes ...cudakern.Shape) error {
	for _, s := range shapes {
		n := 1
		for _, v := range s {
			if n *= v; n > math.MaxInt32 {
				return fmt.Errorf("%s: an operand of %v has more than 2^31 elements: %w", op, s, cudakern.ErrUnsupported)
			}
		}
	}
	return nil
}
