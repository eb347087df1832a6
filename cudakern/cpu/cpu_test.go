//go:build cgo

package cpu

import (
	"errors"
	"fmt"
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/kerntest"
)

func open(t testing.TB) cudakern.Device {
	t.Helper()
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConformance(t *testing.T) { kerntest.RunAll(t, open) }

// TestGuards writes past both ends of a buffer, as a wrong kernel would.
func TestGuards(t *testing.T) {
	d := open(t)
	for _, at := range []int{-1, 40} {
		buf, err := d.AllocBytes(40)
		if err != nil {
			t.Fatal(err)
		}
		b := buf.(*buffer)
		before, behind := b.guards()
		cell := &behind[0]
		if at < 0 {
			cell = &before[len(before)-1]
		}
		*cell ^= 1
		if b.Intact() == nil {
			t.Errorf("a write at %d of 40 bytes is not noticed", at)
		}
		*cell ^= 1
		b.Free()
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseCountsWhatIsAlive(t *testing.T) {
	d := open(t)
	b, err := d.AllocBytes(4)
	if err != nil {
		t.Fatal(err)
	}
	if d.Close() == nil {
		t.Error("a device closes although a buffer is in use")
	}
	b.Free()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// forced opens a device with a path and a mode of convolution.
func forced(t *testing.T, path, mode int) cudakern.Device {
	t.Helper()
	d, err := New(func(c *config) { c.path, c.winograd = path, mode })
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestWinograd holds every path that this processor can run against the suite, with every convolution done by
// Winograd's algorithm that can be.
func TestWinograd(t *testing.T) {
	for _, p := range paths() {
		t.Run(pathName(p), func(t *testing.T) {
			kerntest.RunAll(t, func(testing.TB) cudakern.Device { return forced(t, p, winogradAlways) })
		})
	}
}

// TestThreadsAgree wants the same bits of every op on one thread and on more of them than there are processors, cut
// into the smallest pieces there can be.
func TestThreadsAgree(t *testing.T) {
	for _, mode := range []int{winogradOff, winogradAlways} {
		threads := func(n int, fine bool) cudakern.Device {
			d, err := New(func(c *config) { c.winograd, c.threads, c.fine = mode, n, fine })
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		alone := threads(1, false)
		for _, n := range []int{2, 3, 8} {
			d := threads(n, true)
			if err := kerntest.Same(alone, d); err != nil {
				t.Errorf("%d threads, mode %d: %v", n, mode, err)
			}
			if a, b := alone.Info().Numerics, d.Info().Numerics; a != b {
				t.Errorf("numerics %s on one thread, %s on %d", a, b, n)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := alone.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestThreads holds a device with threads against the suite, several streams at once among it.
func TestThreads(t *testing.T) {
	kerntest.RunAll(t, func(testing.TB) cudakern.Device {
		d, err := New(Threads(3), func(c *config) { c.fine = true })
		if err != nil {
			t.Fatal(err)
		}
		return d
	})
	if _, err := New(Threads(0)); !errors.Is(err, cudakern.ErrUnsupported) {
		t.Errorf("a device without threads: %v", err)
	}
}

// TestPrecision bounds the rounding errors of convolutions as in AlexNet, full-size and small, on every path.
func TestPrecision(t *testing.T) {
	same := func(n, in, size, out, kernel int) cudakern.ConvDesc {
		pad := cudakern.Pad{Top: kernel / 2, Left: kernel / 2, Bottom: kernel / 2, Right: kernel / 2}
		return cudakern.ConvDesc{N: n, In: in, H: size, W: size, Out: out, OutH: size, OutW: size, Kernel: kernel, Stride: 1,
			Pad: pad}
	}
	for _, c := range []cudakern.ConvDesc{
		{N: 1, In: 3, H: 107, W: 107, Out: 48, OutH: 25, OutW: 25, Kernel: 11, Stride: 4}, // conv1, a part of the image
		same(1, 48, 27, 64, 5), same(1, 192, 13, 64, 3), same(2, 32, 16, 32, 5), same(4, 48, 9, 64, 5), same(4, 32, 8, 32, 3),
	} {
		m, err := kerntest.NewPrecision(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths() {
			for _, mode := range []int{winogradOff, winogradAuto} {
				d := forced(t, p, mode)
				passes, err := m.Measure(d)
				if err != nil {
					t.Errorf("%s: %dx%dx%dx%d by %d of %dx%d: %v", pathName(p), c.N, c.In, c.H, c.W, c.Out, c.Kernel, c.Kernel, err)
				}
				for _, r := range passes {
					t.Logf("%-9s %3d maps of %2dx%-2d to %3d, %-10s %-19s rms %.2g, max %.2g", pathName(p), c.In, c.H, c.W, c.Out,
						r.Pass, r.Algorithm, r.RMS, r.Max)
				}
				if err := d.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// TestBlocksAgree wants the same bits whether maps lie in blocks of 8 or of 16, so that AVX-512 computes what AVX2
// computes, and however many tiles are worked on at a time.
func TestBlocksAgree(t *testing.T) {
	narrow, wide := -1, -1
	for _, p := range paths() {
		switch pathName(p) {
		case "avx2":
			narrow = p
		case "avx2-wide", "avx512":
			wide = p
		}
	}
	if narrow < 0 || wide < 0 {
		t.Skip("this processor has no AVX2")
	}
	a, b := forced(t, narrow, winogradAlways), forced(t, wide, winogradAlways)
	c := forced(t, narrow, winogradAuto)
	for _, d := range []cudakern.ConvDesc{
		{N: 9, In: 48, H: 11, W: 13, Out: 32, OutH: 11, OutW: 13, Kernel: 3, Stride: 1, Pad: cudakern.Pad{Top: 1, Left: 1}},
		{N: 1, In: 32, H: 29, W: 31, Out: 32, OutH: 29, OutW: 31, Kernel: 3, Stride: 1, Pad: cudakern.Pad{Top: 1, Left: 1}},
		{N: 3, In: 96, H: 9, W: 8, Out: 16, OutH: 9, OutW: 8, Kernel: 5, Stride: 1, Pad: cudakern.Pad{Top: 2, Left: 2}},
		{N: 3, In: 3, H: 51, W: 48, Out: 32, OutH: 11, OutW: 11, Kernel: 11, Stride: 4},
	} {
		m, err := kerntest.NewPrecision(d)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range []cudakern.Device{b, c} {
			if err := m.Same(a, other); err != nil {
				t.Errorf("%+v: %v", d, err)
			}
		}
	}
	for _, d := range []cudakern.Device{a, b, c} {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestPlans pins what is chosen for the networks' convolutions: it is part of what the bits depend on. Lanes have few
// images in small batches, and no pass may be left to plain loops for it.
func TestPlans(t *testing.T) {
	for _, p := range paths() {
		if pathName(p) == "avx2-wide" { // a stand-in: oneDNN has no blocks of 16 where there is no AVX-512
			continue
		}
		for _, n := range []int{1, 2, 20, 128} {
			t.Run(fmt.Sprintf("%s/%d images", pathName(p), n), func(t *testing.T) { plans(t, forced(t, p, winogradAuto), n) })
		}
	}
}

func plans(t *testing.T, d cudakern.Device, n int) {
	for _, c := range []struct {
		in, size, out, kernel, stride, outSize int
		want                                   string
	}{
		{3, 224, 48, 11, 4, 55, "winograd F(5x5,3x3)"}, {48, 27, 128, 5, 1, 27, "winograd F(4x4,5x5)"},
		{128, 13, 192, 3, 1, 13, "winograd F(5x5,3x3)"}, {192, 13, 128, 3, 1, 13, "winograd F(5x5,3x3)"},
		{1, 32, 16, 5, 1, 32, "direct"}, {16, 16, 32, 5, 1, 16, "winograd F(4x4,5x5)"},
		{32, 8, 32, 3, 1, 8, "winograd F(4x4,3x3)"},
		{8, 8, 8, 3, 1, 8, "direct"}, {64, 9, 64, 3, 2, 5, "direct"}, {64, 9, 64, 7, 1, 9, "direct"},
	} {
		desc := cudakern.ConvDesc{N: n, In: c.in, H: c.size, W: c.size, Out: c.out, OutH: c.outSize, OutW: c.outSize,
			Kernel: c.kernel, Stride: c.stride, NoData: c.in < 8}
		if c.stride == 1 {
			desc.Pad = cudakern.Pad{Top: c.kernel / 2, Left: c.kernel / 2}
		}
		op, err := d.NewConv(desc)
		if err != nil {
			t.Fatal(err)
		}
		if f, data, w := op.(*product).Algorithms(); f != c.want || w != c.want || (!desc.NoData && data != c.want) {
			t.Errorf("%+v: forward by %s, backward by %s and %s, want %s", desc, f, data, w, c.want)
		}
		if op.(*product).plainLoops() {
			t.Errorf("%+v: oneDNN has nothing but plain loops", desc)
		}
		op.Close()
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
