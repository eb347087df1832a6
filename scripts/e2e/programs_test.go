package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"colonnade/proto/clusterpb"
)

// limit bounds every wait of these tests. It is no performance claim: it only ends a test that hangs.
const limit = 3 * time.Minute

// device lets tests run without C++: CGO_ENABLED=0 go test ./scripts/e2e -device ref -run tiny
var device = flag.String("device", "cpu", "device that workers drive")

var coordinatorProgram, workerProgram string

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "colonnade-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-o", dir+"/", "colonnade/coordinator", "colonnade/worker")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	coordinatorProgram, workerProgram = filepath.Join(dir, "coordinator"), filepath.Join(dir, "worker")
	return m.Run()
}

// process is a running program whose output goes into a file.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
}

// launch starts a program that the test ends at the latest.
func launch(t testing.TB, log, program string, args ...string) *process {
	t.Helper()
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := &process{t: t, cmd: exec.Command(program, args...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in ProcessState
		close(p.done)
	}()
	t.Cleanup(p.kill)
	return p
}

// kill ends the process as a power cut would.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// output is what a finished command came to.
type output struct {
	code           int
	stdout, stderr string
}

// call runs a command to its end.
func call(t testing.TB, program string, args ...string) output {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%s %v: %v\n%s%s", filepath.Base(program), args, err, &stdout, &stderr)
	}
	return output{cmd.ProcessState.ExitCode(), stdout.String(), byName(stderr.String())}
}

// byName is what the coordinator prints, with its name where it says, as it was typed, how it was called.
func byName(text string) string {
	return strings.ReplaceAll(text, coordinatorProgram+" ", "coordinator ")
}

// must is call for commands that have to succeed; it returns what they print.
func must(t testing.TB, program string, args ...string) string {
	t.Helper()
	o := call(t, program, args...)
	if o.code != 0 {
		t.Fatalf("%s %s: exit status %d\n%s%s", filepath.Base(program), strings.Join(args, " "), o.code, o.stdout, o.stderr)
	}
	return o.stdout
}

// cluster is a coordinator and workers, as processes.
type cluster struct {
	t           testing.TB
	dir         string
	address     string
	carrier     string
	threads     int      // of each worker; 0: as it likes
	devices     []string // worker 1's and so on; more workers begin anew; none: as they like
	arenas      string   // directory of cells' states
	machines    []string // worker 1's and so on, each with memory of its own; none: all are on one
	coordinator *process
	// coordinatorFlags are given to the coordinator besides.
	coordinatorFlags []string
	workers          map[int]*process
	client           clusterpb.OperatorClient
}

