package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"colonnade/cudakern"
	"colonnade/shard/pack"
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

// evaluated is what an evaluation came to.
type evaluated struct {
	Models    []string       `json:"models"`
	Data      string         `json:"data"`
	Identity  string         `json:"identity"`
	Images    uint64         `json:"images"`
	Views     int            `json:"views"`
	Loss      float64        `json:"loss"`       // mean, in nats
	Top1      float64        `json:"top1_error"` // share of 1
	Top5      float64        `json:"top5_error"` // share of 1
	Classes   []classScore   `json:"classes"`    // of which there are images
	Confusion []confusedPair `json:"confusion"`  // all that is not zero, by label
	worst     []confusedPair // the most frequent mistakes
}

type classScore struct {
	Class  int     `json:"class"`
	Name   string  `json:"name"`
	Images uint64  `json:"images"`
	Loss   float64 `json:"loss"`
	Top1   float64 `json:"top1_error"`
	Top5   float64 `json:"top5_error"`
}

type confusedPair struct {
	Label  int    `json:"label"`
	As     int    `json:"as"`
	Images uint64 `json:"images"`
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
	defer func() { err = also(err, images.Close()) }()
	var all []*predictor
	defer func() {
		for _, p := range all {
			err = also(err, p.close())
		}
	}()
	for _, m := range models {
		if err := m.takes(images, path, models[0]); err != nil {
			return err
		}
		source, err := c.source(m, images)
		if err != nil {
			return err
		}
		p, err := newPredictor(ctx, m, source, c.Batch, c.Threads, c.Device)
		all = append(all, p)
		if err != nil {
			return err
		}
	}
	tally, err := c.tally(ctx, con, all, images)
	if err != nil {
		return err
	}
	r := c.result(models, images, path, tally)
	if c.JSON {
		return printJSON(con.out, r)
	}
	return r.print(con.out, models[0].about.Classes)
}

// takes says whether a model can be tested on a pack, together with another model.
func (m *loadedModel) takes(images *data.Pack, path string, first *loadedModel) error {
	a := m.about
	switch {
	case images.Channels != a.Channels || a.Height > 0 && (images.Height != a.Height || images.Width != a.Width):
		return fmt.Errorf("%s has images of %dx%dx%d, %s was trained on %dx%dx%d; pack them the same way", path,
			images.Channels,
			images.Height, images.Width, m.name, a.Channels, a.Height, a.Width)
	case len(images.Classes) > len(a.Classes):
		return fmt.Errorf("%s has %d classes, %s knows %d; pack it with the same classes", path, len(images.Classes), m.name,
			len(a.Classes))
	case len(a.Classes) != len(first.about.Classes):
		return fmt.Errorf("%s has %d classes, %s has %d; average models of the same classes", m.name, len(a.Classes),
			first.name,
			len(first.about.Classes))
	}
	for i, name := range images.Classes {
		if a.Classes[i] != name && a.Classes[i] != strconv.Itoa(i) && name != strconv.Itoa(i) {
			return fmt.Errorf("label %d is %q in %s and %q to %s; pack it with the same classes, in the same order", i, name,
				path,
				a.Classes[i], m.name)
		}
	}
	return nil
}

// source is how a pack's images are stored, and the mean they are seen with: the training pack's where it is known,
// since views beside the centre see all of it.
func (c *evaluateCmd) source(m *loadedModel, images *data.Pack) (*stillSource, error) {
	s := &stillSource{channels: images.Channels, height: images.Height, width: images.Width}
	path := c.Pack
	if path == "" && m.job != nil {
		path = m.job.Train.Path
	}
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
	if c.Views > 1 && (in.Height < s.height || in.Width < s.width) {
		return nil, errors.New("a model file has the mean image's centre only, ten views see all of it; name the training " +
			"pack: " +
			"--pack FILE")
	}
	s.mean = m.storedMean(s.height, s.width)
	return s, nil
}

// tellEvery is how often a long evaluation says how far it is.
const tellEvery = 10 * time.Second

