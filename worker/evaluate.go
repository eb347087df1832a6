package main

import (
	"context"
	"fmt"
	"time"

	"colonnade/shard/score"
	"colonnade/worker/data"
)

// evaluateCmd is `worker evaluate`.
type evaluateCmd struct {
	Checkpoint []string `required:"" sep:"none" placeholder:"PATH" help:"Model, as of: worker predict. Given several times: the mean of their predictions, as the paper's ensembles."`
	Data       string   `placeholder:"PACK" help:"Images to test on. Default: the test pack of the checkpoint's job."`
	Pack       string   `placeholder:"FILE" help:"Training pack of a checkpoint, if it is not where the job has it."`
	Views      int      `default:"1" help:"1: the centre; 10: corners, centre and their mirrors, averaged (paper, section 4.1)."`
	Batch      int      `default:"64" help:"Images at once."`
	Device     string   `default:"cpu" help:"Device to compute on; see: worker devices."`
	Threads    int      `default:"${threads}" help:"Threads."`
	JSON       bool     `help:"Print as JSON, with the whole confusion matrix."`
}

func (c *evaluateCmd) check() error {
	switch {
	case c.Views != 1 && c.Views != 10:
		return usageError{fmt.Errorf("--views %d; use 1, the centre, or 10, the paper's", c.Views)}
	case c.Batch < 1 || c.Batch > 1<<16:
		return usageError{fmt.Errorf("--batch %d; give a number of images, e.g. 64", c.Batch)}
	}
	return checkThreads(c.Threads)
}

// Run evaluates models on a pack.
func (c *evaluateCmd) Run(ctx context.Context, con console) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	var models []*loadedModel
	for _, path := range c.Checkpoint {
		m, err := openModel(ctx, path, c.Pack)
		if err != nil {
			return err
		}
		models = append(models, m)
	}
	path := c.Data
	if path == "" {
		if models[0].job == nil || models[0].job.Test == nil {
			return usageError{fmt.Errorf("%s names no test pack; name the images with --data PACK", models[0].name)}
		}
		path = models[0].job.Test.Path
	}
	images, err := data.Open(path)
	if err != nil {
		return err
	}
	var all []*predictor
	e := &evaluator{images: images}
	defer func() { err = also(err, e.close()) }()
	for _, m := range models {
		if err := m.takes(images, path, models[0]); err != nil {
			return err
		}
		trained := c.Pack
		if trained == "" && m.job != nil {
			trained = m.job.Train.Path
		}
		source, err := m.sourceOf(images, trained, c.Views)
		if err != nil {
			return err
		}
		p, err := newPredictor(ctx, m, source, c.Batch, c.Threads, opener(c.Device))
		all = append(all, p)
		e.models = all
		if err != nil {
			return err
		}
	}
	e = newEvaluator(all, images, c.Views, c.Batch)
	tally, err := c.tally(ctx, con, e)
	if err != nil {
		return err
	}
	r := c.result(models, images, path, tally)
	if c.JSON {
		return printJSON(con.out, r)
	}
	return r.Print(con.out)
}

// tellEvery is how often a long evaluation says how far it is.
const tellEvery = 10 * time.Second

// tally runs all images through all models in all views, in the parts that workers of a cluster would be given: to the
// same figures.
func (c *evaluateCmd) tally(ctx context.Context, con console, e *evaluator) (*score.Tally, error) {
	out, size := score.NewTally(len(e.mean)), score.PartImages(c.Batch)
	began, told := time.Now(), time.Now()
	for first := 0; first < e.images.Images; first += size {
		if now := time.Now(); !c.JSON && now.Sub(told) > tellEvery {
			left := time.Duration(float64(now.Sub(began)) * float64(e.images.Images-first) / float64(first))
			fmt.Fprintf(con.err, "%d of %d images, %v left\n", first, e.images.Images, left.Round(time.Second))
			told = now
		}
		part, err := e.part(ctx, first, min(size, e.images.Images-first))
		if err == nil {
			err = out.Merge(part)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *evaluateCmd) result(models []*loadedModel, images *data.Pack, path string, t *score.Tally) *score.Report {
	r := score.NewReport(t, models[0].about.Classes)
	r.Data, r.Identity, r.Views = path, fmt.Sprintf("%x", images.ID), c.Views
	for _, m := range models {
		r.Models = append(r.Models, m.name)
	}
	return r
}
