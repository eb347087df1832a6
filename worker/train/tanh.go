package train

import (
	"fmt"
	"math"

	"colonnade/cudakern"
	"colonnade/shard"
)

// tanhOp computes y = tanh(x) and dx = dy (1 - y^2), the paper's other nonlinearity (section 3.1), on the host: no
// device has a kernel for it. Values are rounded to float32 once, whatever the device, so the op adds nothing to what
// tells two devices' bits apart. Each pass waits for the device.
type tanhOp struct {
	dev  cudakern.Device
	st   cudakern.Stream
	a, b []float32 // canonical values
}

func newTanh(dev cudakern.Device, st cudakern.Stream, s cudakern.Shape) *tanhOp {
	return &tanhOp{dev: dev, st: st, a: make([]float32, s.Len()), b: make([]float32, s.Len())}
}

func (t *tanhOp) forward(x, y cudakern.Buffer) error {
	if err := t.dev.Download(t.st, t.a, x); err != nil {
		return err
	}
	for i, v := range t.a {
		t.a[i] = float32(math.Tanh(float64(v)))
	}
	return t.write(y, t.a)
}

func (t *tanhOp) backward(y, dy, dx cudakern.Buffer) error {
	if err := t.dev.Download(t.st, t.a, y); err != nil {
		return err
	}
	if err := t.dev.Download(t.st, t.b, dy); err != nil {
		return err
	}
	for i, v := range t.a {
		t.b[i] = float32(float64(t.b[i]) * (1 - float64(v)) * (1 + float64(v)))
	}
	return t.write(dx, t.b)
}

// write waits for the copy, since the host side is used again.
func (t *tanhOp) write(to cudakern.Buffer, from []float32) error {
	if err := t.dev.Upload(t.st, to, from); err != nil {
		return err
	}
	return t.st.Sync()
}

// buildTanh builds tanh.
func (b *builder) buildTanh(lp *shard.LayerPlan, cur *value) (*value, error) {
	shape := cur.buf.Shape()
	y, err := b.newValue(shape, cur.buf.Layout())
	if err != nil {
		return nil, fmt.Errorf("tanh: %w", err)
	}
	op, name := newTanh(b.dev, b.st, shape), lp.Layer.Name
	b.fwd(same(name), func(*pass) error { return op.forward(cur.buf, y.buf) })
	b.back(same(name+" gradient"), func(*pass) error { return op.backward(y.buf, y.grad, cur.grad) })
	return y, nil
}
