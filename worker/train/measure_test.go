package train

import (
	"context"
	"errors"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	"colonnade/cudakern"
	"colonnade/cudakern/cpu"
	"colonnade/cudakern/ref"
	"colonnade/shard"
	"colonnade/worker/exchange"
)

// TestMeasuredStepsAreThoseOfARun wants of measured steps the bits of a run, none of its files, and the times of all
// phases, which leave nothing of a step out and do the multiply-adds of the plan three times, less conv1's gradient by
// its input, which nobody needs.
func TestMeasuredStepsAreThoseOfARun(t *testing.T) {
	j := twoColumns(t, nil)
	plan, err := j.Plan()
	if err != nil {
		t.Fatal(err)
	}
	want := setup{dev: ref.New(), job: j, root: t.TempDir()}.mustRun(t)
	root := t.TempDir()
	var mu sync.Mutex
	digests, times := map[exchange.Cell][32]byte{}, map[exchange.Cell][]StepTimes{}
	got := setup{dev: ref.New(), job: j, root: root, steps: func(ctx context.Context, c *Cell) error {
		var own []StepTimes
		err := c.Measure(ctx, jobSteps, func(s StepTimes) error {
			own = append(own, s)
			return c.Inspect(func(string, []int, []float32) error { return nil }) // which may change nothing
		})
		if err != nil {
			return err
		}
		digest, err := c.Digest()
		mu.Lock()
		defer mu.Unlock()
		digests[c.id], times[c.id] = digest, own
		return err
	}}.mustRun(t)
	if !maps.Equal(digests, want.digest) {
		t.Errorf("digests %x, want %x", digests, want.digest)
	}
	if files, err := os.ReadDir(root); err != nil || len(files) > 0 || len(got.events) > 0 {
		t.Errorf("files %v (%v), events %v", files, err, got.events)
	}
	for id, steps := range times {
		if len(steps) != jobSteps {
			t.Errorf("cell %s: %d steps", id, len(steps))
		}
		for _, s := range steps {
			checkStep(t, id, s, plan, j.Recipe.Batch)
		}
	}
}

// checkStep holds one step's times against each other and against the plan.
func checkStep(t *testing.T, id exchange.Cell, s StepTimes, plan *shard.Plan, batch int) {
	t.Helper()
	var sum time.Duration
	macs := map[Kind]int64{}
	ops := map[string]bool{}
	for _, ph := range s.Phases {
		sum += ph.Took
		macs[ph.Kind] += ph.MACs
		ops[ph.Op] = true
		if ph.Took < 0 {
			t.Errorf("cell %s: %s took %v", id, ph.Name, ph.Took)
		}
	}
	if whole := s.Ended.Sub(s.Began); sum > whole {
		t.Errorf("cell %s: phases took %v of a step of %v", id, sum, whole)
	}
	first := plan.Layers[0].Columns[id.Column].MACs
	all := plan.MACs(id.Column)
	want := map[Kind]int64{Forward: all * int64(batch), Data: (all - first) * int64(batch), Weights: all * int64(batch),
		Wait: 0, Other: 0}
	if !maps.Equal(macs, want) {
		t.Errorf("cell %s: multiply-adds %v, want %v", id, macs, want)
	}
	for _, op := range []string{"data", "conv2 own block", "conv2 other blocks", "conv2 other blocks gradient",
		"conv2 wait for maps", "conv2 wait for gradients", "conv2 weights", "guard", "update"} {
		if !ops[op] {
			t.Errorf("cell %s: no time of %q", id, op)
		}
	}
}

// TestAlone runs the other column's stand-in with one column, on devices with their own ideas of a number.
func TestAlone(t *testing.T) {
	native, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	for name, dev := range map[string]cudakern.Device{"ref": ref.New(), "cpu": native} {
		j := twoColumns(t, nil)
		ended := errors.New("the rest is not of interest")
		var loss float64
		got := setup{dev: dev, job: j, root: t.TempDir(),
			exchanger: func(exchange.Cell, exchange.Exchanger) exchange.Exchanger { return NewAlone() },
			steps: func(ctx context.Context, c *Cell) error {
				if err := c.Measure(ctx, 3, func(StepTimes) error { return nil }); err != nil {
					return err
				}
				if c.id.Column == 0 {
					loss = c.Status().Loss
				}
				ctx, cancel := context.WithCancelCause(ctx)
				cancel(ended)
				return c.Measure(ctx, 3, func(StepTimes) error { return nil })
			}}.run(t)
		for id, err := range got.errs {
			if where, ok := errors.AsType[*CellError](err); !ok || !errors.Is(err, ended) || where.Step != 3 {
				t.Errorf("%s, cell %s: %v", name, id, err)
			}
		}
		if !(loss > 0) || !finite(loss) {
			t.Errorf("%s: loss %g", name, loss)
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	}
}
