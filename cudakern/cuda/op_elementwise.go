//go:build cuda && cgo

package cuda

import (
	"fmt"

	"colonnade/cudakern"
)

// elementwise is what ops on every element of equal buffers have in common.
type elementwise struct {
	op
	shape cudakern.Shape
	n     int
}

func newElementwise(d *Device, name string, s cudakern.Shape, l cudakern.Layout) (elementwise, error) {
	n := s.Len()
	for _, v := range s {
		if v < 1 {
			n = 0
		}
	}
	if l != cudakern.Plain || n < 1 || len(s) == 0 {
		return elementwise{}, fmt.Errorf("%s: %v %s: %w", name, s, l, cudakern.ErrShape)
	}
	return elementwise{d.newOp(name), append(cudakern.Shape(nil), s...), n}, nil
}

// curve is a function of every element, by the kernels NAME_forward and NAME_backward: relu and tanh.
type curve struct{ elementwise }

func newCurve(d *Device, name string, s cudakern.Shape, l cudakern.Layout) (cudakern.ReLU, error) {
	e, err := newElementwise(d, name, s, l)
	if err != nil {
		return nil, err
	}
	return &curve{e}, nil
}

func newReLU(d *Device, c cudakern.ReLUDesc) (cudakern.ReLU, error) {
	return newCurve(d, "relu", c.Shape, c.Layout)
}
func newTanh(d *Device, c cudakern.TanhDesc) (cudakern.Tanh, error) {
	return newCurve(d, "tanh", c.Shape, c.Layout)
}

func (c *curve) Forward(st cudakern.Stream, x, y cudakern.Buffer) error {
	a := c.arguments(st)
	in, out := a.floats("x", x, c.shape), a.floats("y", y, c.shape)
	if a.err != nil {
		return a.err
	}
	return c.d.launch(a.st, c.name+"_forward", row(c.n), dim{X: threads}, 0, uint64(c.n), in, out)
}

func (c *curve) Backward(st cudakern.Stream, y, dy, dx cudakern.Buffer) error {
	a := c.arguments(st)
	result, gradient, out := a.floats("y", y, c.shape), a.floats("dy", dy, c.shape), a.floats("dx", dx, c.shape)
	if a.err != nil {
		return a.err
	}
	return c.d.launch(a.st, c.name+"_backward", row(c.n), dim{X: threads}, 0, uint64(c.n), result, gradient, out)
}

type add struct{ elementwise }

func newAdd(d *Device, c cudakern.AddDesc) (cudakern.Add, error) {
	e, err := newElementwise(d, "add", c.Shape, c.Layout)
	if err != nil {
		return nil, err
	}
	return &add{e}, nil
}

func (c *add) Run(st cudakern.Stream, dst, src cudakern.Buffer) error {
	a := c.arguments(st)
	to, from := a.floats("dst", dst, c.shape), a.floats("src", src, c.shape)
	if a.err != nil {
		return a.err
	}
	return c.d.launch(a.st, "add_run", row(c.n), dim{X: threads}, 0, uint64(c.n), to, from)
}

type sgd struct{ elementwise }

func newSGD(d *Device, c cudakern.SGDDesc) (cudakern.SGD, error) {
	e, err := newElementwise(d, "sgd", c.Shape, c.Layout)
	if err != nil {
		return nil, err
	}
	return &sgd{e}, nil
}

func (c *sgd) Update(st cudakern.Stream, w0, v0, grad, w1, v1 cudakern.Buffer, momentum, rate, decay float32) error {
	a := c.arguments(st)
	w, v, g := a.floats("w0", w0, c.shape), a.floats("v0", v0, c.shape), a.floats("grad", grad, c.shape)
	toW, toV := a.floats("w1", w1, c.shape), a.floats("v1", v1, c.shape)
	if a.err != nil {
		return a.err
	}
	return c.d.launch(a.st, "sgd_update", row(c.n), dim{X: threads}, 0, uint64(c.n), w, v, g, toW, toV, momentum, rate,
		decay)
}

// dropout draws a mask anew in every pass: nothing of it is kept.
type dropout struct {
	elementwise
	cudakern.DropoutDesc
	factor, infer float32
}

func newDropout(d *Device, c cudakern.DropoutDesc) (cudakern.Dropout, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if err := fits("dropout", c.Shape); err != nil {
		return nil, err
	}
	e, err := newElementwise(d, "dropout", c.Shape, c.Layout)
	if err != nil {
		return nil, err
	}
	out := &dropout{elementwise: e, DropoutDesc: c, factor: 1, infer: float32(c.Keep)}
	if c.ScaleTrain {
		out.factor, out.infer = float32(1/c.Keep), 1
	}
	return out, nil
}

func (c *dropout) mask(st cudakern.Stream, key, step uint64, x, y cudakern.Buffer) error {
	a := c.arguments(st)
	in, out := a.floats("source", x, c.shape), a.floats("result", y, c.shape)
	if a.err != nil {
		return a.err
	}
	units := c.Features()
	grid, blocks, overBlocks := spread(c.shape[0], ceil(units, 4), threads)
	return c.d.launch(a.st, "dropout_mask", grid, dim{X: threads}, 0, blocks, overBlocks, units, uint32(c.FirstUnit/4),
		uint32(c.FirstImage), c.Threshold(), c.factor, key, step, in, out)
}

func (c *dropout) Forward(st cudakern.Stream, key, step uint64, x, y cudakern.Buffer) error {
	return c.mask(st, key, step, x, y)
}

func (c *dropout) Backward(st cudakern.Stream, key, step uint64, dy, dx cudakern.Buffer) error {
	return c.mask(st, key, step, dy, dx)
}

func (c *dropout) Infer(st cudakern.Stream, x, y cudakern.Buffer) error {
	a := c.arguments(st)
	in, out := a.floats("x", x, c.shape), a.floats("y", y, c.shape)
	if a.err != nil {
		return a.err
	}
	return c.d.launch(a.st, "scale_run", row(c.n), dim{X: threads}, 0, uint64(c.n), c.infer, in, out)
}
