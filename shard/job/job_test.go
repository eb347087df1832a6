package job

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"colonnade/shard"
)

const sample = `job: sample
network: tiny
columns: 2
seed: 3
data: {train: a.pack, test: b.pack}
recipe:
  batch: 10
  epochs: 4
  rate: 0.1
  schedule:
    - {epoch: 2, rate: 0.05}
    - {epoch: 4, rate: 0.01}
augment: {crop: random, pad: 2, flip: true}
evaluate: {every: 2}
checkpoint: {every: 25, keep: 2}
`

func packs() (train, test *Pack) {
	return &Pack{Path: "/data/a.pack", ID: strings.Repeat("ab", 32), Images: 105, Channels: 3, Height: 14, Width: 15,
			Classes: 8},
		&Pack{Path: "/data/b.pack", ID: strings.Repeat("cd", 32), Images: 31, Channels: 3, Height: 14, Width: 15, Classes: 8}
}

// made parses a job and resolves it on tiny and the sample packs.
func made(t testing.TB, text string) *Job {
	t.Helper()
	j, err := Parse("job.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	network, err := shard.EmbeddedText("tiny")
	if err != nil {
		t.Fatal(err)
	}
	train, test := packs()
	if err := j.Resolve(network, train, test); err != nil {
		t.Fatal(err)
	}
	return j
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"columns: 2", "colums: 2", "job.yaml:3: "},
		{"columns: 2", "columns: two", "job.yaml:3: "},
		{"columns: 2", "columns: 0", "columns: 0; use 1, 2 or 4"},
		{"columns: 2", "columns: 2\nreplicas: 0", "replicas: 0; use 1, or as many as share each batch, at most 1024"},
		{"columns: 2", "columns: 2\nreplicas: 1025", "replicas: 1025; use 1, or"},
		{"columns: 2", "columns: 2\nreplicas: 3", "recipe.batch: 10 does not divide among 3 replicas; use 12"},
		{"job: sample", "job: ../x", "is no name"},
		{"job: sample\n", "", "is no name"},
		{"network: tiny\n", "", "network: missing"},
		{"{train: a.pack, test: b.pack}", "{test: b.pack}", "data.train: missing; name a pack, made with: worker data pack"},
		{"batch: 10", "batch: 0", "recipe.batch: 0"},
		{"epochs: 4", "epochs: 4\n  steps: 3", "give one of them, positive"},
		{"  epochs: 4\n", "", "give one of them, positive"},
		{"rate: 0.1\n", "rate: -1\n", "recipe.rate: -1"},
		{"rate: 0.1\n", "rate: .nan\n", "recipe.rate: NaN"},
		{"rate: 0.1\n", "rate: 0.1\n  momentum: 1\n", "recipe.momentum: 1"},
		{"rate: 0.1\n", "rate: 0.1\n  decay: -1\n", "recipe.decay: -1"},
		{"{epoch: 4, rate: 0.01}", "{epoch: 2, rate: 0.01}", "recipe.schedule: entry 2 is not behind entry 1"},
		{"{epoch: 4, rate: 0.01}", "{step: 40, rate: 0.01}", "recipe.schedule: entry 2: use epochs throughout"},
		{"{epoch: 4, rate: 0.01}", "{rate: 0.01}", "recipe.schedule: entry 2: give either epoch or step"},
		{"{epoch: 2, rate: 0.05}", "{epoch: 1, rate: 0.05}", "recipe.schedule: entry 1: epoch 1 is the first"},
		{"crop: random", "crop: center", `augment.crop: "center"; use centre or random`},
		{"pad: 2", "pad: -1", "augment.pad: -1"},
		{"flip: true", "flip: true, scale: 0", "augment.scale: 0"},
		{"every: 2}", "every: -2}", "evaluate.every: -2"},
		{"every: 25", "every: -25", "checkpoint.every: -25"},
		{"seed: 3", "seed: 3\nbuddy: {every: -1}", "buddy.every: -1; give steps, or 0"},
		{"keep: 2", "keep: 0", "checkpoint.keep: 0; keep at least 1"},
		{"seed: 3", "seed: 3\nwinograd: sometimes",
			`job.yaml:5: winograd: "sometimes" is neither on nor off; use one of them; see scripts/jobs`},
		{"seed: 3", "seed: 3\nwinograd: 0", `job.yaml:5: winograd: "0" is neither on nor off; use one of them`},
		{"seed: 3", "seed: 3\nwinograd: [off]", `job.yaml:5: winograd: neither on nor off; use one of them`},
		{"seed: 3", "seed: 3\nwinograd: ''", `job.yaml:5: winograd: neither on nor off; use one of them`},
		{"seed: 3", "seed: 3\nrecipe: {winograd: off}", "job.yaml:"},
		{"seed: 3", "seed: 3\nnetwork_text: x", "are filled in when the job is submitted"},
		{"seed: 3", "seed: 3\n---\nseed: 4", "more than one YAML document"},
	} {
		text := strings.Replace(sample, c.old, c.new, 1)
		_, err := Parse("job.yaml", []byte(text))
		if text == sample || err == nil || !strings.Contains(err.Error(), c.want) ||
			strings.ContainsRune(err.Error(), '\n') ||
			!errors.Is(err, ErrJob) || !strings.HasPrefix(err.Error(), "job.yaml") {
			t.Errorf("%s instead of %s: error %v, want one line with %q", c.new, c.old, err, c.want)
		}
	}
	if _, err := Parse("job.yaml", nil); err == nil || !strings.Contains(err.Error(), "the file is empty") {
		t.Errorf("an empty file: %v", err)
	}
}

