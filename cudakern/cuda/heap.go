//go:build cuda && cgo

package cuda

import (
	"fmt"
	"slices"

	"gorgonia.org/cu"
)

// heap deals out device memory from slabs, so that the driver is asked seldom: an allocation of the driver's stops the
// GPU. It only keeps the books; the device asks the driver. First fit, lowest address first: the same calls in the same
// order give the same places.
type heap struct {
	slabBytes int64
	slabs     []*slab
}

// slab is one allocation of the driver's.
type slab struct {
	at    cu.DevicePtr
	bytes int64
	free  []span // by address; no two touch
}

type span struct{ from, to int64 } // within the slab

// align is what every block's place and size are multiples of: more than any kernel's vectors want, and what the driver
// promises.
const align = 256

// slabUnit is what the driver deals memory out in; the rest of a slab of another size would be in no use.
const slabUnit = 2 << 20

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// take finds room for n bytes, a multiple of align, in the slabs there are.
func (h *heap) take(n int64) (*slab, int64, bool) {
	for _, s := range h.slabs {
		for i, f := range s.free {
			if f.to-f.from < n {
				continue
			}
			if s.free[i].from += n; s.free[i].from == f.to {
				s.free = slices.Delete(s.free, i, i+1)
			}
			return s, f.from, true
		}
	}
	return nil, 0, false
}

// add takes a slab in.
func (h *heap) add(at cu.DevicePtr, bytes int64) *slab {
	s := &slab{at: at, bytes: bytes, free: []span{{0, bytes}}}
	h.slabs = append(h.slabs, s)
	return s
}

// give takes a block back and joins it with what is free beside it.
func (s *slab) give(from, n int64) {
	to := from + n
	i, _ := slices.BinarySearchFunc(s.free, from, func(f span, at int64) int { return int(f.from - at) })
	if (i > 0 && s.free[i-1].to > from) || (i < len(s.free) && s.free[i].from < to) {
		panic(fmt.Sprintf("cuda: block %d..%d given back twice", from, to))
	}
	if i > 0 && s.free[i-1].to == from {
		i--
		s.free[i].to = to
	} else {
		s.free = slices.Insert(s.free, i, span{from, to})
	}
	if i+1 < len(s.free) && s.free[i+1].from == to {
		s.free[i].to = s.free[i+1].to
		s.free = slices.Delete(s.free, i+1, i+2)
	}
}

// whole says whether nothing of the slab is in use.
func (s *slab) whole() bool { return len(s.free) == 1 && s.free[0] == span{0, s.bytes} }
