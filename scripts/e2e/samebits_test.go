package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"colonnade/proto/clusterpb"
)

// run is one way for a job to come to its end.
type run struct {
	name    string
	workers int
	carrier string
	threads int  // of each worker; 0: as it likes
	long    bool // left out of a short suite: others differ in less than this does from them
	// disturb returns false where the job ended before.
	disturb func(t testing.TB, c *cluster, at func() uint64) bool
}

// runs are what the digest must not depend on.
var runs = []run{
	{name: "one worker", workers: 1},
	{name: "two workers", workers: 2},
	{name: "three workers", workers: 3},
	{name: "one worker, over gRPC", long: true, workers: 1, carrier: "grpc"},
	{name: "two workers, over gRPC", workers: 2, carrier: "grpc"},
	{name: "one worker, over shared memory", long: true, workers: 1, carrier: "shm"},
	{name: "two workers, over shared memory", workers: 2, carrier: "shm"},
	// A worker by default has as many threads as there are cores; one that has two cells shares them out.
	{name: "one worker, three threads", long: true, workers: 1, threads: 3},
	{name: "two workers, one thread each", workers: 2, threads: 1},
	{name: "two workers, three threads each", long: true, workers: 2, threads: 3},
	{name: "two workers, four threads each", workers: 2, threads: 4},
	{name: "one, three and two threads", workers: 2, threads: 1, disturb: func(t testing.TB, c *cluster,
		at func() uint64) bool {
		if !c.sees("blobs", past(at())) {
			return false
		}
		c.killAll()
		c.startCoordinator()
		c.threads = 3
		c.startWorkers(2)
		if !c.stop(at()) {
			return false
		}
		c.workers[2].kill() // its cell moves to the other worker, unless it comes back with other threads in time
		c.threads = 2
		c.startWorker(2)
		must(t, coordinatorProgram, "job", "resume", "blobs", "--coordinator", c.address)
		return true
	}},
	{name: "worker killed and started again", workers: 2, disturb: func(t testing.TB, c *cluster, at func() uint64) bool {
		if !c.sees("blobs", past(at())) {
			return false
		}
		c.workers[2].kill()
		c.startWorker(2)
		return true
	}},
	{name: "worker killed for good", workers: 2, disturb: func(t testing.TB, c *cluster, at func() uint64) bool {
		if !c.sees("blobs", past(at())) {
			return false
		}
		c.workers[1].kill()
		return true
	}},
	{name: "worker asleep until its generation is over", workers: 2, disturb: func(t testing.TB, c *cluster,
		at func() uint64) bool {
		j := c.watch("blobs", past(at()))
		c.workers[1].signal(syscall.SIGSTOP)
		seen := c.sees("blobs", func(now *clusterpb.Job) bool {
			return now.Generation > j.Generation && now.State == "running"
		})
		c.workers[1].signal(syscall.SIGCONT)
		return seen
	}},
	{name: "coordinator killed", workers: 2, disturb: func(t testing.TB, c *cluster, at func() uint64) bool {
		if !c.sees("blobs", past(at())) {
			return false
		}
		c.coordinator.kill()
		c.startCoordinator()
		return true
	}},
	{name: "everything killed twice", workers: 2, disturb: func(t testing.TB, c *cluster, at func() uint64) bool {
		for range 2 {
			if !c.sees("blobs", past(at())) {
				return false
			}
			c.killAll()
			c.startCoordinator()
			c.startWorkers(2)
		}
		return true
	}},
	{name: "stopped and resumed", workers: 2, disturb: func(t testing.TB, c *cluster, at func() uint64) bool {
		if !c.stop(at()) {
			return false
		}
		must(t, coordinatorProgram, "job", "resume", "blobs", "--coordinator", c.address)
		return true
	}},
	{name: "resumed from an older step", workers: 2, disturb: func(t testing.TB, c *cluster, at func() uint64) bool {
		if !c.stop(25 + at()) {
			return false
		}
		oldest := c.checkpoints()[0].Step
		must(t, coordinatorProgram, "job", "resume", "blobs", "--step", fmt.Sprint(oldest), "--coordinator", c.address)
		return true
	}},
	{name: "newest checkpoint has a flipped byte", workers: 2, disturb: damaged(func(t testing.TB, path string) {
		b := read(t, path)
		b[len(b)/2] ^= 1
		write(t, path, b)
	})},
	{name: "newest checkpoint is truncated", long: true, workers: 2, disturb: damaged(func(t testing.TB, path string) {
		b := read(t, path)
		write(t, path, b[:len(b)/2])
	})},
	{name: "newest checkpoint is missing", long: true, workers: 2, disturb: damaged(func(t testing.TB, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	})},
	{name: "newest checkpoint is of another step", workers: 2, disturb: damaged(func(t testing.TB, path string) {
		older, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(path)), "*", filepath.Base(path)))
		if err != nil || len(older) < 2 {
			t.Fatalf("checkpoint files %v: %v", older, err)
		}
		write(t, path, read(t, older[0]))
	})},
}