func TestResolveRefuses(t *testing.T) {
	for _, c := range []struct {
		change func(j *Job, train, test *Pack)
		want   string
	}{
		{func(j *Job, train, _ *Pack) { train.Images = 9 }, "recipe.batch: 10, but the training pack has only 9 images"},
		{func(j *Job, _, _ *Pack) { j.Recipe.Epochs = maxSteps }, "recipe.epochs: 1099511627776 of 10 steps each are more"},
		{func(j *Job, train, _ *Pack) { train.Channels = 2 }, "data.test"},
		{func(j *Job, train, test *Pack) { train.Channels, test.Channels = 2, 2 }, "takes images of [1 3] channels, not 2"},
		{func(j *Job, _, test *Pack) { test.Width = 16 }, "do not go with training images"},
		{func(j *Job, _, test *Pack) { test.Classes = 9 }, "data.test: the pack has 9 classes, the job 8"},
		{func(j *Job, train, _ *Pack) { j.Classes = 7 }, "classes: 7, but the training pack has 8"},
		{func(j *Job, train, _ *Pack) { j.Columns = 3 }, "do not divide into 3 columns"},
	} {
		j, err := Parse("job.yaml", []byte(sample))
		if err != nil {
			t.Fatal(err)
		}
		network, _ := shard.EmbeddedText("tiny")
		train, test := packs()
		c.change(j, train, test)
		before := *j
		if err = j.Resolve(network, train, test); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
		if diff := cmp.Diff(before, *j); diff != "" {
			t.Errorf("a refused job was changed:\n%s", diff)
		}
	}
}

// pinned wants a job to be written as the bytes of a file, and to come back from them the same; it returns them.
func pinned(t *testing.T, file string, j *Job) []byte {
	t.Helper()
	got := j.Encode()
	path := filepath.Join("testdata", file)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("a job is written another way: raise encodingVersion (-want +got):\n%s", diff)
	}
	back, err := Decode(want)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(j, back); diff != "" {
		t.Errorf("the job comes back another (-want +got):\n%s", diff)
	}
	return want
}

// TestEncodingIsPinned holds the bytes that are in Raft logs out there.
func TestEncodingIsPinned(t *testing.T) {
	j := made(t, sample)
	want := pinned(t, "sample.job", j)
	if _, err := Decode(want[1:]); !errors.Is(err, ErrJob) {
		t.Errorf("bytes of another version: %v", err)
	}
}

