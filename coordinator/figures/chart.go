package figures

import (
	"fmt"
	"math"
)

// Series is a line of a chart.
type Series struct {
	Name   string
	Points []Point // by ascending X; what is no number is left out
	Dashed bool
}

// Chart says how series are drawn together.
type Chart struct {
	Title, X, Y string  // what is along the axes
	Level       float64 // a horizontal line to compare with, if not 0
	Zero        bool    // the vertical axis begins at 0
}

const (
	chartW, chartH               = 640, 400
	chartLeft, chartRight        = 66, 20
	chartTop, chartBottom        = 40, 46
	tickSize, labelSize, titleAt = 9, 10, 22
	legendLine                   = 24 // in front of a series' name
)

// Curves draws series over one pair of axes.
func Curves(c Chart, all ...Series) (*Drawing, error) {
	lo, hi := Point{math.Inf(1), math.Inf(1)}, Point{math.Inf(-1), math.Inf(-1)}
	for i := range all {
		all[i].Points = finite(all[i].Points)
		for _, p := range all[i].Points {
			lo = Point{min(lo.X, p.X), min(lo.Y, p.Y)}
			hi = Point{max(hi.X, p.X), max(hi.Y, p.Y)}
		}
	}
	if lo.X > hi.X {
		return nil, fmt.Errorf("%s: there is nothing to draw yet", c.Title)
	}
	if c.Level != 0 {
		lo.Y, hi.Y = min(lo.Y, c.Level), max(hi.Y, c.Level)
	}
	if c.Zero {
		lo.Y = min(lo.Y, 0)
	}
	xs, ys := ticks(lo.X, hi.X), ticks(lo.Y, hi.Y)
	d := &Drawing{W: chartW, H: chartH}
	place := func(p Point) Point {
		x0, x1, y0, y1 := xs[0], xs[len(xs)-1], ys[0], ys[len(ys)-1]
		return Point{chartLeft + (p.X-x0)/(x1-x0)*(chartW-chartLeft-chartRight),
			chartH - chartBottom - (p.Y-y0)/(y1-y0)*(chartH-chartTop-chartBottom)}
	}
	for _, y := range ys {
		at := place(Point{xs[0], y})
		d.add(line{points: []Point{at, {chartW - chartRight, at.Y}}, width: 1, ink: pale})
		d.add(text{at: Point{at.X - 8, at.Y + tickSize/2}, size: tickSize, anchor: "end", ink: black, words: number(y)})
	}
	for _, x := range xs {
		at := place(Point{x, ys[0]})
		d.add(line{points: []Point{at, {at.X, at.Y + 4}}, width: 1, ink: grey})
		d.add(text{at: Point{at.X, at.Y + 18}, size: tickSize, anchor: "middle", ink: black, words: number(x)})
	}
	d.add(line{points: []Point{place(Point{xs[0], ys[0]}), place(Point{xs[len(xs)-1], ys[0]})}, width: 1, ink: grey})
	if c.Level != 0 {
		d.add(line{points: []Point{place(Point{xs[0], c.Level}), place(Point{xs[len(xs)-1], c.Level})}, width: 1, ink: black,
			dashed: true})
	}
	room := float64(chartW - chartRight)
	for i := len(all) - 1; i >= 0; i-- {
		room = d.series(all[i], i, place, room)
	}
	d.add(short(text{at: Point{chartLeft, titleAt}, size: labelSize, anchor: "start", ink: black,
		words: c.Title + ", " + c.Y}, room-chartLeft))
	d.add(text{at: Point{chartW - chartRight, chartH - 10}, size: labelSize, anchor: "end", ink: black, words: c.X})
	return d, nil
}

// series draws one line, and its name beside the title, where no line can be under it, left of `right`; it returns how
// far the next one may reach.
func (d *Drawing) series(s Series, i int, place func(Point) Point, right float64) float64 {
	ink := inks[i%len(inks)]
	var points []Point
	for _, p := range s.Points {
		points = append(points, place(p))
	}
	if len(points) == 0 {
		return right
	}
	d.add(line{points: points, width: 2, ink: ink, dashed: s.Dashed})
	if len(points) <= 40 {
		for _, p := range points {
			d.add(rect{x: p.X - 2.5, y: p.Y - 2.5, w: 5, h: 5, fill: ink})
		}
	}
	t := text{at: Point{right, titleAt}, size: tickSize, anchor: "end", ink: black, words: s.Name}
	d.add(t)
	from := right - t.length() - legendLine - 8
	d.add(line{points: []Point{{from, titleAt - 4}, {from + legendLine, titleAt - 4}}, width: 2, ink: ink,
		dashed: s.Dashed})
	return from - 16
}

func finite(in []Point) (out []Point) {
	for _, p := range in {
		if !math.IsNaN(p.Y-p.Y) && !math.IsNaN(p.X-p.X) { // infinite less infinite is no number either
			out = append(out, p)
		}
	}
	return out
}

// ticks are round numbers from at most lo to at least hi, at least two.
func ticks(lo, hi float64) (out []float64) {
	if hi <= lo { // a single point, in the middle; it may be near 0 without there being anything beyond
		by := math.Abs(lo) / 2
		if by == 0 {
			by = 0.5
		}
		lo, hi = lo-by, hi+by
	}
	step := math.Pow(10, math.Floor(math.Log10((hi-lo)/5)))
	for _, f := range []float64{1, 2, 5, 10} {
		if (hi-lo)/(step*f) <= 8 {
			step *= f
			break
		}
	}
	first, last := math.Floor(lo/step+1e-9), math.Ceil(hi/step-1e-9)
	for i := first; i <= last; i++ {
		out = append(out, i*step)
	}
	return out
}

// number writes a tick without what floating point adds to it.
func number(v float64) string { return fmt.Sprintf("%.6g", v) }
