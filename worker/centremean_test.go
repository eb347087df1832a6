package main

import (
	"context"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"colonnade/checkpoint/model"
	"colonnade/checkpoint/tensors"
	"colonnade/cudakern"
	"colonnade/shard/job"
	"colonnade/shard/score"
	"colonnade/worker/data"
)

// TestCentreMeanTravels: a model of a job with `mean: centre` has the mean's centre subtracted from each of the ten
// views, whether it is read from its checkpoint or from an export, with its training pack at hand or without; as
// predictions of the views, cut out by hand, say.
func TestCentreMeanTravels(t *testing.T) {
	packPath := filepath.Join(t.TempDir(), "large.pack")
	if _, err := data.MakePack(context.Background(), data.PackOptions{From: idx(t, 16), Split: "train", Out: packPath,
		Size: 16}); err != nil {
		t.Fatal(err)
	}
	j := makeJob(t, packPath, func(j *job.Job) { j.Augment.Mean = job.MeanCentre })
	h := startHost(t, "one")
	h.Assign(assign(j, 1, h, h, h))
	h.next(finished)
	h.next(finished)
	h.idle()
	dir := t.TempDir()
	file, crops, plain := filepath.Join(dir, "m.safetensors"), filepath.Join(dir, "crops.safetensors"),
		filepath.Join(dir, "plain.safetensors")
	writeModel(t, h.root, "test", file)
	a, s, err := model.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string) {
		_, w, err := model.Export(a, s, "safetensors", nil)
		if err == nil {
			err = tensors.Create(path, w)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	a.Height, a.Width = 12, 12 // what it is shown is a view
	write(crops)
	a.Height, a.Width, a.CentreMean = 16, 16, false
	write(plain)
	p, err := data.Open(packPath)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	want := tenViewsLoss(t, p, crops)
	for _, args := range [][]string{{h.root}, {file}, {file, "--pack", packPath}} {
		got := said[score.Report](t, append([]string{"evaluate", "--device", "ref", "--views", "10", "--data", packPath,
			"--checkpoint"}, args...)...)
		if math.Abs(got.Loss-want) > 1e-6 {
			t.Errorf("ten views of %v: loss %v, want %v", args, got.Loss, want)
		}
	}
	got := said[score.Report](t, "evaluate", "--device", "ref", "--views", "10", "--data", packPath, "--checkpoint", plain,
		"--pack", packPath)
	if math.Abs(got.Loss-want) < 1e-4 {
		t.Errorf("the mean at the view's place comes to the same loss, %v: this shows nothing", want)
	}
}

// tenViewsLoss is the loss of a pack's images in ten views, each predicted as a picture of its own.
func tenViewsLoss(t *testing.T, p *data.Pack, file string) float64 {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	views := data.TenViews(p.Height, p.Width, 12, 12)
	for i := range p.Images {
		for k, v := range views {
			path := filepath.Join(dir, strconv.Itoa(i)+"-"+strconv.Itoa(k)+".png")
			writeView(t, path, p, i, v)
			paths = append(paths, path)
		}
	}
	all := said[[]prediction](t, append([]string{"predict", "--checkpoint", file, "--device", "ref"}, paths...)...)
	loss, probabilities := 0.0, make([]float64, 8)
	for i := range p.Images {
		sum := 0.0
		for k := range views {
			score.Softmax(probabilities, all[i*len(views)+k].Logits)
			sum += probabilities[p.Label(i)]
		}
		loss -= math.Log(sum / float64(len(views)))
	}
	return loss / float64(p.Images)
}

// writeView writes what a view shows of a grey image.
func writeView(t *testing.T, path string, p *data.Pack, image1 int, v cudakern.View) {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, 12, 12))
	for y := range 12 {
		for x := range 12 {
			from := x
			if v.Flip {
				from = 11 - x
			}
			m.Pix[y*12+x] = p.Image(image1)[(y+int(v.Y))*p.Width+from+int(v.X)]
		}
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := png.Encode(f, m); err != nil {
		t.Fatal(err)
	}
}
