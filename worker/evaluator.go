package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"

	"colonnade/cudakern"
	"colonnade/shard/pack"
	"colonnade/shard/score"
	"colonnade/worker/data"
)

// evaluator tests models on a pack: of each image the mean of the models' predictions in all views. It is the one way
// there is, for a part of an evaluation of the cluster and for all of a pack by `worker evaluate`.
type evaluator struct {
	models []*predictor
	images *data.Pack
	views  int
	passes atomic.Uint64 // images seen since a part began, each once for every view and model

	batch data.Batch
	means []*score.Mean // by image of the batch
	mean  []float64
}

// newEvaluator takes over predictors of the same batch and classes, and a pack.
func newEvaluator(models []*predictor, images *data.Pack, views, batch int) *evaluator {
	classes := models[0].plan.Network.Classes
	e := &evaluator{models: models, images: images, views: views, mean: make([]float64, classes),
		batch: data.Batch{Images: make([]byte, batch*images.ImageBytes()), Labels: make([]int32, batch),
			Views: make([]cudakern.View, batch)}}
	for range batch {
		e.means = append(e.means, score.NewMean(classes))
	}
	return e
}

// part tests some images, a whole number of batches but at the end of the pack, and sums them in their order.
func (e *evaluator) part(ctx context.Context, first, images int) (*score.Tally, error) {
	e.passes.Store(0)
	out, end, batch := score.NewTally(len(e.mean)), first+images, len(e.batch.Labels)
	if first < 0 || images < 1 || end > e.images.Images {
		return nil, fmt.Errorf("images %d to %d of a pack of %d", first, end, e.images.Images)
	}
	for ; first < end; first += batch {
		e.batch.Valid = min(batch, end-first)
		for i := range e.batch.Labels {
			at := min(first+i, e.images.Images-1) // what is missing in the last batch is its last image, and not counted
			if err := e.images.Check(at); err != nil {
				return nil, err
			}
			copy(e.batch.Images[i*e.images.ImageBytes():], e.images.Image(at))
			e.batch.Labels[i] = int32(e.images.Label(at))
		}
		for _, m := range e.models {
			if err := e.see(ctx, m); err != nil {
				return nil, err
			}
		}
		for i := range e.batch.Valid {
			e.means[i].Take(e.mean)
			if err := out.Add(e.mean, int(e.batch.Labels[i])); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// see adds one model's predictions of a batch in all views to the means.
func (e *evaluator) see(ctx context.Context, m *predictor) error {
	in, h, w := m.plan.Network.Input, m.source.height, m.source.width
	for v := range e.views {
		view := data.CentreView(h, w, in.Height, in.Width)
		if e.views > 1 {
			view = data.TenViews(h, w, in.Height, in.Width)[v]
		}
		for i := range e.batch.Views {
			e.batch.Views[i] = view
		}
		logits, err := m.predict(ctx, e.batch)
		if err != nil {
			return err
		}
		classes := len(logits) / len(e.batch.Labels)
		for i := range e.batch.Valid {
			e.means[i].Add(logits[i*classes : (i+1)*classes])
		}
		e.passes.Add(uint64(e.batch.Valid))
	}
	return nil
}

// close gives everything back.
func (e *evaluator) close() (err error) {
	for _, p := range e.models {
		err = also(err, p.close())
	}
	return also(err, e.images.Close())
}

// takes says whether a model can be tested on a pack, together with another model.
func (m *loadedModel) takes(images *data.Pack, path string, first *loadedModel) error {
	a := m.about
	switch {
	case images.Channels != a.Channels || a.Height > 0 && (images.Height != a.Height || images.Width != a.Width):
		return fmt.Errorf("%s has images of %dx%dx%d, %s was trained on %dx%dx%d; pack them the same way", path,
			images.Channels, images.Height, images.Width, m.name, a.Channels, a.Height, a.Width)
	case len(images.Classes) > len(a.Classes):
		return fmt.Errorf("%s has %d classes, %s knows %d; pack it with the same classes", path, len(images.Classes), m.name,
			len(a.Classes))
	case len(a.Classes) != len(first.about.Classes):
		return fmt.Errorf("%s has %d classes, %s has %d; average models of the same classes", m.name, len(a.Classes),
			first.name, len(first.about.Classes))
	}
	for i, name := range images.Classes {
		if a.Classes[i] != name && a.Classes[i] != strconv.Itoa(i) && name != strconv.Itoa(i) {
			return fmt.Errorf("label %d is %q in %s and %q to %s; pack it with the same classes, in the same order", i, name,
				path, a.Classes[i], m.name)
		}
	}
	return nil
}

// sourceOf is how a pack's images are stored, and the mean they are seen with: that of the training pack at path, if
// one is named, since views beside the centre see all of it, unless the mean's centre is subtracted from each.
func (m *loadedModel) sourceOf(images *data.Pack, path string, views int) (*stillSource, error) {
	s := &stillSource{channels: images.Channels, height: images.Height, width: images.Width}
	if path != "" {
		h, mean, err := pack.ReadMean(path)
		if err != nil {
			return nil, fmt.Errorf("mean image: %w", err)
		}
		if h.Channels != s.channels || h.Height != s.height || h.Width != s.width {
			return nil, fmt.Errorf("%s has images of %dx%dx%d, those to test on are of %dx%dx%d; pack both the same way", path,
				h.Channels, h.Height, h.Width, s.channels, s.height, s.width)
		}
		s.mean = mean
		return s, nil
	}
	in := m.state.Plan.Network.Input
	if views > 1 && !m.about.CentreMean && (in.Height < s.height || in.Width < s.width) {
		return nil, errors.New("a model file has the mean image's centre only, ten views see all of it; name the training " +
			"pack: --pack FILE")
	}
	s.mean = m.storedMean(s.height, s.width)
	return s, nil
}
