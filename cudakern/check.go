package cudakern

import (
	"fmt"
	"slices"
)

// Check says whether a buffer is what an operand must be.
func Check(op, operand string, b Buffer, s Shape, l Layout) error {
	if b == nil {
		return fmt.Errorf("%s: %s is missing: %w", op, operand, ErrShape)
	}
	if !slices.Equal(b.Shape(), s) || b.Layout() != l {
		return fmt.Errorf("%s: %s is %v %s, want %v %s: %w", op, operand, b.Shape(), b.Layout(), s, l, ErrShape)
	}
	return nil
}

// CheckBytes says whether a buffer made by AllocBytes has n bytes.
func CheckBytes(op, operand string, b Buffer, n int) error {
	if b == nil || b.Bytes() != n {
		return fmt.Errorf("%s: %s is not %d bytes: %w", op, operand, n, ErrShape)
	}
	return nil
}

func positive(op string, dims ...int) error {
	for _, d := range dims {
		if d < 1 {
			return fmt.Errorf("%s: dimension %d in %v: %w", op, d, dims, ErrShape)
		}
	}
	return nil
}

// windows says whether every window of a sliding op meets the image.
func windows(op string, size, out, kernel, stride, before int) error {
	if (out-1)*stride-before >= size || kernel <= before {
		return fmt.Errorf("%s: window %d of %d, stride %d, padding %d lies outside of %d pixels: %w",
			op, out-1, kernel, stride, before, size, ErrShape)
	}
	return nil
}

// Check says whether the descriptor makes sense.
func (d ConvDesc) Check() error {
	if err := positive("conv", d.N, d.In, d.H, d.W, d.Out, d.OutH, d.OutW, d.Kernel, d.Stride); err != nil {
		return err
	}
	if err := windows("conv", d.H, d.OutH, d.Kernel, d.Stride, d.Pad.Top); err != nil {
		return err
	}
	return windows("conv", d.W, d.OutW, d.Kernel, d.Stride, d.Pad.Left)
}

// XShape, WShape and YShape are the operands' shapes.
func (d ConvDesc) XShape() Shape { return Shape{d.N, d.In, d.H, d.W} }
func (d ConvDesc) WShape() Shape { return Shape{d.Out, d.In, d.Kernel, d.Kernel} }
func (d ConvDesc) YShape() Shape { return Shape{d.N, d.Out, d.OutH, d.OutW} }

// Check says whether the descriptor makes sense.
func (d DenseDesc) Check() error { return positive("dense", d.N, d.In, d.Out) }

// XShape, WShape and YShape are the operands' shapes.
func (d DenseDesc) XShape() Shape { return Shape{d.N, d.In} }
func (d DenseDesc) WShape() Shape { return Shape{d.Out, d.In} }
func (d DenseDesc) YShape() Shape { return Shape{d.N, d.Out} }

// Check says whether the descriptor makes sense.
func (d LRNDesc) Check() error {
	if !(d.K > 0) || !(d.Alpha >= 0) {
		return fmt.Errorf("lrn: k %g and alpha %g: k must be positive and alpha not negative: %w", d.K, d.Alpha, ErrShape)
	}
	return positive("lrn", d.N, d.C, d.H, d.W, d.Size)
}

// Shape is that of all operands.
func (d LRNDesc) Shape() Shape { return Shape{d.N, d.C, d.H, d.W} }

// Check says whether the descriptor makes sense.
func (d PoolDesc) Check() error {
	if err := positive("pool", d.N, d.C, d.H, d.W, d.OutH, d.OutW, d.Kernel, d.Stride); err != nil {
		return err
	}
	if err := windows("pool", d.H, d.OutH, d.Kernel, d.Stride, d.Pad.Top); err != nil {
		return err
	}
	return windows("pool", d.W, d.OutW, d.Kernel, d.Stride, d.Pad.Left)
}

