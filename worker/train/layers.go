package train

import (
	"colonnade/cudakern"
	"colonnade/cudakern/philox"
	"colonnade/shard"
)

// buildReLU builds a rectifier that no product could take in.
func (b *builder) buildReLU(lp *shard.LayerPlan, cur *value) (*value, error) {
	shape, layout := cur.buf.Shape(), cur.buf.Layout()
	op, err := b.dev.NewReLU(cudakern.ReLUDesc{Shape: shape, Layout: layout})
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, op.Close)
	y, err := b.newValue(shape, layout)
	if err != nil {
		return nil, err
	}
	name := lp.Layer.Name
	b.fwd(same(name), func(*pass) error { return op.Forward(b.st, cur.buf, y.buf) })
	b.back(same(name+" gradient"), func(*pass) error { return op.Backward(b.st, y.buf, y.grad, cur.grad) })
	return y, nil
}

// buildLRN builds a response normalisation over the column's own maps.
func (b *builder) buildLRN(lp *shard.LayerPlan, cur *value) (*value, error) {
	l, s := lp.Layer, lp.Columns[b.column].Out
	d := cudakern.LRNDesc{N: b.batch, C: s.C, H: s.H, W: s.W, Size: l.Size, K: l.K, Alpha: l.Alpha, Beta: l.Beta,
		Space: l.Across == shard.AcrossSpace}
	if l.AlphaOverSize {
		d.Alpha /= float64(l.Size)
		if d.Space {
			d.Alpha /= float64(l.Size)
		}
	}
	op, err := b.dev.NewLRN(d)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, op.Close)
	x, home, err := b.adapt(same(l.Name), cur, b.maps(s), op.Layouts())
	if err != nil {
		return nil, err
	}
	y, err := b.newValue(b.maps(s), op.Layouts())
	if err != nil {
		return nil, err
	}
	b.fwd(same(l.Name), func(*pass) error { return op.Forward(b.st, x.buf, y.buf) })
	b.back(same(l.Name+" gradient"), func(*pass) error { return op.Backward(b.st, x.buf, y.buf, y.grad, x.grad) })
	home()
	return y, nil
}

// buildPool builds max-pooling.
func (b *builder) buildPool(lp *shard.LayerPlan, cur *value) (*value, error) {
	l, in, out := lp.Layer, lp.Columns[b.column].In, lp.Columns[b.column].Out
	op, err := b.dev.NewPool(cudakern.PoolDesc{N: b.batch, C: in.C, H: in.H, W: in.W, OutH: out.H, OutW: out.W,
		Kernel: l.Kernel, Stride: l.Stride, Pad: cudakern.Pad(l.Pad), TiesAll: l.Ties == shard.TiesAll})
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, op.Close)
	wantX, wantY := op.Layouts()
	x, home, err := b.adapt(same(l.Name), cur, b.maps(in), wantX)
	if err != nil {
		return nil, err
	}
	y, err := b.newValue(b.maps(out), wantY)
	if err != nil {
		return nil, err
	}
	b.fwd(same(l.Name), func(*pass) error { return op.Forward(b.st, x.buf, y.buf) })
	b.back(same(l.Name+" gradient"), func(*pass) error { return op.Backward(b.st, x.buf, y.buf, y.grad, x.grad) })
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
