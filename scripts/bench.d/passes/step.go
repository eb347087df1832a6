package main

import (
	"slices"

	"colonnade/cudakern"
	"colonnade/shard"
)

// step is what column 0 does in a training step, as worker/train builds it on a device whose layouts are all Plain.
type step struct {
	plan  *shard.Plan
	batch int
	out   []pass
}

const float = 4 // bytes

// add notes a pass over operands of these shapes.
func (s *step) add(layer, what string, macs int64, run func(*bench, []cudakern.Buffer) error,
	shapes ...cudakern.Shape) {
	p := pass{Layer: layer, Pass: what, Times: 1, MACs: macs, run: func(b *bench) error {
		operands, err := b.all(shapes...)
		if err != nil {
			return err
		}
		return run(b, operands)
	}}
	for _, shape := range shapes {
		p.Bytes += float * int64(shape.Len())
		p.Image = p.Image || len(shape) == 4 && shape[0] == s.batch // maps; features are multiplied a batch at once
	}
	s.out = append(s.out, p)
}

// passes lists the step: forward and backward of every layer, then the update.
func (s *step) passes() []pass {
	s.input()
	layers := s.plan.Layers
	for i := 0; i < len(layers); i++ {
		lp := &layers[i]
		if lp.Columns[0].Own.Count == 0 && lp.Layer.Kind != shard.Softmax {
			continue
		}
		rectified := i+1 < len(layers) && layers[i+1].Layer.Kind == shard.ReLU
		switch lp.Layer.Kind {
		case shard.Conv, shard.Dense:
			s.product(lp, rectified)
			if rectified {
				i++ // forward it is part of the product
			}
		case shard.LRN:
			s.norm(lp)
		case shard.Pool:
			s.pool(lp)
		case shard.Dropout:
			s.dropout(lp)
		case shard.Softmax:
			s.loss(lp)
		}
	}
	s.update()
	return s.out
}

// maps is the shape of a column's maps of a batch; what a dense layer has of them is features.
func (s *step) maps(of shard.Shape) cudakern.Shape {
	if of.H*of.W == 1 {
		return cudakern.Shape{s.batch, of.C}
	}
	return cudakern.Shape{s.batch, of.C, of.H, of.W}
}

// input is images on their way in, as bytes of 256 x 256.
func (s *step) input() {
	const side = 256
	in := s.plan.Network.Input
	d := cudakern.InputDesc{N: s.batch, C: in.Channels[0], H: side, W: side, OutH: in.Height, OutW: in.Width}
	s.add("input", "forward", 0, func(b *bench, o []cudakern.Buffer) error {
		op, err := b.dev.NewInput(d)
		if err != nil {
			return err
		}
		b.after(op.Close)
		images, err := b.dev.AllocBytes(d.N * d.C * d.H * d.W)
		if err != nil {
			return err
		}
		b.after(images.Free)
		views := make([]cudakern.View, d.N)
		for i := range views {
			views[i] = cudakern.View{Y: int32(i % 29), X: int32(i % 31), Flip: i%2 == 1}
		}
		return op.Forward(b.st, images, views, o[0], 1, o[1])
	}, cudakern.Shape{1, d.C, d.H, d.W}, d.YShape())
	s.out[len(s.out)-1].Bytes += int64(d.N * d.C * d.H * d.W)
}

// layer is the interface that convolutions and dense layers share.
type layer interface {
	Forward(st cudakern.Stream, x, w, b, y cudakern.Buffer) error
	BackwardData(st cudakern.Stream, dy, w, dx cudakern.Buffer) error
	BackwardWeights(st cudakern.Stream, x, dy, dw, db cudakern.Buffer) error
	Close()
}

