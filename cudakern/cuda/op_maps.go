//go:build cuda && cgo

package cuda

import (
	"fmt"

	"colonnade/cudakern"
)

// lrn is response normalisation: the paper's in one pass each way, any other in one forward and two back.
type lrn struct {
	op
	cudakern.LRNDesc
	k, alpha, beta float32
	five           bool
	chunk          int     // of maps that a thread of the paper's kernels walks along
	ratios         *buffer // what the two passes back hand over; nil for the paper's
}

// fiveThreads is the size of a block of the paper's kernels: the maps of AlexNet's normalisations, 55x55 and 27x27,
// fill its multiples to 95 % and more.
const fiveThreads = 128

func newLRN(d *Device, c cudakern.LRNDesc) (cudakern.LRN, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if err := fits("lrn", c.Shape()); err != nil {
		return nil, err
	}
	out := &lrn{op: d.newOp("lrn"), LRNDesc: c, k: float32(c.K), alpha: float32(c.Alpha), beta: float32(c.Beta)}
	out.five = !c.Space && c.Size == 5 && out.beta == 0.75
	out.chunk = chunkOf(c.N*c.H*c.W, c.C)
	if !out.five {
		var err error
		if out.ratios, err = out.workspace(4 * c.Shape().Len()); err != nil {
			out.Close()
			return nil, err
		}
	}
	return out, nil
}

// chunkOf cuts a pixel's maps among threads until there are enough to fill a large GPU, but into no less than 16: at
// each end of a chunk four maps are read twice.
func chunkOf(pixels, maps int) int {
	const enough, least = 1 << 18, 16
	return ceil(maps, min(ceil(enough, pixels), ceil(maps, least)))
}

func (c *lrn) Layouts() cudakern.Layout { return cudakern.Plain }

// fiveGrid is the grid of the paper's kernels.
func (c *lrn) fiveGrid() (grid dim, blocks int, overBlocks uint64) {
	grid, blocks, overBlocks = spread(c.N, c.H*c.W, fiveThreads)
	grid.Y = ceil(c.C, c.chunk)
	return grid, blocks, overBlocks
}

func (c *lrn) space() int {
	if c.Space {
		return 1
	}
	return 0
}

func (c *lrn) Forward(st cudakern.Stream, x, y cudakern.Buffer) error {
	a := c.arguments(st)
	in, out := a.floats("x", x, c.Shape()), a.floats("y", y, c.Shape())
	if a.err != nil {
		return a.err
	}
	if c.five {
		grid, blocks, overBlocks := c.fiveGrid()
		return c.d.launch(a.st, "lrn_forward_5", grid, dim{X: fiveThreads}, 0, blocks, overBlocks, c.C, c.H*c.W, c.chunk, c.k,
			c.alpha, in, out)
	}
	grid, blocks, overBlocks := spread(c.N, c.C*c.H*c.W, threads)
	return c.d.launch(a.st, "lrn_forward_any", grid, dim{X: threads}, 0, blocks, overBlocks, c.C, c.H, c.W, c.Size,
		c.space(), c.k, c.alpha, c.beta, in, out)
}

// Backward has no use for y: what it would save is the root, and reading it takes longer.
func (c *lrn) Backward(st cudakern.Stream, x, y, dy, dx cudakern.Buffer) error {
	a := c.arguments(st)
	in, _, gradient, out := a.floats("x", x, c.Shape()), a.floats("y", y, c.Shape()), a.floats("dy", dy, c.Shape()),
		a.floats("dx", dx, c.Shape())
	if a.err != nil {
		return a.err
	}
	if c.five {
		grid, blocks, overBlocks := c.fiveGrid()
		return c.d.launch(a.st, "lrn_backward_5", grid, dim{X: fiveThreads}, 0, blocks, overBlocks, c.C, c.H*c.W, c.chunk,
			c.k, c.alpha, in, gradient, out)
	}
	grid, blocks, overBlocks := spread(c.N, c.C*c.H*c.W, threads)
	err := c.d.launch(a.st, "lrn_ratios_any", grid, dim{X: threads}, 0, blocks, overBlocks, c.C, c.H, c.W, c.Size,
		c.space(), c.k, c.alpha, c.beta, in, gradient, c.ratios, out)
	if err != nil {
		return err
	}
	return c.d.launch(a.st, "lrn_backward_any", grid, dim{X: threads}, 0, blocks, overBlocks, c.C, c.H, c.W, c.Size,
		c.space(), c.alpha, c.beta, in, c.ratios, out)
}

