//go:build cuda && cgo

package cuda

import (
	"fmt"
	"math"

	"colonnade/cudakern"
)

// threads is how many a block has in kernels that do not say otherwise.
const threads = 256

// ceil is n/by, rounded up.
func ceil(n, by int) int { return (n + by - 1) / by }

// row is the grid of kernels that do n elements, four a thread (kernels/packs.h).
func row(n int) dim { return dim{X: ceil(n, 4*threads)} }

// spread is the grid of kernels that have n threads for each image (kernels/images.h); blocks is how many blocks that
// makes, which they want to know, as they want `over` of it.
func spread(images, n, threads int) (grid dim, blocks int, overBlocks uint64) {
	blocks = ceil(n, threads)
	return dim{X: images * blocks}, blocks, over(blocks)
}

// over is what kernels divide by d with: multiplier and shift of divisor in one argument.
func over(d int) uint64 {
	multiplier, shift := divisor(d)
	return uint64(multiplier)<<32 | uint64(shift)
}

// fits refuses images whose places are more than an int of the GPU's.
func fits(op string, shapes ...cudakern.Shape) error {
	for _, s := range shapes {
		if s[1:].Len() > math.MaxInt32/2 {
			return fmt.Errorf("%s: an image of %v has %d elements, at most %d are supported: %w", op, s[1:], s[1:].Len(),
				math.MaxInt32/2, cudakern.ErrUnsupported)
		}
	}
	return nil
}

// arguments collects a call's stream and operands; err is the first that does not fit.
type arguments struct {
	*op
	st  *stream
	err error
}

func (o *op) arguments(st cudakern.Stream) *arguments {
	a := &arguments{op: o}
	a.st, a.err = onStream(o.name, st)
	return a
}

// floats is an operand of numbers.
func (a *arguments) floats(what string, b cudakern.Buffer, s cudakern.Shape) *buffer {
	if a.err == nil {
		a.err = cudakern.Check(a.name, what, b, s, cudakern.Plain)
	}
	return a.own(what, b, 4*s.Len())
}

// bytes is an operand of n bytes, made by AllocBytes.
func (a *arguments) bytes(what string, b cudakern.Buffer, n int) *buffer {
	if a.err == nil {
		a.err = cudakern.CheckBytes(a.name, what, b, n)
	}
	return a.own(what, b, n)
}

// own wants a buffer to be this device's and to have n bytes: one of n numbers and one of n bytes have the same shape.
func (a *arguments) own(what string, b cudakern.Buffer, n int) *buffer {
	if a.err != nil {
		return nil
	}
	own, err := buf(a.name, what, b)
	switch {
	case err != nil:
	case own.d != a.d:
		err = fmt.Errorf("%s: %s is on %s, the op on %s: %w", a.name, what, own.d.name, a.d.name, cudakern.ErrShape)
	case own.bytes != n:
		err = fmt.Errorf("%s: %s has %d bytes, want %d: %w", a.name, what, own.bytes, n, cudakern.ErrShape)
	}
	if a.err = err; err != nil {
		return nil
	}
	return own
}
