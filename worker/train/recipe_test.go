package train

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"colonnade/checkpoint"
	"colonnade/cudakern"
	"colonnade/cudakern/cpu"
	"colonnade/shard/job"
	"colonnade/worker/data"
	"colonnade/worker/exchange"
)

// asRecipe puts a recipe in place of a job's, as a job file would say it.
func asRecipe(t testing.TB, recipe, more string) func(*job.Job) {
	t.Helper()
	j, err := job.Parse("f", []byte("job: test\nnetwork: tiny\ndata: {train: a, test: b}\nrecipe: "+recipe+"\n"+more))
	if err != nil {
		t.Fatal(err)
	}
	return func(to *job.Job) {
		to.Recipe, to.Evaluate, to.Checkpoint = j.Recipe, j.Evaluate, job.Checkpoint{Every: 3, Keep: 3}
	}
}

// historyOf is what the job's log would have of a run.
func historyOf(o *outcome) (h job.History) {
	for _, e := range o.evals {
		n := float64(e.Score.Images)
		h = h.With(job.Evaluation{Step: e.Step, Top1: e.Score.Top1 / n, Top5: e.Score.Top5 / n, Loss: e.Score.Loss / n})
	}
	return h
}

// courses are recipes that change in the middle of everything: 4 epochs of 4 steps.
var courses = map[string]string{
	"plateau": "{batch: 16, epochs: 4, rate: 0.02, plateau: {patience: 1, improvement: 10, measure: loss, drops: 2}}",
	"layers": `{batch: 16, epochs: 4, rate: 0.02, dexp: {factor: 250, steps: 4}, biases: {rate: 0.04, decay: 0,
  schedule: [{step: 5, rate: 0.004}]}, layers: [{layer: conv1, freeze: 2},
  {layer: fc4, rates: [{step: 2, rate: 0}, {step: 11, rate: 0.03}]}]}`,
}

// TestCoursesResume ends at the same bits from every checkpoint of a run, whatever the columns, replicas and ways of
// exchange, with a recipe that changes meanwhile.
func TestCoursesResume(t *testing.T) {
	trainPack, testPack := makePack(t, 64, 1, 12, 8, 1), makePack(t, 21, 1, 12, 8, 2)
	dev, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	for name, recipe := range courses {
		for _, replicas := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s, %d replicas", name, replicas), func(t *testing.T) {
				change := asRecipe(t, recipe, "")
				j := makeJob(t, "tiny", 2, trainPack, testPack, func(j *job.Job) { change(j); j.Replicas = replicas })
				root := t.TempDir()
				whole := setup{dev: dev, job: j, root: root}.mustRun(t)
				history := historyOf(whole)
				if len(history) != 4 {
					t.Fatalf("evaluations %v", history)
				}
				for _, from := range []uint64{3, 6, 9, 12, 15} {
					known, _, _ := j.Until(from, history)
					resumed := setup{dev: dev, job: j, root: root, from: from, history: known}.mustRun(t)
					for c, d := range whole.digest {
						if resumed.digest[c] != d {
							t.Errorf("cell %s: resumed from step %d, it ends elsewhere", c, from)
						}
					}
				}
			})
		}
	}
}

