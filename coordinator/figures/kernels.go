package figures

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"math"

	"colonnade/shard"
)

// Kernels draws what the first layer has learnt to see, as figure 3 of the paper: 16 kernels a row, column under
// column, all by one scale from the smallest weight to the largest. values are the weights and biases by column and
// parameter, in the plan's order.
func Kernels(plan *shard.Plan, values [][][]float32) (*Drawing, error) {
	const perRow, gap, margin = 16, 1, 14
	blocks, lo, hi, err := firstKernels(plan, values)
	if err != nil {
		return nil, err
	}
	side := blocks[0].shape[2]
	scale := max(1, 44/side)
	pitch := side*scale + 2*gap
	d := &Drawing{W: 2*margin + perRow*pitch, H: margin}
	for _, b := range blocks {
		n := b.shape[0]
		rows := (n + perRow - 1) / perRow
		d.add(text{at: Point{margin, float64(d.H) + 8}, size: 9, anchor: "start", ink: black,
			words: fmt.Sprintf("column %d: %d kernels of %dx%d", b.column, n, side, side)})
		d.H += 16
		d.add(rect{x: margin, y: float64(d.H), w: float64(perRow * pitch), h: float64(rows * pitch), fill: black})
		for k := range n {
			d.add(picture{x: margin + k%perRow*pitch + gap, y: d.H + k/perRow*pitch + gap, scale: scale,
				img: b.draw(k, lo, hi)})
		}
		d.H += rows*pitch + margin
	}
	return d, nil
}

// Mosaic is a column's first kernels side by side, a pixel a weight, a clear pixel between them.
type Mosaic struct {
	Column, Kernels, Side, PerRow int
	Image                         *image.RGBA
}

// Mosaics are the first kernels of every column, all by one scale from the smallest weight, low, to the largest. Of
// values only the weights that see the image need be there.
func Mosaics(plan *shard.Plan, values [][][]float32, perRow int) (all []Mosaic, low, high float64, err error) {
	blocks, low, high, err := firstKernels(plan, values)
	if err != nil {
		return nil, 0, 0, err
	}
	for _, b := range blocks {
		n, side := b.shape[0], b.shape[2]
		pitch := side + 1
		m := Mosaic{Column: b.column, Kernels: n, Side: side, PerRow: min(perRow, n)}
		rows := (n + m.PerRow - 1) / m.PerRow
		m.Image = image.NewRGBA(image.Rect(0, 0, m.PerRow*pitch-1, rows*pitch-1))
		for k := range n {
			at := image.Pt(k%m.PerRow*pitch, k/m.PerRow*pitch)
			one := b.draw(k, low, high)
			draw.Draw(m.Image, one.Bounds().Add(at), one, image.Point{}, draw.Src)
		}
		all = append(all, m)
	}
	return all, low, high, nil
}

// Sees says whether a parameter is the weights of the first layer's kernels, which see the image.
func Sees(p shard.Param) bool { return p.Kind == shard.Weight && p.From == shard.InputColumn }

// firstKernels are the kernels that see the image, by column, and their least and largest weight.
func firstKernels(plan *shard.Plan, values [][][]float32) (blocks []kernelBlock, lo, hi float64, err error) {
	lo, hi = math.Inf(1), math.Inf(-1)
	for c, params := range plan.Params {
		for i, p := range params {
			if !Sees(p) {
				continue
			}
			if len(values) <= c || len(values[c]) <= i || len(values[c][i]) != p.Len() {
				return nil, 0, 0, fmt.Errorf("column %d has no weights of %s", c, p.Layer)
			}
			if len(p.Shape) != 4 {
				return nil, 0, 0, fmt.Errorf("layer %s has no kernels: it is no convolution", p.Layer)
			}
			blocks = append(blocks, kernelBlock{column: c, shape: p.Shape, values: values[c][i]})
			for _, v := range values[c][i] {
				lo, hi = min(lo, float64(v)), max(hi, float64(v))
			}
		}
	}
	if len(blocks) == 0 {
		return nil, 0, 0, fmt.Errorf("network %s has no layer that sees the image", plan.Network.Name)
	}
	return blocks, lo, hi, nil
}

// kernelBlock is a column's kernels: maps x channels x side x side.
type kernelBlock struct {
	column int
	shape  []int
	values []float32
}

// draw draws kernel k; lo is black and hi is white.
func (b *kernelBlock) draw(k int, lo, hi float64) *image.RGBA {
	channels, side := b.shape[1], b.shape[2]
	m := image.NewRGBA(image.Rect(0, 0, side, side))
	at := func(ch, i int) uint8 {
		v := float64(b.values[(k*channels+ch)*side*side+i])
		return uint8(255*(v-lo)/max(hi-lo, 1e-30) + 0.5)
	}
	for i := range side * side {
		c := color.RGBA{A: 255}
		c.R = at(0, i)
		c.G, c.B = c.R, c.R
		if channels >= 3 {
			c.G, c.B = at(1, i), at(2, i)
		}
		m.SetRGBA(i%side, i/side, c)
	}
	return m
}
