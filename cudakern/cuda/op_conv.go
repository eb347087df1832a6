//go:build cuda && cgo

package cuda

import (
	"fmt"

	"colonnade/cudakern"
)

// conv is a convolution: implicit products of matrices, looked up in tables made here (kernels/conv.h). The op must be
// used on one stream at a time, since its passes share scratch.
type conv struct {
	op
	desc    cudakern.ConvDesc
	forward windows
	data    *windows // nil with NoData
	weights gradient
	scratch *buffer // packed weights, or parts of sums
}

// windows is a pass that looks at windows of a source: forward, or by data.
type windows struct {
	kernel            string
	tile              tile
	grid              dim
	images, maps      int // of what it yields
	pitch             int // of packed weights: maps rounded up
	h, w              int // of a map of the source
	source, out       int // elements of an image of the source, and of a map of what it yields
	tapCount, mapStep int // rows of packed weights; between the weights of neighbouring maps
	phases, tapTable  *buffer
	places            *buffer // of packed weights in the weights as they lie
}

// tap is an element of a filter: where it looks, relative to a window's first place, and where its weight lies.
type tap struct{ offset, row, column, place int }

// phase is a window's geometry (struct Window in kernels/conv.h) and its taps.
type phase struct {
	step, top, left, rows, columns int
	first, row, column             int
	taps                           []tap
}

// narrow is how many rows and columns filters of fast kernels have at most (NARROW in kernels/conv.h).
const narrow = 15

// nowhere marks taps that are in no image, which make up for whole steps of the kernels.
const nowhere = -1 << 31

// wideMost is how large images may be under wide filters: coordinates are half words.
const wideMost = 1<<15 - 1

func (t tap) mark(wide bool) int32 {
	if wide {
		return int32(t.row<<16 | t.column)
	}
	return 1<<t.row | 1<<(16+t.column)
}

// forwardPhase is the only one of a forward pass.
func forwardPhase(c cudakern.ConvDesc) phase {
	p := phase{step: c.Stride, top: -c.Pad.Top, left: -c.Pad.Left, rows: c.OutH, columns: c.OutW, row: c.OutW, column: 1}
	for i := range c.In {
		for y := range c.Kernel {
			for x := range c.Kernel {
				p.taps = append(p.taps, tap{(i*c.H+y)*c.W + x, y, x, (i*c.Kernel+y)*c.Kernel + x})
			}
		}
	}
	return p
}

// dataPhases are the S x S phases of the gradient by data: pixels whose rows and columns leave the same remainders meet
// the same rows and columns of the filters, at neighbouring places of dy.
func dataPhases(c cudakern.ConvDesc) (out []phase) {
	for y := range min(c.Stride, c.H) {
		for x := range min(c.Stride, c.W) {
			p := phase{step: 1, rows: ceil(c.H-y, c.Stride), columns: ceil(c.W-x, c.Stride), first: y*c.W + x,
				row: c.Stride * c.W, column: c.Stride}
			ys, top := meets(y+c.Pad.Top, c)
			xs, left := meets(x+c.Pad.Left, c)
			p.top, p.left = top, left
			for o := range c.Out {
				for _, ky := range ys {
					for _, kx := range xs {
						row, column := (y+c.Pad.Top-ky)/c.Stride-top, (x+c.Pad.Left-kx)/c.Stride-left
						p.taps = append(p.taps, tap{(o*c.OutH+row)*c.OutW + column, row, column,
							(o*c.In*c.Kernel+ky)*c.Kernel + kx})
					}
				}
			}
			out = append(out, p)
		}
	}
	return out
}

// meets are a filter's rows that meet the place `at`, padding included, and the first row of dy they lie in.
func meets(at int, c cudakern.ConvDesc) (rows []int, first int) {
	for k := (at%c.Stride + c.Stride) % c.Stride; k < c.Kernel; k += c.Stride {
		rows = append(rows, k)
		first = (at - k) / c.Stride // exact, and less with every k
	}
	return rows, first
}

