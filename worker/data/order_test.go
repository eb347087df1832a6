package data

import (
	"math"
	"math/bits"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// take lists a whole order.
func take(o Order, n uint64) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		out[i] = o.At(uint64(i))
	}
	return out
}

// TestOrderIsGolden pins orders: they reach every weight of every job. The numbers were computed by a second
// implementation of the package comment of philox and of DESIGN.md, in another language.
func TestOrderIsGolden(t *testing.T) {
	for _, c := range []struct {
		seed, epoch, n uint64
		want           []uint64
	}{
		{0, 0, 1, []uint64{0}},
		{0, 0, 10, []uint64{6, 1, 7, 9, 8, 4, 0, 3, 5, 2}},
		{1, 0, 10, []uint64{9, 1, 0, 5, 8, 6, 4, 7, 3, 2}},
		{1, 1, 10, []uint64{4, 3, 9, 1, 0, 2, 5, 8, 6, 7}},
	} {
		if diff := cmp.Diff(c.want, take(NewOrder(c.seed, c.epoch, c.n), c.n)); diff != "" {
			t.Errorf("order of %d, seed %d, epoch %d (-want +got):\n%s", c.n, c.seed, c.epoch, diff)
		}
	}
	o := NewOrder(7, 3, 60_000)
	got := []uint64{o.At(0), o.At(1), o.At(30_000), o.At(59_999)}
	if diff := cmp.Diff([]uint64{53125, 48946, 51892, 42116}, got); diff != "" {
		t.Errorf("places 0, 1, 30000, 59999 of 60000 (-want +got):\n%s", diff)
	}
	if got, want := NewOrder(7, 3, 1<<63+1).At(1<<63), uint64(5831735131485334635); got != want {
		t.Errorf("last place of 2^63+1 is %d, want %d", got, want)
	}
}

// permutation says at which place an order fails to be one, or -1.
func permutation(o Order, n uint64) int {
	seen := make([]bool, n)
	for i := range n {
		v := o.At(i)
		if v >= n || seen[v] {
			return int(i)
		}
		seen[v] = true
	}
	return -1
}

// TestOrderIsAPermutationOfEverySize takes every small size, and those around each size of the Feistel network.
func TestOrderIsAPermutationOfEverySize(t *testing.T) {
	for n := uint64(1); n <= 1<<14+2; n++ {
		if power := uint64(1) << (bits.Len64(n+2) - 1); n > 600 && n > power+2 {
			continue
		}
		if at := permutation(NewOrder(n, n/7, n), n); at >= 0 {
			t.Fatalf("order of %d: place %d repeats a sample or leaves the range", n, at)
		}
	}
}

func TestOrderIsAPermutationForEveryKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(1, 5000).Draw(t, "n")
		o := NewOrder(rapid.Uint64().Draw(t, "seed"), rapid.Uint64().Draw(t, "epoch"), n)
		if at := permutation(o, n); at >= 0 {
			t.Fatalf("place %d repeats a sample or leaves the range", at)
		}
	})
}

// TestOrderOfEnormousSets keeps places apart where no bitmap can.
func TestOrderOfEnormousSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64Range(2, math.MaxUint64).Draw(t, "n")
		o := NewOrder(rapid.Uint64().Draw(t, "seed"), 0, n)
		a, b := rapid.Uint64Range(0, n-1).Draw(t, "a"), rapid.Uint64Range(0, n-1).Draw(t, "b")
		if x, y := o.At(a), o.At(b); x >= n || y >= n || (x == y) != (a == b) {
			t.Fatalf("places %d and %d of %d hold %d and %d", a, b, n, x, y)
		}
	})
}

// TestOrdersDiffer compares orders of 1000: two that agree in more than 20 places are not two random permutations
// (one is expected, and 20 has a probability of about 1e-19).
func TestOrdersDiffer(t *testing.T) {
	const n = 1000
	rapid.Check(t, func(t *rapid.T) {
		seed, epoch := rapid.Uint64().Draw(t, "seed"), rapid.Uint64().Draw(t, "epoch")
		base := take(NewOrder(seed, epoch, n), n)
		for name, other := range map[string]Order{
			"the next epoch": NewOrder(seed, epoch+1, n),
			"the next seed":  NewOrder(seed+1, epoch, n),
			"both swapped":   NewOrder(epoch^1, seed, n),
		} {
			same := 0
			for i, v := range take(other, n) {
				if v == base[i] {
					same++
				}
			}
			if same > 20 {
				t.Errorf("%d of %d places agree with %s", same, n, name)
			}
		}
		if diff := cmp.Diff(base, take(NewOrder(seed, epoch, n), n)); diff != "" {
			t.Errorf("the same order again (-first +second):\n%s", diff)
		}
	})
}

// TestOrderIsEven counts which sample lies in which place over many epochs of a fixed seed. The chi-square statistic
// of n x n cells with (n-1)^2 degrees of freedom has variance 2(n-1)^2: six standard deviations are allowed.
func TestOrderIsEven(t *testing.T) {
	const epochs = 20_000
	for _, n := range []uint64{2, 3, 5, 16, 17, 33} {
		counts := make([]float64, n*n)
		for e := range uint64(epochs) {
			o := NewOrder(42, e, n)
			for i := range n {
				counts[i*n+o.At(i)]++
			}
		}
		want, chi := float64(epochs)/float64(n), 0.0
		for _, c := range counts {
			chi += (c - want) * (c - want) / want
		}
		// Rows and columns sum to a constant, which scales the statistic of one permutation by n/(n-1).
		free := float64((n - 1) * (n - 1))
		chi *= float64(n-1) / float64(n)
		if limit := free + 6*math.Sqrt(2*free); chi > limit {
			t.Errorf("order of %d: chi-square %.1f of %.0f degrees of freedom, limit %.1f", n, chi, free, limit)
		}
	}
}

// TestOrderMixesNeighbours looks at the distance of samples that follow each other: of a random permutation of n it is
// n/3 on average, with a standard error of about n*0.236/sqrt(places).
func TestOrderMixesNeighbours(t *testing.T) {
	const n, epochs = 50_000, 4
	var sum float64
	for e := range uint64(epochs) {
		o := NewOrder(9, e, n)
		last := float64(o.At(0))
		for i := uint64(1); i < n; i++ {
			v := float64(o.At(i))
			sum += math.Abs(v - last)
			last = v
		}
	}
	places := float64(epochs * (n - 1))
	mean, sigma := sum/places, n*0.236/math.Sqrt(places)
	if math.Abs(mean-n/3.0) > 6*sigma {
		t.Errorf("neighbours are %.1f apart on average, want %.1f within %.1f", mean, n/3.0, 6*sigma)
	}
}

func BenchmarkOrder(b *testing.B) {
	o := NewOrder(1, 0, 50_000)
	for i := 0; b.Loop(); i++ {
		o.At(uint64(i) % 50_000)
	}
}
