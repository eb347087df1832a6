package train

import (
	"fmt"

	"colonnade/cudakern"
	"colonnade/shard"
)

// product is what conv and dense ops have in common.
type product interface {
	Layouts() (x, w, y cudakern.Layout)
	Forward(st cudakern.Stream, x, w, b, y cudakern.Buffer) error
	BackwardData(st cudakern.Stream, dy, w, dx cudakern.Buffer) error
	BackwardWeights(st cudakern.Stream, x, dy, dw, db cudakern.Buffer) error
	Close()
}

// block is one weight block at work: a product of one column's maps.
type block struct {
	shard.Block
	op   product
	x    *value // the maps, as the product wants them
	home func() // appends the gradient's way back to the maps' own layout
	w    *param
}

// rectifier says which passes of the relu behind a layer are done with the layer.
type rectifier struct{ forward, backward bool }

// buildWeighted builds a conv or dense layer: the blocks' products summed in plan order onto one output, then ReLU if
// asked. Before an `all` layer the maps cross; the own block does not wait for them.
func (b *builder) buildWeighted(lp *shard.LayerPlan, cur *value, relu rectifier) (*value, error) {
	if lp.Layer.Kind == shard.Dense {
		b.hidden = cur
	}
	x, err := b.newCrossing(lp, cur)
	if err != nil {
		return nil, err
	}
	if err := x.send(); err != nil {
		return nil, err
	}
	if lp.Columns[b.column].Own.Count == 0 {
		return nil, x.collect()
	}
	y, blocks, bias, err := b.buildForward(lp, cur, x, relu.forward)
	if err != nil {
		return nil, err
	}
	if err := b.buildBackward(lp, cur, x, y, blocks, bias, relu.backward); err != nil {
		return nil, err
	}
	return y, nil
}

// buildForward makes the blocks' ops and parameters and appends the forward phases.
func (b *builder) buildForward(lp *shard.LayerPlan, cur *value, x *crossing, relu bool) (
	*value, []*block, *param, error) {
	col, name := &lp.Columns[b.column], lp.Layer.Name
	bias, err := b.makeParam(col.Bias, cudakern.Plain)
	if err != nil {
		return nil, nil, nil, err
	}
	var y *value
	var blocks []*block
	for i, sb := range col.Blocks {
		blk := &block{Block: sb}
		last := i == len(col.Blocks)-1
		if blk.op, err = b.newProduct(lp, sb, i == 0, i > 0, relu && last); err != nil {
			return nil, nil, nil, err
		}
		b.closers = append(b.closers, blk.op.Close)
		wantX, wantW, wantY := blk.op.Layouts()
		if blk.w, err = b.makeParam(sb.Weight, wantW); err != nil {
			return nil, nil, nil, err
		}
		if y == nil {
			if y, err = b.newValue(b.outShape(lp), wantY); err != nil {
				return nil, nil, nil, err
			}
		} else if y.buf.Layout() != wantY {
			return nil, nil, nil, fmt.Errorf("blocks want outputs in %s and %s: %w",
				y.buf.Layout(), wantY, cudakern.ErrUnsupported)
		}
		from := cur
		what := blockLabel(name, i, sb, len(col.Blocks))
		if sb.From != b.column && sb.From != shard.InputColumn {
			if err := x.wait(sb.From); err != nil {
				return nil, nil, nil, err
			}
			from = x.remote[sb.From]
		}
		if blk.x, blk.home, err = b.adapt(what, from, b.inShape(lp, sb), wantX); err != nil {
			return nil, nil, nil, err
		}
		var addend *param
		if i == 0 {
			addend = bias
		}
		ph := b.fwd(what, func(p *pass) error {
			var bb cudakern.Buffer
			if addend != nil {
				bb = addend.w[p.half]
			}
			return blk.op.Forward(b.st, blk.x.buf, blk.w.w[p.half], bb, y.buf)
		})
		ph.macs = b.macs(sb)
		blocks = append(blocks, blk)
	}
	return y, blocks, bias, nil
}

