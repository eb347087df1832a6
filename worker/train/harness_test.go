package train

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"colonnade/checkpoint"
	"colonnade/cudakern"
	"colonnade/shard/job"
	"colonnade/worker/data"
	"colonnade/worker/exchange"
)

// outcome is what a run of all cells came to.
type outcome struct {
	mu       sync.Mutex
	events   []Event
	digest   map[exchange.Cell][32]byte
	evals    []Evaluated
	saved    map[uint64]map[exchange.Cell]checkpoint.Info
	stopped  map[exchange.Cell]uint64
	failed   []SaveFailed
	errs     map[exchange.Cell]error
	statuses map[exchange.Cell]Status // at the end
}

func (o *outcome) report(e Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, e)
	switch e := e.(type) {
	case Finished:
		o.digest[e.Cell] = e.Digest
	case Evaluated:
		o.evals = append(o.evals, e)
	case Saved:
		if o.saved[e.Step] == nil {
			o.saved[e.Step] = map[exchange.Cell]checkpoint.Info{}
		}
		o.saved[e.Step][e.Cell] = e.Info
	case SaveFailed:
		o.failed = append(o.failed, e)
	case Stopped:
		o.stopped[e.Cell] = e.Step
	}
}

// setup is a way to run all cells of a job in this process.
type setup struct {
	dev     cudakern.Device
	job     *job.Job
	root    string // of checkpoints
	from    uint64 // step to restore
	carrier string // "", "local": one worker, local carrier; "grpc", "shm": one worker, forced; "workers": one a
	// cell; "replicas", "columns": one for each
	delay bool // every message that is sent waits a random while

	memory func(exchange.Cell, MemoryLayout) (Memory, error)
	resume uint64 // step to go on from in memory
	copy   func(ctx context.Context, id exchange.Cell, step, keep uint64) (bool, error)

	trace Tracer

	history job.History // what the job's log has of evaluations

	skipped, accepted     []uint64 // these as in Config
	staged                bool
	partBytes, smallBytes int

	exchanger func(exchange.Cell, exchange.Exchanger) exchange.Exchanger
	source    func(exchange.Cell, Source) Source
	report    func(Event)
	started   func(map[exchange.Cell]*Cell)
	ended     func(map[exchange.Cell]*Cell)      // before they are closed
	steps     func(context.Context, *Cell) error // instead of Run
	context   context.Context
}

// delayed is an exchanger whose messages leave late.
type delayed struct {
	exchange.Exchanger
	mu sync.Mutex
	r  *rand.Rand
}

func (d *delayed) Send(ctx context.Context, to exchange.Cell, tag exchange.Tag, data []byte) error {
	d.mu.Lock()
	wait := time.NewTimer(time.Duration(d.r.IntN(1000)) * time.Microsecond)
	d.mu.Unlock()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return d.Exchanger.Send(ctx, to, tag, data)
}

// group is the exchange of all cells of a run.
type group struct {
	meshes  []*exchange.Mesh
	members []*exchange.Membership
	at      map[exchange.Cell]*exchange.Membership
	stops   []func()
}

// workers says which cells share one.
func (s setup) workers(cells []exchange.Cell) [][]exchange.Cell {
	share := func(exchange.Cell) int { return 0 }
	switch s.carrier {
	case "workers":
		share = func(c exchange.Cell) int { return c.Replica*s.job.Columns + c.Column }
	case "replicas":
		share = func(c exchange.Cell) int { return c.Replica }
	case "columns":
		share = func(c exchange.Cell) int { return c.Column }
	}
	var out [][]exchange.Cell
	for _, c := range cells {
		for share(c) >= len(out) {
			out = append(out, nil)
		}
		out[share(c)] = append(out[share(c)], c)
	}
	return out
}

