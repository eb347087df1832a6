package kerntest_test

import (
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/kerntest"
	"colonnade/cudakern/ref"
)

// faulty is the reference with one thing wrong.
type faulty struct {
	cudakern.Device
	conv    func(*cudakern.ConvDesc)
	dense   func(cudakern.Device, cudakern.Dense) cudakern.Dense
	pool    func(*cudakern.PoolDesc)
	lrn     func(*cudakern.LRNDesc)
	dropout func(*cudakern.DropoutDesc)
	softmax func(cudakern.Softmax) cudakern.Softmax
	sgd     func(cudakern.SGD) cudakern.SGD
	relu    func(cudakern.ReLU) cudakern.ReLU
	add     func(cudakern.Device, cudakern.Add) cudakern.Add
	concat  func(cudakern.Concat) cudakern.Concat
	input   func(cudakern.Input) cudakern.Input
	reorder func(cudakern.Device, cudakern.Reorder) cudakern.Reorder
}

func (f faulty) NewConv(d cudakern.ConvDesc) (cudakern.Conv, error) {
	if f.conv != nil {
		f.conv(&d)
	}
	return f.Device.NewConv(d)
}

func (f faulty) NewPool(d cudakern.PoolDesc) (cudakern.Pool, error) {
	if f.pool != nil {
		f.pool(&d)
	}
	return f.Device.NewPool(d)
}

func (f faulty) NewLRN(d cudakern.LRNDesc) (cudakern.LRN, error) {
	if f.lrn != nil {
		f.lrn(&d)
	}
	return f.Device.NewLRN(d)
}

func (f faulty) NewDropout(d cudakern.DropoutDesc) (cudakern.Dropout, error) {
	if f.dropout != nil {
		f.dropout(&d)
	}
	return f.Device.NewDropout(d)
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
	if f.dense == nil {
		return op, err
	}
	return wrapped(op, err, func(o cudakern.Dense) cudakern.Dense { return f.dense(f.Device, o) })
}

func (f faulty) NewAdd(d cudakern.AddDesc) (cudakern.Add, error) {
	op, err := f.Device.NewAdd(d)
	if f.add == nil {
		return op, err
	}
	return wrapped(op, err, func(o cudakern.Add) cudakern.Add { return f.add(f.Device, o) })
}

