//go:build cuda && cgo

package cuda

import (
	"encoding/binary"
	"fmt"
	"math"

	"gorgonia.org/cu"

	"colonnade/cudakern"
)

// input views images. The views of a call go to the device through one of some slots, taken in turn: a slot is written
// again when the kernel that read it is done.
type input struct {
	op
	cudakern.InputDesc
	slots [4]viewSlot
	next  int
}

// viewSlot is room for the views of a batch: on the host, pinned, and on the device.
type viewSlot struct {
	host   *hostBuffer
	device *buffer
	used   event // none if its stream is nil
}

// viewBytes is what the kernel has of a view: y, x, flip and three shifts in 32 bits each.
const viewBytes = 24

func newInput(d *Device, c cudakern.InputDesc) (_ cudakern.Input, err error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if err := fits("input", c.YShape(), cudakern.Shape{c.N, c.C, c.H, c.W}); err != nil {
		return nil, err
	}
	out := &input{op: d.newOp("input"), InputDesc: c}
	defer func() {
		if err != nil {
			out.Close()
		}
	}()
	for i := range out.slots {
		s := &out.slots[i]
		if s.host, err = d.allocHost(viewBytes * c.N); err != nil {
			return nil, fmt.Errorf("input: %w", err)
		}
		if s.device, err = out.workspace(viewBytes * c.N); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Close waits for the copies that are under way.
func (c *input) Close() {
	for _, s := range c.slots {
		if s.host != nil {
			s.host.release()
		}
	}
	c.op.Close()
}

func (c *input) Layouts() cudakern.Layout { return cudakern.Plain }

func (c *input) Forward(st cudakern.Stream, images cudakern.Buffer, views []cudakern.View, mean cudakern.Buffer,
	scale float32, y cudakern.Buffer) error {
	a := c.arguments(st)
	pixels, average := a.bytes("images", images, c.N*c.C*c.H*c.W), a.floats("mean", mean, cudakern.Shape{1, c.C, c.H, c.W})
	out := a.floats("y", y, c.YShape())
	if a.err == nil && len(views) != c.N {
		a.err = fmt.Errorf("input: %d views of %d images: %w", len(views), c.N, cudakern.ErrShape)
	}
	if a.err != nil {
		return a.err
	}
	slot := &c.slots[c.next%len(c.slots)]
	c.next++
	if err := slot.fill(a.st, views); err != nil {
		return fmt.Errorf("input: views: %w", err)
	}
	grid, blocks, overBlocks := spread(c.N, c.C*c.OutH*c.OutW, threads)
	my, mx := c.MeanAt()
	err := c.d.launch(a.st, "input_forward", grid, dim{X: threads}, 0, blocks, overBlocks, c.C, c.H, c.W, c.OutH, c.OutW,
		over(c.OutH), over(c.OutW), pixels, slot.device, average, my, mx, scale, out)
	if err != nil {
		return err
	}
	slot.used, err = a.st.record()
	return err
}

// fill waits until nothing reads the slot any more, and starts the copy of new views.
func (s *viewSlot) fill(st *stream, views []cudakern.View) error {
	if s.used.st != nil && !s.used.st.closed.Load() {
		if err := s.used.wait(); err != nil {
			return err
		}
	}
	b := s.host.Bytes()
	for i, v := range views {
		flip := uint32(0)
		if v.Flip {
			flip = 1
		}
		words := [viewBytes / 4]uint32{uint32(v.Y), uint32(v.X), flip, math.Float32bits(v.Shift[0]),
			math.Float32bits(v.Shift[1]), math.Float32bits(v.Shift[2])}
		for j, w := range words {
			binary.NativeEndian.PutUint32(b[viewBytes*i+4*j:], w)
		}
	}
	return st.copyIn(s.device, 0, s.host.p, viewBytes*len(views))
}

// concat joins feature parts and cuts them out.
type concat struct {
	op
	cudakern.ConcatDesc
	at []int // where each part begins
}

func newConcat(d *Device, c cudakern.ConcatDesc) (cudakern.Concat, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if err := fits("concat", cudakern.Shape{c.N, c.Total()}); err != nil {
		return nil, err
	}
	out := &concat{op: d.newOp("concat"), ConcatDesc: c}
	at := 0
	for _, w := range c.Parts {
		out.at = append(out.at, at)
		at += w
	}
	return out, nil
}

func (c *concat) whole() cudakern.Shape     { return cudakern.Shape{c.N, c.Total()} }
func (c *concat) part(i int) cudakern.Shape { return cudakern.Shape{c.N, c.Parts[i]} }

// Join checks all parts before it copies one.
func (c *concat) Join(st cudakern.Stream, dst cudakern.Buffer, parts []cudakern.Buffer) error {
	if len(parts) != len(c.Parts) {
		return fmt.Errorf("concat: %d parts, want %d: %w", len(parts), len(c.Parts), cudakern.ErrShape)
	}
	a := c.arguments(st)
	to := a.floats("whole", dst, c.whole())
	for i, p := range parts {
		a.floats("part", p, c.part(i))
	}
	if a.err != nil {
		return a.err
	}
	for i, p := range parts {
		if err := c.copy(a.st, c.Parts[i], c.Parts[i], 0, c.Total(), c.at[i], p.(*buffer), to); err != nil {
			return err
		}
	}
	return nil
}

func (c *concat) Cut(st cudakern.Stream, part cudakern.Buffer, index int, src cudakern.Buffer) error {
	if index < 0 || index >= len(c.Parts) {
		return fmt.Errorf("concat: part %d of %d: %w", index, len(c.Parts), cudakern.ErrShape)
	}
	a := c.arguments(st)
	to, from := a.floats("part", part, c.part(index)), a.floats("whole", src, c.whole())
	if a.err != nil {
		return a.err
	}
	return c.copy(a.st, c.Parts[index], c.Total(), c.at[index], c.Parts[index], 0, from, to)
}

// copy copies `width` features of every image, between rows of other widths.
func (c *concat) copy(st *stream, width, fromWidth, fromAt, toWidth, toAt int, from, to *buffer) error {
	grid, blocks, overBlocks := spread(c.N, width, threads)
	return c.d.launch(st, "concat_copy", grid, dim{X: threads}, 0, blocks, overBlocks, width, fromWidth, fromAt, toWidth,
		toAt, from, to)
}

// reorder is a copy: all layouts are Plain, and flat features are the same elements in the same order.
type reorder struct {
	op
	cudakern.ReorderDesc
}

func newReorder(d *Device, c cudakern.ReorderDesc) (cudakern.Reorder, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if c.From != cudakern.Plain || c.To != cudakern.Plain {
		return nil, fmt.Errorf("reorder: %s to %s: %w", c.From, c.To, cudakern.ErrShape)
	}
	return &reorder{d.newOp("reorder"), c}, nil
}

func (c *reorder) Run(st cudakern.Stream, dst, src cudakern.Buffer) error {
	a := c.arguments(st)
	to, from := a.floats("dst", dst, c.ToShape), a.floats("src", src, c.FromShape)
	if a.err != nil {
		return a.err
	}
	return a.st.enqueue(func() error {
		return failed(cu.MemcpyDtoDAsync(to.addr, from.addr, int64(from.bytes), a.st.s), "cuMemcpyDtoDAsync",
			sizeOf(int64(from.bytes)))
	})
}
