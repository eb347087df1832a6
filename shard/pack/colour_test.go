package pack

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestPrincipal wants orthonormal vectors that give the matrix again, largest first.
func TestPrincipal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b, a [3][3]float64
		for i := range 3 {
			for j := range 3 {
				b[i][j] = rapid.Float64Range(-100, 100).Draw(t, "b")
			}
		}
		size := 1e-9
		for i := range 3 {
			for j := range 3 {
				for k := range 3 {
					a[i][j] += b[i][k] * b[j][k]
				}
				size += math.Abs(a[i][j])
			}
		}
		values, v := principal(a)
		if values[0] < values[1] || values[1] < values[2] {
			t.Fatalf("values %v do not fall", values)
		}
		for i := range 3 {
			for j := range 3 {
				product, again := 0.0, 0.0
				for k := range 3 {
					product += v[i][k] * v[j][k]
					again += values[k] * v[k][i] * v[k][j]
				}
				if want := map[bool]float64{true: 1}[i == j]; math.Abs(product-want) > 1e-12 {
					t.Fatalf("vectors %d and %d have the product %g", i, j, product)
				}
				if math.Abs(again-a[i][j]) > 1e-12*size {
					t.Fatalf("the components give %g at %d, %d; want %g", again, i, j, a[i][j])
				}
			}
		}
	})
}

// TestCovariance wants exact differences of numbers near 2^112.
func TestCovariance(t *testing.T) {
	n := uint64(1) << 48
	s := n * 255
	if got := covariance(n, s, s, n*255*255); got != 0 {
		t.Errorf("the variance of equal pixels is %g", got)
	}
	if got, want := covariance(n, s, s, n*255*255-1), -1/float64(n); got != want {
		t.Errorf("one less gives %g, want %g", got, want)
	}
	if got := covariance(2, 255, 255, 255*255); got != 127.5*127.5 {
		t.Errorf("the variance of 0 and 255 is %g", got)
	}
}