// stop stops the job once it is past a step, which leaves a checkpoint of the step it stopped at. It returns false
// where the job ends before.
func (c *cluster) stop(after uint64) bool {
	c.t.Helper()
	c.watch("blobs", past(after))
	o := call(c.t, coordinatorProgram, "job", "stop", "blobs", "--coordinator", c.address)
	j := c.watch("blobs", func(j *clusterpb.Job) bool { return j.State == "stopped" || j.State == "done" })
	if j.State == "done" {
		return false
	}
	if o.code != 0 || j.CommittedStep < after {
		c.t.Errorf("stopped after step %d with a checkpoint of step %d: %s", after, j.CommittedStep, o.stderr)
	}
	return true
}

// checkpoints are the job's, by step.
func (c *cluster) checkpoints() []*clusterpb.Manifest {
	c.t.Helper()
	reply, err := c.client.ListCheckpoints(context.Background(), &clusterpb.GetJobRequest{Name: "blobs"})
	if err != nil || len(reply.Checkpoints) == 0 {
		c.t.Fatalf("list checkpoints: %v: %v", reply, err)
	}
	return reply.Checkpoints
}

// damaged stops the job, does something to a file of its newest checkpoint and resumes: the loss must be told, with the
// file's name, and an older checkpoint used.
func damaged(do func(t testing.TB, path string)) func(testing.TB, *cluster, func() uint64) bool {
	return func(t testing.TB, c *cluster, at func() uint64) bool {
		if !c.stop(25 + at()) { // so that there are older ones
			return false
		}
		all := c.checkpoints()
		newest := all[len(all)-1]
		file := newest.Files[1]
		found, err := filepath.Glob(filepath.Join(c.dir, "worker-*", "checkpoints", filepath.FromSlash(file.Path)))
		if err != nil || len(found) != 1 {
			t.Fatalf("file %s is at %v: %v", file.Path, found, err)
		}
		do(t, found[0])
		if o := call(t, coordinatorProgram, "checkpoint", "verify", "blobs", "--coordinator", c.address); o.code == 0 {
			t.Errorf("verify finds nothing wrong:\n%s", o.stdout)
		}
		must(t, coordinatorProgram, "job", "resume", "blobs", "--coordinator", c.address)
		c.ended("blobs")
		events := c.status().Events
		if !slices.ContainsFunc(events, func(e *clusterpb.LogEvent) bool { return strings.Contains(e.Text, file.Path) }) {
			t.Errorf("no event names %s: %v", file.Path, events)
		}
		return true
	}
}

func (c *cluster) status() *clusterpb.StatusReply {
	c.t.Helper()
	s, err := c.client.Status(context.Background(), &clusterpb.StatusRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// TestSameBits trains one job in many ways, with processes killed at random steps, and wants one digest.
func TestSameBits(t *testing.T) {
	job := jobFile(t, idx(t, "train", 1000), idx(t, "test", 200), jobSteps)
	seed := uint64(time.Now().UnixNano())
	t.Logf("random steps from seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	at := func() uint64 { return 5 + random.Uint64N(jobSteps-60) }
	want := ""
	for _, r := range runs {
		t.Run(r.name, func(t *testing.T) {
			if r.long && testing.Short() {
				t.Skip("scripts/test --long has it")
			}
			c := inTime(t, func(c *cluster) bool {
				if r.carrier != "" {
					c.carrier = r.carrier
				}
				c.threads = r.threads
				c.startWorkers(r.workers)
				must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
				return r.disturb == nil || r.disturb(t, c, at)
			})
			got := c.ended("blobs")
			if want == "" {
				want = got
			}
			if got != want {
				t.Errorf("digest %s, with one worker it is %s", got, want)
			}
			if n := len(c.checkpoints()); n < 3 {
				t.Errorf("%d checkpoints are left, want 3", n)
			}
		})
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
