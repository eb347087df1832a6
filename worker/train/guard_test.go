package train

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"colonnade/cudakern"
	"colonnade/cudakern/cpu"
	"colonnade/cudakern/ref"
	"colonnade/shard/job"
	"colonnade/worker/data"
	"colonnade/worker/exchange"
)

// poisoned is a source whose batch of one step has wrong labels.
type poisoned struct {
	Source
	at uint64
}

func (p poisoned) Train(step uint64) data.Batch {
	b := p.Source.Train(step)
	if step == p.at {
		b.Labels = slices.Clone(b.Labels)
		for i, v := range b.Labels {
			b.Labels[i] = (v + 3) % 8
		}
	}
	return b
}

// halves is memory of a cell's state that outlives the cell.
type halves struct {
	half [2][]byte
	step [2]uint64
	full [2]bool
}

func (h *halves) Half(i int) []byte         { return h.half[i] }
func (h *halves) Begin(i int)               { h.full[i] = false }
func (h *halves) Finish(i int, step uint64) { h.step[i], h.full[i] = step, true }
func (h *halves) HalfOf(step uint64) int {
	if h.full[step%2] && h.step[step%2] == step {
		return int(step % 2)
	}
	return -1
}

func kept(m map[exchange.Cell]*halves) func(exchange.Cell, MemoryLayout) (Memory, error) {
	return func(id exchange.Cell, l MemoryLayout) (Memory, error) {
		if m[id] == nil {
			h := &halves{}
			for i := range h.half {
				var err error
				if h.half[i], err = reserve(l.Bytes); err != nil {
					return nil, err
				}
			}
			m[id] = h
		}
		return m[id], nil
	}
}

// vetoes wants every cell to have ended with one and the same veto, its state that of the step before.
func (o *outcome) vetoes(t *testing.T) Veto {
	t.Helper()
	var first *Veto
	for id, err := range o.errs {
		v, ok := errors.AsType[*Veto](err)
		if !ok || !errors.Is(err, ErrDiverged) {
			t.Fatalf("cell %s: %v", id, err)
		}
		if first == nil {
			first = v
		}
		if *v != *first || o.statuses[id].Step != v.Step-1 {
			t.Errorf("cell %s after step %d: %+v, another has %+v", id, o.statuses[id].Step, *v, *first)
		}
	}
	if len(o.digest)+len(o.stopped) > 0 {
		t.Errorf("finished %v, stopped %v", o.digest, o.stopped)
	}
	return *first
}

