package score

import (
	"math"
	"slices"
	"testing"
)

// The table is worked out by hand from layer_kernels.cu:96-118.
func TestCredit(t *testing.T) {
	for _, c := range []struct {
		k, above, ties int
		want           float64
	}{
		{1, 0, 0, 1}, {1, 0, 1, 0.5}, {1, 0, 3, 0.25}, {1, 1, 0, 0}, {1, 1, 7, 0},
		{5, 0, 0, 1}, {5, 4, 0, 1}, {5, 4, 1, 0.5}, {5, 4, 3, 0.25}, {5, 3, 1, 1}, {5, 3, 2, 2.0 / 3}, {5, 5, 0, 0},
		{5, 0, 9, 0.5}, {5, 0, 999, 0.005},
	} {
		if got := Credit(c.k, c.above, c.ties); got != c.want {
			t.Errorf("top-%d credit with %d above and %d ties is %g, want %g", c.k, c.above, c.ties, got, c.want)
		}
	}
}

func TestRank(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		p           []float64
		label       int
		above, ties int
	}{
		{[]float64{0.1, 0.2, 0.7}, 2, 0, 0}, {[]float64{0.1, 0.2, 0.7}, 0, 2, 0}, {[]float64{0.4, 0.2, 0.4}, 0, 0, 1},
		{[]float64{0.2, 0.2, 0.4, 0.2}, 3, 1, 2}, {[]float64{nan, nan, nan}, 1, 2, 0}, {[]float64{0.5, nan}, 0, 1, 0},
		{[]float64{1}, 0, 0, 0},
	} {
		if above, ties := Rank(c.p, c.label); above != c.above || ties != c.ties {
			t.Errorf("class %d of %v: %d above, %d ties, want %d and %d", c.label, c.p, above, ties, c.above, c.ties)
		}
	}
}

func TestMeanOfViews(t *testing.T) {
	// Softmax of (0, ln 3) is (1/4, 3/4), of (ln 4, 0) is (4/5, 1/5): the mean is (0.525, 0.475).
	m := NewMean(2)
	p := make([]float64, 2)
	for range 2 { // Take begins anew
		m.Add([]float32{0, float32(math.Log(3))})
		m.Add([]float32{float32(math.Log(4)), 0})
		m.Take(p)
		if math.Abs(p[0]-0.525) > 1e-7 || math.Abs(p[1]-0.475) > 1e-7 {
			t.Errorf("mean %v, want [0.525 0.475]", p)
		}
	}
	Softmax(p, []float32{1000, 1000}) // exp alone would overflow
	if p[0] != 0.5 || p[1] != 0.5 {
		t.Errorf("softmax of great logits is %v", p)
	}
	if l := Loss(0); math.IsInf(l, 0) || l < 700 {
		t.Errorf("loss of an impossible label is %g", l)
	}
}

func TestTally(t *testing.T) {
	all := NewTally(3)
	images := []struct {
		p     []float64
		label int
	}{
		{[]float64{0.5, 0.25, 0.25}, 0}, {[]float64{0.5, 0.25, 0.25}, 1}, {[]float64{0.25, 0.5, 0.25}, 0},
		{[]float64{0.5, 0.5, 0}, 1}, {[]float64{0, 0.5, 0.5}, 2},
	}
	parts := []*Tally{NewTally(3), NewTally(3)}
	for i, im := range images {
		for _, tally := range []*Tally{all, parts[i%2]} {
			if err := tally.Add(im.p, im.label); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Top-1: right, wrong, wrong, half, half. Five classes would be needed for a top-5 error.
	want := Score{Images: 5, Loss: 3*math.Log(2) + 2*math.Log(4), Top1: 3}
	if math.Abs(all.Loss-want.Loss) > 1e-12 || all.Images != 5 || all.Top1 != 3 || all.Top5 != 0 {
		t.Errorf("score %+v, want %+v", all.Score, want)
	}
	if c := all.ByClass[1]; c.Images != 2 || c.Top1 != 1.5 {
		t.Errorf("class 1: %+v, want 2 images and 1.5 errors", c)
	}
	cells := []Confused{{0, 0, 1}, {0, 1, 1}, {1, 0, 2}, {2, 1, 1}}
	if got := all.Cells(); !slices.Equal(got, cells) || all.Confusion(1, 0) != 2 || all.Confusion(2, 2) != 0 {
		t.Errorf("confusion %v, want %v", got, cells)
	}
	if got := all.Worst(2); !slices.Equal(got, []Confused{{1, 0, 2}, {0, 1, 1}}) {
		t.Errorf("most confused: %v", got)
	}
	if err := parts[0].Merge(parts[1]); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(parts[0].Cells(), cells) || parts[0].Top1 != 3 || parts[0].Images != 5 {
		t.Errorf("two parts come to %+v %v", parts[0].Score, parts[0].Cells())
	}
	back := NewTally(3)
	for _, c := range cells {
		if err := back.Set(c); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(back.Cells(), cells) {
		t.Errorf("the matrix comes back as %v", back.Cells())
	}
	for name, err := range map[string]error{"label": all.Add([]float64{1, 0, 0}, 3),
		"negative": all.Add([]float64{1, 0, 0}, -1),
		"classes":  all.Add([]float64{1}, 0), "merge": all.Merge(NewTally(4)), "set": all.Set(Confused{3, 0, 1})} {
		if err == nil {
			t.Errorf("no error for a wrong %s", name)
		}
	}
}

func TestBest(t *testing.T) {
	if got := Best([]float64{0.1, 0.3, 0.3, 0.2, 0.1}, 3); !slices.Equal(got, []int{1, 2, 3}) {
		t.Errorf("best three: %v", got)
	}
	if got := Best([]float64{0.1, 0.9}, 5); !slices.Equal(got, []int{1, 0}) {
		t.Errorf("best five of two: %v", got)
	}
}