// product is a layer with weights: a product for each block of them, in each direction.
func (s *step) product(lp *shard.LayerPlan, rectified bool) {
	name, col := lp.Layer.Name, lp.Columns[0]
	bias := cudakern.Shape{col.Out.C}
	for i, blk := range col.Blocks {
		x, w, y, open := s.block(lp, blk, i == 0, i > 0, rectified && i == len(col.Blocks)-1)
		what := ""
		if len(col.Blocks) > 1 {
			what = []string{" own", " other"}[min(i, 1)]
		}
		macs := blk.MACs * int64(s.batch)
		s.add(name, "forward"+what, macs, func(b *bench, o []cudakern.Buffer) error {
			op, err := open(b.dev)
			if err != nil {
				return err
			}
			b.after(op.Close)
			addend := o[3]
			if i > 0 {
				addend = nil
			}
			return op.Forward(b.st, o[0], o[1], addend, o[2])
		}, x, w, y, bias)
		if blk.From != shard.InputColumn {
			s.add(name, "data"+what, macs, func(b *bench, o []cudakern.Buffer) error {
				op, err := open(b.dev)
				if err != nil {
					return err
				}
				b.after(op.Close)
				return op.BackwardData(b.st, o[2], o[1], o[0])
			}, x, w, y)
		}
		s.add(name, "weights"+what, macs, func(b *bench, o []cudakern.Buffer) error {
			op, err := open(b.dev)
			if err != nil {
				return err
			}
			b.after(op.Close)
			db := o[3]
			if i > 0 {
				db = nil
			}
			return op.BackwardWeights(b.st, o[0], o[2], o[1], db)
		}, x, w, y, bias)
		if i > 0 { // what the other column found for the maps that it had of us
			s.sum(name, x)
		}
	}
	if rectified {
		s.rectifier(name, s.maps(col.Out))
	}
}

// block gives the shapes of a block's operands and how to make its op.
func (s *step) block(lp *shard.LayerPlan, blk shard.Block, bias, accumulate, relu bool) (x, w, y cudakern.Shape,
	open func(cudakern.Device) (layer, error)) {
	l, out := lp.Layer, lp.Columns[0].Out
	if l.Kind == shard.Dense {
		d := cudakern.DenseDesc{N: s.batch, In: blk.In.Len(), Out: out.C, Bias: bias, Accumulate: accumulate, ReLU: relu}
		return d.XShape(), d.WShape(), d.YShape(), func(dev cudakern.Device) (layer, error) { return dev.NewDense(d) }
	}
	d := cudakern.ConvDesc{N: s.batch, In: blk.In.C, H: blk.In.H, W: blk.In.W, Out: out.C, OutH: out.H, OutW: out.W,
		Kernel: l.Kernel, Stride: l.Stride, Pad: cudakern.Pad(l.Pad), Bias: bias, Accumulate: accumulate, ReLU: relu,
		NoData: blk.From == shard.InputColumn}
	return d.XShape(), d.WShape(), d.YShape(), func(dev cudakern.Device) (layer, error) { return dev.NewConv(d) }
}

func (s *step) sum(name string, shape cudakern.Shape) {
	s.add(name, "sum of gradients", 0, func(b *bench, o []cudakern.Buffer) error {
		op, err := b.dev.NewAdd(cudakern.AddDesc{Shape: shape, Layout: cudakern.Plain})
		if err != nil {
			return err
		}
		b.after(op.Close)
		return op.Run(b.st, o[0], o[1])
	}, shape, shape)
}

func (s *step) rectifier(name string, shape cudakern.Shape) {
	s.add(name, "relu gradient", 0, func(b *bench, o []cudakern.Buffer) error {
		op, err := b.dev.NewReLU(cudakern.ReLUDesc{Shape: shape, Layout: cudakern.Plain})
		if err != nil {
			return err
		}
		b.after(op.Close)
		return op.Backward(b.st, o[0], o[1], o[1])
	}, shape, shape)
}

func (s *step) norm(lp *shard.LayerPlan) {
	l, out := lp.Layer, lp.Columns[0].Out
	d := cudakern.LRNDesc{N: s.batch, C: out.C, H: out.H, W: out.W, Size: l.Size, K: l.K, Alpha: l.Alpha, Beta: l.Beta,
		Space: l.Across == shard.AcrossSpace}
	x := d.Shape()
	s.add(l.Name, "forward", 0, func(b *bench, o []cudakern.Buffer) error {
		op, err := b.dev.NewLRN(d)
		if err != nil {
			return err
		}
		b.after(op.Close)
		return op.Forward(b.st, o[0], o[1])
	}, x, x)
	s.add(l.Name, "gradient", 0, func(b *bench, o []cudakern.Buffer) error {
		op, err := b.dev.NewLRN(d)
		if err != nil {
			return err
		}
		b.after(op.Close)
		return op.Backward(b.st, o[0], o[1], o[2], o[3])
	}, x, x, x, x)
}