// TestPlateauIsAgreed wants rates to fall as the job's function of its evaluations says, with and without replicas,
// and a cell that does not know what it must to refuse.
func TestPlateauIsAgreed(t *testing.T) {
	trainPack, testPack := makePack(t, 64, 1, 12, 8, 1), makePack(t, 21, 1, 12, 8, 2)
	dev, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	change := asRecipe(t, courses["plateau"], "")
	j := makeJob(t, "tiny", 2, trainPack, testPack, change)
	root := t.TempDir()
	whole := setup{dev: dev, job: j, root: root}.mustRun(t)
	// No evaluation is better by 10 nats: the first one counts as the best, and every second one is a plateau.
	for i, want := range []float64{0.02, 0.002, 0.002, 0.0002} {
		if got := whole.evals[i].Rate; math.Abs(got-want) > 1e-12 {
			t.Errorf("after evaluation %d the rate is %g, want %g", i+1, got, want)
		}
	}
	// By hand: the same rates from the start.
	plain := *j
	plain.Recipe.Plateau = nil
	plain.Recipe.Schedule = []job.Drop{{Step: 8, Rate: 0.02 / 10}, {Step: 16, Rate: 0.02 / 10 / 10}}
	byHand := setup{dev: dev, job: &plain, root: t.TempDir()}.mustRun(t)
	for c, d := range whole.digest {
		if byHand.digest[c] != d {
			t.Errorf("cell %s: with the rates written out, it ends elsewhere", c)
		}
	}
	for _, h := range []job.History{nil, historyOf(whole)[1:]} { // step 9 is behind the evaluation of step 4
		err := restoreWith(t, dev, j, root, 9, h)
		if err == nil || !strings.Contains(err.Error(), "evaluation after step 4") {
			t.Errorf("with history %v: %v", h, err)
		}
	}
	// What the step itself came to may be lost: it is evaluated once more.
	again := setup{dev: dev, job: j, root: root, from: 12, history: historyOf(whole)[:2]}.mustRun(t)
	if len(again.evals) != 2 || again.evals[0].Step != 12 || again.evals[0].Score != whole.evals[2].Score {
		t.Errorf("resumed from step 12 without its evaluation: %+v", again.evals)
	}
	for c, d := range whole.digest {
		if again.digest[c] != d {
			t.Errorf("cell %s: with an evaluation done once more, it ends elsewhere", c)
		}
	}
}

// gradientCount counts what a cell sends to other replicas, guard's verdicts left out.
type gradientCount struct {
	exchange.Exchanger
	id exchange.Cell
	n  *atomic.Int64
}

func (g *gradientCount) Send(ctx context.Context, to exchange.Cell, tag exchange.Tag, data []byte) error {
	if to.Replica != g.id.Replica && tag.Exchange&reduceTag != 0 {
		g.n.Add(1)
	}
	return g.Exchanger.Send(ctx, to, tag, data)
}

// TestFrozenStays: no bit of a frozen layer's parameters changes, and its momentum is gone; the others train on.
func TestFrozenStays(t *testing.T) {
	trainPack, testPack := makePack(t, 64, 1, 12, 8, 1), makePack(t, 21, 1, 12, 8, 2)
	dev, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	change := asRecipe(t, "{batch: 16, epochs: 2, rate: 0.02, layers: [{layer: [conv1, fc4], freeze: 2}]}", "")
	for _, replicas := range []int{1, 2} {
		j := makeJob(t, "tiny", 2, trainPack, testPack, func(j *job.Job) { change(j); j.Replicas = replicas })
		short := *j
		short.Recipe.Epochs = 1
		var posted atomic.Int64 // messages between replicas that have gradients
		count := func(id exchange.Cell, ex exchange.Exchanger) exchange.Exchanger {
			return &gradientCount{ex, id, &posted}
		}
		state := func(j *job.Job) map[string][]float32 {
			out := map[string][]float32{}
			posted.Store(0)
			setup{dev: dev, job: j, root: t.TempDir(), exchanger: count, ended: func(cells map[exchange.Cell]*Cell) {
				c := cells[exchange.Cell{Column: 1}]
				if _, err := c.Digest(); err != nil {
					t.Fatal(err)
				}
				for _, x := range c.saver.snap.tensors {
					out[x.Name] = append([]float32(nil), x.Data...)
				}
			}}.mustRun(t)
			return out
		}
		before := state(&short)
		trained := posted.Load()
		after := state(j)
		if again := posted.Load() - trained; replicas > 1 && (again >= trained || again <= 0) {
			t.Errorf("%d messages between replicas in the epoch before, %d in that with two layers frozen", trained, again)
		}
		for name, was := range before {
			layer, _, _ := strings.Cut(name, "/")
			frozen, momentum := layer == "conv1" || layer == "fc4", strings.HasSuffix(name, momentumSuffix)
			same, zero := true, true
			for i, v := range after[name] {
				same = same && v == was[i]
				zero = zero && v == 0
			}
			switch {
			case frozen && momentum && !zero:
				t.Errorf("%d replicas: frozen %s is not 0", replicas, name)
			case frozen && !momentum && !same:
				t.Errorf("%d replicas: frozen %s has changed", replicas, name)
			case !frozen && same:
				t.Errorf("%d replicas: %s has not changed", replicas, name)
			}
		}
	}
}

