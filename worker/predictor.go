package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"colonnade/cudakern"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/data"
	"colonnade/worker/exchange"
	"colonnade/worker/train"
)

// predictor is a model ready to compute: all its columns' cells in this process, each on a device of its own.
type predictor struct {
	plan    *shard.Plan
	source  *stillSource
	cells   []*train.Cell
	logits  [][]float32 // by cell
	hidden  [][]float32 // by cell, the last hidden layer; nil: nobody wants it
	batches int         // so far
	closers []func() error
}

// stillSource tells a cell the shape of images and their mean; batches come by hand.
type stillSource struct {
	channels, height, width int
	mean                    []float32
}

func (s *stillSource) Train(uint64) data.Batch { return data.Batch{} }
func (s *stillSource) Test(int) data.Batch     { return data.Batch{} }
func (s *stillSource) TestBatches() int        { return 0 }
func (s *stillSource) Shape() (channels, height, width int) {
	return s.channels, s.height, s.width
}
func (s *stillSource) Mean() []float32 { return s.mean }

// opener opens a device anew for every cell.
func opener(device string) func(cudakern.Settings) (cudakern.Device, error) {
	return func(s cudakern.Settings) (cudakern.Device, error) { return openDevice(device, s) }
}

// newPredictor builds a model's cells for batches of so many images. source says how images are stored. What it
// returns is the caller's to close, also beside an error.
func newPredictor(ctx context.Context, t *loadedModel, source *stillSource, batch, threads int,
	open func(cudakern.Settings) (cudakern.Device, error)) (*predictor, error) {
	p := &predictor{plan: t.state.Plan, source: source}
	j, err := t.predictJob(source, batch)
	if err != nil {
		return p, err
	}
	// The job's own plan may name the network otherwise; parameters and arithmetic are the same.
	mesh := exchange.New(exchange.Config{Worker: "predict", Log: slog.New(slog.DiscardHandler)})
	p.closers = append(p.closers, mesh.Close)
	g := exchange.Group{Job: j.Name, Generation: 1, PlanDigest: p.plan.Digest(), Carrier: exchange.CarrierAuto,
		Largest: largest(j, p.plan), Devices: map[exchange.Cell]cudakern.Device{}}
	for k := range p.plan.Columns {
		id := exchange.Cell{Column: k}
		g.Local = append(g.Local, id)
		d, err := open(cudakern.Settings{Threads: share(threads, k, p.plan.Columns), Direct: j.Direct()})
		if err != nil {
			return p, err
		}
		p.closers = append(p.closers, d.Close)
		g.Devices[id], g.Numerics = d, d.Info().Numerics
	}
	members, err := mesh.Join(ctx, g)
	if err != nil {
		return p, fmt.Errorf("join the columns: %w", err)
	}
	p.closers = append(p.closers, func() error { members.Close(); return nil })
	for k, id := range g.Local {
		c, err := train.New(train.Config{Job: j, Plan: p.plan, Cell: id, Cells: g.Local, Generation: 1, Device: g.Devices[id],
			Exchanger: members.Exchanger(id), Source: source, Report: func(train.Event) {}, Now: time.Now,
			Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			return p, err
		}
		p.closers = append(p.closers, c.Close)
		if err := c.SetWeights(t.state.Values[k]); err != nil {
			return p, err
		}
		p.cells = append(p.cells, c)
		p.logits = append(p.logits, make([]float32, batch*p.plan.Network.Classes))
	}
	return p, nil
}

// predictJob is a job that has the model's network and sees images as it does.
func (t *loadedModel) predictJob(source *stillSource, batch int) (*job.Job, error) {
	j, err := job.Parse("predict", fmt.Appendf(nil, "job: predict\nnetwork: predict\ncolumns: %d\n"+
		"data: {train: none}\nrecipe: {batch: %d, steps: 1, rate: 1}\n", t.about.Columns, batch))
	if err != nil {
		return nil, err
	}
	j.Network, j.Augment.Scale = t.about.Name, t.about.Scale
	if t.about.CentreMean {
		j.Augment.Mean = job.MeanCentre
	}
	if t.job != nil {
		j.Winograd = t.job.Winograd
	}
	return j, j.Resolve(t.about.Text, &job.Pack{Path: "none", ID: "none", Images: batch, Channels: source.channels,
		Height: source.height, Width: source.width, Classes: t.state.Plan.Network.Classes}, nil)
}

// predict computes the logits of a batch, images x classes. They are valid until the next call.
func (p *predictor) predict(ctx context.Context, batch data.Batch) ([]float32, error) {
	index := p.batches
	p.batches++
	g, ctx := errgroup.WithContext(ctx)
	for k, c := range p.cells {
		g.Go(func() error {
			if err := c.Predict(ctx, index, batch, p.logits[k]); err != nil || p.hidden == nil || len(p.hidden[k]) == 0 {
				return err
			}
			return c.Hidden(p.hidden[k])
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("predict: %w", err)
	}
	return p.logits[0], nil
}

// wantHidden has predictions of so many images at once leave the last hidden layer too.
func (p *predictor) wantHidden(batch int) {
	for _, c := range p.cells {
		p.hidden = append(p.hidden, make([]float32, batch*c.HiddenUnits()))
	}
}

// feature gathers what the last hidden layer made of image i of the last batch of so many, all columns' units.
func (p *predictor) feature(i, batch int) (out []float32) {
	for _, h := range p.hidden {
		units := len(h) / batch
		out = append(out, h[i*units:(i+1)*units]...)
	}
	return out
}

// close gives everything back, the last made first.
func (p *predictor) close() (err error) {
	for i := len(p.closers) - 1; i >= 0; i-- {
		err = also(err, p.closers[i]())
	}
	p.closers = nil
	return err
}
