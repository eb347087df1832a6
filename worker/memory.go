package main

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"

	"colonnade/proto/clusterpb"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/arena"
	"colonnade/worker/exchange"
	"colonnade/worker/train"
)

// errAsked ends a generation that the coordinator asks about: it is over elsewhere.
var errAsked = errors.New("the coordinator asks what is held of it")

// memoryError marks a failure of going on from memory: the next generation goes on from a checkpoint.
type memoryError struct{ error }

func (e memoryError) Unwrap() error { return e.error }

// cellMemory is the memory of the cells of one run.
type cellMemory map[exchange.Cell]*arena.Arena

// memoryOf is how a cell finds memory for its state: what an earlier generation has left, if the assignment goes on
// from that, else memory that is empty.
func (h *host) memoryOf(ctx context.Context, run *assignment, a *clusterpb.Assign, j *job.Job, plan *shard.Plan,
	id exchange.Cell, numerics string, all cellMemory) func(train.MemoryLayout) (train.Memory, error) {
	if h.arenas == nil {
		return nil
	}
	return func(l train.MemoryLayout) (train.Memory, error) {
		var parts []arena.Part
		for _, p := range l.Parts {
			parts = append(parts, arena.Part(p))
		}
		key := arena.Key{Cluster: h.clusterID(), Job: a.Job, Replica: id.Replica, Column: id.Column, Identity: j.Identity(),
			Plan: plan.Digest(), Numerics: numerics, Layout: arena.Layout(parts), HalfBytes: l.Bytes}
		var m *arena.Arena
		var err error
		if a.FromMemory {
			if m, err = h.recall(ctx, run, a, key); err != nil {
				return nil, err
			}
		} else if m, err = h.arenas.Make(key, a.Generation); err != nil {
			return nil, err
		}
		all[id] = m
		return m, nil
	}
}

// close lets go of the memory; its cells must have been closed. What it holds stays, for the next generation.
func (m cellMemory) close() {
	for _, id := range slices.SortedFunc(maps.Keys(m), compareCells) {
		m[id].Close()
	}
}

// kinds says where the states lie, in words.
func (m cellMemory) kinds(built map[exchange.Cell]*train.Cell) map[exchange.Cell]string {
	out := map[exchange.Cell]string{}
	for id := range built {
		switch {
		case m[id] == nil:
			out[id] = "device"
		case built[id].Mirrored():
			out[id] = "device, now and then " + string(m[id].Kind())
		default:
			out[id] = string(m[id].Kind())
		}
	}
	return out
}

// retire removes what older generations have left of cells that have a state of their own now.
func (h *host) retire(m cellMemory, generation uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	keys := slices.Collect(maps.Values(m))
	h.tasks.Go(func() {
		for _, a := range keys {
			h.arenas.Retire(a, generation)
		}
	})
}

func (h *host) clusterID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cluster
}

// Welcomed tidies up and tells the coordinator what there is, so that it can say what nobody needs any more.
func (h *host) Welcomed(cluster string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cluster = cluster
	if h.arenas == nil || h.closed {
		return
	}
	h.tasks.Go(func() {
		for _, path := range h.arenas.Sweep(cluster) {
			h.log.Info("removed memory that nobody can use", "path", path)
		}
		h.copies.Sweep(cluster)
		if held := h.held(cluster, ""); len(held) > 0 {
			h.answer(&clusterpb.Holdings{Held: held})
		}
	})
}

// held is what this host has in memory of a job, or of all.
func (h *host) held(cluster, job string) (out []*clusterpb.Held) {
	for _, x := range h.arenas.Held(cluster, job) {
		out = append(out, &clusterpb.Held{Job: x.Job, Generation: x.Generation, Steps: x.Steps, Numerics: x.Numerics,
			Memory: string(x.Kind), Cell: &clusterpb.Cell{Replica: int32(x.Replica), Column: int32(x.Column)}})
	}
	return append(out, h.copiesHeld(cluster, job)...)
}

// Ask ends what runs of a generation, since its steps must not go on when others go back to them, and says then what
// this host holds.
func (h *host) Ask(a *clusterpb.Ask) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.answer == nil {
		return
	}
	run, cluster := h.runs[a.Job], h.cluster
	if run != nil && run.generation > a.Generation {
		return // the question is of the past
	}
	if run != nil {
		run.cancel(errAsked)
	}
	h.tasks.Go(func() {
		if run != nil {
			<-run.quiet
		}
		// What comes late of that generation, or has others dropped for it, does not change the answer any more.
		h.copies.Fence(cluster, a.Job, a.Generation+1)
		out := &clusterpb.Holdings{Job: a.Job, Generation: a.Generation}
		if h.arenas != nil {
			out.Held = h.held(cluster, a.Job)
		}
		h.answer(out)
	})
}

// Forget removes what nobody needs any more.
func (h *host) Forget(f *clusterpb.Forget) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.arenas == nil {
		return
	}
	below, cluster := f.Below, h.cluster
	if below == 0 {
		below = math.MaxUint64
	}
	run := h.runs[f.Job]
	h.tasks.Go(func() {
		if run != nil && run.generation < below { // it is about to end: the coordinator has taken it back
			<-run.quiet
		}
		if n := h.arenas.Forget(cluster, f.Job, below); n > 0 {
			h.log.Info("removed memory of cells that is not needed any more", "job", f.Job, "arenas", n)
		}
		if n := h.copies.Forget(cluster, f.Job, below); n > 0 {
			h.log.Info("removed copies of cells that are not needed any more", "job", f.Job, "copies", n,
				"bytes left", h.copies.Bytes())
		}
	})
}

// forgetFinished removes what jobs have left whose cells here have all come to their end, files and all: the process
// ends, and the coordinator may not have had the time to say so.
func (h *host) forgetFinished() {
	if h.arenas == nil {
		return
	}
	for _, job := range slices.Sorted(maps.Keys(h.finished)) {
		h.arenas.Forget(h.cluster, job, math.MaxUint64)
	}
}
