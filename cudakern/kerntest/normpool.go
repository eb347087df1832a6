package kerntest

import (
	"errors"
	"fmt"

	"colonnade/cudakern"
)

// normPools are AlexNet's normalisation and pooling at a small batch, and awkward ones: windows that overhang on every
// side, maps that few devices do in one pass.
func normPools() []cudakern.NormPoolDesc {
	of := func(n, c, h, w, outH, outW, stride int, pad cudakern.Pad, alpha float64) cudakern.NormPoolDesc {
		return cudakern.NormPoolDesc{
			LRN: cudakern.LRNDesc{N: n, C: c, H: h, W: w, Size: 5, K: 2, Alpha: alpha, Beta: 0.75},
			Pool: cudakern.PoolDesc{N: n, C: c, H: h, W: w, OutH: outH, OutW: outW, Kernel: 3, Stride: stride,
				Pad: pad}}
	}
	all := []cudakern.NormPoolDesc{
		of(2, 48, 13, 13, 6, 6, 2, cudakern.Pad{}, 1e-4),
		of(3, 16, 7, 9, 4, 5, 2, cudakern.Pad{Top: 1, Left: 1}, 0.3), // overhangs on all sides
		of(2, 32, 16, 16, 8, 8, 2, cudakern.Pad{}, 0.3),              // only below and to the right
		of(2, 8, 5, 4, 5, 4, 1, cudakern.Pad{Top: 1, Left: 1}, 0.5),  // every pixel in nine windows
		of(1, 24, 11, 8, 3, 2, 3, cudakern.Pad{}, 0.5),               // rows that no window has
		of(2, 16, 1, 1, 1, 1, 2, cudakern.Pad{Top: 1, Left: 1}, 0.5),
		of(1, 128, 9, 27, 4, 13, 2, cudakern.Pad{}, 1e-4),
		of(2, 5, 6, 7, 3, 3, 2, cudakern.Pad{}, 0.3),
	}
	wide, ties := all[0], all[0]
	wide.LRN.Size = 3
	ties.Pool.TiesAll = true
	all = append(all, wide, ties)
	for _, d := range all {
		d.ReLU = true
		all = append(all, d)
	}
	return all
}

func normPoolTests() (out []test) {
	for _, d := range normPools() {
		out = append(out, normPoolTest(d))
	}
	return out
}

// normPoolTest runs a device's NormPool, or the separate ops of a device that has none. Where there are both they must
// give the same bits.
func normPoolTest(d cudakern.NormPoolDesc) test {
	name := fmt.Sprintf("%v over %d, %d windows, stride %d, all ties %v, rectified %v", d.LRN.Shape(), d.LRN.Size,
		d.Pool.OutH*d.Pool.OutW, d.Pool.Stride, d.Pool.TiesAll, d.ReLU)
	return test{"lrn and pool", name, func(e *env) error {
		x := coarse(e.seed, d.LRN.Shape().Len())
		for i := range x {
			x[i] = max(x[i], 0) // as a rectifier leaves it: many zeros, many ties
		}
		fused, ok := e.dev.(cudakern.NormPooler)
		if ok {
			p, err := fused.NewNormPool(d)
			if err == nil {
				if err := e.normPool(d, p, x, ""); err != nil {
					return err
				}
				return e.normPoolAgain(d, x)
			}
			if !errors.Is(err, cudakern.ErrUnsupported) {
				return err
			}
		}
		p, err := newSeparate(e.dev, d)
		if err != nil {
			return err
		}
		return e.normPool(d, p, x, "")
	}}
}

// normPool runs the op both ways. Operands' names get a suffix.
func (e *env) normPool(d cudakern.NormPoolDesc, p cudakern.NormPool, x []float32, suffix string) error {
	e.closing(p.Close)
	lx, ly := p.Layouts()
	in := e.with("x"+suffix, d.Pool.XShape(), lx, x)
	y := e.out("y"+suffix, d.Pool.YShape(), ly, d.LRN.Size)
	dy := e.with("dy"+suffix, d.Pool.YShape(), ly, draw(e.seed+1, d.Pool.YShape().Len()))
	dx := e.out("dx"+suffix, d.Pool.XShape(), lx, 4*d.LRN.Size+d.Pool.Kernel*d.Pool.Kernel)
	picks := e.scratch("picks"+suffix, p.PickBytes())
	if e.err != nil {
		return e.err
	}
	if err := p.Forward(e.st, in, y, picks); err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	if err := p.Backward(e.st, in, picks, dy, dx); err != nil {
		return fmt.Errorf("backward: %w", err)
	}
	return nil
}