// pool is max-pooling.
type pool struct {
	op
	cudakern.PoolDesc
}

func newPool(d *Device, c cudakern.PoolDesc) (cudakern.Pool, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if err := fits("pool", c.XShape(), c.YShape()); err != nil {
		return nil, err
	}
	return &pool{d.newOp("pool"), c}, nil
}

func (c *pool) Layouts() (x, y cudakern.Layout) { return cudakern.Plain, cudakern.Plain }

func (c *pool) Forward(st cudakern.Stream, x, y cudakern.Buffer) error {
	a := c.arguments(st)
	in, out := a.floats("x", x, c.XShape()), a.floats("y", y, c.YShape())
	if a.err != nil {
		return a.err
	}
	grid, blocks, overBlocks := spread(c.N, c.C*c.OutH*c.OutW, threads)
	return c.d.launch(a.st, "pool_forward", grid, dim{X: threads}, 0, blocks, overBlocks, c.C, c.H, c.W, c.OutH, c.OutW,
		over(c.OutH), over(c.OutW), c.Kernel, c.Stride, c.Pad.Top, c.Pad.Left, in, out)
}

func (c *pool) Backward(st cudakern.Stream, x, y, dy, dx cudakern.Buffer) error {
	a := c.arguments(st)
	in, best, gradient, out := a.floats("x", x, c.XShape()), a.floats("y", y, c.YShape()),
		a.floats("dy", dy, c.YShape()), a.floats("dx", dx, c.XShape())
	if a.err != nil {
		return a.err
	}
	all := 0
	if c.TiesAll {
		all = 1
	}
	grid, blocks, overBlocks := spread(c.N, c.C*c.H*c.W, threads)
	return c.d.launch(a.st, "pool_backward", grid, dim{X: threads}, 0, blocks, overBlocks, c.C, c.H, c.W, over(c.H),
		over(c.W), c.OutH, c.OutW, c.Kernel, c.Stride, over(c.Stride), c.Pad.Top, c.Pad.Left, all, in, best, gradient, out)
}

// softmax is softmax with its loss.
type softmax struct {
	op
	cudakern.SoftmaxDesc
	block dim
}

func newSoftmax(d *Device, c cudakern.SoftmaxDesc) (cudakern.Softmax, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	out := &softmax{op: d.newOp("softmax"), SoftmaxDesc: c, block: dim{X: 32}}
	for out.block.X < c.Classes && out.block.X < threads {
		out.block.X *= 2 // the kernels want a power of two
	}
	return out, nil
}

func (c *softmax) images(valid int) error {
	if valid < 1 || valid > c.N {
		return fmt.Errorf("softmax: %d valid images of %d: %w", valid, c.N, cudakern.ErrShape)
	}
	return nil
}

// Forward cannot refuse a label that is no class: labels are on the device. The loss of such an image is no number.
func (c *softmax) Forward(st cudakern.Stream, logits, labels cudakern.Buffer, valid int,
	loss, rank, ties cudakern.Buffer) error {
	a := c.arguments(st)
	z, want := a.floats("logits", logits, cudakern.Shape{c.N, c.Classes}), a.bytes("labels", labels, 4*c.N)
	out := a.floats("loss", loss, cudakern.Shape{c.N})
	above, equal := a.bytes("rank", rank, 4*c.N), a.bytes("ties", ties, 4*c.N)
	if err := first(a.err, c.images(valid)); err != nil {
		return err
	}
	return c.d.launch(a.st, "softmax_forward", dim{X: c.N}, c.block, 0, c.Classes, valid, z, want, out, above, equal)
}

func (c *softmax) Backward(st cudakern.Stream, logits, labels cudakern.Buffer, valid int,
	dlogits cudakern.Buffer) error {
	a := c.arguments(st)
	shape := cudakern.Shape{c.N, c.Classes}
	z, want, out := a.floats("logits", logits, shape), a.bytes("labels", labels, 4*c.N),
		a.floats("dlogits", dlogits, shape)
	if err := first(a.err, c.images(valid)); err != nil {
		return err
	}
	return c.d.launch(a.st, "softmax_backward", dim{X: c.N}, c.block, 0, c.Classes, valid, c.Divisor(valid), z, want, out)
}
