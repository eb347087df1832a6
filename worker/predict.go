package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"colonnade/cudakern"
	"colonnade/shard/score"
	"colonnade/worker/data"
)

// predictCmd is `worker predict`.
type predictCmd struct {
	Checkpoint []string `required:"" sep:"none" placeholder:"PATH" help:"Model: an export as safetensors, or a directory of checkpoints (DIR/JOB/STEP, DIR/JOB, or DIR with one job in it). Given several times: the mean of their predictions."`
	Images     []string `arg:"" name:"IMAGE" help:"JPEG or PNG."`
	Pack       string   `placeholder:"FILE" help:"Training pack of a checkpoint, if it is not where the job has it."`
	Best       int      `default:"5" help:"Classes to show."`
	Device     string   `default:"cpu" help:"Device to compute on; see: worker devices."`
	Threads    int      `default:"${threads}" help:"Threads."`
	JSON       bool     `help:"Print as JSON, with the logits of a single model."`
}

// prediction is what is said of an image.
type prediction struct {
	Image  string    `json:"image"`
	Best   []guess   `json:"best"`
	Logits []float32 `json:"logits,omitempty"`
}

type guess struct {
	Class       int     `json:"class"`
	Name        string  `json:"name"`
	Probability float64 `json:"probability"`
}

// Run says what is on pictures.
func (c *predictCmd) Run(ctx context.Context, con console) error {
	if err := checkThreads(c.Threads); err != nil {
		return err
	}
	if c.Best < 1 {
		return usageError{fmt.Errorf("--best %d; show at least one class", c.Best)}
	}
	var models []*loadedModel
	for _, path := range c.Checkpoint {
		t, err := openModel(ctx, path, c.Pack)
		if err != nil {
			return err
		}
		if n := t.state.Plan.Network.Classes; len(models) > 0 && n != models[0].state.Plan.Network.Classes {
			return fmt.Errorf("%s has %d classes, %s has %d; average models of the same classes", t.name, n, models[0].name,
				models[0].state.Plan.Network.Classes)
		}
		models = append(models, t)
	}
	means := make([]*score.Mean, len(c.Images))
	out := make([]prediction, len(c.Images))
	for i, path := range c.Images {
		out[i].Image = path
		means[i] = score.NewMean(models[0].state.Plan.Network.Classes)
	}
	for _, t := range models {
		if err := c.predict(ctx, t, means, out); err != nil {
			return err
		}
	}
	p := make([]float64, models[0].state.Plan.Network.Classes)
	for i := range out {
		means[i].Take(p)
		for _, k := range score.Best(p, c.Best) {
			out[i].Best = append(out[i].Best, guess{k, models[0].about.Classes[k], p[k]})
		}
		if len(models) > 1 {
			out[i].Logits = nil
		}
	}
	if c.JSON {
		return printJSON(con.out, out)
	}
	return printPredictions(con.out, out)
}

// predict adds one model's prediction of each image, one image at a time.
func (c *predictCmd) predict(ctx context.Context, t *loadedModel, means []*score.Mean, out []prediction) (err error) {
	in := t.state.Plan.Network.Input
	h, w := t.about.Height, t.about.Width
	if h == 0 || w == 0 {
		h, w = in.Height, in.Width
	}
	source := &stillSource{channels: t.about.Channels, height: h, width: w, mean: t.storedMean(h, w)}
	p, err := newPredictor(ctx, t, source, 1, c.Threads, opener(c.Device))
	defer func() { err = also(err, p.close()) }()
	if err != nil {
		return err
	}
	batch := data.Batch{Labels: []int32{0}, Views: []cudakern.View{data.CentreView(h, w, in.Height, in.Width)}, Valid: 1}
	for i, path := range c.Images {
		raw, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read image: %w; name a JPEG or PNG", err)
		}
		if batch.Images, err = data.Picture(raw, t.about.Channels, h, w); err != nil {
			return fmt.Errorf("image %s: %w; give another JPEG or PNG", path, err)
		}
		logits, err := p.predict(ctx, batch)
		if err != nil {
			return err
		}
		means[i].Add(logits)
		out[i].Logits = append([]float32(nil), logits...)
	}
	return nil
}

// storedMean is a model's mean image as stored images have it. A model knows the part of it that its network sees at
// the centre; nothing else is looked at here.
func (t *loadedModel) storedMean(h, w int) []float32 {
	in := t.state.Plan.Network.Input
	mean := t.about.Mean
	out := make([]float32, t.about.Channels*h*w)
	if mean == nil {
		return out
	}
	top, left := (h-in.Height)>>1, (w-in.Width)>>1
	for k := range t.about.Channels {
		for y := range in.Height {
			for x := range in.Width {
				if sy, sx := y+top, x+left; sy >= 0 && sy < h && sx >= 0 && sx < w {
					out[(k*h+sy)*w+sx] = mean[(k*in.Height+y)*in.Width+x]
				}
			}
		}
	}
	return out
}

const barWidth = 40

// printPredictions draws each image's classes as bars.
func printPredictions(out io.Writer, all []prediction) error {
	widest := 0
	for _, p := range all {
		for _, g := range p.Best {
			widest = max(widest, len([]rune(g.Name)))
		}
	}
	widest = min(widest, 30)
	for i, p := range all {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintln(out, p.Image)
		for _, g := range p.Best {
			name := []rune(g.Name)
			if len(name) > widest {
				name = append(name[:widest-1], '…')
			}
			if _, err := fmt.Fprintf(out, "  %-*s %6.2f %%  %s\n", widest, string(name), 100*g.Probability,
				bar(g.Probability)); err != nil {
				return err
			}
		}
	}
	return nil
}

// bar draws a share of one in eighths of a character.
func bar(p float64) string {
	eighths := int(p*barWidth*8 + 0.5)
	s := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return s
}
