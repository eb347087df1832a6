package ref

import (
	"fmt"
	"math"

	"colonnade/cudakern"
	"colonnade/cudakern/philox"
)

// plainOnly refuses layouts this device does not have.
func plainOnly(op string, layouts ...cudakern.Layout) error {
	for _, l := range layouts {
		if l != cudakern.Plain {
			return fmt.Errorf("%s: layout %s: %w", op, l, cudakern.ErrShape)
		}
	}
	return nil
}

type rectifier struct {
	op
	cudakern.ReLUDesc
}

func (d *device) NewReLU(c cudakern.ReLUDesc) (cudakern.ReLU, error) {
	if err := plainOnly("relu", c.Layout); err != nil {
		return nil, err
	}
	return &rectifier{d.newOp(), c}, nil
}

func (c *rectifier) Forward(_ cudakern.Stream, x, y cudakern.Buffer) error {
	if err := checkAll("relu forward", operand{"x", x, c.Shape}, operand{"y", y, c.Shape}); err != nil {
		return err
	}
	for i, v := range vals(x) {
		vals(y)[i] = relu(v)
	}
	return nil
}

func (c *rectifier) Backward(_ cudakern.Stream, y, dy, dx cudakern.Buffer) error {
	if err := checkAll("relu backward", operand{"y", y, c.Shape}, operand{"dy", dy, c.Shape},
		operand{"dx", dx, c.Shape}); err != nil {
		return err
	}
	for i, v := range vals(y) {
		g := 0.0
		if v > 0 {
			g = vals(dy)[i]
		}
		vals(dx)[i] = g
	}
	return nil
}

type tanh struct {
	op
	cudakern.TanhDesc
}

func (d *device) NewTanh(c cudakern.TanhDesc) (cudakern.Tanh, error) {
	if err := plainOnly("tanh", c.Layout); err != nil {
		return nil, err
	}
	return &tanh{d.newOp(), c}, nil
}

func (c *tanh) Forward(_ cudakern.Stream, x, y cudakern.Buffer) error {
	if err := checkAll("tanh forward", operand{"x", x, c.Shape}, operand{"y", y, c.Shape}); err != nil {
		return err
	}
	for i, v := range vals(x) {
		vals(y)[i] = math.Tanh(v)
	}
	return nil
}

func (c *tanh) Backward(_ cudakern.Stream, y, dy, dx cudakern.Buffer) error {
	if err := checkAll("tanh backward", operand{"y", y, c.Shape}, operand{"dy", dy, c.Shape},
		operand{"dx", dx, c.Shape}); err != nil {
		return err
	}
	for i, v := range vals(y) {
		vals(dx)[i] = vals(dy)[i] * ((1 - v) * (1 + v))
	}
	return nil
}

type dropout struct {
	op
	cudakern.DropoutDesc
}

func (d *device) NewDropout(c cudakern.DropoutDesc) (cudakern.Dropout, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if err := plainOnly("dropout", c.Layout); err != nil {
		return nil, err
	}
	return &dropout{d.newOp(), c}, nil
}

// mask multiplies src by the mask of (key, step) into dst.
func (c *dropout) mask(key, step uint64, src, dst cudakern.Buffer) error {
	if err := checkAll("dropout", operand{"source", src, c.Shape}, operand{"result", dst, c.Shape}); err != nil {
		return err
	}
	features := c.Features()
	factor := 1.0
	if c.ScaleTrain {
		factor = 1 / c.Keep
	}
	for i, v := range vals(src) {
		unit, image := c.FirstUnit+i%features, c.FirstImage+i/features
		words := philox.Block([4]uint32{uint32(unit / 4), uint32(image), uint32(step), uint32(step >> 32)}, philox.Split(key))
		out := 0.0
		if uint64(words[unit%4]) < c.Threshold() {
			out = v * factor
		}
		vals(dst)[i] = out
	}
	return nil
}

func (c *dropout) Forward(_ cudakern.Stream, key, step uint64, x, y cudakern.Buffer) error {
	return c.mask(key, step, x, y)
}

func (c *dropout) Backward(_ cudakern.Stream, key, step uint64, dy, dx cudakern.Buffer) error {
	return c.mask(key, step, dy, dx)
}

func (c *dropout) Infer(_ cudakern.Stream, x, y cudakern.Buffer) error {
	if err := checkAll("dropout infer", operand{"x", x, c.Shape}, operand{"y", y, c.Shape}); err != nil {
		return err
	}
	factor := c.Keep
	if c.ScaleTrain {
		factor = 1
	}
	for i, v := range vals(x) {
		vals(y)[i] = v * factor
	}
	return nil
}

type sgd struct {
	op
	cudakern.SGDDesc
}

