package figures

import (
	"fmt"
	"image/color"

	"colonnade/shard"
)

const (
	boxW, boxH   = 96, 40
	boxGap       = 36
	networkLeft  = 20
	networkTop   = 56
	columnPitch  = 130
	networkNotes = 60
)

// Network draws a plan as figure 2 of the paper: a row for each column, a box for each layer that has weights or makes
// maps smaller, and what crosses between columns before it. What lies between two boxes is written under the first.
func Network(plan *shard.Plan) *Drawing {
	d := &Drawing{H: networkTop + (plan.Columns-1)*columnPitch + boxH + networkNotes}
	in := plan.Layers[0].Columns[0].In
	x := float64(networkLeft)
	middle := networkTop + float64((plan.Columns-1)*columnPitch)/2
	d.box(x, middle, "image", shapeOf(in), black)
	last := make([]Point, plan.Columns) // right edge of each column's last box
	for c := range last {
		last[c] = Point{x + boxW, middle + boxH/2}
	}
	between := make([][]string, plan.Columns)
	for i := range plan.Layers {
		lp := &plan.Layers[i]
		switch lp.Layer.Kind {
		case shard.Conv, shard.Dense, shard.Pool:
		case shard.Softmax:
			continue
		default:
			for c := range between {
				between[c] = append(between[c], string(lp.Layer.Kind))
			}
			continue
		}
		d.between(x, between)
		x += boxW + boxGap
		next := append([]Point(nil), last...)
		for c := range plan.Columns {
			if lp.Columns[c].Own.Count == 0 {
				continue
			}
			y := networkTop + float64(c*columnPitch)
			d.arrows(plan, lp, c, last, Point{x, y + boxH/2})
			d.box(x, y, lp.Layer.Name, shapeOf(lp.Columns[c].Out), inks[c%len(inks)])
			next[c] = Point{x + boxW, y + boxH/2}
		}
		last = next
	}
	d.between(x, between)
	d.W = int(x) + boxW + networkLeft
	words := plan.Network.Name
	if plan.Columns > 1 {
		words += fmt.Sprintf(" in %d columns; thick lines cross between columns", plan.Columns)
	}
	d.add(text{at: Point{networkLeft, 24}, size: 11, anchor: "start", ink: black, words: words})
	return d
}

// arrows draws what a layer's column takes from each column.
func (d *Drawing) arrows(plan *shard.Plan, lp *shard.LayerPlan, c int, last []Point, to Point) {
	d.add(line{points: []Point{last[c], to}, width: 1, ink: grey})
	if lp.Exchange < 0 {
		return
	}
	for _, m := range plan.Exchanges[lp.Exchange].Moves {
		if m.To == c {
			d.add(line{points: []Point{last[m.From], to}, width: 2.4, ink: inks[m.From%len(inks)]})
		}
	}
}

func (d *Drawing) box(x, y float64, name, shape string, ink color.RGBA) {
	d.add(rect{x: x, y: y, w: boxW, h: boxH, fill: white, edge: ink})
	d.add(text{at: Point{x + boxW/2, y + 17}, size: 10, anchor: "middle", ink: black, words: name})
	d.add(text{at: Point{x + boxW/2, y + 32}, size: 8, anchor: "middle", ink: black, words: shape})
}

// between writes the layers without boxes under the last box of each column, and forgets them.
func (d *Drawing) between(x float64, names [][]string) {
	for c := range names {
		for i, n := range names[c] {
			d.add(text{at: Point{x + boxW/2, networkTop + float64(c*columnPitch) + boxH + 14 + float64(13*i)}, size: 7.5,
				anchor: "middle", ink: black, words: n})
		}
		names[c] = nil
	}
}

func shapeOf(s shard.Shape) string {
	if s.H == 1 && s.W == 1 {
		return fmt.Sprint(s.C)
	}
	return fmt.Sprintf("%dx%dx%d", s.C, s.H, s.W)
}
