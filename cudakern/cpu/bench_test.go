//go:build cgo

package cpu

import (
	"fmt"
	"testing"

	"colonnade/cudakern"
)

// layer is a layer of a column of a network at batch 128: one of two columns, as the paper has it.
type layer struct {
	name string
	make func(cudakern.Device) (bench, error)
}

// bench is an op with its passes, ready to be run.
type bench struct {
	flops  float64 // of one pass, by the definition; 0: not worth counting
	passes []pass
	close  func()
}

type pass struct {
	name string
	run  func() error
}

const batch = 128

// layers are the ops of the full-size network and of the one for 32 x 32 images that take time.
func layers() []layer {
	conv := func(name string, in, size, out, outSize, kernel, stride, pad int) layer {
		d := cudakern.ConvDesc{N: batch, In: in, H: size, W: size, Out: out, OutH: outSize, OutW: outSize, Kernel: kernel,
			Stride: stride, Pad: cudakern.Pad{Top: pad, Left: pad, Bottom: pad, Right: pad},
			Bias: true, ReLU: true, NoData: in <= 3}
		flops := 2 * float64(batch*out*outSize*outSize*in*kernel*kernel)
		return layer{name, func(dev cudakern.Device) (bench, error) {
			op, err := dev.NewConv(d)
			if err != nil {
				return bench{}, err
			}
			return productBench(dev, op, d.XShape(), d.WShape(), d.YShape(), flops, d.NoData)
		}}
	}
	dense := func(name string, in, out int) layer {
		d := cudakern.DenseDesc{N: batch, In: in, Out: out, Bias: true, ReLU: true}
		return layer{name, func(dev cudakern.Device) (bench, error) {
			op, err := dev.NewDense(d)
			if err != nil {
				return bench{}, err
			}
			return productBench(dev, op, d.XShape(), d.WShape(), d.YShape(), 2*float64(batch*in*out), false)
		}}
	}
	return []layer{
		conv("alexnet/conv1", 3, 224, 48, 55, 11, 4, 0), lrnLayer("alexnet/lrn1", 48, 55),
		poolLayer("alexnet/pool1", 48, 55, 27),
		normPoolLayer("alexnet/lrn1+pool1", 48, 55, 27),
		conv("alexnet/conv2", 48, 27, 128, 27, 5, 1, 2), lrnLayer("alexnet/lrn2", 128, 27),
		poolLayer("alexnet/pool2", 128, 27, 13),
		normPoolLayer("alexnet/lrn2+pool2", 128, 27, 13),
		conv("alexnet/conv3 block", 128, 13, 192, 13, 3, 1, 1), conv("alexnet/conv4", 192, 13, 192, 13, 3, 1, 1),
		conv("alexnet/conv5", 192, 13, 128, 13, 3, 1, 1), poolLayer("alexnet/pool5", 128, 13, 6),
		dense("alexnet/fc6 block", 4608, 2048), dense("alexnet/fc7 block", 2048, 2048),
		conv("alexnet-32/conv1", 1, 32, 16, 32, 5, 1, 2), lrnLayer("alexnet-32/lrn1", 16, 32),
		poolLayer("alexnet-32/pool1", 16, 32, 16),
		normPoolLayer("alexnet-32/lrn1+pool1", 16, 32, 16),
		conv("alexnet-32/conv2", 16, 16, 32, 16, 5, 1, 2), lrnLayer("alexnet-32/lrn2", 32, 16),
		poolLayer("alexnet-32/pool2", 32, 16, 8),
		normPoolLayer("alexnet-32/lrn2+pool2", 32, 16, 8),
		conv("alexnet-32/conv3 block", 32, 8, 32, 8, 3, 1, 1), poolLayer("alexnet-32/pool5", 32, 8, 4),
		dense("alexnet-32/fc6 block", 512, 256),
	}
}

// operands fills buffers with small numbers of either sign; what is a rectifier's output has zeros.
type operands struct {
	dev  cudakern.Device
	st   cudakern.Stream
	made []cudakern.Buffer
	err  error
}

func (o *operands) make(s cudakern.Shape, l cudakern.Layout) cudakern.Buffer {
	if o.err != nil {
		return nil
	}
	b, err := o.dev.Alloc(s, l)
	if err != nil {
		o.err = err
		return nil
	}
	o.made = append(o.made, b)
	v := make([]float32, s.Len())
	for i := range v {
		v[i] = max(float32(uint32(i*2654435761)>>8)/(1<<24)-0.5, -0.1)
	}
	o.err = o.dev.Upload(o.st, b, v)
	return b
}

func (o *operands) free() {
	for _, b := range o.made {
		b.Free()
	}
	o.st.Close()
}

// weighted is what conv and dense ops have in common.
type weighted interface {
	Layouts() (x, w, y cudakern.Layout)
	Forward(st cudakern.Stream, x, w, b, y cudakern.Buffer) error
	BackwardData(st cudakern.Stream, dy, w, dx cudakern.Buffer) error
	BackwardWeights(st cudakern.Stream, x, dy, dw, db cudakern.Buffer) error
	Close()
}

func newOperands(dev cudakern.Device) *operands {
	o := &operands{dev: dev}
	o.st, o.err = dev.NewStream()
	return o
}

