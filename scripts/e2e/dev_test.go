package e2e

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"colonnade/proto/clusterpb"
)

// finalDigest is the digest that a command's output ends with.
func finalDigest(t testing.TB, output string) string {
	t.Helper()
	m := regexp.MustCompile(`\ntest error \d+\.\d\d %\ndigest ([0-9a-f]{64})\n$`).FindStringSubmatch(output)
	if m == nil {
		t.Fatalf("the output does not end with a test error and a digest:\n%s", output)
	}
	return m[1]
}

// TestDevInterrupted interrupts `coordinator dev` once, then twice, and goes on each time: the end is the same.
func TestDevInterrupted(t *testing.T) {
	const steps = 500 // seconds are left behind each interrupt, on the fastest machine too
	job := jobFile(t, idx(t, "train", 1000), idx(t, "test", 200), steps)
	want := finalDigest(t, must(t, coordinatorProgram, "dev", "--workers", "1", "--data", t.TempDir(), job))

	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	for i, signals := range []int{1, 2} {
		log := filepath.Join(dir, []string{"once.log", "twice.log"}[i])
		args := []string{"dev", "--data", data, job}
		if i > 0 {
			args = append(args, "--resume")
		}
		p := launch(t, log, coordinatorProgram, args...)
		waitFor(t, p, "steps are done", "images/s")
		for n := range signals {
			if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if n == 0 && signals > 1 {
				waitFor(t, p, "the first interrupt is noticed", "interrupt again")
			}
		}
		<-p.done
		if code := p.cmd.ProcessState.ExitCode(); code != 1 {
			t.Errorf("exit status %d\n%s", code, read(t, log))
		}
		lines := strings.Split(strings.TrimSpace(string(read(t, log))), "\n")
		if last := lines[len(lines)-1]; !strings.HasPrefix(last, "coordinator: stopped ") ||
			!strings.Contains(last, "coordinator dev --resume --data "+data+" "+job) {
			t.Errorf("the last line is: %s", last)
		}
	}
	if got := finalDigest(t, must(t, coordinatorProgram, "dev", "--data", data, "--resume", job)); got != want {
		t.Errorf("digest %s, uninterrupted it is %s", got, want)
	}
}

// waitFor waits until a process has printed a text.
func waitFor(t testing.TB, p *process, what, text string) {
	t.Helper()
	(&cluster{t: t}).until(what, func(context.Context) bool {
		select {
		case <-p.done:
			t.Fatalf("it ended before %s:\n%s", what, read(t, p.log))
		default:
		}
		return strings.Contains(string(read(t, p.log)), text)
	})
}

// TestWrongInputs gives both programs what only whole programs can be given.
func TestWrongInputs(t *testing.T) {
	c := newCluster(t)
	oneLine := func(o output, want ...string) {
		t.Helper()
		if o.code != 1 || o.stdout != "" {
			t.Errorf("exit status %d, standard output %q", o.code, o.stdout)
		}
		lines := strings.Split(strings.TrimSpace(o.stderr), "\n")
		last := lines[len(lines)-1]
		for _, w := range want {
			if !strings.Contains(last, w) {
				t.Errorf("the line lacks %q: %s", w, last)
			}
		}
	}
	oneLine(call(t, workerProgram, "run", "--coordinator", "127.0.0.1:1", "--data", t.TempDir(), "--wait", "1s"),
		"no coordinator answers", "; start one with: coordinator start")
	oneLine(call(t, coordinatorProgram, "start", "--listen", c.address, "--data", t.TempDir()),
		"the port is in use; stop what uses it")
	oneLine(call(t, coordinatorProgram, "start", "--listen", "127.0.0.1:0", "--http", "none", "--data",
		filepath.Join(c.dir, "coordinator")), "data directory is in use", "; stop it or choose another --data")

	// The pack is replaced by another one after the job was submitted.
	train, test := idx(t, "train", 1000), idx(t, "test", 200)
	must(t, coordinatorProgram, "job", "submit", jobFile(t, train, test, jobSteps), "--coordinator", c.address)
	write(t, train, read(t, test))
	c.startWorkers(1)
	watched := call(t, coordinatorProgram, "job", "watch", "blobs", "--coordinator", c.address)
	if last := strings.TrimSpace(watched.stderr); watched.code != 1 || strings.Contains(last, "\n") ||
		!strings.Contains(last, "wrong pack: "+train) ||
		!strings.Contains(last, "; when that is mended: coordinator job resume blobs") {
		t.Errorf("exit status %d\n%s%s", watched.code, watched.stdout, watched.stderr)
	}
	write(t, train, read(t, idx(t, "train", 1000))) // the same images again: the same pack
	must(t, coordinatorProgram, "job", "resume", "blobs", "--coordinator", c.address)
	c.watch("blobs", func(j *clusterpb.Job) bool { return j.State == "done" })
}
