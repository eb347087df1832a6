package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"colonnade/cudakern"
)

// peaked is implemented by devices that know how fast they could be at best: float operations and bytes of memory a
// second, 0 where that is not known.
type peaked interface{ Peak() (flops, bytes float64) }

// timed is how fast an op's pass is.
type timed struct {
	Name     string  `json:"name"` // the pass and its shape
	MS       float64 `json:"ms"`
	GFLOPS   float64 `json:"gflops,omitempty"` // of products
	GBS      float64 `json:"gb_per_s"`         // of the memory that must be moved at least
	Roofline float64 `json:"roofline,omitempty"`
}

func (t timed) words() string {
	flops, share := "", ""
	if t.GFLOPS > 0 {
		flops = fmt.Sprintf("%.0f", t.GFLOPS)
	}
	if t.Roofline > 0 {
		share = fmt.Sprintf("%.0f %%", 100*t.Roofline)
	}
	return fmt.Sprintf("%.3f\t%s\t%.0f\t%s", t.MS, flops, t.GBS, share)
}

// pass is one pass of an op, ready to be run as often as one likes.
type pass struct {
	name  string
	flops float64
	bytes float64
	run   func() error
}

// opBench is where a pass's operands come from. Errors are kept until the end: a nil buffer makes an op refuse.
type opBench struct {
	d    cudakern.Device
	st   cudakern.Stream
	n    int // images
	err  error
	free []func()
}

func (b *opBench) keep(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *opBench) buf(l cudakern.Layout, shape ...int) cudakern.Buffer {
	x, err := b.d.Alloc(shape, l)
	b.keep(err)
	if err == nil {
		b.free = append(b.free, x.Free)
	}
	return x
}

func (b *opBench) plain(shape ...int) cudakern.Buffer { return b.buf(cudakern.Plain, shape...) }

func (b *opBench) octets(n int) cudakern.Buffer {
	x, err := b.d.AllocBytes(n)
	b.keep(err)
	if err == nil {
		b.free = append(b.free, x.Free)
	}
	return x
}

// closing notes an op's end.
func closing[T interface{ Close() }](b *opBench, op T, err error) T {
	b.keep(err)
	if err == nil {
		b.free = append(b.free, op.Close)
	}
	return op
}

// timeOp times the passes of an op in shapes of AlexNet's, one column of two.
func timeOp(ctx context.Context, d cudakern.Device, gpu peaked, op string, n int) (out []timed, err error) {
	prepare := opPasses[op]
	if prepare == nil {
		return nil, nil
	}
	st, err := d.NewStream()
	if err != nil {
		return nil, err
	}
	b := &opBench{d: d, st: st, n: n}
	defer func() {
		for i := len(b.free) - 1; i >= 0; i-- {
			b.free[i]()
		}
		err = errors.Join(err, st.Close())
	}()
	passes := prepare(b)
	if b.err != nil {
		return nil, b.err
	}
	flops, bytes := gpu.Peak()
	for _, p := range passes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		took, err := p.time(st)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		t := timed{Name: p.name, MS: 1e3 * took, GFLOPS: p.flops / took / 1e9, GBS: p.bytes / took / 1e9}
		if flops > 0 && bytes > 0 {
			t.Roofline = max(p.flops/flops, p.bytes/bytes) / took
		}
		out = append(out, t)
	}
	return out, nil
}

// longEnough is how long runs of a pass are timed together, so that the call that waits for them does not count.
const longEnough = 30 * time.Millisecond

// time returns a pass's seconds: of as many runs as take long enough, behind one that is not counted.
func (p *pass) time(st cudakern.Stream) (float64, error) {
	for runs := 1; ; runs *= 2 {
		if err := p.run(); err != nil {
			return 0, err
		}
		if err := st.Sync(); err != nil {
			return 0, err
		}
		began := time.Now()
		for range runs {
			if err := p.run(); err != nil {
				return 0, err
			}
		}
		if err := st.Sync(); err != nil {
			return 0, err
		}
		if took := time.Since(began); took >= longEnough || runs >= 1<<16 {
			return took.Seconds() / float64(runs), nil
		}
	}
}

// opPasses make the passes of the ops that a training step spends its time on.
var opPasses = map[string]func(*opBench) []pass{
	"conv": convPasses, "dense": densePasses, "relu": reluPasses, "tanh": tanhPasses, "lrn": lrnPasses,
	"pool": poolPasses, "dropout": dropoutPasses, "softmax": softmaxPasses, "sgd": sgdPasses, "add": addPasses,
	"input": inputPasses, "copy": copyPasses,
}

const floatBytes = 4

