package train

import (
	"encoding/binary"
	"math"
	"slices"
)

// history is the mean losses over the whole batch of the last steps that were done, oldest first: what a guard judges
// the next step by. It belongs to the state after a step: it lies in every half of a cell's memory, behind the
// parameters, goes along into copies and checkpoints, and is no part of the state's digest.
type history struct {
	window int
	losses []float64 // at most window
}

// bytes is the room that a history takes in a half.
func (h *history) bytes() int {
	if h.window == 0 {
		return 0
	}
	return 8 + 8*h.window
}

// add takes the loss of one more step in.
func (h *history) add(loss float64) {
	if h.window == 0 {
		return
	}
	if len(h.losses) == h.window {
		copy(h.losses, h.losses[1:])
		h.losses = h.losses[:h.window-1]
	}
	h.losses = append(h.losses, loss)
}

// set makes losses the history: their last ones, if there are more than it has room for.
func (h *history) set(losses []float64) {
	h.losses = append(h.losses[:0], losses[max(0, len(losses)-h.window):]...)
}

// usual is the median, the lower one of two, once the history is full.
func (h *history) usual() (loss float64, ok bool) {
	if h.window == 0 || len(h.losses) < h.window {
		return 0, false
	}
	sorted := slices.Sorted(slices.Values(h.losses))
	return sorted[(len(sorted)-1)/2], true
}

// encode writes the history where a half keeps it; dst is empty where nobody else sees the steps.
func (h *history) encode(dst []byte) {
	if len(dst) < h.bytes() || h.window == 0 {
		return
	}
	le := binary.LittleEndian
	le.PutUint64(dst, uint64(len(h.losses)))
	for i, v := range h.losses {
		le.PutUint64(dst[8+8*i:], math.Float64bits(v))
	}
}

// decode reads what encode wrote. What cannot be one is an empty one: the memory is a program's of old.
func (h *history) decode(src []byte) {
	h.losses = h.losses[:0]
	if len(src) < h.bytes() || h.window == 0 {
		return
	}
	le := binary.LittleEndian
	n := le.Uint64(src)
	if n > uint64(h.window) {
		return
	}
	for i := range int(n) {
		h.losses = append(h.losses, math.Float64frombits(le.Uint64(src[8+8*i:])))
	}
}
