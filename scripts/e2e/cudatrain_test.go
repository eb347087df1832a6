package e2e

import (
	"bytes"
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
	e, err := emulator.Found()
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

// TestStateOfGPUs: the state of cells on GPUs is written to the host's memory and handed to a buddy every ten steps. A
// worker that is killed and started again goes on from there, and so does a spare when the machine is lost: no
// checkpoint is old enough, and the end is the undisturbed run's.
func TestStateOfGPUs(t *testing.T) {
	emulated(t, emulator.Settings{Check: "off"})
	const steps = 50
	job := gpuJob(t, "tiny", smallImages(t, 64, 12, 8), 2, 16, steps)
	write(t, job, bytes.Replace(read(t, job), []byte("every: 4"), []byte("every: 1000"), 1))
	one := newCluster(t)
	one.on(job, "cuda:0")
	want, _ := one.finish()
	one.killAll()
	for _, c := range []struct {
		name string
		lose func(*cluster, int)
	}{
		{"process", func(c *cluster, i int) {
			c.workers[i].kill()
			c.startWorker(i)
		}},
		{"machine", (*cluster).loseMachine},
	} {
		t.Run(c.name, func(t *testing.T) {
			lost := newCluster(t)
			lost.machines, lost.carrier = []string{"a", "b", "c"}, "grpc"
			lost.on(job, "cuda:0", "cuda:1", "cuda:0")
			safe := lost.newestSafe(0)
			j := lost.watch("blobs", past(safe))
			if m := j.Cells[0].Memory; !strings.HasPrefix(m, "device") || !strings.Contains(m, "shared memory") {
				t.Errorf("the state of %v is said to lie in %q", j.Cells[0].Cell, m)
			}
			c.lose(lost, whereCell(t, j, 1))
			lost.watch("blobs", func(j *clusterpb.Job) bool { return j.Generation > 1 && j.State != "recovering" })
			began := lost.generations()
			if from := fromMemory(t, began[len(began)-1]); from < safe || from%copiesEvery != 0 {
				t.Errorf("step %d was safe: %v", safe, began)
			}
			if got, _ := lost.finish(); got != want {
				t.Errorf("digest %s, undisturbed it is %s", got, want)
			}
		})
	}
}
