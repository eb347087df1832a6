package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"colonnade/proto/clusterpb"
	"colonnade/worker/arena"
	"colonnade/worker/buddy"
	"colonnade/worker/exchange"
)

// Buddies notes who keeps copies of the states of a job's cells here.
func (h *host) Buddies(b *clusterpb.Buddies) {
	h.mu.Lock()
	run := h.runs[b.Job]
	h.mu.Unlock()
	if run == nil || run.generation != b.Generation {
		return
	}
	run.mu.Lock()
	defer run.mu.Unlock()
	run.buddies = b.Workers
}

// copies is how copies of one cell's state come to be: one here, since other cells may have to go back to its step when
// they lose theirs, and one on another machine.
type copies struct {
	h     *host
	run   *assignment
	m     *arena.Arena
	given map[string]uint64 // by address of a worker that has got copies: the step of the last
}

// copyOf is how a cell has its state copied.
func (h *host) copyOf(run *assignment, id exchange.Cell, all cellMemory) func(context.Context, uint64, uint64) (bool,
	error) {
	if h.arenas == nil {
		return nil
	}
	c := &copies{h: h, run: run, given: map[string]uint64{}}
	return func(ctx context.Context, step, keep uint64) (bool, error) {
		if c.m = all[id]; c.m == nil {
			return false, nil
		}
		return c.copy(ctx, step, keep)
	}
}

// copy makes copies of a step. The one here comes first, so that the network does not hold up the cell: what its memory
// holds is copied while the next step is computed, and one that comes too late is given up. All else has time.
func (c *copies) copy(ctx context.Context, step, keep uint64) (whole bool, err error) {
	c.run.mu.Lock()
	buddies := c.run.buddies
	c.run.mu.Unlock()
	if len(buddies) == 0 {
		return false, nil
	}
	key := c.m.Key()
	a, err := c.h.copies.Begin(key, c.run.generation, step, keep)
	if err != nil {
		return false, err
	}
	if err := c.m.Snapshot(step, a.Room()); err != nil {
		a.Abort()
		return false, err
	}
	buddy.Yielding(func() {
		a.Filled()
		if err = a.Done(); err == nil {
			whole, err = c.hand(ctx, buddies, step, keep)
		}
	})
	return whole, err
}

// hand hands the copy here of a step to the first buddy that takes it.
func (c *copies) hand(ctx context.Context, buddies []*clusterpb.Buddy, step, keep uint64) (bool, error) {
	key := c.m.Key()
	own, err := c.h.copies.Open(key.Cluster, key.Job, key.Replica, key.Column, step)
	if err != nil {
		return false, err
	}
	defer own.Close()
	var why []error
	for _, b := range buddies {
		if err = c.h.buddies.Put(ctx, b.Address, own, keep); err == nil {
			c.given[b.Address] = step
			c.tidy(ctx, b.Address, keep)
			return true, nil
		}
		if ctx.Err() != nil {
			return false, err
		}
		why = append(why, err)
	}
	return false, errors.Join(why...)
}

// tidy has workers that were buddies before give up what is not needed. If they do not hear of it, the coordinator's
// word at the job's end stays.
func (c *copies) tidy(ctx context.Context, now string, keep uint64) {
	if keep == 0 {
		return
	}
	for address, step := range c.given {
		if address == now || step == keep {
			continue
		}
		if err := c.h.buddies.Drop(ctx, address, c.m.Key(), c.run.generation, keep); err != nil {
			c.h.log.Debug("copies stay where they are not needed", "job", c.run.job, "err", err)
		}
		delete(c.given, address)
	}
}

// recall gives a cell the memory it goes on from: what its host holds, in an arena or as a copy, or a copy that another
// worker hands over.
func (h *host) recall(ctx context.Context, run *assignment, a *clusterpb.Assign, key arena.Key) (*arena.Arena, error) {
	id := exchange.Cell{Replica: key.Replica, Column: key.Column}
	i := slices.IndexFunc(a.Placement, func(p *clusterpb.Placement) bool { return cellOf(p.Cell) == id })
	if i >= 0 && a.Placement[i].Source != "" && a.Placement[i].Source != h.worker {
		from := a.Placement[i]
		run.enter(fmt.Sprintf("fetch the state of cell %s from worker %s", id, from.Source))
		return h.filled(key, a, func(dst []byte) error {
			return h.buddies.Get(ctx, from.SourceAddress, key, a.MemoryStep, a.MemorySince, dst)
		})
	}
	m, err := h.arenas.Adopt(key, a.Generation, a.MemoryStep, a.MemorySince)
	if err == nil {
		return m, nil
	}
	c, cerr := h.copies.Open(key.Cluster, key.Job, key.Replica, key.Column, a.MemoryStep)
	if cerr != nil {
		return nil, memoryError{errors.Join(err, cerr)}
	}
	defer c.Close()
	return h.filled(key, a, func(dst []byte) error {
		if diff := key.Differs(&c.Key); diff != "" {
			return fmt.Errorf("%w: %s", buddy.ErrCorrupt, diff)
		}
		if c.Generation < a.MemorySince {
			return fmt.Errorf("%w but of generation %d, which was given up", buddy.ErrNone, c.Generation)
		}
		copy(dst, c.Data())
		return nil
	})
}

// filled makes an arena that holds the assignment's step. A copy that is not there or not sound will be neither at the
// next try; one that could not be fetched just now may be.
func (h *host) filled(key arena.Key, a *clusterpb.Assign, fill func([]byte) error) (*arena.Arena, error) {
	m, err := h.arenas.Make(key, a.Generation)
	if err != nil {
		return nil, err
	}
	half := int(a.MemoryStep % 2)
	if err := fill(m.Half(half)); err != nil {
		m.Remove()
		if errors.Is(err, buddy.ErrNone) || errors.Is(err, buddy.ErrCorrupt) {
			err = memoryError{err}
		}
		return nil, err
	}
	m.Finish(half, a.MemoryStep)
	return m, nil
}

// copiesHeld are the copies here of a job, or of all.
func (h *host) copiesHeld(cluster, job string) (out []*clusterpb.Held) {
	for _, c := range h.copies.Held(cluster, job) {
		out = append(out, &clusterpb.Held{Job: c.Key.Job, Generation: c.Generation, Steps: []uint64{c.Step},
			Numerics: c.Key.Numerics, Memory: "copy", Copy: true,
			Cell: &clusterpb.Cell{Replica: int32(c.Key.Replica), Column: int32(c.Key.Column)}})
	}
	return out
}

// machineID names what is lost together with this process's host: the running kernel.
func machineID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // it keeps no copies for others then, and others none for it
	}
	return strings.TrimSpace(string(b))
}