// newCluster starts a coordinator and waits until it leads.
func newCluster(t testing.TB) *cluster {
	t.Helper()
	arenas, err := os.MkdirTemp("/dev/shm", "colonnade-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(arenas) })
	c := &cluster{t: t, dir: t.TempDir(), carrier: "auto", arenas: arenas, workers: map[int]*process{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.address = l.Addr().String() // kept over restarts, so that workers find it again
	l.Close()
	conn, err := grpc.NewClient(c.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c.client = clusterpb.NewOperatorClient(conn)
	t.Cleanup(c.showLogs)
	c.startCoordinator()
	return c
}

func (c *cluster) startCoordinator() {
	c.t.Helper()
	args := append([]string{"start", "--data", filepath.Join(c.dir, "coordinator"), "--listen", c.address, "--http",
		"none"}, c.coordinatorFlags...)
	c.coordinator = launch(c.t, filepath.Join(c.dir, "coordinator.log"), coordinatorProgram, args...)
	c.until("the coordinator leads", func(ctx context.Context) bool {
		s, err := c.client.Status(ctx, &clusterpb.StatusRequest{}, grpc.WaitForReady(true))
		return err == nil && s.Leader != "" && s.Cluster != ""
	})
}

// startWorker starts worker i, or starts it again in its old directory.
func (c *cluster) startWorker(i int) {
	c.t.Helper()
	args := []string{"run", "--coordinator", c.address, "--data", filepath.Join(c.dir, fmt.Sprintf("worker-%d", i)),
		"--name", fmt.Sprintf("worker-%d", i), "--carrier", c.carrier, "--arenas", c.memoryOf(i)}
	if len(c.machines) > 0 {
		args = append(args, "--host-id", c.machines[i-1])
	}
	if n := len(c.devices); n > 0 {
		args = append(args, "--device", c.devices[(i-1)%n])
	} else {
		args = append(args, "--device", *device)
	}
	if c.threads > 0 {
		args = append(args, "--threads", fmt.Sprint(c.threads))
	}
	c.workers[i] = launch(c.t, filepath.Join(c.dir, fmt.Sprintf("worker-%d.log", i)), workerProgram, args...)
}

// startWorkers starts workers 1 to n and waits until all have joined.
func (c *cluster) startWorkers(n int) {
	c.t.Helper()
	for i := range n {
		c.startWorker(i + 1)
	}
	c.connected(n)
}

// connected waits until n workers have joined.
func (c *cluster) connected(n int) {
	c.t.Helper()
	c.until("all workers are connected", func(ctx context.Context) bool {
		s, err := c.client.Status(ctx, &clusterpb.StatusRequest{})
		if err != nil {
			return false
		}
		connected := 0
		for _, w := range s.Workers {
			if w.State == "connected" {
				connected++
			}
		}
		return connected >= n
	})
}

// killAll ends every process at once.
func (c *cluster) killAll() {
	for _, p := range c.workers {
		p.cmd.Process.Kill()
	}
	c.coordinator.kill()
	for _, p := range c.workers {
		<-p.done
	}
}

// until polls a condition that has no stream to wait on.
func (c *cluster) until(what string, holds func(context.Context) bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			c.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// inTime makes a cluster on which disturb has done what it is to do before the job's end. Small networks are trained in
// a second, in which a busy machine may keep the test from running: then it is done again, on a cluster of its own.
func inTime(t testing.TB, disturb func(c *cluster) bool) *cluster {
	t.Helper()
	for range 10 {
		c := newCluster(t)
		if disturb(c) {
			return c
		}
		t.Log("the job ended before it could be disturbed; once more")
		c.killAll()
	}
	t.Fatal("the job always ended before it could be disturbed")
	return nil
}

// sees watches a job until when says so; it returns false where the job ends before.
func (c *cluster) sees(job string, when func(*clusterpb.Job) bool) bool {
	c.t.Helper()
	j := c.watch(job, func(j *clusterpb.Job) bool { return when(j) || j.State == "done" })
	return j.State != "done"
}

// watch follows a job until when says so, and returns what it saw last. A coordinator that goes away is waited for.
func (c *cluster) watch(job string, when func(*clusterpb.Job) bool) *clusterpb.Job {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var last *clusterpb.Job
	for ctx.Err() == nil {
		stream, err := c.client.WatchJob(ctx, &clusterpb.GetJobRequest{Name: job}, grpc.WaitForReady(true))
		for err == nil {
			var u *clusterpb.JobUpdate
			if u, err = stream.Recv(); err != nil {
				break
			}
			if last = u.Job; when(last) {
				return last
			}
			if last.State == "failed" || last.State == "paused" {
				c.t.Fatalf("job %s failed: %s", job, last.Reason)
			}
		}
	}
	c.t.Fatalf("watched job %s in vain; last seen: %v", job, last)
	return nil
}

// past says that a job has finished a step.
func past(step uint64) func(*clusterpb.Job) bool {
	return func(j *clusterpb.Job) bool { return j.Step >= step }
}

// ended waits for a job's end and returns its digest.
func (c *cluster) ended(job string) string {
	c.t.Helper()
	j := c.watch(job, func(j *clusterpb.Job) bool { return j.State == "done" })
	return fmt.Sprintf("%x", j.Digest)
}

// showLogs prints the processes' logs of a failed test.
func (c *cluster) showLogs() {
	if !c.t.Failed() {
		return
	}
	logs, _ := filepath.Glob(filepath.Join(c.dir, "*.log"))
	for _, path := range logs {
		b, _ := os.ReadFile(path)
		c.t.Logf("%s:\n%s", filepath.Base(path), b[max(0, len(b)-6000):])
	}
}