// buildBackward appends the backward phases: gradients of other columns' maps first, since others wait for them; then
// the own maps', then the weights' while the rest travels; last what others found for the own maps, added in order.
func (b *builder) buildBackward(lp *shard.LayerPlan, cur *value, x *crossing, y *value, blocks []*block,
	bias *param, relu bool) error {
	name := lp.Layer.Name
	if relu {
		op, err := b.dev.NewReLU(cudakern.ReLUDesc{Shape: y.buf.Shape(), Layout: y.buf.Layout()})
		if err != nil {
			return err
		}
		b.closers = append(b.closers, op.Close)
		b.back(same(name+" relu gradient"), func(*pass) error { return op.Backward(b.st, y.buf, y.grad, y.grad) })
	}
	data := func(blk *block, what label) {
		ph := b.back(what, func(p *pass) error {
			return blk.op.BackwardData(b.st, y.grad, blk.w.w[p.half], blk.x.grad)
		})
		ph.macs = b.macs(blk.Block)
		blk.home()
	}
	for i, blk := range blocks[1:] {
		data(blk, blockLabel(name, i+1, blk.Block, len(blocks)).with(" gradient"))
		if err := x.sendGradient(blk.From); err != nil {
			return err
		}
	}
	if cur.grad != nil {
		data(blocks[0], same(name+" gradient"))
	}
	for i, blk := range blocks {
		db := cudakern.Buffer(nil)
		if i == 0 {
			db = bias.grad
		}
		ph := b.back(label{blk.w.Name + " weights", name + " weights"}, func(p *pass) error {
			if b.isFrozen(p.step, blk.w) && (db == nil || b.isFrozen(p.step, bias)) {
				return nil
			}
			return blk.op.BackwardWeights(b.st, blk.x.buf, y.grad, blk.w.grad, db)
		})
		ph.kind, ph.macs = Weights, b.macs(blk.Block)
	}
	if err := x.collect(); err != nil {
		return err
	}
	params := []*param{bias}
	for _, blk := range blocks {
		params = append(params, blk.w)
	}
	return b.reduce(name, params)
}

// isFrozen says whether a step has no use for a parameter's gradient.
func (b *builder) isFrozen(step uint64, q *param) bool { return b.frozen != nil && b.frozen(step, q) }

// blockLabel names what is done with block i of a layer's blocks.
func blockLabel(layer string, i int, sb shard.Block, blocks int) label {
	switch {
	case blocks == 1:
		return same(layer)
	case i == 0:
		return label{fmt.Sprintf("%s block %d", layer, sb.From), layer + " own block"}
	}
	return label{fmt.Sprintf("%s block %d", layer, sb.From), layer + " other blocks"}
}

// macs is the multiply-adds of a block's product, in any direction.
func (b *builder) macs(sb shard.Block) int64 { return sb.MACs * int64(b.batch) }

// newProduct makes the op of one block.
func (b *builder) newProduct(lp *shard.LayerPlan, sb shard.Block, bias, accumulate, relu bool) (product, error) {
	l, out := lp.Layer, lp.Columns[b.column].Out
	if l.Kind == shard.Dense {
		return b.dev.NewDense(cudakern.DenseDesc{N: b.batch, In: sb.In.Len(), Out: out.C, Bias: bias,
			Accumulate: accumulate, ReLU: relu, NoData: sb.From == shard.InputColumn})
	}
	return b.dev.NewConv(cudakern.ConvDesc{N: b.batch, In: sb.In.C, H: sb.In.H, W: sb.In.W,
		Out: out.C, OutH: out.H, OutW: out.W, Kernel: l.Kernel, Stride: l.Stride, Pad: cudakern.Pad(l.Pad),
		Bias: bias, Accumulate: accumulate, ReLU: relu, NoData: sb.From == shard.InputColumn})
}

// inShape and outShape are the device shapes of a block's input and of the column's output.
func (b *builder) inShape(lp *shard.LayerPlan, sb shard.Block) cudakern.Shape {
	if lp.Layer.Kind == shard.Dense {
		return cudakern.Shape{b.batch, sb.In.Len()}
	}
	return b.maps(sb.In)
}

func (b *builder) outShape(lp *shard.LayerPlan) cudakern.Shape {
	out := lp.Columns[b.column].Out
	if lp.Layer.Kind == shard.Dense {
		return cudakern.Shape{b.batch, out.C}
	}
	return b.maps(out)
}
