package train

import (
	"fmt"
	"slices"

	"colonnade/cudakern"
	"colonnade/shard"
	"colonnade/worker/exchange"
)

// value is what flows between layers of one column: a buffer and the gradient of the loss with respect to it.
type value struct {
	buf  cudakern.Buffer
	grad cudakern.Buffer // nil for the network's input
}

// builder makes a cell's ops, buffers and phases from the plan.
type builder struct {
	dev    cudakern.Device
	st     cudakern.Stream // computes
	up     cudakern.Stream // copies to the device, from the host
	down   cudakern.Stream // and back
	plan   *shard.Plan
	column int
	batch  int
	cell   exchange.Cell
	ex     exchange.Exchanger
	seed   uint64
	first  int // the replica's first image in the whole batch
	whole  int // images of the whole batch

	params   map[int]*param
	buffers  []cudakern.Buffer
	hosts    []cudakern.HostBuffer
	closers  []func()
	begun    cudakern.Event // on st: the pass before is enqueued up to here
	forward  []phase
	backward [][]phase // by layer; run from the last to the first

	reducer *reducer                         // nil where there is one replica
	frozen  func(step uint64, q *param) bool // nil: nothing ever is
	staged  bool                             // see Config

	in     *inputStage
	out    *lossStage // nil for a column that has no part in the softmax
	hidden *value     // what the last dense layer works on, of this column
}

// alloc makes a buffer that the cell frees when it closes.
func (b *builder) alloc(s cudakern.Shape, l cudakern.Layout) (cudakern.Buffer, error) {
	buf, err := b.dev.Alloc(s, l)
	if err != nil {
		return nil, err
	}
	b.buffers = append(b.buffers, buf)
	return buf, nil
}

// newValue makes a buffer and its gradient.
func (b *builder) newValue(s cudakern.Shape, l cudakern.Layout) (*value, error) {
	buf, err := b.alloc(s, l)
	if err != nil {
		return nil, err
	}
	grad, err := b.alloc(s, l)
	if err != nil {
		return nil, err
	}
	return &value{buf: buf, grad: grad}, nil
}

// close frees everything the builder made.
func (b *builder) close() {
	for _, f := range slices.Backward(b.closers) {
		f()
	}
	for _, buf := range slices.Backward(b.buffers) {
		buf.Free()
	}
	for _, h := range slices.Backward(b.hosts) {
		h.Free()
	}
	b.closers, b.buffers, b.hosts = nil, nil, nil
}

// fwd appends a forward phase, back one of the backward pass of the layer being built. Their kinds are Forward and Data
// unless the caller of as says otherwise.
func (b *builder) fwd(l label, run func(*pass) error) *phase {
	b.forward = append(b.forward, phase{label: l, run: run, kind: Forward})
	return &b.forward[len(b.forward)-1]
}

func (b *builder) back(l label, run func(*pass) error) *phase {
	last := &b.backward[len(b.backward)-1]
	*last = append(*last, phase{label: l, run: run, kind: Data})
	return &(*last)[len(*last)-1]
}

// as says what kind of phase it is.
func (ph *phase) as(k Kind) { ph.kind = k }

// backwardPhases returns the phases of the backward pass in the order they run.
func (b *builder) backwardPhases() []phase {
	var out []phase
	for _, group := range slices.Backward(b.backward) {
		out = append(out, group...)
	}
	return out
}

// maps is the device shape of a batch of maps.
func (b *builder) maps(s shard.Shape) cudakern.Shape { return cudakern.Shape{b.batch, s.C, s.H, s.W} }

// begin marks the beginning of a pass: what an earlier one computed from, what comes in now may overwrite behind it.
func (b *builder) begin() (err error) {
	b.begun, err = b.st.Record()
	return err
}

