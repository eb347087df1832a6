package e2e

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pictures writes a folder of random colour images, CLASS/NNN.png, and packs it.
func pictures(t testing.TB, images, classes, size int) (packed string) {
	t.Helper()
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(3, 4))
	for i := range images {
		m := image.NewNRGBA(image.Rect(0, 0, size, size))
		for p := range m.Pix {
			m.Pix[p] = byte(r.Uint32())
			if p%4 == 3 {
				m.Pix[p] = 255
			}
		}
		var b bytes.Buffer
		if err := (&png.Encoder{CompressionLevel: png.NoCompression}).Encode(&b, m); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, fmt.Sprintf("src/class-%02d/%03d.png", i%classes, i)), b.Bytes())
	}
	packed = filepath.Join(dir, "random.pack")
	must(t, workerProgram, "data", "pack", "--from", filepath.Join(dir, "src"), "--out", packed)
	return packed
}

// workerMemory is what a worker of full-size alexnet may take at a batch of 16: a bound on what is kept, not a measure.
const workerMemory = 6 << 30

// TestFullSize trains the paper's network at its own size for three steps: one worker's digest is two workers'.
func TestFullSize(t *testing.T) {
	job := write(t, filepath.Join(t.TempDir(), "job.yaml"), fmt.Appendf(nil, `
job: full
network: alexnet
classes: 1000
seed: 3
data: {train: %s}
recipe: {batch: 16, steps: 3, rate: 0.01}
augment: {crop: random, flip: true}
`, pictures(t, 48, 12, 256)))
	want := ""
	for _, workers := range []int{2, 1} {
		t.Run(fmt.Sprintf("%d workers", workers), func(t *testing.T) {
			c := newCluster(t)
			c.startWorkers(workers)
			must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
			got := c.ended("full")
			if want == "" {
				want = got
			}
			if got != want {
				t.Errorf("digest %s, with two workers it is %s", got, want)
			}
			for i, p := range c.workers {
				peak := peakMemory(t, p)
				t.Logf("worker %d of %d: %d MiB at most", i, workers, peak>>20)
				if peak > workerMemory {
					t.Errorf("worker %d took %d MiB, at most %d are allowed", i, peak>>20, workerMemory>>20)
				}
			}
		})
	}
}

// peakMemory is the most memory a running process has had, in bytes (proc(5): VmHWM).
func peakMemory(t testing.TB, p *process) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatalf("no peak memory in the status of process %d: %v", p.cmd.Process.Pid, err)
	}
	return kib << 10
}
