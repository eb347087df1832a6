package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"colonnade/checkpoint"
	"colonnade/checkpoint/model"
	"colonnade/coordinator/figures"
	"colonnade/coordinator/web"
	"colonnade/proto/clusterpb"
)

// pictures has what the dashboard shows of checkpoints whose files lie on this machine.
type pictures struct {
	client clusterpb.OperatorClient

	mu   sync.Mutex // one file is read at a time: pictures must not get in training's way
	kept map[string]*web.Kernels
	turn []string // keys of kept, oldest first
}

// keptKernels is how many checkpoints' kernels are kept in memory.
const keptKernels = 64

// kernelsPerRow is how many kernels stand beside each other, as in the paper's figure 3.
const kernelsPerRow = 16

// Kernels implements web.Files.
func (p *pictures) Kernels(ctx context.Context, name string, step *uint64) (*web.Kernels, error) {
	c, err := findCheckpoint(ctx, p.client, name, step)
	if err != nil {
		return nil, away(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := fmt.Sprintf("%s %d %x", name, c.manifest.Step, c.manifest.Digest)
	if k := p.kept[key]; k != nil {
		return k, nil
	}
	k, err := c.kernels(ctx)
	if err != nil {
		return nil, away(err)
	}
	if p.kept == nil {
		p.kept = map[string]*web.Kernels{}
	}
	p.kept[key] = k
	if p.turn = append(p.turn, key); len(p.turn) > keptKernels {
		delete(p.kept, p.turn[0])
		p.turn = p.turn[1:]
	}
	return k, nil
}

// kernels reads what sees the image, and nothing else, and draws it.
func (c *checkpointFiles) kernels(ctx context.Context) (*web.Kernels, error) {
	values := make([][][]float32, c.plan.Columns)
	for k, params := range c.plan.Params {
		path, want, err := c.file(k)
		if err != nil {
			return nil, err
		}
		byName := map[string][]float32{}
		for _, p := range params {
			var v []float32
			if figures.Sees(p) {
				v = make([]float32, p.Len())
				byName[p.Name] = v
			}
			values[k] = append(values[k], v)
		}
		if err := checkpoint.Peek(ctx, path, want, func(name string, _ []int) []float32 { return byName[name] }); err != nil {
			return nil, err
		}
	}
	all, low, high, err := figures.Mosaics(c.plan, values, kernelsPerRow)
	if err != nil {
		return nil, err
	}
	out := &web.Kernels{Job: c.job.Name, Step: c.manifest.Step, Low: low, High: high}
	for _, m := range all {
		var b bytes.Buffer
		if err := png.Encode(&b, m.Image); err != nil {
			return nil, err
		}
		out.Columns = append(out.Columns, web.KernelColumn{Column: m.Column, Kernels: m.Kernels, Side: m.Side,
			Width: m.Image.Rect.Dx(), Height: m.Image.Rect.Dy(), PNG: b.Bytes()})
	}
	return out, nil
}

// examplesFile is where worker examples puts what it writes, in a job's directory of checkpoints, unless it is told
// otherwise.
const examplesFile = "examples.json"

// mostExamples bounds the file in bytes.
const mostExamples = 16 << 20

// Examples implements web.Files.
func (p *pictures) Examples(ctx context.Context, name string) ([]byte, error) {
	reply, err := manifests(ctx, p.client, name)
	if err != nil {
		return nil, err
	}
	for _, d := range reply.Directories {
		path := filepath.Join(d, name, examplesFile) // the leader knows the job, so its name is one
		info, err := os.Stat(path)
		if err != nil {
			continue
		}
		if info.Size() > mostExamples {
			return nil, status.Errorf(codes.FailedPrecondition, "%s is larger than %d bytes; write it with fewer --images",
				path, mostExamples)
		}
		return os.ReadFile(path)
	}
	return nil, status.Errorf(codes.NotFound, "nothing has looked at test images with this model yet; have a worker's "+
		"machine do so: worker examples --checkpoint %s", filepath.Join(first(reply.Directories, "CHECKPOINTS"), name))
}

// first is the first of some texts, or another if there are none.
func first(all []string, otherwise string) string {
	if len(all) == 0 {
		return otherwise
	}
	return all[0]
}

// Export implements web.Files.
func (p *pictures) Export(ctx context.Context, name string, step uint64) (func(io.Writer) error, error) {
	c, err := findCheckpoint(ctx, p.client, name, &step)
	if err != nil {
		return nil, away(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s, err := c.load(ctx)
	if err != nil {
		return nil, away(err)
	}
	about, err := model.AboutJob(c.job, "")
	if err != nil { // the pack is elsewhere: without its mean image
		if about, err = model.AboutJobWithoutPack(c.job); err != nil {
			return nil, err
		}
	}
	_, write, err := model.Export(about, s, "safetensors", nil)
	return write, err
}

// away has an error that the answer tells from one of ours: what is asked for is not there, or not here.
func away(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, checkpoint.ErrMissing) {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return status.Error(codes.NotFound, err.Error())
}
