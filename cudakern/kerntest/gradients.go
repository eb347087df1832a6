package kerntest

import (
	"math"
	"testing"

	"colonnade/cudakern"
)

// slope is an op seen as a function from one tensor to another, with its backward pass.
type slope struct {
	name     string
	in, out  cudakern.Shape
	step     float64 // of the difference
	at       []float32
	forward  func(x []float32) []float32
	backward func(x, dy []float32) []float32
}

// gradients compares backward passes with central differences of forward passes, in random directions: for a loss
// L(x) = r . f(x), L(x + h d) - L(x - h d) must be 2h (df^T r) . d.
func gradients(t testing.TB, dev cudakern.Device) {
	for _, s := range slopes(t, dev) {
		r := draw(77, s.out.Len())
		g := s.backward(s.at, r)
		for trial := range 3 {
			d := draw(uint64(100+trial), s.in.Len())
			shifted := func(h float64) (loss float64) {
				x := make([]float32, len(s.at))
				for i := range x {
					x[i] = s.at[i] + float32(h)*d[i]
				}
				for i, y := range s.forward(x) {
					loss += float64(y) * float64(r[i])
				}
				return loss
			}
			want := (shifted(s.step) - shifted(-s.step)) / (2 * s.step)
			got, size := 0.0, 0.0
			for i := range g {
				got += float64(g[i]) * float64(d[i])
				size += math.Abs(float64(g[i]) * float64(d[i]))
			}
			// Rounding of the two losses, divided by the step, and the third-order term of the difference.
			if tolerance := 1e-3*size + 1e-4; math.Abs(got-want) > tolerance {
				t.Errorf("%s: the gradient says %g, differences say %g", s.name, got, want)
			}
		}
	}
}

// session runs ops on plain host values; the first error ends the test.
type session struct {
	t   testing.TB
	dev cudakern.Device
	st  cudakern.Stream
	own []cudakern.Buffer
}

func (s *session) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *session) buffer(shape cudakern.Shape, l cudakern.Layout, v []float32) cudakern.Buffer {
	b, err := s.dev.Alloc(shape, l)
	s.must(err)
	s.own = append(s.own, b)
	if v != nil {
		s.must(s.dev.Upload(s.st, b, v))
	}
	return b
}

func (s *session) bytes(n int, v []byte) cudakern.Buffer {
	b, err := s.dev.AllocBytes(n)
	s.must(err)
	s.own = append(s.own, b)
	if v != nil {
		s.must(s.dev.CopyIn(s.st, b, v))
	}
	return b
}

func (s *session) values(b cudakern.Buffer) []float32 {
	out := make([]float32, b.Shape().Len())
	s.must(s.dev.Download(s.st, out, b))
	return out
}

// run gives f a session that is cleaned up behind it.
func run(t testing.TB, dev cudakern.Device, f func(*session) []float32) []float32 {
	s := &session{t: t, dev: dev}
	var err error
	s.st, err = dev.NewStream()
	s.must(err)
	out := f(s)
	for _, b := range s.own {
		b.Free()
	}
	s.must(s.st.Close())
	return out
}

// slopes are the differentiable ops. Linear ones take a large step, which rounds less; where a maximum is taken, values
// lie further apart than the step reaches.
func slopes(t testing.TB, dev cudakern.Device) []slope {
	conv := cudakern.ConvDesc{N: 2, In: 3, H: 7, W: 6, Out: 4, OutH: 4, OutW: 3, Kernel: 3, Stride: 2,
		Pad: cudakern.Pad{Top: 1, Left: 1}}
	dense := cudakern.DenseDesc{N: 3, In: 11, Out: 5}
	var out []slope
	conv.Bias, dense.Bias = true, true
	out = append(out, productSlopes(t, dev, "conv", conv.XShape(), conv.WShape(), conv.YShape(),
		func() (product, error) { return dev.NewConv(conv) })...)
	out = append(out, productSlopes(t, dev, "dense", dense.XShape(), dense.WShape(), dense.YShape(),
		func() (product, error) { return dev.NewDense(dense) })...)
	for _, d := range []cudakern.LRNDesc{{N: 2, C: 7, H: 3, W: 3, Size: 5, K: 1, Alpha: 0.5, Beta: 0.75},
		{N: 2, C: 8, H: 3, W: 2, Size: 4, K: 2, Alpha: 0.3, Beta: 0.5},
		{N: 1, C: 2, H: 6, W: 5, Size: 3, K: 1, Alpha: 0.4, Beta: 0.75, Space: true}} {
		out = append(out, lrnSlope(t, dev, d))
	}
	return append(out, poolSlope(t, dev), softmaxSlope(t, dev), reluSlope(t, dev), tanhSlope(t, dev),
		dropoutSlope(t, dev))
}

