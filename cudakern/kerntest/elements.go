package kerntest

import (
	"fmt"

	"colonnade/cudakern"
)

// shapes are those of the elementwise ops.
var shapes = []cudakern.Shape{{1, 1}, {3, 7}, {16, 128}, {2, 3, 5, 7}, {2, 16, 8, 8}, {128, 10}}

// elementTests are the cases of ops that work element by element, and of softmax.
func elementTests() []test {
	var out []test
	for _, s := range shapes {
		out = append(out, reluTest(s), tanhTest(s), addTest(s), sgdTest(s))
		for _, keep := range []float64{0.5, 0.8, 1} {
			for _, scale := range []bool{false, true} {
				out = append(out, dropoutTest(cudakern.DropoutDesc{Shape: s, Keep: keep, FirstUnit: 8,
					FirstImage: 3, ScaleTrain: scale}))
			}
		}
	}
	for _, d := range []cudakern.SoftmaxDesc{{N: 1, Classes: 1}, {N: 7, Classes: 10}, {N: 128, Classes: 10},
		{N: 5, Classes: 1000}, {N: 6, Classes: 10, Whole: 18}} {
		out = append(out, softmaxTest(d, d.N), softmaxTest(d, (d.N+1)/2))
	}
	return out
}

// layoutOf is the layout in which a device likes maps of a shape, which elementwise ops must take too.
func (e *env) layoutOf(s cudakern.Shape) cudakern.Layout {
	if len(s) != 4 || e.err != nil {
		return cudakern.Plain
	}
	p, err := e.dev.NewPool(cudakern.PoolDesc{N: s[0], C: s[1], H: s[2], W: s[3], OutH: s[2], OutW: s[3], Kernel: 1,
		Stride: 1})
	if err != nil {
		e.err = err
		return cudakern.Plain
	}
	defer p.Close()
	x, _ := p.Layouts()
	return x
}

func reluTest(s cudakern.Shape) test {
	return test{"relu", fmt.Sprint(s), func(e *env) error {
		l := e.layoutOf(s)
		p, err := e.dev.NewReLU(cudakern.ReLUDesc{Shape: s, Layout: l})
		if err != nil {
			return err
		}
		e.closing(p.Close)
		x := e.with("x", s, l, coarse(e.seed, s.Len())) // zeros among them
		y, dy, dx := e.out("y", s, l, 0), e.in("dy", s, l), e.out("dx", s, l, 0)
		inPlace := e.inout("in place", s, l, 0)
		if e.err != nil {
			return e.err
		}
		if err := p.Forward(e.st, x, y); err != nil {
			return fmt.Errorf("forward: %w", err)
		}
		if err := p.Backward(e.st, y, dy, dx); err != nil {
			return fmt.Errorf("backward: %w", err)
		}
		return p.Forward(e.st, inPlace, inPlace)
	}}
}

// tanhTest goes from where tanh is x to where it is 1, both ways.
func tanhTest(s cudakern.Shape) test {
	return test{"tanh", fmt.Sprint(s), func(e *env) error {
		l := e.layoutOf(s)
		p, err := e.dev.NewTanh(cudakern.TanhDesc{Shape: s, Layout: l})
		if err != nil {
			return err
		}
		e.closing(p.Close)
		v := draw(e.seed, s.Len())
		for i := range v {
			v[i] *= []float32{1, 12, 1e-3, 1e30}[i%4]
		}
		x := e.with("x", s, l, v)
		y, dy, dx := e.out("y", s, l, 0), e.in("dy", s, l), e.out("dx", s, l, 0)
		inPlace, back := e.inout("in place", s, l, 0), e.inout("gradient in place", s, l, 0)
		if e.err != nil {
			return e.err
		}
		if err := p.Forward(e.st, x, y); err != nil {
			return fmt.Errorf("forward: %w", err)
		}
		if err := p.Backward(e.st, y, dy, dx); err != nil {
			return fmt.Errorf("backward: %w", err)
		}
		if err := p.Backward(e.st, y, back, back); err != nil {
			return fmt.Errorf("backward in place: %w", err)
		}
		return p.Forward(e.st, inPlace, inPlace)
	}}
}

