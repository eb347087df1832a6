package main

import (
	"encoding/binary"

	"colonnade/cudakern"
	"colonnade/cudakern/philox"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/data"
)

// From inputs of this size on, images are stored an eighth larger than the network's input and crops lie within them,
// as AlexNet's 224 of 256; below, they are of the input's size, and crops reach over their edge.
const largeInput = 64

// storedPad is how many pixels a crop may reach over an image's edge.
func storedPad(in shard.Input) int {
	if in.Height >= largeInput {
		return 0
	}
	return in.Height / 8
}

// syntheticPack is what a job must know of a dataset that has just enough images for two batches.
func syntheticPack(n *shard.Network, batch int) *job.Pack {
	p := &job.Pack{Path: "none", ID: "none", Images: 2 * batch, Channels: n.Input.Channels[len(n.Input.Channels)-1],
		Height: n.Input.Height, Width: n.Input.Width, Classes: n.Classes}
	if n.Input.Height >= largeInput {
		p.Height, p.Width = p.Height+p.Height/7, p.Width+p.Width/7
	}
	return p
}

// synthetic is a dataset of random images in memory.
type synthetic struct {
	pack   *job.Pack
	images []byte // of which there are fewer than samples, if those are many: sample i is image i mod kept
	kept   int
}

// mostImages bounds the memory that a synthetic dataset takes.
const mostImages = 256

func newSynthetic(p *job.Pack) *synthetic {
	s := &synthetic{pack: p, kept: min(p.Images, mostImages)}
	words := make([]byte, 0, s.kept*s.imageBytes()+16)
	for i := uint32(0); len(words) < s.kept*s.imageBytes(); i++ {
		for _, w := range philox.Block([4]uint32{i}, [2]uint32{}) {
			words = binary.LittleEndian.AppendUint32(words, w)
		}
	}
	s.images = words[:s.kept*s.imageBytes()]
	return s
}

func (s *synthetic) imageBytes() int { return s.pack.Channels * s.pack.Height * s.pack.Width }

// syntheticSource gives one cell batches of a synthetic dataset, as data.Loader does of a pack.
type syntheticSource struct {
	*synthetic
	job        *job.Job
	outH, outW int
	batch      data.Batch
}

func (s *synthetic) source(j *job.Job, in shard.Input) *syntheticSource {
	n := j.Recipe.Batch
	return &syntheticSource{synthetic: s, job: j, outH: in.Height, outW: in.Width, batch: data.Batch{Valid: n,
		Images: make([]byte, n*s.imageBytes()), Labels: make([]int32, n), Views: make([]cudakern.View, n)}}
}

// Train gathers the batch of the step that follows `step` finished ones.
func (s *syntheticSource) Train(step uint64) data.Batch {
	per := uint64(s.job.StepsPerEpoch())
	epoch, place := step/per, step%per*uint64(s.job.Recipe.Batch)
	order, size := data.NewOrder(s.job.Seed, epoch, uint64(s.pack.Images)), s.imageBytes()
	for i := range s.batch.Labels {
		sample := order.At(place + uint64(i))
		image := int(sample % uint64(s.kept))
		copy(s.batch.Images[i*size:(i+1)*size], s.images[image*size:])
		s.batch.Labels[i] = int32(sample % uint64(s.pack.Classes))
		s.batch.Views[i] = data.TrainView(s.job.Seed, epoch, sample, s.pack.Height, s.pack.Width, s.outH, s.outW,
			s.job.Augment)
	}
	return s.batch
}

// Test gives no batch: there is no test set.
func (s *syntheticSource) Test(int) data.Batch { return data.Batch{} }

// TestBatches is 0.
func (s *syntheticSource) TestBatches() int { return 0 }

// Shape is that of the stored images.
func (s *syntheticSource) Shape() (channels, height, width int) {
	return s.pack.Channels, s.pack.Height, s.pack.Width
}

// Mean is the mean of random pixels.
func (s *syntheticSource) Mean() []float32 {
	mean := make([]float32, s.imageBytes())
	for i := range mean {
		mean[i] = 127.5
	}
	return mean
}