// TestTenViews: ten views give the mean of what each gives, and no weight another bit.
func TestTenViews(t *testing.T) {
	trainPack, testPack := makePack(t, 64, 1, 16, 8, 1), makePack(t, 21, 1, 16, 8, 2)
	dev, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	const recipe = "{batch: 8, epochs: 2, rate: 0.02}"
	run := func(replicas int, more string, view *int) *outcome {
		change := asRecipe(t, recipe, more)
		j := makeJob(t, "tiny", 2, trainPack, testPack, func(j *job.Job) { change(j); j.Replicas = replicas })
		s := setup{dev: dev, job: j, root: t.TempDir()}
		if view != nil {
			s.source = func(_ exchange.Cell, from Source) Source { return &viewed{from, *view} }
		}
		return s.mustRun(t)
	}
	one, ten, shared := run(1, "", nil), run(1, "evaluate: {views: 10}", nil), run(2, "evaluate: {views: 10}", nil)
	for c, d := range one.digest {
		if ten.digest[c] != d {
			t.Errorf("cell %s: seen in ten views between, it ends elsewhere", c)
		}
	}
	last := len(one.evals) - 1
	if ten.evals[last].Score == one.evals[last].Score || ten.evals[last].Score.Images != 21 {
		t.Errorf("ten views give %+v, one %+v", ten.evals[last].Score, one.evals[last].Score)
	}
	// Jensen: the loss of mean probabilities is at most the mean of the losses, and here strictly.
	mean := 0.0
	for view := range 10 {
		mean += run(1, "", &view).evals[last].Score.Loss / 10
	}
	if got := ten.evals[last].Score.Loss; !(got < mean) || got < mean/2 {
		t.Errorf("loss over ten views is %g, the mean of ten losses %g", got, mean)
	}
	if a, b := ten.evals[0].Score, shared.evals[0].Score; a.Images != b.Images || math.Abs(a.Loss-b.Loss) > 1e-3*a.Loss {
		t.Errorf("ten views with one replica: %+v, with two %+v", a, b)
	}
}

// viewed is a source whose test images are seen in one of the ten views.
type viewed struct {
	Source
	view int
}

func (v *viewed) Test(index int) data.Batch {
	b := v.Source.Test(index)
	_, h, w := v.Shape()
	for i := range b.Views {
		b.Views[i] = data.TenViews(h, w, 12, 12)[v.view]
	}
	return b
}

// restoreWith has a cell go on from a checkpoint with a history, and returns why it cannot.
func restoreWith(t *testing.T, dev cudakern.Device, j *job.Job, root string, step uint64, h job.History) error {
	t.Helper()
	training, test, done := setup{job: j}.open(t)
	defer done()
	plan, err := j.Plan()
	if err != nil {
		t.Fatal(err)
	}
	in, id := plan.Network.Input, exchange.Cell{}
	c, err := New(Config{Job: j, Plan: plan, Cell: id, Cells: []exchange.Cell{id, {Column: 1}}, Generation: 1,
		Device:    dev,
		Exchanger: NewAlone(), Source: data.NewLoader(j, 0, training, test, in.Height, in.Width), Directory: root,
		Report: func(Event) {}, Now: time.Now, Log: slog.New(slog.DiscardHandler), History: h})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	meta := checkpoint.Meta{Job: j.Name, Generation: 1, Step: step, PlanDigest: plan.Digest(),
		Numerics: dev.Info().Numerics}
	name, err := checkpoint.Path(meta)
	if err != nil {
		t.Fatal(err)
	}
	return c.Restore(context.Background(), filepath.Join(root, name), checkpoint.Want{Meta: meta})
}
