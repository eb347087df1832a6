package train

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"testing"

	"colonnade/cudakern/cpu"
	"colonnade/worker/arena"
	"colonnade/worker/exchange"
)

// TestMemoryIsTheState trains a job in arenas, breaks it off in the middle of a step, and goes on from what is held,
// first from the newest step that both columns have: the end is that of a run that was left alone.
func TestMemoryIsTheState(t *testing.T) {
	dev, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	j := twoColumns(t, nil)
	want := setup{dev: dev, job: j, root: t.TempDir()}.mustRun(t)

	store := arena.Open(arena.Config{Shared: []string{t.TempDir()}, Log: slog.New(slog.DiscardHandler)})
	var open []*arena.Arena
	generation, step := uint64(1), uint64(0) // step to go on from; 0: from the start
	memory := func(id exchange.Cell, l MemoryLayout) (Memory, error) {
		var parts []arena.Part
		for _, p := range l.Parts {
			parts = append(parts, arena.Part(p))
		}
		key := arena.Key{Cluster: "c", Job: j.Name, Replica: id.Replica, Column: id.Column, Identity: j.Identity(),
			Numerics: dev.Info().Numerics, Layout: arena.Layout(parts), HalfBytes: l.Bytes}
		var a *arena.Arena
		var err error
		if step > 0 {
			a, err = store.Adopt(key, generation, step, 0)
		} else {
			a, err = store.Make(key, generation)
		}
		if err == nil {
			open = append(open, a)
		}
		return a, err
	}
	broken := errors.New("broken off")
	for _, stop := range []uint64{3, 4, 8, 12} {
		s := setup{dev: dev, job: j, root: t.TempDir(), memory: memory, resume: step,
			steps: func(ctx context.Context, c *Cell) error {
				if stop == 12 {
					return c.Run(ctx)
				}
				return c.inRun(ctx, func(ctx context.Context) error {
					for c.step < stop {
						if _, err := c.oneStep(ctx); err != nil {
							return err
						}
						if err := c.between(ctx, false, Owed{Evaluation: true}); err != nil {
							return err
						}
					}
					if c.id.Column == 1 { // what it was about to write is lost
						c.mem.Begin(int((c.step + 1) % 2))
					}
					return broken
				})
			}}
		out := s.run(t)
		for _, a := range open {
			a.Close()
		}
		open = nil
		if stop < 12 {
			generation++
			step = ^uint64(0)
			for _, h := range store.Held("c", j.Name) {
				step = min(step, h.Steps[0])
			}
			if step != stop {
				t.Fatalf("after step %d the cells hold %d", stop, step)
			}
			continue
		}
		if !maps.Equal(out.digest, want.digest) {
			t.Errorf("digests %x, left alone they are %x", out.digest, want.digest)
		}
	}
}
