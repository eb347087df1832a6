//go:build cuda && cgo

package frontends

import (
	"os"
	"testing"

	"colonnade/cudakern/cuda"
	"colonnade/cudakern/kerntest"
)

// TestSameBits runs the conformance suite's cases on the image that ships and on another.
func TestSameBits(t *testing.T) {
	other := os.Getenv("COLONNADE_TRUTH_PTX")
	if other == "" {
		t.Skip("run by scripts/cuda-truth, with an image that NVIDIA's compilers made of our kernels")
	}
	ours, err := cuda.New("cuda:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	t.Setenv("COLONNADE_CUDA_PTX", other)
	theirs, err := cuda.New("cuda:1")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if err := kerntest.Same(ours, theirs); err != nil {
		t.Error(err)
	}
}
