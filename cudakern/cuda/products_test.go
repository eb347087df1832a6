//go:build cuda && cgo

package cuda

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/kerntest"
	"colonnade/cudakern/ref"
)

// Shapes with ragged tiles of every size, sums in several parts, strides, and windows that overhang.
var (
	tiledConvs = []cudakern.ConvDesc{
		{N: 3, In: 5, H: 13, W: 11, Out: 70, OutH: 13, OutW: 11, Kernel: 5, Stride: 1,
			Pad: cudakern.Pad{Top: 2, Left: 2, Bottom: 2, Right: 2}, Bias: true, ReLU: true},
		{N: 2, In: 3, H: 24, W: 31, Out: 130, OutH: 5, OutW: 7, Kernel: 12, Stride: 4, Pad: cudakern.Pad{Top: 3, Left: 6},
			Accumulate: true},
		{N: 5, In: 66, H: 3, W: 3, Out: 3, OutH: 2, OutW: 2, Kernel: 2, Stride: 2, Bias: true}, // overhangs
	}
	tiledDenses = []cudakern.DenseDesc{
		{N: 130, In: 300, Out: 70, Bias: true, ReLU: true}, {N: 5, In: 129, Out: 131, Accumulate: true},
	}
)

// filled is a buffer of numbers that depend on nothing but their places.
func filled(t *testing.T, d cudakern.Device, st cudakern.Stream, s cudakern.Shape, salt int) cudakern.Buffer {
	t.Helper()
	v := make([]float32, s.Len())
	for i := range v {
		v[i] = float32((i*7919+salt*104729)%2003)/1001 - 1
	}
	b, err := d.Alloc(s, cudakern.Plain)
	if err == nil {
		err = d.Upload(st, b, v)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Free)
	return b
}

