package train

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/cpu"
	"colonnade/cudakern/ref"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/exchange"
)

// replicated is a job of 12 steps, 4 an epoch, whose test set leaves a replica without images in its last batch.
func replicated(t testing.TB, columns, replicas int, change func(*job.Job)) *job.Job {
	t.Helper()
	trainPack, testPack := makePack(t, 32, 1, 12, 8, 1), makePack(t, 11, 1, 12, 8, 2)
	return makeJob(t, "tiny", columns, trainPack, testPack, func(j *job.Job) {
		j.Recipe.Epochs, j.Replicas = 3, replicas
		if change != nil {
			change(j)
		}
	})
}

// states gives the values of every column's state, and wants those of all its replicas to be equal.
func states(t *testing.T, cells map[exchange.Cell]*Cell) map[string][]float32 {
	t.Helper()
	out := map[string][]float32{}
	for id, c := range cells {
		for _, tensor := range c.saver.snap.tensors {
			name := fmt.Sprintf("column %d: %s", id.Column, tensor.Name)
			if before, ok := out[name]; ok && !slices.Equal(before, tensor.Data) {
				t.Errorf("%s differs between replicas", name)
			}
			out[name] = slices.Clone(tensor.Data)
		}
	}
	return out
}

// TestReplicasComputeWhatOneDoes trains the same job with its batch whole and cut: but for rounding, weights, losses
// and scores are the same. The network has dropout, whose masks must be those of the whole batch.
func TestReplicasComputeWhatOneDoes(t *testing.T) {
	for _, columns := range []int{1, 2} {
		var want map[string][]float32
		var wantEvals []Evaluated
		var wantLoss float64
		for _, replicas := range []int{1, 2, 4, 8} {
			dev := ref.New()
			var state map[string][]float32
			got := setup{dev: dev, job: replicated(t, columns, replicas, nil), root: t.TempDir(),
				ended: func(c map[exchange.Cell]*Cell) { state = states(t, c) }}.mustRun(t)
			if len(got.digest) != columns*replicas || len(got.evals) != 3 {
				t.Fatalf("%d replicas: %d digests, %d evaluations", replicas, len(got.digest), len(got.evals))
			}
			if n := dev.Live(); n != 0 {
				t.Errorf("%d things are still alive on the device", n)
			}
			loss := got.statuses[exchange.Cell{}].Loss
			for id, s := range got.statuses {
				if s.Loss != loss {
					t.Errorf("cell %s shows a loss of %g, cell r0c0 of %g", id, s.Loss, loss)
				}
			}
			if replicas == 1 {
				want, wantEvals, wantLoss = state, got.evals, loss
				continue
			}
			near := func(what string, got, want float64) {
				if math.Abs(got-want) > 1e-5*(math.Abs(want)+0.01) {
					t.Errorf("%d columns, %d replicas: %s is %g, with one replica %g", columns, replicas, what, got, want)
				}
			}
			for name, values := range want {
				for i := range values {
					near(fmt.Sprintf("%s[%d]", name, i), float64(state[name][i]), float64(values[i]))
				}
			}
			near("loss", loss, wantLoss)
			for i, e := range got.evals {
				near("test loss", e.Score.Loss, wantEvals[i].Score.Loss)
				near("training loss", e.TrainLoss, wantEvals[i].TrainLoss)
				if e.Score.Images != 11 || e.Score.Top1 != wantEvals[i].Score.Top1 || e.Score.Top5 != wantEvals[i].Score.Top5 {
					t.Errorf("%d replicas: evaluation %+v, with one %+v", replicas, e, wantEvals[i])
				}
			}
		}
	}
}

// TestWhereReplicasRunDoesNotReachTheBits trains 2 x 2 cells on one, two and four workers, over every carrier, in every
// way gradients can be cut, with and without messages that come late, and goes on from a checkpoint.
func TestWhereReplicasRunDoesNotReachTheBits(t *testing.T) {
	j := replicated(t, 2, 2, nil)
	dev := ref.New()
	root := t.TempDir()
	want := setup{dev: dev, job: j, root: root}.mustRun(t)
	ways := map[string]setup{}
	for _, carrier := range []string{"local", "grpc", "workers", "replicas", "columns"} {
		ways[carrier] = setup{carrier: carrier}
		ways[carrier+" delayed"] = setup{carrier: carrier, delay: true}
	}
	ways["through host buffers"] = setup{staged: true, carrier: "workers"}
	ways["parts of three numbers"] = setup{partBytes: 24, smallBytes: 1}
	ways["parts of 101 numbers"] = setup{partBytes: 808, smallBytes: 100, delay: true, staged: true}
	ways["resumed"] = setup{root: root, from: 9, carrier: "workers"}
	for name, s := range ways {
		t.Run(name, func(t *testing.T) {
			s.dev, s.job = dev, j
			if s.root == "" {
				s.root = t.TempDir()
			}
			got := s.mustRun(t)
			if !maps.Equal(got.digest, want.digest) {
				t.Errorf("digests %x, want %x", got.digest, want.digest)
			}
			if s.from == 0 && !slices.Equal(got.evals, want.evals) {
				t.Errorf("evaluations %v, want %v", got.evals, want.evals)
			}
		})
	}
	for id, d := range want.digest {
		if d != want.digest[exchange.Cell{Column: id.Column}] {
			t.Errorf("cell %s ends elsewhere than its first replica", id)
		}
	}
	if n := dev.Live(); n != 0 {
		t.Errorf("%d things are still alive on the device", n)
	}
}

