package ref

import "colonnade/cudakern"

// conv is a convolution, as seven loops.
type conv struct {
	op
	cudakern.ConvDesc
}

func (d *device) NewConv(c cudakern.ConvDesc) (cudakern.Conv, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &conv{d.newOp(), c}, nil
}

func (c *conv) Layouts() (x, w, y cudakern.Layout) {
	return cudakern.Plain, cudakern.Plain, cudakern.Plain
}

// each calls f for every product of the convolution: y[iy] takes x[ix] * w[iw].
func (c *conv) each(f func(iy, ix, iw int)) {
	for n := range c.N {
		for o := range c.Out {
			for oy := range c.OutH {
				for ox := range c.OutW {
					iy := ((n*c.Out+o)*c.OutH+oy)*c.OutW + ox
					c.window(n, o, oy, ox, iy, f)
				}
			}
		}
	}
}

func (c *conv) window(n, o, oy, ox, iy int, f func(iy, ix, iw int)) {
	for i := range c.In {
		for ky := range c.Kernel {
			y := oy*c.Stride - c.Pad.Top + ky
			if y < 0 || y >= c.H {
				continue
			}
			for kx := range c.Kernel {
				x := ox*c.Stride - c.Pad.Left + kx
				if x < 0 || x >= c.W {
					continue
				}
				f(iy, ((n*c.In+i)*c.H+y)*c.W+x, ((o*c.In+i)*c.Kernel+ky)*c.Kernel+kx)
			}
		}
	}
}

func (c *conv) Forward(_ cudakern.Stream, x, w, b, y cudakern.Buffer) error {
	err := checkAll("conv forward", operand{"x", x, c.XShape()}, operand{"w", w, c.WShape()}, operand{"y", y, c.YShape()})
	if err == nil && c.Bias {
		err = checkAll("conv forward", operand{"b", b, cudakern.Shape{c.Out}})
	}
	if err != nil {
		return err
	}
	begin(vals(y), b, c.Bias, c.Accumulate, c.Out, c.OutH*c.OutW)
	xv, wv, yv := vals(x), vals(w), vals(y)
	c.each(func(iy, ix, iw int) { yv[iy] += xv[ix] * wv[iw] })
	finish(yv, c.ReLU)
	return nil
}

// begin sets an output to what the products are added to. y is n x out x area.
func begin(y []float64, b cudakern.Buffer, bias, accumulate bool, out, area int) {
	if !accumulate {
		clear(y)
	}
	if bias {
		for i := range y {
			y[i] += vals(b)[i/area%out]
		}
	}
}

func finish(y []float64, rectify bool) {
	if rectify {
		for i := range y {
			y[i] = relu(y[i])
		}
	}
}

func (c *conv) BackwardData(_ cudakern.Stream, dy, w, dx cudakern.Buffer) error {
	err := checkAll("conv backward data", operand{"dy", dy, c.YShape()}, operand{"w", w, c.WShape()},
		operand{"dx", dx, c.XShape()})
	if err != nil {
		return err
	}
	clear(vals(dx))
	dyv, wv, dxv := vals(dy), vals(w), vals(dx)
	c.each(func(iy, ix, iw int) { dxv[ix] += dyv[iy] * wv[iw] })
	return nil
}

func (c *conv) BackwardWeights(_ cudakern.Stream, x, dy, dw, db cudakern.Buffer) error {
	err := checkAll("conv backward weights", operand{"x", x, c.XShape()}, operand{"dy", dy, c.YShape()},
		operand{"dw", dw, c.WShape()})
	if err == nil && c.Bias {
		err = checkAll("conv backward weights", operand{"db", db, cudakern.Shape{c.Out}})
	}
	if err != nil {
		return err
	}
	clear(vals(dw))
	xv, dyv, dwv := vals(x), vals(dy), vals(dw)
	c.each(func(iy, ix, iw int) { dwv[iw] += dyv[iy] * xv[ix] })
	biasGradient(dyv, db, c.Bias, c.Out, c.OutH*c.OutW)
	return nil
}

func biasGradient(dy []float64, db cudakern.Buffer, bias bool, out, area int) {
	if !bias {
		return
	}
	clear(vals(db))
	for i, g := range dy {
		vals(db)[i/area%out] += g
	}
}

// dense is a fully connected layer.
type dense struct {
	op
	cudakern.DenseDesc
}

func (d *device) NewDense(c cudakern.DenseDesc) (cudakern.Dense, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &dense{d.newOp(), c}, nil
}

func (c *dense) Layouts() (x, w, y cudakern.Layout) {
	return cudakern.Plain, cudakern.Plain, cudakern.Plain
}

// each calls f for every product: y[iy] takes x[ix] * w[iw].
func (c *dense) each(f func(iy, ix, iw int)) {
	for n := range c.N {
		for o := range c.Out {
			for i := range c.In {
				f(n*c.Out+o, n*c.In+i, o*c.In+i)
			}
		}
	}
}

func (c *dense) Forward(_ cudakern.Stream, x, w, b, y cudakern.Buffer) error {
	err := checkAll("dense forward", operand{"x", x, c.XShape()}, operand{"w", w, c.WShape()}, operand{"y", y, c.YShape()})
	if err == nil && c.Bias {
		err = checkAll("dense forward", operand{"b", b, cudakern.Shape{c.Out}})
	}
	if err != nil {
		return err
	}
	begin(vals(y), b, c.Bias, c.Accumulate, c.Out, 1)
	xv, wv, yv := vals(x), vals(w), vals(y)
	c.each(func(iy, ix, iw int) { yv[iy] += xv[ix] * wv[iw] })
	finish(yv, c.ReLU)
	return nil
}

func (c *dense) BackwardData(_ cudakern.Stream, dy, w, dx cudakern.Buffer) error {
	err := checkAll("dense backward data", operand{"dy", dy, c.YShape()}, operand{"w", w, c.WShape()},
		operand{"dx", dx, c.XShape()})
	if err != nil {
		return err
	}
	clear(vals(dx))
	dyv, wv, dxv := vals(dy), vals(w), vals(dx)
	c.each(func(iy, ix, iw int) { dxv[ix] += dyv[iy] * wv[iw] })
	return nil
}

func (c *dense) BackwardWeights(_ cudakern.Stream, x, dy, dw, db cudakern.Buffer) error {
	err := checkAll("dense backward weights", operand{"x", x, c.XShape()}, operand{"dy", dy, c.YShape()},
		operand{"dw", dw, c.WShape()})
	if err == nil && c.Bias {
		err = checkAll("dense backward weights", operand{"db", db, cudakern.Shape{c.Out}})
	}
	if err != nil {
		return err
	}
	clear(vals(dw))
	xv, dyv, dwv := vals(x), vals(dy), vals(dw)
	c.each(func(iy, ix, iw int) { dwv[iw] += dyv[iy] * xv[ix] })
	biasGradient(dyv, db, c.Bias, c.Out, 1)
	return nil
}