// TestGuardOfABatch has one replica's part of one batch wrong. All of 2 x 2 cells veto the step, whether they got there
// in one go, from a checkpoint, or from memory right before it; without the batch, all come to one state.
func TestGuardOfABatch(t *testing.T) {
	dev, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	const at = 29 // steps before the one that is wrong
	j := replicated(t, 2, 2, func(j *job.Job) {
		j.Recipe.Rate, j.Recipe.Epochs = 0.02, 8
		j.Guard = &job.Guard{Then: job.GuardSkip, Spike: 2, Window: 8, Floor: 1e-3, Skips: 1}
	})
	memory := map[exchange.Cell]*halves{}
	base := setup{dev: dev, job: j, root: t.TempDir(), source: func(id exchange.Cell, s Source) Source {
		if id.Replica == 1 {
			return poisoned{s, at}
		}
		return s
	}}
	with := func(change func(*setup)) setup {
		s := base
		change(&s)
		return s
	}
	first := with(func(s *setup) { s.carrier, s.memory = "workers", kept(memory) }).run(t)
	want := first.vetoes(t)
	if want.Cell != (exchange.Cell{Replica: 1}) || want.Step != at+1 || want.Cause != LossSpike || !want.Skip ||
		!(want.Loss > want.Limit) || !(want.Limit > 0) {
		t.Fatalf("veto %+v", want)
	}
	for name, s := range map[string]setup{
		"from a checkpoint": with(func(s *setup) { s.from, s.carrier = 24, "columns" }),
		"from memory":       with(func(s *setup) { s.resume, s.memory = at, kept(memory) }),
	} {
		if got := s.run(t).vetoes(t); got != want {
			t.Errorf("%s: veto %+v, want %+v", name, got, want)
		}
	}
	if got := with(func(s *setup) { s.skipped = []uint64{2} }).run(t).vetoes(t); got.Skip {
		t.Errorf("a second batch is skipped, though the job allows one: %+v", got)
	}
	skipped := with(func(s *setup) { s.skipped = []uint64{at + 1} }).mustRun(t).digest
	for name, s := range map[string]setup{
		"from a checkpoint": with(func(s *setup) { s.from, s.skipped = 24, []uint64{at + 1} }),
		"from memory": with(func(s *setup) {
			s.resume, s.memory, s.skipped, s.carrier = at, kept(memory), []uint64{at + 1}, "workers"
		}),
	} {
		if got := s.mustRun(t).digest; !maps.Equal(got, skipped) {
			t.Errorf("%s, without the batch: digests %x, want %x", name, got, skipped)
		}
	}
	accepted := with(func(s *setup) { s.accepted = []uint64{at + 1} }).mustRun(t).digest
	off := *j
	off.Guard = &job.Guard{Then: job.GuardOff}
	unguarded := with(func(s *setup) { s.job = &off }).mustRun(t).digest
	if maps.Equal(accepted, skipped) || !maps.Equal(accepted, unguarded) {
		t.Errorf("accepted %x, skipped %x, unguarded %x", accepted, skipped, unguarded)
	}
}

// TestGuardOfTheWeights has an update go wrong in the second column of two, in both replicas: no cell's step counts.
func TestGuardOfTheWeights(t *testing.T) {
	j := replicated(t, 2, 2, nil)
	for _, number := range []float64{math.NaN(), math.Inf(-1)} {
		states := map[exchange.Cell][32]byte{}
		digests := func(built map[exchange.Cell]*Cell) {
			for id, c := range built {
				d, err := c.Digest()
				if err != nil {
					t.Error(err)
				}
				states[id] = d
			}
		}
		setup{dev: ref.New(), job: j, root: t.TempDir(), ended: digests,
			steps: func(ctx context.Context, c *Cell) error {
				return c.Measure(ctx, 4, func(StepTimes) error { return nil })
			}}.mustRun(t)
		want := maps.Clone(states)
		got := setup{dev: ref.New(), job: j, root: t.TempDir(), carrier: "workers", ended: digests,
			steps: func(ctx context.Context, c *Cell) error {
				return c.inRun(ctx, func(ctx context.Context) error {
					c.timed = func(ph *phase, _ time.Duration) {
						if ph.name == "update" && c.step == 4 && c.id.Column == 1 {
							w := c.params[0].w[1].(cudakern.HostMapped).Mapped()
							binary.LittleEndian.PutUint64(w[len(w)-8:], math.Float64bits(number))
						}
					}
					for {
						if _, err := c.oneStep(ctx); err != nil {
							return err
						}
					}
				})
			}}.run(t)
		v := got.vetoes(t)
		if v.Cell != (exchange.Cell{Column: 1}) || v.Step != 5 || v.Cause != WeightsNotFinite || v.Skip {
			t.Errorf("veto %+v", v)
		}
		if !maps.Equal(states, want) {
			t.Errorf("after the veto of step 5 the states are %x, after step 4 they were %x", states, want)
		}
	}
}

// spoiled runs a cell whose update in a step, counted from 1, goes wrong if it is of column 1.
func spoiled(at uint64) func(context.Context, *Cell) error {
	return func(ctx context.Context, c *Cell) error {
		c.timed = func(*phase, time.Duration) {
			if c.step+1 == at && c.id.Column == 1 {
				g := c.params[len(c.params)-1].grad.(cudakern.HostMapped).Mapped()
				binary.LittleEndian.PutUint32(g, math.Float32bits(float32(math.NaN())))
			}
		}
		return c.Run(ctx)
	}
}

