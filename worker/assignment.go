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
	"colonnade/cudakern"
	"colonnade/proto/clusterpb"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/exchange"
	"colonnade/worker/train"
)

// run is one generation of a job on this worker, from the assignment to the end of its cells. What went wrong is told
// to the coordinator first, then to the peers: it is the coordinator who starts anew. It says whether the cells have
// come to their end, or to a stop that was agreed on.
func (h *host) run(ctx context.Context, run *assignment, a *clusterpb.Assign) (ended bool) {
	members, err := h.train(ctx, run, a)
	close(run.quiet)
	h.tell(ctx, run, err)
	if errors.Is(err, cudakern.ErrLost) {
		defer h.die(err) // when the peers have been told
	}
	if members == nil {
		return false
	}
	if err != nil {
		members.Abort(err.Error())
	}
	members.Close()
	return err == nil
}

// train prepares a generation and runs its cells. The membership it returns is the caller's to leave.
func (h *host) train(ctx context.Context, run *assignment, a *clusterpb.Assign) (_ *exchange.Membership, err error) {
	if ctx.Err() != nil { // revoked before its turn came
		return nil, context.Cause(ctx)
	}
	run.enter(phasePacks)
	j, err := job.Decode(a.Spec)
	if err != nil {
		return nil, permanentError{fmt.Errorf("read job %s: %w", a.Job, err)}
	}
	plan, err := j.Plan()
	if err != nil {
		return nil, permanentError{fmt.Errorf("plan job %s: %w", a.Job, err)}
	}
	packs, err := h.packsOf(ctx, j, a.Peers, run.enter)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := packs.close(); err != nil {
			h.log.Warn("close packs", "job", a.Job, "err", err)
		}
	}()
	run.enter(phaseDevices)
	devices, err := h.openDevices(a, j.Direct())
	defer func() { err = also(err, devices.close()) }() // those that were opened, if not all could be
	if err != nil {
		return nil, err
	}
	if err := h.fits(j, plan, a, packs, devices); err != nil {
		return nil, err
	}
	run.enter(phaseJoin)
	group, cells := h.group(j, plan, a, devices)
	members, err := h.mesh.Join(ctx, group)
	if err != nil {
		return nil, notJoined(a.Generation, err)
	}
	err = h.runCells(ctx, run, a, j, plan, packs, devices, members, cells)
	// A peer that aborted says why; that explains more than the broken link it left behind.
	cause := members.Err()
	if err != nil && cause != nil && !errors.Is(err, cause) && errors.Is(err, exchange.ErrPeerLost) {
		if where, ok := errors.AsType[*train.CellError](err); ok {
			cause = &train.CellError{Cell: where.Cell, Step: where.Step, Err: cause}
		}
		err = cause
	}
	return members, err
}

// notJoined is why a generation cannot be joined. Trying again does not help where a carrier was asked for that is not
// to be had where the cells are, nor where workers are of two versions.
func notJoined(generation uint64, err error) error {
	err = fmt.Errorf("join generation %d: %w", generation, err)
	if errors.Is(err, exchange.ErrCarrier) || errors.Is(err, exchange.ErrVersions) {
		return permanentError{err}
	}
	return err
}

// group is the exchange of one generation: our cells, everyone else's, and all of them.
func (h *host) group(j *job.Job, plan *shard.Plan, a *clusterpb.Assign, devices cellDevices) (exchange.Group,
	[]exchange.Cell) {
	g := exchange.Group{Job: a.Job, Generation: a.Generation, PlanDigest: plan.Digest(), Version: train.StepVersion,
		Numerics: devices.numerics(), Devices: devices, Carrier: h.carrier, Address: h.address, Largest: largest(j, plan)}
	for _, c := range a.Cells {
		g.Local = append(g.Local, cellOf(c))
	}
	for _, p := range a.Placement {
		cell := cellOf(p.Cell)
		if !slices.Contains(g.Local, cell) {
			g.Peers = append(g.Peers, exchange.Peer{Cell: cell, Worker: p.Worker, Address: p.Address})
		}
	}
	return g, allCells(a)
}

