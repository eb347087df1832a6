package pack

import (
	"math"
	"math/bits"
)

// Colour is the principal components of a set's pixel values (paper, section 4.1), of 0..255.
type Colour struct {
	Mean       [3]float64
	Covariance [3][3]float64
	Values     [3]float64    // eigenvalues of the covariance, falling
	Vectors    [3][3]float64 // [component][channel]: unit eigenvectors, the largest entry of each positive
}

// Colour gives the principal components of a pack of three channels; false for others and for packs of version 1. It is
// a function of the exact sums in the header, computed in a fixed order without fused operations, so it is the same
// bits everywhere.
func (h *Header) Colour() (c Colour, ok bool) {
	if h.Extra == nil || h.Channels != 3 {
		return Colour{}, false
	}
	n := uint64(h.Images) * uint64(h.Height*h.Width)
	for i := range 3 {
		c.Mean[i] = float64(h.Extra.Sums[i]) / float64(n)
		for j := range 3 {
			c.Covariance[i][j] = covariance(n, h.Extra.Sums[i], h.Extra.Sums[j], h.Extra.Product(i, j))
		}
	}
	c.Values, c.Vectors = principal(c.Covariance)
	return c, true
}

// covariance is (n p - s t) / n^2, the difference exact in 128 bits, where p is a sum of products and s, t are sums.
func covariance(n, s, t, p uint64) float64 {
	ah, al := bits.Mul64(n, p)
	bh, bl := bits.Mul64(s, t)
	low, borrow := bits.Sub64(al, bl, 0)
	high, under := bits.Sub64(ah, bh, borrow)
	sign := 1.0
	if under != 0 { // negate
		sign = -1
		low, borrow = bits.Sub64(0, low, 0)
		high, _ = bits.Sub64(0, high, borrow)
	}
	d := float64(float64(high)*0x1p64) + float64(low)
	return sign * d / float64(n) / float64(n)
}

// principal gives the eigenvalues of a symmetric matrix, falling, and their unit vectors, by cyclic Jacobi rotations
// (Golub and Van Loan, Matrix Computations, section 8.5). Products are rounded by conversion, so that no compiler fuses
// them.
func principal(a [3][3]float64) (values [3]float64, vectors [3][3]float64) {
	v := [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}} // columns are vectors
	for range 32 {
		for _, pq := range [][2]int{{0, 1}, {0, 2}, {1, 2}} {
			p, q := pq[0], pq[1]
			if a[p][q] == 0 {
				continue
			}
			tau := (a[q][q] - a[p][p]) / float64(2*a[p][q])
			t := 1 / (math.Abs(tau) + math.Sqrt(1+float64(tau*tau)))
			if tau < 0 {
				t = -t
			}
			c := 1 / math.Sqrt(1+float64(t*t))
			rotate(&a, &v, p, q, c, float64(t*c))
		}
	}
	order := [3]int{0, 1, 2}
	for i := range 3 {
		for j := i + 1; j < 3; j++ {
			if a[order[j]][order[j]] > a[order[i]][order[i]] {
				order[i], order[j] = order[j], order[i]
			}
		}
	}
	for i, k := range order {
		values[i] = max(a[k][k], 0)
		largest := 0
		for ch := range 3 {
			vectors[i][ch] = v[ch][k]
			if math.Abs(v[ch][k]) > math.Abs(v[largest][k]) {
				largest = ch
			}
		}
		if vectors[i][largest] < 0 {
			for ch := range 3 {
				vectors[i][ch] = -vectors[i][ch]
			}
		}
	}
	return values, vectors
}

// rotate turns rows and columns p and q of a, and columns of v.
func rotate(a, v *[3][3]float64, p, q int, c, s float64) {
	for k := range 3 {
		x, y := a[k][p], a[k][q]
		a[k][p], a[k][q] = float64(c*x)-float64(s*y), float64(s*x)+float64(c*y)
	}
	for k := range 3 {
		x, y := a[p][k], a[q][k]
		a[p][k], a[q][k] = float64(c*x)-float64(s*y), float64(s*x)+float64(c*y)
		x, y = v[k][p], v[k][q]
		v[k][p], v[k][q] = float64(c*x)-float64(s*y), float64(s*x)+float64(c*y)
	}
	a[p][q], a[q][p] = 0, 0
}
