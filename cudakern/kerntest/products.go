package kerntest

import (
	"fmt"

	"colonnade/cudakern"
)

// tests lists every case.
func tests() []test {
	var out []test
	for _, d := range convs() {
		out = append(out, convTest(d))
	}
	for _, d := range denses() {
		out = append(out, denseTest(d))
	}
	out = append(out, mapTests()...)
	out = append(out, normPoolTests()...)
	out = append(out, elementTests()...)
	out = append(out, dataTests()...)
	return out
}

// convs are AlexNet's own convolutions at a small batch, both networks', and awkward ones: prime sizes, size 1,
// uneven padding, a last window that overhangs, one column's part of several.
func convs() []cudakern.ConvDesc {
	same := func(k int) cudakern.Pad { return cudakern.Pad{Top: k / 2, Left: k / 2, Bottom: k / 2, Right: k / 2} }
	base := []cudakern.ConvDesc{
		{N: 1, In: 1, H: 1, W: 1, Out: 1, OutH: 1, OutW: 1, Kernel: 1, Stride: 1},
		{N: 2, In: 3, H: 7, W: 5, Out: 5, OutH: 5, OutW: 3, Kernel: 3, Stride: 1},
		{N: 3, In: 7, H: 13, W: 11, Out: 13, OutH: 13, OutW: 11, Kernel: 5, Stride: 1, Pad: same(5)},
		{N: 2, In: 2, H: 9, W: 9, Out: 3, OutH: 4, OutW: 4, Kernel: 4, Stride: 2,
			Pad: cudakern.Pad{Top: 1, Left: 0, Bottom: 0, Right: 1}},
		{N: 1, In: 3, H: 8, W: 8, Out: 4, OutH: 4, OutW: 4, Kernel: 3, Stride: 2}, // the last window overhangs by one
		{N: 2, In: 3, H: 43, W: 43, Out: 48, OutH: 9, OutW: 9, Kernel: 11, Stride: 4},
		{N: 2, In: 48, H: 9, W: 9, Out: 64, OutH: 9, OutW: 9, Kernel: 5, Stride: 1, Pad: same(5)},
		{N: 2, In: 64, H: 6, W: 6, Out: 32, OutH: 6, OutW: 6, Kernel: 3, Stride: 1, Pad: same(3)},
		{N: 4, In: 1, H: 32, W: 32, Out: 16, OutH: 32, OutW: 32, Kernel: 5, Stride: 1, Pad: same(5)},
		{N: 3, In: 16, H: 8, W: 8, Out: 32, OutH: 8, OutW: 8, Kernel: 3, Stride: 1, Pad: same(3)},
		// What devices with fast algorithms for small filters see: ragged tiles, an image smaller than a tile, more
		// images than lanes, windows that overhang on every side, wide sums.
		{N: 11, In: 16, H: 13, W: 7, Out: 48, OutH: 13, OutW: 7, Kernel: 3, Stride: 1, Pad: same(3)},
		{N: 1, In: 32, H: 1, W: 2, Out: 16, OutH: 1, OutW: 2, Kernel: 3, Stride: 1, Pad: same(3)},
		{N: 2, In: 16, H: 9, W: 11, Out: 16, OutH: 9, OutW: 10, Kernel: 3, Stride: 1, Pad: cudakern.Pad{Top: 2, Left: 0,
			Bottom: 0, Right: 1}},
		{N: 1, In: 16, H: 23, W: 26, Out: 16, OutH: 23, OutW: 26, Kernel: 3, Stride: 1, Pad: same(3)},
		{N: 1, In: 192, H: 5, W: 5, Out: 96, OutH: 5, OutW: 5, Kernel: 3, Stride: 1, Pad: same(3)},
		{N: 9, In: 16, H: 7, W: 5, Out: 32, OutH: 7, OutW: 5, Kernel: 5, Stride: 1, Pad: same(5)},
		{N: 2, In: 32, H: 12, W: 9, Out: 16, OutH: 8, OutW: 5, Kernel: 5, Stride: 1},
		{N: 1, In: 16, H: 3, W: 6, Out: 16, OutH: 4, OutW: 6, Kernel: 5, Stride: 1, Pad: cudakern.Pad{Top: 4, Left: 1,
			Bottom: 0, Right: 3}},
		{N: 9, In: 3, H: 9, W: 5, Out: 48, OutH: 10, OutW: 7, Kernel: 3, Stride: 1, Pad: cudakern.Pad{Top: 2, Left: 2,
			Bottom: 1, Right: 2}},
		{N: 1, In: 1, H: 1, W: 1, Out: 16, OutH: 1, OutW: 1, Kernel: 5, Stride: 1, Pad: same(5)},
		{N: 2, In: 2, H: 11, W: 14, Out: 32, OutH: 10, OutW: 13, Kernel: 7, Stride: 1, Pad: same(7)},
		{N: 9, In: 1, H: 35, W: 38, Out: 16, OutH: 8, OutW: 8, Kernel: 11, Stride: 4, Pad: same(5)},
		{N: 2, In: 3, H: 24, W: 31, Out: 32, OutH: 5, OutW: 7, Kernel: 12, Stride: 4, Pad: cudakern.Pad{Top: 3, Left: 6}},
		{N: 1, In: 2, H: 17, W: 12, Out: 16, OutH: 3, OutW: 2, Kernel: 9, Stride: 4},
	}
	var out []cudakern.ConvDesc
	for _, d := range base {
		out = append(out, d)
		d.Bias, d.ReLU = true, true
		out = append(out, d)
		d.Bias, d.ReLU, d.Accumulate = false, false, true
		out = append(out, d)
		d.ReLU = true
		out = append(out, d)
	}
	return out
}

