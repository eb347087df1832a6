//go:build cuda && cgo

package cuda

import (
	"fmt"

	"colonnade/cudakern"
)

// dense is a fully connected layer: three products of matrices as they lie. A pass may be cut along its sums; the parts
// are in scratch until they are added. The op must be used on one stream at a time.
type dense struct {
	op
	desc                   cudakern.DenseDesc
	forward, data, weights product
	scratch                *buffer // nil if no pass needs any
}

// product is one pass: m x n over k, A with pitchA and B with pitchB.
type product struct {
	kernel         string
	tile           tile
	m, n, k        int
	pitchA, pitchB int
	parts, each    int // of k
}

// leastPart is how long a part of a sum is at least: less would cost more in adding parts than is won.
const leastPart = 128

// mostFeatures keeps places within the 128 rows that a tile reads within 32 bits (kernels/dense.h).
const mostFeatures = 1 << 24

func (d *Device) newProduct(pass string, m, n, k, pitchA, pitchB int) product {
	p := product{m: m, n: n, k: k, pitchA: pitchA, pitchB: pitchB}
	p.tile = d.pick(m, n, 1, true, tile{128, 128}, tile{64, 64})
	p.kernel = d.kernelName(pass, p.tile)
	p.parts, p.each = cut(m, n, k, leastPart, 8)
	return p
}

// bytes is how much scratch the pass wants.
func (p product) bytes() int {
	if p.parts == 1 {
		return 0
	}
	return 4 * p.parts * p.m * p.n
}

func newDense(d *Device, c cudakern.DenseDesc) (cudakern.Dense, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("dense %+v", c)
	if err := countable(name, c.XShape(), c.WShape(), c.YShape()); err != nil {
		return nil, err
	}
	if max(c.In, c.Out) > mostFeatures {
		return nil, fmt.Errorf("%s: at most %d features are supported: %w", name, mostFeatures, cudakern.ErrUnsupported)
	}
	o := &dense{op: d.newOp(name), desc: c}
	o.forward = d.newProduct("dense_forward", c.N, c.Out, c.In, c.In, c.In)
	o.data = d.newProduct("dense_data", c.N, c.In, c.Out, c.Out, c.In)
	o.weights = d.newProduct("dense_weights", c.Out, c.In, c.N, c.Out, c.In)
	n := max(o.forward.bytes(), o.weights.bytes())
	if !c.NoData {
		n = max(n, o.data.bytes())
	}
	if n > 0 {
		var err error
		if o.scratch, err = o.workspace(n); err != nil {
			o.close()
			return nil, err
		}
	}
	return o, nil
}

func (o *dense) Layouts() (x, w, y cudakern.Layout) {
	return cudakern.Plain, cudakern.Plain, cudakern.Plain
}

// Algorithms names how each pass is computed.
func (o *dense) Algorithms() (forward, data, weights string) {
	a := o.d.algorithm()
	return a, a, a
}

// run enqueues a pass.
func (o *dense) run(st *stream, p product, flags int, a, b, bias, out *buffer) error {
	grid := dim{ceil(p.n, p.tile.n), ceil(p.m, p.tile.m), p.parts}
	multiply := func(flags int, bias, out *buffer) error {
		return o.d.launch(st, p.kernel, grid, p.tile.block(), 0, p.m, p.n, p.k, p.each, p.pitchA, p.pitchB, flags, a, b, bias,
			out)
	}
	if p.parts == 1 {
		return multiply(flags, bias, out)
	}
	if err := multiply(0, nil, o.scratch); err != nil {
		return err
	}
	return o.sumParts(st, p.m*p.n, p.parts, p.n, flags, o.scratch, bias, out)
}

func (o *dense) Forward(s cudakern.Stream, x, w, b, y cudakern.Buffer) error {
	a := o.arguments(s)
	from, by := a.floats("x", x, o.desc.XShape()), a.floats("w", w, o.desc.WShape())
	to := a.floats("y", y, o.desc.YShape())
	var bias *buffer
	if o.desc.Bias {
		bias = a.floats("b", b, cudakern.Shape{o.desc.Out})
	}
	if a.err != nil {
		return a.err
	}
	return o.run(a.st, o.forward, flagsOf(o.desc.Accumulate, o.desc.ReLU), from, by, bias, to)
}

func (o *dense) BackwardData(s cudakern.Stream, dy, w, dx cudakern.Buffer) error {
	a := o.arguments(s)
	from, by := a.floats("dy", dy, o.desc.YShape()), a.floats("w", w, o.desc.WShape())
	to := a.floats("dx", dx, o.desc.XShape())
	if a.err != nil {
		return a.err
	}
	if o.desc.NoData {
		return fmt.Errorf("%s: backward by data of an op that was made without: %w", o.name, cudakern.ErrUnsupported)
	}
	return o.run(a.st, o.data, 0, from, by, nil, to)
}

func (o *dense) BackwardWeights(s cudakern.Stream, x, dy, dw, db cudakern.Buffer) error {
	a := o.arguments(s)
	in, from := a.floats("x", x, o.desc.XShape()), a.floats("dy", dy, o.desc.YShape())
	to := a.floats("dw", dw, o.desc.WShape())
	var bias *buffer
	if o.desc.Bias {
		bias = a.floats("db", db, cudakern.Shape{o.desc.Out})
	}
	if a.err != nil {
		return a.err
	}
	if err := o.run(a.st, o.weights, 0, from, in, nil, to); err != nil || bias == nil {
		return err
	}
	return o.sumParts(a.st, o.desc.Out, o.desc.N, o.desc.Out, 0, from, nil, bias) // dy's rows are the parts
}
