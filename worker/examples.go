package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"path/filepath"
	"slices"
	"time"

	"colonnade/checkpoint/tensors"
	"colonnade/cudakern"
	"colonnade/shard/score"
	"colonnade/worker/data"
)

// examplesCmd is `worker examples`.
type examplesCmd struct {
	Checkpoint string `required:"" placeholder:"PATH" help:"Model, as of: worker predict."`
	Data       string `placeholder:"PACK" help:"Images to look at. Default: the test pack of the checkpoint's job."`
	Train      string `placeholder:"PACK" help:"Images to find the nearest among. Default: the training pack of the checkpoint's job."`
	Images     int    `default:"8" help:"Images to say the five best classes of, drawn evenly from the pack."`
	Queries    int    `default:"5" help:"Images to find the nearest training images of, from the same."`
	Nearest    int    `default:"6" help:"Training images to find for each, by the Euclidean distance of the last hidden layer (paper, section 6.1)."`
	Among      int    `default:"0" help:"Training images to look at, drawn evenly from the pack; 0: all."`
	Batch      int    `default:"64" help:"Images at once."`
	Device     string `default:"cpu" help:"Device to compute on; see: worker devices."`
	Threads    int    `default:"${threads}" help:"Threads."`
	Out        string `placeholder:"FILE" help:"File to write, JSON with the images in it. Default: examples.json in the job's directory of checkpoints, where the dashboard finds it."`
}

// exampleSet is what examplesCmd writes.
type exampleSet struct {
	Model       string      `json:"model"`
	Among       int         `json:"among"` // training images that were looked at
	Predictions []exemplar  `json:"predictions"`
	Similar     []neighbour `json:"similar"`
}

// exemplar is an image and what the model says of it.
type exemplar struct {
	Sample int     `json:"sample"`
	Label  int     `json:"label"`
	Name   string  `json:"name"`
	PNG    []byte  `json:"png"`
	Best   []guess `json:"best,omitempty"` // five, best first

	feature []float32
}

// neighbour is an image and the training images nearest to it, the nearest first.
type neighbour struct {
	Of      exemplar `json:"of"`
	Nearest []near   `json:"nearest"`
}

type near struct {
	exemplar
	Distance float64 `json:"distance"`
}

const (
	mostExamples = 1000
	bestShown    = 5
)

func (c *examplesCmd) check() error {
	for _, f := range []struct {
		name        string
		value, most int
	}{{"images", c.Images, mostExamples}, {"queries", c.Queries, mostExamples}, {"nearest", c.Nearest, mostExamples},
		{"among", c.Among, math.MaxInt32}, {"batch", c.Batch, 1 << 16}} {
		if f.value < 0 || f.value > f.most || f.name == "batch" && f.value < 1 {
			return usageError{fmt.Errorf("--%s %d; give a number up to %d, or leave it out", f.name, f.value, f.most)}
		}
	}
	return checkThreads(c.Threads)
}

// Run looks at the images and writes the file.
func (c *examplesCmd) Run(ctx context.Context, con console) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	m, err := openModel(ctx, c.Checkpoint, c.Train)
	if err != nil {
		return err
	}
	if c.Out == "" {
		if m.directory == "" {
			return usageError{fmt.Errorf("%s is not in a directory of checkpoints; name a file to write with --out FILE",
				m.name)}
		}
		c.Out = filepath.Join(m.directory, "examples.json")
	}
	if m.job != nil {
		if c.Train == "" {
			c.Train = m.job.Train.Path
		}
		if c.Data == "" && m.job.Test != nil {
			c.Data = m.job.Test.Path
		}
	}
	if c.Data == "" || c.Train == "" {
		return usageError{fmt.Errorf("%s names no packs; name images to look at with --data PACK, and --train PACK", m.name)}
	}
	var packs [2]*data.Pack
	for i, path := range []string{c.Data, c.Train} {
		if packs[i], err = data.Open(path); err != nil {
			return err
		}
		defer func() { err = also(err, packs[i].Close()) }()
		if err := m.takes(packs[i], path, m); err != nil {
			return err
		}
	}
	source, err := m.sourceOf(packs[0], c.Train, 1)
	if err != nil {
		return err
	}
	p, err := newPredictor(ctx, m, source, c.Batch, c.Threads, opener(c.Device))
	defer func() { err = also(err, p.close()) }()
	if err != nil {
		return err
	}
	p.wantHidden(c.Batch)
	s, err := c.look(ctx, con, p, m.about.Classes, packs[0], packs[1])
	if err != nil {
		return err
	}
	s.Model = m.name
	if err := tensors.Create(c.Out, func(w io.Writer) error { return json.NewEncoder(w).Encode(s) }); err != nil {
		return err
	}
	_, err = fmt.Fprintln(con.out, c.Out)
	return err
}

