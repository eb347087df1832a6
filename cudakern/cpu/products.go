//go:build cgo

package cpu

/*
#include "engine.h"
*/
import "C"

import (
	"fmt"
	"slices"

	"colonnade/cudakern"
)

// product is a convolution or a dense layer.
type product struct {
	op
	name       string // "conv {N:128 ...}", for errors
	handle     *C.ck_product
	bias       bool
	xs, ws, ys cudakern.Shape
	x, w, y    cudakern.Layout
}

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}

// mapsLayout is the layout for maps of c channels.
func (d *device) mapsLayout(c int) cudakern.Layout {
	if c%d.block == 0 {
		return d.blocked
	}
	return cudakern.Plain
}

func (d *device) NewConv(c cudakern.ConvDesc) (cudakern.Conv, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	p := &product{name: fmt.Sprintf("conv %+v", c), bias: c.Bias, xs: c.XShape(), ws: c.WShape(), ys: c.YShape(),
		x: d.mapsLayout(c.In), y: d.mapsLayout(c.Out)}
	desc := C.ck_conv_desc{n: C.int(c.N), in: C.int(c.In), h: C.int(c.H), w: C.int(c.W), out: C.int(c.Out),
		out_h: C.int(c.OutH), out_w: C.int(c.OutW), kernel: C.int(c.Kernel), stride: C.int(c.Stride),
		pad_top: C.int(c.Pad.Top), pad_left: C.int(c.Pad.Left), bias: flag(c.Bias), accumulate: flag(c.Accumulate),
		relu: flag(c.ReLU), no_data: flag(c.NoData), block_x: C.int(d.blockOf(p.x)), block_y: C.int(d.blockOf(p.y)),
		path: C.int(d.path), winograd: C.int(d.winograd)}
	return d.adopt(p, func(e *C.char) *C.ck_product { return C.ck_conv_new(d.team, &desc, e) })
}

func (d *device) NewDense(c cudakern.DenseDesc) (cudakern.Dense, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	p := &product{name: fmt.Sprintf("dense %+v", c), bias: c.Bias, xs: c.XShape(), ws: c.WShape(), ys: c.YShape(),
		x: cudakern.Plain, y: cudakern.Plain}
	desc := C.ck_dense_desc{n: C.int(c.N), in: C.int(c.In), out: C.int(c.Out), bias: flag(c.Bias),
		accumulate: flag(c.Accumulate), relu: flag(c.ReLU), no_data: flag(c.NoData), path: C.int(d.path)}
	return d.adopt(p, func(e *C.char) *C.ck_product { return C.ck_dense_new(d.team, &desc, e) })
}

// adopt makes the handle and learns the layout it wants for weights.
func (d *device) adopt(p *product, make func(e *C.char) *C.ck_product) (*product, error) {
	err := native(p.name, func(e *C.char) C.int {
		p.handle = make(e)
		return flag(p.handle == nil)
	})
	if err != nil {
		return nil, err
	}
	l := C.ck_product_weights(p.handle)
	p.w = cudakern.Layout(C.GoString(C.ck_layout_name(l)))
	if p.w != cudakern.Plain {
		d.mu.Lock()
		d.weights[p.w] = l
		d.mu.Unlock()
	}
	p.op = d.newOp()
	return p, nil
}

// Algorithms names how each pass is computed: "direct" or "winograd F(5x5,3x3)".
func (p *product) Algorithms() (forward, data, weights string) {
	var names [3]string
	for i, tile := range p.algorithms() {
		names[i] = "direct"
		if tile > 0 {
			names[i] = fmt.Sprintf("winograd F(%[1]dx%[1]d,%[2]dx%[2]d)", tile/10, tile%10)
		}
	}
	return names[0], names[1], names[2]
}

// plainLoops says whether some pass has nothing better from oneDNN.
func (p *product) plainLoops() bool { return slices.Contains(p.algorithms(), -1) }

func (p *product) algorithms() []int {
	var f, d, w C.int
	C.ck_product_algorithms(p.handle, &f, &d, &w)
	return []int{int(f), int(d), int(w)}
}

func (p *product) Layouts() (x, w, y cudakern.Layout) { return p.x, p.w, p.y }

func (p *product) Close() {
	C.ck_product_free(p.handle)
	p.handle = nil
	p.op.Close()
}

func (p *product) checkX(what string, b cudakern.Buffer) error {
	return cudakern.Check(p.name, what, b, p.xs, p.x)
}
func (p *product) checkW(what string, b cudakern.Buffer) error {
	return cudakern.Check(p.name, what, b, p.ws, p.w)
}
func (p *product) checkY(what string, b cudakern.Buffer) error {
	return cudakern.Check(p.name, what, b, p.ys, p.y)
}
func (p *product) checkB(what string, b cudakern.Buffer) error {
	if !p.bias {
		return nil
	}
	return cudakern.Check(p.name, what, b, cudakern.Shape{p.ws[0]}, cudakern.Plain)
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *product) Forward(_ cudakern.Stream, x, w, b, y cudakern.Buffer) error {
	if err := first(p.checkX("x", x), p.checkW("w", w), p.checkB("b", b), p.checkY("y", y)); err != nil {
		return err
	}
	if !p.bias {
		b = nil
	}
	return native(p.name, func(e *C.char) C.int {
		return C.ck_product_forward(p.handle, floats(x), floats(w), floats(b), floats(y), e)
	})
}

func (p *product) BackwardData(_ cudakern.Stream, dy, w, dx cudakern.Buffer) error {
	if err := first(p.checkY("dy", dy), p.checkW("w", w), p.checkX("dx", dx)); err != nil {
		return err
	}
	return native(p.name, func(e *C.char) C.int {
		return C.ck_product_backward_data(p.handle, floats(dy), floats(w), floats(dx), e)
	})
}

func (p *product) BackwardWeights(_ cudakern.Stream, x, dy, dw, db cudakern.Buffer) error {
	if err := first(p.checkX("x", x), p.checkY("dy", dy), p.checkW("dw", dw), p.checkB("db", db)); err != nil {
		return err
	}
	if !p.bias {
		db = nil
	}
	return native(p.name, func(e *C.char) C.int {
		return C.ck_product_backward_weights(p.handle, floats(x), floats(dy), floats(dw), floats(db), e)
	})
}
