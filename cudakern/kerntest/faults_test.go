package kerntest_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"colonnade/cudakern"
	"colonnade/cudakern/kerntest"
	"colonnade/cudakern/ref"
)

// faulty is the reference with one thing wrong.
type faulty struct {
	cudakern.Device
	conv    func(*cudakern.ConvDesc)
	convOp  func(cudakern.Device, cudakern.Conv) cudakern.Conv
	dense   func(cudakern.Device, cudakern.Dense) cudakern.Dense
	pool    func(*cudakern.PoolDesc)
	poolOp  func(cudakern.Device, cudakern.Pool) cudakern.Pool
	lrn     func(*cudakern.LRNDesc)
	lrnOp   func(cudakern.Device, cudakern.LRN) cudakern.LRN
	fused   func(*cudakern.NormPoolDesc)
	dropout func(*cudakern.DropoutDesc)
	dropOp  func(cudakern.Device, cudakern.Dropout) cudakern.Dropout
	softmax func(cudakern.Softmax) cudakern.Softmax
	sgd     func(cudakern.SGD) cudakern.SGD
	relu    func(cudakern.ReLU) cudakern.ReLU
	tanh    func(cudakern.Device, cudakern.Tanh) cudakern.Tanh
	add     func(cudakern.Device, cudakern.Add) cudakern.Add
	concat  func(cudakern.Concat) cudakern.Concat
	input   func(cudakern.Input) cudakern.Input
	reorder func(cudakern.Device, cudakern.Reorder) cudakern.Reorder
}

func (f faulty) NewConv(d cudakern.ConvDesc) (cudakern.Conv, error) {
	if f.conv != nil {
		f.conv(&d)
	}
	op, err := f.Device.NewConv(d)
	return bound(f, op, err, f.convOp)
}

func (f faulty) NewPool(d cudakern.PoolDesc) (cudakern.Pool, error) {
	if f.pool != nil {
		f.pool(&d)
	}
	op, err := f.Device.NewPool(d)
	return bound(f, op, err, f.poolOp)
}

func (f faulty) NewLRN(d cudakern.LRNDesc) (cudakern.LRN, error) {
	if f.lrn != nil {
		f.lrn(&d)
	}
	op, err := f.Device.NewLRN(d)
	return bound(f, op, err, f.lrnOp)
}

// NewNormPool is there if something is wrong with it.
func (f faulty) NewNormPool(d cudakern.NormPoolDesc) (cudakern.NormPool, error) {
	if f.fused == nil {
		return nil, cudakern.ErrUnsupported
	}
	f.fused(&d)
	return kerntest.NewSeparate(f.Device, d)
}

func (f faulty) NewDropout(d cudakern.DropoutDesc) (cudakern.Dropout, error) {
	if f.dropout != nil {
		f.dropout(&d)
	}
	op, err := f.Device.NewDropout(d)
	return bound(f, op, err, f.dropOp)
}

// bound is wrapped for faults that need the device.
func bound[T any](f faulty, op T, err error, fault func(cudakern.Device, T) T) (T, error) {
	if err != nil || fault == nil {
		return op, err
	}
	return fault(f.Device, op), nil
}

// wrapped applies a fault to an op once it is made.
func wrapped[T any](op T, err error, fault func(T) T) (T, error) {
	if err != nil || fault == nil {
		return op, err
	}
	return fault(op), nil
}

func (f faulty) NewDense(d cudakern.DenseDesc) (cudakern.Dense, error) {
	op, err := f.Device.NewDense(d)
	return bound(f, op, err, f.dense)
}

func (f faulty) NewAdd(d cudakern.AddDesc) (cudakern.Add, error) {
	op, err := f.Device.NewAdd(d)
	return bound(f, op, err, f.add)
}

func (f faulty) NewReorder(d cudakern.ReorderDesc) (cudakern.Reorder, error) {
	op, err := f.Device.NewReorder(d)
	return bound(f, op, err, f.reorder)
}

func (f faulty) NewSoftmax(d cudakern.SoftmaxDesc) (cudakern.Softmax, error) {
	op, err := f.Device.NewSoftmax(d)
	return wrapped(op, err, f.softmax)
}

