package control

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
	"colonnade/shard"
	"colonnade/shard/job"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeNode is a coordinator node whose log is a state in memory, and which leads when it is told to.
type fakeNode struct {
	leadership chan bool

	mu      sync.Mutex
	before  func(*commandpb.Command) error // called before a command is applied; an error keeps it out of the log
	after   func(*commandpb.Command)       // called when it is applied, before the caller learns of it
	looked  func() *commandpb.Command      // what happens when somebody has looked at the state; nil: nothing
	barrier func() error
	verify  func() error
	term    uint64
	state   *fsm.State
	index   uint64
	log     []*commandpb.Command // applied, refused ones too
	changed chan struct{}
}

func newFakeNode() *fakeNode {
	return &fakeNode{leadership: make(chan bool, 1), state: fsm.New(), changed: make(chan struct{})}
}

func (n *fakeNode) Apply(ctx context.Context, c *commandpb.Command) (fsm.Result, error) {
	n.mu.Lock()
	before, after := n.before, n.after
	n.mu.Unlock()
	if before != nil {
		if err := before(c); err != nil {
			return fsm.Result{}, err
		}
	}
	if ctx.Err() != nil {
		return fsm.Result{}, context.Cause(ctx)
	}
	r := n.apply(c)
	if after != nil {
		after(c)
	}
	return r, r.Refused
}

func (n *fakeNode) apply(c *commandpb.Command) fsm.Result {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	c.Version, c.DecidedUnixNs = fsm.Version, time.Now().UnixNano()
	n.log = append(n.log, c)
	r, err := n.state.Apply(n.index, c)
	if err != nil {
		panic(err)
	}
	close(n.changed)
	n.changed = make(chan struct{})
	return r
}

// hook sets what happens around commands from now on.
func (n *fakeNode) hook(before func(*commandpb.Command) error, after func(*commandpb.Command)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.before, n.after = before, after
}

func (n *fakeNode) View() (fsm.View, <-chan struct{}) {
	n.mu.Lock()
	view, changed, looked := n.state.View(), n.changed, n.looked
	n.mu.Unlock()
	if looked != nil {
		if c := looked(); c != nil {
			n.apply(c)
		}
	}
	return view, changed
}

func (n *fakeNode) Barrier(context.Context) error {
	n.mu.Lock()
	barrier := n.barrier
	n.mu.Unlock()
	if barrier != nil {
		return barrier()
	}
	return nil
}

func (n *fakeNode) VerifyLeader(context.Context) error {
	n.mu.Lock()
	verify := n.verify
	n.mu.Unlock()
	if verify != nil {
		return verify()
	}
	return nil
}

func (n *fakeNode) Term() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.term
}

func (n *fakeNode) Leadership() <-chan bool { return n.leadership }

// count is how many commands of a kind are in the log.
func count[K any](n *fakeNode) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	found := 0
	for _, c := range n.log {
		if _, ok := c.Kind.(K); ok {
			found++
		}
	}
	return found
}

// rig is a control loop that leads a fake node, within a bubble of its own clock.
type rig struct {
	t    *testing.T
	ctx  context.Context
	node *fakeNode
	*Control
}

