package ref

import (
	"math"

	"colonnade/cudakern"
)

// lrn is response normalisation (paper, section 3.3).
type lrn struct {
	op
	cudakern.LRNDesc
}

func (d *device) NewLRN(c cudakern.LRNDesc) (cudakern.LRN, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &lrn{d.newOp(), c}, nil
}

func (c *lrn) Layouts() cudakern.Layout { return cudakern.Plain }

// window calls f with the index of every place in the window of the place (n, m, y, x).
func (c *lrn) window(n, m, y, x int, f func(i int)) {
	lo, hi := -(c.Size / 2), -(c.Size/2)+c.Size
	if !c.Space {
		for j := max(0, m+lo); j < min(c.C, m+hi); j++ {
			f(((n*c.C+j)*c.H+y)*c.W + x)
		}
		return
	}
	for yy := max(0, y+lo); yy < min(c.H, y+hi); yy++ {
		for xx := max(0, x+lo); xx < min(c.W, x+hi); xx++ {
			f(((n*c.C+m)*c.H+yy)*c.W + xx)
		}
	}
}

// each calls f for every place.
func (c *lrn) each(f func(i, n, m, y, x int)) {
	i := 0
	for n := range c.N {
		for m := range c.C {
			for y := range c.H {
				for x := range c.W {
					f(i, n, m, y, x)
					i++
				}
			}
		}
	}
}

// scale is k + alpha * sum of squares at a place.
func (c *lrn) scale(v []float64, n, m, y, x int) float64 {
	sum := 0.0
	c.window(n, m, y, x, func(j int) { sum += v[j] * v[j] })
	return c.K + c.Alpha*sum
}

func (c *lrn) Forward(_ cudakern.Stream, x, y cudakern.Buffer) error {
	if err := checkAll("lrn forward", operand{"x", x, c.Shape()}, operand{"y", y, c.Shape()}); err != nil {
		return err
	}
	xv, yv := vals(x), vals(y)
	c.each(func(i, n, m, py, px int) { yv[i] = xv[i] * math.Pow(c.scale(xv, n, m, py, px), -c.Beta) })
	return nil
}

// Backward differentiates y_i = x_i s_i^-beta: dx_i = dy_i s_i^-beta, and for every j whose window holds i,
// dx_i -= 2 alpha beta x_i dy_j y_j / s_j.
func (c *lrn) Backward(_ cudakern.Stream, x, y, dy, dx cudakern.Buffer) error {
	err := checkAll("lrn backward", operand{"x", x, c.Shape()}, operand{"y", y, c.Shape()}, operand{"dy", dy, c.Shape()},
		operand{"dx", dx, c.Shape()})
	if err != nil {
		return err
	}
	xv, dyv, out := vals(x), vals(dy), make([]float64, c.Shape().Len())
	c.each(func(j, n, m, py, px int) {
		s := c.scale(xv, n, m, py, px)
		p := math.Pow(s, -c.Beta)
		out[j] += dyv[j] * p
		c.window(n, m, py, px, func(i int) { out[i] -= 2 * c.Alpha * c.Beta * xv[i] * dyv[j] * xv[j] * p / s })
	})
	copy(vals(dx), out)
	return nil
}

// pool is max-pooling.
type pool struct {
	op
	cudakern.PoolDesc
}

func (d *device) NewPool(c cudakern.PoolDesc) (cudakern.Pool, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &pool{d.newOp(), c}, nil
}

func (c *pool) Layouts() (x, y cudakern.Layout) { return cudakern.Plain, cudakern.Plain }

// each calls f for every window with the index of its output and of its places in row order.
func (c *pool) each(f func(iy int, places []int)) {
	var places []int
	for m := range c.N * c.C {
		for oy := range c.OutH {
			for ox := range c.OutW {
				places = places[:0]
				for y := max(0, oy*c.Stride-c.Pad.Top); y < min(c.H, oy*c.Stride-c.Pad.Top+c.Kernel); y++ {
					for x := max(0, ox*c.Stride-c.Pad.Left); x < min(c.W, ox*c.Stride-c.Pad.Left+c.Kernel); x++ {
						places = append(places, (m*c.H+y)*c.W+x)
					}
				}
				f((m*c.OutH+oy)*c.OutW+ox, places)
			}
		}
	}
}

func (c *pool) Forward(_ cudakern.Stream, x, y cudakern.Buffer) error {
	if err := checkAll("pool forward", operand{"x", x, c.XShape()}, operand{"y", y, c.YShape()}); err != nil {
		return err
	}
	xv, yv := vals(x), vals(y)
	c.each(func(iy int, places []int) {
		best := xv[places[0]]
		for _, i := range places[1:] {
			best = math.Max(best, xv[i])
		}
		yv[iy] = best
	})
	return nil
}

func (c *pool) Backward(_ cudakern.Stream, x, y, dy, dx cudakern.Buffer) error {
	err := checkAll("pool backward", operand{"x", x, c.XShape()}, operand{"y", y, c.YShape()},
		operand{"dy", dy, c.YShape()}, operand{"dx", dx, c.XShape()})
	if err != nil {
		return err
	}
	xv, yv, dyv, dxv := vals(x), vals(y), vals(dy), vals(dx)
	clear(dxv)
	c.each(func(iy int, places []int) {
		for _, i := range places {
			if xv[i] == yv[iy] {
				dxv[i] += dyv[iy]
				if !c.TiesAll {
					return
				}
			}
		}
	})
	return nil
}
