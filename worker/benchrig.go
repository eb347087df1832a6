package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"colonnade/cudakern"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/exchange"
	"colonnade/worker/train"
)

// benchRig is the cells of a bench in this process, each on a device of its own, and their exchange.
type benchRig struct {
	job     *job.Job
	plan    *shard.Plan
	all     []exchange.Cell
	cells   []*benchCell
	info    cudakern.Info
	members *exchange.Membership // nil: the cell runs alone
	pace    *pace                // nil: as fast as it goes
	digests bool                 // of the cells are wanted
	closers []func() error
}

// benchCell is one cell and what its steps took.
type benchCell struct {
	id      exchange.Cell
	threads int
	device  cudakern.Device
	steps   []train.StepTimes
	losses  []float64 // of every step, over the whole batch
	digest  [32]byte  // of the state behind the last
}

// open opens the devices and joins the cells. What it returns is the caller's to close, also beside an error.
func (c *benchCmd) open(ctx context.Context, j *job.Job, plan *shard.Plan) (*benchRig, error) {
	local, all := c.cells()
	r := &benchRig{job: j, plan: plan, all: all}
	for i, id := range local {
		s := cudakern.Settings{Threads: share(c.Threads, i, len(local)), Direct: j.Direct(), TF32: c.TF32}
		d, err := openDevice(c.Device, s)
		if err != nil {
			return r, err
		}
		r.closers = append(r.closers, d.Close)
		r.cells = append(r.cells, &benchCell{id: id, threads: s.Threads, device: d})
	}
	r.info = r.cells[0].device.Info()
	if need := r.memory(); r.info.Memory > 0 && need > r.info.Memory {
		return r, tooLarge(fmt.Errorf("this takes at least %s of memory, and %s is free", gib(need), gib(r.info.Memory)))
	}
	if c.Alone {
		return r, nil
	}
	return r, r.join(ctx, exchange.Carrier(c.Carrier), local)
}

// tooLarge says what to do when memory is short.
func tooLarge(err error) error {
	return fmt.Errorf("%w; use a smaller --batch or another --network", err)
}

func gib(bytes int64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }

// memory is what the cells need at least: parameters, maps and their gradients, what crosses, and images; without what
// ops keep for themselves.
func (r *benchRig) memory() int64 {
	const float = 4
	batch := int64(r.job.Recipe.Batch)
	images := min(2*batch, mostImages) // of the dataset, and a batch on both sides of each cell
	var floats int64
	for _, c := range r.cells {
		images += 2 * batch
		// Two halves of value and momentum, the gradient, and a snapshot of value and momentum.
		floats += 7 * r.plan.Parameters(c.id.Column)
		relu := shard.Kind("")
		for _, lp := range r.plan.Layers {
			if lp.Layer.Kind != shard.ReLU || relu != shard.Conv && relu != shard.Dense { // else done by the layer before
				floats += 2 * batch * int64(lp.Columns[c.id.Column].Out.Len())
			}
			relu = lp.Layer.Kind
		}
		for from := range r.plan.Columns {
			floats += 2 * batch * r.plan.Crossing(from, c.id.Column, true)
		}
	}
	p := r.job.Train
	return float*floats + images*int64(p.Channels*p.Height*p.Width)
}

// join links the cells as a worker links those it runs.
func (r *benchRig) join(ctx context.Context, carrier exchange.Carrier, local []exchange.Cell) (err error) {
	mesh := exchange.New(exchange.Config{Worker: "bench", Log: slog.New(slog.DiscardHandler)})
	r.closers = append(r.closers, mesh.Close)
	g := exchange.Group{Job: r.job.Name, Generation: 1, PlanDigest: r.plan.Digest(), Numerics: r.info.Numerics,
		Carrier: carrier, Local: local, Largest: largest(r.job, r.plan), Devices: map[exchange.Cell]cudakern.Device{}}
	for _, c := range r.cells {
		g.Devices[c.id] = c.device
	}
	if carrier != exchange.CarrierAuto {
		if g.Address, err = r.serve(mesh); err != nil {
			return err
		}
	}
	if r.members, err = mesh.Join(ctx, g); err != nil {
		return fmt.Errorf("join the cells: %w", err)
	}
	r.closers = append(r.closers, r.members.Close)
	return nil
}

// serve has carriers that want to be called find the mesh.
func (r *benchRig) serve(mesh *exchange.Mesh) (address string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen for the exchange: %w; use --carrier auto", err)
	}
	server := mesh.NewServer()
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	r.closers = append(r.closers, func() error {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve the exchange: %w", err)
		}
		return nil
	})
	return l.Addr().String(), nil
}

// close gives everything back, the last made first.
func (r *benchRig) close() (err error) {
	for i := len(r.closers) - 1; i >= 0; i-- {
		err = also(err, r.closers[i]())
	}
	r.closers = nil
	return err
}

// measure builds the cells and runs them for so many steps; the first error ends all.
func (r *benchRig) measure(ctx context.Context, clock func() func() time.Time, steps int) (err error) {
	images := newSynthetic(r.job.Train)
	built := make([]*train.Cell, len(r.cells))
	defer func() {
		for _, c := range built {
			if c != nil {
				err = also(err, c.Close())
			}
		}
	}()
	var g errgroup.Group
	for i, c := range r.cells {
		now := clock()
		g.Go(func() (err error) {
			if built[i], err = r.build(c, images, now); err == nil {
				err = built[i].Initialise()
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		if errors.Is(err, cudakern.ErrMemory) {
			err = tooLarge(err)
		}
		return err
	}
	if err := r.pace.wait(); err != nil {
		return err
	}
	running, ctx := errgroup.WithContext(ctx)
	for i, c := range r.cells {
		running.Go(func() error {
			err := built[i].Measure(ctx, steps, func(s train.StepTimes) error {
				c.steps = append(c.steps, s)
				c.losses = append(c.losses, built[i].Loss())
				return r.pace.step(s.Ended.Sub(s.Began), len(c.steps) == steps)
			})
			if err == nil && r.digests {
				c.digest, err = built[i].Digest()
			}
			return err
		})
	}
	return running.Wait()
}

// build makes one cell.
func (r *benchRig) build(c *benchCell, images *synthetic, now func() time.Time) (*train.Cell, error) {
	var ex exchange.Exchanger = train.NewAlone()
	if r.members != nil {
		ex = r.members.Exchanger(c.id)
	}
	return train.New(train.Config{Job: r.job, Plan: r.plan, Cell: c.id, Cells: r.all, Generation: 1, Device: c.device,
		Exchanger: ex, Source: images.source(r.job, r.plan.Network.Input), Report: func(train.Event) {}, Now: now,
		Log: slog.New(slog.DiscardHandler)})
}

// carriers says over what the cells exchange.
func (r *benchRig) carriers() string {
	if r.members == nil {
		return ""
	}
	return r.members.Carriers(r.cells[0].id)
}
