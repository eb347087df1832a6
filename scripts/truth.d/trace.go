package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"colonnade/checkpoint/tensors"
	"colonnade/cudakern"
	"colonnade/cudakern/cpu"
	"colonnade/cudakern/philox"
	"colonnade/cudakern/ref"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/data"
	"colonnade/worker/exchange"
	"colonnade/worker/train"
)

// mostImages bounds the pack: all of it is handed over, for others to find its mean and its colours themselves.
const mostImages = 4096

// A trace is files in a directory:
//
//	job.json               the job, and the shape of the pack
//	images.u8, labels.i32  the whole pack: images x channels x height x width, and their classes
//	initial-K.safetensors  the parameters of column K before the first step
//	step-N-K.safetensors   behind step N, from 1: train.Inspect, and of every dropout layer its mask as LAYER/mask;
//	                       under "step" of the metadata what was drawn and the loss, as JSON
//	views.safetensors      logits of ten views, if they are asked for
type trace struct {
	options
	job     *job.Job
	plan    *shard.Plan
	pack    *data.Pack
	augment *data.Augmenter
	gate    *gate
}

// about is job.json.
type about struct {
	Network  string `json:"network"`
	Columns  int    `json:"columns"`
	Batch    int    `json:"batch"`
	Classes  int    `json:"classes"`
	Images   int    `json:"images"`
	Channels int    `json:"channels"`
	Stored   int    `json:"stored"` // side of the pack's images
	Size     int    `json:"size"`   // side of the network's input
	Numerics string `json:"numerics"`
}

// drawn is what a step drew, and its loss.
type drawn struct {
	Step   int         `json:"step"`
	Loss   float64     `json:"loss"`
	Images []drawnView `json:"images"`
}

// drawnView is how an image was seen.
type drawnView struct {
	Sample uint64     `json:"sample"`
	Y      int32      `json:"y"`
	X      int32      `json:"x"`
	Flip   bool       `json:"flip"`
	Noise  [3]float64 `json:"noise"` // from N(0, 1), by principal component, the largest first
}

// run does it all.
func (o options) run(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	t := &trace{options: o}
	if err := t.load(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.pack.Close()) }()
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	if o.wait {
		t.gate = &gate{arrived: make(chan struct{}), open: make(chan struct{})}
		g.Go(func() error { return t.gate.keep(ctx, t.job.Columns, o.steps, in, out) })
	}
	g.Go(func() error { return t.train(ctx) })
	return g.Wait()
}

// load reads the job, its network, perhaps made smaller, and its pack.
func (t *trace) load() error {
	text, err := os.ReadFile(t.options.job)
	if err != nil {
		return err
	}
	if t.job, err = job.Parse(t.options.job, text); err != nil {
		return err
	}
	_, network, err := shard.Load(t.job.Network)
	if err != nil {
		return err
	}
	path := t.job.Data.Train
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(t.options.job), path)
	}
	if t.pack, err = data.Open(path); err != nil {
		return err
	}
	p := t.pack
	if p.Images > mostImages {
		return errors.Join(fmt.Errorf("%s has %d images; make a pack of at most %d, with --split some=0-5", path, p.Images,
			mostImages), p.Close())
	}
	train := &job.Pack{Path: path, ID: fmt.Sprintf("%x", p.ID), Images: p.Images, Channels: p.Channels, Height: p.Height,
		Width: p.Width, Classes: len(p.Classes)}
	if err = t.job.Resolve(smaller(network, t.divide, t.size), train, train); err == nil {
		t.plan, err = t.job.Plan()
	}
	if err != nil {
		return errors.Join(err, p.Close())
	}
	size := t.plan.Network.Input
	t.augment = data.NewAugmenter(t.job, p, size.Height, size.Width)
	return nil
}

var (
	mapsKey = regexp.MustCompile(`maps: (\d+)`)
	sizeKey = regexp.MustCompile(`height: \d+, width: \d+`)
)

