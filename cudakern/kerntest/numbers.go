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