func (d *device) NewSGD(c cudakern.SGDDesc) (cudakern.SGD, error) {
	if err := plainOnly("sgd", c.Layout); err != nil {
		return nil, err
	}
	return &sgd{d.newOp(), c}, nil
}

func (c *sgd) Update(_ cudakern.Stream, w0, v0, grad, w1, v1 cudakern.Buffer, momentum, rate, decay float32) error {
	err := checkAll("sgd", operand{"w0", w0, c.Shape}, operand{"v0", v0, c.Shape}, operand{"grad", grad, c.Shape},
		operand{"w1", w1, c.Shape}, operand{"v1", v1, c.Shape})
	if err != nil {
		return err
	}
	m, r, k := float64(momentum), float64(rate), float64(decay)
	for i := range vals(w0) {
		w := vals(w0)[i]
		v := m*vals(v0)[i] - k*r*w - r*vals(grad)[i]
		// What a job keeps between steps is float32, so that a checkpoint loses nothing of it.
		vals(v1)[i], vals(w1)[i] = float64(float32(v)), float64(float32(w+v))
	}
	return nil
}

type add struct {
	op
	cudakern.AddDesc
}

func (d *device) NewAdd(c cudakern.AddDesc) (cudakern.Add, error) {
	if err := plainOnly("add", c.Layout); err != nil {
		return nil, err
	}
	return &add{d.newOp(), c}, nil
}

func (c *add) Run(_ cudakern.Stream, dst, src cudakern.Buffer) error {
	if err := checkAll("add", operand{"dst", dst, c.Shape}, operand{"src", src, c.Shape}); err != nil {
		return err
	}
	for i, v := range vals(src) {
		vals(dst)[i] += v
	}
	return nil
}

type reorder struct {
	op
	cudakern.ReorderDesc
}

func (d *device) NewReorder(c cudakern.ReorderDesc) (cudakern.Reorder, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if err := plainOnly("reorder", c.From, c.To); err != nil {
		return nil, err
	}
	return &reorder{d.newOp(), c}, nil
}

func (c *reorder) Run(_ cudakern.Stream, dst, src cudakern.Buffer) error {
	if err := checkAll("reorder", operand{"dst", dst, c.ToShape}, operand{"src", src, c.FromShape}); err != nil {
		return err
	}
	copy(vals(dst), vals(src))
	return nil
}

type concat struct {
	op
	cudakern.ConcatDesc
}

func (d *device) NewConcat(c cudakern.ConcatDesc) (cudakern.Concat, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &concat{d.newOp(), c}, nil
}

func (c *concat) Join(_ cudakern.Stream, dst cudakern.Buffer, parts []cudakern.Buffer) error {
	if len(parts) != len(c.Parts) {
		return fmt.Errorf("concat: %d parts, want %d: %w", len(parts), len(c.Parts), cudakern.ErrShape)
	}
	if err := checkAll("concat join", operand{"dst", dst, cudakern.Shape{c.N, c.Total()}}); err != nil {
		return err
	}
	at := 0
	for p, w := range c.Parts {
		if err := checkAll("concat join", operand{"part", parts[p], cudakern.Shape{c.N, w}}); err != nil {
			return err
		}
		for n := range c.N {
			copy(vals(dst)[n*c.Total()+at:][:w], vals(parts[p])[n*w:][:w])
		}
		at += w
	}
	return nil
}

func (c *concat) Cut(_ cudakern.Stream, part cudakern.Buffer, index int, src cudakern.Buffer) error {
	if index < 0 || index >= len(c.Parts) {
		return fmt.Errorf("concat cut: part %d of %d: %w", index, len(c.Parts), cudakern.ErrShape)
	}
	w := c.Parts[index]
	if err := checkAll("concat cut", operand{"src", src, cudakern.Shape{c.N, c.Total()}},
		operand{"part", part, cudakern.Shape{c.N, w}}); err != nil {
		return err
	}
	at := 0
	for _, p := range c.Parts[:index] {
		at += p
	}
	for n := range c.N {
		copy(vals(part)[n*w:][:w], vals(src)[n*c.Total()+at:][:w])
	}
	return nil
}

type softmax struct {
	op
	cudakern.SoftmaxDesc
}

func (d *device) NewSoftmax(c cudakern.SoftmaxDesc) (cudakern.Softmax, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &softmax{d.newOp(), c}, nil
}

// row returns one image's logits, the greatest of them, and the sum of exponentials after taking it off.
func (c *softmax) row(logits cudakern.Buffer, n int) (z []float64, top, sum float64) {
	z = vals(logits)[n*c.Classes:][:c.Classes]
	top = math.Inf(-1)
	for _, v := range z {
		top = math.Max(top, v)
	}
	for _, v := range z {
		sum += math.Exp(v - top)
	}
	return z, top, sum
}

