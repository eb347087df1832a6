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

// inputStage brings batches onto the device. It has room for two: where the device is not the host, the next step's
// batch is gathered and copied while this one's is worked on.
type inputStage struct {
	b      *builder
	op     cudakern.Input
	slots  [2]slot
	now    *slot // of the pass that runs
	labels cudakern.Buffer
	mean   cudakern.Buffer
	seen   cudakern.Buffer // the images as the network gets them
	scale  float32
	centre bool // the mean's centre is subtracted from every crop
	source Source
	ahead  bool // batches are staged ahead
}

// slot is room for a batch.
type slot struct {
	images cudakern.Buffer
	labels cudakern.Buffer
	views  []cudakern.View
	valid  int
	scale  float32
	ready  cudakern.Event // on the stream that copies
	holds  bool           // the batch of the step that follows `step` finished ones
	step   uint64
}

// buildInput makes the network's input. Every column holds it whole.
func (b *builder) buildInput() (*value, error) {
	first := b.plan.Layers[0].Columns[b.column].In
	ch, h, w := b.in.source.Shape()
	op, err := b.dev.NewInput(cudakern.InputDesc{N: b.batch, C: ch, H: h, W: w, OutH: first.H, OutW: first.W,
		CentreMean: b.in.centre})
	if err != nil {
		return nil, fmt.Errorf("input: %w", err)
	}
	b.closers = append(b.closers, op.Close)
	in := b.in
	in.b, in.op = b, op
	for i := range in.slots {
		s := &in.slots[i]
		if s.images, err = b.allocBytes(b.batch * ch * h * w); err != nil {
			return nil, err
		}
		if s.labels, err = b.allocBytes(4 * b.batch); err != nil {
			return nil, err
		}
		_, mapped := s.images.(cudakern.HostMapped)
		if in.ahead = !mapped || b.staged; !in.ahead { // the copy is the processor's own work: there is nothing to overlap
			break
		}
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
	in.seen = x
	b.fwd(same("input"), func(*pass) error { return in.run(x) }).as(Other)
	return &value{buf: x}, nil
}

// train makes the batch of the pass's step the one that is worked on.
func (in *inputStage) train(p *pass) error {
	for i := range in.slots {
		if s := &in.slots[i]; s.holds && s.step == p.step {
			in.take(s, p)
			return nil
		}
	}
	for i := range in.slots { // of a run that was cut off and began anew elsewhere
		in.slots[i].holds = false
	}
	return in.fetch(p, in.source.Train(p.step))
}

// fetch makes a batch the one that the pass works on.
func (in *inputStage) fetch(p *pass, batch data.Batch) error {
	s := in.room()
	if err := in.stage(s, batch); err != nil {
		return err
	}
	in.take(s, p)
	return nil
}

// prepare stages the batch of the next step, while this one's is worked on.
func (in *inputStage) prepare(step uint64) error {
	if !in.ahead {
		return nil
	}
	s := in.room()
	if err := in.stage(s, in.source.Train(step)); err != nil {
		return err
	}
	s.holds, s.step = true, step
	return nil
}

func (in *inputStage) take(s *slot, p *pass) {
	s.holds = false
	in.now, in.labels, p.valid = s, s.labels, s.valid
}

// room is a slot that neither holds a batch for later nor is worked on by the pass that runs. Between passes none is.
func (in *inputStage) room() *slot {
	if !in.ahead {
		return &in.slots[0]
	}
	for i := range in.slots {
		if s := &in.slots[i]; !s.holds && s != in.now {
			return s
		}
	}
	return in.now // an earlier pass worked on it, and the other is held
}

// stage copies a batch to the device, behind all that earlier passes computed.
func (in *inputStage) stage(s *slot, batch data.Batch) (err error) {
	b := in.b
	if batch.Err != nil {
		return fmt.Errorf("training data: %w", batch.Err)
	}
	if err := b.up.Wait(b.begun); err != nil {
		return err
	}
	if err := b.dev.CopyIn(b.up, s.images, batch.Images); err != nil {
		return err
	}
	if err := b.dev.CopyIn(b.up, s.labels, wordBytes(batch.Labels)); err != nil {
		return err
	}
	s.views, s.valid, s.holds = append(s.views[:0], batch.Views...), batch.Valid, false
	if s.scale = in.scale; batch.Divisor > 0 {
		s.scale = float32(float64(in.scale) / batch.Divisor)
	}
	s.ready, err = b.up.Record()
	return err
}

// run views the batch.
func (in *inputStage) run(x cudakern.Buffer) error {
	b := in.b
	if err := b.st.Wait(in.now.ready); err != nil {
		return err
	}
	return in.op.Forward(b.st, in.now.images, in.now.views, in.mean, in.now.scale, x)
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

// wordBytes views numbers as the bytes they are in memory, as CopyIn and CopyOut move them.
func wordBytes[T int32 | float32](v []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}
