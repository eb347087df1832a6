package train

import (
	"fmt"
	"unsafe"

	"colonnade/cudakern"
	"colonnade/worker/data"
)

// Source gives a cell its batches: pure functions of the step, and of the batch of the test set. A batch is valid until
// the next call.
type Source interface {
	Train(step uint64) data.Batch
	Test(index int) data.Batch
	TestBatches() int
	Shape() (channels, height, width int) // of the stored images
	Mean() []float32                      // channels x height x width
}

// inputStage brings a batch onto the device.
type inputStage struct {
	b      *builder
	op     cudakern.Input
	images cudakern.Buffer
	labels cudakern.Buffer
	mean   cudakern.Buffer
	scale  float32
	source Source
	batch  data.Batch // of the pass that runs
}

// buildInput makes the network's input. Every column holds it whole.
func (b *builder) buildInput() (*value, error) {
	first := b.plan.Layers[0].Columns[b.column].In
	ch, h, w := b.in.source.Shape()
	op, err := b.dev.NewInput(cudakern.InputDesc{N: b.batch, C: ch, H: h, W: w, OutH: first.H, OutW: first.W})
	if err != nil {
		return nil, fmt.Errorf("input: %w", err)
	}
	b.closers = append(b.closers, op.Close)
	in := b.in
	in.b, in.op = b, op
	if in.images, err = b.allocBytes(b.batch * ch * h * w); err != nil {
		return nil, err
	}
	if in.labels, err = b.allocBytes(4 * b.batch); err != nil {
		return nil, err
	}
	if in.mean, err = b.alloc(cudakern.Shape{1, ch, h, w}, cudakern.Plain); err != nil {
		return nil, err
	}
	if err := b.dev.Upload(b.st, in.mean, in.source.Mean()); err != nil {
		return nil, fmt.Errorf("input: copy mean image: %w", err)
	}
	x, err := b.alloc(b.maps(first), op.Layouts())
	if err != nil {
		return nil, err
	}
	b.fwd(same("input"), func(*pass) error { return in.run(x) }).as(Other)
	return &value{buf: x}, nil
}

// run copies the batch to the device and views it.
func (in *inputStage) run(x cudakern.Buffer) error {
	b := in.b
	if err := b.dev.CopyIn(b.st, in.images, in.batch.Images); err != nil {
		return err
	}
	if err := b.dev.CopyIn(b.st, in.labels, int32Bytes(in.batch.Labels)); err != nil {
		return err
	}
	return in.op.Forward(b.st, in.images, in.batch.Views, in.mean, in.scale, x)
}

// allocBytes makes a byte buffer that the cell frees when it closes.
func (b *builder) allocBytes(n int) (cudakern.Buffer, error) {
	buf, err := b.dev.AllocBytes(n)
	if err != nil {
		return nil, err
	}
	b.buffers = append(b.buffers, buf)
	return buf, nil
}

// int32Bytes views numbers as the bytes they are in memory, as CopyIn and CopyOut move them.
func int32Bytes(v []int32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}
