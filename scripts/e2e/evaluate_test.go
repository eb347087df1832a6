package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"colonnade/proto/clusterpb"
	programs "colonnade/scripts/cluster"
)

// testedJob writes a job of a few steps that is tested on many images. at is a directory.
func testedJob(t testing.TB, at, name string, seed, steps, images int) string {
	t.Helper()
	return write(t, filepath.Join(at, name+".yaml"), fmt.Appendf(nil, `
job: %s
network: tiny
columns: 2
seed: %d
data: {train: %s, test: %s}
recipe: {batch: 16, steps: %d, rate: 0.01}
checkpoint: {every: %d, keep: 2}
evaluate: {every: 0}
`, name, seed, idx(t, "train", 1000), idx(t, "test", images), steps, max(steps/2, 1)))
}

// evaluation is what `coordinator evaluate --json` prints, as far as this asks.
type evaluation struct {
	Images uint64
	Loss   float64
	Top1   float64 `json:"top1_error"`
	Digest string
	all    string
}

// evaluate runs `coordinator evaluate --json` to its end.
func (c *cluster) evaluate(args ...string) (e evaluation) {
	c.t.Helper()
	e.all = must(c.t, coordinatorProgram, append([]string{"evaluate", "--json", "--coordinator", c.address}, args...)...)
	if err := json.Unmarshal([]byte(e.all), &e); err != nil {
		c.t.Fatalf("%v in %s", err, e.all)
	}
	return e
}

// asked asks for an evaluation and returns its number.
func (c *cluster) asked(args ...string) uint64 {
	c.t.Helper()
	var e struct{ ID uint64 }
	out := must(c.t, coordinatorProgram, append([]string{"evaluate", "--json", "--wait=false", "--coordinator", c.address},
		args...)...)
	if err := json.Unmarshal([]byte(out), &e); err != nil || e.ID == 0 {
		c.t.Fatalf("%v in %s", err, out)
	}
	return e.ID
}

// caught asks for evaluations until one is seen as it should be, and returns its number: one that a fast machine,
// or one too busy to look, has done before is of no use.
func (c *cluster) caught(is func(*clusterpb.EvaluationStatus) bool, args ...string) uint64 {
	c.t.Helper()
	for range 20 {
		id := c.asked(args...)
		ended := func(e *clusterpb.EvaluationStatus) bool { return is(e) || e.State != "running" }
		if is(c.testing(id, "it is as it should be, or ended", ended)) {
			return id
		}
	}
	c.t.Fatal("every evaluation ended before it could be disturbed")
	return 0
}

// testing waits until an evaluation is as it should be, and returns it. One that ends before fails the test.
func (c *cluster) testing(id uint64, what string,
	is func(*clusterpb.EvaluationStatus) bool) *clusterpb.EvaluationStatus {
	c.t.Helper()
	var last *clusterpb.EvaluationStatus
	c.until(fmt.Sprintf("evaluation %d: %s", id, what), func(ctx context.Context) bool {
		r, err := c.client.EvaluateList(ctx, &clusterpb.EvaluateListRequest{})
		if err != nil {
			return false
		}
		for _, e := range r.Evaluations {
			if e.Id == id {
				last = e
			}
		}
		if last != nil && last.State != "running" && !is(last) {
			c.t.Fatalf("evaluation %d is %s before %s: %v", id, last.State, what, last)
		}
		return last != nil && is(last)
	})
	return last
}

// on says that a worker computes a part, and that some are done.
func on(worker string, done uint64) func(*clusterpb.EvaluationStatus) bool {
	return func(e *clusterpb.EvaluationStatus) bool {
		for _, p := range e.Places {
			if p.WorkerName == worker && p.Phase == "test" && e.Done >= done {
				return true
			}
		}
		return false
	}
}

