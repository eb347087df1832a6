// Package philox is the Philox4x32-10 counter-based random number generator (Salmon, Moraes, Dror, Shaw: "Parallel
// random numbers: as easy as 1, 2, 3", SC 2011). A number is a function of a key and a counter, nothing is kept between
// calls, so what a step draws does not depend on what was drawn before it or where.
package philox

import "math/bits"

// Purpose separates the streams of one seed.
type Purpose uint32

// Purposes. Append only: a number here reaches every weight.
const (
	Init    Purpose = 1 // initial weights: id is the layer, counter the weight's place
	Order   Purpose = 2 // the permutation of samples: id is the epoch
	Dropout Purpose = 3 // masks: id is the layer
	View    Purpose = 4 // crops, reflections and colour noise: id is the epoch
)

const (
	mulA, mulB   = 0xD2511F53, 0xCD9E8D57
	weylA, weylB = 0x9E3779B9, 0xBB67AE85
)

// Block is the Philox4x32-10 bijection.
func Block(c [4]uint32, k [2]uint32) [4]uint32 {
	for r := range 10 {
		if r > 0 {
			k[0] += weylA
			k[1] += weylB
		}
		hiA, loA := bits.Mul32(mulA, c[0])
		hiB, loB := bits.Mul32(mulB, c[2])
		c = [4]uint32{hiB ^ c[1] ^ k[0], loB, hiA ^ c[3] ^ k[1], loA}
	}
	return c
}

// Key derives the 64-bit key of one stream from a job's seed, a purpose and an id within it.
func Key(seed uint64, p Purpose, id uint64) uint64 {
	b := Block([4]uint32{uint32(p), 0, uint32(id), uint32(id >> 32)}, Split(seed))
	return uint64(b[0]) | uint64(b[1])<<32
}

// Split cuts a 64-bit key into the words Block wants, low word first.
func Split(key uint64) [2]uint32 { return [2]uint32{uint32(key), uint32(key >> 32)} }
