package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"colonnade/proto/clusterpb"
	"colonnade/worker/arena"
)

// These tests kill and stop workers at random moments and want that no finished step is lost: the next generation goes
// on from the newest step that the slowest cell had finished, and the end is the undisturbed run's.

// memoryJob writes a job with no checkpoint for a long time: what it recovers from is memory.
func memoryJob(t testing.TB, network string, batch, steps int) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "job.yaml"), fmt.Appendf(nil, `
job: blobs
network: %s
columns: 2
seed: 5
data: {train: %s, test: %s}
recipe: {batch: %d, steps: %d, rate: 0.01}
checkpoint: {every: %d, keep: 3}
`, network, idx(t, "train", 1000), idx(t, "test", 200), batch, steps, steps/2+7))
}

// held is the newest step that both cells of the job hold, whoever has them.
func (c *cluster) held() uint64 {
	c.t.Helper()
	store := arena.Open(arena.Config{Shared: []string{c.arenas}, Log: slog.New(slog.DiscardHandler)})
	step, cells := newestIn(store, c.status().Cluster)
	if cells != 2 {
		c.t.Fatalf("%d cells are in memory", cells)
	}
	return step
}

// newestIn is the newest step that both cells of the job hold.
func newestIn(store *arena.Store, cluster string) (step uint64, cells int) {
	newest := map[int]uint64{}
	for _, h := range store.Held(cluster, "blobs") {
		newest[h.Column] = max(newest[h.Column], h.Steps[0])
	}
	if len(newest) < 2 {
		return 0, len(newest)
	}
	return min(newest[0], newest[1]), 2
}

// generations are what the cluster's events say of every generation's beginning.
func (c *cluster) generations() (out []string) {
	c.t.Helper()
	for _, e := range c.status().Events {
		if e.Kind == "generation" && strings.Contains(e.Text, " from ") {
			out = append(out, e.Text)
		}
	}
	return out
}

// fromMemory is the step in memory that a generation went on from, by what its event says.
func fromMemory(t testing.TB, event string) uint64 {
	t.Helper()
	_, rest, ok := strings.Cut(event, " from step ")
	var step uint64
	if n, _ := fmt.Sscanf(rest, "%d in memory", &step); !ok || n != 1 {
		t.Errorf("a finished step may be lost: %s", event)
	}
	return step
}

// whereCell is the number of the worker that has a cell.
func whereCell(t testing.TB, j *clusterpb.Job, column int32) int {
	t.Helper()
	for _, p := range j.Placement {
		if p.Cell.GetColumn() == column {
			var n int
			fmt.Sscanf(p.WorkerName, "worker-%d", &n)
			return n
		}
	}
	t.Fatalf("nobody has column %d: %v", column, j.Placement)
	return 0
}

// memoryRun is a way to lose a worker.
type memoryRun struct {
	name    string
	workers int
	kill    func(*cluster, int) // what is done to a worker that has a cell
}

var memoryRuns = []memoryRun{
	{"a spare takes over", 3, func(c *cluster, i int) { c.workers[i].kill() }},
	{"the process is started again", 2, func(c *cluster, i int) { c.workers[i].kill(); c.startWorker(i) }},
	{"the one that is left takes both", 2, func(c *cluster, i int) { c.workers[i].kill() }},
	{"both are killed and started again", 2, func(c *cluster, i int) {
		c.workers[i].kill()
		c.workers[3-i].kill()
		c.startWorker(i)
		c.startWorker(3 - i)
	}},
	{"all is killed and started again", 2, func(c *cluster, _ int) {
		c.killAll()
		c.startCoordinator()
		c.startWorker(1)
		c.startWorker(2)
	}},
	{"a stopped worker's cell is taken by a spare", 3, func(c *cluster, i int) {
		c.workers[i].signal(syscall.SIGSTOP)
		generation := c.watch("blobs", func(j *clusterpb.Job) bool { return true }).Generation
		c.watch("blobs", func(j *clusterpb.Job) bool { return j.Generation > generation && j.State == "running" })
		c.workers[i].signal(syscall.SIGCONT)
	}},
}

// tinySteps is how long the smallest job runs: some seconds, on the reference too.
func tinySteps() int {
	if *device == "ref" {
		return 150
	}
	return 1500
}

// size is a job's, and how many of a test's ways to disturb it are taken.
type size struct {
	network            string
	batch, steps, runs int
}

// sizes are those of tests of recovery: the smallest network in every way, and a larger one, of which the default suite
// has one way (scripts/test --long has all).
func sizes(tiny int) []size {
	runs := math.MaxInt
	if testing.Short() {
		runs = 1
	}
	return []size{{"tiny", 16, tiny, math.MaxInt}, {"alexnet-32", 32, 200, runs}}
}

