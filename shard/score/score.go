// Package score says how good predictions are: top-1 and top-5 errors with the 2012 source's shared credit for ties,
// loss, confusion, and errors by class, of one view of an image or of the mean over several (or over several models).
// Pure: training and what evaluates afterwards come to the same figures from the same numbers.
package score

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// Score is what a set of images came to.
type Score struct {
	Images uint64
	Loss   float64 // sum of the images' cross-entropies, in nats
	Top1   float64 // errors; classes equal to the label's share the credit, so it need not be whole
	Top5   float64
}

// Add adds another set's score.
func (s *Score) Add(o Score) {
	s.Images += o.Images
	s.Loss += o.Loss
	s.Top1 += o.Top1
	s.Top5 += o.Top5
}

// Of is the score of one image of that loss whose label has `above` classes strictly before it and `ties` others level
// with it.
func Of(loss float64, above, ties int) Score {
	return Score{Images: 1, Loss: loss, Top1: 1 - Credit(1, above, ties), Top5: 1 - Credit(5, above, ties)}
}

// Credit is the share of a top-k success: with `above` classes greater than the label's and `ties` others equal to it,
// the k - above places left are shared by ties + 1 classes (layer_kernels.cu:96-118 of the source).
func Credit(k, above, ties int) float64 {
	left := k - above
	if left <= 0 {
		return 0
	}
	return min(1, float64(left)/float64(ties+1))
}

// Rank counts the classes that are greater than the label's, and the others that are equal to it. Where the label's
// is no number, every other class is greater: what has diverged has no credit. label must be a class.
func Rank(p []float64, label int) (above, ties int) {
	own := p[label]
	if math.IsNaN(own) {
		return len(p) - 1, 0
	}
	for i, v := range p {
		switch {
		case v > own || math.IsNaN(v):
			above++
		case v == own && i != label:
			ties++
		}
	}
	return above, ties
}

// Softmax writes the probabilities of the classes into dst, which is as long as logits: exp(x - max) over their sum,
// summed in class order.
func Softmax(dst []float64, logits []float32) {
	top := math.Inf(-1)
	for _, v := range logits {
		top = max(top, float64(v))
	}
	sum := 0.0
	for i, v := range logits {
		dst[i] = math.Exp(float64(v) - top)
		sum += dst[i]
	}
	for i := range logits {
		dst[i] /= sum
	}
}

// Mean is the arithmetic mean of several predictions of one image: of its views (paper, section 4.1; worker.cu:150-177
// of the source), or of several models.
type Mean struct {
	sum []float64
	n   int
	one []float64
}

// NewMean returns a mean over that many classes, of nothing yet.
func NewMean(classes int) *Mean {
	return &Mean{sum: make([]float64, classes), one: make([]float64, classes)}
}

// Add adds a view by its logits.
func (m *Mean) Add(logits []float32) {
	Softmax(m.one, logits)
	m.AddProbabilities(m.one)
}

// AddProbabilities adds a prediction.
func (m *Mean) AddProbabilities(p []float64) {
	for i, v := range p {
		m.sum[i] += v
	}
	m.n++
}

// Take writes the mean of what was added into dst, and begins anew.
func (m *Mean) Take(dst []float64) {
	for i, v := range m.sum {
		dst[i] = v / float64(max(m.n, 1))
	}
	clear(m.sum)
	m.n = 0
}

// Loss is the cross-entropy of a label of probability p. Where p has come to zero it is that of the smallest number
// there is, about 744: a sum over many images stays a number.
func Loss(p float64) float64 { return -math.Log(max(p, math.SmallestNonzeroFloat64)) }

// Best are the n most probable classes, best first, the lower class first of two that are equal.
func Best(p []float64, n int) []int {
	all := make([]int, len(p))
	for i := range all {
		all[i] = i
	}
	slices.SortFunc(all, func(a, b int) int { return cmp.Or(cmp.Compare(p[b], p[a]), a-b) })
	return all[:min(n, len(all))]
}

// Tally is the score of a set of images, whole, by class, and by what was taken for what.
type Tally struct {
	Score
	ByClass  []Score // by label
	confused map[[2]int]uint64
}