func convPasses(b *opBench) []pass {
	c := cudakern.ConvDesc{N: b.n, In: 48, H: 27, W: 27, Out: 128, OutH: 27, OutW: 27, Kernel: 5, Stride: 1,
		Pad: cudakern.Pad{Top: 2, Left: 2, Bottom: 2, Right: 2}, Bias: true, ReLU: true}
	made, err := b.d.NewConv(c)
	op := closing(b, made, err)
	if err != nil {
		return nil
	}
	lx, lw, ly := op.Layouts()
	x, w, y := b.buf(lx, c.XShape()...), b.buf(lw, c.WShape()...), b.buf(ly, c.YShape()...)
	bias, dx, dw := b.plain(c.Out), b.buf(lx, c.XShape()...), b.buf(lw, c.WShape()...)
	return products(b, op, "conv2", 2*float64(c.YShape().Len())*float64(c.In*c.Kernel*c.Kernel),
		[]cudakern.Buffer{x, w, bias, y, dx, dw})
}

func densePasses(b *opBench) []pass {
	c := cudakern.DenseDesc{N: b.n, In: 4096, Out: 2048, Bias: true, ReLU: true}
	made, err := b.d.NewDense(c)
	op := closing(b, made, err)
	if err != nil {
		return nil
	}
	x, w, y := b.plain(c.XShape()...), b.plain(c.WShape()...), b.plain(c.YShape()...)
	bias, dx, dw := b.plain(c.Out), b.plain(c.XShape()...), b.plain(c.WShape()...)
	return products(b, op, "fc7", 2*float64(b.n*c.In*c.Out), []cudakern.Buffer{x, w, bias, y, dx, dw})
}

// product is what convolutions and dense layers have in common.
type product interface {
	Forward(st cudakern.Stream, x, w, b, y cudakern.Buffer) error
	BackwardData(st cudakern.Stream, dy, w, dx cudakern.Buffer) error
	BackwardWeights(st cudakern.Stream, x, dy, dw, db cudakern.Buffer) error
}

func products(b *opBench, op product, layer string, flops float64, o []cudakern.Buffer) []pass {
	if b.err != nil {
		return nil
	}
	x, w, bias, y, dx, dw := o[0], o[1], o[2], o[3], o[4], o[5]
	bytes := float64(x.Bytes() + w.Bytes() + y.Bytes())
	return []pass{
		{layer + " forward", flops, bytes, func() error { return op.Forward(b.st, x, w, bias, y) }},
		{layer + " by data", flops, bytes, func() error { return op.BackwardData(b.st, y, w, dx) }},
		{layer + " by weights", flops, bytes, func() error { return op.BackwardWeights(b.st, x, y, dw, bias) }},
	}
}

// moved are the bytes of buffers that are each read or written once.
func moved(buffers ...cudakern.Buffer) (n float64) {
	for _, b := range buffers {
		if b != nil {
			n += float64(b.Bytes())
		}
	}
	return n
}

func reluPasses(b *opBench) []pass {
	return curvePasses(b, "relu1", func(s cudakern.Shape) (cudakern.ReLU, error) {
		return b.d.NewReLU(cudakern.ReLUDesc{Shape: s, Layout: cudakern.Plain})
	})
}

func tanhPasses(b *opBench) []pass {
	return curvePasses(b, "tanh1", func(s cudakern.Shape) (cudakern.ReLU, error) {
		return b.d.NewTanh(cudakern.TanhDesc{Shape: s, Layout: cudakern.Plain})
	})
}

// curvePasses are those of a function of every element of conv1's maps.
func curvePasses(b *opBench, layer string, open func(cudakern.Shape) (cudakern.ReLU, error)) []pass {
	s := cudakern.Shape{b.n, 48, 55, 55}
	made, err := open(s)
	op := closing(b, made, err)
	x, y := b.plain(s...), b.plain(s...)
	return []pass{
		{layer + " forward", 0, moved(x, y), func() error { return op.Forward(b.st, x, y) }},
		{layer + " backward", 0, moved(x, y, y), func() error { return op.Backward(b.st, x, y, y) }},
	}
}

func lrnPasses(b *opBench) []pass {
	c := cudakern.LRNDesc{N: b.n, C: 48, H: 55, W: 55, Size: 5, K: 2, Alpha: 1e-4, Beta: 0.75}
	made, err := b.d.NewLRN(c)
	op := closing(b, made, err)
	if err != nil {
		return nil
	}
	l := op.Layouts()
	x, y, dy, dx := b.buf(l, c.Shape()...), b.buf(l, c.Shape()...), b.buf(l, c.Shape()...), b.buf(l, c.Shape()...)
	return []pass{
		{"norm1 forward", 0, moved(x, y), func() error { return op.Forward(b.st, x, y) }},
		{"norm1 backward", 0, moved(x, y, dy, dx), func() error { return op.Backward(b.st, x, y, dy, dx) }},
	}
}

