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

// lrn is response normalisation.
type lrn struct {
	op
	cudakern.LRNDesc
	layout cudakern.Layout
	c      C.ck_lrn_desc
}

func (d *device) NewLRN(c cudakern.LRNDesc) (cudakern.LRN, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	l := d.mapsLayout(c.C)
	return &lrn{d.newOp(), c, l, d.nativeLRN(c, l)}, nil
}

func (c *lrn) Layouts() cudakern.Layout { return c.layout }

func (c *lrn) check(what string, b cudakern.Buffer) error {
	return cudakern.Check("lrn", what, b, c.Shape(), c.layout)
}

func (c *lrn) Forward(_ cudakern.Stream, x, y cudakern.Buffer) error {
	if err := first(c.check("x", x), c.check("y", y)); err != nil {
		return err
	}
	C.ck_lrn_forward(c.d.team, &c.c, floats(x), floats(y))
	return nil
}

func (c *lrn) Backward(_ cudakern.Stream, x, y, dy, dx cudakern.Buffer) error {
	if err := first(c.check("x", x), c.check("y", y), c.check("dy", dy), c.check("dx", dx)); err != nil {
		return err
	}
	C.ck_lrn_backward(c.d.team, &c.c, floats(x), floats(dy), floats(dx))
	return nil
}

// nativeLRN and nativePool are the descriptors as C++ has them.
func (d *device) nativeLRN(c cudakern.LRNDesc, l cudakern.Layout) C.ck_lrn_desc {
	return C.ck_lrn_desc{n: C.int(c.N), c: C.int(c.C), h: C.int(c.H), w: C.int(c.W),
		block: C.int(d.blockOf(l)), size: C.int(c.Size), space: flag(c.Space), path: C.int(d.path), k: C.float(c.K),
		alpha: C.float(c.Alpha), beta: C.float(c.Beta)}
}

func nativePool(c cudakern.PoolDesc, block int) C.ck_pool_desc {
	return C.ck_pool_desc{n: C.int(c.N), c: C.int(c.C), h: C.int(c.H), w: C.int(c.W),
		block: C.int(block), out_h: C.int(c.OutH), out_w: C.int(c.OutW), kernel: C.int(c.Kernel),
		stride: C.int(c.Stride), pad_top: C.int(c.Pad.Top), pad_left: C.int(c.Pad.Left), ties_all: flag(c.TiesAll)}
}

// pool is max-pooling.
type pool struct {
	op
	cudakern.PoolDesc
	layout cudakern.Layout
	c      C.ck_pool_desc
}

func (d *device) NewPool(c cudakern.PoolDesc) (cudakern.Pool, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	l := d.mapsLayout(c.C)
	return &pool{d.newOp(), c, l, nativePool(c, d.blockOf(l))}, nil
}

func (c *pool) Layouts() (x, y cudakern.Layout) { return c.layout, c.layout }

func (c *pool) checkX(what string, b cudakern.Buffer) error {
	return cudakern.Check("pool", what, b, c.XShape(), c.layout)
}
func (c *pool) checkY(what string, b cudakern.Buffer) error {
	return cudakern.Check("pool", what, b, c.YShape(), c.layout)
}

func (c *pool) Forward(_ cudakern.Stream, x, y cudakern.Buffer) error {
	if err := first(c.checkX("x", x), c.checkY("y", y)); err != nil {
		return err
	}
	C.ck_pool_forward(c.d.team, &c.c, floats(x), floats(y))
	return nil
}

func (c *pool) Backward(_ cudakern.Stream, x, y, dy, dx cudakern.Buffer) error {
	if err := first(c.checkX("x", x), c.checkY("y", y), c.checkY("dy", dy), c.checkX("dx", dx)); err != nil {
		return err
	}
	C.ck_pool_backward(c.d.team, &c.c, floats(x), floats(y), floats(dy), floats(dx))
	return nil
}

// elementwise is what ops on every element of equal buffers have in common: padding is elements too.
type elementwise struct {
	op
	what   string
	shape  cudakern.Shape
	layout cudakern.Layout
	n      C.size_t
}

func (d *device) newElementwise(name string, s cudakern.Shape, l cudakern.Layout) (elementwise, error) {
	bytes, err := d.size(s, l)
	if err != nil {
		return elementwise{}, fmt.Errorf("%s: %w", name, err)
	}
	return elementwise{d.newOp(), name, s, l, C.size_t(bytes / 4)}, nil
}

func (e elementwise) check(operands ...cudakern.Buffer) error {
	for i, b := range operands {
		if err := cudakern.Check(e.what, fmt.Sprintf("operand %d", i+1), b, e.shape, e.layout); err != nil {
			return err
		}
	}
	return nil
}

