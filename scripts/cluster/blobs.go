package cluster

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Blobs writes an IDX dataset (split train) of 28 x 28 images whose blob's place says their class; the same images for
// the same number.
func Blobs(dir string, images int) error {
	r := rand.New(rand.NewPCG(uint64(images), 1))
	const size, classes = 28, 10
	pixels := binary.BigEndian.AppendUint32([]byte{0, 0, 8, 3}, uint32(images))
	pixels = append(pixels, 0, 0, 0, size, 0, 0, 0, size)
	labels := binary.BigEndian.AppendUint32([]byte{0, 0, 8, 1}, uint32(images))
	for range images {
		c := r.IntN(classes)
		labels = append(labels, byte(c))
		cy, cx := 5+c/5*14+r.IntN(5), 3+c%5*5+r.IntN(3)
		for p := range size * size {
			d := float64((p/size-cy)*(p/size-cy) + (p%size-cx)*(p%size-cx))
			pixels = append(pixels, byte(200*math.Exp(-d/8))+byte(r.IntN(55)))
		}
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "train-images-idx3-ubyte"), pixels, 0o644),
		os.WriteFile(filepath.Join(dir, "train-labels-idx1-ubyte"), labels, 0o644))
}