// TestIdentity wants a job's identity to change with everything that reaches a weight, and with nothing else.
func TestIdentity(t *testing.T) {
	base := made(t, sample).Identity()
	for name, change := range map[string]func(*Job){
		"seed": func(j *Job) { j.Seed++ }, "columns": func(j *Job) { j.Columns = 1 },
		"batch": func(j *Job) { j.Recipe.Batch++ },
		"rate":  func(j *Job) { j.Recipe.Rate *= 2 }, "momentum": func(j *Job) { j.Recipe.Momentum = 0.5 },
		"decay": func(j *Job) { j.Recipe.Decay = 0 }, "schedule": func(j *Job) { j.Recipe.Schedule[0].Rate = 1 },
		"crop": func(j *Job) { j.Augment.Crop = "centre" }, "flip": func(j *Job) { j.Augment.Flip = false },
		"pad": func(j *Job) { j.Augment.Pad++ }, "scale": func(j *Job) { j.Augment.Scale = 1 },
		"images": func(j *Job) { j.Train.ID = strings.Repeat("ef", 32) }, "epochs": func(j *Job) { j.Recipe.Epochs++ },
		"network": func(j *Job) { j.NetworkText += "#" }, "classes": func(j *Job) { j.Classes++ },
		"winograd": func(j *Job) { j.Winograd = WinogradOff },
	} {
		j := made(t, sample)
		change(j)
		if j.Identity() == base {
			t.Errorf("another %s, the same identity", name)
		}
	}
	for name, change := range map[string]func(*Job){
		"name": func(j *Job) { j.Name = "other" }, "path": func(j *Job) { j.Train.Path, j.Data.Train = "/x", "x" },
		"checkpoints":    func(j *Job) { j.Checkpoint = Checkpoint{7, 7} },
		"copies":         func(j *Job) { j.Buddy = &Buddy{3} },
		"network's path": func(j *Job) { j.Network = "x.yaml" },
	} {
		j := made(t, sample)
		change(j)
		if j.Identity() != base {
			t.Errorf("another %s, another identity", name)
		}
	}
}

// TestWinograd wants off and on as typed, and of a job that leaves them out, or has them on, the bytes it always had.
func TestWinograd(t *testing.T) {
	plain := made(t, sample)
	for text, off := range map[string]bool{"winograd: off\n": true, "winograd: on\n": false, "winograd: Off\n": true,
		"winograd: OFF\n": true, "winograd: On\n": false, "winograd: false\n": true, "winograd: true\n": false,
		"winograd: \"off\"\n": true, "winograd: 'on'\n": false, "winograd: off # exact\n": true, "winograd:\n": false,
		"": false} {
		j := made(t, strings.Replace(sample, "seed: 3\n", "seed: 3\n"+text, 1))
		if j.Direct() != off {
			t.Errorf("%q is read as %q", text, j.Winograd)
		}
		if same := string(j.Encode()) == string(plain.Encode()); same == off {
			t.Errorf("%q: written as if nothing was said: %v", text, same)
		}
		if (j.Identity() == plain.Identity()) == off {
			t.Errorf("%q: the same job: %v", text, !off)
		}
		back, err := Decode(j.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(j, back); diff != "" || back.Direct() != off {
			t.Errorf("%q comes back another (-want +got):\n%s", text, diff)
		}
	}
}

func TestSchedule(t *testing.T) {
	j := made(t, sample)
	if j.StepsPerEpoch() != 10 || j.Steps() != 40 || j.Epochs() != 4 {
		t.Fatalf("%d steps an epoch, %d in all, %d epochs; want 10, 40, 4", j.StepsPerEpoch(), j.Steps(), j.Epochs())
	}
	for step, want := range map[uint64]float64{0: 0.1, 9: 0.1, 10: 0.05, 29: 0.05, 30: 0.01, 39: 0.01} {
		if got := j.RateAt(step, nil); got != want {
			t.Errorf("rate after %d steps is %g, want %g", step, got, want)
		}
	}
	var saved, evaluated []uint64
	for step := range j.Steps() + 1 {
		if j.CheckpointAfter(step) {
			saved = append(saved, step)
		}
		if j.EvaluateAfter(step) {
			evaluated = append(evaluated, step)
		}
	}
	if !slices.Equal(saved, []uint64{25, 40}) || !slices.Equal(evaluated, []uint64{20, 40}) {
		t.Errorf("checkpoints after %v, evaluations after %v", saved, evaluated)
	}
	j.Checkpoint.Every, j.Evaluate.Every, j.Recipe.Epochs, j.Recipe.Steps = 0, 0, 0, 23
	if !j.CheckpointAfter(10) || j.CheckpointAfter(0) || !j.CheckpointAfter(23) || j.EvaluateAfter(10) ||
		!j.EvaluateAfter(23) || j.Epochs() != 3 {
		t.Error("without every: checkpoints belong to the end of every epoch, evaluations to the end of the job")
	}
}

// FuzzJob wants an error or a whole job, never a panic.
func FuzzJob(f *testing.F) {
	f.Add([]byte(sample))
	f.Add(made(f, sample).Encode())
	f.Add([]byte(fmt.Sprintf("%sjob: x\ntrain_pack: {images: -1}\n", header)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if j, err := Parse("f", b); err == nil {
			j.Encode()
		}
		if j, err := Decode(b); err == nil {
			if _, err := j.Plan(); err != nil {
				t.Errorf("a decoded job has no plan: %v", err)
			}
			j.Identity()
		}
	})
}
