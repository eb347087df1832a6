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
}

// NewLoader makes a replica's slices of a job's batches for a network that takes images of outH x outW. The packs must
// stay open while it is used.
func NewLoader(j *job.Job, replica int, train, test *Pack, outH, outW int) *Loader {
	n := j.Slice()
	return &Loader{job: j, slice: n, first: replica * n, train: train, test: test, outH: outH, outW: outW, batch: Batch{
		Images: make([]byte, n*train.ImageBytes()), Labels: make([]int32, n), Views: make([]cudakern.View, n)}}
}

// Train gathers the replica's slice of the batch of the step that follows `step` finished ones.
func (l *Loader) Train(step uint64) Batch {
	per := uint64(l.job.StepsPerEpoch())
	epoch, place := step/per, step%per*uint64(l.job.Recipe.Batch)+uint64(l.first)
	if !l.ordered || epoch != l.epoch {
		l.order, l.epoch, l.ordered = NewOrder(l.job.Seed, epoch, uint64(l.train.Images)), epoch, true
	}
	for i := range l.batch.Labels {
		sample := l.order.At(place + uint64(i))
		l.put(l.train, i, int(sample))
		l.batch.Views[i] = TrainView(l.job.Seed, epoch, sample, l.train.Height, l.train.Width, l.outH, l.outW, l.job.Augment)
	}
	l.batch.Valid = len(l.batch.Labels)
	return l.batch
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
	for i := range l.batch.Labels {
		l.put(l.test, i, min(first+i, l.test.Images-1))
		l.batch.Views[i] = view
	}
	l.batch.Valid = max(0, min(l.slice, l.test.Images-first))
	return l.batch
}

func (l *Loader) put(p *Pack, place, sample int) {
	copy(l.batch.Images[place*p.ImageBytes():(place+1)*p.ImageBytes()], p.Image(sample))
	l.batch.Labels[place] = int32(p.Label(sample))
}

// Shape is that of the stored images.
func (l *Loader) Shape() (channels, height, width int) {
	return l.train.Channels, l.train.Height, l.train.Width
}

// Mean is the training set's mean image, channels x height x width.
func (l *Loader) Mean() []float32 { return l.train.Mean() }