// wideTaps says whether some tap is beyond what narrow kernels take.
func wideTaps(phases []phase) bool {
	for _, p := range phases {
		for _, t := range p.taps {
			if t.row >= narrow || t.column >= narrow {
				return true
			}
		}
	}
	return false
}

// newWindows makes a pass.
func (o *conv) newWindows(pass string, phases []phase, w windows) (*windows, error) {
	wide := wideTaps(phases)
	widest := 0
	for _, p := range phases {
		widest = max(widest, p.rows*p.columns)
	}
	if wide {
		w.tile = tile{64, 64}
		pass += "_wide"
	} else {
		w.tile = o.d.pick(w.maps, w.images*widest, len(phases), false, tile{128, 128}, tile{64, 128}, tile{64, 64})
	}
	w.kernel = o.d.kernelName(pass, w.tile)
	w.pitch = ceil(w.maps, w.tile.m) * w.tile.m
	w.grid = dim{ceil(w.images*widest, w.tile.n), w.pitch / w.tile.m, len(phases)}
	var geometry, table, places []int32
	for _, p := range phases {
		taps := p.taps
		count := max(ceil(len(taps), 8), 1) * 8
		pixels, pixelShift := divisor(p.rows * p.columns)
		columns, columnShift := divisor(p.columns)
		geometry = append(geometry, int32(count), int32(len(places)), int32(p.step), int32(p.top), int32(p.left),
			int32(p.columns), int32(p.rows*p.columns), int32(p.first), int32(p.row), int32(p.column), 0, 0, int32(pixels),
			int32(pixelShift), int32(columns), int32(columnShift))
		for i := 0; i < count; i += 4 { // four offsets, four marks
			var offsets, marks [4]int32
			for j := range 4 {
				place := int32(-1)
				marks[j] = nowhere
				if i+j < len(taps) {
					t := taps[i+j]
					offsets[j], marks[j], place = int32(t.offset), t.mark(wide), int32(t.place)
				}
				places = append(places, place)
			}
			table = append(append(table, offsets[:]...), marks[:]...)
		}
	}
	w.tapCount = len(places)
	var errs [3]error
	w.phases, errs[0] = o.table(geometry)
	w.tapTable, errs[1] = o.table(table)
	w.places, errs[2] = o.table(places)
	return &w, first(errs[:]...)
}

// bytes is how much scratch the pass wants, for packed weights.
func (w *windows) bytes() int { return 4 * w.tapCount * w.pitch }

// run enqueues the pass.
func (w *windows) run(o *conv, st *stream, flags int, weights, source, bias, out *buffer) error {
	err := o.d.launch(st, "conv_pack", dim{ceil(w.tapCount, 32), ceil(w.pitch, 32), 1}, dim{X: 256}, 0, w.tapCount, w.maps,
		w.pitch, uint32(w.mapStep), w.places, weights, o.scratch)
	if err != nil {
		return err
	}
	return o.d.launch(st, w.kernel, w.grid, w.tile.block(), 0, w.images, w.maps, w.pitch, w.h, w.w, uint32(w.source),
		uint32(w.out), flags, w.phases, w.tapTable, o.scratch, source, bias, out)
}

// gradient is the pass by weights: its sums are cut along the images, the bias's too.
type gradient struct {
	kernel           string
	tile             tile
	parts, each      int // of the images
	biasParts        int
	biasEach         int
	pixels, tapTable *buffer
}

