package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"colonnade/proto/clusterpb"
)

// submit submits a job file under a name, with a seed of its own, and flags.
func (c *cluster) submit(file, name string, seed int, flags ...string) {
	c.t.Helper()
	must(c.t, coordinatorProgram, append([]string{"job", "submit", file, "--coordinator", c.address, "--set",
		"job=" + name, "--set", fmt.Sprintf("seed=%d", seed)}, flags...)...)
}

// priority gives a job one.
func (c *cluster) priority(name string, priority int) {
	c.t.Helper()
	must(c.t, coordinatorProgram, "job", "priority", "--coordinator", c.address, name, "--", fmt.Sprint(priority))
}

// runs waits until a job has a generation that has got further than it began, by a few steps. It returns false where
// the job ends before.
func (c *cluster) runs(name string, generation uint64) bool {
	c.t.Helper()
	began := uint64(0)
	return c.sees(name, func(j *clusterpb.Job) bool {
		if j.Generation != generation || j.State != "running" {
			return false
		}
		began = max(began, j.CommittedStep)
		return j.Step > began+3
	})
}

// TestQueue has three jobs share two workers: two at the usual priority, a worker each, and one that wants both and is
// raised above them, lowered below them, and raised again. Five times a job is preempted, one of them the high one;
// each time it goes on from the step it stopped after, and every digest is that of a run that nobody disturbs.
func TestQueue(t *testing.T) {
	file := memoryJob(t, "alexnet-32", 32, 300)
	seeds := map[string]int{"a": 1, "b": 2, "high": 3}
	alone := newCluster(t)
	alone.threads = 1
	alone.startWorkers(3)
	want := map[string]string{}
	for name, seed := range seeds {
		alone.submit(file, name, seed, "--max-workers", "1")
	}
	for name := range seeds {
		want[name] = alone.ended(name)
	}

	c := inTime(t, func(c *cluster) bool { return c.preempts(file, seeds) })
	for _, name := range []string{"high", "a", "b"} {
		if got := c.ended(name); got != want[name] {
			t.Errorf("job %s has digest %s, undisturbed it is %s", name, got, want[name])
		}
	}
	c.checkPreemptions(map[string]int{"a": 2, "b": 2, "high": 1})
}

// preempts has two jobs make way for a third, have its workers back, and make way again. It returns false where a job
// ends before.
func (c *cluster) preempts(file string, seeds map[string]int) bool {
	c.t.Helper()
	c.threads = 1
	c.startWorkers(2)
	c.submit(file, "a", seeds["a"], "--max-workers", "1")
	c.submit(file, "b", seeds["b"], "--max-workers", "1")
	c.submit(file, "high", seeds["high"], "--min-workers", "2", "--priority=-1")
	if !c.runs("a", 1) || !c.runs("b", 1) {
		return false
	}
	c.watch("high", func(j *clusterpb.Job) bool {
		return j.Place == 1 && j.Reason == "waits for 2 workers: of the pool of 2, jobs a and b hold 2"
	})
	c.priority("high", 5)
	if !c.runs("high", 1) {
		return false
	}
	if j := c.watch("high", past(0)); whereCell(c.t, j, 0) == whereCell(c.t, j, 1) {
		c.t.Errorf("the high job has to have both workers, and is on %v", j.Placement)
	}
	for i, name := range []string{"a", "b"} {
		j := c.watch(name, func(j *clusterpb.Job) bool { return j.Place == uint32(i+1) })
		if j.State != "queued" || !strings.Contains(j.Reason, "by job high (priority 5); waits for 1 worker") {
			c.t.Errorf("job %s is %s: %s", name, j.State, j.Reason)
		}
	}
	table := must(c.t, coordinatorProgram, "queue", "--coordinator", c.address)
	order := `(?s)-  +high +5 +running +2, least 2 .*1  +a +0 +queued +0 of 1 .*2  +b +0 `
	if !regexp.MustCompile(order).MatchString(table) {
		c.t.Errorf("the queue is:\n%s", table)
	}
	c.priority("high", -1) // both others are before it now
	if !c.runs("a", 2) || !c.runs("b", 2) {
		return false
	}
	c.priority("high", 5)
	queued := func(j *clusterpb.Job) bool { return j.State == "queued" }
	return c.sees("a", queued) && c.sees("b", queued)
}

// checkPreemptions wants jobs to have been preempted so often, and each time to have gone on from where it stopped.
func (c *cluster) checkPreemptions(want map[string]int) {
	c.t.Helper()
	stopped, from := map[string][]string{}, map[string][]string{}
	preempted := regexp.MustCompile(`^job (\w+) is preempted at step (\d+) by job \w+`)
	begun := regexp.MustCompile(`^job (\w+): generation \d+ from step (\d+) on`)
	for _, e := range c.status().Events {
		if m := preempted.FindStringSubmatch(e.Text); m != nil {
			stopped[m[1]] = append(stopped[m[1]], m[2])
		}
		if m := begun.FindStringSubmatch(e.Text); m != nil {
			from[m[1]] = append(from[m[1]], m[2])
		}
	}
	for name, n := range want {
		if len(stopped[name]) != n || !slices.Equal(stopped[name], from[name]) {
			c.t.Errorf("job %s is to be preempted %d times; it was after steps %v, and went on from %v", name, n, stopped[name],
				from[name])
		}
	}
}
