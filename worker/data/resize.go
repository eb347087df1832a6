package data

import (
	"fmt"
	"math"
)

// resizing names what square does, for a pack's origin.
const resizing = "triangle filter in fixed point"

// minSide is the least shorter side that is enlarged: less is a tracking pixel or a line, not a photograph.
const minSide = 8

// square scales an image so that its shorter side has `size` pixels and cuts the central square out of it (paper,
// section 2). It is PIL's bilinear filter with its support widened for shrinking, in PIL's fixed-point arithmetic,
// across and then down: the bytes that torchvision's Resize(size) and CenterCrop(size) give of the same decoded image.
// (Pillow 13 goes down first where that is less work; then some bytes differ by one.)
func square(in image, size int) (image, error) {
	h, w := in.height, in.width
	if min(h, w) < minSide {
		return image{}, fmt.Errorf("is %dx%d, too small to be enlarged to %d", h, w, size)
	}
	outH, outW := size, size // of the whole, before the cut
	if h <= w {
		outW = size * w / h
	} else {
		outH = size * h / w
	}
	top, left := halfEven(outH-size), halfEven(outW-size)
	across := weigh(w, outW, left, size)
	down := weigh(h, outH, top, size)
	out := image{channels: in.channels, height: size, width: size, pixels: make([]byte, in.channels*size*size)}
	// Rows that no output row sees are not made.
	first, last := down[0].first, down[size-1].first+len(down[size-1].k)
	rows := make([]byte, (last-first)*size)
	for c := range in.channels {
		plane := in.pixels[c*h*w : (c+1)*h*w]
		if w == outW && size == w {
			copy(rows, plane[first*w:last*w])
		} else {
			for y := first; y < last; y++ {
				row, dst := plane[y*w:(y+1)*w], rows[(y-first)*size:(y-first+1)*size]
				for x := range dst {
					t := &across[x]
					sum := int32(half)
					for i, p := range row[t.first : t.first+len(t.k)] {
						sum += int32(p) * t.k[i]
					}
					dst[x] = clip(sum)
				}
			}
		}
		dst := out.pixels[c*size*size : (c+1)*size*size]
		if h == outH && size == h {
			copy(dst, rows)
			continue
		}
		sums := make([]int32, size)
		for y := range size {
			t := &down[y]
			for x := range sums {
				sums[x] = half
			}
			for i, k := range t.k {
				at := (t.first - first + i) * size
				for x, p := range rows[at : at+size] {
					sums[x] += int32(p) * k
				}
			}
			for x, s := range sums {
				dst[y*size+x] = clip(s)
			}
		}
	}
	return out, nil
}

// halfEven is n/2, halves to the even neighbour, as Python rounds.
func halfEven(n int) int {
	h := n / 2
	if n%2 == 1 && h%2 == 1 {
		h++
	}
	return h
}

// The fixed point: weights have 22 bits behind it.
const (
	fixed = 22
	half  = 1 << (fixed - 1)
)

func clip(sum int32) byte { return byte(min(max(sum>>fixed, 0), 255)) }

// taps are the weights of one output pixel, over inputs from first on.
type taps struct {
	first int
	k     []int32
}

// weigh gives the taps of outputs [from, from+n) of `in` pixels scaled to `out`. Products are rounded by conversion, so
// that no compiler fuses them and the weights are the same everywhere.
func weigh(in, out, from, n int) []taps {
	scale := float64(in) / float64(out)
	wide := max(scale, 1)
	over := 1 / wide
	all := make([]taps, n)
	k := make([]float64, 2*int(math.Ceil(wide))+1)
	for i := range all {
		centre := float64((float64(from+i) + 0.5) * scale)
		first := max(0, int(float64(centre-wide)+0.5))
		last := min(in, int(float64(centre+wide)+0.5))
		var sum float64
		k = k[:last-first]
		for j := range k {
			k[j] = max(0, 1-math.Abs(float64((float64(first+j)-centre+0.5)*over)))
			sum += k[j]
		}
		t := taps{first: first, k: make([]int32, len(k))}
		for j := range k {
			t.k[j] = int32(float64(k[j]/sum*(1<<fixed)) + 0.5)
		}
		all[i] = t
		k = k[:cap(k)]
	}
	return all
}
