package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	programs "colonnade/scripts/cluster"
)

// idx writes an IDX dataset of 28 x 28 images whose blob's place says their class, and packs it.
func idx(t testing.TB, name string, images int) (packed string) {
	t.Helper()
	dir := t.TempDir()
	if err := programs.Blobs(dir, images); err != nil {
		t.Fatal(err)
	}
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

// jobSteps is how long the job of jobFile runs in most tests.
const jobSteps = 120

// jobFile writes the job that most tests train: alexnet-32 in two columns, checkpoints often.
func jobFile(t testing.TB, train, test string, steps int) string {
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
`, train, test, steps))
}