// TestEvaluationOnAnyWorkers tests a job's checkpoint on one, two and three workers, with a worker killed, one stopped
// and the coordinator killed in the middle, and on this machine by itself: every figure is the same to the bit.
func TestEvaluationOnAnyWorkers(t *testing.T) {
	dir := t.TempDir()
	c := newCluster(t)
	c.threads = 1
	c.startWorkers(1)
	for i, name := range []string{"first", "second"} {
		must(t, coordinatorProgram, "job", "submit", testedJob(t, dir, name, i+1, 20, 2500), "--coordinator", c.address)
		c.ended(name)
	}
	want := c.evaluate("first", "--views", "10")
	if want.Images != 2500 || want.Loss <= 0 || want.Top1 >= 1 || len(want.Digest) != 64 {
		t.Fatalf("one worker: %s", want.all)
	}
	mean := c.evaluate("first", "second")
	if mean.Digest == c.evaluate("first").Digest || mean.Digest == c.evaluate("second").Digest {
		t.Error("the mean of two models is one of them")
	}
	same := func(how string, got, want evaluation) {
		t.Helper()
		if got.all != want.all {
			t.Errorf("%s:\n%s\non one worker:\n%s", how, got.all, want.all)
		}
	}
	local := c.evaluate("first", "--views", "10", "--local", "--program", workerProgram)
	if local.Digest != want.Digest {
		t.Errorf("on this machine by itself:\n%s\non one worker:\n%s", local.all, want.all)
	}
	for n := 2; n <= 3; n++ {
		c.startWorker(n)
		c.connected(n)
		same(fmt.Sprintf("%d workers", n), c.evaluate("first", "--views", "10"), want)
	}
	same("the mean of two, three workers", c.evaluate("first", "second"), mean)

	disturbed := func(worker string) uint64 {
		t.Helper()
		return c.caught(on(worker, 1), "first", "--views", "10")
	}
	id := disturbed("worker-2")
	c.workers[2].kill()
	same("a worker killed", c.evaluate("--show", fmt.Sprint(id)), want)

	id = disturbed("worker-3")
	c.workers[3].signal(syscall.SIGSTOP)
	same("a worker stopped", c.evaluate("--show", fmt.Sprint(id)), want)
	c.workers[3].signal(syscall.SIGCONT)

	id = disturbed("worker-1")
	c.coordinator.kill()
	c.startCoordinator()
	same("the coordinator killed", c.evaluate("--show", fmt.Sprint(id)), want)

	id = disturbed("worker-1")
	must(t, coordinatorProgram, "evaluate", "--cancel", fmt.Sprint(id), "--coordinator", c.address)
	if o := call(t, coordinatorProgram, "evaluate", "--show", fmt.Sprint(id), "--coordinator", c.address); o.code != 1 ||
		!strings.Contains(o.stderr, "is cancelled: an operator cancelled it") {
		t.Errorf("cancelled: %+v", o)
	}
	list := must(t, coordinatorProgram, "evaluate", "--list", "first", "--coordinator", c.address)
	if strings.Count(list, "\n") != 1+10 || !strings.Contains(list, "cancelled") ||
		!strings.Contains(list, "first step 20") {
		t.Errorf("the list:\n%s", list)
	}
}

// TestEvaluationThroughLeaders kills the leader of three coordinators in the middle of an evaluation, and again.
func TestEvaluationThroughLeaders(t *testing.T) {
	e := newEnsemble(t)
	e.threads = 1
	e.startWorkers(2)
	job := testedJob(t, t.TempDir(), "first", 1, 20, 2500)
	must(t, coordinatorProgram, "job", "submit", job, "--coordinator", e.address)
	e.ended("first")
	want := e.evaluate("first", "--views", "10")
	id := e.asked("first", "--views", "10")
	for done := uint64(1); done <= 3; done += 2 {
		e.testing(id, fmt.Sprintf("%d parts are done", done), func(s *clusterpb.EvaluationStatus) bool {
			return s.Done >= done
		})
		i := e.leader()
		e.nodes[i].kill()
		e.start(i)
	}
	if got := e.evaluate("--show", fmt.Sprint(id)); got.all != want.all {
		t.Errorf("two leaders killed:\n%s\nundisturbed:\n%s", got.all, want.all)
	}
}

