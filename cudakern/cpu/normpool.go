//go:build cgo

package cpu

/*
#include "engine.h"
*/
import "C"

import (
	"fmt"

	"colonnade/cudakern"
)

// normPool is LRN and pooling in one pass.
type normPool struct {
	op
	cudakern.NormPoolDesc
	layout cudakern.Layout
	c      C.ck_normpool_desc
}

// NewNormPool makes the op for normalisation over five blocked maps and pooling by windows of 3x3, the first maximum
// winning: the paper's.
func (d *device) NewNormPool(c cudakern.NormPoolDesc) (cudakern.NormPool, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	l := d.mapsLayout(c.LRN.C)
	native := C.ck_normpool_desc{n: C.int(c.LRN.N), lrn: d.nativeLRN(c.LRN, l),
		pool: nativePool(c.Pool, d.blockOf(l)), relu: flag(c.ReLU)}
	if C.ck_normpool_fits(&native) == 0 {
		return nil, fmt.Errorf("lrn of %d %s maps over %d, pooled by windows of %d: %w", c.LRN.C, l, c.LRN.Size,
			c.Pool.Kernel, cudakern.ErrUnsupported)
	}
	return &normPool{d.newOp(), c, l, native}, nil
}

func (c *normPool) Layouts() (x, y cudakern.Layout) { return c.layout, c.layout }

func (c *normPool) PickBytes() int { return c.Pool.YShape().Len() }

func (c *normPool) checkX(what string, b cudakern.Buffer) error {
	return cudakern.Check("lrn and pool", what, b, c.Pool.XShape(), c.layout)
}

func (c *normPool) checkY(what string, b cudakern.Buffer) error {
	return cudakern.Check("lrn and pool", what, b, c.Pool.YShape(), c.layout)
}

func (c *normPool) Forward(_ cudakern.Stream, x, y, picks cudakern.Buffer) error {
	if err := first(c.checkX("x", x), c.checkY("y", y),
		cudakern.CheckBytes("lrn and pool", "picks", picks, c.PickBytes())); err != nil {
		return err
	}
	C.ck_normpool_forward(c.d.team, &c.c, floats(x), floats(y), octets(picks))
	return nil
}

func (c *normPool) Backward(_ cudakern.Stream, x, picks, dy, dx cudakern.Buffer) error {
	if err := first(c.checkX("x", x), cudakern.CheckBytes("lrn and pool", "picks", picks, c.PickBytes()),
		c.checkY("dy", dy), c.checkX("dx", dx)); err != nil {
		return err
	}
	C.ck_normpool_backward(c.d.team, &c.c, floats(x), octets(picks), floats(dy), floats(dx))
	return nil
}
