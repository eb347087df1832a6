package main

import (
	"context"
	"encoding/json"
	"io"
	"path/filepath"

	"colonnade/checkpoint/tensors"
	"colonnade/cudakern"
	"colonnade/shard/score"
	"colonnade/worker/data"
	"colonnade/worker/train"
)

// seen is what images came to in ten views; views.safetensors has it beside the logits, views x images x classes.
type seen struct {
	Samples []int   `json:"samples"`
	Loss    float64 `json:"loss"` // of the mean of the views' probabilities, mean of the images
	Top1    float64 `json:"top1_error"`
	Top5    float64 `json:"top5_error"`
}

// tenViews shows a column some images of the pack in ten views, as an evaluation does; the first column writes what
// came of it.
func (t *trace) tenViews(ctx context.Context, c *train.Cell, column int) error {
	n, classes, p := t.job.Recipe.Batch, t.job.Classes, t.pack
	images := min(t.views, n, p.Images)
	batch := data.Batch{Labels: make([]int32, n), Views: make([]cudakern.View, n), Valid: n}
	var s seen
	for i := range n {
		sample := i * (p.Images / max(images, 1)) % p.Images
		if i < images {
			s.Samples = append(s.Samples, sample)
		}
		batch.Images = append(batch.Images, p.Image(sample)...)
		batch.Labels[i] = int32(p.Label(sample))
	}
	means := make([]*score.Mean, images)
	for i := range means {
		means[i] = score.NewMean(classes)
	}
	var all []float32
	logits := make([]float32, n*classes)
	in := t.plan.Network.Input
	for v, view := range data.TenViews(p.Height, p.Width, in.Height, in.Width) {
		for i := range batch.Views {
			batch.Views[i] = view
		}
		if err := c.Predict(ctx, v, batch, logits); err != nil {
			return err
		}
		for i, m := range means {
			m.Add(logits[i*classes : (i+1)*classes])
		}
		all = append(all, logits[:images*classes]...)
	}
	if column > 0 {
		return nil
	}
	tally, mean := score.NewTally(classes), make([]float64, classes)
	for i, m := range means {
		m.Take(mean)
		if err := tally.Add(mean, int(batch.Labels[i])); err != nil {
			return err
		}
	}
	s.Loss, s.Top1, s.Top5 = tally.Loss/float64(images), tally.Top1/float64(images), tally.Top5/float64(images)
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return tensors.Create(filepath.Join(t.out, "views.safetensors"), func(w io.Writer) error {
		return tensors.Write(w, "safetensors", map[string]string{"seen": string(text)},
			[]tensors.Source{tensors.Of("logits", []int{10, images, classes}, all)})
	})
}