// inBubble runs a test with a control loop; everything has ended when it returns.
func inBubble(t *testing.T, f func(*rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, ctx: t.Context(), node: newFakeNode()}
		r.Control = New(Config{Node: r.node, Rules: sched.DefaultRules, Now: time.Now,
			Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		r.node.leadership <- true
		synctest.Wait()
		f(r)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
}

// registration is a worker's, of its first process.
func registration(worker string) *clusterpb.Register {
	return &clusterpb.Register{Worker: worker, Name: "name-" + worker, Address: worker + ":1", Incarnation: "first",
		Protocol: Protocol, Checkpoints: "/" + worker, Device: &clusterpb.Device{Numerics: "n"}}
}

// worker is the far end of a session.
type worker struct {
	*Session
	r *rig
}

func (r *rig) attach(reg *clusterpb.Register) worker {
	r.t.Helper()
	s, err := r.Attach(r.ctx, reg)
	if err != nil {
		r.t.Fatalf("attach %s: %v", reg.Worker, err)
	}
	w := worker{s, r}
	if m := w.next(); m.GetWelcome().GetHeartbeatMs() == 0 {
		r.t.Fatalf("a session begins with %v instead of a welcome", m)
	}
	return w
}

// pending are the messages that wait for the worker, empty acknowledgements left out, once all is at rest.
func (w worker) pending() []*clusterpb.CoordinatorMessage {
	synctest.Wait()
	ctx, cancel := context.WithCancel(w.r.ctx)
	cancel()
	var out []*clusterpb.CoordinatorMessage
	for m := w.Next(ctx); m != nil; m = w.Next(ctx) {
		if a := m.GetAck(); a == nil || a.Sequence != 0 || len(a.Dropped) > 0 {
			out = append(out, m)
		}
	}
	return out
}

// next is the only message that waits.
func (w worker) next() *clusterpb.CoordinatorMessage {
	w.r.t.Helper()
	all := w.pending()
	if len(all) != 1 {
		w.r.t.Fatalf("worker %s is sent %v, want one message", w.worker, all)
	}
	return all[0]
}

// quiet wants that nothing waits.
func (w worker) quiet() {
	w.r.t.Helper()
	if all := w.pending(); len(all) > 0 {
		w.r.t.Errorf("worker %s is sent %v, want nothing", w.worker, all)
	}
}

// over wants that the session has ended.
func (w worker) over() {
	w.r.t.Helper()
	synctest.Wait()
	select {
	case <-w.Done():
	default:
		w.r.t.Errorf("the session of worker %s goes on", w.worker)
	}
}

// beat keeps every worker's lease for a time.
func (r *rig) beat(d time.Duration, workers ...worker) {
	const every = 500 * time.Millisecond
	for ; d > 0; d -= every {
		time.Sleep(min(d, every)) // of the bubble's clock
		for _, w := range workers {
			w.Heartbeat(&clusterpb.Heartbeat{})
		}
	}
	synctest.Wait()
}

// jobSteps is how long the job of spec runs.
const jobSteps = 100

// spec is a resolved job of two columns.
func spec(t *testing.T, name, change string) []byte {
	t.Helper()
	j, err := job.Parse("job.yaml", fmt.Appendf(nil, "job: %s\nnetwork: tiny\ndata: {train: t.pack}\nseed: 1\n"+
		"recipe: {batch: 4, steps: %d, rate: 0.1}\ncheckpoint: {every: 10, keep: 2}\n%s", name, jobSteps, change))
	if err != nil {
		t.Fatal(err)
	}
	text, err := shard.EmbeddedText("tiny")
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Resolve(text, &job.Pack{Path: "/t.pack", ID: "ab", Images: 40, Channels: 1, Height: 12, Width: 12,
		Classes: 8},
		nil); err != nil {
		t.Fatal(err)
	}
	return j.Encode()
}

// submit submits job "j".
func (r *rig) submit() {
	r.t.Helper()
	if _, err := r.Submit(r.ctx, spec(r.t, "j", ""), false, ""); err != nil {
		r.t.Fatal(err)
	}
}

// running is a job that runs on two workers, one column on each.
func (r *rig) running() (a, b worker) {
	r.t.Helper()
	a, b = r.attach(registration("a")), r.attach(registration("b"))
	r.submit()
	for i, w := range []worker{a, b} {
		if m := w.next().GetAssign(); m.GetGeneration() != 1 || len(m.Cells) != 1 || m.Cells[0].Column != int32(i) {
			r.t.Fatalf("worker %s is assigned %v", w.worker, m)
		}
	}
	return a, b
}

// job returns job "j".
func (r *rig) job() *clusterpb.Job {
	r.t.Helper()
	synctest.Wait()
	j, err := r.Job(r.ctx, "j")
	if err != nil {
		r.t.Fatal(err)
	}
	return j
}

// report sends a report of job "j", wants it acknowledged and returns what else the worker is sent.
func (w worker) report(sequence, generation uint64, kind any) []*clusterpb.CoordinatorMessage {
	w.r.t.Helper()
	if err := w.Report(w.r.ctx, report(sequence, generation, kind)); err != nil {
		w.r.t.Fatalf("report %d: %v", sequence, err)
	}
	all := w.pending()
	i := slices.IndexFunc(all,
		func(m *clusterpb.CoordinatorMessage) bool { return m.GetAck().GetSequence() == sequence })
	if i < 0 {
		w.r.t.Fatalf("report %d is answered with %v", sequence, all)
	}
	return slices.Delete(all, i, i+1)
}

// report is a report of job "j".
func report(sequence, generation uint64, kind any) *clusterpb.Report {
	r := &clusterpb.Report{Sequence: sequence, Job: "j", Generation: generation}
	switch k := kind.(type) {
	case *clusterpb.CheckpointWritten:
		r.Kind = &clusterpb.Report_Checkpoint{Checkpoint: k}
	case *clusterpb.CellFinished:
		r.Kind = &clusterpb.Report_Finished{Finished: k}
	case *clusterpb.CellStopped:
		r.Kind = &clusterpb.Report_Stopped{Stopped: k}
	case *clusterpb.CellFailed:
		r.Kind = &clusterpb.Report_Failed{Failed: k}
	case *clusterpb.CheckpointBad:
		r.Kind = &clusterpb.Report_Bad{Bad: k}
	case *clusterpb.CheckpointFailed:
		r.Kind = &clusterpb.Report_CheckpointFailed{CheckpointFailed: k}
	case *clusterpb.Evaluation:
		r.Kind = &clusterpb.Report_Evaluation{Evaluation: k}
	}
	return r
}

// written is the report of a checkpoint file.
func written(column int32, step uint64) *clusterpb.CheckpointWritten {
	sum := sha256.Sum256(fmt.Append(nil, column, step))
	cell := &clusterpb.Cell{Column: column}
	return &clusterpb.CheckpointWritten{Cell: cell, Step: step, PlanDigest: sum[:0], Numerics: "n",
		File: &clusterpb.CheckpointFile{Cell: cell, Worker: []string{"a", "b"}[column], Path: fmt.Sprintf("j/%d/r0c%d",
			step, column),
			Bytes: 1, Sha256: sum[:], Digest: sum[:]}}
}
