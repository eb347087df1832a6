package kerntest

import (
	"fmt"
	"math"

	"colonnade/cudakern"
	"colonnade/cudakern/ref"
)

// algorithms names the algorithms of an op's passes, if it says. They are what decides how much rounding is tolerated.
func algorithms(op any) (forward, data, weights string) {
	if a, ok := op.(interface {
		Algorithms() (forward, data, weights string)
	}); ok {
		return a.Algorithms()
	}
	return "direct", "direct", "direct"
}

// amplification is by how much an algorithm's largest rounding errors exceed those of a plain sum of products.
// Winograd's transforms multiply by numbers above 1 what cancels later, the more so the larger the tile. An algorithm
// that is missing here is tolerated nothing.
var amplification = map[string]float64{
	"direct":              1,
	"winograd F(4x4,3x3)": 4,
	"winograd F(5x5,3x3)": 8,
	"winograd F(3x3,5x5)": 8,
	"winograd F(4x4,5x5)": 16,
	"tf32":                1536, // both factors off by 2^-11: of two products 2^15 units, of many a part of that
}

// rmsBound bounds PassPrecision.RMS for convolutions of up to 256 maps: not twice what the worst pass measures.
var rmsBound = map[string]float64{
	"direct":              1e-6,
	"winograd F(4x4,3x3)": 1e-6,
	"winograd F(5x5,3x3)": 2e-6,
	"winograd F(3x3,5x5)": 2e-6,
	"winograd F(4x4,5x5)": 4e-6,
}

// Precision measures rounding errors of a convolution: x as it comes out of a rectifier, half zeros and half within
// [0, 1), w and dy within [-1, 1).
type Precision struct {
	desc  cudakern.ConvDesc
	exact [3][]float32
}

// PassPrecision is one pass's errors in units of the root mean square of the exact result.
type PassPrecision struct {
	Pass      string // "forward", "by data", "by weights"
	Algorithm string
	RMS, Max  float64
}

// NewPrecision computes the exact results.
func NewPrecision(d cudakern.ConvDesc) (*Precision, error) {
	d.Bias, d.Accumulate, d.ReLU = false, false, false
	exact, _, err := passes(ref.New(), d)
	return &Precision{d, exact}, err
}

// Measure runs the convolution on a device. It fails if a pass is off by more than its algorithm may be.
func (p *Precision) Measure(dev cudakern.Device) (out [3]PassPrecision, err error) {
	got, names, err := passes(dev, p.desc)
	if err != nil {
		return out, err
	}
	for i, pass := range [3]string{"forward", "by data", "by weights"} {
		r := PassPrecision{Pass: pass, Algorithm: names[i]}
		var off, size float64
		for j, w := range p.exact[i] {
			e := float64(got[i][j]) - float64(w)
			r.Max = max(r.Max, math.Abs(e))
			off += e * e
			size += float64(w) * float64(w)
		}
		r.RMS, r.Max = math.Sqrt(off/size), r.Max/math.Sqrt(size/float64(len(p.exact[i])))
		out[i] = r
		if bound := rmsBound[r.Algorithm]; !(r.RMS <= bound) && err == nil {
			err = fmt.Errorf("%s by %s is off by %.2g of the result, more than %.2g", pass, r.Algorithm, r.RMS, bound)
		}
	}
	return out, err
}

// Same says whether two devices compute the passes that are not direct to the same bits.
func (p *Precision) Same(a, b cudakern.Device) error {
	left, names, err := passes(a, p.desc)
	if err != nil {
		return err
	}
	right, others, err := passes(b, p.desc)
	if err != nil {
		return err
	}
	for i, name := range names {
		if name != others[i] {
			return fmt.Errorf("pass %d is computed by %s and by %s", i, name, others[i])
		}
		if at := (result{v: left[i]}).differs(result{v: right[i]}); at >= 0 && name != "direct" {
			return fmt.Errorf("pass %d by %s: element %d is %g and %g", i, name, at, left[i][at], right[i][at])
		}
	}
	return nil
}

// passes runs the three passes of a convolution and returns what they yield.
func passes(dev cudakern.Device, d cudakern.ConvDesc) (out [3][]float32, names [3]string, err error) {
	st, err := dev.NewStream()
	if err != nil {
		return out, names, err
	}
	e := &env{dev: dev, st: st}
	defer func() {
		e.free()
		if cerr := st.Close(); err == nil {
			err = cerr
		}
	}()
	c, err := dev.NewConv(d)
	if err != nil {
		return out, names, err
	}
	e.closing(c.Close)
	names[0], names[1], names[2] = algorithms(c)
	lx, lw, ly := c.Layouts()
	values := draw(1, d.XShape().Len())
	for i := range values {
		values[i] = max(values[i], 0)
	}
	e.seed = 2
	x, w, dy := e.with("x", d.XShape(), lx, values), e.in("w", d.WShape(), lw), e.in("dy", d.YShape(), ly)
	y, dx, dw := e.out("y", d.YShape(), ly, 0), e.out("dx", d.XShape(), lx, 0), e.out("dw", d.WShape(), lw, 0)
	if e.err != nil {
		return out, names, e.err
	}
	for _, f := range []func() error{func() error { return c.Forward(st, x, w, nil, y) },
		func() error { return c.BackwardData(st, dy, w, dx) },
		func() error { return c.BackwardWeights(st, x, dy, dw, nil) }} {
		if err := f(); err != nil {
			return out, names, err
		}
	}
	all, err := e.collect()
	for i, r := range all {
		out[i] = r.v
	}
	return out, names, err
}
