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

	"google.golang.org/grpc"

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
	carrier string // "", "local": one worker, local carrier; "grpc": one worker, all over gRPC; "workers": one a cell
	delay   bool   // every message that is sent waits a random while

	exchanger func(exchange.Cell, exchange.Exchanger) exchange.Exchanger
	source    func(exchange.Cell, Source) Source
	report    func(Event)
	started   func(map[exchange.Cell]*Cell)
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

// join makes every cell's end of the exchange, and says what an end of the run is told to: abort with a reason.
func (s *setup) join(t testing.TB, cells []exchange.Cell) (ends map[exchange.Cell]exchange.Exchanger,
	abort func(exchange.Cell, string), leave func()) {
	t.Helper()
	workers := [][]exchange.Cell{cells}
	if s.carrier == "workers" {
		workers = nil
		for _, c := range cells {
			workers = append(workers, []exchange.Cell{c})
		}
	}
	var addresses []string
	var meshes []*exchange.Mesh
	var stops []func()
	for i := range workers {
		mesh := exchange.New(exchange.Config{Worker: fmt.Sprintf("w%d", i), Log: slog.New(slog.DiscardHandler)})
		meshes = append(meshes, mesh)
		if s.carrier == "" || s.carrier == "local" {
			addresses = append(addresses, "")
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer(exchange.ServerOptions()...)
		mesh.Register(server)
		served := make(chan struct{})
		go func() {
			defer close(served)
			server.Serve(l)
		}()
		addresses = append(addresses, l.Addr().String())
		stops = append(stops, func() {
			server.Stop()
			<-served
		})
	}
	members := make([]*exchange.Membership, len(workers))
	errs := make([]error, len(workers))
	var wait sync.WaitGroup
	for i, local := range workers {
		g := exchange.Group{Job: s.job.Name, Generation: 1, Local: local, Address: addresses[i]}
		if s.carrier == "grpc" {
			g.Carrier = exchange.CarrierGRPC
		}
		for k, other := range workers {
			if k != i {
				g.Peers = append(g.Peers, exchange.Peer{Cell: other[0], Worker: fmt.Sprintf("w%d", k), Address: addresses[k]})
			}
		}
		wait.Go(func() { members[i], errs[i] = meshes[i].Join(context.Background(), g) })
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	ends = map[exchange.Cell]exchange.Exchanger{}
	at := map[exchange.Cell]*exchange.Membership{}
	for i, local := range workers {
		for _, c := range local {
			ends[c], at[c] = members[i].Exchanger(c), members[i]
			if s.delay {
				ends[c] = &delayed{Exchanger: ends[c], r: rand.New(rand.NewPCG(7, uint64(c.Column)))}
			}
		}
	}
	return ends, func(c exchange.Cell, reason string) { at[c].Abort(reason) }, func() {
		for i, m := range members {
			wait.Go(func() {
				m.Close()
				meshes[i].Close()
			})
		}
		wait.Wait()
		for _, stop := range stops {
			stop()
		}
	}
}

// run trains all cells of a job, from a step whose files are in root, until all have ended.
func (s setup) run(t testing.TB) *outcome {
	t.Helper()
	plan, err := s.job.Plan()
	if err != nil {
		t.Fatal(err)
	}
	var cells []exchange.Cell
	for k := range s.job.Columns {
		cells = append(cells, exchange.Cell{Column: k})
	}
	ends, abort, leave := s.join(t, cells)
	defer leave()
	training, err := data.Open(s.job.Train.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer training.Close()
	var test *data.Pack
	if s.job.Test != nil {
		if test, err = data.Open(s.job.Test.Path); err != nil {
			t.Fatal(err)
		}
		defer test.Close()
	}
	out := &outcome{digest: map[exchange.Cell][32]byte{}, saved: map[uint64]map[exchange.Cell]checkpoint.Info{},
		stopped: map[exchange.Cell]uint64{}, errs: map[exchange.Cell]error{}, statuses: map[exchange.Cell]Status{}}
	built := map[exchange.Cell]*Cell{}
	for _, id := range cells {
		in := plan.Network.Input
		var source Source = data.NewLoader(s.job, training, test, in.Height, in.Width)
		if s.source != nil {
			source = s.source(id, source)
		}
		if s.exchanger != nil {
			ends[id] = s.exchanger(id, ends[id])
		}
		c, err := New(Config{Job: s.job, Plan: plan, Cell: id, Cells: cells, Generation: 1, Device: s.dev,
			Exchanger: ends[id], Source: source, Directory: s.root, Now: time.Now, Log: slog.New(slog.DiscardHandler),
			Report: func(e Event) {
				out.report(e)
				if s.report != nil {
					s.report(e)
				}
			}})
		if err != nil {
			t.Fatal(err)
		}
		if s.from == 0 {
			err = c.Initialise()
		} else {
			name, _ := checkpoint.Path(checkpoint.Meta{Job: s.job.Name, Generation: 1, Step: s.from, Column: id.Column})
			err = c.Restore(context.Background(), filepath.Join(s.root, name), checkpoint.Want{Meta: checkpoint.Meta{Job: s.job.Name,
				Step: s.from, Column: id.Column, PlanDigest: plan.Digest(), Numerics: s.dev.Info().Numerics}})
		}
		if err != nil {
			t.Fatal(err)
		}
		built[id] = c
	}
	if s.started != nil {
		s.started(built)
	}
	ctx := s.context
	if ctx == nil {
		ctx = context.Background()
	}
	var wait sync.WaitGroup
	for id, c := range built {
		wait.Go(func() {
			err := c.Run(ctx)
			out.mu.Lock()
			out.errs[id], out.statuses[id] = err, c.Status()
			out.mu.Unlock()
			if err != nil {
				abort(id, err.Error())
			}
		})
	}
	wait.Wait()
	for _, c := range built {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	return out
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