func (o *conv) newGradient(taps []tap) (g gradient, err error) {
	c := o.desc
	plane, columns := c.OutH*c.OutW, len(taps)
	wide := c.Kernel > narrow
	pass := "conv_weights"
	if wide {
		g.tile = tile{64, 64}
		pass += "_wide"
	} else {
		g.tile = o.d.pick(c.Out, columns, 1, true, tile{128, 128}, tile{64, 128}, tile{64, 64})
	}
	g.kernel = o.d.kernelName(pass, g.tile)
	// Images whole: a part is a sum of at least leastPart pixels.
	g.parts, g.each = cut(c.Out, columns, c.N, ceil(leastPart, plane), 1)
	g.biasParts = min(max(2*wanted/c.Out, 1), c.N)
	g.biasEach = ceil(c.N, g.biasParts)
	g.biasParts = ceil(c.N, g.biasEach)

	// The table of pixels is that of one part's images.
	var pixels, table []int32
	for image := range g.each {
		for i := range c.OutH {
			for j := range c.OutW {
				top, left := i*c.Stride-c.Pad.Top, j*c.Stride-c.Pad.Left
				pixels = append(pixels, int32(image*c.In*c.H*c.W+top*c.W+left), windowMark(wide, top, left, c.H, c.W),
					int32(image*c.Out*plane+i*c.OutW+j), 0)
			}
		}
	}
	for len(pixels)%(4*8) != 0 { // whole steps are read
		pixels = append(pixels, 0)
	}
	for _, t := range taps {
		table = append(table, int32(t.offset), t.mark(wide))
	}
	var errs [2]error
	g.pixels, errs[0] = o.table(pixels)
	g.tapTable, errs[1] = o.table(table)
	return g, first(errs[:]...)
}

// windowMark is the mark of a window of an image of h x w, as windowMark in kernels/conv.h makes it.
func windowMark(wide bool, top, left, h, w int) int32 {
	if wide {
		return int32(uint32(0x7fff-top)<<16 | uint32(0x7fff-left))
	}
	inside := func(first, size int) uint32 {
		low, high := min(max(-first, 0), narrow), min(max(size-first, 0), narrow)
		return (1<<high - 1) &^ (1<<low - 1)
	}
	return int32(^(inside(top, h) | inside(left, w)<<16))
}

// bytes is how much scratch the pass wants.
func (g *gradient) bytes(c cudakern.ConvDesc) int {
	n := 0
	if g.parts > 1 {
		n = 4 * g.parts * c.WShape().Len()
	}
	if c.Bias && g.biasParts > 1 {
		n = max(n, 4*g.biasParts*c.Out)
	}
	return n
}

func newConv(d *Device, c cudakern.ConvDesc) (cudakern.Conv, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("conv %+v", c)
	if err := first(countable(name, c.XShape(), c.WShape(), c.YShape()), fits(name, c.XShape(), c.YShape())); err != nil {
		return nil, err
	}
	if c.Kernel > narrow && max(c.H, c.W, c.OutH*c.Stride, c.OutW*c.Stride)+2*c.Kernel > wideMost {
		return nil, fmt.Errorf("%s: filters wider than %d on images wider than %d: %w", name, narrow, wideMost-2*c.Kernel,
			cudakern.ErrUnsupported)
	}
	if c.Stride*c.Stride > most.Z && !c.NoData {
		return nil, fmt.Errorf("%s: stride %d, at most 255 is supported: %w", name, c.Stride, cudakern.ErrUnsupported)
	}
	o := &conv{op: d.newOp(name), desc: c}
	if err := o.prepare(); err != nil {
		o.close()
		return nil, err
	}
	return o, nil
}

// prepare makes the passes: their tables and scratch.
func (o *conv) prepare() error {
	c := o.desc
	taps := forwardPhase(c)
	forward, err := o.newWindows("conv_forward", []phase{taps}, windows{images: c.N, maps: c.Out, h: c.H, w: c.W,
		source: c.In * c.H * c.W, out: c.OutH * c.OutW, mapStep: c.In * c.Kernel * c.Kernel})
	if err != nil {
		return err
	}
	o.forward = *forward
	if o.weights, err = o.newGradient(taps.taps); err != nil {
		return err
	}
	scratch := max(o.forward.bytes(), o.weights.bytes(c))
	if !c.NoData {
		o.data, err = o.newWindows("conv_data", dataPhases(c), windows{images: c.N, maps: c.In, h: c.OutH, w: c.OutW,
			source: c.Out * c.OutH * c.OutW, out: c.H * c.W, mapStep: c.Kernel * c.Kernel})
		if err != nil {
			return err
		}
		scratch = max(scratch, o.data.bytes())
	}
	o.scratch, err = o.workspace(scratch)
	return err
}