func (f faulty) NewSGD(d cudakern.SGDDesc) (cudakern.SGD, error) {
	op, err := f.Device.NewSGD(d)
	return wrapped(op, err, f.sgd)
}

func (f faulty) NewReLU(d cudakern.ReLUDesc) (cudakern.ReLU, error) {
	op, err := f.Device.NewReLU(d)
	return wrapped(op, err, f.relu)
}

func (f faulty) NewTanh(d cudakern.TanhDesc) (cudakern.Tanh, error) {
	op, err := f.Device.NewTanh(d)
	return bound(f, op, err, f.tanh)
}

func (f faulty) NewConcat(d cudakern.ConcatDesc) (cudakern.Concat, error) {
	op, err := f.Device.NewConcat(d)
	return wrapped(op, err, f.concat)
}

func (f faulty) NewInput(d cudakern.InputDesc) (cudakern.Input, error) {
	op, err := f.Device.NewInput(d)
	return wrapped(op, err, f.input)
}

// Wrong ops.

// poke changes the last element of a buffer.
func poke(dev cudakern.Device, st cudakern.Stream, b cudakern.Buffer, f func(float32) float32) error {
	v := make([]float32, b.Shape().Len())
	if err := dev.Download(st, v, b); err != nil {
		return err
	}
	v[len(v)-1] = f(v[len(v)-1])
	return dev.Upload(st, b, v)
}

// product is what Conv and Dense have in common; productThat spoils what one of its passes leaves.
type product interface {
	Layouts() (x, w, y cudakern.Layout)
	Forward(st cudakern.Stream, x, w, b, y cudakern.Buffer) error
	BackwardData(st cudakern.Stream, dy, w, dx cudakern.Buffer) error
	BackwardWeights(st cudakern.Stream, x, dy, dw, db cudakern.Buffer) error
	Close()
}

type productThat struct {
	product
	forward func(st cudakern.Stream, x, y cudakern.Buffer) error
	data    func(st cudakern.Stream, dx cudakern.Buffer) error
	weights func(st cudakern.Stream, dw, db cudakern.Buffer) error
	noData  bool
}

func (d productThat) Forward(st cudakern.Stream, x, w, b, y cudakern.Buffer) error {
	err := d.product.Forward(st, x, w, b, y)
	if err == nil && d.forward != nil {
		err = d.forward(st, x, y)
	}
	return err
}

func (d productThat) BackwardData(st cudakern.Stream, dy, w, dx cudakern.Buffer) error {
	if d.noData {
		return nil
	}
	err := d.product.BackwardData(st, dy, w, dx)
	if err == nil && d.data != nil {
		err = d.data(st, dx)
	}
	return err
}

func (d productThat) BackwardWeights(st cudakern.Stream, x, dy, dw, db cudakern.Buffer) error {
	err := d.product.BackwardWeights(st, x, dy, dw, db)
	if err == nil && d.weights != nil {
		err = d.weights(st, dw, db)
	}
	return err
}

// Faults of products, by the pass they are in.
func spoilData(dev cudakern.Device, p product) productThat {
	return productThat{product: p, data: func(st cudakern.Stream, dx cudakern.Buffer) error {
		return poke(dev, st, dx, off)
	}}
}

func spoilWeights(dev cudakern.Device, p product) productThat {
	return productThat{product: p, weights: func(st cudakern.Stream, dw, _ cudakern.Buffer) error {
		return poke(dev, st, dw, off)
	}}
}

func spoilBias(dev cudakern.Device, p product) productThat {
	return productThat{product: p, weights: func(st cudakern.Stream, _, db cudakern.Buffer) error {
		if db == nil {
			return nil
		}
		return poke(dev, st, db, off)
	}}
}

func off(v float32) float32 { return v + 0.125 }

type poolThat struct {
	cudakern.Pool
	dev cudakern.Device
}

func (p poolThat) Backward(st cudakern.Stream, x, y, dy, dx cudakern.Buffer) error {
	return errors.Join(p.Pool.Backward(st, x, y, dy, dx), poke(p.dev, st, dx, off))
}

type lrnThat struct {
	cudakern.LRN
	dev cudakern.Device
}

func (p lrnThat) Backward(st cudakern.Stream, x, y, dy, dx cudakern.Buffer) error {
	return errors.Join(p.LRN.Backward(st, x, y, dy, dx), poke(p.dev, st, dx, off))
}