type relu struct{ elementwise }

func (d *device) NewReLU(c cudakern.ReLUDesc) (cudakern.ReLU, error) {
	e, err := d.newElementwise("relu", c.Shape, c.Layout)
	return relu{e}, err
}

func (c relu) Forward(_ cudakern.Stream, x, y cudakern.Buffer) error {
	if err := c.check(x, y); err != nil {
		return err
	}
	C.ck_relu_forward(c.d.team, c.n, floats(x), floats(y))
	return nil
}

func (c relu) Backward(_ cudakern.Stream, y, dy, dx cudakern.Buffer) error {
	if err := c.check(y, dy, dx); err != nil {
		return err
	}
	C.ck_relu_backward(c.d.team, c.n, floats(y), floats(dy), floats(dx))
	return nil
}

type tanh struct{ elementwise }

func (d *device) NewTanh(c cudakern.TanhDesc) (cudakern.Tanh, error) {
	e, err := d.newElementwise("tanh", c.Shape, c.Layout)
	return tanh{e}, err
}

func (c tanh) Forward(_ cudakern.Stream, x, y cudakern.Buffer) error {
	if err := c.check(x, y); err != nil {
		return err
	}
	C.ck_tanh_forward(c.d.team, c.n, floats(x), floats(y))
	return nil
}

func (c tanh) Backward(_ cudakern.Stream, y, dy, dx cudakern.Buffer) error {
	if err := c.check(y, dy, dx); err != nil {
		return err
	}
	C.ck_tanh_backward(c.d.team, c.n, floats(y), floats(dy), floats(dx))
	return nil
}

type add struct{ elementwise }

func (d *device) NewAdd(c cudakern.AddDesc) (cudakern.Add, error) {
	e, err := d.newElementwise("add", c.Shape, c.Layout)
	return add{e}, err
}

func (c add) Run(_ cudakern.Stream, dst, src cudakern.Buffer) error {
	if err := c.check(dst, src); err != nil {
		return err
	}
	C.ck_add(c.d.team, c.n, floats(dst), floats(src))
	return nil
}

type sgd struct {
	elementwise
	finite bool
}

func (d *device) NewSGD(c cudakern.SGDDesc) (cudakern.SGD, error) {
	e, err := d.newElementwise("sgd", c.Shape, c.Layout)
	return &sgd{elementwise: e}, err
}

// Finite implements cudakern.Watching.
func (c *sgd) Finite() bool { return c.finite }

func (c *sgd) Update(_ cudakern.Stream, w0, v0, grad, w1, v1 cudakern.Buffer, momentum, rate, decay float32) error {
	if err := c.check(w0, v0, grad, w1, v1); err != nil {
		return err
	}
	c.finite = C.ck_sgd(c.d.team, c.n, floats(w0), floats(v0), floats(grad), floats(w1), floats(v1),
		C.float(momentum), C.float(rate), C.float(decay)) != 0
	return nil
}

// dropout draws its mask by the units' canonical places, whatever the layout.
type dropout struct {
	elementwise
	train C.ck_dropout_desc
	infer float32
}

func (d *device) NewDropout(c cudakern.DropoutDesc) (cudakern.Dropout, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	block := d.blockOf(c.Layout)
	if block == 0 {
		return nil, fmt.Errorf("dropout: layout %s: %w", c.Layout, cudakern.ErrShape)
	}
	e, err := d.newElementwise("dropout", c.Shape, c.Layout)
	if err != nil {
		return nil, err
	}
	n, ch, area := mapsOf(c.Shape)
	out := &dropout{elementwise: e, infer: float32(c.Keep), train: C.ck_dropout_desc{n: C.int(n), c: C.int(ch),
		area: C.int(area), block: C.int(block), first_unit: C.int(c.FirstUnit), first_image: C.int(c.FirstImage),
		threshold: C.uint64_t(c.Threshold()), factor: 1}}
	if c.ScaleTrain {
		out.train.factor, out.infer = C.float(float32(1/c.Keep)), 1
	}
	return out, nil
}

func (c *dropout) mask(key, step uint64, x, y cudakern.Buffer) error {
	if err := c.check(x, y); err != nil {
		return err
	}
	C.ck_dropout(c.d.team, &c.train, C.uint64_t(key), C.uint64_t(step), floats(x), floats(y))
	return nil
}

func (c *dropout) Forward(_ cudakern.Stream, key, step uint64, x, y cudakern.Buffer) error {
	return c.mask(key, step, x, y)
}

func (c *dropout) Backward(_ cudakern.Stream, key, step uint64, dy, dx cudakern.Buffer) error {
	return c.mask(key, step, dy, dx)
}

