package train

import (
	"errors"
	"fmt"

	"colonnade/cudakern"
	"colonnade/cudakern/philox"
	"colonnade/shard"
)

// buildReLU builds a rectifier that no product could take in.
func (b *builder) buildReLU(lp *shard.LayerPlan, cur *value) (*value, error) {
	op, err := b.dev.NewReLU(cudakern.ReLUDesc{Shape: cur.buf.Shape(), Layout: cur.buf.Layout()})
	if err != nil {
		return nil, err
	}
	return b.buildCurve(lp, cur, op)
}

// buildTanh builds the paper's other nonlinearity.
func (b *builder) buildTanh(lp *shard.LayerPlan, cur *value) (*value, error) {
	op, err := b.dev.NewTanh(cudakern.TanhDesc{Shape: cur.buf.Shape(), Layout: cur.buf.Layout()})
	if err != nil {
		return nil, err
	}
	return b.buildCurve(lp, cur, op)
}

// buildCurve wires a function of every element, whose gradient is told from its result; the op becomes the builder's.
func (b *builder) buildCurve(lp *shard.LayerPlan, cur *value, op cudakern.ReLU) (*value, error) {
	b.closers = append(b.closers, op.Close)
	y, err := b.newValue(cur.buf.Shape(), cur.buf.Layout())
	if err != nil {
		return nil, err
	}
	name := lp.Layer.Name
	b.fwd(same(name), func(*pass) error { return op.Forward(b.st, cur.buf, y.buf) })
	b.back(same(name+" gradient"), func(*pass) error { return op.Backward(b.st, y.buf, y.grad, cur.grad) })
	return y, nil
}

// lrnDesc is the response normalisation of a layer over the column's own maps.
func (b *builder) lrnDesc(lp *shard.LayerPlan) cudakern.LRNDesc {
	l, s := lp.Layer, lp.Columns[b.column].Out
	d := cudakern.LRNDesc{N: b.batch, C: s.C, H: s.H, W: s.W, Size: l.Size, K: l.K, Alpha: l.Alpha, Beta: l.Beta,
		Space: l.Across == shard.AcrossSpace}
	if l.AlphaOverSize {
		d.Alpha /= float64(l.Size)
		if d.Space {
			d.Alpha /= float64(l.Size)
		}
	}
	return d
}

// poolDesc is the max-pooling of a layer.
func (b *builder) poolDesc(lp *shard.LayerPlan) cudakern.PoolDesc {
	l, in, out := lp.Layer, lp.Columns[b.column].In, lp.Columns[b.column].Out
	return cudakern.PoolDesc{N: b.batch, C: in.C, H: in.H, W: in.W, OutH: out.H, OutW: out.W,
		Kernel: l.Kernel, Stride: l.Stride, Pad: cudakern.Pad(l.Pad), TiesAll: l.Ties == shard.TiesAll}
}

// buildLRN builds a response normalisation.
func (b *builder) buildLRN(lp *shard.LayerPlan, cur *value) (*value, error) {
	d := b.lrnDesc(lp)
	op, err := b.dev.NewLRN(d)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, op.Close)
	l := op.Layouts()
	return b.buildMaps(same(lp.Layer.Name), cur, mapsOp{x: d.Shape(), y: d.Shape(), wantX: l, wantY: l,
		forward: func(x, y *value) error { return op.Forward(b.st, x.buf, y.buf) },
		back:    func(x, y *value) error { return op.Backward(b.st, x.buf, y.buf, y.grad, x.grad) }})
}

// buildPool builds max-pooling.
func (b *builder) buildPool(lp *shard.LayerPlan, cur *value) (*value, error) {
	d := b.poolDesc(lp)
	op, err := b.dev.NewPool(d)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, op.Close)
	wantX, wantY := op.Layouts()
	return b.buildMaps(same(lp.Layer.Name), cur, mapsOp{x: d.XShape(), y: d.YShape(), wantX: wantX, wantY: wantY,
		forward: func(x, y *value) error { return op.Forward(b.st, x.buf, y.buf) },
		back:    func(x, y *value) error { return op.Backward(b.st, x.buf, y.buf, y.grad, x.grad) }})
}

