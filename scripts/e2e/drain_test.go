package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"colonnade/proto/clusterpb"
)

// undisturbed is the digest that a job ends with on one worker.
func undisturbed(t *testing.T, job string) string {
	t.Helper()
	c := newCluster(t)
	c.startWorkers(1)
	must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
	return c.ended("blobs")
}

// began are the steps that generations after the first went on from, wherever from.
func (c *cluster) wentOnFrom() (steps []uint64) {
	c.t.Helper()
	for _, g := range c.generations()[1:] {
		_, rest, _ := strings.Cut(g, " from step ")
		var step uint64
		if _, err := fmt.Sscanf(rest, "%d", &step); err != nil {
			c.t.Errorf("from the start: %s", g)
		}
		steps = append(steps, step)
	}
	return steps
}

// stoppedAfter are the steps at whose end generations stopped to move.
func (c *cluster) stoppedAfter() (steps []uint64) {
	c.t.Helper()
	for _, e := range c.status().Events {
		if _, rest, ok := strings.Cut(e.Text, " stopped after step "); ok && e.Kind == "generation" {
			var step uint64
			fmt.Sscanf(rest, "%d", &step)
			steps = append(steps, step)
		}
	}
	return steps
}

// TestDrain drains a worker of a job that runs: its cell goes to the spare at a step boundary, and no step is done
// twice; the worker is said to be drained, can be stopped without any effect, and the end is the undisturbed run's.
func TestDrain(t *testing.T) {
	job := memoryJob(t, "alexnet-32", 32, 300)
	want := undisturbed(t, job)
	c := newCluster(t)
	c.threads = 1
	c.startWorkers(3)
	must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
	j := c.watch("blobs", past(10))
	i := whereCell(t, j, 1)
	name := fmt.Sprintf("worker-%d", i)
	said := must(t, coordinatorProgram, "worker", "drain", name, "--coordinator", c.address)
	if !strings.Contains(said, "worker "+name+" is drained: blobs/r0c1 goes elsewhere at the next step boundary") {
		t.Errorf("drain says: %s", said)
	}
	c.until("the worker is drained", func(context.Context) bool { return c.workerNamed(i).Drained })
	must(t, coordinatorProgram, "worker", "drain", name, "--coordinator", c.address) // asking again does no harm
	j = c.watch("blobs", func(now *clusterpb.Job) bool { return now.Generation == 2 && now.State == "running" })
	if whereCell(t, j, 1) == i {
		t.Errorf("the cell is still on worker %d", i)
	}
	if from, at := c.wentOnFrom(), c.stoppedAfter(); len(from) != 1 || len(at) != 1 || from[0] != at[0] {
		t.Errorf("stopped after steps %v, went on from %v", at, from)
	}
	table := must(t, coordinatorProgram, "worker", "list", "--coordinator", c.address)
	if !strings.Contains(table, "connected, drained") {
		t.Errorf("the list is:\n%s", table)
	}
	c.workers[i].signal(syscall.SIGTERM)
	<-c.workers[i].done
	if log := string(read(t, c.workers[i].log)); !strings.Contains(log, "it may be stopped") {
		t.Errorf("the worker was not told that it may end:\n%s", log)
	}
	if got := c.ended("blobs"); got != want {
		t.Errorf("digest %s, undisturbed it is %s", got, want)
	}
}

// TestDrainOfTheLastWorker drains the only worker there is: its job stays where it is, and the status says why, until
// another one comes.
func TestDrainOfTheLastWorker(t *testing.T) {
	c := newCluster(t)
	c.threads = 1
	c.startWorkers(1)
	must(t, coordinatorProgram, "job", "submit", memoryJob(t, "tiny", 16, 1_000_000), "--coordinator", c.address)
	c.watch("blobs", past(10))
	must(t, coordinatorProgram, "worker", "drain", "worker-1", "--coordinator", c.address)
	why := "worker worker-1 is drained, but there is no other for its cells; start another one"
	c.until("the status says why nothing moves", func(context.Context) bool {
		return strings.Contains(must(t, coordinatorProgram, "status", "--coordinator", c.address), why)
	})
	c.startWorker(2)
	c.watch("blobs", func(j *clusterpb.Job) bool {
		return j.Generation == 2 && j.State == "running" && whereCell(t, j, 0) == 2 && whereCell(t, j, 1) == 2
	})
	must(t, coordinatorProgram, "worker", "drain", "worker-1", "--undo", "--coordinator", c.address)
	if w := c.workerNamed(1); w.Draining || w.Drained {
		t.Errorf("when it is undone the worker is %v", w)
	}
}

// TestColumnsSpreadOut begins with one worker for two columns: when a second one has been there for a while, a column
// moves to it at a step boundary, once.
func TestColumnsSpreadOut(t *testing.T) {
	job := memoryJob(t, "alexnet-32", 32, 250)
	want := undisturbed(t, job)
	c := newCluster(t)
	c.threads = 1
	c.coordinatorFlags = []string{"--spread-after", "1s"}
	c.coordinator.kill()
	c.startCoordinator()
	c.startWorkers(1)
	must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
	c.watch("blobs", past(5))
	c.startWorker(2)
	j := c.watch("blobs", func(now *clusterpb.Job) bool { return now.Generation == 2 && now.State == "running" })
	if whereCell(t, j, 0) == whereCell(t, j, 1) {
		t.Errorf("both columns are on one worker: %v", j.Placement)
	}
	if from, at := c.wentOnFrom(), c.stoppedAfter(); len(from) != 1 || len(at) != 1 || from[0] != at[0] {
		t.Errorf("stopped after steps %v, went on from %v", at, from)
	}
	if got := c.ended("blobs"); got != want {
		t.Errorf("digest %s, undisturbed it is %s", got, want)
	}
	if n := len(c.generations()); n != 2 {
		t.Errorf("generations: %v", c.generations())
	}
}