// TestEvaluationBesideTraining: who trains is left alone unless that is asked for, and the digest of the training stays
// the same; packs that a worker lacks come from another one.
func TestEvaluationBesideTraining(t *testing.T) {
	dir := t.TempDir()
	short, long := testedJob(t, dir, "first", 1, 4, 1500), testedJob(t, dir, "blobs", 2, 3000, 1500)
	c := newCluster(t)
	c.threads = 1
	c.startWorkers(1)
	must(t, coordinatorProgram, "job", "submit", short, "--coordinator", c.address)
	c.ended("first")
	want := c.evaluate("first")
	must(t, coordinatorProgram, "job", "submit", long, "--coordinator", c.address)
	c.watch("blobs", past(10))
	id := c.asked("first")
	e := c.testing(id, "it says what it waits for", func(e *clusterpb.EvaluationStatus) bool { return e.Reason != "" })
	if !strings.Contains(e.Reason, "have cells of jobs") || len(e.Places) > 0 {
		t.Errorf("it waits: %v", e)
	}
	c.interrupted(id)
	if got := c.evaluate("first", "--busy"); got.all != want.all {
		t.Errorf("beside training:\n%s\nbefore:\n%s", got.all, want.all)
	}
	if j := c.watch("blobs", past(11)); j.Generation != 1 || j.State != "running" {
		t.Errorf("job %v", j)
	}
	own := filepath.Join(c.dir, "worker-1", "packs") // from here on worker 1 alone has the packs
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range packsOf(t, short) {
		if err := os.Rename(path, filepath.Join(own, filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
	}
	c.startWorker(2)
	c.testing(id, "worker 2 does it", func(e *clusterpb.EvaluationStatus) bool { return e.State == "done" })
	if got := c.evaluate("--show", fmt.Sprint(id)); got.Digest != want.Digest {
		t.Errorf("on a worker without packs:\n%s\nbefore:\n%s", got.all, want.all)
	}
}

// interrupted waits for an evaluation at the command line, and has the waiting end by Ctrl-C.
func (c *cluster) interrupted(id uint64) {
	c.t.Helper()
	log := filepath.Join(c.dir, "show.log")
	p := launch(c.t, log, coordinatorProgram, "evaluate", "--show", fmt.Sprint(id), "--coordinator", c.address)
	said := func(words string) func(context.Context) bool {
		return func(context.Context) bool {
			b, _ := os.ReadFile(log)
			return strings.Contains(string(b), words)
		}
	}
	c.until("the command says what is waited for", said("have cells of jobs"))
	p.signal(os.Interrupt)
	<-p.done
	if code := p.cmd.ProcessState.ExitCode(); code != 0 ||
		!said(fmt.Sprintf("evaluation %d goes on; see it: coordinator evaluate --show %d", id, id))(context.Background()) {
		c.t.Errorf("interrupted, it ends with status %d", code)
	}
}

// TestEvaluationRefusals: one line that says what to type next, and nothing is left of what was refused.
func TestEvaluationRefusals(t *testing.T) {
	dir := t.TempDir()
	c := newCluster(t)
	c.startWorkers(1)
	must(t, coordinatorProgram, "job", "submit", testedJob(t, dir, "first", 1, 4, 100), "--coordinator", c.address)
	c.ended("first")
	small := filepath.Join(dir, "small.pack")
	if err := programs.Blobs(dir, 50); err != nil {
		t.Fatal(err)
	}
	must(t, workerProgram, "data", "pack", "--from", dir, "--split", "train", "--size", "20", "--out", small)
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"job":      {[]string{"none"}, "there is no job none; see: coordinator job list"},
		"step":     {[]string{"first", "--step", "3"}, "see: coordinator checkpoint list first"},
		"pack":     {[]string{"first", "--data", filepath.Join(dir, "no.pack")}, "make one with: worker data pack"},
		"shape":    {[]string{"first", "--data", small}, "pack them the same way"},
		"no job":   {nil, "see: coordinator job list"},
		"views":    {[]string{"first", "--views", "5"}, "use 1, the centre, or 10"},
		"show":     {[]string{"--show", "99999"}, "see: coordinator evaluate --list"},
		"cancel":   {[]string{"--cancel", "99999"}, "see: coordinator evaluate --list"},
		"local":    {[]string{"first", "--device", "cpu"}, "add --local"},
		"list":     {[]string{"--list", "none"}, "see: coordinator job list"},
		"together": {[]string{"first", "--show", "1"}, "coordinator evaluate --list"},
	} {
		o := call(t, coordinatorProgram, append([]string{"evaluate", "--coordinator", c.address}, tt.args...)...)
		if o.code == 0 || !strings.Contains(o.stderr, tt.want) || strings.Count(o.stderr, "\n") != 1 {
			t.Errorf("%s: status %d, %q; want one line with %q", name, o.code, o.stderr, tt.want)
		}
	}
	if list := must(t, coordinatorProgram, "evaluate", "--list", "--coordinator", c.address); !strings.HasPrefix(list,
		"no evaluations") {
		t.Errorf("what was refused left something:\n%s", list)
	}
	c.workers[1].kill()
	id := c.asked("first")
	e := c.testing(id, "it says what it waits for", func(e *clusterpb.EvaluationStatus) bool { return e.Reason != "" })
	if !strings.Contains(e.Reason, "waits for a worker; start one with: worker run") {
		t.Errorf("without workers: %q", e.Reason)
	}
	c.startWorker(1)
	c.testing(id, "it is done", func(e *clusterpb.EvaluationStatus) bool { return e.State == "done" })
}