func addTest(s cudakern.Shape) test {
	return test{"add", fmt.Sprint(s), func(e *env) error {
		l := e.layoutOf(s)
		p, err := e.dev.NewAdd(cudakern.AddDesc{Shape: s, Layout: l})
		if err != nil {
			return err
		}
		e.closing(p.Close)
		dst, src := e.inout("dst", s, l, 1), e.in("src", s, l)
		if e.err != nil {
			return e.err
		}
		return p.Run(e.st, dst, src)
	}}
}

func sgdTest(s cudakern.Shape) test {
	return test{"sgd", fmt.Sprint(s), func(e *env) error {
		l := e.layoutOf(s)
		p, err := e.dev.NewSGD(cudakern.SGDDesc{Shape: s, Layout: l})
		if err != nil {
			return err
		}
		e.closing(p.Close)
		w, v, g := e.in("w0", s, l), e.in("v0", s, l), e.in("grad", s, l)
		w1, v1 := e.out("w1", s, l, 3), e.out("v1", s, l, 3)
		inW, inV := e.inout("w in place", s, l, 3), e.inout("v in place", s, l, 3)
		if e.err != nil {
			return e.err
		}
		if err := p.Update(e.st, w, v, g, w1, v1, 0.9, 0.125, 0.25); err != nil {
			return err
		}
		return p.Update(e.st, inW, inV, g, inW, inV, 0.5, 0.01, 0.0005)
	}}
}

func dropoutTest(d cudakern.DropoutDesc) test {
	return test{"dropout", fmt.Sprintf("%v keep %g scale %v", d.Shape, d.Keep, d.ScaleTrain), func(e *env) error {
		d.Layout = e.layoutOf(d.Shape)
		p, err := e.dev.NewDropout(d)
		if err != nil {
			return err
		}
		e.closing(p.Close)
		const key, step = 0x0123456789abcdef, 1<<33 + 5
		x, dy := e.in("x", d.Shape, d.Layout), e.in("dy", d.Shape, d.Layout)
		y, dx, test := e.out("y", d.Shape, d.Layout, 0), e.out("dx", d.Shape, d.Layout, 0),
			e.out("infer", d.Shape, d.Layout, 0)
		if e.err != nil {
			return e.err
		}
		if err := p.Forward(e.st, key, step, x, y); err != nil {
			return fmt.Errorf("forward: %w", err)
		}
		if err := p.Backward(e.st, key, step, dy, dx); err != nil {
			return fmt.Errorf("backward: %w", err)
		}
		return p.Infer(e.st, x, test)
	}}
}

func softmaxTest(d cudakern.SoftmaxDesc, valid int) test {
	name := fmt.Sprintf("%d of %d images, %d classes", valid, d.N, d.Classes)
	if d.Whole > 0 {
		name += fmt.Sprintf(", slice of %d", d.Whole)
	}
	return test{"softmax", name, func(e *env) error {
		p, err := e.dev.NewSoftmax(d)
		if err != nil {
			return err
		}
		e.closing(p.Close)
		shape := cudakern.Shape{d.N, d.Classes}
		v := coarse(e.seed, shape.Len()) // ties among them
		for i := range v {
			v[i] *= float32(1 + i%7*i%7) // up to the size where exp matters
		}
		var labels []int32
		for i := range d.N {
			labels = append(labels, int32(i*7%d.Classes))
		}
		logits := e.with("logits", shape, cudakern.Plain, v)
		want := e.bytes("labels", int32s(labels...))
		loss, dlogits := e.out("loss", cudakern.Shape{d.N}, cudakern.Plain, 0), e.out("dlogits", shape, cudakern.Plain, 0)
		rank, ties := e.bytesOut("rank", 4*d.N), e.bytesOut("ties", 4*d.N)
		if e.err != nil {
			return e.err
		}
		if err := p.Forward(e.st, logits, want, valid, loss, rank, ties); err != nil {
			return fmt.Errorf("forward: %w", err)
		}
		return p.Backward(e.st, logits, want, valid, dlogits)
	}}
}
