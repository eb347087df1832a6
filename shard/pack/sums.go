package pack

import "slices"

// Sums counts what Extra says of a pack's pixels, from pixels as they come.
type Sums struct {
	channels, area int
	sums, products []uint64
	image          []byte // the beginning of one that has not come whole
}

// NewSums counts the pixels of images of so many channels, each of area pixels.
func NewSums(channels, area int) *Sums {
	return &Sums{channels: channels, area: area, sums: make([]uint64, channels),
		products: make([]uint64, channels*(channels+1)/2)}
}

// Add counts the next bytes of the pixels, in the order they have in the pack, cut anywhere.
func (s *Sums) Add(pixels []byte) {
	size := s.channels * s.area
	if len(s.image) > 0 {
		n := min(size-len(s.image), len(pixels))
		s.image, pixels = append(s.image, pixels[:n]...), pixels[n:]
		if len(s.image) < size {
			return
		}
		s.one(s.image)
		s.image = s.image[:0]
	}
	for len(pixels) >= size {
		s.one(pixels[:size])
		pixels = pixels[size:]
	}
	s.image = append(s.image, pixels...)
}

// one counts an image. Sums of products of bytes are exact: images have less than 2^30 bytes, packs at most MaxPixels.
func (s *Sums) one(image []byte) {
	at := 0
	for c := range s.channels {
		x := image[c*s.area:][:s.area]
		var sum uint64
		for _, v := range x {
			sum += uint64(v)
		}
		s.sums[c] += sum
		for d := c; d < s.channels; d++ {
			y := image[d*s.area:][:s.area]
			var dot uint64
			for i, v := range x {
				dot += uint64(uint32(v) * uint32(y[i]))
			}
			s.products[at] += dot
			at++
		}
	}
}

// Counts are the sums so far, as Extra has them.
func (s *Sums) Counts() (sums, products []uint64) {
	return slices.Clone(s.sums), slices.Clone(s.products)
}

// Are says whether the sums are those of a header.
func (s *Sums) Are(e *Extra) bool {
	return len(s.image) == 0 && slices.Equal(s.sums, e.Sums) && slices.Equal(s.products, e.Products)
}
