package job

import (
	"math"

	"colonnade/shard"
)

// Colour is noise along the principal components of the training set's colours (paper, section 4.1), one draw for each
// image of each epoch.
type Colour struct {
	// By is what the normal draws are multiplied by: eigenvalue, as the paper's text has it, of values of 0..1 (of 0..255
	// the noise would be larger than any pixel); or stddev, the root of the eigenvalue, of 0..255, as the 2012 source had
	// it (convdata_jpeg.py, line 163).
	By    string  `yaml:"by"`
	Noise float64 `yaml:"noise"` // standard deviation of the draws; 0.1 in the paper
	// Rescale divides images that have noise by 1 + noise, mean subtracted, as the 2012 source did.
	Rescale bool `yaml:"rescale,omitempty"`
}

// What colour noise goes by, and which mean is subtracted.
const (
	ByEigenvalue = "eigenvalue"
	ByStddev     = "stddev"
	MeanImage    = "image"  // of each pixel its own
	MeanCentre   = "centre" // the central crop of the mean image, from every crop
)

// CentreMean says whether the central crop of the mean image is subtracted from every crop.
func (a Augment) CentreMean() bool { return a.Mean == MeanCentre }

// checkColour says what is wrong with the augmentation by itself.
func (a Augment) checkColour() error {
	switch {
	case a.Share < 0 || a.Share > maxBatch:
		return errorf("augment.share: %d; leave it out, or give how many consecutive images have one crop, e.g. 32", a.Share)
	case a.Mean != "" && a.Mean != MeanImage && a.Mean != MeanCentre:
		return errorf("augment.mean: %q; use image or centre", a.Mean)
	case a.Mean == MeanCentre && a.Pad > 0:
		return errorf("augment.mean: centre, and augment.pad: %d; use one of them", a.Pad)
	case a.Colour == nil:
		return nil
	case a.Colour.By != ByEigenvalue && a.Colour.By != ByStddev:
		return errorf("augment.colour.by: %q; use eigenvalue or stddev", a.Colour.By)
	case !(a.Colour.Noise > 0) || math.IsInf(a.Colour.Noise, 0):
		return errorf("augment.colour.noise: %g; it must be positive, e.g. 0.1", a.Colour.Noise)
	}
	return nil
}

// checkColourOf says what of the augmentation does not go with the images and the network.
func (j *Job) checkColourOf(n *shard.Network) error {
	if j.Augment.Colour != nil && j.Train.Channels != 3 {
		return errorf("augment.colour: the training pack has images of %d channels; noise is for 3, leave it out, "+
			"or say colour: null where a preset has it", j.Train.Channels)
	}
	if in := n.Input; j.Augment.CentreMean() && (in.Height > j.Train.Height || in.Width > j.Train.Width) {
		return errorf("augment.mean: centre, but the pack's images of %dx%d are smaller than the network's %dx%d; "+
			"leave it out", j.Train.Height, j.Train.Width, in.Height, in.Width)
	}
	return nil
}
