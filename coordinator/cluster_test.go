package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"colonnade/checkpoint"
	"colonnade/coordinator/control"
	"colonnade/proto/clusterpb"
	"colonnade/shard/job"
	"colonnade/shard/pack"
)

// limit ends a test that hangs.
const limit = 5 * time.Minute

// asWorker is the environment variable by which this test program plays a worker, in the way it names.
const asWorker = "COLONNADE_TEST_WORKER"

func TestMain(m *testing.M) {
	if play := os.Getenv(asWorker); play != "" {
		os.Exit(workerProgram(play, os.Args[1:]))
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("os/signal.loop"))
}

// lockedBuffer is a buffer that commands may write while a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// result is what a command came to.
type result struct {
	status   int
	out, err string
}

// command runs a command in this process.
func command(args ...string) result {
	var out, err lockedBuffer
	status := run(args, console{out: &out, err: &err, now: time.Now})
	return result{status, out.String(), err.String()}
}

// succeeds is command for what has to succeed; it returns what it prints.
func succeeds(t *testing.T, args ...string) string {
	t.Helper()
	r := command(args...)
	if r.status != 0 || r.err != "" {
		t.Fatalf("coordinator %s: status %d\n%s%s", strings.Join(args, " "), r.status, r.out, r.err)
	}
	return r.out
}

// cluster is a coordinator in this process.
type cluster struct {
	t       *testing.T
	ctx     context.Context
	address string
	node    *node
	stop    func()        // and wait
	ended   chan struct{} // closed when it has
	err     error         // of which; only then
}

// startCluster starts a coordinator on loopback and points the commands at it.
func startCluster(t *testing.T) *cluster {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := serveCluster(t, t.TempDir(), l)
	if err := c.node.control.Ready(c.ctx); err != nil {
		t.Fatal(err)
	}
	t.Setenv("COLONNADE_COORDINATOR", c.address)
	return c
}

// serveCluster runs a coordinator until the test ends or stops it.
func serveCluster(t *testing.T, directory string, l net.Listener) *cluster {
	t.Helper()
	return serveNode(t, nodeConfig{directory: directory, listener: l})
}

// serveNode is serveCluster for a node of any kind.
func serveNode(t *testing.T, cfg nodeConfig) *cluster {
	t.Helper()
	cfg.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	n, err := newNode(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	c := &cluster{t: t, ctx: ctx, address: cfg.listener.Addr().String(), node: n, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		c.err = n.Run(ctx)
	}()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if <-c.ended; c.err != nil && !errors.Is(c.err, errRemoved) {
			t.Errorf("coordinator: %v", c.err)
		}
	})
	t.Cleanup(c.stop)
	return c
}

// attach lets a fake worker join; it has left when the test ends.
func (c *cluster) attach(play, id string) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	joined, left := make(chan struct{}), make(chan struct{})
	directory := c.t.TempDir()
	go func() {
		defer close(left)
		w := fakeWorker{play: play, id: id, directory: directory, joined: sync.OnceFunc(func() { close(joined) })}
		err := w.run(ctx, c.address)
		if err != nil && ctx.Err() == nil && status.Code(err) != codes.Unavailable { // another took its place
			c.t.Errorf("worker %s: %v", id, err)
		}
	}()
	c.t.Cleanup(func() { cancel(); <-left })
	select {
	case <-joined:
	case <-ctx.Done():
		c.t.Fatal("the worker does not join")
	}
}

// workerProgram is a worker process of `coordinator dev`.
func workerProgram(play string, args []string) int {
	flags := map[string]string{}
	for i := 0; i+1 < len(args); i++ {
		flags[args[i]] = args[i+1]
	}
	if play == "die" {
		fmt.Fprintln(os.Stderr, "worker: no device at all; see: worker devices")
		return 1
	}
	if play == "evaluate" {
		return fakeEvaluate(flags["--checkpoint"], flags["--views"])
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // the parent is gone when this ends
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if play == "absent" {
		<-ctx.Done()
		return 0
	}
	w := fakeWorker{play: play, id: flags["--name"], directory: flags["--checkpoints"], joined: func() {}}
	if err := w.run(ctx, flags["--coordinator"]); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		return 1
	}
	return 0
}

// fakeWorker does what a coordinator sees of a worker. Plays: "finish" does every job to its end at once, "train" gets
// half-way and waits to be stopped, "stubborn" does not stop either, "fail" finds its pack wrong. As processes also:
// "absent" never joins, "die" ends at once, "evaluate" says what it was given to evaluate.
type fakeWorker struct {
	play, id, directory string
	joined              func() // called at the welcome

	stream   grpc.BidiStreamingClient[clusterpb.WorkerMessage, clusterpb.CoordinatorMessage]
	sequence uint64
	now      *clusterpb.Assign
}

func (w *fakeWorker) run(ctx context.Context, address string) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	if w.stream, err = clusterpb.NewSessionClient(conn).Attach(ctx); err != nil {
		return err
	}
	err = w.stream.Send(&clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Register{Register: &clusterpb.Register{
		Worker: w.id, Name: w.id, Address: "127.0.0.1:1", Incarnation: fmt.Sprint(os.Getpid(), w.play),
		Protocol:    control.Protocol,
		Checkpoints: w.directory, Device: &clusterpb.Device{Numerics: "fake", Model: "no device", Threads: 3}}}})
	for err == nil {
		var m *clusterpb.CoordinatorMessage
		if m, err = w.stream.Recv(); err != nil {
			break
		}
		switch k := m.Kind.(type) {
		case *clusterpb.CoordinatorMessage_Welcome:
			w.joined()
		case *clusterpb.CoordinatorMessage_Assign:
			w.now = k.Assign
			err = w.train(ctx)
		case *clusterpb.CoordinatorMessage_Stop:
			if w.play != "stubborn" {
				err = w.stopped()
			}
		}
	}
	return err
}

