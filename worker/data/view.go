package data

import (
	"math/bits"

	"colonnade/cudakern"
	"colonnade/cudakern/philox"
	"colonnade/shard/job"
)

// CentreView shows the centre of an image of h x w pixels in a frame of outH x outW; a smaller image is centred in it.
func CentreView(h, w, outH, outW int) cudakern.View {
	return cudakern.View{Y: floorHalf(h - outH), X: floorHalf(w - outW)}
}

// TenViews are the paper's ways to see a test image (section 4.1), in the source's order (convdata_jpeg.py:224-233):
// top left, top right, centre, bottom left, bottom right, then the mirror images of these. An image that is no larger
// than the frame is centred in it five times.
func TenViews(h, w, outH, outW int) (out [10]cudakern.View) {
	centre := CentreView(h, w, outH, outW)
	y0, x0, y1, x1 := centre.Y, centre.X, centre.Y, centre.X
	if h > outH {
		y0, y1 = 0, int32(h-outH)
	}
	if w > outW {
		x0, x1 = 0, int32(w-outW)
	}
	for i, v := range [5]cudakern.View{{Y: y0, X: x0}, {Y: y0, X: x1}, centre, {Y: y1, X: x0}, {Y: y1, X: x1}} {
		out[i] = v
		v.Flip = true
		out[i+5] = v
	}
	return out
}

// TrainView is how a sample is seen in an epoch, drawn by (seed, epoch, sample) alone. A random crop is even over all
// frames that lie in the image widened by pad pixels of mean colour on each side; where the image is smaller than the
// frame, over all positions within pad pixels of the centre. A flip comes up half of the time.
func TrainView(seed, epoch, sample uint64, h, w, outH, outW int, a job.Augment) cudakern.View {
	return drawView([4]uint32{uint32(sample), uint32(sample >> 32), 0, 0}, seed, epoch, h, w, outH, outW, a)
}

// SharedView is TrainView where Augment.Share consecutive places of the epoch have one crop and one flip, as the 2012
// source had for every 32 images (convdata_jpeg.py, lines 238 to 246); the draws of share s are those of block
// {s low, s high, 2, 0}.
func SharedView(seed, epoch, place, sample uint64, h, w, outH, outW int, a job.Augment) cudakern.View {
	if a.Share < 1 {
		return TrainView(seed, epoch, sample, h, w, outH, outW, a)
	}
	s := place / uint64(a.Share)
	return drawView([4]uint32{uint32(s), uint32(s >> 32), 2, 0}, seed, epoch, h, w, outH, outW, a)
}

func drawView(counter [4]uint32, seed, epoch uint64, h, w, outH, outW int, a job.Augment) cudakern.View {
	v := CentreView(h, w, outH, outW)
	draw := philox.Block(counter, philox.Split(philox.Key(seed, philox.View, epoch)))
	if a.Crop == "random" {
		v.Y = place(draw[0], h, outH, a.Pad)
		v.X = place(draw[1], w, outW, a.Pad)
	}
	v.Flip = a.Flip && draw[2]&1 == 1
	return v
}

// place draws where a frame of `out` pixels begins along a side of `size` pixels.
func place(word uint32, size, out, pad int) int32 {
	lo, hi := -pad, size-out+pad
	if size < out {
		centre := int(floorHalf(size - out))
		lo, hi = centre-pad, centre+pad
	}
	// Multiply-shift: with 2^32 words over at most a few thousand places, no place is favoured by more than 1e-6.
	n, _ := bits.Mul32(word, uint32(max(hi-lo+1, 1)))
	return int32(lo) + int32(n)
}

// floorHalf is n/2 rounded down, also below 0.
func floorHalf(n int) int32 { return int32(n >> 1) }
