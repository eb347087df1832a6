//go:build cuda && cgo

package main

import (
	"math"
	"os"
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

// TestLossesOfGPUs trains longer than `worker verify` does, and the network of the jobs that a GPU is for: losses stay
// with the processor's and with the reference's.
func TestLossesOfGPUs(t *testing.T) {
	if d := cuda.List(); d.Error != "" {
		t.Skip(d.Error)
	}
	long, short := 100, 4
	if os.Getenv("COLONNADE_PLANTED") == "" { // scripts/test --long sets it
		long, short = 25, 1
	}
	for _, c := range []struct {
		benchCmd
		tolerated float64 // of a loss, or of 1 where it is less
	}{{benchCmd{Network: "tiny", Batch: knownBatch, Steps: long}, 1e-4},
		{benchCmd{Network: "alexnet-32", Batch: 4, Steps: short}, 1e-4}} {
		t.Run(c.Network, func(t *testing.T) {
			losses := func(device string) []float64 {
				c.Device = device
				run, err := trainOn(t.Context(), c.benchCmd)
				if err != nil {
					t.Fatal(err)
				}
				return run.losses
			}
			got := losses("cuda:0")
			if len(got) != c.Steps {
				t.Fatalf("%d losses, want one of each of %d steps", len(got), c.Steps)
			}
			for _, other := range []string{"cpu", "ref"} {
				worst := 0.0
				for i, w := range losses(other) {
					off := math.Abs(got[i]-w) / math.Max(w, 1)
					if worst = math.Max(worst, off); !(off <= c.tolerated) {
						t.Fatalf("step %d: loss %g, on %s it is %g", i+1, got[i], other, w)
					}
				}
				t.Logf("%d steps to loss %g: at most %.2g off those on %s", c.Steps, got[len(got)-1], worst, other)
			}
		})
	}
}