// build walks the layers. A relu right behind a conv or dense layer is done by that layer's last product; its gradient,
// and an lrn and a pool behind it, by one op of devices that have it.
func (b *builder) build() error {
	cur, err := b.buildInput()
	if err != nil {
		return err
	}
	layers := b.plan.Layers
	for i := 0; i < len(layers); i++ {
		lp := &layers[i]
		b.backward = append(b.backward, nil)
		switch lp.Layer.Kind {
		case shard.Conv, shard.Dense:
			var done int
			cur, done, err = b.buildRectified(i, cur)
			i += done
		case shard.Softmax:
			err = b.buildLoss(lp, cur)
		default:
			cur, err = b.buildPlain(i, lp, cur)
		}
		if err != nil {
			return fmt.Errorf("layer %s: %w", lp.Layer.Name, err)
		}
	}
	return nil
}

// buildRectified builds a conv or dense layer, and of the layers behind it those that its ops or one NormPool can do
// with it: `done` of them.
func (b *builder) buildRectified(index int, cur *value) (y *value, done int, err error) {
	layers := b.plan.Layers[index:]
	if len(layers) < 2 || layers[1].Layer.Kind != shard.ReLU {
		y, err = b.buildWeighted(&layers[0], cur, rectifier{})
		return y, 0, err
	}
	op, err := b.newNormPool(layers[2:])
	if err != nil {
		return nil, 0, err
	}
	if y, err = b.buildWeighted(&layers[0], cur, rectifier{forward: true, backward: op == nil}); err != nil || op == nil {
		return y, 1, err
	}
	b.backward = append(b.backward, nil)
	y, err = b.buildNormPool(&layers[2], &layers[3], op, y)
	return y, 3, err
}

// buildPlain builds a layer without weights, on the column's own maps.
func (b *builder) buildPlain(index int, lp *shard.LayerPlan, cur *value) (*value, error) {
	if cur == nil { // this column's part ended before
		return nil, nil
	}
	if lp.Exchange >= 0 {
		return nil, fmt.Errorf("exchange before a %s layer: %w", lp.Layer.Kind, cudakern.ErrUnsupported)
	}
	switch lp.Layer.Kind {
	case shard.ReLU:
		return b.buildReLU(lp, cur)
	case shard.Tanh:
		return b.buildTanh(lp, cur)
	case shard.LRN:
		return b.buildLRN(lp, cur)
	case shard.Pool:
		return b.buildPool(lp, cur)
	case shard.Dropout:
		return b.buildDropout(index, lp, cur)
	}
	return nil, fmt.Errorf("kind %q: %w", lp.Layer.Kind, cudakern.ErrUnsupported)
}

// adapt returns v in another layout or flattened shape, with a reorder each way where they differ. The gradient's way
// back is appended to the layer's backward phases by the returned function, once the adapted gradient is complete.
func (b *builder) adapt(l label, v *value, s cudakern.Shape, want cudakern.Layout) (*value, func(), error) {
	if v.buf.Layout() == want && slices.Equal(v.buf.Shape(), s) {
		return v, func() {}, nil
	}
	there, err := b.dev.NewReorder(cudakern.ReorderDesc{
		FromShape: v.buf.Shape(), From: v.buf.Layout(), ToShape: s, To: want})
	if err != nil {
		return nil, nil, err
	}
	b.closers = append(b.closers, there.Close)
	out := &value{}
	if out.buf, err = b.alloc(s, want); err != nil {
		return nil, nil, err
	}
	b.fwd(l.with(" reorder"), func(*pass) error { return there.Run(b.st, out.buf, v.buf) })
	if v.grad == nil {
		return out, func() {}, nil
	}
	if out.grad, err = b.alloc(s, want); err != nil {
		return nil, nil, err
	}
	home, err := b.dev.NewReorder(cudakern.ReorderDesc{
		FromShape: s, From: want, ToShape: v.buf.Shape(), To: v.buf.Layout()})
	if err != nil {
		return nil, nil, err
	}
	b.closers = append(b.closers, home.Close)
	return out, func() {
		b.back(l.with(" gradient reorder"), func(*pass) error { return home.Run(b.st, v.grad, out.grad) })
	}, nil
}
