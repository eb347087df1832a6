package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"

	"colonnade/checkpoint/tensors"
	"colonnade/cudakern"
	"colonnade/cudakern/ref"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/data"
)

// dataShowCmd is `worker data show`.
type dataShowCmd struct {
	File    string `arg:"" name:"FILE" help:"Pack."`
	Out     string `required:"" placeholder:"FILE.png" help:"Picture to write."`
	Class   string `placeholder:"NAME" help:"Images of one class. Default: some of all."`
	From    int    `placeholder:"N" help:"Begin at the Nth of them, counted from 0."`
	Count   int    `default:"64" help:"How many images."`
	Columns int    `default:"0" help:"How many in a row. Default: about a square."`
	Augment string `placeholder:"JOB.yaml" help:"Show each image as a job's network sees it in its first epochs, an image a row; the first picture of a row is what testing shows."`
	Epochs  int    `default:"9" help:"How many epochs, with --augment."`
}

// Run draws a contact sheet.
func (c *dataShowCmd) Run(ctx context.Context, con console) (err error) {
	if c.Count < 1 || c.Columns < 0 || c.Epochs < 1 {
		return usageError{errors.New("--count or --epochs below 1, or --columns below 0; give more, or leave them out")}
	}
	p, err := data.Open(c.File)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	picked, err := p.Pick(c.Class, c.From, c.Count)
	if err != nil {
		return err
	}
	var sheet *data.Sheet
	if c.Augment != "" {
		sheet, err = c.augmented(ctx, p, picked)
	} else {
		columns := c.Columns
		if columns == 0 {
			columns = int(math.Ceil(math.Sqrt(float64(len(picked)))))
		}
		if sheet, err = data.NewSheet(len(picked), columns, p.Height, p.Width); err == nil {
			for _, i := range picked {
				if err := p.Check(i); err != nil {
					return err
				}
				sheet.Add(p.Image(i))
			}
		}
	}
	if err != nil {
		return err
	}
	if err := tensors.Create(c.Out, sheet.PNG); err != nil {
		return err
	}
	fmt.Fprintf(con.out, "%s: %d images of %s\n", c.Out, len(picked), c.File)
	return nil
}

// augmented shows images through the job's input op on the reference device, with the mean added again.
func (c *dataShowCmd) augmented(ctx context.Context, p *data.Pack, picked []int) (*data.Sheet, error) {
	j, in, err := resolveOn(c.Augment, p)
	if err != nil {
		return nil, err
	}
	sheet, err := data.NewSheet(len(picked)*(1+c.Epochs), 1+c.Epochs, in.Height, in.Width)
	if err != nil {
		return nil, err
	}
	e, err := newEye(p, j, in)
	if err != nil {
		return nil, err
	}
	defer e.close()
	a := data.NewAugmenter(j, p, in.Height, in.Width)
	places := make([]map[int]uint64, c.Epochs)
	for epoch := range places {
		places[epoch] = a.Places(uint64(epoch), picked)
	}
	for _, i := range picked {
		if err := errors.Join(p.Check(i), context.Cause(ctx)); err != nil {
			return nil, err
		}
		seen, err := e.look(p.Image(i), data.CentreView(p.Height, p.Width, in.Height, in.Width), 1)
		if err != nil {
			return nil, err
		}
		sheet.Add(seen)
		for epoch := range uint64(c.Epochs) {
			view, divisor := a.View(epoch, places[epoch][i], uint64(i))
			if seen, err = e.look(p.Image(i), view, divisor); err != nil {
				return nil, err
			}
			sheet.Add(seen)
		}
	}
	return sheet, nil
}