// tally runs all images through all models in all views.
func (c *evaluateCmd) tally(ctx context.Context, con console, all []*predictor, images *data.Pack) (
	*score.Tally, error) {
	classes := all[0].plan.Network.Classes
	out, p := score.NewTally(classes), make([]float64, classes)
	means := make([]*score.Mean, c.Batch)
	for i := range means {
		means[i] = score.NewMean(classes)
	}
	batch := data.Batch{Images: make([]byte, c.Batch*images.ImageBytes()), Labels: make([]int32, c.Batch),
		Views: make([]cudakern.View, c.Batch)}
	began, told := time.Now(), time.Now()
	for first := 0; first < images.Images; first += c.Batch {
		if now := time.Now(); !c.JSON && now.Sub(told) > tellEvery {
			left := time.Duration(float64(now.Sub(began)) * float64(images.Images-first) / float64(first))
			fmt.Fprintf(con.err, "%d of %d images, %v left\n", first, images.Images, left.Round(time.Second))
			told = now
		}
		batch.Valid = min(c.Batch, images.Images-first)
		for i := range batch.Labels {
			at := min(first+i, images.Images-1) // what is missing in the last batch is its last image, and not counted
			if err := images.Check(at); err != nil {
				return nil, err
			}
			copy(batch.Images[i*images.ImageBytes():], images.Image(at))
			batch.Labels[i] = int32(images.Label(at))
		}
		for _, m := range all {
			if err := c.see(ctx, m, batch, means); err != nil {
				return nil, err
			}
		}
		for i := range batch.Valid {
			means[i].Take(p)
			if err := out.Add(p, int(batch.Labels[i])); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// see adds one model's predictions of a batch in all views to the means.
func (c *evaluateCmd) see(ctx context.Context, m *predictor, batch data.Batch, means []*score.Mean) error {
	in, h, w := m.plan.Network.Input, m.source.height, m.source.width
	for v := range c.Views {
		view := data.CentreView(h, w, in.Height, in.Width)
		if c.Views > 1 {
			view = data.TenViews(h, w, in.Height, in.Width)[v]
		}
		for i := range batch.Views {
			batch.Views[i] = view
		}
		logits, err := m.predict(ctx, batch)
		if err != nil {
			return err
		}
		classes := len(logits) / len(batch.Labels)
		for i := range batch.Valid {
			means[i].Add(logits[i*classes : (i+1)*classes])
		}
	}
	return nil
}

func (c *evaluateCmd) result(models []*loadedModel, images *data.Pack, path string, t *score.Tally) *evaluated {
	n := float64(max(t.Images, 1))
	r := &evaluated{Data: path, Identity: fmt.Sprintf("%x", images.ID), Images: t.Images, Views: c.Views, Loss: t.Loss / n,
		Top1: t.Top1 / n, Top5: t.Top5 / n}
	for _, m := range models {
		r.Models = append(r.Models, m.name)
	}
	for i, s := range t.ByClass {
		if s.Images > 0 {
			n := float64(s.Images)
			r.Classes = append(r.Classes, classScore{i, models[0].about.Classes[i], s.Images, s.Loss / n, s.Top1 / n,
				s.Top5 / n})
		}
	}
	for _, x := range t.Cells() {
		r.Confusion = append(r.Confusion, confusedPair{x.Label, x.As, x.Images})
	}
	for _, x := range t.Worst(10) {
		r.worst = append(r.worst, confusedPair{x.Label, x.As, x.Images})
	}
	return r
}

// Of so many classes all are printed, of more the worst; of so few the confusion matrix too.
const (
	fewClasses = 30
	atAGlance  = 12
)

func (r *evaluated) print(out io.Writer, names []string) error {
	views := "the centre"
	if r.Views > 1 {
		views = fmt.Sprintf("%d views", r.Views)
	}
	fmt.Fprintf(out, "%s on %s\n%d images, %s: loss %.4f, top-1 error %.2f %%, top-5 error %.2f %%\n",
		strings.Join(r.Models, " and "), r.Data, r.Images, views, r.Loss, 100*r.Top1, 100*r.Top5)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	shown := slices.Clone(r.Classes)
	if len(shown) > fewClasses {
		slices.SortStableFunc(shown, func(a, b classScore) int { return int(min(max((b.Top1-a.Top1)*1e9, -1), 1)) })
		shown = shown[:10]
		fmt.Fprint(w, "\nthe ten classes with most errors")
	}
	fmt.Fprintln(w, "\nCLASS\tNAME\tIMAGES\tLOSS\tTOP-1 ERROR\tTOP-5 ERROR")
	for _, c := range shown {
		fmt.Fprintf(w, "%d\t%s\t%d\t%.4f\t%.2f %%\t%.2f %%\n", c.Class, c.Name, c.Images, c.Loss, 100*c.Top1, 100*c.Top5)
	}
	if len(names) <= atAGlance {
		r.matrix(w, len(names))
	} else if len(r.worst) > 0 {
		fmt.Fprintln(w, "\nTAKEN FOR\t\tIMAGES")
		for _, x := range r.worst {
			fmt.Fprintf(w, "%s\t%s\t%d\n", names[x.Label], names[x.As], x.Images)
		}
	}
	return w.Flush()
}

// matrix prints the confusion matrix: a row for each label, a column for each class it was taken for.
func (r *evaluated) matrix(w io.Writer, classes int) {
	fmt.Fprint(w, "\nLABEL")
	for k := range classes {
		fmt.Fprintf(w, "\tas %d", k)
	}
	fmt.Fprintln(w)
	counts := map[[2]int]uint64{}
	for _, x := range r.Confusion {
		counts[[2]int{x.Label, x.As}] = x.Images
	}
	for i := range classes {
		fmt.Fprint(w, i)
		for k := range classes {
			fmt.Fprintf(w, "\t%d", counts[[2]int{i, k}])
		}
		fmt.Fprintln(w)
	}
}
