package whole

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"colonnade/coordinator/control"
	"colonnade/coordinator/fsm"
	"colonnade/coordinator/port"
	"colonnade/coordinator/raftnode"
	"colonnade/coordinator/rpc"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/session"
)

var (
	wholeSeed = flag.Uint64("whole.seed", 1, "what goes wrong in the whole cluster")
	wholeFor  = flag.Duration("whole.for", 20*time.Second, "for how long it does, in virtual time")
	wholeLog  = flag.Bool("whole.log", false, "print what the coordinators log")
)

// whole is a cluster with all that the program is made of: raft on disk, the port, gRPC and its clients. Only the
// network is ours, and time that of a bubble.
type whole struct {
	t     *testing.T
	net   *wire
	dirs  []string
	nodes [3]*wholeNode
	log   *slog.Logger
}

// wholeNode is what the program is, wired as it is there.
type wholeNode struct {
	raft    *raftnode.Node
	control *control.Control
	stop    func() // as a process that is killed: it tells nobody
}

func nodeAddress(i int) string   { return fmt.Sprintf("10.0.0.%d:7400", i+1) }
func workerAddress(i int) string { return fmt.Sprintf("10.0.1.%d:7500", i+1) }

// peers are the connections between coordinators.
type peers struct {
	net.Listener
	wire *wire
	from string
}

// Dial implements raftnode.Streams.
func (p peers) Dial(to raftnode.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := p.wire.dial(ctx, p.from, string(to))
	if err != nil {
		return nil, err
	}
	_, err = c.Write([]byte{port.Peer})
	return c, err
}

func (c *whole) start(i int) {
	c.t.Helper()
	address := nodeAddress(i)
	p := port.New(c.net.listen(address), c.log)
	r, err := raftnode.New(raftnode.Config{Directory: c.dirs[i], Address: raftnode.Address(address), Join: i > 0,
		Streams: peers{p.Peers(), c.net, address}, Log: c.log.With("node", i), Now: time.Now,
		SnapshotEntries: 64, Trailing: 16, SnapshotEvery: 5 * time.Second})
	if err != nil {
		c.t.Fatal(err)
	}
	ctl := control.New(control.Config{Node: r, Rules: sched.DefaultRules, Now: time.Now, Log: c.log.With("node", i),
		Cluster: r.Cluster()})
	service := &rpc.Server{Control: ctl, Node: r, Version: "test", Log: c.log}
	g := grpc.NewServer(append(service.Options(),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Second, Timeout: 2 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))...)
	service.Register(g)
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = ctl.Run(ctx) })
	tasks.Go(func() { _ = p.Run(ctx) })
	tasks.Go(func() { _ = g.Serve(p.Others()) })
	c.nodes[i] = &wholeNode{raft: r, control: ctl, stop: func() {
		cancel()
		g.Stop()
		tasks.Wait()
		if err := r.Close(); err != nil {
			c.t.Errorf("close node %d: %v", i, err)
		}
	}}
}

// kill ends a node in the middle of whatever it is at: nobody hears of it any more.
func (c *whole) kill(i int) {
	for k := range c.dirs {
		c.isolate(i, k, true)
	}
	c.nodes[i].stop()
	c.nodes[i] = nil
	for k := range c.dirs {
		c.isolate(i, k, false)
	}
}

// isolate cuts two nodes off each other, or joins them.
func (c *whole) isolate(a, b int, cut bool) {
	c.net.setCut(nodeAddress(a), nodeAddress(b), cut)
	c.net.setCut(nodeAddress(b), nodeAddress(a), cut)
}

// leader is who leads and knows it, or -1.
func (c *whole) leader() int {
	return slices.IndexFunc(c.nodes[:], func(n *wholeNode) bool { return n != nil && n.raft.IsLeader() })
}

// wait waits for something to become true, within a minute of virtual time.
func (c *whole) wait(what string, ok func() bool) {
	c.t.Helper()
	for range 6_000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond) // virtual
	}
	c.t.Fatalf("not within a minute: %s", what)
}

// dialler is how a host's clients connect.
func (c *whole) dialler(from string) grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, to string) (net.Conn, error) {
		return c.net.dial(ctx, from, to)
	})
}

func coordinators() []string { return []string{nodeAddress(0), nodeAddress(1), nodeAddress(2)} }

