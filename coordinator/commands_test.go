package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"colonnade/proto/clusterpb"
)

// object parses one JSON value and takes what a path of keys leads to.
func object(t *testing.T, text string, path ...any) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, text)
	}
	for _, p := range path {
		switch p := p.(type) {
		case string:
			v = v.(map[string]any)[p]
		case int:
			v = v.([]any)[p]
		}
	}
	return v
}

// says wants text to match a pattern.
func says(t *testing.T, text, pattern string) {
	t.Helper()
	if !regexp.MustCompile(`(?s)^` + pattern + `$`).MatchString(text) {
		t.Errorf("printed\n%s\nwant\n%s", text, pattern)
	}
}

// like wants text to match a pattern, and no line of it to be wider than a terminal.
func like(t *testing.T, text, pattern string) {
	t.Helper()
	says(t, text, pattern)
	for line := range strings.Lines(text) {
		if n := len([]rune(line)); n > 81 && !strings.Contains(line, "digest") && !strings.Contains(line, os.TempDir()) &&
			!strings.Contains(line, ": coordinator ") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

const digest = `[0-9a-f]{64}`

func TestCommandsOfAJobsLife(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c := startCluster(t)
	like(t, succeeds(t, "status"),
		`cluster-\w+, node \w+, leader \w+\n\nWORKER.*none; start one with: worker run .*none; submit one .*`)
	like(t, succeeds(t, "job", "list"), `no jobs; submit one with: coordinator job submit JOB.yaml\n`)
	file := writeJob(t, dir, "job.yaml")
	like(t, succeeds(t, "job", "submit", file), `submitted j, 20 steps; follow it with: coordinator job watch j\n`)
	like(t, succeeds(t, "job", "submit", "--resume", file), `submitted j, 20 steps; follow it .*\n`) // it may be new
	like(t, succeeds(t, "checkpoint", "list", "j"), `no checkpoints of j yet; see: coordinator job show j\n`)
	like(t, succeeds(t, "job", "stop", "j"),
		`j is stopped and has no checkpoint; start it again with: coordinator job resume j\n`)
	like(t, succeeds(t, "job", "resume", "j"), `j is queued, step 0 of 20; follow it with: coordinator job watch j\n`)
	c.attach("train", "a")
	c.attach("train", "b")
	stopWhenHalf(t, c)
	like(t, succeeds(t, "job", "watch", "j"),
		`.*job j submitted, 20 steps\n.*generation 1 from the start on \d workers\n.*`+
			`epoch 1/2  loss 0.2500  test loss 0.5000  test error 25.00 %  top-5 0.00 %\n.*`+
			`stopped after step 10 of 20; go on with: coordinator job resume j\n`)
	like(t, succeeds(t, "job", "stop", "j"),
		`j is stopped, its newest checkpoint is of step 10; go on with: coordinator job resume j\n`)
	like(t, succeeds(t, "checkpoint", "list", "j"), `STEP +COMMITTED +FILES +BYTES +DIGEST +STATE\n10 .* 2 .* good\n`)
	like(t, succeeds(t, "checkpoint", "digest", "j"), `digest `+digest+`  step 10\n`)
	like(t, succeeds(t, "checkpoint", "verify", "j"), `STEP +CELL +RESULT +FILE\n10 +r0c0 +ok .*10 +r0c1 +ok [^\n]*\n`)
	like(t, succeeds(t, "job", "show", "j"),
		`j: stopped, step 10 of 20, generation 1\n.*newest checkpoint: step 10\n  numerics: fake\n.*EPOCH.*\n1 .*`)

	t.Run("evaluate", evaluatesJ)
	c.attach("finish", "a") // in place of the others
	c.attach("finish", "b")
	succeeds(t, "job", "resume", "j", "--step", "0")
	like(t, succeeds(t, "job", "watch", "j"), `.*epoch 2/2 .*is done, digest `+digest+`\ntest error 25.00 %\ndigest `+
		digest+`\n`)
	like(t, succeeds(t, "job", "stop", "j"), `j is done already; see: coordinator job show j\n`)
	like(t, succeeds(t, "job", "submit", "--resume", file), `test error 25.00 %\ndigest `+digest+`\n`)
	like(t, succeeds(t, "job", "list"), `JOB +STATE.*\nj +done +0 +20/20 +20 .*\n`)
	like(t, succeeds(t, "status"), `.*connected +spare +3 +no device\n.*JOB.*\nj +done .*last events\n.*`)

	t.Run("json", func(t *testing.T) { printsJSON(t, file) })
	t.Run("damage", findsDamage)
}

// printsJSON wants every command's facts of job "j", which is done, as JSON.
func printsJSON(t *testing.T, file string) {
	const name = "j"
	for args, path := range map[string][]any{
		"job show j": {"name"}, "job list": {"jobs", 0, "name"}, "status": {"jobs", 0, "name"}, "job stop j": {"name"},
		"checkpoint list j": {"checkpoints", 0, "job"}, "checkpoint digest j": {"job"}, "job submit --resume " +
			file: {"name"},
	} {
		if got := object(t, succeeds(t, append(strings.Fields(args), "--json")...), path...); got != name {
			t.Errorf("%s: %v at %v", args, got, path)
		}
	}
	if got := object(t, succeeds(t, "plan", "tiny", "--json")); got == nil {
		t.Error("plan is nothing")
	}
	all := object(t, succeeds(t, "checkpoint", "verify", "j", "--json")).([]any)
	if len(all) != 4 || all[3].(map[string]any)["step"] != 20.0 || all[3].(map[string]any)["error"] != nil {
		t.Errorf("verified %v", all)
	}
	lines := strings.Split(strings.TrimSpace(succeeds(t, "job", "watch", "j", "--json")), "\n")
	last := lines[len(lines)-1]
	if object(t, last, "job", "state") != "done" || len(object(t, last, "job", "digest").(string)) != 64 {
		t.Errorf("watched %s", last)
	}
	shown := object(t, succeeds(t, "job", "show", "j", "--json")).(map[string]any)
	if shown["step"] != 20.0 || !strings.Contains(shown["spec"].(string), "\njob: j\n") {
		t.Errorf("shown %v", shown)
	}
}

// findsDamage damages a checkpoint file of job "j" and wants it found.
func findsDamage(t *testing.T) {
	var path string
	for _, v := range object(t, succeeds(t, "checkpoint", "verify", "j", "--json")).([]any) {
		path = v.(map[string]any)["path"].(string)
	}
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	for _, flags := range [][]string{nil, {"--json"}, {"--step", "20"}} {
		r := command(append([]string{"checkpoint", "verify", "j"}, flags...)...)
		if r.status != exitFailure || !strings.Contains(r.out, filepath.Base(path)) {
			t.Errorf("status %d\n%s", r.status, r.out)
		}
		like(t, r.err, `coordinator: 1 of [24] files cannot be used; put them back, or .*\n`)
	}
	if r := command("checkpoint", "verify", "j", "--step", "10"); r.status != 0 {
		t.Errorf("the sound step: %s", r.err)
	}
}

// stopWhenHalf asks for job "j" to be stopped once both its cells have got half-way.
func stopWhenHalf(t *testing.T, c *cluster) {
	t.Helper()
	for changed := c.node.control.Changed(); ; changed = c.node.control.Changed() {
		if j, err := c.node.control.Job(c.ctx, "j"); err != nil || j.CommittedStep == testSteps/2 {
			break
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			t.Fatal("the job does not get half-way")
		}
	}
	like(t, succeeds(t, "job", "stop", "j"),
		`j stops after this step and a checkpoint; follow it with: coordinator job watch j\n|`+
			`j is stopped, .*\n`)
}

func TestJobThatFailed(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c := startCluster(t)
	succeeds(t, "job", "submit", writeJob(t, dir, "job.yaml"))
	c.attach("fail", "a")
	for _, flags := range [][]string{nil, {"--json"}} {
		r := command(append([]string{"job", "watch", "j"}, flags...)...)
		if r.status != exitFailure {
			t.Errorf("status %d", r.status)
		}
		like(t, r.err, `coordinator: job failed: j: wrong pack: /x.pack has identity ab,; the job was submitted with cd; `+
			`when that is mended: coordinator job resume j\n`)
	}
	like(t, succeeds(t, "job", "stop", "j"), `j is failed already; see: coordinator job show j\n`)
}

// A coordinator that has just started is waited for, and a watch outlives one.
func TestCommandsWaitForTheLeader(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	c := serveCluster(t, state, l)
	t.Setenv("COLONNADE_COORDINATOR", c.address)
	succeeds(t, "job", "submit", writeJob(t, dir, "job.yaml")) // it need not lead yet

	var out, errs lockedBuffer
	watched := make(chan int, 1)
	go func() {
		watched <- run([]string{"job", "watch", "j", "--timeout", limit.String()}, console{out: &out, err: &errs,
			now: time.Now})
	}()
	until(t, "the watch has begun", func() bool { return strings.Contains(out.String(), "waits for a worker") })
	c.stop()
	until(t, "the watcher notices", func() bool { return strings.Contains(errs.String(), "the coordinator is away") })
	if l, err = net.Listen("tcp", c.address); err != nil {
		t.Fatal(err)
	}
	c = serveCluster(t, state, l)
	if err := c.node.control.Ready(c.ctx); err != nil {
		t.Fatal(err)
	}
	c.attach("finish", "a")
	if status := <-watched; status != 0 || !strings.Contains(out.String(), "\ndigest ") {
		t.Errorf("watch ends with status %d\n%s%s", status, out.String(), errs.String())
	}
	if n := strings.Count(out.String(), "job j submitted"); n != 1 {
		t.Errorf("an event is told %d times", n)
	}
}

// until polls what has nothing to wait on.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(limit)
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestHelp(t *testing.T) {
	t.Setenv("COLUMNS", "80")
	for _, args := range []string{"", "dev", "start", "status", "plan", "job", "job submit", "job list", "job show",
		"job watch",
		"job stop", "job resume", "checkpoint", "checkpoint list", "checkpoint verify", "checkpoint digest"} {
		r := command(append(strings.Fields(args), "--help")...)
		if r.status != 0 || r.err != "" || !strings.HasPrefix(r.out, "Usage: coordinator") {
			t.Errorf("%s: status %d\n%s%s", args, r.status, r.out, r.err)
		}
		facts := args != "" && args != "job" && args != "checkpoint" && args != "start"
		if facts != strings.Contains(r.out, "--json") {
			t.Errorf("coordinator %s has --json: %v", args, !facts)
		}
		for line := range strings.Lines(r.out) {
			if len([]rune(line)) > 81 {
				t.Errorf("%s: %d columns: %s", args, len(line)-1, line)
			}
		}
	}
}

func TestPlanIsDrawn(t *testing.T) {
	if out := succeeds(t, "plan", "tiny"); !strings.Contains(out, "conv1") {
		t.Errorf("drawn\n%s", out)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	// A network of one's own by its path.
	if out := succeeds(t, "plan", "tiny", "-k", "1", "--channels", "3", "--classes", "4", "--json"); object(t,
		out) == nil {
		t.Error("no plan")
	}
	// A job by its file, with packs that are not there.
	text := "job: x\nnetwork: tiny\ndata: {train: a, test: b}\n" +
		"recipe: {preset: paper, layers: [{layer: fc4, freeze: 2}]}\n"
	if err := os.WriteFile("x.yaml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	out := succeeds(t, "plan", "x.yaml", "--images", "1280")
	for _, want := range []string{"conv1", "preset paper", "900 steps, 10 to an epoch", "0.01, from epoch 2 frozen"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// script is a stream of updates.
type script struct {
	updates []*clusterpb.JobUpdate
	end     error
	before  func(i int) // called before each update
}

func (s *script) Recv() (*clusterpb.JobUpdate, error) {
	if len(s.updates) == 0 {
		return nil, s.end
	}
	u := s.updates[0]
	s.updates = s.updates[1:]
	if s.before != nil {
		s.before(len(s.updates))
	}
	return u, nil
}

// story is a job's life in updates.
func story() []*clusterpb.JobUpdate {
	update := func(state, reason string, step uint64, speed float64, evaluations int,
		events ...*clusterpb.LogEvent) *clusterpb.JobUpdate {
		j := &clusterpb.Job{Name: "j", State: state, Reason: reason, Step: step, Steps: 100, Epochs: 4, Batch: 50,
			Loss:            0.5,
			ImagesPerSecond: speed, CommittedStep: step, Digest: []byte{1, 2}}
		for i := range evaluations {
			j.Evaluations = append(j.Evaluations, &clusterpb.Evaluation{Epoch: uint64(i + 1), Images: 8, Top1Errors: 1})
		}
		return &clusterpb.JobUpdate{Job: j, Events: events}
	}
	event := func(index uint64, kind string) *clusterpb.LogEvent {
		return &clusterpb.LogEvent{Index: index, Kind: kind, Text: fmt.Sprintf("event %d", index)}
	}
	return []*clusterpb.JobUpdate{
		update("queued", "submitted", 0, 0, 0, event(1, "job")),
		update("queued", "waits for a worker", 0, 0, 0),
		update("queued", "waits for a worker", 0, 0, 0),
		update("running", "2 cells on 2 workers", 0, 0, 0, event(2, "generation")),
		update("running", "2 cells on 2 workers", 10, 1000, 0),
		update("running", "2 cells on 2 workers", 20, 1000, 0),
		update("running", "2 cells on 2 workers", 40, 500, 2, event(3, "evaluation"), event(4, "checkpoint"), event(5,
			"worker"),
			event(6, "evaluation")),
		update("recovering", "lost; waits", 40, 500, 2),
		update("running", "2 cells on 1 workers", 90, 500, 2),
		update("done", "all steps are done", 100, 500, 3, event(7, "evaluation"), event(8, "job")),
	}
}

func TestPlainProgress(t *testing.T) {
	var out lockedBuffer
	now := time.Unix(0, 0)
	v := &view{con: console{out: &out, err: &out, now: func() time.Time { return now }}}
	s := &script{updates: story(), before: func(int) { now = now.Add(6 * time.Second) }}
	last, err := v.follow(s)
	if err != nil || last.State != "done" {
		t.Fatalf("%v: %v", last, err)
	}
	const clock = `\d\d:\d\d:\d\d  `
	like(t, out.String(), clock+"event 1\nqueued: waits for a worker\n"+clock+"event 2\n"+
		"step 10/100  loss 0.5000  1000 images/s  4s left\n"+ // the next one comes too soon
		"epoch 1/4 [^\n]*\n"+clock+"event 5\nepoch 2/4 [^\n]*\nstep 40/100  loss 0.5000  500 images/s  6s left\n"+
		"recovering: lost; waits\nstep 90/100  loss 0.5000  500 images/s  1s left\nepoch 3/4 [^\n]*\n"+clock+"event 8\n")
}

// A watch that begins late or again shows what was before once, evaluations whose events are gone too.
func TestProgressShowsThingsOnce(t *testing.T) {
	var out lockedBuffer
	v := &view{con: console{out: &out, err: &out, now: time.Now}}
	all := story()
	for range 2 {
		if _, err := v.follow(&script{updates: all[6:7], end: errNoEnd}); err == nil {
			t.Fatal("no end is an end")
		}
	}
	late := story()[9]
	if _, err := v.follow(&script{updates: []*clusterpb.JobUpdate{late}}); err != nil {
		t.Fatal(err)
	}
	for _, once := range []string{"epoch 1/4", "epoch 2/4", "epoch 3/4", "event 5", "event 8"} {
		if n := strings.Count(out.String(), once); n != 1 {
			t.Errorf("%q is printed %d times\n%s", once, n, out.String())
		}
	}
}

func TestBar(t *testing.T) {
	var out lockedBuffer
	v := &view{con: console{out: &out, err: &out, terminal: true, now: time.Now}}
	s := &script{updates: story(), before: func(left int) {
		if left == 2 {
			v.note("a note from elsewhere")
		}
	}}
	if _, err := v.follow(s); err != nil {
		t.Fatal(err)
	}
	screen := show(out.String())
	like(t, screen, `.*queued: waits for a worker\n.*epoch 1/4 .*a note from elsewhere\n.*event 8\n`)
	if strings.Contains(screen, "|") {
		t.Errorf("the bar is left on the screen:\n%s", screen)
	}
	drawn := out.String()
	for _, want := range []string{"queued  step 0/100", "step 40/100  loss 0.5000  500 images/s  6s left", "40% |",
		"recovering  step 40/100"} {
		if !strings.Contains(drawn, want) {
			t.Errorf("the bar never showed %q", want)
		}
	}
	for _, part := range strings.FieldsFunc(drawn, func(r rune) bool { return r == '\r' || r == '\n' }) {
		if n := len([]rune(strings.NewReplacer("\x1b[0K", "", "\x1b[2K", "").Replace(part))); n > 80 {
			t.Errorf("%d columns: %q", n, part)
		}
	}
}

// show is what a terminal shows of what was written to it: returns and erased lines done.
func show(text string) string {
	var screen strings.Builder
	var line []rune
	at := 0
	for rest := text; rest != ""; {
		switch {
		case strings.HasPrefix(rest, "\x1b[2K"):
			line, rest = nil, rest[4:]
			continue
		case strings.HasPrefix(rest, "\x1b[0K"):
			line, rest = line[:min(at, len(line))], rest[4:]
			continue
		}
		r := []rune(rest)[0]
		rest = rest[len(string(r)):]
		switch r {
		case '\n':
			screen.WriteString(string(line) + "\n")
			line, at = nil, 0
		case '\r':
			at = 0
		default:
			for len(line) <= at {
				line = append(line, ' ')
			}
			line[at] = r
			at++
		}
	}
	return screen.String() + string(line)
}

// devRun is a `coordinator dev` in this process whose workers are this test program.
type devRun struct {
	out, err   lockedBuffer
	interrupts chan os.Signal
	ended      chan error
}

func startDev(t *testing.T, play string, args ...string) *devRun {
	t.Helper()
	t.Setenv(asWorker, play)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r := &devRun{interrupts: make(chan os.Signal, 2), ended: make(chan error, 1)}
	c := devCmd{HTTP: noAddress, File: args[0], Workers: 2, Threads: defaultThreads(), Device: "cpu", Data: "data",
		Carrier: "auto",
		Program: self}
	for _, a := range args[1:] {
		switch a {
		case "--resume":
			c.Resume = true
		case "--json":
			c.JSON = true
		}
	}
	con := console{out: &r.out, err: &r.err, now: time.Now}
	j, err := readJob(c.File)
	if err != nil {
		t.Fatal(err)
	}
	d := &dev{devCmd: c, con: con, view: &view{con: con, json: c.JSON}, job: j, workers: self}
	go func() { r.ended <- d.run(r.interrupts) }()
	t.Cleanup(sync.OnceFunc(func() {
		for range 2 {
			select {
			case r.interrupts <- os.Interrupt:
			default:
			}
		}
	}))
	return r
}

func (r *devRun) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(limit):
		t.Fatalf("dev does not end:\n%s%s", r.out.String(), r.err.String())
		return nil
	}
}

// TestDevSharesOutThreads: all are used, none twice, and no worker is without.
func TestDevSharesOutThreads(t *testing.T) {
	for _, c := range []struct{ threads, workers, first, last int }{{2, 2, 1, 1}, {4, 2, 2, 2}, {3, 2, 1, 2},
		{8, 1, 8, 8}, {1, 3, 1, 1}} {
		d := dev{devCmd: devCmd{Threads: c.threads, Workers: c.workers}}
		for number, want := range map[int]int{1: c.first, c.workers: c.last} {
			args := d.workerArgs(number, "there")
			i := slices.Index(args, "--threads")
			if got := args[i+1]; got != strconv.Itoa(want) {
				t.Errorf("%d threads: worker %d of %d gets %s, want %d", c.threads, number, c.workers, got, want)
			}
		}
	}
	d := dev{devCmd: devCmd{Threads: defaultThreads(), Workers: defaultWorkers, Data: "d", File: "j.yaml"}}
	if got, want := d.again(), "coordinator dev --resume --data d j.yaml"; got != want {
		t.Errorf("again: %s, want %s", got, want)
	}
	d.Threads, d.Workers = 77, 5
	if got, want := d.again(), "coordinator dev --resume --data d --workers 5 --threads 77 j.yaml"; got != want {
		t.Errorf("again: %s, want %s", got, want)
	}
}

func TestDev(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	file := writeJob(t, dir, "job.yaml")
	r := startDev(t, "finish", file)
	if err := r.end(t); err != nil {
		t.Fatal(err)
	}
	like(t, r.out.String(),
		`.*job j submitted, 20 steps\n.*generation 1 from the start on 2 workers\n.*epoch 1/2 .*epoch 2/2 .*`+
			`job j is done, digest `+digest+`\ntest error 25.00 %\ndigest `+digest+`\n`)
	like(t, r.err.String(), `.*: coordinator checkpoint export j --dir data/checkpoints\n`+
		`.*: coordinator start --data data\n`)
	if err := startDev(t, "finish", file).end(t); err == nil || !strings.Contains(err.Error(),
		"job j is in data already (done, step 20 of 20); go on with it by adding --resume, or choose another --data") {
		t.Errorf("again: %v", err)
	}
	again := startDev(t, "finish", file, "--resume", "--json")
	if err := again.end(t); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(again.out.String()), "\n")
	if got := object(t, lines[len(lines)-1], "job", "digest"); !strings.HasSuffix(r.out.String(), got.(string)+"\n") {
		t.Errorf("the last line of JSON has digest %v", got)
	}
}

func TestDevInterrupted(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	file := writeJob(t, dir, "job.yaml")
	r := startDev(t, "train", file)
	until(t, "the job is half-way", func() bool { return strings.Contains(r.out.String(), "epoch 1/2") })
	r.interrupts <- os.Interrupt
	err := r.end(t)
	if err == nil || !strings.Contains(err.Error(),
		"stopped after step 10 of 20; go on with: coordinator dev --resume --data data "+file) {
		t.Errorf("ends with %v", err)
	}
	like(t, r.err.String(), `stopping after this step and a checkpoint; interrupt again to stop at once\n`)

	// Workers that do not stop at a boundary are not waited for at the second interrupt.
	r = startDev(t, "stubborn", file, "--resume")
	until(t, "the job goes on", func() bool { return strings.Contains(r.out.String(), "generation 2") })
	r.interrupts <- os.Interrupt
	until(t, "the interrupt is noticed", func() bool { return strings.Contains(r.err.String(), "interrupt again") })
	r.interrupts <- os.Interrupt
	if err := r.end(t); err == nil || !strings.Contains(err.Error(),
		"stopped at once; go on from the newest checkpoint with: coordinator dev --resume") {
		t.Errorf("ends with %v", err)
	}

	r = startDev(t, "finish", file, "--resume")
	if err := r.end(t); err != nil || !strings.Contains(r.out.String(), "from step 10 on") {
		t.Errorf("the end: %v\n%s", err, r.out.String())
	}
}

func TestDevInterruptedBeforeTheJob(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	r := startDev(t, "absent", writeJob(t, dir, "job.yaml")) // workers that never join
	until(t, "the workers are started", func() bool {
		_, err := os.Stat("data/logs/worker-2.log")
		return err == nil
	})
	r.interrupts <- os.Interrupt
	if err := r.end(t); err == nil || !strings.Contains(err.Error(),
		"stopped before the job began; start again with: coordinator dev") {
		t.Errorf("ends with %v", err)
	}
}

func TestDevWhoseWorkersCannotRun(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.MkdirAll("data/logs", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("data/logs/worker-1.log", []byte("an older run's last words\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := startDev(t, "die", writeJob(t, dir, "job.yaml")).end(t)
	if err == nil ||
		!regexp.MustCompile(`^worker \d ended: exit status 1: no device at all; see: worker devices; `+
			`see data/logs/worker-\d.log$`).
			MatchString(err.Error()) {
		t.Errorf("ends with %v", err)
	}
}

func TestDevWhoseJobFails(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	file := writeJob(t, dir, "job.yaml")
	err := startDev(t, "fail", file).end(t)
	if err == nil || !strings.Contains(err.Error(), "job failed: j: wrong pack: /x.pack") ||
		strings.Contains(err.Error(), "\n") ||
		!strings.HasSuffix(err.Error(), "when that is mended: coordinator dev --resume --data data "+file) {
		t.Errorf("ends with %v", err)
	}
}

// TestShowJobNamesCarriers shows a job one of whose cells has not spoken yet.
func TestShowJobNamesCarriers(t *testing.T) {
	second := &clusterpb.Cell{Column: 1}
	j := &clusterpb.Job{Name: "j", State: "running", Placement: []*clusterpb.Placement{
		{Cell: &clusterpb.Cell{}, WorkerName: "a"}, {Cell: second, WorkerName: "b"}},
		Cells: []*clusterpb.CellStatus{{Cell: second, Step: 20, Phase: "conv1", ImagesPerSecond: 100, Carrier: "shm"}}}
	var out bytes.Buffer
	if err := showJob(&out, j); err != nil {
		t.Fatal(err)
	}
	like(t, out.String(), `.*CELL +WORKER +STEP +PHASE +IMAGES/S +CARRIER\n`+
		`r0c0 +a +0 +0 +-\nr0c1 +b +20 +conv1 +100 +shm\n`)
}
