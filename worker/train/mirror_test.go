package train

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/cpu"
	"colonnade/shard/job"
	"colonnade/worker/arena"
	"colonnade/worker/exchange"
)

// ownMemory is a device whose state lies in memory of its own.
type ownMemory struct{ cudakern.Device }

// TestMirror holds a device that cannot work in the host's memory to testMirror.
func TestMirror(t *testing.T) {
	dev, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	testMirror(t, ownMemory{dev})
}

// testMirror trains on a device whose state is written to the host every other step, breaks off when one column is in
// the middle of writing, and goes on from the step before, which both hold: once in the memory itself, once from the
// bytes of it that a buddy would hand over. Both end like a run that was left alone.
func testMirror(t *testing.T, dev cudakern.Device) {
	j := twoColumns(t, func(j *job.Job) { j.Buddy = &job.Buddy{Every: 2} })
	want := setup{dev: dev, job: j, root: t.TempDir()}.mustRun(t)

	store := arena.Open(arena.Config{Shared: []string{t.TempDir()}, Log: slog.New(slog.DiscardHandler)})
	open := map[exchange.Cell]*arena.Arena{}
	var take func(key arena.Key) (*arena.Arena, error)
	memory := func(id exchange.Cell, l MemoryLayout) (Memory, error) {
		a, err := take(arenaKey(j, dev, id, l))
		open[id] = a
		return a, err
	}
	closeAll := func() {
		for _, a := range open {
			a.Close()
		}
		clear(open)
	}
	take = func(key arena.Key) (*arena.Arena, error) { return store.Make(key, 1) }
	broken := errors.New("broken off")
	copied := [2][]byte{}
	setup{dev: dev, job: j, root: t.TempDir(), memory: memory,
		copy: func(context.Context, exchange.Cell, uint64, uint64) (bool, error) { return false, nil },
		steps: func(ctx context.Context, c *Cell) error {
			return c.inRun(ctx, func(ctx context.Context) error {
				for c.step < 7 {
					if _, err := c.oneStep(ctx); err != nil {
						return err
					}
					if err := c.between(ctx, false, Owed{Evaluation: true}); err != nil {
						return err
					}
					for c.copies.progress().tried != c.copies.begun { // or the next would be left out
						runtime.Gosched()
					}
				}
				if !c.Mirrored() {
					t.Errorf("cell %s has its state elsewhere", c.id)
				}
				if c.id.Column == 1 {
					c.mirror.Begin(c.mirror.HalfOf(6))
				}
				return broken
			})
		}}.run(t)
	for id, a := range open {
		want := []uint64{6, 4}[id.Column:]
		if !slices.Equal(a.Held(), want) {
			t.Fatalf("cell %s left steps %v, want %v", id, a.Held(), want)
		}
		copied[id.Column] = slices.Clone(a.Half(a.HalfOf(4)))
	}
	closeAll()

	for name, m := range map[string]func(arena.Key) (*arena.Arena, error){
		"from the memory": func(key arena.Key) (*arena.Arena, error) { return store.Adopt(key, 2, 4, 0) },
		"from copies": func(key arena.Key) (*arena.Arena, error) {
			key.Cluster = "elsewhere"
			a, err := store.Make(key, 2)
			if err == nil {
				copy(a.Half(0), copied[key.Column])
				a.Finish(0, 4)
			}
			return a, err
		},
	} {
		take = m
		out := setup{dev: dev, job: j, root: t.TempDir(), memory: memory, resume: 4,
			copy: func(context.Context, exchange.Cell, uint64, uint64) (bool, error) { return true, nil }}.mustRun(t)
		closeAll()
		if !maps.Equal(out.digest, want.digest) {
			t.Errorf("%s: digests %x, left alone they are %x", name, out.digest, want.digest)
		}
	}
}

// arenaKey is what an arena of a cell is of.
func arenaKey(j *job.Job, dev cudakern.Device, id exchange.Cell, l MemoryLayout) arena.Key {
	var parts []arena.Part
	for _, p := range l.Parts {
		parts = append(parts, arena.Part(p))
	}
	return arena.Key{Cluster: "c", Job: j.Name, Replica: id.Replica, Column: id.Column, Identity: j.Identity(),
		Numerics: dev.Info().Numerics, Layout: arena.Layout(parts), HalfBytes: l.Bytes}
}

// TestMirrorIsFinite: weights that are not finite, which nobody has looked at on the device, are not written to the
// host.
func TestMirrorIsFinite(t *testing.T) {
	dev, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	j := twoColumns(t, func(j *job.Job) { j.Buddy = &job.Buddy{Every: 2} })
	store := arena.Open(arena.Config{Shared: []string{t.TempDir()}, Log: slog.New(slog.DiscardHandler)})
	var mu sync.Mutex
	var open []*arena.Arena
	setup{dev: ownMemory{dev}, job: j, root: t.TempDir(),
		memory: func(id exchange.Cell, l MemoryLayout) (Memory, error) {
			a, err := store.Make(arenaKey(j, dev, id, l), 1)
			mu.Lock()
			defer mu.Unlock()
			open = append(open, a)
			return a, err
		},
		copy: func(context.Context, exchange.Cell, uint64, uint64) (bool, error) { return false, nil },
		steps: func(_ context.Context, c *Cell) error {
			bad := make([]float32, c.params[0].Len())
			bad[len(bad)-1] = float32(math.Inf(-1))
			for _, looks := range []bool{false, true} { // whoever looks at every step has looked
				c.watch.mapped = looks
				err := c.dev.Upload(c.st, c.params[0].w[0], bad)
				if err == nil {
					err = c.mirror.write(0)
				}
				v, vetoed := errors.AsType[*Veto](err)
				if vetoed == looks || vetoed && v.Cause != WeightsNotFinite || (c.mirror.HalfOf(0) < 0) == looks {
					t.Errorf("weights that are not finite, looked at before: %v: %v; half %d holds them", looks, err,
						c.mirror.HalfOf(0))
				}
			}
			return nil
		}}.run(t)
	for _, a := range open {
		a.Close()
	}
}