func flags(bias, accumulate, relu bool) string {
	s := ""
	for _, f := range []struct {
		on   bool
		name string
	}{{bias, " bias"}, {accumulate, " accumulate"}, {relu, " relu"}} {
		if f.on {
			s += f.name
		}
	}
	return s
}

// product is what Conv and Dense have in common.
type product interface {
	Layouts() (x, w, y cudakern.Layout)
	Forward(st cudakern.Stream, x, w, b, y cudakern.Buffer) error
	BackwardData(st cudakern.Stream, dy, w, dx cudakern.Buffer) error
	BackwardWeights(st cudakern.Stream, x, dy, dw, db cudakern.Buffer) error
	Close()
}

// productCase is a Conv or Dense with its operands' shapes and the terms of its sums.
type productCase struct {
	x, w, y             cudakern.Shape
	maps                int // of the bias
	bias, accumulate    bool
	forward, data, sums int
}

func (c productCase) run(e *env, p product) error {
	e.closing(p.Close)
	lx, lw, ly := p.Layouts()
	forward, data, weights := algorithms(p)
	x, w, dy := e.in("x", c.x, lx), e.in("w", c.w, lw), e.in("dy", c.y, ly)
	var b, db cudakern.Buffer
	if c.bias {
		b = e.in("b", cudakern.Shape{c.maps}, cudakern.Plain)
		db = e.out("db", cudakern.Shape{c.maps}, cudakern.Plain, c.sums)
	}
	make := e.out
	if c.accumulate {
		make = e.inout
	}
	y := make("y", c.y, ly, c.forward+2)
	e.loosen(amplification[forward])
	dx := e.out("dx", c.x, lx, c.data)
	e.loosen(amplification[data])
	dw := e.out("dw", c.w, lw, c.sums)
	e.loosen(amplification[weights])
	if e.err != nil {
		return e.err
	}
	if err := p.Forward(e.st, x, w, b, y); err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	if err := p.BackwardData(e.st, dy, w, dx); err != nil {
		return fmt.Errorf("backward by data: %w", err)
	}
	if err := p.BackwardWeights(e.st, x, dy, dw, db); err != nil {
		return fmt.Errorf("backward by weights: %w", err)
	}
	return nil
}

func convTest(d cudakern.ConvDesc) test {
	name := fmt.Sprintf("%dx%dx%dx%d by %d of %dx%d stride %d pad %v%s", d.N, d.In, d.H, d.W, d.Out, d.Kernel, d.Kernel,
		d.Stride, d.Pad, flags(d.Bias, d.Accumulate, d.ReLU))
	return test{"conv", name, func(e *env) error {
		p, err := e.dev.NewConv(d)
		if err != nil {
			return err
		}
		area := d.Kernel * d.Kernel
		return productCase{x: d.XShape(), w: d.WShape(), y: d.YShape(), maps: d.Out, bias: d.Bias, accumulate: d.Accumulate,
			forward: d.In * area, data: d.Out * area, sums: d.N * d.OutH * d.OutW}.run(e, p)
	}}
}

// denses are the networks' own fully connected layers, narrowed, and awkward ones.
func denses() []cudakern.DenseDesc {
	var out []cudakern.DenseDesc
	for _, d := range []cudakern.DenseDesc{
		{N: 1, In: 1, Out: 1}, {N: 3, In: 7, Out: 5}, {N: 17, In: 31, Out: 13}, {N: 16, In: 512, Out: 128},
		{N: 128, In: 128, Out: 10}, {N: 2, In: 4608, Out: 96}, {N: 5, In: 129, Out: 1}, {N: 64, In: 33, Out: 65},
	} {
		for f := range 8 {
			d.Bias, d.Accumulate, d.ReLU = f&1 > 0, f&2 > 0, f&4 > 0
			if !d.Bias || !d.Accumulate { // a bias starts a sum, it does not join one
				out = append(out, d)
			}
		}
	}
	return out
}

func denseTest(d cudakern.DenseDesc) test {
	name := fmt.Sprintf("%dx%d to %d%s", d.N, d.In, d.Out, flags(d.Bias, d.Accumulate, d.ReLU))
	return test{"dense", name, func(e *env) error {
		p, err := e.dev.NewDense(d)
		if err != nil {
			return err
		}
		return productCase{x: d.XShape(), w: d.WShape(), y: d.YShape(), maps: d.Out, bias: d.Bias, accumulate: d.Accumulate,
			forward: d.In, data: d.Out, sums: d.N}.run(e, p)
	}}
}