func poolPasses(b *opBench) []pass {
	c := cudakern.PoolDesc{N: b.n, C: 48, H: 55, W: 55, OutH: 27, OutW: 27, Kernel: 3, Stride: 2}
	made, err := b.d.NewPool(c)
	op := closing(b, made, err)
	if err != nil {
		return nil
	}
	lx, ly := op.Layouts()
	x, y, dy, dx := b.buf(lx, c.XShape()...), b.buf(ly, c.YShape()...), b.buf(ly, c.YShape()...), b.buf(lx, c.XShape()...)
	return []pass{
		{"pool1 forward", 0, moved(x, y), func() error { return op.Forward(b.st, x, y) }},
		{"pool1 backward", 0, moved(x, y, dy, dx), func() error { return op.Backward(b.st, x, y, dy, dx) }},
	}
}

func dropoutPasses(b *opBench) []pass {
	s := cudakern.Shape{b.n, 2048}
	made, err := b.d.NewDropout(cudakern.DropoutDesc{Shape: s, Layout: cudakern.Plain, Keep: 0.5})
	op := closing(b, made, err)
	x, y := b.plain(s...), b.plain(s...)
	return []pass{{"drop6 forward", 0, moved(x, y), func() error { return op.Forward(b.st, 1, 1, x, y) }}}
}

func softmaxPasses(b *opBench) []pass {
	made, err := b.d.NewSoftmax(cudakern.SoftmaxDesc{N: b.n, Classes: 1000})
	op := closing(b, made, err)
	x, dx, loss := b.plain(b.n, 1000), b.plain(b.n, 1000), b.plain(b.n)
	labels, rank, ties := b.octets(4*b.n), b.octets(4*b.n), b.octets(4*b.n)
	return []pass{
		{"softmax forward", 0, moved(x), func() error { return op.Forward(b.st, x, labels, b.n, loss, rank, ties) }},
		{"softmax backward", 0, moved(x, dx), func() error { return op.Backward(b.st, x, labels, b.n, dx) }},
	}
}

func sgdPasses(b *opBench) []pass {
	s := cudakern.Shape{2048, 4096}
	made, err := b.d.NewSGD(cudakern.SGDDesc{Shape: s, Layout: cudakern.Plain})
	op := closing(b, made, err)
	w0, v0, g, w1, v1 := b.plain(s...), b.plain(s...), b.plain(s...), b.plain(s...), b.plain(s...)
	return []pass{{"update of fc7", 0, moved(w0, v0, g, w1, v1), func() error {
		return op.Update(b.st, w0, v0, g, w1, v1, 0.9, 0.01, 5e-4)
	}}}
}

func addPasses(b *opBench) []pass {
	s := cudakern.Shape{b.n, 128, 13, 13}
	made, err := b.d.NewAdd(cudakern.AddDesc{Shape: s, Layout: cudakern.Plain})
	op := closing(b, made, err)
	x, y := b.plain(s...), b.plain(s...)
	return []pass{{"add of conv3's maps", 0, moved(x, y, y), func() error { return op.Run(b.st, y, x) }}}
}

func inputPasses(b *opBench) []pass {
	c := cudakern.InputDesc{N: b.n, C: 3, H: 256, W: 256, OutH: 224, OutW: 224}
	made, err := b.d.NewInput(c)
	op := closing(b, made, err)
	if err != nil {
		return nil
	}
	images, mean, y := b.octets(b.n*c.C*c.H*c.W), b.plain(1, c.C, c.H, c.W), b.buf(op.Layouts(), c.YShape()...)
	views := make([]cudakern.View, b.n)
	return []pass{{"crops of 256 x 256", 0, moved(images, y), func() error {
		return op.Forward(b.st, images, views, mean, 1, y)
	}}}
}

func copyPasses(b *opBench) []pass {
	s := cudakern.Shape{b.n, 128, 13, 13}
	x, y := b.plain(s...), b.plain(s...)
	host, err := b.d.AllocHost(floatBytes * s.Len())
	b.keep(err)
	if err != nil {
		return nil
	}
	b.free = append(b.free, host.Free)
	return []pass{
		{"copy within", 0, moved(x, y), func() error { return b.d.Copy(b.st, y, x) }},
		{"copy from the host", 0, 0, func() error { return b.d.CopyIn(b.st, x, host.Bytes()) }},
		{"copy to the host", 0, 0, func() error { return b.d.CopyOut(b.st, host.Bytes(), x) }},
	}
}