type dropoutThat struct {
	cudakern.Dropout
	dev   cudakern.Device
	infer bool
}

func (d dropoutThat) Infer(st cudakern.Stream, x, y cudakern.Buffer) error {
	if d.infer {
		return d.dev.Copy(st, y, x)
	}
	return d.Dropout.Infer(st, x, y)
}

func (d dropoutThat) Backward(st cudakern.Stream, key, step uint64, dy, dx cudakern.Buffer) error {
	if !d.infer {
		step++
	}
	return d.Dropout.Backward(st, key, step, dy, dx)
}

// softmaxThat loses one of its outputs.
type softmaxThat struct {
	cudakern.Softmax
	swap bool
}

func (s softmaxThat) Forward(st cudakern.Stream, logits, labels cudakern.Buffer, valid int, loss, rank,
	ties cudakern.Buffer) error {
	if s.swap {
		rank, ties = ties, rank
	} else {
		ties = rank
	}
	return s.Softmax.Forward(st, logits, labels, valid, loss, rank, ties)
}

// softmaxFinite has a loss for everything.
type softmaxFinite struct {
	cudakern.Softmax
	dev cudakern.Device
}

func (s softmaxFinite) Forward(st cudakern.Stream, logits, labels cudakern.Buffer, valid int, loss, rank,
	ties cudakern.Buffer) error {
	err := s.Softmax.Forward(st, logits, labels, valid, loss, rank, ties)
	return errors.Join(err, poke(s.dev, st, loss, func(v float32) float32 {
		if v != v {
			return 710.188
		}
		return v
	}))
}

type softmaxOfAll struct {
	cudakern.Softmax
	n int
}

func (s softmaxOfAll) Backward(st cudakern.Stream, logits, labels cudakern.Buffer, _ int, d cudakern.Buffer) error {
	return s.Softmax.Backward(st, logits, labels, s.n, d)
}

type sgdWithout struct{ cudakern.SGD }

func (s sgdWithout) Update(st cudakern.Stream, w0, v0, g, w1, v1 cudakern.Buffer, momentum, rate, _ float32) error {
	return s.SGD.Update(st, w0, v0, g, w1, v1, momentum, rate, 0)
}

type sgdHalf struct{ cudakern.SGD }

func (s sgdHalf) Update(st cudakern.Stream, w0, v0, g, w1, _ cudakern.Buffer, momentum, rate, decay float32) error {
	return s.SGD.Update(st, w0, v0, g, w1, w1, momentum, rate, decay)
}

type reluOut struct{ cudakern.ReLU }

func (r reluOut) Forward(st cudakern.Stream, x, y cudakern.Buffer) error {
	if x == y {
		return nil
	}
	return r.ReLU.Forward(st, x, y)
}

type reluThrough struct{ cudakern.ReLU }

func (r reluThrough) Backward(st cudakern.Stream, y, dy, dx cudakern.Buffer) error {
	return r.ReLU.Backward(st, dy, dy, dx)
}

// tanhThat has a value a hair off, or the gradient of the logistic curve.
type tanhThat struct {
	cudakern.Tanh
	dev  cudakern.Device
	back bool
}

func spoilTanh(back bool) func(cudakern.Device, cudakern.Tanh) cudakern.Tanh {
	return func(d cudakern.Device, p cudakern.Tanh) cudakern.Tanh { return tanhThat{p, d, back} }
}

func (p tanhThat) Forward(st cudakern.Stream, x, y cudakern.Buffer) error {
	err := p.Tanh.Forward(st, x, y)
	if p.back || err != nil {
		return err
	}
	return poke(p.dev, st, y, func(v float32) float32 { return v + 2e-6 })
}

func (p tanhThat) Backward(st cudakern.Stream, y, dy, dx cudakern.Buffer) error {
	err := p.Tanh.Backward(st, y, dy, dx)
	if !p.back || err != nil {
		return err
	}
	v := make([]float32, y.Shape().Len())
	if err := p.dev.Download(st, v, y); err != nil {
		return err
	}
	return poke(p.dev, st, dx, func(g float32) float32 { return g / (1 + v[len(v)-1]) })
}