// XShape and YShape are the operands' shapes.
func (d PoolDesc) XShape() Shape { return Shape{d.N, d.C, d.H, d.W} }
func (d PoolDesc) YShape() Shape { return Shape{d.N, d.C, d.OutH, d.OutW} }

// Check says whether the descriptor makes sense.
func (d NormPoolDesc) Check() error {
	if !slices.Equal(d.LRN.Shape(), d.Pool.XShape()) {
		return fmt.Errorf("lrn and pool: %v is normalised, %v is pooled: %w", d.LRN.Shape(), d.Pool.XShape(), ErrShape)
	}
	if err := d.LRN.Check(); err != nil {
		return err
	}
	return d.Pool.Check()
}

// Check says whether the descriptor makes sense.
func (d DropoutDesc) Check() error {
	if len(d.Shape) < 2 || !(d.Keep > 0 && d.Keep <= 1) || d.FirstUnit%4 != 0 || d.FirstUnit < 0 || d.FirstImage < 0 {
		return fmt.Errorf("dropout: shape %v, keep %g, first unit %d (a multiple of 4), first image %d: %w",
			d.Shape, d.Keep, d.FirstUnit, d.FirstImage, ErrShape)
	}
	return positive("dropout", d.Shape...)
}

// Threshold is the bound below which a word of the mask keeps its unit.
func (d DropoutDesc) Threshold() uint64 { return uint64(d.Keep*(1<<32) + 0.5) }

// Features is the number of units an image has.
func (d DropoutDesc) Features() int { return d.Shape[1:].Len() }

// Check says whether the descriptor makes sense.
func (d SoftmaxDesc) Check() error {
	if d.Whole != 0 && d.Whole < d.N {
		return fmt.Errorf("softmax: %d images are no slice of a batch of %d: %w", d.N, d.Whole, ErrShape)
	}
	return positive("softmax", d.N, d.Classes)
}

// Divisor is what gradients are divided by when so many images are valid.
func (d SoftmaxDesc) Divisor(valid int) int {
	if d.Whole > 0 {
		return d.Whole
	}
	return valid
}

// Check says whether the descriptor makes sense.
func (d ReorderDesc) Check() error {
	if d.FromShape.Len() != d.ToShape.Len() || d.FromShape.Len() < 1 {
		return fmt.Errorf("reorder: %v and %v differ in size: %w", d.FromShape, d.ToShape, ErrShape)
	}
	if slices.Equal(d.FromShape, d.ToShape) {
		return nil
	}
	if len(d.FromShape) == 0 || len(d.ToShape) == 0 || d.FromShape[0] != d.ToShape[0] {
		return fmt.Errorf("reorder: %v is no flat form of %v: %w", d.ToShape, d.FromShape, ErrShape)
	}
	return nil
}

// Check says whether the descriptor makes sense.
func (d ConcatDesc) Check() error {
	if len(d.Parts) == 0 {
		return fmt.Errorf("concat: no parts: %w", ErrShape)
	}
	return positive("concat", append([]int{d.N}, d.Parts...)...)
}

// Total is the number of features of all parts.
func (d ConcatDesc) Total() int {
	n := 0
	for _, p := range d.Parts {
		n += p
	}
	return n
}

// Check says whether the descriptor makes sense.
func (d InputDesc) Check() error {
	if d.CentreMean && (d.OutH > d.H || d.OutW > d.W) {
		return fmt.Errorf("input: the mean of %dx%d has no centre of %dx%d: %w", d.H, d.W, d.OutH, d.OutW, ErrShape)
	}
	return positive("input", d.N, d.C, d.H, d.W, d.OutH, d.OutW)
}

// MeanAt is where in the mean image the output's mean begins; -1, -1: each pixel has its own.
func (d InputDesc) MeanAt() (y, x int) {
	if !d.CentreMean {
		return -1, -1
	}
	return (d.H - d.OutH) / 2, (d.W - d.OutW) / 2
}

// YShape is that of the network's input.
func (d InputDesc) YShape() Shape { return Shape{d.N, d.C, d.OutH, d.OutW} }