// smaller is a network of the same shape with fewer maps and another input.
func smaller(text string, divide, size int) string {
	last := strings.LastIndex(text, "maps:") // as many as there are classes
	text = mapsKey.ReplaceAllStringFunc(text[:last], func(s string) string {
		n, _ := strconv.Atoi(mapsKey.FindStringSubmatch(s)[1])
		return fmt.Sprintf("maps: %d", n/divide)
	}) + text[last:]
	if size > 0 {
		text = sizeKey.ReplaceAllString(text, fmt.Sprintf("height: %d, width: %[1]d", size))
	}
	return text
}

// train runs the columns.
func (t *trace) train(ctx context.Context) (err error) {
	mesh := exchange.New(exchange.Config{Worker: "truth", Log: slog.New(slog.DiscardHandler)})
	defer func() { err = errors.Join(err, mesh.Close()) }()
	var ids []exchange.Cell
	for k := range t.job.Columns {
		ids = append(ids, exchange.Cell{Column: k})
	}
	members, err := mesh.Join(ctx, exchange.Group{Job: t.job.Name, Generation: 1, Local: ids})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, members.Close()) }()
	g, ctx := errgroup.WithContext(ctx)
	for _, id := range ids {
		g.Go(func() error {
			err := t.column(ctx, id, ids, members.Exchanger(id))
			if err != nil {
				members.Abort(err.Error())
			}
			return err
		})
	}
	return g.Wait()
}

// open opens a column's device.
func (t *trace) open() (cudakern.Device, error) {
	switch t.device {
	case "ref":
		return ref.New(), nil
	case "cpu":
		options := []cpu.Option{cpu.Threads(max(t.threads/t.job.Columns, 1))}
		if t.job.Direct() {
			options = append(options, cpu.Direct())
		}
		return cpu.New(options...)
	}
	return nil, fmt.Errorf("no device %q; use cpu or ref", t.device)
}