// TestReplicasOnTheCPU does the same in float32 and the CPU's own layouts.
func TestReplicasOnTheCPU(t *testing.T) {
	dev, err := cpu.New()
	if err != nil {
		t.Skip(err)
	}
	defer dev.Close()
	j := replicated(t, 2, 2, nil)
	want := setup{dev: dev, job: j, root: t.TempDir()}.mustRun(t)
	for _, s := range []setup{{carrier: "workers", delay: true}, {partBytes: 20, smallBytes: 1, staged: true}} {
		s.dev, s.job, s.root = dev, j, t.TempDir()
		if got := s.mustRun(t); !maps.Equal(got.digest, want.digest) {
			t.Errorf("carrier %q: digests %x, want %x", s.carrier, got.digest, want.digest)
		}
	}
}

// TestGradientsAreSummedInReplicaOrder sums numbers whose sum tells the order: whoever adds, and however late messages
// come, it is ((g0 + g1) + g2) + g3, everywhere.
func TestGradientsAreSummedInReplicaOrder(t *testing.T) {
	const replicas = 4
	dev := ref.New()
	var cells []exchange.Cell
	for r := range replicas {
		cells = append(cells, exchange.Cell{Replica: r})
	}
	s := setup{job: &job.Job{Name: "sum"}}
	g := s.join(t, cells)
	defer g.leave(t)
	sizes := []int{1, 3, 50, 7}
	terms := make([][][]float64, replicas) // by replica and parameter
	random := rand.New(rand.NewPCG(1, 2))
	for r := range terms {
		for _, n := range sizes {
			var v []float64
			for range n {
				v = append(v, []float64{1 << 60, -1 << 60, 1, 3}[random.IntN(4)]) // 1 is lost beside 1 << 60
			}
			terms[r] = append(terms[r], v)
		}
	}
	got := make([][][]float32, replicas)
	var wait sync.WaitGroup
	for r, id := range cells {
		wait.Go(func() {
			ex := &delayed{Exchanger: g.at[id].Exchanger(id), r: rand.New(rand.NewPCG(3, uint64(r)))}
			var err error
			if got[r], err = reduced(dev, cells, id, ex, terms[r]); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	for r := range got {
		for q := range got[r] {
			for i, v := range got[r][q] {
				want := ((terms[0][q][i] + terms[1][q][i]) + terms[2][q][i]) + terms[3][q][i]
				if v != float32(want) {
					t.Fatalf("replica %d, parameter %d, number %d: sum %g, want %g", r, q, i, v, want)
				}
			}
		}
	}
	if n := dev.Live(); n != 0 {
		t.Errorf("%d things are still alive on the device", n)
	}
}

// reduced sums one layer's gradients from the view of one replica.
func reduced(dev cudakern.Device, cells []exchange.Cell, id exchange.Cell, ex exchange.Exchanger,
	terms [][]float64) (out [][]float32, err error) {
	st, err := dev.NewStream()
	if err != nil {
		return nil, err
	}
	defer st.Close()
	b := &builder{dev: dev, st: st, cell: id, ex: ex, backward: [][]phase{nil}}
	defer b.close()
	if b.reducer, err = b.newReducer(cells, 2*8, 5*8); err != nil {
		return nil, err
	}
	var params []*param
	for _, v := range terms {
		buf, err := b.alloc(cudakern.Shape{len(v)}, cudakern.Plain)
		if err != nil {
			return nil, err
		}
		values := make([]float32, len(v))
		for i := range v {
			values[i] = float32(v[i])
		}
		if err := dev.Upload(st, buf, values); err != nil {
			return nil, err
		}
		params = append(params, &param{Param: shard.Param{Name: "p"}, grad: buf})
	}
	if err := b.reduce("layer", params); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	b.reducer.start()
	wait.Go(func() { b.reducer.run(ctx) })
	defer wait.Wait()
	defer cancel()
	p := &pass{ctx: ctx, train: true}
	for _, ph := range append(b.backwardPhases(), phase{label: same("wait"), run: b.reducer.wait}) {
		if err := ph.run(p); err != nil {
			return nil, err
		}
	}
	for _, q := range params {
		values := make([]float32, q.grad.Shape().Len())
		if err := dev.Download(st, values, q.grad); err != nil {
			return nil, err
		}
		out = append(out, values)
	}
	return out, nil
}

// TestAnErrorInOneReplicaEndsAll breaks one cell of four, in its column's or in its replica's exchange.
func TestAnErrorInOneReplicaEndsAll(t *testing.T) {
	broken := errors.New("the device fell off the bus")
	culprit := exchange.Cell{Replica: 1, Column: 1}
	for _, from := range []exchange.Cell{{Replica: 1}, {Column: 1}} {
		for _, carrier := range []string{"local", "workers"} {
			t.Run(fmt.Sprintf("%s from %s", carrier, from), func(t *testing.T) {
				dev := ref.New()
				got := setup{dev: dev, job: replicated(t, 2, 2, nil), root: t.TempDir(), carrier: carrier,
					exchanger: func(id exchange.Cell, ex exchange.Exchanger) exchange.Exchanger {
						if id == culprit {
							return failing{ex, 4, &from, broken}
						}
						return ex
					}}.run(t)
				if err := got.errs[culprit]; !errors.Is(err, broken) ||
					!strings.Contains(err.Error(), "cell r1c1 after step 4: ") {
					t.Errorf("the broken cell: %v", err)
				}
				for id, err := range got.errs { // one may not yet have heard that step 4 is done
					if step := got.statuses[id].Step; err == nil || step < 3 || step > 4 {
						t.Errorf("cell %s ends after step %d: %v", id, step, err)
					}
				}
				if n := dev.Live(); n != 0 {
					t.Errorf("%d things are still alive on the device", n)
				}
			})
		}
	}
}

// TestOneOfFourCellsStopsAll asks one cell of 2 x 2 to stop: all do so after the same step, and the job ends in the
// same state as without the stop.
func TestOneOfFourCellsStopsAll(t *testing.T) {
	j := replicated(t, 2, 2, nil)
	want := setup{dev: ref.New(), job: j, root: t.TempDir()}.mustRun(t)
	for r := range 2 {
		for k := range 2 {
			at, root := uint64(3+2*r+k), t.TempDir()
			setup{dev: ref.New(), job: j, root: root, carrier: "workers", delay: true}.
				stopped(t, exchange.Cell{Replica: r, Column: k}, at)
			resumed := setup{dev: ref.New(), job: j, root: root, from: at + 1}.mustRun(t)
			if !maps.Equal(resumed.digest, want.digest) {
				t.Errorf("resumed: digests %x, want %x", resumed.digest, want.digest)
			}
		}
	}
}

// TestDivergenceOfOneReplicaIsEverybodys makes the loss overflow in 2 x 2 cells: nobody updates.
func TestDivergenceOfOneReplicaIsEverybodys(t *testing.T) {
	j := replicated(t, 2, 2, func(j *job.Job) { j.Recipe.Rate = 1e30 })
	got := setup{dev: ref.New(), job: j, root: t.TempDir(), carrier: "replicas"}.run(t)
	after := map[uint64]bool{}
	for id, err := range got.errs {
		if !errors.Is(err, ErrDiverged) {
			t.Errorf("cell %s: %v", id, err)
		}
		after[got.statuses[id].Step] = true
	}
	if len(after) != 1 || len(got.digest) > 0 {
		t.Errorf("the cells ended after steps %v", after)
	}
}

// BenchmarkReplicas trains two replicas of one column, each a worker of its own, and says what part of a step is spent
// waiting for sums that were not done by the end of the backward pass.
func BenchmarkReplicas(b *testing.B) {
	dev, err := cpu.New()
	if err != nil {
		b.Skip(err)
	}
	defer dev.Close()
	path := makePack(b, 640, 1, 28, 8, 1)
	for b.Loop() {
		j := makeJob(b, "alexnet-32", 1, path, "", func(j *job.Job) {
			j.Replicas, j.Recipe.Batch, j.Recipe.Epochs, j.Recipe.Steps, j.Checkpoint.Every = 2, 32, 0, timingSteps+1, 100
		})
		got := setup{dev: dev, job: j, root: b.TempDir(), carrier: "workers"}.mustRun(b)
		wait, step := 0.0, 0.0
		for name, seconds := range got.statuses[exchange.Cell{}].PhaseSeconds {
			step += seconds
			if name == "wait for gradients of replicas" {
				wait = seconds
			}
		}
		b.ReportMetric(1000*step, "ms/step")
		b.ReportMetric(100*wait/step, "%waiting")
	}
}