// NewTally returns a tally of no images.
func NewTally(classes int) *Tally {
	return &Tally{ByClass: make([]Score, classes), confused: map[[2]int]uint64{}}
}

// Add counts an image of that label by the probabilities of its classes. An error says that they do not fit the tally.
func (t *Tally) Add(p []float64, label int) error {
	if len(p) != len(t.ByClass) || label < 0 || label >= len(p) {
		return fmt.Errorf("score: label %d and %d probabilities in a tally of %d classes", label, len(p), len(t.ByClass))
	}
	above, ties := Rank(p, label)
	s := Of(Loss(p[label]), above, ties)
	t.Score.Add(s)
	t.ByClass[label].Add(s)
	best := 0
	for i, v := range p {
		if v > p[best] {
			best = i
		}
	}
	t.confused[[2]int{label, best}]++
	return nil
}

// Merge adds another tally of the same classes.
func (t *Tally) Merge(o *Tally) error {
	if len(o.ByClass) != len(t.ByClass) {
		return fmt.Errorf("score: tallies of %d and of %d classes", len(t.ByClass), len(o.ByClass))
	}
	t.Score.Add(o.Score)
	for i, s := range o.ByClass {
		t.ByClass[i].Add(s)
	}
	for at, n := range o.confused {
		t.confused[at] += n
	}
	return nil
}

// Confusion is how many images of class label were taken for class as: the most probable one, the lowest of several.
func (t *Tally) Confusion(label, as int) uint64 { return t.confused[[2]int{label, as}] }

// Confused is one cell of the confusion matrix.
type Confused struct {
	Label, As int
	Images    uint64
}

// Cells are the cells of the confusion matrix that are not zero, by label and then by class: all there is to send, or
// to build it again with Set.
func (t *Tally) Cells() []Confused {
	out := make([]Confused, 0, len(t.confused))
	for at, n := range t.confused {
		out = append(out, Confused{at[0], at[1], n})
	}
	slices.SortFunc(out, func(a, b Confused) int { return cmp.Or(a.Label-b.Label, a.As-b.As) })
	return out
}

// Set puts a cell of the confusion matrix, as Cells had it.
func (t *Tally) Set(c Confused) error {
	if n := len(t.ByClass); c.Label < 0 || c.Label >= n || c.As < 0 || c.As >= n {
		return fmt.Errorf("score: class %d taken for %d in a tally of %d classes", c.Label, c.As, n)
	}
	t.confused[[2]int{c.Label, c.As}] = c.Images
	return nil
}

// Digest is SHA-256 over all figures of a tally, to the bit: integers and the bits of floats in eight bytes each,
// little end first; the whole set's score, those of the classes that have images, by class, and the confusion matrix.
func (t *Tally) Digest() [sha256.Size]byte {
	var b []byte
	put := func(all ...uint64) {
		for _, x := range all {
			b = binary.LittleEndian.AppendUint64(b, x)
		}
	}
	score := func(s Score) {
		put(s.Images, math.Float64bits(s.Loss), math.Float64bits(s.Top1), math.Float64bits(s.Top5))
	}
	put(uint64(len(t.ByClass)))
	score(t.Score)
	for i, s := range t.ByClass {
		if s.Images > 0 {
			put(uint64(i))
			score(s)
		}
	}
	for _, c := range t.Cells() {
		put(uint64(c.Label), uint64(c.As), c.Images)
	}
	return sha256.Sum256(b)
}

// An evaluation is cut into parts, each summed by itself, image by image, and the parts' sums are added in order:
// whoever computes a part, the figures are the same to the bit.
const (
	DefaultBatch = 64  // images at once
	partImages   = 512 // about; a part holds whole batches
)

// PartImages is how many images a part has, but for the last, at so many images at once.
func PartImages(batch int) int { return batch * max(partImages/batch, 1) }

// Worst are the n most frequent confusions of two classes, the most frequent first, then by class.
func (t *Tally) Worst(n int) []Confused {
	all := slices.DeleteFunc(t.Cells(), func(c Confused) bool { return c.Label == c.As })
	slices.SortStableFunc(all, func(a, b Confused) int { return cmp.Compare(b.Images, a.Images) })
	return all[:min(n, len(all))]
}