// look finds everything out; classes are the model's.
func (c *examplesCmd) look(ctx context.Context, con console, p *predictor, classes []string, test, train *data.Pack) (
	*exampleSet, error) {
	samples, err := test.Pick("", 0, max(c.Images, c.Queries, 1))
	if err != nil {
		return nil, err
	}
	s := &exampleSet{}
	var all []exemplar
	err = c.each(ctx, p, test, samples, func(e exemplar, logits []float32) error {
		probabilities := make([]float64, len(logits))
		score.Softmax(probabilities, logits)
		for _, k := range score.Best(probabilities, bestShown) {
			e.Best = append(e.Best, guess{k, classes[k], probabilities[k]})
		}
		if e.PNG, err = picturePNG(test, e.Sample); err != nil {
			return err
		}
		all = append(all, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.Predictions = all[:min(c.Images, len(all))]
	for _, e := range all[:min(c.Queries, len(all))] {
		s.Similar = append(s.Similar, neighbour{Of: e})
	}
	if len(s.Similar) == 0 || c.Nearest == 0 {
		return s, nil
	}
	s.Among = train.Images
	if c.Among > 0 {
		s.Among = min(c.Among, train.Images)
	}
	if samples, err = train.Pick("", 0, s.Among); err != nil {
		return nil, err
	}
	began, told, n := time.Now(), time.Now(), 0
	err = c.each(ctx, p, train, samples, func(e exemplar, _ []float32) error {
		for i := range s.Similar {
			s.Similar[i].meet(e, c.Nearest)
		}
		if n++; time.Since(told) > tellEvery {
			told = time.Now()
			left := time.Duration(float64(time.Since(began)) * float64(len(samples)-n) / float64(n))
			fmt.Fprintf(con.err, "%d of %d training images, %v left\n", n, len(samples), left.Round(time.Second))
		}
		return nil
	})
	for i := range s.Similar {
		for k := range s.Similar[i].Nearest {
			e := &s.Similar[i].Nearest[k]
			if err == nil {
				e.PNG, err = picturePNG(train, e.Sample)
			}
		}
	}
	return s, err
}

// each runs samples of a pack through the network, all seen at their centre; logits are valid during the call only.
func (c *examplesCmd) each(ctx context.Context, p *predictor, images *data.Pack, samples []int,
	take func(e exemplar, logits []float32) error) error {
	in, classes := p.plan.Network.Input, p.plan.Network.Classes
	batch := data.Batch{Images: make([]byte, c.Batch*images.ImageBytes()), Labels: make([]int32, c.Batch),
		Views: make([]cudakern.View, c.Batch)}
	for first := 0; first < len(samples); first += c.Batch {
		batch.Valid = min(c.Batch, len(samples)-first)
		for i := range batch.Labels {
			at := samples[min(first+i, len(samples)-1)] // what is missing in the last batch is its last image, and not taken
			if err := images.Check(at); err != nil {
				return err
			}
			copy(batch.Images[i*images.ImageBytes():], images.Image(at))
			batch.Views[i] = data.CentreView(images.Height, images.Width, in.Height, in.Width)
		}
		logits, err := p.predict(ctx, batch)
		if err != nil {
			return err
		}
		for i := range batch.Valid {
			e := exemplar{Sample: samples[first+i], feature: p.feature(i, c.Batch)}
			e.Label = images.Label(e.Sample)
			e.Name = images.Classes[e.Label]
			if err := take(e, logits[i*classes:(i+1)*classes]); err != nil {
				return err
			}
		}
	}
	return nil
}

// meet keeps the image if it is one of the n nearest so far. Of two as near the one that came first is nearer.
func (b *neighbour) meet(e exemplar, n int) {
	sum := 0.0
	for i, v := range e.feature {
		d := float64(v) - float64(b.Of.feature[i])
		sum += d * d
	}
	distance := math.Sqrt(sum)
	e.feature = nil // it may be one of many thousand
	at := slices.IndexFunc(b.Nearest, func(o near) bool { return distance < o.Distance })
	if at < 0 {
		at = len(b.Nearest)
	}
	if at < n {
		b.Nearest = slices.Insert(b.Nearest, at, near{e, distance})
		b.Nearest = b.Nearest[:min(n, len(b.Nearest))]
	}
}

// picturePNG is an image of a pack as PNG, at its own size.
func picturePNG(p *data.Pack, sample int) ([]byte, error) {
	m := image.NewRGBA(image.Rect(0, 0, p.Width, p.Height))
	pixels, area := p.Image(sample), p.Width*p.Height
	for i := range area {
		c := color.RGBA{pixels[i], pixels[i], pixels[i], 255}
		if p.Channels >= 3 {
			c.G, c.B = pixels[area+i], pixels[2*area+i]
		}
		m.SetRGBA(i%p.Width, i/p.Width, c)
	}
	var b bytes.Buffer
	err := png.Encode(&b, m)
	return b.Bytes(), err
}