// newWhole starts three coordinators and waits until all of them vote.
func newWhole(t *testing.T, seed uint64, dirs []string) *whole {
	c := &whole{t: t, net: newWire(seed), dirs: dirs, log: slog.New(slog.DiscardHandler)}
	if *wholeLog {
		c.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	for i := range c.nodes {
		c.start(i)
	}
	c.wait("the first leads", func() bool { return c.nodes[0].raft.IsLeader() })
	for i := 1; i < 3; i++ {
		if err := c.nodes[0].raft.Admit(t.Context(), c.nodes[i].raft.ID(), nodeAddress(i)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *whole) close() {
	for _, n := range c.nodes {
		if n != nil {
			n.stop()
		}
	}
}

// wholeJob is a job's spec. What it names exists nowhere.
func wholeJob(name string) []byte {
	j, err := job.Parse("job.yaml", fmt.Appendf(nil, "job: %s\nnetwork: tiny\ncolumns: 2\n"+
		"data: {train: t.pack}\nrecipe: {batch: 4, steps: 1000000, rate: 0.1}\n", name))
	if err != nil {
		panic(err)
	}
	text, err := shard.EmbeddedText("tiny")
	if err != nil {
		panic(err)
	}
	pack := &job.Pack{Path: "/t.pack", ID: "ab", Images: 40, Channels: 1, Height: 12, Width: 12, Classes: 8}
	if err := j.Resolve(text, pack, nil); err != nil {
		panic(err)
	}
	return j.Encode()
}

// trainer is a worker as the coordinators see one: the real session, and a clock in place of training. It writes a
// checkpoint every ten steps.
type trainer struct {
	id      string
	number  int
	session *session.Session
	ledger  *ledger
	asked   []int // places in it of all reports, in order; -1: it has none
	over    int   // how many of them are answered

	mu      sync.Mutex
	now     *clusterpb.Assign
	step    uint64
	history []uint64          // generations it was told to run
	part    *clusterpb.Assign // of an evaluation
	ticks   int               // that it has worked on it
}

func (w *trainer) Assign(a *clusterpb.Assign) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.Part != nil {
		w.part, w.ticks = a, 0
		return
	}
	if w.now == nil || a.Generation > w.now.Generation {
		w.now, w.step = a, 0
		if len(a.Restore) > 0 {
			w.step = a.Restore[0].Step
		}
		w.history = append(w.history, a.Generation)
	}
}

func (w *trainer) Revoke(r *clusterpb.Revoke) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.now != nil && w.now.Job == r.Job && w.now.Generation <= r.Generation {
		w.now = nil
	}
	if w.part != nil && w.part.Job == r.Job && w.part.Generation <= r.Generation {
		w.part = nil
	}
}

func (w *trainer) Running() (out []*clusterpb.Running) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range []*clusterpb.Assign{w.now, w.part} {
		if a != nil {
			out = append(out, &clusterpb.Running{Job: a.Job, Generation: a.Generation})
		}
	}
	return out
}

func (w *trainer) Cells() []*clusterpb.CellStatus { return nil }
func (w *trainer) Stop(*clusterpb.Stop)           {}
func (w *trainer) Dropped([]*clusterpb.Manifest)  {}
func (w *trainer) Welcomed(string)                {}
func (w *trainer) Ask(*clusterpb.Ask)             {}
func (w *trainer) Forget(*clusterpb.Forget)       {}
func (w *trainer) Buddies(*clusterpb.Buddies)     {}
func (w *trainer) Drain(*clusterpb.Drain)         {}
func (w *trainer) Warm(*clusterpb.Warm)           {}

// train takes a step now and then, until ctx ends.
func (w *trainer) train(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for n := len(w.asked) - w.session.Pending(); w.over < n; w.over++ { // they are answered in order
			if w.asked[w.over] >= 0 {
				w.ledger.end(w.asked[w.over], 0)
			}
		}
		w.mu.Lock()
		a, report := w.now, w.work()
		if a != nil {
			w.step++
		}
		step := w.step
		w.mu.Unlock()
		if report != nil {
			w.asked = append(w.asked, -1)
			w.session.Report(report)
		}
		if a == nil {
			continue
		}
		for _, cell := range a.Cells {
			if step%10 != 0 {
				break
			}
			w.asked = append(w.asked, w.ledger.begin(w.number, written{job: a.Job, column: cell.Column, step: step}))
			w.session.Report(&clusterpb.Report{Job: a.Job, Generation: a.Generation, Kind: &clusterpb.Report_Checkpoint{
				Checkpoint: &clusterpb.CheckpointWritten{Step: step, PlanDigest: []byte("plan"), Numerics: "n",
					File: &clusterpb.CheckpointFile{Cell: cell, Worker: w.id, Path: "p", Bytes: 1, Sha256: sum(step, 2),
						Digest: sum(step, uint64(cell.Column))}}}})
		}
	}
}

