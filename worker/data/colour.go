package data

import (
	"math"
	"slices"

	"colonnade/cudakern"
	"colonnade/cudakern/philox"
	"colonnade/shard/job"
	"colonnade/shard/pack"
)

// colours draws the colour noise of images: a function of (seed, epoch, sample) and of the training set's colours.
type colours struct {
	directions [3][3]float64 // [component][channel]: what one draw is multiplied by
	divisor    float64       // of images with noise
}

// newColours gives what a job draws; nil if it has no noise.
func newColours(a job.Augment, c pack.Colour) *colours {
	if a.Colour == nil {
		return nil
	}
	out := &colours{divisor: 1}
	if a.Colour.Rescale {
		out.divisor = 1 + a.Colour.Noise
	}
	for k, value := range c.Values {
		size := math.Sqrt(value)
		if a.Colour.By == job.ByEigenvalue {
			size = value / 255 // of 0..1 the eigenvalue is value/255^2, and a step is 255
		}
		for ch, v := range c.Vectors[k] {
			out.directions[k][ch] = float64(a.Colour.Noise*size) * v
		}
	}
	return out
}

// shift is what is added to an image's channels.
func (c *colours) shift(seed, epoch, sample uint64) (out [3]float32) {
	draw := ColourDraws(seed, epoch, sample)
	for ch := range out {
		sum := 0.0
		for k := range c.directions {
			sum += float64(draw[k] * c.directions[k][ch])
		}
		out[ch] = float32(sum)
	}
	return out
}

// ColourDraws are the numbers from N(0, 1) that an image's colour noise is made of, one for each principal component,
// the largest first: the words of Philox block {sample low, sample high, 1, 0} under Key(seed, View, epoch), of which
// two make two normal numbers (Box and Muller); the last is not used.
func ColourDraws(seed, epoch, sample uint64) [3]float64 {
	w := philox.Block([4]uint32{uint32(sample), uint32(sample >> 32), 1, 0},
		philox.Split(philox.Key(seed, philox.View, epoch)))
	var draw [4]float64
	for i := 0; i < 4; i += 2 {
		r := math.Sqrt(-2 * math.Log((float64(w[i])+1)/(1<<32)))
		sin, cos := math.Sincos(2 * math.Pi * float64(w[i+1]) / (1 << 32))
		draw[i], draw[i+1] = float64(r*cos), float64(r*sin)
	}
	return [3]float64(draw[:3])
}

// Augmenter draws how training images are seen.
type Augmenter struct {
	job        *job.Job
	n          uint64
	h, w       int // of stored images
	outH, outW int
	colours    *colours // nil: no noise
}

// NewAugmenter draws for a network that takes images of outH x outW.
func NewAugmenter(j *job.Job, train *Pack, outH, outW int) *Augmenter {
	a := &Augmenter{job: j, n: uint64(train.Images), h: train.Height, w: train.Width, outH: outH, outW: outW}
	if c, ok := train.Header.Colour(); ok {
		a.colours = newColours(j.Augment, c)
	}
	return a
}

// View is how the sample in a place of an epoch is seen, and what its pixels are divided by besides the job's scale; 0
// is 1.
func (a *Augmenter) View(epoch, place, sample uint64) (v cudakern.View, divisor float64) {
	v = SharedView(a.job.Seed, epoch, place, sample, a.h, a.w, a.outH, a.outW, a.job.Augment)
	if a.colours != nil && !a.job.ColourOff(epoch) {
		v.Shift, divisor = a.colours.shift(a.job.Seed, epoch, sample), a.colours.divisor
	}
	return v, divisor
}

// Places says in which places of an epoch samples stand. It looks at every place.
func (a *Augmenter) Places(epoch uint64, samples []int) map[int]uint64 {
	out := make(map[int]uint64, len(samples))
	o := NewOrder(a.job.Seed, epoch, a.n)
	for p := range a.n {
		if s := int(o.At(p)); slices.Contains(samples, s) {
			out[s] = p
		}
	}
	return out
}
