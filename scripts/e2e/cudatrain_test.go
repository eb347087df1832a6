package e2e

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"colonnade/cudakern/cudaemu/emulator"
	"colonnade/proto/clusterpb"
)

// emulated has the programs of a test meet the emulated driver with two GPUs. It skips where the programs were built
// without the CUDA device.
func emulated(t *testing.T, s emulator.Settings) {
	t.Helper()
	if out := must(t, workerProgram, "devices"); strings.Contains(out, "built without CUDA") {
		t.Skip("built without the tag cuda; scripts/setup.sh's use_cuda sets what the build needs")
	}
	e, err := emulator.Build("")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range e.Env(s) {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
}

// smallImages packs images of a network's size: a square of the class's brightness in noise.
func smallImages(t testing.TB, images, size, classes int) (packed string) {
	t.Helper()
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(uint64(images), 2))
	pixels := binary.BigEndian.AppendUint32([]byte{0, 0, 8, 3}, uint32(images))
	pixels = append(pixels, 0, 0, 0, byte(size), 0, 0, 0, byte(size))
	labels := binary.BigEndian.AppendUint32([]byte{0, 0, 8, 1}, uint32(images))
	for i := range images {
		c := i % classes
		labels = append(labels, byte(c))
		for range size * size {
			pixels = append(pixels, byte(20*c+r.IntN(40)))
		}
	}
	write(t, filepath.Join(dir, "train-images-idx3-ubyte"), pixels)
	write(t, filepath.Join(dir, "train-labels-idx1-ubyte"), labels)
	packed = filepath.Join(dir, "small.pack")
	must(t, workerProgram, "data", "pack", "--from", dir, "--split", "train", "--out", packed)
	return packed
}

// gpuJob is a short training; the emulator takes its time.
func gpuJob(t testing.TB, network, pack string, columns, batch, steps int) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "job.yaml"), fmt.Appendf(nil, `
job: blobs
network: %s
columns: %d
seed: 5
data: {train: %s, test: %s}
recipe: {batch: %d, steps: %d, rate: 0.01}
augment: {crop: random, flip: true}
checkpoint: {every: 4, keep: 3}
`, network, columns, pack, pack, batch, steps))
}

