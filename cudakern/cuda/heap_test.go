//go:build cuda && cgo

package cuda

import (
	"testing"

	"pgregory.net/rapid"
)

// TestHeap takes and gives blocks at random: none overlap, and when all are back the slabs are whole.
func TestHeap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := heap{slabBytes: 16 * align}
		type block struct {
			s       *slab
			from, n int64
		}
		var have []block
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			if len(have) > 0 && rapid.Bool().Draw(t, "give") {
				i := rapid.IntRange(0, len(have)-1).Draw(t, "which")
				have[i].s.give(have[i].from, have[i].n)
				have = append(have[:i], have[i+1:]...)
				continue
			}
			n := align * rapid.Int64Range(1, 20).Draw(t, "blocks")
			s, from, ok := h.take(n)
			if !ok {
				h.add(0, max(n, h.slabBytes))
				if s, from, ok = h.take(n); !ok {
					t.Fatalf("no room for %d bytes in a new slab", n)
				}
			}
			for _, b := range have {
				if b.s == s && from < b.from+b.n && b.from < from+n {
					t.Fatalf("block %d..%d overlaps %d..%d", from, from+n, b.from, b.from+b.n)
				}
			}
			if from%align != 0 || from < 0 || from+n > s.bytes {
				t.Fatalf("block %d..%d in a slab of %d", from, from+n, s.bytes)
			}
			have = append(have, block{s, from, n})
		}
		for _, b := range have {
			b.s.give(b.from, b.n)
		}
		for _, s := range h.slabs {
			if !s.whole() {
				t.Fatalf("all is given back, and free is %v of %d bytes", s.free, s.bytes)
			}
		}
	})
}

// TestHeapTwice: a block given back twice is noticed.
func TestHeapTwice(t *testing.T) {
	h := heap{slabBytes: 4 * align}
	h.add(0, 4*align)
	s, a, _ := h.take(align)
	_, _, _ = h.take(align)
	s.give(a, align)
	defer func() {
		if recover() == nil {
			t.Error("nothing says so")
		}
	}()
	s.give(a, align)
}