func productSlopes(t testing.TB, dev cudakern.Device, name string, xs, ws, ys cudakern.Shape,
	open func() (product, error)) []slope {
	bs := cudakern.Shape{ws[0]}
	x0, w0, b0 := draw(1, xs.Len()), draw(2, ws.Len()), draw(6, bs.Len())
	with := func(f func(s *session, p product, lx, lw, ly cudakern.Layout) cudakern.Buffer) []float32 {
		return run(t, dev, func(s *session) []float32 {
			p, err := open()
			s.must(err)
			defer p.Close()
			lx, lw, ly := p.Layouts()
			return s.values(f(s, p, lx, lw, ly))
		})
	}
	forward := func(x, w, b []float32) []float32 {
		return with(func(s *session, p product, lx, lw, ly cudakern.Layout) cudakern.Buffer {
			y := s.buffer(ys, ly, nil)
			s.must(p.Forward(s.st, s.buffer(xs, lx, x), s.buffer(ws, lw, w), s.buffer(bs, cudakern.Plain, b), y))
			return y
		})
	}
	byWeights := func(dy []float32, bias bool) []float32 {
		return with(func(s *session, p product, lx, lw, ly cudakern.Layout) cudakern.Buffer {
			dw, db := s.buffer(ws, lw, nil), s.buffer(bs, cudakern.Plain, nil)
			s.must(p.BackwardWeights(s.st, s.buffer(xs, lx, x0), s.buffer(ys, ly, dy), dw, db))
			if bias {
				return db
			}
			return dw
		})
	}
	return []slope{
		{name + " by data", xs, ys, 0.25, x0, func(x []float32) []float32 {
			return forward(x, w0, b0)
		}, func(_, dy []float32) []float32 {
			return with(func(s *session, p product, lx, lw, ly cudakern.Layout) cudakern.Buffer {
				dx := s.buffer(xs, lx, nil)
				s.must(p.BackwardData(s.st, s.buffer(ys, ly, dy), s.buffer(ws, lw, w0), dx))
				return dx
			})
		}},
		{name + " by weights", ws, ys, 0.25, w0, func(w []float32) []float32 { return forward(x0, w, b0) },
			func(_, dy []float32) []float32 { return byWeights(dy, false) }},
		{name + " by bias", bs, ys, 0.25, b0, func(b []float32) []float32 { return forward(x0, w0, b) },
			func(_, dy []float32) []float32 { return byWeights(dy, true) }},
	}
}

// reluSlope stays further from 0, where there is no slope, than the step reaches.
func reluSlope(t testing.TB, dev cudakern.Device) slope {
	shape := cudakern.Shape{3, 17}
	x := draw(7, shape.Len())
	for i := range x {
		if x[i] += 0.25; x[i] < 0.25 {
			x[i] -= 0.5
		}
	}
	return curveSlope(t, dev, "relu", shape, 1.0/16, x, func() (cudakern.ReLU, error) {
		return dev.NewReLU(cudakern.ReLUDesc{Shape: shape, Layout: cudakern.Plain})
	})
}

// tanhSlope is where tanh bends most.
func tanhSlope(t testing.TB, dev cudakern.Device) slope {
	shape := cudakern.Shape{3, 17}
	x := draw(9, shape.Len())
	for i := range x {
		x[i] *= 2
	}
	return curveSlope(t, dev, "tanh", shape, 1.0/64, x, func() (cudakern.ReLU, error) {
		return dev.NewTanh(cudakern.TanhDesc{Shape: shape, Layout: cudakern.Plain})
	})
}

// curveSlope is a function of each element, whose gradient is told from its result.
func curveSlope(t testing.TB, dev cudakern.Device, name string, shape cudakern.Shape, step float64, at []float32,
	open func() (cudakern.ReLU, error)) slope {
	pass := func(x, dy []float32) []float32 {
		return run(t, dev, func(s *session) []float32 {
			p, err := open()
			s.must(err)
			defer p.Close()
			y := s.buffer(shape, cudakern.Plain, nil)
			s.must(p.Forward(s.st, s.buffer(shape, cudakern.Plain, x), y))
			if dy == nil {
				return s.values(y)
			}
			dx := s.buffer(shape, cudakern.Plain, nil)
			s.must(p.Backward(s.st, y, s.buffer(shape, cudakern.Plain, dy), dx))
			return s.values(dx)
		})
	}
	return slope{name, shape, shape, step, at, func(x []float32) []float32 { return pass(x, nil) }, pass}
}

