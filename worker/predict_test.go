package main

import (
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"colonnade/checkpoint/model"
	"colonnade/checkpoint/tensors"
	"colonnade/shard/job"
	"colonnade/shard/score"
	"colonnade/worker/data"
)

// writeModel exports the newest checkpoint below root.
func writeModel(t *testing.T, root, name, path string) {
	t.Helper()
	j, s, _, err := model.FromDirectory(t.Context(), root, name, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := model.AboutJob(j, "")
	if err != nil {
		t.Fatal(err)
	}
	_, write, err := model.Export(a, s, "safetensors", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := tensors.Create(path, write); err != nil {
		t.Fatal(err)
	}
}

// pictures writes a pack's images as PNG.
func pictures(t *testing.T, p *data.Pack) (paths []string) {
	t.Helper()
	dir := t.TempDir()
	for i := range p.Images {
		m := image.NewGray(image.Rect(0, 0, p.Width, p.Height))
		copy(m.Pix, p.Image(i))
		path := filepath.Join(dir, fmt.Sprintf("%02d.png", i))
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := png.Encode(f, m); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// said is a command's JSON.
func said[T any](t *testing.T, args ...string) (out T) {
	t.Helper()
	r := command(context.Background(), append(args, "--json")...)
	if r.code != 0 {
		t.Fatalf("worker %s: %s", strings.Join(args, " "), r.err)
	}
	if err := json.Unmarshal([]byte(r.out), &out); err != nil {
		t.Fatalf("worker %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// TestPredict predicts from a checkpoint, from the model exported from it, and on another device; and counts by hand
// what `evaluate` must come to.
func TestPredict(t *testing.T) {
	packPath := makePack(t, 16)
	j := makeJob(t, packPath, nil)
	h := startHost(t, "one")
	h.Assign(assign(j, 1, h, h, h))
	h.next(finished)
	h.next(finished)
	h.idle()
	file := filepath.Join(t.TempDir(), "m.safetensors")
	writeModel(t, h.root, "test", file)
	p, err := data.Open(packPath)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	images := pictures(t, p)
	predict := func(at, device string) []prediction {
		return said[[]prediction](t, append([]string{"predict", "--checkpoint", at, "--device", device}, images...)...)
	}
	want := predict(h.root, "ref")
	tally, probabilities := score.NewTally(8), make([]float64, 8)
	for i, one := range want {
		score.Softmax(probabilities, one.Logits)
		if err := tally.Add(probabilities, p.Label(i)); err != nil {
			t.Fatal(err)
		}
		if len(one.Best) != 5 || one.Best[0].Probability != probabilities[one.Best[0].Class] ||
			one.Best[0].Name != p.Classes[one.Best[0].Class] {
			t.Errorf("%s: %+v", one.Image, one.Best)
		}
	}
	for _, at := range []string{file, filepath.Join(h.root, "test"), filepath.Join(h.root, "test", "000000000008")} {
		for i, one := range predict(at, "ref") {
			if !slices.Equal(one.Logits, want[i].Logits) {
				t.Errorf("%s, %s: logits %v, want %v", at, one.Image, one.Logits, want[i].Logits)
			}
		}
	}
	for i, one := range predict(file, "cpu") {
		for k, v := range one.Logits {
			if math.Abs(float64(v-want[i].Logits[k])) > 1e-4 {
				t.Errorf("%s on cpu: logit %d is %v, want %v", one.Image, k, v, want[i].Logits[k])
			}
		}
	}
	evaluates(t, h.root, file, packPath, tally)
	showsExamples(t, h.root, p, want)
	r := command(context.Background(), "predict", "--checkpoint", file, "--device", "ref", images[0])
	if r.code != 0 || !strings.Contains(r.out, "█") || strings.Count(r.out, "\n") != 6 {
		t.Errorf("predict prints %s%s", r.out, r.err)
	}
	t.Run("refusals", func(t *testing.T) { predictRefuses(t, h.root, file, images[0]) })
}

// evaluates wants what was counted, of the checkpoint below root and of the model exported from it.
func evaluates(t *testing.T, root, file, packPath string, tally *score.Tally) {
	n := float64(tally.Images)
	// A batch that does not divide; two models, which are the same.
	for _, args := range [][]string{{"--batch", "5"}, {"--checkpoint", file}} {
		got := said[score.Report](t, append([]string{"evaluate", "--checkpoint", root, "--data", packPath, "--device", "ref"},
			args...)...)
		if got.Images != 16 || math.Abs(got.Loss-tally.Loss/n) > 1e-9 || got.Top1 != tally.Top1/n ||
			got.Top5 != tally.Top5/n {
			t.Errorf("evaluate %v: %d images, loss %v, errors %v and %v; want loss %v, errors %v and %v", args, got.Images,
				got.Loss, got.Top1, got.Top5, tally.Loss/n, tally.Top1/n, tally.Top5/n)
		}
		if len(got.Confusion) != len(tally.Cells()) || len(got.Classes) != 8 {
			t.Errorf("evaluate %v: %d cells of confusion, %d classes", args, len(got.Confusion), len(got.Classes))
		}
	}
	ten := said[score.Report](t, "evaluate", "--checkpoint", root, "--data", packPath, "--device", "ref", "--views", "10")
	if ten.Views != 10 || ten.Images != 16 || ten.Loss == tally.Loss/n {
		t.Errorf("ten views: %d images, loss %v as of one", ten.Images, ten.Loss)
	}
	r := command(context.Background(), "evaluate", "--checkpoint", file, "--data", packPath, "--device", "ref")
	if r.code != 0 || !strings.Contains(r.out, "top-5 error") || !strings.Contains(r.out, "as 7") {
		t.Errorf("evaluate prints %s%s", r.out, r.err)
	}
}

func predictRefuses(t *testing.T, root, file, picture string) {
	small := filepath.Join(t.TempDir(), "small.png")
	f, err := os.Create(small)
	if err != nil {
		t.Fatal(err)
	}
	if err := png.Encode(f, image.NewGray(image.Rect(0, 0, 1, 1))); err != nil {
		t.Fatal(err)
	}
	f.Close()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut.safetensors")
	if err := os.WriteFile(cut, raw[:len(raw)-1], 0o644); err != nil {
		t.Fatal(err)
	}
	for name, m := range map[string]mistake{
		"no model":   failure("none: no such file", "name a model file")("predict", "--checkpoint", "none", picture),
		"no picture": failure("none.png", "; name a JPEG or PNG")("predict", "--checkpoint", file, "none.png"),
		"no PNG":     failure("cannot be decoded", "; give another JPEG or PNG")("predict", "--checkpoint", file, cut),
		"one pixel": failure("small.png: is 1x1, too small", "; give another JPEG or PNG")("predict", "--checkpoint", file,
			small),
		"cut model": failure("it is cut short or damaged")("predict", "--checkpoint", cut, picture),
		"no job":    failure("no checkpoints of a job")("predict", "--checkpoint", filepath.Dir(small), picture),
		"views":     usage("--views 3")("evaluate", "--checkpoint", file, "--views", "3"),
		"no data":   usage("--data PACK")("evaluate", "--checkpoint", file),
		"no such step": failure("no such file")("predict", "--checkpoint", filepath.Join(root, "test", "000000000099"),
			picture),
		"no best":       usage("--best 0")("predict", "--checkpoint", file, "--best", "0", picture),
		"absurd header": failure("not a file of tensors")("predict", "--checkpoint", picture, picture),
	} {
		r := command(context.Background(), m.args...)
		if r.code != m.code || r.out != "" || strings.Count(r.err, "\n") != 1 {
			t.Errorf("%s: status %d, printed %q and %q", name, r.code, r.out, r.err)
		}
		for _, s := range m.says {
			if !strings.Contains(r.err, s) {
				t.Errorf("%s: %q does not say %q", name, r.err, s)
			}
		}
	}
}

// TestAJobBeginsWithAModel: with all layers anew it is the job that begins at random; with the model's weights it is
// another, the same on one worker and on two; and a model that is not the one that was submitted is refused.
func TestAJobBeginsWithAModel(t *testing.T) {
	packPath := makePack(t, 16)
	j := makeJob(t, packPath, nil)
	a, b := trained(t, j)
	random := digests(a, b)
	for _, h := range []*testHost{b} { // column 1's file, to where column 0's is
		for _, f := range []string{"000000000008/r0c1.g1.ckpt"} {
			raw, err := os.ReadFile(filepath.Join(h.root, "test", f))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(a.root, "test", f), raw, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "m.safetensors")
	writeModel(t, a.root, "test", file)
	begin := func(fresh ...string) *job.Job {
		sum, err := model.Sum(file)
		if err != nil {
			t.Fatal(err)
		}
		return makeJob(t, packPath, func(j *job.Job) {
			j.Start = &job.Start{From: file, Fresh: fresh}
			j.SetStart(file, sum)
		})
	}
	c, d := trained(t, begin("conv1", "conv2", "conv3", "fc4", "fc5"))
	if got := digests(c, d); !maps.Equal(got, random) {
		t.Errorf("with all layers anew: %v, want %v", got, random)
	}
	tuned := begin("fc5")
	c, d = trained(t, tuned)
	want := digests(c, d)
	if maps.Equal(want, random) {
		t.Error("the model reaches no bit")
	}
	one := startHost(t, "one")
	one.Assign(assign(tuned, 1, one, one, one))
	one.next(finished)
	one.next(finished)
	if got := digests(one); !maps.Equal(got, want) {
		t.Errorf("on one worker: %v, on two: %v", got, want)
	}
	one.idle()
	if begin("fc5").Identity() == j.Identity() || begin("fc5").Identity() == begin().Identity() {
		t.Error("the model, or what is fresh, is not part of the job's identity")
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(file, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := model.StartOf(tuned, file); err == nil || !strings.Contains(err.Error(), "put that file back") {
		t.Errorf("another model: %v", err)
	}
}
