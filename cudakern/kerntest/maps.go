package kerntest

import (
	"fmt"

	"colonnade/cudakern"
)

// mapTests are the cases of pooling and response normalisation.
func mapTests() []test {
	var out []test
	for _, d := range []cudakern.PoolDesc{
		{N: 1, C: 1, H: 1, W: 1, OutH: 1, OutW: 1, Kernel: 1, Stride: 1},
		{N: 2, C: 3, H: 7, W: 5, OutH: 3, OutW: 2, Kernel: 3, Stride: 2},
		{N: 2, C: 16, H: 32, W: 32, OutH: 16, OutW: 16, Kernel: 3, Stride: 2}, // the last windows overhang
		{N: 2, C: 48, H: 13, W: 13, OutH: 6, OutW: 6, Kernel: 3, Stride: 2},
		{N: 1, C: 8, H: 8, W: 8, OutH: 4, OutW: 4, Kernel: 3, Stride: 2, Pad: cudakern.Pad{Top: 1, Left: 1}},
		{N: 3, C: 5, H: 6, W: 9, OutH: 3, OutW: 5, Kernel: 2, Stride: 2},
	} {
		out = append(out, poolTest(d))
		d.TiesAll = true
		out = append(out, poolTest(d))
	}
	for _, d := range []cudakern.LRNDesc{
		{N: 1, C: 1, H: 1, W: 1, Size: 5, K: 2, Alpha: 1e-4, Beta: 0.75},
		{N: 2, C: 48, H: 5, W: 7, Size: 5, K: 2, Alpha: 1e-4, Beta: 0.75}, // the paper's constants
		{N: 2, C: 16, H: 32, W: 32, Size: 5, K: 2, Alpha: 1e-4, Beta: 0.75},
		{N: 3, C: 7, H: 3, W: 3, Size: 5, K: 1, Alpha: 0.5, Beta: 0.75},  // strong, so that the sums matter
		{N: 2, C: 13, H: 5, W: 3, Size: 4, K: 2, Alpha: 0.3, Beta: 0.5},  // even: the window is lopsided
		{N: 2, C: 3, H: 7, W: 9, Size: 9, K: 1.5, Alpha: 0.2, Beta: 1.1}, // wider than the maps
		{N: 2, C: 32, H: 3, W: 4, Size: 3, K: 1, Alpha: 0.5, Beta: 0.75},
		{N: 2, C: 16, H: 2, W: 5, Size: 5, K: 1.5, Alpha: 0.4, Beta: 0.6},
		{N: 2, C: 3, H: 9, W: 7, Size: 3, K: 1, Alpha: 0.4, Beta: 0.75, Space: true},
		{N: 1, C: 2, H: 5, W: 5, Size: 4, K: 1, Alpha: 0.4, Beta: 0.75, Space: true},
	} {
		out = append(out, lrnTest(d))
	}
	return out
}

// coarse are numbers with many ties, and negative ones: windows whose maximum is below 0 and windows with several.
func coarse(seed uint64, n int) []float32 {
	v := draw(seed, n)
	for i := range v {
		v[i] = float32(int(v[i]*3)) / 3
	}
	return v
}

func poolTest(d cudakern.PoolDesc) test {
	name := fmt.Sprintf("%dx%dx%dx%d, %d windows of %d, stride %d, all ties %v",
		d.N, d.C, d.H, d.W, d.OutH*d.OutW, d.Kernel,
		d.Stride, d.TiesAll)
	return test{"pool", name, func(e *env) error {
		p, err := e.dev.NewPool(d)
		if err != nil {
			return err
		}
		e.closing(p.Close)
		lx, ly := p.Layouts()
		x := e.with("x", d.XShape(), lx, coarse(e.seed, d.XShape().Len()))
		y, dy, dx := e.out("y", d.YShape(), ly, 0), e.in("dy", d.YShape(), ly), e.out("dx", d.XShape(), lx, d.Kernel*d.Kernel)
		if e.err != nil {
			return e.err
		}
		if err := p.Forward(e.st, x, y); err != nil {
			return fmt.Errorf("forward: %w", err)
		}
		if err := p.Backward(e.st, x, y, dy, dx); err != nil {
			return fmt.Errorf("backward: %w", err)
		}
		return nil
	}}
}

func lrnTest(d cudakern.LRNDesc) test {
	name := fmt.Sprintf("%dx%dx%dx%d size %d, across space %v, k %g alpha %g beta %g",
		d.N, d.C, d.H, d.W, d.Size, d.Space, d.K,
		d.Alpha, d.Beta)
	terms := d.Size
	if d.Space {
		terms *= d.Size
	}
	return test{"lrn", name, func(e *env) error {
		p, err := e.dev.NewLRN(d)
		if err != nil {
			return err
		}
		e.closing(p.Close)
		l := p.Layouts()
		x, dy := e.in("x", d.Shape(), l), e.in("dy", d.Shape(), l)
		y, dx := e.out("y", d.Shape(), l, terms), e.out("dx", d.Shape(), l, 4*terms)
		if e.err != nil {
			return e.err
		}
		if err := p.Forward(e.st, x, y); err != nil {
			return fmt.Errorf("forward: %w", err)
		}
		if err := p.Backward(e.st, x, y, dy, dx); err != nil {
			return fmt.Errorf("backward: %w", err)
		}
		return nil
	}}
}