type addOver struct {
	cudakern.Add
	dev cudakern.Device
}

func (a addOver) Run(st cudakern.Stream, dst, src cudakern.Buffer) error {
	return a.dev.Copy(st, dst, src)
}

type concatReversed struct{ cudakern.Concat }

func (c concatReversed) Cut(st cudakern.Stream, part cudakern.Buffer, _ int, src cudakern.Buffer) error {
	if err := c.Concat.Cut(st, part, 0, src); err == nil {
		return nil
	}
	return c.Concat.Cut(st, part, 1, src)
}

type concatTwisted struct{ cudakern.Concat }

func (c concatTwisted) Join(st cudakern.Stream, dst cudakern.Buffer, parts []cudakern.Buffer) error {
	turned := slices.Clone(parts)
	slices.Reverse(turned)
	if err := c.Concat.Join(st, dst, turned); err == nil {
		return nil
	}
	return c.Concat.Join(st, dst, parts)
}

type inputThat struct {
	cudakern.Input
	view func(*cudakern.View)
}

func (i inputThat) Forward(st cudakern.Stream, images cudakern.Buffer, views []cudakern.View, mean cudakern.Buffer,
	scale float32, y cudakern.Buffer) error {
	other := slices.Clone(views)
	for n := range other {
		i.view(&other[n])
	}
	return i.Input.Forward(st, images, other, mean, scale, y)
}

type reorderThat struct {
	cudakern.Reorder
	dev cudakern.Device
}

func (r reorderThat) Run(st cudakern.Stream, dst, src cudakern.Buffer) error {
	return errors.Join(r.Reorder.Run(st, dst, src), poke(r.dev, st, dst, off))
}

// Faults of the device itself.

type copyless struct{ cudakern.Device }

func (copyless) Copy(cudakern.Stream, cudakern.Buffer, cudakern.Buffer) error { return nil }

type dirty struct{ cudakern.Device }

func (d dirty) Alloc(s cudakern.Shape, l cudakern.Layout) (cudakern.Buffer, error) {
	b, err := d.Device.Alloc(s, l)
	if err == nil {
		b.(cudakern.HostMapped).Mapped()[7] = 0x40
	}
	return b, err
}

// unguarded hides the canaries.
type unguarded struct{ cudakern.Device }

type bare struct{ cudakern.Buffer }

func (u unguarded) Alloc(s cudakern.Shape, l cudakern.Layout) (cudakern.Buffer, error) {
	b, err := u.Device.Alloc(s, l)
	return bare{b}, err
}

func (u unguarded) NewReLU(d cudakern.ReLUDesc) (cudakern.ReLU, error) {
	op, err := u.Device.NewReLU(d)
	return bareReLU{op}, err
}

func (u unguarded) Upload(st cudakern.Stream, b cudakern.Buffer, v []float32) error {
	return u.Device.Upload(st, b.(bare).Buffer, v)
}

type bareReLU struct{ cudakern.ReLU }

func (r bareReLU) Forward(st cudakern.Stream, x, y cudakern.Buffer) error {
	return r.ReLU.Forward(st, x.(bare).Buffer, y.(bare).Buffer)
}

func (r bareReLU) Backward(st cudakern.Stream, y, dy, dx cudakern.Buffer) error {
	return r.ReLU.Backward(st, y.(bare).Buffer, dy.(bare).Buffer, dx.(bare).Buffer)
}

// beyond writes one byte past a buffer's end.
func beyond(b cudakern.Buffer) {
	m := b.(cudakern.HostMapped).Mapped()
	unsafe.Slice(&m[0], len(m)+1)[len(m)] = 1
}

type leaking struct {
	cudakern.Reorder
	dev cudakern.Device
}

func (l leaking) Run(st cudakern.Stream, dst, src cudakern.Buffer) error {
	if _, err := l.dev.AllocBytes(4); err != nil {
		return err
	}
	return l.Reorder.Run(st, dst, src)
}

