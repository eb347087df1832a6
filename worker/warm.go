package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"colonnade/cudakern"
	"colonnade/proto/clusterpb"
	"colonnade/shard/job"
	"colonnade/worker/exchange"
	"colonnade/worker/train"
)

// A spare gets ready for a job that others run: it opens the job's packs and keeps them mapped, and builds a cell of
// every column once, on a device of its own, and frees it again. What building is slow for, making the code of the ops,
// stays with the process, and so does the pack in the machine's memory. The cells that it may be given later are built
// as ever, so that what they compute has nothing to do with this.

// warming is a worker's readiness for a job.
type warming struct {
	job    string
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing is built any more
	packs  *packs        // mapped, from done on; nil: they could not be had
}

// Warm gets ready for a job, if this worker has nothing to do.
func (h *host) Warm(w *clusterpb.Warm) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || len(h.runs) > 0 || h.warm != nil && h.warm.job == w.Job {
		return
	}
	old := h.warm
	ctx, cancel := context.WithCancel(h.ctx)
	now := &warming{job: w.Job, cancel: cancel, done: make(chan struct{})}
	h.warm = now
	h.tasks.Go(func() {
		defer close(now.done)
		defer cancel()
		h.cool(old)
		began := time.Now()
		if err := h.build(ctx, now, w); err != nil {
			h.log.Info("not ready for a job that others run", "job", w.Job, "err", err)
			return
		}
		h.log.Info("ready for a job that others run", "job", w.Job, "took", time.Since(began))
	})
}

// cool ends a readiness. The packs that are mapped are closed.
func (h *host) cool(w *warming) {
	if w == nil {
		return
	}
	w.cancel()
	<-w.done
	if w.packs == nil {
		return
	}
	if err := w.packs.close(); err != nil {
		h.log.Warn("close packs", "job", w.job, "err", err)
	}
	w.packs = nil
}

// build opens the packs of a job and builds a cell of every column once.
func (h *host) build(ctx context.Context, now *warming, w *clusterpb.Warm) (err error) {
	j, err := job.Decode(w.Spec)
	if err != nil {
		return fmt.Errorf("read job %s: %w", w.Job, err)
	}
	plan, err := j.Plan()
	if err != nil {
		return fmt.Errorf("plan job %s: %w", w.Job, err)
	}
	if now.packs, err = h.packsOf(ctx, j, w.Peers, func(string) {}); err != nil {
		now.packs = nil
		return err
	}
	var all []exchange.Cell
	for r := range j.Replicas {
		for k := range j.Columns {
			all = append(all, exchange.Cell{Replica: r, Column: k})
		}
	}
	for k := range j.Columns {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := h.buildOnce(j, train.Config{Job: j, Plan: plan, Cell: exchange.Cell{Column: k}, Cells: all, Generation: 1,
			Exchanger: train.NewAlone(), Source: now.packs.source(j, plan, 0), Now: time.Now,
			Report: func(train.Event) {}, Log: slog.New(slog.DiscardHandler)}); err != nil {
			return err
		}
	}
	return nil
}

// buildOnce builds a cell and frees it.
func (h *host) buildOnce(j *job.Job, cfg train.Config) (err error) {
	cfg.Device, err = h.open(cudakern.Settings{Threads: 1, Direct: j.Direct()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cfg.Device.Close()) }()
	c, err := train.New(cfg)
	if err != nil {
		return err
	}
	return c.Close()
}

// Drain says what becomes of this worker.
func (h *host) Drain(d *clusterpb.Drain) {
	h.mu.Lock()
	h.draining = d.Draining
	h.mu.Unlock()
	switch {
	case d.Drained:
		h.log.Warn("this worker is drained: nothing needs it any more, and it may be stopped")
	case d.Draining:
		h.log.Warn("this worker is being drained: its cells go elsewhere at a step boundary")
	default:
		h.log.Warn("this worker is given cells again")
	}
}

// isDraining says whether no cell is placed on this worker.
func (h *host) isDraining() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.draining
}

// ending says whether nothing is begun here any more.
func (h *host) ending() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}
