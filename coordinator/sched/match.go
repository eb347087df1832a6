package sched

// mostMatched bounds the jobs that are matched: what it takes grows with the square of their cells.
const mostMatched = 1024

// match gives every cell one of the workers that fit it, none more than full: where each cell takes the first that
// comes, one may take the only place of another. Cells that have a source can be anywhere else too. The result is fits
// of one worker each, or nil if there is no such placement.
func match(fits [][]int, sources []int, workers, full int) [][]int {
	if len(fits) > mostMatched {
		return nil
	}
	on := make([][]int, workers) // cells
	var put func(cell int, tried []bool) bool
	put = func(cell int, tried []bool) bool { // an augmenting path: whoever is in the way goes elsewhere
		for _, w := range fits[cell] {
			if tried[w] {
				continue
			}
			tried[w] = true
			if len(on[w]) < full {
				on[w] = append(on[w], cell)
				return true
			}
			for i, other := range on[w] {
				if put(other, tried) {
					on[w][i] = cell
					return true
				}
			}
		}
		return false
	}
	for cell := range fits {
		if sources[cell] < 0 && !put(cell, make([]bool, workers)) {
			return nil
		}
	}
	for cell := range fits {
		if sources[cell] < 0 || put(cell, make([]bool, workers)) {
			continue
		}
		least := 0
		for w := range on {
			if len(on[w]) < len(on[least]) {
				least = w
			}
		}
		on[least] = append(on[least], cell)
	}
	out := make([][]int, len(fits))
	for w, cells := range on {
		for _, cell := range cells {
			out[cell] = []int{w}
		}
	}
	return out
}