// TestGuardOfTheWeightsLeavesNothing has updates go wrong in one column where the others only hear of it in the next
// step's guard, and where something is due behind the step at once: nothing is ever told of the step, no memory holds
// it, and what goes on from there ends as ever.
func TestGuardOfTheWeightsLeavesNothing(t *testing.T) {
	dev, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	j := twoColumns(t, nil) // 12 steps, a checkpoint every 3, an evaluation every 4
	for _, x := range []struct {
		name    string
		at      uint64
		skipped []uint64
	}{
		{"nothing is due", 5, nil}, {"a checkpoint is due", 6, nil}, {"an evaluation is due", 4, nil},
		{"a copy is due", 10, nil}, {"the next batch is skipped", 7, []uint64{8}}, {"the last step", jobSteps, nil},
	} {
		t.Run(x.name, func(t *testing.T) {
			memory := map[exchange.Cell]*halves{}
			s := setup{dev: dev, job: j, root: t.TempDir(), memory: kept(memory), skipped: x.skipped, carrier: "workers"}
			bad := s
			bad.steps = spoiled(x.at)
			bad.copy = func(_ context.Context, _ exchange.Cell, step, _ uint64) (bool, error) {
				if step >= x.at {
					t.Errorf("a copy of step %d", step)
				}
				return true, nil
			}
			want := bad.run(t)
			v := want.vetoes(t)
			if v.Cell != (exchange.Cell{Column: 1}) || v.Step != x.at || v.Cause != WeightsNotFinite {
				t.Errorf("veto %+v", v)
			}
			for _, e := range want.evals {
				if e.Step >= x.at {
					t.Errorf("an evaluation after step %d", e.Step)
				}
			}
			for step := range want.saved {
				if step >= x.at {
					t.Errorf("a checkpoint of step %d", step)
				}
			}
			for id, m := range memory {
				if m.HalfOf(x.at) >= 0 || m.HalfOf(x.at-1) < 0 {
					t.Errorf("the memory of cell %s holds %v of %v", id, m.full, m.step)
				}
			}
			bad.resume, s.resume = x.at-1, x.at-1
			if again := bad.run(t).vetoes(t); again != v {
				t.Errorf("going on from memory: veto %+v, before %+v", again, v)
			}
			got := s.mustRun(t).digest
			whole := setup{dev: dev, job: j, root: t.TempDir(), skipped: x.skipped}.mustRun(t).digest
			if !maps.Equal(got, whole) {
				t.Errorf("digests %x, left alone they are %x", got, whole)
			}
		})
	}
}