// allCells are the cells of an assignment's job.
func allCells(a *clusterpb.Assign) (all []exchange.Cell) {
	for _, p := range a.Placement {
		all = append(all, cellOf(p.Cell))
	}
	return all
}

// largest is the size of the largest message of a step. Devices may lay maps out in more room: a message that is larger
// costs a copy more where it finds no room, and nothing else.
func largest(j *job.Job, plan *shard.Plan) uint64 {
	most := 0
	for _, x := range plan.Exchanges {
		for _, m := range x.Moves {
			most = max(most, m.Shape.Len())
		}
	}
	return uint64(most) * uint64(j.Slice()) * 4
}

// runCells builds the cells, gives them their state and runs them until all have ended; the first error ends all.
func (h *host) runCells(ctx context.Context, run *assignment, a *clusterpb.Assign, j *job.Job, plan *shard.Plan,
	packs *packs, devices cellDevices, members *exchange.Membership, all []exchange.Cell) (err error) {
	built, memory := map[exchange.Cell]*train.Cell{}, cellMemory{}
	defer func() {
		run.mu.Lock()
		run.cells = nil
		run.mu.Unlock()
		for _, c := range built {
			err = also(err, c.Close())
		}
		memory.close()
	}()
	if err := checkpoint.WriteSpec(h.root, a.Job, a.Spec); err != nil {
		h.log.Warn("checkpoints can be exported with the coordinator's help only", "job", a.Job, "err", err)
	}
	steps := j.StepsPerEpoch()
	for _, pc := range a.Cells {
		id := cellOf(pc)
		run.enter(phaseBuild)
		c, err := train.New(train.Config{Job: j, Plan: plan, Cell: id, Cells: all, Generation: a.Generation,
			Copy:    h.copyOf(run, id, memory),
			History: historyOf(a),
			Trace:   h.spansOf(a.Job, a.Generation, id),
			Skipped: a.Skipped, Accepted: a.Accepted,
			Device: devices[id], Exchanger: members.Exchanger(id), Source: packs.source(j, plan, id.Replica),
			Directory: h.root, Now: time.Now, Log: h.log,
			Memory: h.memoryOf(ctx, run, a, j, plan, id, devices.numerics(), memory),
			Report: func(e train.Event) { h.report(h.eventReport(run, devices.numerics(), steps, e)) }})
		if err != nil {
			if err = fmt.Errorf("build: %w", err); errors.Is(err, cudakern.ErrUnsupported) {
				err = permanentError{err}
			}
			return err
		}
		built[id] = c
		if err := checkpoint.Sweep(h.root, a.Job, id.Replica, id.Column); err != nil {
			h.log.Warn("files of writes that were cut off stay behind", "job", a.Job, "cell", id, "err", err)
		}
		run.enter(phaseRestore)
		if err := h.restore(ctx, run, a, c, id, j, plan); err != nil {
			return err
		}
	}
	h.retire(memory, a.Generation)
	run.mu.Lock()
	run.cells, run.links, run.memory = built, map[exchange.Cell]string{}, memory.kinds(built)
	for id := range built {
		run.links[id] = members.Carriers(id)
	}
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

// historyOf are the evaluations that an assignment tells of.
func historyOf(a *clusterpb.Assign) (h job.History) {
	for _, e := range a.History {
		n := float64(max(e.Images, 1))
		h = h.With(job.Evaluation{Step: e.Step, Top1: e.Top1Errors / n, Top5: e.Top5Errors / n, Loss: e.Loss})
	}
	return h
}

// restore gives a cell the state of the assignment's checkpoint, or its first one. A file that cannot be used is
// reported, so that the coordinator falls back to an older one; one that could not be had just now is not: the next
// generation may have more luck.
func (h *host) restore(ctx context.Context, run *assignment, a *clusterpb.Assign, c *train.Cell, id exchange.Cell,
	j *job.Job, plan *shard.Plan) error {
	if a.FromMemory {
		if err := c.Resume(a.MemoryStep, train.Owed{Evaluation: a.OwesEvaluation, Checkpoint: a.OwesCheckpoint}); err != nil {
			return memoryError{err}
		}
		return nil
	}
	if len(a.Restore) == 0 {
		return h.begin(j, c, id)
	}
	m := a.Restore[0]
	i := slices.IndexFunc(m.Files, func(f *clusterpb.CheckpointFile) bool { return cellOf(f.Cell) == id })
	if i < 0 {
		return fmt.Errorf("checkpoint of step %d has no file of cell %s", m.Step, id)
	}
	want, err := wanted(m, m.Files[i], id, plan)
	if err != nil {
		return err
	}
	err = h.load(ctx, m.Files[i], want, c.Restore)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if unusable(err) {
		h.report(&clusterpb.Report{Job: a.Job, Generation: a.Generation, Kind: &clusterpb.Report_Bad{
			Bad: &clusterpb.CheckpointBad{Step: m.Step, Cell: cellPB(id), Reason: err.Error()}}})
	}
	return fmt.Errorf("restore step %d: %w", m.Step, err)
}

// unusable says whether a checkpoint file will be no better at the next try.
func unusable(err error) bool {
	for _, final := range []error{checkpoint.ErrCorrupt, checkpoint.ErrMismatch, checkpoint.ErrMissing,
		checkpoint.ErrVersion, exchange.ErrNoFile} {
		if errors.Is(err, final) {
			return true
		}
	}
	return false
}

// errAway says that a checkpoint file lies with a worker that is not there: nothing is wrong with it.
var errAway = errors.New("checkpoint file cannot be had now")

// load restores from a checkpoint file. The file lies here, or the worker that wrote it hands it over; so it does when
// the copy that lies here is damaged.
func (h *host) load(ctx context.Context, f *clusterpb.CheckpointFile, want checkpoint.Want,
	restore func(context.Context, string, checkpoint.Want) error) error {
	path := filepath.Join(h.root, filepath.FromSlash(f.Path))
	elsewhere := f.Address != "" && f.Worker != h.worker
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) && f.Worker != h.worker && f.Address == "" {
		return fmt.Errorf("%w: %s is not in %s, and worker %s, which wrote it, is away; start that one again", errAway,
			f.Path, h.root, f.Worker)
	}
	if err == nil || !elsewhere {
		err = restore(ctx, path, want)
		if err == nil || !elsewhere || !unusable(err) || ctx.Err() != nil {
			return err
		}
		h.log.Warn("checkpoint file is fetched anew", "path", path, "worker", f.Worker, "err", err)
	}
	if err := h.fetch(ctx, f, path); err != nil {
		return err
	}
	return restore(ctx, path, want)
}

// wanted is what a checkpoint file must be.
func wanted(m *clusterpb.Manifest, f *clusterpb.CheckpointFile, id exchange.Cell, plan *shard.Plan) (
	checkpoint.Want, error) {
	want, err := checkpoint.Promised(f.Bytes, f.Xxh3, f.Sha256, f.Digest)
	if err != nil {
		return checkpoint.Want{}, fmt.Errorf("manifest of step %d: %w", m.Step, err)
	}
	want.Meta = checkpoint.Meta{Job: m.Job, Step: m.Step, Replica: id.Replica, Column: id.Column,
		PlanDigest: plan.Digest(), Numerics: m.Numerics}
	return want, nil
}

// fetch copies a checkpoint file from the worker that wrote it into this worker's directory.
func (h *host) fetch(ctx context.Context, f *clusterpb.CheckpointFile, path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("fetch checkpoint file %s from worker %s: %w", f.Path, f.Worker, err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	err = exchange.Fetch(ctx, f.Address, f.Path, out)
	if err == nil {
		err = out.Sync()
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), path)
}