// normPoolAgain does the same by the separate ops and wants the bits that are there. What it makes is no output of the
// case.
func (e *env) normPoolAgain(d cudakern.NormPoolDesc, x []float32) error {
	p, err := newSeparate(e.dev, d)
	if err != nil {
		return err
	}
	one := len(e.operands)
	if err := e.normPool(d, p, x, " of separate ops"); err != nil {
		return err
	}
	for i, o := range e.operands[one:] {
		if !o.out {
			continue
		}
		o.out = false
		other := e.operands[one-len(e.operands[one:])+i]
		got, want := make([]float32, o.buf.Shape().Len()), make([]float32, o.buf.Shape().Len())
		err := errors.Join(e.dev.Download(e.st, got, other.buf), e.dev.Download(e.st, want, o.buf))
		if err != nil {
			return err
		}
		if at := (result{v: got}).differs(result{v: want}); at >= 0 {
			return fmt.Errorf("%s[%d] is %g, and %g by separate ops", other.name, at, got[at], want[at])
		}
	}
	return nil
}

// separate is NormPool by the ops it stands for. Their operands in between are its own, and so are picks: what Forward
// has left.
type separate struct {
	lrn      cudakern.LRN
	pool     cudakern.Pool
	relu     cudakern.ReLU // nil without
	normed   cudakern.Buffer
	gradient cudakern.Buffer
	y        cudakern.Buffer // of the last Forward
	closers  []func()
}

func newSeparate(dev cudakern.Device, d cudakern.NormPoolDesc) (s *separate, err error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	s = &separate{}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	own := func(close func()) { s.closers = append(s.closers, close) }
	if s.lrn, err = dev.NewLRN(d.LRN); err != nil {
		return nil, err
	}
	own(s.lrn.Close)
	if s.pool, err = dev.NewPool(d.Pool); err != nil {
		return nil, err
	}
	own(s.pool.Close)
	l := s.lrn.Layouts()
	if px, _ := s.pool.Layouts(); px != l {
		return nil, fmt.Errorf("lrn wants %s, pool %s: %w", l, px, cudakern.ErrUnsupported)
	}
	if d.ReLU {
		if s.relu, err = dev.NewReLU(cudakern.ReLUDesc{Shape: d.LRN.Shape(), Layout: l}); err != nil {
			return nil, err
		}
		own(s.relu.Close)
	}
	if s.normed, err = dev.Alloc(d.LRN.Shape(), l); err != nil {
		return nil, err
	}
	own(s.normed.Free)
	if s.gradient, err = dev.Alloc(d.LRN.Shape(), l); err != nil {
		return nil, err
	}
	own(s.gradient.Free)
	return s, nil
}

func (s *separate) Layouts() (x, y cudakern.Layout) { return s.pool.Layouts() }
func (s *separate) PickBytes() int                  { return 1 }

func (s *separate) Forward(st cudakern.Stream, x, y, _ cudakern.Buffer) error {
	s.y = y
	return errors.Join(s.lrn.Forward(st, x, s.normed), s.pool.Forward(st, s.normed, y))
}

func (s *separate) Backward(st cudakern.Stream, x, _, dy, dx cudakern.Buffer) error {
	err := errors.Join(s.pool.Backward(st, s.normed, s.y, dy, s.gradient),
		s.lrn.Backward(st, x, s.normed, s.gradient, dx))
	if err == nil && s.relu != nil {
		err = s.relu.Backward(st, x, dx, dx)
	}
	return err
}

func (s *separate) Close() {
	for _, f := range s.closers {
		f()
	}
}