// column trains a column and writes its part of the trace.
func (t *trace) column(ctx context.Context, id exchange.Cell, ids []exchange.Cell, ex exchange.Exchanger) (err error) {
	dev, err := t.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	in := t.plan.Network.Input
	c, err := train.New(train.Config{Job: t.job, Plan: t.plan, Cell: id, Cells: ids, Generation: 1, Device: dev,
		Exchanger: ex, Source: data.NewLoader(t.job, 0, t.pack, nil, in.Height, in.Width), Report: func(train.Event) {},
		Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.Initialise(); err != nil {
		return err
	}
	if id.Column == 0 {
		if err := t.writeAbout(dev.Info().Numerics); err != nil {
			return err
		}
	}
	if err := t.write(fmt.Sprintf("initial-%d", id.Column), nil, c, func(name string) bool {
		return strings.Contains(name, "/") && !strings.Contains(name, ".")
	}, nil); err != nil {
		return err
	}
	step := 0
	err = c.Measure(ctx, t.steps, func(train.StepTimes) error {
		step++
		masks, err := t.masks(dev, id.Column, uint64(step-1))
		if err != nil {
			return err
		}
		text, err := json.Marshal(t.drawn(step, c.Loss()))
		if err != nil {
			return err
		}
		name := fmt.Sprintf("step-%d-%d", step, id.Column)
		err = t.write(name, map[string]string{"step": string(text)}, c, func(string) bool { return true }, masks)
		if err != nil {
			return err
		}
		return t.gate.hold(ctx)
	})
	if err != nil || t.views < 1 {
		return err
	}
	return t.tenViews(ctx, c, id.Column)
}

// write writes those of a cell's tensors whose names are wanted, and others behind them.
func (t *trace) write(name string, metadata map[string]string, c *train.Cell, wanted func(string) bool,
	more []tensors.Source) error {
	var all []tensors.Source
	err := c.Inspect(func(name string, shape []int, values []float32) error {
		if wanted(name) {
			all = append(all, tensors.Of(name, shape, append([]float32(nil), values...)))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tensors.Create(filepath.Join(t.out, name+".safetensors"), func(w io.Writer) error {
		return tensors.Write(w, "safetensors", metadata, append(all, more...))
	})
}

// writeAbout writes what all steps have in common.
func (t *trace) writeAbout(numerics string) error {
	p := t.pack
	text, err := json.Marshal(about{Network: t.job.Network, Columns: t.job.Columns, Batch: t.job.Recipe.Batch,
		Classes: t.job.Classes, Images: p.Images, Channels: p.Channels, Stored: p.Height,
		Size: t.plan.Network.Input.Height, Numerics: numerics})
	if err != nil {
		return err
	}
	images := make([]byte, 0, p.Images*p.ImageBytes())
	labels := make([]int32, p.Images)
	for i := range p.Images {
		images, labels[i] = append(images, p.Image(i)...), int32(p.Label(i))
	}
	var bytes []byte
	for _, l := range labels {
		bytes = append(bytes, byte(l), byte(l>>8), byte(l>>16), byte(l>>24))
	}
	for _, f := range []struct {
		name string
		body []byte
	}{{"images.u8", images}, {"labels.i32", bytes}, {"job.json", text}} {
		if err := os.WriteFile(filepath.Join(t.out, f.name), f.body, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// drawn says what a step drew.
func (t *trace) drawn(step int, loss float64) drawn {
	d := drawn{Step: step, Loss: loss}
	per := uint64(t.job.StepsPerEpoch())
	epoch, first := uint64(step-1)/per, uint64(step-1)%per*uint64(t.job.Recipe.Batch)
	order := data.NewOrder(t.job.Seed, epoch, uint64(t.pack.Images))
	for i := range uint64(t.job.Recipe.Batch) {
		sample := order.At(first + i)
		v, _ := t.augment.View(epoch, first+i, sample)
		d.Images = append(d.Images, drawnView{sample, v.Y, v.X, v.Flip, data.ColourDraws(t.job.Seed, epoch, sample)})
	}
	return d
}

// masks are what the dropout layers of a column kept in the step that follows `step` finished ones: what the op makes
// of ones.
func (t *trace) masks(dev cudakern.Device, column int, step uint64) (out []tensors.Source, err error) {
	for i, lp := range t.plan.Layers {
		own := lp.Columns[column]
		if lp.Layer.Kind != shard.Dropout || own.Own.Count == 0 {
			continue
		}
		area := lp.Out.H * lp.Out.W
		shape := cudakern.Shape{t.job.Recipe.Batch, own.Own.Count * area}
		mask, err := dropped(dev, cudakern.DropoutDesc{Shape: shape, Layout: cudakern.Plain, Keep: lp.Layer.Keep,
			FirstUnit: own.Own.First * area}, philox.Key(t.job.Seed, philox.Dropout, uint64(i)), step)
		if err != nil {
			return nil, fmt.Errorf("mask of %s: %w", lp.Layer.Name, err)
		}
		out = append(out, tensors.Of(lp.Layer.Name+"/mask", shape, mask))
	}
	return out, nil
}

// dropped is what a dropout op makes of ones.
func dropped(dev cudakern.Device, d cudakern.DropoutDesc, key, step uint64) (mask []float32, err error) {
	st, err := dev.NewStream()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	op, err := dev.NewDropout(d)
	if err != nil {
		return nil, err
	}
	defer op.Close()
	buf, err := dev.Alloc(d.Shape, d.Layout)
	if err != nil {
		return nil, err
	}
	defer buf.Free()
	mask = make([]float32, d.Shape.Len())
	for i := range mask {
		mask[i] = 1
	}
	if err := dev.Upload(st, buf, mask); err != nil {
		return nil, err
	}
	if err := op.Forward(st, key, step, buf, buf); err != nil {
		return nil, err
	}
	return mask, dev.Download(st, mask, buf)
}