// join links all cells over the carrier that is asked for.
func (s setup) join(t testing.TB, cells []exchange.Cell) *group {
	t.Helper()
	workers := s.workers(cells)
	g := &group{members: make([]*exchange.Membership, len(workers)), at: map[exchange.Cell]*exchange.Membership{}}
	var addresses []string
	for i := range workers {
		addresses = append(addresses, g.start(t, i, s.carrier != "" && s.carrier != "local"))
	}
	errs := make([]error, len(workers))
	var wait sync.WaitGroup
	for i, local := range workers {
		part := exchange.Group{Job: s.job.Name, Generation: 1, Local: local, Address: addresses[i]}
		if s.carrier == "grpc" || s.carrier == "shm" {
			part.Carrier = exchange.Carrier(s.carrier)
		}
		for k, other := range workers {
			if k == i {
				continue
			}
			for _, c := range other {
				part.Peers = append(part.Peers, exchange.Peer{Cell: c, Worker: fmt.Sprintf("w%d", k), Address: addresses[k]})
			}
		}
		wait.Go(func() { g.members[i], errs[i] = g.meshes[i].Join(context.Background(), part) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for i, local := range workers {
		for _, c := range local {
			g.at[c] = g.members[i]
		}
	}
	return g
}

// start makes a worker's mesh and, for carriers that need it, its server.
func (g *group) start(t testing.TB, i int, serve bool) (address string) {
	t.Helper()
	mesh := exchange.New(exchange.Config{Worker: fmt.Sprintf("w%d", i), Log: slog.New(slog.DiscardHandler)})
	g.meshes = append(g.meshes, mesh)
	if !serve {
		return ""
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := mesh.NewServer()
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }() // every run joins before it stops: this has begun by then
	g.stops = append(g.stops, func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// leave ends the exchange.
func (g *group) leave(t testing.TB) {
	t.Helper()
	var wait sync.WaitGroup
	for i, m := range g.members {
		wait.Go(func() {
			if err := errors.Join(m.Close(), g.meshes[i].Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for _, stop := range g.stops {
		stop()
	}
}

// run trains all cells of a job, from a step whose files are in root, until all have ended.
func (s setup) run(t testing.TB) *outcome {
	t.Helper()
	var cells []exchange.Cell
	for r := range s.job.Replicas {
		for k := range s.job.Columns {
			cells = append(cells, exchange.Cell{Replica: r, Column: k})
		}
	}
	g := s.join(t, cells)
	defer g.leave(t)
	training, test, closePacks := s.open(t)
	defer closePacks()
	out := &outcome{digest: map[exchange.Cell][32]byte{}, saved: map[uint64]map[exchange.Cell]checkpoint.Info{},
		stopped: map[exchange.Cell]uint64{}, errs: map[exchange.Cell]error{}, statuses: map[exchange.Cell]Status{}}
	built := map[exchange.Cell]*Cell{}
	for _, id := range cells {
		built[id] = s.build(t, id, cells, g.at[id].Exchanger(id), training, test, out)
	}
	if s.started != nil {
		s.started(built)
	}
	ctx := s.context
	if ctx == nil {
		ctx = context.Background()
	}
	steps := s.steps
	if steps == nil {
		steps = func(ctx context.Context, c *Cell) error { return c.Run(ctx) }
	}
	var wait sync.WaitGroup
	for id, c := range built {
		wait.Go(func() {
			err := steps(ctx, c)
			out.mu.Lock()
			out.errs[id], out.statuses[id] = err, c.Status()
			out.mu.Unlock()
			if err != nil {
				g.at[id].Abort(err.Error())
			}
		})
	}
	wait.Wait()
	if s.ended != nil {
		s.ended(built)
	}
	for _, c := range built {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	return out
}

// open opens the job's packs.
func (s setup) open(t testing.TB) (training, test *data.Pack, closeAll func()) {
	t.Helper()
	var open []*data.Pack
	for _, p := range []*job.Pack{s.job.Train, s.job.Test} {
		if p == nil {
			open = append(open, nil)
			continue
		}
		o, err := data.Open(p.Path)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, o)
	}
	return open[0], open[1], func() {
		for _, p := range open {
			if p == nil {
				continue
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// build makes one cell and gives it its state.
func (s setup) build(t testing.TB, id exchange.Cell, cells []exchange.Cell, ex exchange.Exchanger,
	training, test *data.Pack, out *outcome) *Cell {
	t.Helper()
	plan, err := s.job.Plan()
	if err != nil {
		t.Fatal(err)
	}
	in := plan.Network.Input
	var source Source = data.NewLoader(s.job, id.Replica, training, test, in.Height, in.Width)
	if s.source != nil {
		source = s.source(id, source)
	}
	if s.delay {
		ex = &delayed{Exchanger: ex, r: rand.New(rand.NewPCG(7, uint64(id.Replica<<8+id.Column)))}
	}
	if s.exchanger != nil {
		ex = s.exchanger(id, ex)
	}
	var memory func(MemoryLayout) (Memory, error)
	if s.memory != nil {
		memory = func(l MemoryLayout) (Memory, error) { return s.memory(id, l) }
	}
	var copied func(context.Context, uint64, uint64) (bool, error)
	if s.copy != nil {
		copied = func(ctx context.Context, step, keep uint64) (bool, error) { return s.copy(ctx, id, step, keep) }
	}
	c, err := New(Config{Memory: memory, Copy: copied, Trace: s.trace,
		Job: s.job, Plan: plan, Cell: id, Cells: cells, Generation: 1, Device: s.dev, Exchanger: ex,
		Source: source, Directory: s.root, Skipped: s.skipped, Accepted: s.accepted, staged: s.staged,
		partBytes: s.partBytes, smallBytes: s.smallBytes, History: s.history, Now: time.Now,
		Log: slog.New(slog.DiscardHandler), Report: func(e Event) {
			out.report(e)
			if s.report != nil {
				s.report(e)
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case s.resume > 0:
		err = c.Resume(s.resume, Owed{Evaluation: true, Checkpoint: true})
	case s.from == 0:
		err = c.Initialise()
	default:
		meta := checkpoint.Meta{Job: s.job.Name, Generation: 1, Step: s.from, Replica: id.Replica, Column: id.Column,
			PlanDigest: plan.Digest(), Numerics: s.dev.Info().Numerics}
		var name string
		if name, err = checkpoint.Path(meta); err == nil {
			err = c.Restore(context.Background(), filepath.Join(s.root, name), checkpoint.Want{Meta: meta})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mustRun is run for cells that have to come to their end.
func (s setup) mustRun(t testing.TB) *outcome {
	t.Helper()
	o := s.run(t)
	for id, err := range o.errs {
		if err != nil {
			t.Errorf("cell %s: %v", id, err)
		}
	}
	return o
}