// train plays an assignment.
func (w *fakeWorker) train(ctx context.Context) error {
	j, err := job.Decode(w.now.Spec)
	if err != nil {
		return err
	}
	if w.play == "fail" {
		return w.report(&clusterpb.Report{Kind: &clusterpb.Report_Failed{Failed: &clusterpb.CellFailed{Permanent: true,
			Reason: "wrong pack: /x.pack has identity ab,\nthe job was submitted with cd"}}})
	}
	half, steps := j.Steps()/2, j.Steps()
	for _, step := range []uint64{half, steps} {
		for _, cell := range w.now.Cells {
			beat := &clusterpb.CellStatus{Job: j.Name, Generation: w.now.Generation, Cell: cell, Step: step, Phase: "conv1",
				ImagesPerSecond: 100, Loss: 0.25, PhaseSeconds: map[string]float64{"conv1": 0.5}, Carrier: "shm"}
			err := w.stream.Send(&clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Heartbeat{
				Heartbeat: &clusterpb.Heartbeat{Cells: []*clusterpb.CellStatus{beat}}}})
			if err != nil {
				return err
			}
			if err := w.save(ctx, j.Name, cell, step); err != nil {
				return err
			}
		}
		if w.now.Cells[0].Column == 0 {
			if err := w.report(&clusterpb.Report{Kind: &clusterpb.Report_Evaluation{Evaluation: &clusterpb.Evaluation{Step: step,
				Epoch: step / 10, Images: 8, Top1Errors: 2, Loss: 0.5, TrainLoss: 0.25}}}); err != nil {
				return err
			}
		}
		if w.play == "train" || w.play == "stubborn" {
			return nil
		}
	}
	for _, cell := range w.now.Cells {
		if err := w.report(&clusterpb.Report{Kind: &clusterpb.Report_Finished{Finished: &clusterpb.CellFinished{Cell: cell,
			Step: steps, Digest: bytes.Repeat([]byte{byte(cell.Column)}, 32)}}}); err != nil {
			return err
		}
	}
	return nil
}

// stopped stops every cell where it is.
func (w *fakeWorker) stopped() error {
	for _, cell := range w.now.Cells {
		if err := w.report(&clusterpb.Report{Kind: &clusterpb.Report_Stopped{Stopped: &clusterpb.CellStopped{Cell: cell,
			Step: testSteps / 2}}}); err != nil {
			return err
		}
	}
	return nil
}

// save writes a checkpoint file of one small tensor.
func (w *fakeWorker) save(ctx context.Context, name string, cell *clusterpb.Cell, step uint64) error {
	m := checkpoint.Meta{Job: name, Step: step, Column: int(cell.Column), PlanDigest: [32]byte{1}, Numerics: "fake"}
	info, err := checkpoint.Write(ctx, w.directory, m, []checkpoint.Tensor{{Name: "w", Shape: []int{2},
		Data: []float32{float32(step), float32(cell.Column)}}}, nil)
	if err != nil {
		return err
	}
	return w.report(&clusterpb.Report{Kind: &clusterpb.Report_Checkpoint{Checkpoint: &clusterpb.CheckpointWritten{
		Cell: cell,
		Step: step, PlanDigest: m.PlanDigest[:], Numerics: m.Numerics, File: &clusterpb.CheckpointFile{Cell: cell,
			Worker: w.id,
			Path:   info.Path, Bytes: info.Bytes, Xxh3: info.XXH3[:], Digest: info.Digest[:]}}}})
}

func (w *fakeWorker) report(r *clusterpb.Report) error {
	w.sequence++
	r.Sequence, r.Job, r.Generation = w.sequence, w.now.Job, w.now.Generation
	return w.stream.Send(&clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Report{Report: r}})
}

// testSteps is how long the job of writeJob runs.
const testSteps = 20

// writePack writes a pack of which only the header is to be read.
func writePack(t *testing.T, path string, h pack.Header) {
	t.Helper()
	if h.Images == 0 {
		h.Images, h.Channels, h.Height, h.Width = 40, 1, 12, 12
	}
	for len(h.Classes) < 8 {
		h.Classes = append(h.Classes, fmt.Sprintf("class %d", len(h.Classes)))
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(h.Encode())
	if err := errors.Join(err, f.Truncate(h.FileBytes()), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// writeJob writes a job file and its pack, and returns the job's path. Lines replace those with the same key.
func writeJob(t *testing.T, dir, file string, lines ...string) string {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "train.pack")); err != nil {
		writePack(t, filepath.Join(dir, "train.pack"), pack.Header{})
	}
	all := []string{"job: j", "network: tiny", "data: {train: train.pack}",
		fmt.Sprintf("recipe: {batch: 4, steps: %d, rate: 0.1}", testSteps)}
	for _, l := range lines {
		key, _, _ := strings.Cut(l, ":")
		replaced := false
		for i := range all {
			if strings.HasPrefix(all[i], key+":") {
				all[i], replaced = l, true
			}
		}
		if !replaced {
			all = append(all, l)
		}
	}
	path := filepath.Join(dir, file)
	if err := os.WriteFile(path, []byte(strings.Join(all, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
