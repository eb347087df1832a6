package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"colonnade/checkpoint/model"
	"colonnade/proto/clusterpb"
)

// recipeJob writes a job of 60 steps an epoch, with a checkpoint at the end of each, that all stay.
func recipeJob(t testing.TB, epochs int, recipe string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "job.yaml"), fmt.Appendf(nil, `
job: blobs
network: tiny
columns: 2
seed: 5
data: {train: %s, test: %s}
recipe:
  batch: 16
  epochs: %d
  rate: 0.01
%s
evaluate: {every: 1}
checkpoint: {every: 0, keep: 100}
`, idx(t, "train", 960), idx(t, "test", 100), epochs, recipe))
}

// course is what a job came to, and the rates that it went by: after each evaluation, to the bit.
func (c *cluster) course() (digest string, rates []float64) {
	c.t.Helper()
	j := c.watch("blobs", func(j *clusterpb.Job) bool { return j.State == "done" })
	for _, e := range j.Evaluations {
		rates = append(rates, e.Rate)
	}
	return fmt.Sprintf("%x", j.Digest), rates
}

// TestPlateauThroughKills runs the paper's rule, divide the rate by 10 when the test error stops improving, through a
// kill behind a division and a stop with a resume behind the next one: everything is gone on with from the log's
// evaluations, and the rates and the digest are those of the undisturbed run.
func TestPlateauThroughKills(t *testing.T) {
	const epochs = 60
	job := recipeJob(t, epochs, "  plateau: {divide: 10, patience: 2, improvement: 0.2, measure: loss, drops: 3}")
	run := func(c *cluster) {
		c.startWorkers(2)
		must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
	}
	calm := newCluster(t)
	run(calm)
	want, rates := calm.course()
	if distinct := slices.Compact(slices.Clone(rates)); len(rates) != epochs || len(distinct) < 3 ||
		!slices.IsSortedFunc(rates, func(a, b float64) int { return int(min(max((b-a)*1e9, -1), 1)) }) {
		t.Fatalf("rates %v: the test wants several divisions", rates)
	}
	divided := func(times int) func(*clusterpb.Job) bool {
		return func(j *clusterpb.Job) bool {
			n := 0
			for i := 1; i < len(j.Evaluations); i++ {
				if j.Evaluations[i].Rate < j.Evaluations[i-1].Rate {
					n++
				}
			}
			return n >= times && j.State == "running"
		}
	}
	c := inTime(t, func(c *cluster) bool {
		run(c)
		if !c.sees("blobs", divided(1)) {
			return false
		}
		c.workers[1].kill()
		c.startWorker(1)
		if !c.sees("blobs", divided(2)) {
			return false
		}
		return c.stop(0)
	})
	j := c.watch("blobs", past(0))
	c.coordinator.kill()
	c.workers[2].kill()
	c.startCoordinator()
	c.startWorker(2)
	back := uint64(0) // half of it is done again, from before a division
	for _, m := range c.checkpoints() {
		if m.Step <= j.CommittedStep/2 {
			back = max(back, m.Step)
		}
	}
	must(t, coordinatorProgram, "job", "resume", "blobs", "--step", fmt.Sprint(back), "--coordinator", c.address)
	got, again := c.course()
	if got != want || !slices.Equal(again, rates) {
		t.Errorf("digest %s, rates %v; undisturbed %s, %v", got, again, want, rates)
	}
}

// TestFrozenLayersThroughKills freezes a layer from the start and another from the third epoch on, and kills a worker
// in each stretch: they stay to the bit, the rest moves, and the digest is that of the undisturbed run.
func TestFrozenLayersThroughKills(t *testing.T) {
	const epochs = 40
	job := recipeJob(t, epochs, `  layers:
    - {layer: conv2, freeze: 1}
    - {layer: [conv1, "fc4"], freeze: 3}`)
	want := undisturbed(t, job)
	c := inTime(t, func(c *cluster) bool {
		c.startWorkers(2)
		must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
		// A kill may hit a checkpoint that is being written, of which there is none then: those looked at below are
		// there.
		if !c.sees("blobs", saved(120)) {
			return false
		}
		c.workers[1].kill()
		c.startWorker(1)
		// A fast job is behind step 240 when the checkpoint of step 120 is told of: the next kill is to find the next
		// generation at work, or both would be one disturbance.
		if !c.sees("blobs", func(j *clusterpb.Job) bool {
			return j.Generation > 1 && j.State == "running" && j.Step >= 240
		}) {
			return false
		}
		c.workers[2].kill()
		c.startWorker(2)
		done := c.watch("blobs", func(j *clusterpb.Job) bool { return j.State == "done" })
		return done.Generation >= 3
	})
	if got := c.ended("blobs"); got != want {
		t.Errorf("digest %s, undisturbed it is %s", got, want)
	}
	const last = epochs * 60
	states := map[uint64]*model.State{}
	for _, step := range []uint64{60, 120, last} {
		states[step] = c.stateAt(step)
	}
	for _, l := range []struct {
		layer    string
		from, to uint64
		same     bool
	}{
		{"conv2", 60, last, true}, {"conv1", 60, 120, false}, {"conv1", 120, last, true}, {"fc4", 60, 120, false},
		{"fc4", 120, last, true}, {"conv3", 120, last, false}, {"fc5", 60, last, false},
	} {
		if same := sameLayer(states[l.from], states[l.to], l.layer); same != l.same {
			t.Errorf("%s is the same after steps %d and %d: %v", l.layer, l.from, l.to, same)
		}
	}
}

// saved says that a job has a checkpoint of a step, or of a later one, and runs.
func saved(step uint64) func(*clusterpb.Job) bool {
	return func(j *clusterpb.Job) bool { return j.CommittedStep >= step && j.State == "running" }
}

// stateAt is what job blobs was after a step, by the export of its checkpoint.
func (c *cluster) stateAt(step uint64) *model.State {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), "m.safetensors")
	must(c.t, coordinatorProgram, "checkpoint", "export", "blobs", "--step", fmt.Sprint(step), "--out", path,
		"--coordinator", c.address)
	_, s, err := model.Read(path)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// sameLayer says whether all parameters of a layer are the same to the bit.
func sameLayer(a, b *model.State, layer string) bool {
	for column, params := range a.Plan.Params {
		for i, p := range params {
			if p.Layer == layer && !slices.Equal(a.Values[column][i], b.Values[column][i]) {
				return false
			}
		}
	}
	return true
}
