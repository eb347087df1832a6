package data

import (
	"colonnade/cudakern"
	"colonnade/shard/job"
)

// Batch is one step's images. It is valid until the loader's next call.
type Batch struct {
	Images []byte          // N x C x H x W
	Labels []int32         // N
	Views  []cudakern.View // N
	Valid  int             // images that count; the rest pads the last batch of a test set
	// Divisor is what pixels are divided by besides the job's scale; 0 is 1.
	Divisor float64
	Err     error // the images could not be had
}

// Loader gives one cell its replica's slices of the batches: pure functions of the step, and of the batch of the test
// set.
type Loader struct {
	job        *job.Job
	slice      int // images of a batch that are the replica's
	first      int // the first of them in the whole batch
	train      *Pack
	test       *Pack // nil: none
	outH, outW int
	batch      Batch
	order      Order
	epoch      uint64 // of order, if it is set
	ordered    bool
	augment    *Augmenter
}

// NewLoader makes a replica's slices of a job's batches for a network that takes images of outH x outW. The packs must
// stay open while it is used.
func NewLoader(j *job.Job, replica int, train, test *Pack, outH, outW int) *Loader {
	n := j.Slice()
	l := &Loader{job: j, slice: n, first: replica * n, train: train, test: test, outH: outH, outW: outW, batch: Batch{
		Images: make([]byte, n*train.ImageBytes()), Labels: make([]int32, n), Views: make([]cudakern.View, n)}}
	l.augment = NewAugmenter(j, train, outH, outW)
	return l
}

// Train gathers the replica's slice of the batch of the step that follows `step` finished ones.
func (l *Loader) Train(step uint64) Batch {
	per := uint64(l.job.StepsPerEpoch())
	epoch, place := step/per, step%per*uint64(l.job.Recipe.Batch)+uint64(l.first)
	if !l.ordered || epoch != l.epoch {
		l.order, l.epoch, l.ordered = NewOrder(l.job.Seed, epoch, uint64(l.train.Images)), epoch, true
	}
	l.batch.Err, l.batch.Divisor = nil, 0
	for i := range l.batch.Labels {
		sample := l.order.At(place + uint64(i))
		l.put(l.train, i, int(sample))
		l.batch.Views[i], l.batch.Divisor = l.augment.View(epoch, place+uint64(i), sample)
	}
	l.batch.Valid = len(l.batch.Labels)
	l.ahead(step + 1)
	return l.batch
}

// ahead has the images of a step read from disk, where they are not in memory anyhow.
func (l *Loader) ahead(step uint64) {
	per := uint64(l.job.StepsPerEpoch())
	if l.train.sound == nil || step/per != l.epoch {
		return
	}
	place := step%per*uint64(l.job.Recipe.Batch) + uint64(l.first)
	for i := range l.slice {
		l.train.Ahead(int(l.order.At(place + uint64(i))))
	}
}

// TestBatches is the number of batches of the test set.
func (l *Loader) TestBatches() int {
	if l.test == nil {
		return 0
	}
	return (l.test.Images + l.job.Recipe.Batch - 1) / l.job.Recipe.Batch
}

// Test gathers the slice of batch `index` of the test set, in the pack's order, every image seen at its centre. What is
// missing in the last batch is padded with the last image; a slice of it may have no valid image at all.
func (l *Loader) Test(index int) Batch {
	view := CentreView(l.test.Height, l.test.Width, l.outH, l.outW)
	first := index*l.job.Recipe.Batch + l.first
	l.batch.Err = nil
	for i := range l.batch.Labels {
		l.put(l.test, i, min(first+i, l.test.Images-1))
		l.batch.Views[i] = view
	}
	l.batch.Valid, l.batch.Divisor = max(0, min(l.slice, l.test.Images-first)), 0
	return l.batch
}

func (l *Loader) put(p *Pack, place, sample int) {
	if err := p.Check(sample); err != nil && l.batch.Err == nil {
		l.batch.Err = err
	}
	copy(l.batch.Images[place*p.ImageBytes():(place+1)*p.ImageBytes()], p.Image(sample))
	l.batch.Labels[place] = int32(p.Label(sample))
}

// Shape is that of the stored images.
func (l *Loader) Shape() (channels, height, width int) {
	return l.train.Channels, l.train.Height, l.train.Width
}

// Mean is the training set's mean image, channels x height x width.
func (l *Loader) Mean() []float32 { return l.train.Mean() }