// newNormPool makes the op for an lrn and a pool at the head of layers, behind a rectified one. It is nil where they
// are something else, and where the device, or the column, has no such op.
func (b *builder) newNormPool(layers []shard.LayerPlan) (cudakern.NormPool, error) {
	dev, ok := b.dev.(cudakern.NormPooler)
	if !ok || len(layers) < 2 || layers[0].Layer.Kind != shard.LRN || layers[1].Layer.Kind != shard.Pool ||
		layers[0].Exchange >= 0 || layers[1].Exchange >= 0 || layers[0].Columns[b.column].Own.Count == 0 {
		return nil, nil
	}
	op, err := dev.NewNormPool(cudakern.NormPoolDesc{LRN: b.lrnDesc(&layers[0]), Pool: b.poolDesc(&layers[1]),
		ReLU: true})
	if errors.Is(err, cudakern.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("with %s and %s: %w", layers[0].Layer.Name, layers[1].Layer.Name, err)
	}
	b.closers = append(b.closers, op.Close)
	return op, nil
}

// buildNormPool builds what op does: normalisation and pooling, and on the way back the rectifier before them.
func (b *builder) buildNormPool(lrn, pool *shard.LayerPlan, op cudakern.NormPool, cur *value) (*value, error) {
	picks, err := b.dev.AllocBytes(op.PickBytes())
	if err != nil {
		return nil, err
	}
	b.buffers = append(b.buffers, picks)
	wantX, wantY := op.Layouts()
	d := b.poolDesc(pool)
	return b.buildMaps(same(lrn.Layer.Name+"+"+pool.Layer.Name), cur, mapsOp{
		x: d.XShape(), y: d.YShape(), wantX: wantX, wantY: wantY,
		forward: func(x, y *value) error { return op.Forward(b.st, x.buf, y.buf, picks) },
		back:    func(x, y *value) error { return op.Backward(b.st, x.buf, picks, y.grad, x.grad) }})
}

// mapsOp is an op from maps to maps: its operands, and its passes over them.
type mapsOp struct {
	x, y          cudakern.Shape
	wantX, wantY  cudakern.Layout
	forward, back func(x, y *value) error
}

// buildMaps appends an op's phases.
func (b *builder) buildMaps(name label, cur *value, op mapsOp) (*value, error) {
	x, home, err := b.adapt(name, cur, op.x, op.wantX)
	if err != nil {
		return nil, err
	}
	y, err := b.newValue(op.y, op.wantY)
	if err != nil {
		return nil, err
	}
	b.fwd(name, func(*pass) error { return op.forward(x, y) })
	b.back(name.with(" gradient"), func(*pass) error { return op.back(x, y) })
	home()
	return y, nil
}

// buildDropout builds dropout; its masks are keyed by (seed, layer), step, image and unit of the whole layer, so every
// column draws its own part of one mask.
func (b *builder) buildDropout(index int, lp *shard.LayerPlan, cur *value) (*value, error) {
	l, col := lp.Layer, lp.Columns[b.column]
	shape, layout := cur.buf.Shape(), cur.buf.Layout()
	op, err := b.dev.NewDropout(cudakern.DropoutDesc{Shape: shape, Layout: layout, Keep: l.Keep,
		FirstUnit: col.Own.First * lp.Out.H * lp.Out.W, FirstImage: b.first, ScaleTrain: l.Scaling == shard.ScaleTrain})
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, op.Close)
	y, err := b.newValue(shape, layout)
	if err != nil {
		return nil, err
	}
	key := philox.Key(b.seed, philox.Dropout, uint64(index))
	b.fwd(same(l.Name), func(p *pass) error {
		if !p.train {
			return op.Infer(b.st, cur.buf, y.buf)
		}
		return op.Forward(b.st, key, p.step, cur.buf, y.buf)
	})
	b.back(same(l.Name+" gradient"), func(p *pass) error { return op.Backward(b.st, key, p.step, y.grad, cur.grad) })
	return y, nil
}