// TestGuardOfTheWeightsCutOff ends everything while one column knows that its update went wrong and the other does not:
// the newest step that both hold is the one before.
func TestGuardOfTheWeightsCutOff(t *testing.T) {
	dev, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	const at = 5
	j := twoColumns(t, nil)
	want := setup{dev: dev, job: j, root: t.TempDir()}.mustRun(t)
	memory := map[exchange.Cell]*halves{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s := setup{dev: dev, job: j, root: t.TempDir(), memory: kept(memory)}
	cut := s
	cut.context, cut.steps = ctx, spoiled(at)
	cut.exchanger = func(id exchange.Cell, ex exchange.Exchanger) exchange.Exchanger {
		return &lastWord{Exchanger: ex, step: at, cancel: cancel}
	}
	out := cut.run(t)
	for id, err := range out.errs {
		if _, vetoed := errors.AsType[*Veto](err); err == nil || vetoed {
			t.Errorf("cell %s: %v", id, err)
		}
	}
	one := exchange.Cell{Column: 1}
	if e, ok := errors.AsType[*CellError](out.errs[one]); !ok || e.Step != at-1 {
		t.Errorf("cell %s ends with %v", one, out.errs[one])
	}
	if m := memory[one]; m.HalfOf(at) >= 0 || m.HalfOf(at-1) < 0 || memory[exchange.Cell{}].HalfOf(at-1) < 0 {
		t.Errorf("they hold %v and %v", memory[exchange.Cell{}].step, m.step)
	}
	s.resume = at - 1
	if got := s.mustRun(t).digest; !maps.Equal(got, want.digest) {
		t.Errorf("digests %x, left alone they are %x", got, want.digest)
	}
}

// lastWord is an exchanger that ends a run right before the guard of a step.
type lastWord struct {
	exchange.Exchanger
	step   uint64
	cancel func()
}

func (l *lastWord) Send(ctx context.Context, to exchange.Cell, tag exchange.Tag, data []byte) error {
	if tag.Step == l.step && tag.Exchange >= guardTag && tag.Exchange < reduceTag {
		l.cancel()
		return context.Canceled
	}
	return l.Exchanger.Send(ctx, to, tag, data)
}

// TestGuardOff ends a job whose loss overflows for good, as ever.
func TestGuardOff(t *testing.T) {
	j := twoColumns(t, func(j *job.Job) { j.Recipe.Rate, j.Guard = 1e30, &job.Guard{Then: job.GuardOff} })
	for id, err := range (setup{dev: ref.New(), job: j, root: t.TempDir()}).run(t).errs {
		if _, ok := errors.AsType[*Veto](err); ok || !errors.Is(err, ErrDiverged) ||
			!strings.Contains(err.Error(), "lower recipe.rate") {
			t.Errorf("cell %s: %v", id, err)
		}
	}
}

func TestFiniteNumbers(t *testing.T) {
	for n := range 21 {
		b32, b64 := make([]byte, 4*n), make([]byte, 8*n)
		put := func(i int, v float64) {
			binary.LittleEndian.PutUint32(b32[4*i:], math.Float32bits(float32(v)))
			binary.LittleEndian.PutUint64(b64[8*i:], math.Float64bits(v))
		}
		for i := range n {
			put(i, []float64{math.MaxFloat32, -math.MaxFloat32, 0, -1e-40, 1}[i%5])
		}
		if !finiteNumbers(b32, 4) || !finiteNumbers(b64, 8) {
			t.Errorf("%d finite numbers are not", n)
		}
		for i := range n {
			for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -math.NaN()} {
				put(i, v)
				if finiteNumbers(b32, 4) || finiteNumbers(b64, 8) {
					t.Errorf("%g at %d of %d is not seen", v, i, n)
				}
			}
			put(i, -2)
		}
	}
}

func TestHistory(t *testing.T) {
	h := history{window: 4}
	for i, v := range []float64{9, 1, 5, 3, 4, 2} {
		if _, ok := h.usual(); ok != (i >= 4) {
			t.Errorf("after %d losses: judged %v", i, ok)
		}
		h.add(v)
	}
	if v, _ := h.usual(); v != 3 { // of 5 3 4 2
		t.Errorf("the median is %g", v)
	}
	room := make([]byte, h.bytes()+5)
	h.encode(room)
	back := history{window: 4}
	back.decode(room)
	if !slices.Equal(back.losses, []float64{5, 3, 4, 2}) {
		t.Errorf("back come %v", back.losses)
	}
	binary.LittleEndian.PutUint64(room, 5)
	if back.decode(room); len(back.losses) > 0 {
		t.Errorf("of what is no history come %v", back.losses)
	}
	if back.set([]float64{1, 2, 3, 4, 5, 6}); !slices.Equal(back.losses, []float64{3, 4, 5, 6}) {
		t.Errorf("set keeps %v", back.losses)
	}
	none := history{}
	none.add(1)
	none.encode(nil)
	none.decode(nil)
	if _, ok := none.usual(); ok || none.bytes() != 0 {
		t.Error("a guard that is off judges")
	}
}