// passesOf runs the three passes of a product and returns what they yield, one after the other.
func passesOf(t *testing.T, d cudakern.Device, desc any) (out []float32) {
	t.Helper()
	st, err := d.NewStream()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	var p interface {
		Forward(st cudakern.Stream, x, w, b, y cudakern.Buffer) error
		BackwardData(st cudakern.Stream, dy, w, dx cudakern.Buffer) error
		BackwardWeights(st cudakern.Stream, x, dy, dw, db cudakern.Buffer) error
		Close()
	}
	var xs, ws, ys cudakern.Shape
	switch c := desc.(type) {
	case cudakern.ConvDesc:
		p, err = d.NewConv(c)
		xs, ws, ys = c.XShape(), c.WShape(), c.YShape()
	case cudakern.DenseDesc:
		p, err = d.NewDense(c)
		xs, ws, ys = c.XShape(), c.WShape(), c.YShape()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	bs := cudakern.Shape{ws[0]}
	x, w, b := filled(t, d, st, xs, 1), filled(t, d, st, ws, 2), filled(t, d, st, bs, 3)
	y, dy := filled(t, d, st, ys, 4), filled(t, d, st, ys, 5)
	dx, dw, db := filled(t, d, st, xs, 6), filled(t, d, st, ws, 7), filled(t, d, st, bs, 8)
	err = first(p.Forward(st, x, w, b, y), p.BackwardData(st, dy, w, dx), p.BackwardWeights(st, x, dy, dw, db))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []cudakern.Buffer{y, dx, dw, db} {
		v := make([]float32, b.Shape().Len())
		if err := d.Download(st, v, b); err != nil {
			t.Fatal(err)
		}
		out = append(out, v...)
	}
	return out
}

// TestTilesAgree wants the same bits from every tile: the conformance suite's shapes are so small that they all use the
// smallest, and large layers use the others.
func TestTilesAgree(t *testing.T) {
	t.Parallel()
	var all []any
	for _, c := range tiledConvs {
		all = append(all, c)
	}
	for _, c := range tiledDenses {
		all = append(all, c)
	}
	for _, desc := range all {
		t.Run(fmt.Sprintf("%+v", desc), func(t *testing.T) {
			small := openTest(t, "cuda:0")
			small.onlyTile = tile{64, 64}
			want := passesOf(t, small, desc)
			for _, only := range []tile{{64, 128}, {128, 128}} {
				d := openTest(t, "cuda:0")
				d.onlyTile = only
				if got := passesOf(t, d, desc); !slices.Equal(got, want) {
					t.Errorf("tiles of %v give other bits than those of %v", only, small.onlyTile)
				}
			}
		})
	}
}

// TestWideFilters holds the kernels of filters over 15 wide to the reference: they alone have coordinates as marks.
func TestWideFilters(t *testing.T) {
	t.Parallel()
	for _, c := range []cudakern.ConvDesc{
		{N: 2, In: 2, H: 19, W: 23, Out: 3, OutH: 6, OutW: 5, Kernel: 17, Stride: 3, Bias: true,
			Pad: cudakern.Pad{Top: 8, Left: 2, Bottom: 5, Right: 4}},
		{N: 1, In: 1, H: 3, W: 40, Out: 2, OutH: 3, OutW: 29, Kernel: 16, Stride: 1, Bias: true,
			Pad: cudakern.Pad{Top: 8, Left: 4, Bottom: 7}},
	} {
		got, want := passesOf(t, openTest(t, "cuda:0"), c), passesOf(t, ref.New(), c)
		for i := range want {
			if math.Abs(float64(got[i]-want[i])) > 1e-3 {
				t.Fatalf("%+v: number %d of y, dx, dw, db is %v, want %v", c, i, got[i], want[i])
			}
		}
	}
}

// TestTilesArePicked wants large layers to get large tiles, and sums to be cut alike whichever the tile.
func TestTilesArePicked(t *testing.T) {
	d := &Device{}
	among := []tile{{128, 128}, {64, 128}, {64, 64}}
	for _, c := range []struct {
		m, n   int
		parted bool
		want   tile
	}{
		{128, 128 * 27 * 27, false, tile{128, 128}}, // conv2 of alexnet's column at batch 128
		{48, 128 * 55 * 55, false, tile{64, 128}},   // conv1
		{192, 128 * 13 * 13, false, tile{64, 128}},  // conv3
		{2048, 4608, true, tile{128, 128}},          // fc6 by weights
		{5, 30, false, tile{64, 64}},
	} {
		if got := d.pick(c.m, c.n, 1, c.parted, among...); got != c.want {
			t.Errorf("%d x %d: tile %v, want %v", c.m, c.n, got, c.want)
		}
	}
}

// TestDivisors compares the multiplication that kernels divide by with division.
func TestDivisors(t *testing.T) {
	for _, d := range []int{1, 2, 3, 5, 7, 13, 55, 64, 169, 729, 3025, 1<<16 - 1, 1 << 16, 65537, 1<<30 + 1, 1<<31 - 1} {
		multiplier, shift := divisor(d)
		for _, x := range []uint32{0, 1, uint32(d) - 1, uint32(d), 2*uint32(d) - 1, 12345678, 1 << 30, 1<<31 - 1} {
			if x >= 1<<31 {
				continue
			}
			if got := uint32(uint64(x)*uint64(multiplier)>>32) + x; got>>shift != x/uint32(d) {
				t.Errorf("%d / %d is %d by multiplication, want %d", x, d, got>>shift, x/uint32(d))
			}
		}
	}
}

// TestTF32 holds products on the tensor cores against the suite, which tolerates of them what their rounding to 10 bits
// of mantissa explains.
func TestTF32(t *testing.T) {
	t.Parallel()
	d, err := openWith("cuda:0", TF32())
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Info().Numerics; got == openTest(t, "cuda:0").Info().Numerics {
		t.Errorf("numerics %s, the same as of float32", got)
	}
	for _, r := range kerntest.Check(d, kerntest.Options{Ops: []string{"conv", "dense"}}) {
		if !r.Pass {
			t.Errorf("%s: %s", r.Op, r.Failure)
		}
		if r.MaxError < 1e-2 {
			t.Errorf("%s: errors are %.2g of what is tolerated: that is not TF32's arithmetic", r.Op, r.MaxError)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
