package kerntest

import (
	"math"
	"testing"

	"colonnade/cudakern"
)

// noNumbers wants an image with a logit that is no number, or infinite, to have no finite loss, whatever class the
// logit is of: the guard against a diverged step looks at the loss.
func noNumbers(t testing.TB, dev cudakern.Device) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	logits := []float32{
		1, 2, 3,
		1e30, -1e30, 0, // certain: a loss of 0
		1, 2, inf,
		1, inf, 3,
		nan, 2, 3,
		1, nan, 3,
	}
	d := cudakern.SoftmaxDesc{N: 6, Classes: 3}
	loss := run(t, dev, func(s *session) []float32 {
		p, err := dev.NewSoftmax(d)
		s.must(err)
		defer p.Close()
		x := s.buffer(cudakern.Shape{d.N, d.Classes}, cudakern.Plain, logits)
		y := s.buffer(cudakern.Shape{d.N}, cudakern.Plain, nil)
		s.must(p.Forward(s.st, x, s.bytes(4*d.N, int32s(2, 0, 2, 0, 0, 0)), d.N, y, s.bytes(4*d.N, nil),
			s.bytes(4*d.N, nil)))
		return s.values(y)
	})
	for n, bad := range []bool{false, false, true, true, true, true} {
		if finite := !math.IsNaN(float64(loss[n])) && !math.IsInf(float64(loss[n]), 0); finite == bad {
			t.Errorf("logits %v have loss %g", logits[n*d.Classes:(n+1)*d.Classes], loss[n])
		}
	}
}

// watched wants updates that look at what they write to see every weight that is not finite, and no other.
func watched(t testing.TB, dev cudakern.Device) {
	for _, n := range []int{1, 7, 1003, 70001} {
		run(t, dev, func(s *session) []float32 {
			p, err := dev.NewSGD(cudakern.SGDDesc{Shape: cudakern.Shape{n}, Layout: cudakern.Plain})
			s.must(err)
			defer p.Close()
			w, ok := p.(cudakern.Watching)
			if !ok {
				return nil
			}
			v, g := s.buffer(cudakern.Shape{n}, cudakern.Plain, nil), s.buffer(cudakern.Shape{n}, cudakern.Plain, nil)
			w1, v1 := s.buffer(cudakern.Shape{n}, cudakern.Plain, nil), s.buffer(cudakern.Shape{n}, cudakern.Plain, nil)
			values := draw(9, n)
			w0 := s.buffer(cudakern.Shape{n}, cudakern.Plain, values)
			for _, at := range []int{0, n / 2, n - 1} {
				for _, x := range []float64{1, math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32,
					math.Copysign(0, -1), math.Inf(1), math.Inf(-1), math.NaN()} {
					before := values[at]
					values[at] = float32(x)
					s.must(dev.Upload(s.st, w0, values))
					values[at] = before
					s.must(p.Update(s.st, w0, v, g, w1, v1, 0, 0, 0))
					got := s.values(w1)[at]
					if want := !math.IsNaN(float64(got)) && !math.IsInf(float64(got), 0); w.Finite() != want {
						t.Errorf("an update of %d weights that writes %g at %d says finite: %v", n, got, at, !want)
					}
				}
			}
			return nil
		})
	}
}