func first[T any](list []T, n int) []T { return list[:min(n, len(list))] }

func TestNoFinishedStepIsLost(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("random moments from seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, size := range sizes(tinySteps()) {
		job := memoryJob(t, size.network, size.batch, size.steps)
		want := ""
		t.Run(size.network+", undisturbed", func(t *testing.T) {
			c := newCluster(t)
			c.startWorkers(2)
			must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
			want = c.ended("blobs")
			c.until("nothing is left in memory", func(context.Context) bool { return len(c.arenaFiles()) == 0 })
		})
		for _, r := range first(memoryRuns, size.runs) {
			t.Run(size.network+", "+r.name, func(t *testing.T) {
				c := newCluster(t)
				c.startWorkers(r.workers)
				must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
				j := c.watch("blobs", past(2+random.Uint64N(uint64(size.steps)/3)))
				<-time.After(time.Duration(random.IntN(20)) * time.Millisecond) // any moment will do
				at := c.held()
				r.kill(c, whereCell(t, j, int32(random.IntN(2))))
				if got := c.ended("blobs"); got != want {
					t.Errorf("digest %s, undisturbed it is %s", got, want)
				}
				began := c.generations()
				if len(began) < 2 {
					t.Fatalf("generations: %v", began)
				}
				for _, g := range began[1:] {
					if step := fromMemory(t, g); step < at {
						t.Errorf("all cells had finished step %d: %s", at, g)
					}
				}
				t.Log(strings.Join(began, "; "), "; finished before:", at)
			})
		}
	}
}

// arenaFiles are the files of cells' states.
func (c *cluster) arenaFiles() []string {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(c.arenas, "*", "*.arena"))
	if err != nil {
		c.t.Fatal(err)
	}
	return files
}

// TestDamagedMemory damages the header of the arena that a killed worker leaves: the job goes on from a checkpoint, to
// the same end.
func TestDamagedMemory(t *testing.T) {
	job := memoryJob(t, "tiny", 16, tinySteps())
	c := newCluster(t)
	c.startWorkers(2)
	must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
	j := c.watch("blobs", past(40))
	i := whereCell(t, j, 1)
	c.workers[3-i].signal(syscall.SIGSTOP) // or it would be quicker than we are
	c.workers[i].kill()
	found := 0
	for _, path := range c.arenaFiles() {
		if strings.Contains(filepath.Base(path), "-r0c1-") {
			b := read(t, path)
			b[40] ^= 1
			write(t, path, b)
			found++
		}
	}
	if found != 1 {
		t.Fatalf("arenas: %v", c.arenaFiles())
	}
	c.workers[3-i].signal(syscall.SIGCONT)
	c.startWorker(i)
	got := c.ended("blobs")
	began := c.generations()
	if last := began[len(began)-1]; strings.Contains(last, "in memory") {
		t.Errorf("a damaged arena is gone on from: %v", began)
	}
	clean := newCluster(t)
	clean.startWorkers(1)
	must(t, coordinatorProgram, "job", "submit", job, "--coordinator", clean.address)
	if want := clean.ended("blobs"); got != want {
		t.Errorf("digest %s, undisturbed it is %s", got, want)
	}
}

// TestFullMemory gives workers a directory of memory with no room: states lie below the data directory, which a process
// that is started again finds. It needs a file system of its own, so root.
func TestFullMemory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	c := newCluster(t)
	c.arenas = t.TempDir()
	if err := syscall.Mount("tmpfs", c.arenas, "tmpfs", 0, "size=4k"); err != nil {
		t.Skipf("mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() {
		c.killAll()
		if err := syscall.Unmount(c.arenas, 0); err != nil {
			t.Error(err)
		}
	})
	c.startWorkers(2)
	must(t, coordinatorProgram, "job", "submit", memoryJob(t, "tiny", 16, tinySteps()), "--coordinator", c.address)
	j := c.watch("blobs", func(j *clusterpb.Job) bool {
		return j.Step > 40 && len(j.Cells) == 2 && j.Cells[0].Memory != "" && j.Cells[1].Memory != ""
	})
	for _, s := range j.Cells {
		if s.Memory != string(arena.File) {
			t.Errorf("cell %v is in %s", s.Cell, s.Memory)
		}
	}
	i := whereCell(t, j, 1)
	c.workers[i].kill()
	c.startWorker(i)
	c.ended("blobs")
	began := c.generations()
	fromMemory(t, began[len(began)-1])
}