func (f faulty) NewReorder(d cudakern.ReorderDesc) (cudakern.Reorder, error) {
	op, err := f.Device.NewReorder(d)
	if f.reorder == nil {
		return op, err
	}
	return wrapped(op, err, func(o cudakern.Reorder) cudakern.Reorder { return f.reorder(f.Device, o) })
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

type denseThat struct {
	cudakern.Dense
	dev    cudakern.Device
	after  func(d denseThat, st cudakern.Stream, x, y cudakern.Buffer) error
	noData bool
}

func (d denseThat) Forward(st cudakern.Stream, x, w, b, y cudakern.Buffer) error {
	err := d.Dense.Forward(st, x, w, b, y)
	if err == nil && d.after != nil {
		err = d.after(d, st, x, y)
	}
	return err
}

func (d denseThat) BackwardData(st cudakern.Stream, dy, w, dx cudakern.Buffer) error {
	if d.noData {
		return nil
	}
	return d.Dense.BackwardData(st, dy, w, dx)
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

type reluThrough struct{ cudakern.ReLU }

func (r reluThrough) Backward(st cudakern.Stream, y, dy, dx cudakern.Buffer) error {
	return r.ReLU.Backward(st, dy, dy, dx)
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

type inputUnflipped struct{ cudakern.Input }

func (i inputUnflipped) Forward(st cudakern.Stream, images cudakern.Buffer, views []cudakern.View, mean cudakern.Buffer,
	scale float32, y cudakern.Buffer) error {
	straight := append([]cudakern.View(nil), views...)
	for n := range straight {
		straight[n].Flip = false
	}
	return i.Input.Forward(st, images, straight, mean, scale, y)
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
	dense := func(make func(dev cudakern.Device, d cudakern.Dense) denseThat) func(
		cudakern.Device, cudakern.Dense) cudakern.Dense {
		return func(dev cudakern.Device, d cudakern.Dense) cudakern.Dense { return make(dev, d) }
	}
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
		"output not written": {"dense", faulty{
			dense: dense(func(_ cudakern.Device, d cudakern.Dense) denseThat { return denseThat{Dense: d, noData: true} })}},
		"another result every time": {"dense", faulty{dense: dense(func(dev cudakern.Device, d cudakern.Dense) denseThat {
			return denseThat{Dense: d, dev: dev, after: func(d denseThat, st cudakern.Stream, _, y cudakern.Buffer) error {
				calls++
				return poke(d.dev, st, y, func(v float32) float32 { return v + calls*1e-7 })
			}}
		})}},
		"input changed": {"dense", faulty{dense: dense(func(dev cudakern.Device, d cudakern.Dense) denseThat {
			return denseThat{Dense: d, dev: dev, after: func(d denseThat, st cudakern.Stream, x, _ cudakern.Buffer) error {
				return poke(d.dev, st, x, func(v float32) float32 { return -v })
			}}
		})}},
		"ties shared wrongly": {"pool", faulty{pool: func(d *cudakern.PoolDesc) { d.TiesAll = !d.TiesAll }}},
		"pool window off by one": {"pool",
			faulty{pool: func(d *cudakern.PoolDesc) { d.Pad.Top = min(d.Pad.Top+1, d.Kernel-1) }}},
		"lrn window too wide":   {"lrn", faulty{lrn: func(d *cudakern.LRNDesc) { d.Size++ }}},
		"alpha over size":       {"lrn", faulty{lrn: func(d *cudakern.LRNDesc) { d.Alpha /= float64(d.Size) }}},
		"beta a hair off":       {"lrn", faulty{lrn: func(d *cudakern.LRNDesc) { d.Beta += 1e-4 }}},
		"mask of another unit":  {"dropout", faulty{dropout: func(d *cudakern.DropoutDesc) { d.FirstUnit += 4 }}},
		"mask of another image": {"dropout", faulty{dropout: func(d *cudakern.DropoutDesc) { d.FirstImage++ }}},
		"dropout scaled wrongly": {"dropout",
			faulty{dropout: func(d *cudakern.DropoutDesc) { d.ScaleTrain = !d.ScaleTrain }}},
		"padding counts": {"softmax",
			faulty{softmax: func(s cudakern.Softmax) cudakern.Softmax { return softmaxOfAll{s, 1} }}},
		"decay left out":          {"sgd", faulty{sgd: func(s cudakern.SGD) cudakern.SGD { return sgdWithout{s} }}},
		"gradient past rectifier": {"relu", faulty{relu: func(r cudakern.ReLU) cudakern.ReLU { return reluThrough{r} }}},
		"add overwrites": {"add",
			faulty{add: func(dev cudakern.Device, a cudakern.Add) cudakern.Add { return addOver{a, dev} }}},
		"always the first part": {"concat",
			faulty{concat: func(c cudakern.Concat) cudakern.Concat { return concatReversed{c} }}},
		"image not mirrored": {"input",
			faulty{input: func(i cudakern.Input) cudakern.Input { return inputUnflipped{i} }}},
		"memory not given back": {"reorder",
			faulty{reorder: func(dev cudakern.Device, r cudakern.Reorder) cudakern.Reorder { return leaking{r, dev} }}},
	}
}

// TestFaultsAreFound plants one fault at a time and wants the suite to see it, and to blame nothing else.
func TestFaultsAreFound(t *testing.T) {
	for name, c := range faults() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.f.Device = ref.New()
			for _, r := range kerntest.Check(c.f, kerntest.Options{Ops: []string{c.op}}) {
				if r.Pass {
					t.Errorf("%s passes", r.Op)
				}
				t.Log(r.Failure)
			}
		})
	}
}
