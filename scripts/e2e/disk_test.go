package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"colonnade/proto/clusterpb"
)

// diskJob writes a job with a checkpoint every so many steps.
func diskJob(t testing.TB, steps, every int) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "job.yaml"), fmt.Appendf(nil, `
job: blobs
network: tiny
columns: 2
seed: 5
data: {train: %s, test: %s}
recipe: {batch: 16, steps: %d, rate: 0.01}
checkpoint: {every: %d, keep: 2}
`, idx(t, "train", 1000), idx(t, "test", 200), steps, every))
}

// said waits for an event of a kind that says all of some words.
func (c *cluster) said(kind string, words ...string) {
	c.t.Helper()
	c.until(fmt.Sprintf("an event of kind %s says %q", kind, words), func(context.Context) bool {
		for _, e := range c.status().Events {
			all := e.Kind == kind
			for _, w := range words {
				all = all && strings.Contains(e.Text, w)
			}
			if all {
				return true
			}
		}
		return false
	})
}

// TestTroubleOfTheDisk takes the room from a worker's checkpoint directory, and then the right to write into it:
// training goes on, each is an event, and when the disk is well again checkpoints are committed, to the usual end.
func TestTroubleOfTheDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	job := diskJob(t, tinySteps(), 20)
	want := undisturbed(t, job)
	c := newCluster(t)
	data := filepath.Join(c.dir, "worker-1", "checkpoints")
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() {
		c.killAll()
		if err := syscall.Unmount(data, 0); err != nil {
			t.Error(err)
		}
	})
	c.startWorkers(2)
	must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
	c.said("checkpoint-failed", "no space left on device", "training goes on")
	c.until("nobody writes there, and nobody may any more", func(context.Context) bool {
		return syscall.Mount("tmpfs", data, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, "size=64m") == nil
	})
	c.said("checkpoint-failed", "read-only file system", "training goes on")
	if j := c.watch("blobs", past(1)); j.CommittedStep > 0 || j.State != "running" || j.Generation != 1 {
		t.Errorf("the job is %s, generation %d, its checkpoint of step %d", j.State, j.Generation, j.CommittedStep)
	}
	if err := syscall.Mount("tmpfs", data, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if got := c.ended("blobs"); got != want {
		t.Errorf("digest %s, undisturbed it is %s", got, want)
	}
	if n := len(c.generations()); n != 1 {
		t.Errorf("generations: %v", c.generations())
	}
}

// TestCheckpointsAreRemoved removes all checkpoint files of a job, whose workers and memory are gone too: training goes
// on without them as long as it can, and then from the start, with every one named.
func TestCheckpointsAreRemoved(t *testing.T) {
	job := diskJob(t, tinySteps(), 20)
	want := undisturbed(t, job)
	c := newCluster(t)
	c.startWorkers(2)
	must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
	j := c.watch("blobs", func(j *clusterpb.Job) bool { return j.CommittedStep >= 40 })
	remove := func() {
		for i := range 2 {
			dir := filepath.Join(c.dir, fmt.Sprintf("worker-%d", i+1), "checkpoints")
			err := os.RemoveAll(dir)
			for errors.Is(err, syscall.ENOTEMPTY) { // a worker has begun to write another one there meanwhile
				err = os.RemoveAll(dir)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	remove()
	committed := j.CommittedStep
	j = c.watch("blobs", func(j *clusterpb.Job) bool { return j.CommittedStep > committed }) // and writes new ones
	if j.Generation != 1 {
		t.Errorf("generation %d", j.Generation)
	}
	for i := range 2 {
		c.workers[i+1].kill()
	}
	remove()
	for _, path := range c.arenaFiles() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	c.startWorkers(2)
	c.said("checkpoint-bad", "cannot be used")
	if got := c.ended("blobs"); got != want {
		t.Errorf("digest %s, undisturbed it is %s", got, want)
	}
}