func (c *dropout) Infer(_ cudakern.Stream, x, y cudakern.Buffer) error {
	if err := c.check(x, y); err != nil {
		return err
	}
	C.ck_scale(c.d.team, c.n, C.float(c.infer), floats(x), floats(y))
	return nil
}

// softmax is softmax with its loss.
type softmax struct {
	op
	cudakern.SoftmaxDesc
}

func (d *device) NewSoftmax(c cudakern.SoftmaxDesc) (cudakern.Softmax, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &softmax{d.newOp(), c}, nil
}

func ints(b cudakern.Buffer) *C.int32_t { return (*C.int32_t)(b.(*buffer).p) }

func (c *softmax) check(logits, labels cudakern.Buffer, valid int) error {
	err := first(cudakern.Check("softmax", "logits", logits, cudakern.Shape{c.N, c.Classes}, cudakern.Plain),
		cudakern.CheckBytes("softmax", "labels", labels, 4*c.N))
	if err != nil {
		return err
	}
	if valid < 1 || valid > c.N {
		return fmt.Errorf("softmax: %d valid images of %d: %w", valid, c.N, cudakern.ErrShape)
	}
	for n, t := range unsafe.Slice(ints(labels), valid) {
		if t < 0 || int(t) >= c.Classes {
			return fmt.Errorf("softmax: label %d of image %d, with %d classes: %w", t, n, c.Classes, cudakern.ErrShape)
		}
	}
	return nil
}

func (c *softmax) Forward(_ cudakern.Stream, logits, labels cudakern.Buffer, valid int,
	loss, rank, ties cudakern.Buffer) error {
	err := first(c.check(logits, labels, valid),
		cudakern.Check("softmax", "loss", loss, cudakern.Shape{c.N}, cudakern.Plain),
		cudakern.CheckBytes("softmax", "rank", rank, 4*c.N), cudakern.CheckBytes("softmax", "ties", ties, 4*c.N))
	if err != nil {
		return err
	}
	C.ck_softmax_forward(c.d.team, C.int(c.N), C.int(c.Classes), C.int(valid), floats(logits), ints(labels), floats(loss),
		ints(rank), ints(ties))
	return nil
}

func (c *softmax) Backward(_ cudakern.Stream, logits, labels cudakern.Buffer, valid int,
	dlogits cudakern.Buffer) error {
	err := first(c.check(logits, labels, valid),
		cudakern.Check("softmax", "dlogits", dlogits, cudakern.Shape{c.N, c.Classes}, cudakern.Plain))
	if err != nil {
		return err
	}
	C.ck_softmax_backward(c.d.team, C.int(c.N), C.int(c.Classes), C.int(valid), C.int(c.Divisor(valid)), floats(logits),
		ints(labels), floats(dlogits))
	return nil
}

// input views images.
type input struct {
	op
	cudakern.InputDesc
	layout cudakern.Layout
	c      C.ck_input_desc
	views  []C.ck_view
}

func (d *device) NewInput(c cudakern.InputDesc) (cudakern.Input, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	l := d.mapsLayout(c.C)
	my, mx := c.MeanAt()
	return &input{d.newOp(), c, l, C.ck_input_desc{n: C.int(c.N), c: C.int(c.C), h: C.int(c.H), w: C.int(c.W),
		out_h: C.int(c.OutH), out_w: C.int(c.OutW), block: C.int(d.blockOf(l)), mean_y: C.int(my),
		mean_x: C.int(mx)}, make([]C.ck_view, c.N)}, nil
}

func (c *input) Layouts() cudakern.Layout { return c.layout }

func (c *input) Forward(_ cudakern.Stream, images cudakern.Buffer, views []cudakern.View, mean cudakern.Buffer,
	scale float32, y cudakern.Buffer) error {
	err := first(cudakern.CheckBytes("input", "images", images, c.N*c.C*c.H*c.W),
		cudakern.Check("input", "mean", mean, cudakern.Shape{1, c.C, c.H, c.W}, cudakern.Plain),
		cudakern.Check("input", "y", y, c.YShape(), c.layout))
	if err == nil && len(views) != c.N {
		err = fmt.Errorf("input: %d views of %d images: %w", len(views), c.N, cudakern.ErrShape)
	}
	if err != nil {
		return err
	}
	for i, v := range views {
		c.views[i] = C.ck_view{y: C.int32_t(v.Y), x: C.int32_t(v.X), flip: C.uint8_t(flag(v.Flip)),
			shift: [3]C.float{C.float(v.Shift[0]), C.float(v.Shift[1]), C.float(v.Shift[2])}}
	}
	C.ck_input(c.d.team, &c.c, octets(images), &c.views[0], floats(mean), C.float(scale), floats(y))
	return nil
}