func (o *conv) Layouts() (x, w, y cudakern.Layout) {
	return cudakern.Plain, cudakern.Plain, cudakern.Plain
}

// Algorithms names how each pass is computed.
func (o *conv) Algorithms() (forward, data, weights string) {
	a := o.d.algorithm()
	return a, a, a
}

func (o *conv) Forward(s cudakern.Stream, x, w, b, y cudakern.Buffer) error {
	a := o.arguments(s)
	from, by := a.floats("x", x, o.desc.XShape()), a.floats("w", w, o.desc.WShape())
	to := a.floats("y", y, o.desc.YShape())
	var bias *buffer
	if o.desc.Bias {
		bias = a.floats("b", b, cudakern.Shape{o.desc.Out})
	}
	if a.err != nil {
		return a.err
	}
	return o.forward.run(o, a.st, flagsOf(o.desc.Accumulate, o.desc.ReLU), by, from, bias, to)
}

func (o *conv) BackwardData(s cudakern.Stream, dy, w, dx cudakern.Buffer) error {
	a := o.arguments(s)
	from, by := a.floats("dy", dy, o.desc.YShape()), a.floats("w", w, o.desc.WShape())
	to := a.floats("dx", dx, o.desc.XShape())
	if a.err != nil {
		return a.err
	}
	if o.data == nil {
		return fmt.Errorf("%s: backward by data of an op that was made without: %w", o.name, cudakern.ErrUnsupported)
	}
	return o.data.run(o, a.st, 0, by, from, nil, to)
}

func (o *conv) BackwardWeights(s cudakern.Stream, x, dy, dw, db cudakern.Buffer) error {
	a := o.arguments(s)
	in, from := a.floats("x", x, o.desc.XShape()), a.floats("dy", dy, o.desc.YShape())
	to := a.floats("dw", dw, o.desc.WShape())
	var bias *buffer
	if o.desc.Bias {
		bias = a.floats("db", db, cudakern.Shape{o.desc.Out})
	}
	if a.err != nil {
		return a.err
	}
	return first(o.weightGradient(a.st, in, from, to), o.biasGradient(a.st, from, bias))
}

func (o *conv) weightGradient(st *stream, x, dy, dw *buffer) error {
	c, g := o.desc, &o.weights
	columns := c.In * c.Kernel * c.Kernel
	out := dw
	if g.parts > 1 {
		out = o.scratch
	}
	grid := dim{ceil(columns, g.tile.n), ceil(c.Out, g.tile.m), g.parts}
	err := o.d.launch(st, g.kernel, grid, g.tile.block(), 0, c.N, g.each, c.Out, columns, c.OutH*c.OutW,
		c.H, c.W, uint32(c.In*c.H*c.W), g.pixels, g.tapTable, x, dy, out)
	if err != nil || g.parts == 1 {
		return err
	}
	return o.sumParts(st, c.Out*columns, g.parts, 1, 0, out, nil, dw)
}

// biasGradient sums dy; db is nil without a bias.
func (o *conv) biasGradient(st *stream, dy, db *buffer) error {
	if db == nil {
		return nil
	}
	c, g := o.desc, &o.weights
	out := db
	if g.biasParts > 1 {
		out = o.scratch
	}
	multiplier, shift := divisor(c.OutH * c.OutW)
	err := o.d.launch(st, "conv_bias", dim{c.Out, g.biasParts, 1}, dim{X: 256}, 0, c.N, g.biasEach, c.Out, c.OutH*c.OutW,
		multiplier, shift, dy, out)
	if err != nil || g.biasParts == 1 {
		return err
	}
	return o.sumParts(st, c.Out, g.biasParts, 1, 0, out, nil, db)
}