// sum stands for the digest of a state.
func sum(step, column uint64) []byte {
	h := sha256.Sum256(binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, step), column))
	return h[:]
}

// join has a worker keep a session until the returned function is called, which waits for its end.
func (c *whole) join(i int, l *ledger) (*trainer, func()) {
	w := &trainer{id: fmt.Sprintf("w%d", i), number: i, ledger: l}
	w.session = session.New(session.Config{Coordinators: coordinators(), Handler: w, Log: c.log.With("worker", i),
		Register: &clusterpb.Register{Protocol: session.Protocol, Evaluates: true, Worker: w.id, Name: w.id, Incarnation: "1",
			Address: workerAddress(i), Device: &clusterpb.Device{Name: "cpu", Numerics: "n"}},
		DialOptions: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), c.dialler(workerAddress(i)),
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second})}})
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = w.session.Run(ctx) })
	tasks.Go(func() { w.train(ctx) })
	return w, func() { cancel(); tasks.Wait() }
}

// writer submits one job after another and keeps account of what was acknowledged.
type writer struct {
	acknowledged []string
	slowest      time.Duration
}

func (c *whole) write(ctx context.Context, id int) (*writer, func()) {
	client, err := rpc.NewClient(coordinators(), c.dialler(fmt.Sprintf("10.0.2.%d:1", id+1)))
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &writer{}
	var tasks sync.WaitGroup
	tasks.Go(func() {
		operator := clusterpb.NewOperatorClient(client)
		for n := 0; ctx.Err() == nil; n++ {
			name := fmt.Sprintf("client-%d-write-%d", id, n)
			began := time.Now()
			_, err := operator.SubmitJob(ctx, &clusterpb.SubmitJobRequest{Spec: wholeJob(name), Request: name})
			switch {
			case err == nil:
				w.acknowledged = append(w.acknowledged, name)
				w.slowest = max(w.slowest, time.Since(began))
			case ctx.Err() == nil:
				c.t.Errorf("submit %s: %v", name, err)
			}
			select {
			case <-time.After(300 * time.Millisecond): // virtual
			case <-ctx.Done():
			}
		}
	})
	return w, func() { cancel(); tasks.Wait(); client.Close() }
}

// TestWholeCluster has things go wrong between three coordinators, with all that the program is made of, in virtual
// time: leaders are killed and cut off, one way too, packets are lost. What was acknowledged is never lost, nobody is
// given up who can be reached, and all nodes agree in the end.
func TestWholeCluster(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	began := time.Now()
	var virtual time.Duration
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		c := newWhole(t, *wholeSeed, dirs)
		l := &ledger{}
		w0, leave0 := c.join(0, l)
		w1, leave1 := c.join(1, l)
		clients, done0 := c.write(t.Context(), 0)
		other, done1 := c.write(t.Context(), 1)
		c.wait("the first job runs on two workers", func() bool {
			return len(w0.Running()) == 1 && len(w1.Running()) == 1
		})
		job := w0.Running()[0].Job
		reads := c.read(t.Context(), job, l)
		time.Sleep(time.Second) // virtual: there is a checkpoint
		tests := c.test(t.Context(), job)
		faults := c.misfortunes(*wholeSeed, *wholeFor)
		tested := tests()
		if tested == 0 {
			t.Error("no evaluation was ever done")
		}
		reads()
		done0()
		done1()
		leave0()
		leave1()
		c.agree(slices.Concat(clients.acknowledged, other.acknowledged))
		c.judge([]*trainer{w0, w1})
		l.check(c, job)
		t.Logf("%v; %d evaluations; %d writes acknowledged, the slowest after %v; %d packets, %d lost", faults, tested,
			len(clients.acknowledged)+len(other.acknowledged), max(clients.slowest, other.slowest).Round(time.Millisecond),
			c.net.sent, c.net.lost)
		c.close()
		virtual = time.Since(start)
		synctest.Wait()
	})
	t.Logf("%v of virtual time in %v", virtual.Round(time.Second), time.Since(began).Round(time.Millisecond))
}