// on starts workers 1 and up, each with a device of the list, and submits the job.
func (c *cluster) on(job string, devices ...string) {
	c.t.Helper()
	c.devices = devices
	c.startWorkers(len(devices))
	must(c.t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
}

// finish waits for the job's end and returns its digest and its last loss on the test set.
func (c *cluster) finish() (digest string, loss float64) {
	c.t.Helper()
	j := c.watch("blobs", func(j *clusterpb.Job) bool { return j.State == "done" })
	loss = math.NaN()
	if n := len(j.Evaluations); n > 0 {
		loss = j.Evaluations[n-1].Loss
	}
	return fmt.Sprintf("%x", j.Digest), loss
}

// TestTrainingOnGPUs trains on one and on two emulated GPUs, with a worker killed on the way, by every carrier: one
// digest; and on the processor: about the same loss.
func TestTrainingOnGPUs(t *testing.T) {
	for _, c := range []struct {
		network              string
		size, classes        int
		columns, batch, step int
	}{{"tiny", 12, 8, 1, 16, 24}, {"tiny", 12, 8, 2, 16, 24}, {"tiny", 12, 8, 4, 16, 24},
		{"alexnet-32", 32, 10, 2, 4, 6}} {
		t.Run(fmt.Sprintf("%s in %d columns", c.network, c.columns), func(t *testing.T) {
			emulated(t, emulator.Settings{Check: "off"})
			pack := smallImages(t, 4*c.batch, c.size, c.classes)
			job := gpuJob(t, c.network, pack, c.columns, c.batch, c.step)
			onGPUs(t, job, c.columns, c.step)
		})
	}
}

func onGPUs(t *testing.T, job string, columns, steps int) {
	one := newCluster(t)
	one.on(job, "cuda:0")
	want, loss := one.finish()
	carriers := []string{"auto", "peer", "shm", "grpc"}
	small := columns == 2 && steps > 10
	if testing.Short() && !small { // scripts/test --long has all of all
		carriers = carriers[:1]
	}
	for _, carrier := range carriers {
		two := newCluster(t)
		two.carrier = carrier
		two.on(job, "cuda:0", "cuda:1")
		if carrier == "auto" && columns > 1 { // which is the fastest
			two.takes("peer")
		}
		if got, _ := two.finish(); got != want {
			t.Errorf("two GPUs, carrier %s: digest %s, on one it is %s", carrier, got, want)
		}
	}
	cpu := newCluster(t)
	cpu.on(job, "cpu")
	if _, got := cpu.finish(); !(math.Abs(got-loss) <= 1e-3*math.Max(1, math.Abs(got))) {
		t.Errorf("the loss ends at %g, on the processor at %g", loss, got)
	}
	if testing.Short() && !small {
		return
	}
	killed := newCluster(t)
	killed.on(job, "cuda:0", "cuda:1")
	killed.watch("blobs", past(uint64(steps)/2))
	killed.workers[2].kill()
	killed.startWorker(2)
	if got, _ := killed.finish(); got != want {
		t.Errorf("a worker killed and started again: digest %s, undisturbed it is %s", got, want)
	}
}

// takes waits until all cells of the job say which carrier they send over, and wants it to be the one.
func (c *cluster) takes(want string) {
	c.t.Helper()
	c.watch("blobs", func(j *clusterpb.Job) bool {
		for _, cell := range j.Cells {
			if cell.Carrier != "" && cell.Carrier != want {
				c.t.Fatalf("cell %v sends over %s, want %s", cell.Cell, cell.Carrier, want)
			}
		}
		missing := func(s *clusterpb.CellStatus) bool { return s.Carrier == "" }
		return len(j.Cells) > 0 && !slices.ContainsFunc(j.Cells, missing)
	})
}

// TestGPUsThatDoNotReachEachOther: maps go through pinned memory and the host's, which the log says the reason of.
func TestGPUsThatDoNotReachEachOther(t *testing.T) {
	emulated(t, emulator.Settings{Check: "off", NoPeer: true})
	job := gpuJob(t, "tiny", smallImages(t, 64, 12, 8), 2, 16, 24)
	one := newCluster(t)
	one.on(job, "cuda:0")
	want, _ := one.finish()
	two := newCluster(t)
	two.on(job, "cuda:0", "cuda:1")
	if got, _ := two.finish(); got != want {
		t.Errorf("digest %s, on one GPU it is %s", got, want)
	}
	log := string(read(t, two.workers[1].log))
	if !strings.Contains(log, "carrier=shm") || !strings.Contains(log, "PEER_ACCESS_UNSUPPORTED") {
		t.Errorf("the log does not say why maps go another way:\n%s", log)
	}
}

// TestGPULost: a GPU that dies takes its worker with it, in one line, and the job goes on elsewhere to the same digest.
func TestGPULost(t *testing.T) {
	control := filepath.Join(t.TempDir(), "control")
	write(t, control, nil)
	emulated(t, emulator.Settings{Check: "off", Control: control})
	job := gpuJob(t, "tiny", smallImages(t, 64, 12, 8), 2, 16, 24)
	whole := newCluster(t)
	whole.on(job, "cuda:0")
	want, _ := whole.finish()

	c := newCluster(t)
	c.on(job, "cuda:0", "cuda:1")
	c.watch("blobs", past(8))
	f, err := os.OpenFile(control, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintln(f, "1 lost 1")
	}
	if err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	<-c.workers[2].done
	log := string(read(t, c.workers[2].log))
	lines := strings.Split(strings.TrimSpace(log), "\n")
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "worker: the device is lost") ||
		!strings.Contains(last, "cuda:1") || c.workers[2].cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("the worker ends with %v and says: %s", c.workers[2].cmd.ProcessState, last)
	}
	if got, _ := c.finish(); got != want {
		t.Errorf("digest %s, undisturbed it is %s", got, want)
	}
}

// TestMemoryOfGPU: a job that a GPU has no room for is refused before any of it is taken, with what it needs.
func TestMemoryOfGPU(t *testing.T) {
	emulated(t, emulator.Settings{Check: "off", Memory: 64 << 20})
	c := newCluster(t)
	c.on(gpuJob(t, "alexnet-32", smallImages(t, 256, 32, 10), 1, 128, 4), "cuda:0")
	c.until("the worker says what is needed", func(context.Context) bool {
		log := string(read(t, c.workers[1].log))
		return strings.Contains(log, "of memory wanted") && strings.Contains(log, "free on cuda:0")
	})
}

// TestAllGPUs drives two GPUs by one command, and all ends with it.
func TestAllGPUs(t *testing.T) {
	emulated(t, emulator.Settings{Check: "off", Capabilities: "80,70"})
	job := gpuJob(t, "tiny", smallImages(t, 64, 12, 8), 2, 16, 24)
	one := newCluster(t)
	one.on(job, "cuda:1") // of another kind than cuda:0: the same bits
	want, _ := one.finish()
	c := newCluster(t)
	p := launch(t, filepath.Join(c.dir, "all.log"), workerProgram, "run", "--all-gpus", "--coordinator", c.address,
		"--data", filepath.Join(c.dir, "all"))
	c.connected(2)
	must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
	if got, _ := c.finish(); got != want {
		t.Errorf("digest %s, on one GPU it is %s", got, want)
	}
	p.signal(os.Interrupt)
	<-p.done
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d\n%s", code, read(t, p.log))
	}
}
