package data

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"colonnade/cudakern"
	"colonnade/shard/job"
)

func TestCentreView(t *testing.T) {
	for _, c := range []struct {
		h, w, outH, outW int
		y, x             int32
	}{
		{32, 32, 32, 32, 0, 0},
		{28, 28, 32, 32, -2, -2}, // Fashion-MNIST in a frame for CIFAR
		{256, 256, 224, 224, 16, 16},
		{256, 256, 227, 227, 14, 14}, // 14.5 rounds down
		{28, 28, 33, 33, -3, -3},     // so does -2.5
		{28, 300, 32, 224, -2, 38},   // each side by itself
		{1, 1, 1, 1, 0, 0},
	} {
		want := cudakern.View{Y: c.y, X: c.x}
		if diff := cmp.Diff(want, CentreView(c.h, c.w, c.outH, c.outW)); diff != "" {
			t.Errorf("%dx%d in %dx%d (-want +got):\n%s", c.h, c.w, c.outH, c.outW, diff)
		}
	}
}

// TestTrainViewIsGolden pins views: they reach every weight. Computed by a second implementation, as for orders.
func TestTrainViewIsGolden(t *testing.T) {
	for _, c := range []struct {
		seed, epoch, sample uint64
		pad, whole, small   cudakern.View // 32 in 32 with pad 4; 256 in 224; 28 in 32 with pad 2
	}{
		{1, 0, 0, view(3, -3, true), view(26, 7, true), view(-1, -3, true)},
		{1, 0, 1, view(1, 2, false), view(18, 25, false), view(-2, -1, false)},
		{1, 1, 0, view(-1, -1, false), view(12, 12, false), view(-3, -3, false)},
		{math.MaxUint64, 5, 1<<40 + 3, view(2, 1, true), view(23, 20, true), view(-1, -1, true)},
	} {
		train := func(size, out, pad int) cudakern.View {
			a := job.Augment{Crop: "random", Pad: pad, Flip: true}
			return TrainView(c.seed, c.epoch, c.sample, size, size, out, out, a)
		}
		got := []cudakern.View{train(32, 32, 4), train(256, 224, 0), train(28, 32, 2)}
		if diff := cmp.Diff([]cudakern.View{c.pad, c.whole, c.small}, got); diff != "" {
			t.Errorf("seed %d, epoch %d, sample %d (-want +got):\n%s", c.seed, c.epoch, c.sample, diff)
		}
	}
}

func view(y, x int32, flip bool) cudakern.View { return cudakern.View{Y: y, X: x, Flip: flip} }

// reach is where a frame may begin along one side, first and last place: the rule of DESIGN.md, said another way.
func reach(size, out, pad int) (lo, hi int) {
	if size >= out {
		return -pad, size + pad - out
	}
	centre := -((out - size + 1) / 2)
	return centre - pad, centre + pad
}

func TestTrainViewStaysInReach(t *testing.T) {
	side := rapid.IntRange(1, 300)
	rapid.Check(t, func(t *rapid.T) {
		h, w, outH, outW := side.Draw(t, "h"), side.Draw(t, "w"), side.Draw(t, "outH"), side.Draw(t, "outW")
		a := job.Augment{Crop: "random", Pad: rapid.IntRange(0, 40).Draw(t, "pad"), Flip: rapid.Bool().Draw(t, "flip")}
		seed, epoch := rapid.Uint64().Draw(t, "seed"), rapid.Uint64().Draw(t, "epoch")
		for sample := range uint64(20) {
			v := TrainView(seed, epoch, sample, h, w, outH, outW, a)
			lo, hi := reach(h, outH, a.Pad)
			if int(v.Y) < lo || int(v.Y) > hi {
				t.Fatalf("row %d, want %d..%d", v.Y, lo, hi)
			}
			if lo, hi = reach(w, outW, a.Pad); int(v.X) < lo || int(v.X) > hi {
				t.Fatalf("column %d, want %d..%d", v.X, lo, hi)
			}
			if v.Flip && !a.Flip || v.Shift != [3]float32{} {
				t.Fatalf("view %+v was not asked for", v)
			}
		}
	})
}

func TestCentreCropOnlyFlips(t *testing.T) {
	flips := 0
	for sample := range uint64(100) {
		v := TrainView(3, 0, sample, 40, 40, 32, 32, job.Augment{Crop: "centre", Pad: 4, Flip: true})
		if v.Y != 4 || v.X != 4 {
			t.Fatalf("sample %d is seen from %d, %d", sample, v.Y, v.X)
		}
		if v.Flip {
			flips++
		}
	}
	if flips == 0 || flips == 100 {
		t.Errorf("%d of 100 images are reflected", flips)
	}
}

// TestTrainViewIsEven counts how often each of places^2 crops, reflected or not, is drawn with fixed seeds. Six
// standard deviations of chi-square are allowed.
func TestTrainViewIsEven(t *testing.T) {
	for name, c := range map[string]struct{ size, out, pad int }{
		"padded":  {32, 32, 4},
		"cropped": {40, 32, 0},
		"both":    {36, 32, 1},
		"smaller": {28, 32, 2},
	} {
		t.Run(name, func(t *testing.T) {
			lo, hi := reach(c.size, c.out, c.pad)
			places := hi - lo + 1
			counts := make([]float64, 2*places*places)
			const epochs, samples = 20, 2_000
			for epoch := range uint64(epochs) {
				for sample := range uint64(samples) {
					v := TrainView(11, epoch, sample, c.size, c.size, c.out, c.out,
						job.Augment{Crop: "random", Pad: c.pad, Flip: true})
					at := (int(v.Y)-lo)*places + int(v.X) - lo
					if v.Flip {
						at += places * places
					}
					counts[at]++
				}
			}
			want, chi := epochs*samples/float64(len(counts)), 0.0
			for _, n := range counts {
				chi += (n - want) * (n - want) / want
			}
			free := float64(len(counts) - 1)
			if limit := free + 6*math.Sqrt(2*free); chi > limit {
				t.Errorf("chi-square %.1f of %.0f degrees of freedom, limit %.1f", chi, free, limit)
			}
		})
	}
}

// TestTrainViewDependsOnSeedEpochAndSample: of 200 views 81 of which are possible, few agree by chance.
func TestTrainViewDependsOnSeedEpochAndSample(t *testing.T) {
	at := func(seed, epoch, sample uint64) cudakern.View {
		return TrainView(seed, epoch, sample, 32, 32, 32, 32, job.Augment{Crop: "random", Pad: 4, Flip: true})
	}
	for name, other := range map[string]func(s uint64) cudakern.View{
		"seed":   func(s uint64) cudakern.View { return at(2, 1, s) },
		"epoch":  func(s uint64) cudakern.View { return at(1, 2, s) },
		"sample": func(s uint64) cudakern.View { return at(1, 1, s+1) },
		"high":   func(s uint64) cudakern.View { return at(1, 1, s+1<<32) },
	} {
		same := 0
		for s := range uint64(200) {
			if other(s) == at(1, 1, s) {
				same++
			}
		}
		if same > 20 {
			t.Errorf("%d of 200 views stay the same with another %s", same, name)
		}
	}
}