// misfortunes makes one thing go wrong after another for a while, and returns how often each did. Each ends before the
// next begins, and two coordinators of three are always there for each other.
func (c *whole) misfortunes(seed uint64, span time.Duration) map[string]int {
	r := rand.New(rand.NewPCG(seed, 13))
	pause := func(lo, hi time.Duration) { time.Sleep(lo + time.Duration(r.Int64N(int64(hi-lo)))) } // virtual
	count := map[string]int{}
	for end := time.Now().Add(span); time.Now().Before(end); {
		c.wait("somebody leads", func() bool { return c.leader() >= 0 })
		at := c.leader()
		if at < 0 {
			continue
		}
		victim, other := at, (at+1+r.IntN(2))%3
		third := 3 - victim - other
		switch kind := r.IntN(5); kind {
		case 0:
			count["leader killed"]++
			c.kill(victim)
			pause(100*time.Millisecond, 3*time.Second)
			c.start(victim)
		case 1:
			count["leader cut off"]++
			c.isolate(victim, other, true)
			c.isolate(victim, third, true)
			pause(100*time.Millisecond, 4*time.Second)
			c.isolate(victim, other, false)
			c.isolate(victim, third, false)
		case 2:
			count["two coordinators do not see each other"]++
			c.isolate(victim, other, true)
			pause(100*time.Millisecond, 4*time.Second)
			c.isolate(victim, other, false)
		case 3:
			count["one way is cut"]++
			c.net.setCut(nodeAddress(other), nodeAddress(victim), true)
			pause(100*time.Millisecond, 4*time.Second)
			c.net.setCut(nodeAddress(other), nodeAddress(victim), false)
		case 4:
			count["packets lost"]++
			c.net.setLoss(20)
			pause(time.Second, 4*time.Second)
			c.net.setLoss(0)
		}
		pause(500*time.Millisecond, 3*time.Second)
	}
	return count
}

// agree waits until all nodes have the same state, and wants every acknowledged job in it.
func (c *whole) agree(acknowledged []string) {
	c.t.Helper()
	c.wait("all nodes agree", func() bool {
		var first []byte
		for i, n := range c.nodes {
			v, _ := n.raft.View()
			b, err := v.Encode()
			if err != nil {
				c.t.Fatal(err)
			}
			if i == 0 {
				first = b
			} else if string(b) != string(first) {
				return false
			}
		}
		at := c.leader()
		return at >= 0 && c.nodes[at].raft.Barrier(c.t.Context()) == nil
	})
	v, _ := c.nodes[0].raft.View()
	for _, name := range acknowledged {
		if v.Jobs[name] == nil {
			c.t.Errorf("job %s was acknowledged and is lost", name)
		}
	}
	if len(acknowledged) < 10 {
		c.t.Errorf("only %d writes were acknowledged", len(acknowledged))
	}
}

// judge looks at the workers: both could always reach a leader within a lease, so neither was given up, whoever led.
func (c *whole) judge(workers []*trainer) {
	c.t.Helper()
	v, _ := c.nodes[0].raft.View()
	for _, e := range v.Events {
		if e.Kind == "worker" && e.Worker != "" && strings.Contains(e.Text, "is lost") {
			c.t.Errorf("entry %d: %s", e.Index, e.Text)
		}
	}
	for _, w := range workers {
		if len(w.history) != 1 {
			c.t.Errorf("worker %s was told of generations %v, and nothing of what went wrong was of the workers", w.id,
				w.history)
		}
	}
	name := v.JobNames()[0]
	committed := 0
	for _, r := range v.Jobs[name].Checkpoints {
		if r.Committed {
			committed++
		}
	}
	if j := v.Jobs[name]; j.Generation != 1 || j.State != fsm.Running || committed == 0 {
		c.t.Errorf("job %s is %s in generation %d with %d checkpoints: %s", name, j.State, j.Generation, committed, j.Reason)
	}
}
