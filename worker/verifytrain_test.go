//go:build cuda && cgo

package main

import (
	"testing"

	"colonnade/cudakern/cuda"
)

// TestKnownDigestsOfGPUs wants the training that `worker verify` does on a GPU to end in the bits that it knows, where
// there is a driver: scripts/test has the emulated one. Each half of the digest is a cell's.
func TestKnownDigestsOfGPUs(t *testing.T) {
	if d := cuda.List(); d.Error != "" {
		t.Skip(d.Error)
	}
	got, err := train20(t.Context(), "cuda:0", false)
	if err != nil {
		t.Fatal(err)
	}
	if want := knownDigests["cuda/1/fp32"]; got.digest != want {
		t.Errorf("the training ends in %s, known is %s", got.digest, want)
	}
}
