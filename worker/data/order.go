package data

import (
	"math/bits"

	"colonnade/cudakern/philox"
)

// Order is the order of n samples in one epoch: a permutation keyed by (seed, epoch) that keeps nothing but its key. It
// is a Feistel network over the next power of four at least n, walked until the value is below n.
type Order struct {
	key  [2]uint32
	n    uint64
	half uint // bits of one side
}

// rounds of the Feistel network; four give a pseudo-random permutation when the round function is one.
const rounds = 6

// NewOrder returns the order of n samples, n at least 1, in an epoch counted from 0.
func NewOrder(seed, epoch, n uint64) Order {
	half := uint(bits.Len64(n-1)+1) / 2
	return Order{key: philox.Split(philox.Key(seed, philox.Order, epoch)), n: n, half: max(half, 1)}
}

// At returns the sample in place pos, both below n.
func (o Order) At(pos uint64) uint64 {
	mask := uint64(1)<<o.half - 1
	for v := pos; ; {
		l, r := v>>o.half, v&mask
		for i := range uint32(rounds) {
			f := philox.Block([4]uint32{uint32(r), uint32(r >> 32), i, 0}, o.key)
			l, r = r, l^((uint64(f[0])|uint64(f[1])<<32)&mask)
		}
		if v = l<<o.half | r; v < o.n {
			return v
		}
	}
}
