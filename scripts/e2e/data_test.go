package e2e

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// idx writes an IDX dataset of 28 x 28 images whose blob's place says their class, and packs it.
func idx(t testing.TB, name string, images int) (packed string) {
	t.Helper()
	dir := t.TempDir()
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
	write(t, filepath.Join(dir, "train-images-idx3-ubyte"), pixels)
	write(t, filepath.Join(dir, "train-labels-idx1-ubyte"), labels)
	packed = filepath.Join(dir, name+".pack")
	must(t, workerProgram, "data", "pack", "--from", dir, "--split", "train", "--out", packed)
	return packed
}

// write writes a file and the directories above it.
func write(t testing.TB, path string, b []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// jobSteps is how long the job of jobFile runs.
const jobSteps = 120

// jobFile writes the job that most tests train: alexnet-32 in two columns, checkpoints often.
func jobFile(t testing.TB, train, test string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "job.yaml"), fmt.Appendf(nil, `
job: blobs
network: alexnet-32
columns: 2
seed: 5
data: {train: %s, test: %s}
recipe: {batch: 32, steps: %d, rate: 0.01}
augment: {crop: random, flip: true}
checkpoint: {every: 10, keep: 3}
`, train, test, jobSteps))
}