func (c *softmax) check(logits, labels cudakern.Buffer, valid int) error {
	if err := checkAll("softmax", operand{"logits", logits, cudakern.Shape{c.N, c.Classes}}); err != nil {
		return err
	}
	if err := cudakern.CheckBytes("softmax", "labels", labels, 4*c.N); err != nil {
		return err
	}
	if valid < 1 || valid > c.N {
		return fmt.Errorf("softmax: %d valid images of %d: %w", valid, c.N, cudakern.ErrShape)
	}
	for n := range valid {
		if t := int32At(labels, n); t < 0 || int(t) >= c.Classes {
			return fmt.Errorf("softmax: label %d of image %d, with %d classes: %w", t, n, c.Classes, cudakern.ErrShape)
		}
	}
	return nil
}

func (c *softmax) Forward(_ cudakern.Stream, logits, labels cudakern.Buffer, valid int,
	loss, rank, ties cudakern.Buffer) error {
	err := c.check(logits, labels, valid)
	if err == nil {
		err = checkAll("softmax", operand{"loss", loss, cudakern.Shape{c.N}})
	}
	if err == nil {
		err = cudakern.CheckBytes("softmax", "rank", rank, 4*c.N)
	}
	if err == nil {
		err = cudakern.CheckBytes("softmax", "ties", ties, 4*c.N)
	}
	if err != nil {
		return err
	}
	for n := range c.N {
		if n >= valid {
			vals(loss)[n] = 0
			putInt32(rank, n, -1)
			putInt32(ties, n, 0)
			continue
		}
		z, top, sum := c.row(logits, n)
		t := z[int32At(labels, n)]
		vals(loss)[n] = math.Log(sum) - (t - top)
		above, equal := int32(0), int32(-1) // the label's own logit equals itself
		for _, v := range z {
			if v > t {
				above++
			}
			if v == t {
				equal++
			}
		}
		putInt32(rank, n, above)
		putInt32(ties, n, equal)
	}
	return nil
}

func (c *softmax) Backward(_ cudakern.Stream, logits, labels cudakern.Buffer, valid int,
	dlogits cudakern.Buffer) error {
	err := c.check(logits, labels, valid)
	if err == nil {
		err = checkAll("softmax", operand{"dlogits", dlogits, cudakern.Shape{c.N, c.Classes}})
	}
	if err != nil {
		return err
	}
	for n := range c.N {
		out := vals(dlogits)[n*c.Classes:][:c.Classes]
		if n >= valid {
			clear(out)
			continue
		}
		z, top, sum := c.row(logits, n)
		for i, v := range z {
			p := math.Exp(v-top) / sum
			if i == int(int32At(labels, n)) {
				p--
			}
			out[i] = p / float64(c.Divisor(valid))
		}
	}
	return nil
}

type input struct {
	op
	cudakern.InputDesc
}

func (d *device) NewInput(c cudakern.InputDesc) (cudakern.Input, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	return &input{d.newOp(), c}, nil
}

func (c *input) Layouts() cudakern.Layout { return cudakern.Plain }

func (c *input) Forward(_ cudakern.Stream, images cudakern.Buffer, views []cudakern.View, mean cudakern.Buffer,
	scale float32, y cudakern.Buffer) error {
	err := cudakern.CheckBytes("input", "images", images, c.N*c.C*c.H*c.W)
	if err == nil {
		err = checkAll("input", operand{"mean", mean, cudakern.Shape{1, c.C, c.H, c.W}}, operand{"y", y, c.YShape()})
	}
	if err == nil && len(views) != c.N {
		err = fmt.Errorf("input: %d views of %d images: %w", len(views), c.N, cudakern.ErrShape)
	}
	if err != nil {
		return err
	}
	for i := range vals(y) {
		ox, oy, ch, n := i%c.OutW, i/c.OutW%c.OutH, i/(c.OutW*c.OutH)%c.C, i/(c.OutW*c.OutH*c.C)
		v := views[n]
		if v.Flip {
			ox = c.OutW - 1 - ox
		}
		py, px := oy+int(v.Y), ox+int(v.X)
		vals(y)[i] = 0
		if py >= 0 && py < c.H && px >= 0 && px < c.W {
			at := (ch*c.H+py)*c.W + px
			pixel := float64(images.(*buffer).raw[n*c.C*c.H*c.W+at])
			if my, mx := c.MeanAt(); c.CentreMean {
				at = (ch*c.H+oy+my)*c.W + i%c.OutW + mx
			}
			vals(y)[i] = (pixel - vals(mean)[at] + float64(v.Shift[ch%3])) * float64(scale)
		}
	}
	return nil
}