// dropoutSlope is linear as long as the mask is the same one.
func dropoutSlope(t testing.TB, dev cudakern.Device) slope {
	shape := cudakern.Shape{3, 20}
	pass := func(v []float32, back bool) []float32 {
		return run(t, dev, func(s *session) []float32 {
			p, err := dev.NewDropout(cudakern.DropoutDesc{Shape: shape, Layout: cudakern.Plain, Keep: 0.625, ScaleTrain: true})
			s.must(err)
			defer p.Close()
			out := s.buffer(shape, cudakern.Plain, nil)
			if back {
				s.must(p.Backward(s.st, 5, 6, s.buffer(shape, cudakern.Plain, v), out))
			} else {
				s.must(p.Forward(s.st, 5, 6, s.buffer(shape, cudakern.Plain, v), out))
			}
			return s.values(out)
		})
	}
	return slope{"dropout", shape, shape, 0.25, draw(8, shape.Len()), func(x []float32) []float32 {
		return pass(x, false)
	},
		func(_, dy []float32) []float32 { return pass(dy, true) }}
}

func lrnSlope(t testing.TB, dev cudakern.Device, d cudakern.LRNDesc) slope {
	pass := func(x, dy []float32) []float32 {
		return run(t, dev, func(s *session) []float32 {
			p, err := dev.NewLRN(d)
			s.must(err)
			defer p.Close()
			l := p.Layouts()
			in, y := s.buffer(d.Shape(), l, x), s.buffer(d.Shape(), l, nil)
			s.must(p.Forward(s.st, in, y))
			if dy == nil {
				return s.values(y)
			}
			dx := s.buffer(d.Shape(), l, nil)
			s.must(p.Backward(s.st, in, y, s.buffer(d.Shape(), l, dy), dx))
			return s.values(dx)
		})
	}
	return slope{"lrn", d.Shape(), d.Shape(), 1.0 / 64, draw(3, d.Shape().Len()),
		func(x []float32) []float32 { return pass(x, nil) }, pass}
}

func poolSlope(t testing.TB, dev cudakern.Device) slope {
	d := cudakern.PoolDesc{N: 2, C: 3, H: 8, W: 7, OutH: 4, OutW: 3, Kernel: 3, Stride: 2}
	x := make([]float32, d.XShape().Len())
	for i := range x {
		x[i] = float32(i*97%len(x)) / 8 // all different, an eighth apart
	}
	pass := func(x, dy []float32) []float32 {
		return run(t, dev, func(s *session) []float32 {
			p, err := dev.NewPool(d)
			s.must(err)
			defer p.Close()
			lx, ly := p.Layouts()
			in, y := s.buffer(d.XShape(), lx, x), s.buffer(d.YShape(), ly, nil)
			s.must(p.Forward(s.st, in, y))
			if dy == nil {
				return s.values(y)
			}
			dx := s.buffer(d.XShape(), lx, nil)
			s.must(p.Backward(s.st, in, y, s.buffer(d.YShape(), ly, dy), dx))
			return s.values(dx)
		})
	}
	return slope{"pool", d.XShape(), d.YShape(), 1.0 / 32, x, func(x []float32) []float32 { return pass(x, nil) }, pass}
}

// softmaxSlope sees the mean loss of the batch as the output.
func softmaxSlope(t testing.TB, dev cudakern.Device) slope {
	d := cudakern.SoftmaxDesc{N: 4, Classes: 6}
	shape := cudakern.Shape{d.N, d.Classes}
	pass := func(x, dy []float32) []float32 {
		return run(t, dev, func(s *session) []float32 {
			p, err := dev.NewSoftmax(d)
			s.must(err)
			defer p.Close()
			logits, labels := s.buffer(shape, cudakern.Plain, x), s.bytes(4*d.N, int32s(0, 5, 2, 2))
			if dy != nil {
				dl := s.buffer(shape, cudakern.Plain, nil)
				s.must(p.Backward(s.st, logits, labels, d.N, dl))
				g := s.values(dl)
				for i := range g {
					g[i] *= dy[0]
				}
				return g
			}
			loss := s.buffer(cudakern.Shape{d.N}, cudakern.Plain, nil)
			s.must(p.Forward(s.st, logits, labels, d.N, loss, s.bytes(4*d.N, nil),
				s.bytes(4*d.N, nil)))
			sum := float32(0)
			for _, l := range s.values(loss) {
				sum += l / float32(d.N)
			}
			return []float32{sum}
		})
	}
	return slope{"softmax", shape, cudakern.Shape{1}, 1.0 / 64, draw(5, shape.Len()),
		func(x []float32) []float32 { return pass(x, nil) }, pass}
}