// faults are what kernels get wrong; each must be noticed, in the op it is in.
func faults() map[string]struct {
	op string
	f  faulty
} {
	type fault = struct {
		op string
		f  faulty
	}
	calls := float32(0)
	type (
		dev   = cudakern.Device
		conv  = cudakern.Conv
		dense = cudakern.Dense
	)
	return map[string]fault{
		"window off by one": {"conv", faulty{conv: func(d *cudakern.ConvDesc) {
			if d.Kernel > d.Pad.Left+1 {
				d.Pad.Left++
			}
		}}},
		"overwrites instead of adding": {"conv", faulty{conv: func(d *cudakern.ConvDesc) { d.Accumulate = false }}},
		"adds instead of overwriting":  {"conv", faulty{conv: func(d *cudakern.ConvDesc) { d.Accumulate = true }}},
		"rectifier left out":           {"conv", faulty{conv: func(d *cudakern.ConvDesc) { d.ReLU = false }}},
		"bias left out":                {"conv", faulty{conv: func(d *cudakern.ConvDesc) { d.Bias = false }}},
		"conv by data":                 {"conv", faulty{convOp: func(d dev, p conv) conv { return spoilData(d, p) }}},
		"conv by weights":              {"conv", faulty{convOp: func(d dev, p conv) conv { return spoilWeights(d, p) }}},
		"conv by bias":                 {"conv", faulty{convOp: func(d dev, p conv) conv { return spoilBias(d, p) }}},
		"dense by data":                {"dense", faulty{dense: func(d dev, p dense) dense { return spoilData(d, p) }}},
		"dense by weights":             {"dense", faulty{dense: func(d dev, p dense) dense { return spoilWeights(d, p) }}},
		"dense by bias":                {"dense", faulty{dense: func(d dev, p dense) dense { return spoilBias(d, p) }}},
		"output not written": {"dense", faulty{dense: func(_ dev, p dense) dense {
			return productThat{product: p, noData: true}
		}}},
		"another result every time": {"dense", faulty{dense: func(d dev, p dense) dense {
			return productThat{product: p, forward: func(st cudakern.Stream, _, y cudakern.Buffer) error {
				calls++
				return poke(d, st, y, func(v float32) float32 { return v + calls*1e-7 })
			}}
		}}},
		"input changed": {"dense", faulty{dense: func(d dev, p dense) dense {
			return productThat{product: p, forward: func(st cudakern.Stream, x, _ cudakern.Buffer) error {
				return poke(d, st, x, func(v float32) float32 { return -v })
			}}
		}}},
		"written past the end": {"dense", faulty{dense: func(d dev, p dense) dense {
			return productThat{product: p, data: func(_ cudakern.Stream, dx cudakern.Buffer) error { beyond(dx); return nil }}
		}}},
		"copy does nothing": {"copy", faulty{Device: copyless{ref.New()}}},
		"memory not zeroed": {"copy", faulty{Device: dirty{ref.New()}}},
		"no canaries":       {"relu", faulty{Device: unguarded{ref.New()}}},
		"pool by data": {"pool", faulty{poolOp: func(d dev, p cudakern.Pool) cudakern.Pool {
			return poolThat{p, d}
		}}},
		"lrn by data": {"lrn", faulty{lrnOp: func(d dev, p cudakern.LRN) cudakern.LRN { return lrnThat{p, d} }}},
		"dropout unscaled": {"dropout", faulty{dropOp: func(d dev, p cudakern.Dropout) cudakern.Dropout {
			return dropoutThat{p, d, true}
		}}},
		"another mask back": {"dropout", faulty{dropOp: func(d dev, p cudakern.Dropout) cudakern.Dropout {
			return dropoutThat{p, d, false}
		}}},
		"rank and ties swapped": {"softmax", faulty{softmax: func(s cudakern.Softmax) cudakern.Softmax {
			return softmaxThat{s, true}
		}}},
		"credit not written": {"softmax", faulty{softmax: func(s cudakern.Softmax) cudakern.Softmax {
			return softmaxThat{s, false}
		}}},
		"momentum not kept": {"sgd", faulty{sgd: func(s cudakern.SGD) cudakern.SGD { return sgdHalf{s} }}},
		"not in place":      {"relu", faulty{relu: func(r cudakern.ReLU) cudakern.ReLU { return reluOut{r} }}},
		"parts in another order": {"concat", faulty{concat: func(c cudakern.Concat) cudakern.Concat {
			return concatTwisted{c}
		}}},
		"image not mirrored": {"input", view(func(v *cudakern.View) { v.Flip = false })},
		"crop off by one":    {"input", view(func(v *cudakern.View) { v.X++ })},
		"colour not shifted": {"input", view(func(v *cudakern.View) { v.Shift = [3]float32{} })},
		"reorder spoils": {"reorder", faulty{reorder: func(d dev, r cudakern.Reorder) cudakern.Reorder {
			return reorderThat{r, d}
		}}},
		"ties shared wrongly": {"pool", faulty{pool: func(d *cudakern.PoolDesc) { d.TiesAll = !d.TiesAll }}},
		"pool window off by one": {"pool", faulty{pool: func(d *cudakern.PoolDesc) {
			d.Pad.Top = min(d.Pad.Top+1, d.Kernel-1)
		}}},
		"lrn window too wide":   {"lrn", faulty{lrn: func(d *cudakern.LRNDesc) { d.Size++ }}},
		"alpha over size":       {"lrn", faulty{lrn: func(d *cudakern.LRNDesc) { d.Alpha /= float64(d.Size) }}},
		"beta a hair off":       {"lrn", faulty{lrn: func(d *cudakern.LRNDesc) { d.Beta += 1e-4 }}},
		"mask of another unit":  {"dropout", faulty{dropout: func(d *cudakern.DropoutDesc) { d.FirstUnit += 4 }}},
		"mask of another image": {"dropout", faulty{dropout: func(d *cudakern.DropoutDesc) { d.FirstImage++ }}},
		"dropout scaled wrongly": {"dropout", faulty{dropout: func(d *cudakern.DropoutDesc) {
			d.ScaleTrain = !d.ScaleTrain
		}}},
		"padding counts": {"softmax", faulty{softmax: func(s cudakern.Softmax) cudakern.Softmax {
			return softmaxOfAll{s, 1}
		}}},
		"decay left out":          {"sgd", faulty{sgd: func(s cudakern.SGD) cudakern.SGD { return sgdWithout{s} }}},
		"gradient past rectifier": {"relu", faulty{relu: func(r cudakern.ReLU) cudakern.ReLU { return reluThrough{r} }}},
		"tanh a hair off":         {"tanh", faulty{tanh: spoilTanh(false)}},
		"tanh by data":            {"tanh", faulty{tanh: spoilTanh(true)}},
		"add overwrites": {"add", faulty{add: func(dev cudakern.Device, a cudakern.Add) cudakern.Add {
			return addOver{a, dev}
		}}},
		"always the first part": {"concat", faulty{concat: func(c cudakern.Concat) cudakern.Concat {
			return concatReversed{c}
		}}},
		"fused without rectifier": {"lrn and pool", faulty{fused: func(d *cudakern.NormPoolDesc) { d.ReLU = false }}},
		"fused window off by one": {"lrn and pool", faulty{fused: func(d *cudakern.NormPoolDesc) {
			d.Pool.Pad.Left = min(d.Pool.Pad.Left+1, d.Pool.Kernel-1)
		}}},
		"memory not given back": {"reorder", faulty{reorder: func(dev cudakern.Device,
			r cudakern.Reorder) cudakern.Reorder {
			return leaking{r, dev}
		}}},
	}
}

func view(f func(*cudakern.View)) faulty {
	return faulty{input: func(i cudakern.Input) cudakern.Input { return inputThat{i, f} }}
}

// TestFaultsAreFound plants one fault at a time and wants the suite to see it; every op has some.
func TestFaultsAreFound(t *testing.T) {
	ops := map[string]bool{}
	for name, c := range faults() {
		ops[c.op] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.f.Device == nil {
				c.f.Device = ref.New()
			}
			for _, r := range kerntest.Check(c.f, kerntest.Options{Ops: []string{c.op}, First: true}) {
				if r.Pass {
					t.Errorf("%s passes", r.Op)
				}
				t.Log(r.Failure)
			}
		})
	}
	device := reflect.TypeFor[cudakern.Device]()
	for i := range device.NumMethod() {
		name, ok := strings.CutPrefix(device.Method(i).Name, "New")
		if op := strings.ToLower(name); ok && op != "stream" && !ops[op] {
			t.Errorf("no fault is planted in %s", op)
		}
	}
}
