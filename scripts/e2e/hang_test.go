package e2e

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"colonnade/proto/clusterpb"
	processes "colonnade/scripts/cluster"
)

// named waits for an event of a worker that does not get on, behind an index of the log, and returns it.
func (c *cluster) named(after uint64, what string) *clusterpb.LogEvent {
	c.t.Helper()
	var found *clusterpb.LogEvent
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for found == nil {
		s, err := c.client.Status(ctx, &clusterpb.StatusRequest{})
		if err != nil {
			c.t.Fatal(err)
		}
		for _, e := range s.Events {
			if e.Index > after && e.Kind == "hang" && strings.Contains(e.Text, what) {
				found = e
				break
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			c.t.Fatalf("no event says %q", what)
		}
	}
	return found
}

// newest is the index of the newest event.
func (c *cluster) newest() uint64 {
	c.t.Helper()
	events := c.status().Events
	if len(events) == 0 {
		return 0
	}
	return events[len(events)-1].Index
}

// whole is what the event of a worker that hangs must name: worker, device, cell, phase, step, and who waits.
func whole(worker int, column int, kind string) *regexp.Regexp {
	return regexp.MustCompile(fmt.Sprintf(
		`^worker worker-%d \(%s\) %s: r0c%d .*of step \d+.* for [\d.]+ s.*; r0c%d waits for it`,
		worker, *device, kind, column, 1-column))
}

// TestStoppedWorkerIsNamed stops a worker (SIGSTOP) at any moment of a step: an event and the status name it with its
// device, cell, phase and step. It goes on before anybody gives it up, and so does the generation.
func TestStoppedWorkerIsNamed(t *testing.T) {
	c := newCluster(t)
	c.threads = 1
	c.startWorkers(2)
	must(t, coordinatorProgram, "job", "submit", memoryJob(t, "alexnet-32", 32, 100_000), "--coordinator", c.address)
	j := c.watch("blobs", past(3))
	for n := range 3 {
		column := int32(n % 2)
		i := whereCell(t, j, column)
		after := c.newest()
		c.workers[i].signal(syscall.SIGSTOP)
		e := c.named(after, "has stopped")
		status := must(t, coordinatorProgram, "status", "--coordinator", c.address)
		c.workers[i].signal(syscall.SIGCONT)
		t.Log(e.Text)
		if !whole(i, int(column), "has stopped").MatchString(e.Text) {
			t.Errorf("the event is: %s", e.Text)
		}
		if strings.Count(status, fmt.Sprintf("worker worker-%d (%s) has stopped: r0c%d", i, *device, column)) < 2 {
			t.Errorf("the status does not say so of the worker and of the job:\n%s", status)
		}
		j = c.watch("blobs", past(j.Step+3))
		c.named(after, "is heard of again")
	}
}

// TestStuckWorkerIsReplaced holds a thread of a worker in the middle of a product: the worker's heartbeats go on, and
// so do its links. It is named as stuck, with the phase and step it is really in; after the grace a spare has its cell,
// from memory, to the same end. When it comes out of it, what it was given is over, and it is a spare.
func TestStuckWorkerIsReplaced(t *testing.T) {
	job := memoryJob(t, "alexnet-32", 32, 250)
	clean := newCluster(t)
	clean.startWorkers(1)
	must(t, coordinatorProgram, "job", "submit", job, "--coordinator", clean.address)
	want := clean.ended("blobs")

	c := newCluster(t)
	c.threads = 1
	c.coordinatorFlags = []string{"--hang-grace", "1500ms"}
	c.coordinator.kill()
	c.startCoordinator()
	c.startWorkers(3)
	must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
	j := c.watch("blobs", past(20))
	i := whereCell(t, j, 1)
	after := c.newest()
	began := time.Now()
	release, err := processes.HoldComputing(c.workers[i].cmd.Process.Pid, workerProgram)
	if err != nil {
		t.Skipf("a thread cannot be stopped here: %v", err)
	}
	defer release()
	e := c.named(after, "is stuck")
	t.Logf("after %v: %s", time.Since(began), e.Text)
	if !whole(i, 1, "is stuck").MatchString(e.Text) || !strings.Contains(e.Text, "usually it takes") {
		t.Errorf("the event is: %s", e.Text)
	}
	j = c.watch("blobs", func(now *clusterpb.Job) bool { return now.Generation > j.Generation && now.State == "running" })
	if whereCell(t, j, 1) == i {
		t.Errorf("the cell is still on worker %d", i)
	}
	c.until("the worker is known to hang", func(context.Context) bool {
		w := c.workerNamed(i)
		return w.State == "connected" && strings.Contains(w.Note, "hangs in what it was given")
	})
	release()
	c.until("the worker is a spare", func(context.Context) bool {
		w := c.workerNamed(i)
		return w.State == "connected" && w.Note == "" && len(w.Cells) == 0
	})
	if got := c.ended("blobs"); got != want {
		t.Errorf("digest %s, undisturbed it is %s", got, want)
	}
	generations := c.generations()
	fromMemory(t, generations[len(generations)-1])
}

// workerNamed is what the coordinator says of worker i.
func (c *cluster) workerNamed(i int) *clusterpb.Worker {
	c.t.Helper()
	for _, w := range c.status().Workers {
		if w.Name == fmt.Sprintf("worker-%d", i) {
			return w
		}
	}
	c.t.Fatalf("there is no worker-%d", i)
	return nil
}

// TestStoppedWorkerComesBack stops a worker until a spare has its cell, and lets it go on: it is fenced off, changes
// nothing, and is a spare itself, which takes over when its successor is killed.
func TestStoppedWorkerComesBack(t *testing.T) {
	job := memoryJob(t, "tiny", 16, 2*tinySteps())
	want := undisturbed(t, job)
	c := newCluster(t)
	c.threads = 1
	c.startWorkers(3)
	must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
	i := whereCell(t, c.watch("blobs", past(20)), 1)
	c.workers[i].signal(syscall.SIGSTOP)
	j := c.watch("blobs", func(j *clusterpb.Job) bool { return j.Generation == 2 && j.State == "running" })
	c.workers[i].signal(syscall.SIGCONT)
	c.until("it is a spare", func(context.Context) bool {
		w := c.workerNamed(i)
		return w.State == "connected" && len(w.Cells) == 0 && w.Note == ""
	})
	if now := c.watch("blobs", past(j.Step+20)); now.Generation != 2 {
		t.Errorf("its coming back has begun generation %d", now.Generation)
	}
	c.workers[whereCell(t, j, 1)].kill()
	j = c.watch("blobs", func(j *clusterpb.Job) bool { return j.Generation == 3 && j.State == "running" })
	if on := whereCell(t, j, 1); on != i {
		t.Errorf("the cell is on worker %d, the spare is %d", on, i)
	}
	if got := c.ended("blobs"); got != want {
		t.Errorf("digest %s, undisturbed it is %s", got, want)
	}
}

// TestSlowWorkerIsNoHang takes the processor from a worker for most of the time (SIGSTOP and SIGCONT in turn): it is
// named as slow, never as stopped or stuck, and keeps its cell.
func TestSlowWorkerIsNoHang(t *testing.T) {
	c := newCluster(t)
	c.threads = 1
	c.startWorkers(2)
	must(t, coordinatorProgram, "job", "submit", memoryJob(t, "alexnet-32", 32, 100_000), "--coordinator", c.address)
	j := c.watch("blobs", past(20))
	i := whereCell(t, j, 1)
	after := c.newest()
	over, turns := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(turns)
		for {
			c.workers[i].cmd.Process.Signal(syscall.SIGSTOP)
			<-time.After(90 * time.Millisecond)
			c.workers[i].cmd.Process.Signal(syscall.SIGCONT)
			select {
			case <-over:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	e := c.named(after, "")
	close(over)
	<-turns
	if !strings.HasPrefix(e.Text, fmt.Sprintf("worker worker-%d (%s) is slow: r0c1 works on a step for ", i, *device)) {
		t.Errorf("the event is: %s", e.Text)
	}
	t.Log(e.Text)
	if now := c.watch("blobs", past(j.Step+1)); now.Generation != j.Generation {
		t.Errorf("generation %d, it was %d", now.Generation, j.Generation)
	}
}

// BenchmarkHang takes the time from SIGSTOP of a worker to the event that names it, as an operator sees it:
//
//	bench go test ./scripts/e2e -run '^$' -bench Hang -benchtime 20x
func BenchmarkHang(b *testing.B) {
	c := newCluster(b)
	c.threads = 1
	c.startWorkers(2)
	must(b, coordinatorProgram, "job", "submit", memoryJob(b, "alexnet-32", 32, 100_000), "--coordinator", c.address)
	j := c.watch("blobs", past(5))
	var took []time.Duration
	late := 0
	for n := range b.N {
		i := whereCell(b, j, int32(n%2))
		after := c.newest()
		began := time.Now()
		c.workers[i].signal(syscall.SIGSTOP)
		e := c.named(after, "has stopped")
		took = append(took, time.Since(began))
		if took[n] > 2*time.Second || !whole(i, n%2, "has stopped").MatchString(e.Text) {
			late++
			b.Logf("%v: %s", took[n], e.Text)
		}
		c.workers[i].signal(syscall.SIGCONT)
		j = c.watch("blobs", past(j.Step+2))
	}
	b.Logf("%v", took)
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds(), "s-median")
	b.ReportMetric(took[len(took)-1].Seconds(), "s-max")
	b.ReportMetric(float64(late), "late-or-incomplete")
}