func productBench(dev cudakern.Device, op weighted, xs, ws, ys cudakern.Shape, flops float64,
	noData bool) (bench, error) {
	o := newOperands(dev)
	lx, lw, ly := op.Layouts()
	x, w, dy, b := o.make(xs, lx), o.make(ws, lw), o.make(ys, ly), o.make(cudakern.Shape{ws[0]}, cudakern.Plain)
	y, dx, dw, db := o.make(ys, ly), o.make(xs, lx), o.make(ws, lw), o.make(cudakern.Shape{ws[0]}, cudakern.Plain)
	out := bench{flops: flops, close: func() { o.free(); op.Close() }}
	out.passes = append(out.passes, pass{"forward", func() error { return op.Forward(o.st, x, w, b, y) }})
	if !noData {
		out.passes = append(out.passes, pass{"data", func() error { return op.BackwardData(o.st, dy, w, dx) }})
	}
	out.passes = append(out.passes, pass{"weights", func() error { return op.BackwardWeights(o.st, x, dy, dw, db) }})
	return out, o.err
}

func lrnLayer(name string, maps, size int) layer {
	d := cudakern.LRNDesc{N: batch, C: maps, H: size, W: size, Size: 5, K: 2, Alpha: 1e-4, Beta: 0.75}
	return layer{name, func(dev cudakern.Device) (bench, error) {
		op, err := dev.NewLRN(d)
		if err != nil {
			return bench{}, err
		}
		o := newOperands(dev)
		l := op.Layouts()
		x, y, dy, dx := o.make(d.Shape(), l), o.make(d.Shape(), l), o.make(d.Shape(), l), o.make(d.Shape(), l)
		return bench{passes: []pass{{"forward", func() error { return op.Forward(o.st, x, y) }},
				{"backward", func() error { return op.Backward(o.st, x, y, dy, dx) }}}, close: func() { o.free(); op.Close() }},
			o.err
	}}
}

func poolLayer(name string, maps, size, out int) layer {
	d := cudakern.PoolDesc{N: batch, C: maps, H: size, W: size, OutH: out, OutW: out, Kernel: 3, Stride: 2}
	return layer{name, func(dev cudakern.Device) (bench, error) {
		op, err := dev.NewPool(d)
		if err != nil {
			return bench{}, err
		}
		o := newOperands(dev)
		lx, ly := op.Layouts()
		x, y, dy, dx := o.make(d.XShape(), lx), o.make(d.YShape(), ly), o.make(d.YShape(), ly), o.make(d.XShape(), lx)
		if o.err == nil {
			o.err = op.Forward(o.st, x, y)
		}
		return bench{passes: []pass{{"forward", func() error { return op.Forward(o.st, x, y) }},
				{"backward", func() error { return op.Backward(o.st, x, y, dy, dx) }}}, close: func() { o.free(); op.Close() }},
			o.err
	}}
}

// normPoolLayer is lrnLayer, poolLayer and the gradient of the rectifier before them in one.
func normPoolLayer(name string, maps, size, out int) layer {
	d := cudakern.NormPoolDesc{
		LRN:  cudakern.LRNDesc{N: batch, C: maps, H: size, W: size, Size: 5, K: 2, Alpha: 1e-4, Beta: 0.75},
		Pool: cudakern.PoolDesc{N: batch, C: maps, H: size, W: size, OutH: out, OutW: out, Kernel: 3, Stride: 2}, ReLU: true}
	return layer{name, func(dev cudakern.Device) (bench, error) {
		op, err := dev.(cudakern.NormPooler).NewNormPool(d)
		if err != nil {
			return bench{}, err
		}
		o := newOperands(dev)
		lx, ly := op.Layouts()
		xs, ys := d.Pool.XShape(), d.Pool.YShape()
		x, y, dy, dx := o.make(xs, lx), o.make(ys, ly), o.make(ys, ly), o.make(xs, lx)
		picks, err := dev.AllocBytes(op.PickBytes())
		if err != nil {
			return bench{}, err
		}
		if o.err == nil {
			o.err = op.Forward(o.st, x, y, picks)
		}
		return bench{passes: []pass{{"forward", func() error { return op.Forward(o.st, x, y, picks) }},
			{"backward", func() error { return op.Backward(o.st, x, picks, dy, dx) }}},
			close: func() { o.free(); picks.Free(); op.Close() }}, o.err
	}}
}

// BenchmarkOps times every pass of every layer, by the definition and by Winograd's algorithm one after the other. A
// row is ns for the batch, and GFLOP/s by the definition: what Winograd's algorithm saves counts as done.
func BenchmarkOps(b *testing.B) {
	for _, l := range layers() {
		for _, mode := range []int{winogradOff, winogradAuto} {
			dev, err := New(func(c *config) { c.winograd = mode })
			if err != nil {
				b.Fatal(err)
			}
			made, err := l.make(dev)
			if err != nil {
				b.Fatal(err)
			}
			if mode == winogradAuto && made.flops == 0 {
				made.close()
				continue
			}
			for _, p := range made.passes {
				b.Run(fmt.Sprintf("%s/%s/%s", l.name, p.name, [...]string{"direct", "winograd"}[mode]), func(b *testing.B) {
					for b.Loop() {
						if err := p.run(); err != nil {
							b.Fatal(err)
						}
					}
					if made.flops > 0 {
						b.ReportMetric(made.flops*float64(b.N)/b.Elapsed().Seconds()*1e-9, "GFLOP/s")
					}
				})
			}
			made.close()
		}
	}
}