// resolveOn reads a job file as if it trained on a pack.
func resolveOn(path string, p *data.Pack) (*job.Job, shard.Input, error) {
	text, err := shard.ReadFile(path)
	if err != nil {
		return nil, shard.Input{}, fmt.Errorf("read job file: %w; see scripts/jobs for examples", err)
	}
	j, err := job.Parse(path, text)
	if err != nil {
		return nil, shard.Input{}, err
	}
	if _, err := shard.EmbeddedText(j.Network); err != nil && !filepath.IsAbs(j.Network) { // else it is a file
		j.Network = filepath.Join(filepath.Dir(path), j.Network)
	}
	_, network, err := shard.Load(j.Network)
	if err != nil {
		return nil, shard.Input{}, fmt.Errorf("%s: network: %w", path, err)
	}
	train := &job.Pack{Path: p.Path(), ID: fmt.Sprintf("%x", p.ID), Images: p.Images, Channels: p.Channels,
		Height: p.Height, Width: p.Width, Classes: len(p.Classes)}
	if err := j.Resolve(network, train, nil); err != nil {
		return nil, shard.Input{}, fmt.Errorf("%s: %w", path, err)
	}
	plan, err := j.Plan()
	if err != nil {
		return nil, shard.Input{}, err
	}
	return j, plan.Network.Input, nil
}

// eye is the input op for one image at a time.
type eye struct {
	dev    cudakern.Device
	st     cudakern.Stream
	op     cudakern.Input
	desc   cudakern.InputDesc
	images cudakern.Buffer
	mean   cudakern.Buffer
	y      cudakern.Buffer
	host   []float32 // the mean image
	out    []float32
}

func newEye(p *data.Pack, j *job.Job, in shard.Input) (e *eye, err error) {
	e = &eye{dev: ref.New(), host: p.Mean(), desc: cudakern.InputDesc{N: 1, C: p.Channels, H: p.Height, W: p.Width,
		OutH: in.Height, OutW: in.Width, CentreMean: j.Augment.CentreMean()}}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	if e.st, err = e.dev.NewStream(); err != nil {
		return nil, err
	}
	if e.op, err = e.dev.NewInput(e.desc); err != nil {
		return nil, err
	}
	if e.images, err = e.dev.AllocBytes(p.ImageBytes()); err != nil {
		return nil, err
	}
	if e.mean, err = e.dev.Alloc(cudakern.Shape{1, p.Channels, p.Height, p.Width}, cudakern.Plain); err != nil {
		return nil, err
	}
	if e.y, err = e.dev.Alloc(e.desc.YShape(), e.op.Layouts()); err != nil {
		return nil, err
	}
	e.out = make([]float32, e.desc.YShape().Len())
	return e, e.dev.Upload(e.st, e.mean, e.host)
}

// look gives what the network sees of an image, with a mean added again and as bytes.
func (e *eye) look(image []byte, v cudakern.View, divisor float64) ([]byte, error) {
	scale := float32(1)
	if divisor > 0 {
		scale = float32(1 / divisor)
	}
	err := e.dev.CopyIn(e.st, e.images, image)
	if err == nil {
		err = e.op.Forward(e.st, e.images, []cudakern.View{v}, e.mean, scale, e.y)
	}
	if err == nil {
		err = e.dev.Download(e.st, e.out, e.y)
	}
	if err == nil {
		err = e.st.Sync()
	}
	if err != nil {
		return nil, fmt.Errorf("show: %w", err)
	}
	d := e.desc
	pixels := make([]byte, len(e.out))
	for i, x := range e.out {
		c, y, at := i/(d.OutH*d.OutW), i/d.OutW%d.OutH, i%d.OutW
		if v.Flip && !d.CentreMean {
			at = d.OutW - 1 - at
		}
		py, px := y+int(v.Y), at+int(v.X)
		if d.CentreMean {
			my, mx := d.MeanAt()
			py, px = y+my, at+mx
		}
		mean := float32(127) // outside the image
		if py >= 0 && py < d.H && px >= 0 && px < d.W {
			mean = e.host[(c*d.H+py)*d.W+px]
		}
		pixels[i] = byte(min(max(math.Round(float64(x+mean)), 0), 255))
	}
	return pixels, nil
}

func (e *eye) close() {
	if e.op != nil {
		e.op.Close()
	}
	for _, b := range []cudakern.Buffer{e.images, e.mean, e.y} {
		if b != nil {
			b.Free()
		}
	}
	if e.st != nil {
		_ = e.st.Close() // plain memory: nothing is under way
	}
	_ = e.dev.Close()
}
