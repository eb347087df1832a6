package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"colonnade/checkpoint"
	"colonnade/proto/clusterpb"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/exchange"
	"colonnade/worker/train"
)

// run is one generation of a job on this worker, from the assignment to the end of its cells.
func (h *host) run(ctx context.Context, run *assignment, a *clusterpb.Assign) error {
	j, err := job.Decode(a.Spec)
	if err != nil {
		return permanentError{fmt.Errorf("read job %s: %w", a.Job, err)}
	}
	plan, err := j.Plan()
	if err != nil {
		return permanentError{fmt.Errorf("plan job %s: %w", a.Job, err)}
	}
	packs, err := openPacks(j, h.packs)
	if err != nil {
		return permanentError{err}
	}
	defer func() {
		if err := packs.close(); err != nil {
			h.log.Warn("close packs", "job", a.Job, "err", err)
		}
	}()
	group, cells := h.group(j, plan, a)
	members, err := h.mesh.Join(ctx, group)
	if err != nil {
		return fmt.Errorf("join generation %d: %w", a.Generation, err)
	}
	defer members.Close()
	err = h.runCells(ctx, run, a, j, plan, packs, members, cells)
	if err != nil {
		members.Abort(err.Error())
		// A peer that aborted says why; that explains more than the broken link it left behind.
		if cause := members.Err(); cause != nil && !errors.Is(err, cause) && errors.Is(err, exchange.ErrPeerLost) {
			err = cause
		}
	}
	return err
}

// group is the exchange of one generation: our cells, everyone else's, and all of them.
func (h *host) group(j *job.Job, plan *shard.Plan, a *clusterpb.Assign) (exchange.Group, []exchange.Cell) {
	g := exchange.Group{Job: a.Job, Generation: a.Generation, PlanDigest: plan.Digest(),
		Numerics: h.device.Info().Numerics, Carrier: h.carrier, Address: h.address}
	for _, c := range a.Cells {
		g.Local = append(g.Local, cellOf(c))
	}
	var all []exchange.Cell
	for _, p := range a.Placement {
		cell := cellOf(p.Cell)
		all = append(all, cell)
		if !slices.Contains(g.Local, cell) {
			g.Peers = append(g.Peers, exchange.Peer{Cell: cell, Worker: p.Worker, Address: p.Address})
		}
	}
	return g, all
}

// runCells builds the cells, gives them their state and runs them until all have ended; the first error ends all.
func (h *host) runCells(ctx context.Context, run *assignment, a *clusterpb.Assign, j *job.Job, plan *shard.Plan,
	packs *packs, members *exchange.Membership, all []exchange.Cell) (err error) {
	built := map[exchange.Cell]*train.Cell{}
	defer func() {
		run.mu.Lock()
		run.cells = nil
		run.mu.Unlock()
		for _, c := range built {
			err = errors.Join(err, c.Close())
		}
	}()
	steps := j.StepsPerEpoch()
	for _, pc := range a.Cells {
		id := cellOf(pc)
		c, err := train.New(train.Config{Job: j, Plan: plan, Cell: id, Cells: all, Generation: a.Generation,
			Device: h.device, Exchanger: members.Exchanger(id), Source: packs.source(j, plan), Directory: h.root,
			Report: func(e train.Event) { h.report(h.eventReport(run, steps, e)) }, Now: time.Now, Log: h.log})
		if err != nil {
			return fmt.Errorf("build: %w", err)
		}
		built[id] = c
		if err := checkpoint.Sweep(h.root, a.Job, id.Replica, id.Column); err != nil {
			h.log.Warn("files of writes that were cut off stay behind", "job", a.Job, "cell", id, "err", err)
		}
		if err := h.restore(ctx, run, a, c, id, plan); err != nil {
			return err
		}
	}
	run.mu.Lock()
	run.cells = built
	for _, c := range built {
		if run.stop {
			c.RequestStop()
		}
	}
	run.mu.Unlock()
	h.log.Info("training", "job", a.Job, "generation", a.Generation, "cells", len(built))
	g, ctx := errgroup.WithContext(ctx)
	for _, c := range built {
		g.Go(func() error { return c.Run(ctx) })
	}
	return g.Wait()
}

// restore gives a cell the state of the assignment's checkpoint, or its first one. A file that cannot be used is
// reported, so that the coordinator falls back to an older one.
func (h *host) restore(ctx context.Context, run *assignment, a *clusterpb.Assign, c *train.Cell, id exchange.Cell,
	plan *shard.Plan) error {
	if len(a.Restore) == 0 {
		return c.Initialise()
	}
	m := a.Restore[0]
	i := slices.IndexFunc(m.Files, func(f *clusterpb.CheckpointFile) bool { return cellOf(f.Cell) == id })
	if i < 0 {
		return fmt.Errorf("checkpoint of step %d has no file of cell %s", m.Step, id)
	}
	want, err := wanted(m, m.Files[i], id, plan)
	if err == nil {
		err = h.obtain(ctx, m.Files[i])
	}
	if err == nil {
		err = c.Restore(ctx, filepath.Join(h.root, filepath.FromSlash(m.Files[i].Path)), want)
	}
	if err != nil && ctx.Err() == nil {
		h.report(&clusterpb.Report{Job: a.Job, Generation: a.Generation, Kind: &clusterpb.Report_Bad{
			Bad: &clusterpb.CheckpointBad{Step: m.Step, Cell: cellPB(id), Reason: err.Error()}}})
		return fmt.Errorf("restore step %d: %w", m.Step, err)
	}
	return err
}

// wanted is what a checkpoint file must be.
func wanted(m *clusterpb.Manifest, f *clusterpb.CheckpointFile, id exchange.Cell, plan *shard.Plan) (
	checkpoint.Want, error) {
	sum, err := digestOf(f.Sha256)
	if err != nil {
		return checkpoint.Want{}, fmt.Errorf("manifest of step %d: %w", m.Step, err)
	}
	return checkpoint.Want{Bytes: f.Bytes, SHA256: sum, Meta: checkpoint.Meta{Job: m.Job, Step: m.Step,
		Replica: id.Replica, Column: id.Column, PlanDigest: plan.Digest(), Numerics: m.Numerics}}, nil
}

// obtain makes sure that a checkpoint file is in this worker's directory: another worker may have written it into its
// own.
func (h *host) obtain(ctx context.Context, f *clusterpb.CheckpointFile) error {
	path := filepath.Join(h.root, filepath.FromSlash(f.Path))
	if _, err := os.Stat(path); err == nil || f.Address == "" || f.Worker == h.worker {
		return nil // there, or nobody to ask: loading says what is wrong
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("fetch checkpoint file: %w", err)
	}
	out, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("fetch checkpoint file: %w", err)
	}
	defer os.Remove(out.Name())
	err = exchange.Fetch(ctx, f.Address, f.Path, out)
	err = errors.Join(err, out.Sync(), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("fetch checkpoint file %s from worker %s: %w", f.Path, f.Worker, err)
	}
	return nil
}