func (s *step) pool(lp *shard.LayerPlan) {
	l, in, out := lp.Layer, lp.Columns[0].In, lp.Columns[0].Out
	d := cudakern.PoolDesc{N: s.batch, C: in.C, H: in.H, W: in.W, OutH: out.H, OutW: out.W, Kernel: l.Kernel,
		Stride: l.Stride, Pad: cudakern.Pad(l.Pad), TiesAll: l.Ties == shard.TiesAll}
	x, y := d.XShape(), d.YShape()
	s.add(l.Name, "forward", 0, func(b *bench, o []cudakern.Buffer) error {
		op, err := b.dev.NewPool(d)
		if err != nil {
			return err
		}
		b.after(op.Close)
		return op.Forward(b.st, o[0], o[1])
	}, x, y)
	s.add(l.Name, "gradient", 0, func(b *bench, o []cudakern.Buffer) error {
		op, err := b.dev.NewPool(d)
		if err != nil {
			return err
		}
		b.after(op.Close)
		if err := op.Forward(b.st, o[0], o[1]); err != nil { // so that maxima are where y says
			return err
		}
		return op.Backward(b.st, o[0], o[1], o[2], o[3])
	}, x, y, y, x)
	s.out[len(s.out)-1].With = "forward"
}

func (s *step) dropout(lp *shard.LayerPlan) {
	l, shape := lp.Layer, s.maps(lp.Columns[0].Out)
	for _, what := range []string{"forward", "gradient"} {
		s.add(l.Name, what, 0, func(b *bench, o []cudakern.Buffer) error {
			op, err := b.dev.NewDropout(cudakern.DropoutDesc{Shape: shape, Layout: cudakern.Plain, Keep: l.Keep})
			if err != nil {
				return err
			}
			b.after(op.Close)
			if what == "forward" {
				return op.Forward(b.st, 1, 2, o[0], o[1])
			}
			return op.Backward(b.st, 1, 2, o[0], o[1])
		}, shape, shape)
	}
}

// loss is the softmax over everybody's logits, which every column computes for itself.
func (s *step) loss(lp *shard.LayerPlan) {
	logits := cudakern.Shape{s.batch, s.plan.Network.Classes}
	for _, what := range []string{"forward", "gradient"} {
		s.add(lp.Layer.Name, what, 0, func(b *bench, o []cudakern.Buffer) error {
			op, err := b.dev.NewSoftmax(cudakern.SoftmaxDesc{N: s.batch, Classes: s.plan.Network.Classes})
			if err != nil {
				return err
			}
			b.after(op.Close)
			var places []cudakern.Buffer // labels, ranks, ties
			for range 3 {
				p, err := b.dev.AllocBytes(4 * s.batch)
				if err != nil {
					return err
				}
				b.after(p.Free)
				places = append(places, p)
			}
			if what == "forward" {
				return op.Forward(b.st, o[0], places[0], s.batch, o[2], places[1], places[2])
			}
			return op.Backward(b.st, o[0], places[0], s.batch, o[1])
		}, logits, logits, cudakern.Shape{s.batch})
	}
}

// update is one pass for each size of parameter.
func (s *step) update() {
	times := map[int]int{}
	var sizes []int
	for _, p := range s.plan.Params[0] {
		if times[p.Len()]++; times[p.Len()] == 1 {
			sizes = append(sizes, p.Len())
		}
	}
	slices.Sort(sizes)
	for _, n := range sizes {
		shape := cudakern.Shape{n}
		s.add("update", "update", 0, func(b *bench, o []cudakern.Buffer) error {
			op, err := b.dev.NewSGD(cudakern.SGDDesc{Shape: shape, Layout: cudakern.Plain})
			if err != nil {
				return err
			}
			b.after(op.Close)
			return op.Update(b.st, o[0], o[1], o[2], o[3], o[4], 0.9, 0.01, 0.0005)
		}, shape, shape, shape, shape, shape)
		s.out[len(s.out)-1].Times = times[n]
	}
}
