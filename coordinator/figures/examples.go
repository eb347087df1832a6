package figures

import (
	"errors"
	"fmt"
	"image"
	"image/color"
	"math"
)

// Example is an image with its class.
type Example struct {
	Image image.Image
	Name  string
}

// Prediction is what a model says of an image, the best first.
type Prediction struct {
	Example
	Best []Guess
}

// Guess is a class and its probability.
type Guess struct {
	Name        string
	Probability float64
	Right       bool
}

// Neighbours is an image and those nearest to it, the nearest first.
type Neighbours struct {
	Of      Example
	Nearest []Example
}

// Bars of the right class, and of others, as the source had them (shownet.py:199-273).
var (
	rightInk = color.RGBA{0xff, 0xaa, 0xaa, 0xff}
	otherInk = color.RGBA{0xaa, 0xaa, 0xff, 0xff}
)

const (
	margin               = 16
	predictionSide       = 128 // of an image, in pixels
	predictionW          = 176
	predictionBar        = 15
	predictionsPerRow    = 4
	nameSize, smallSize  = 9.0, 8.0
	neighbourSide        = 96
	neighbourGap         = 8
	neighbourQueryGap    = 28
	neighbourNamesHeight = 16
)

// Predictions draws figure 4, left, of the paper: images with their classes, and the best classes as bars from 0 to 1,
// the right one in another colour.
func Predictions(all []Prediction) (*Drawing, error) {
	if len(all) == 0 {
		return nil, errors.New("no predictions to draw")
	}
	bars := 0
	for _, p := range all {
		bars = max(bars, len(p.Best))
	}
	columns := min(predictionsPerRow, len(all))
	rows := (len(all) + columns - 1) / columns
	h := predictionSide + 22 + bars*(predictionBar+3) + margin
	d := &Drawing{W: margin + columns*(predictionW+margin), H: margin + rows*h}
	for i, p := range all {
		x, y := float64(margin+i%columns*(predictionW+margin)), float64(margin+i/columns*h)
		d.tile(p.Image, int(x)+(predictionW-predictionSide)/2, int(y), predictionSide)
		y += predictionSide + 15
		d.add(short(text{at: Point{x + predictionW/2, y}, size: nameSize, anchor: "middle", ink: black, words: p.Name},
			predictionW))
		y += 7
		for _, g := range p.Best {
			ink := otherInk
			if g.Right {
				ink = rightInk
			}
			d.add(rect{x: x, y: y, w: predictionW, h: predictionBar, fill: white, edge: pale})
			d.add(rect{x: x, y: y, w: predictionW * min(max(g.Probability, 0), 1), h: predictionBar, fill: ink})
			d.add(short(text{at: Point{x + 4, y + predictionBar - 4}, size: smallSize, anchor: "start", ink: black,
				words: g.Name}, predictionW-8))
			y += predictionBar + 3
		}
	}
	return d, nil
}

// Nearest draws figure 4, right: in each row an image, apart from it those nearest to it.
func Nearest(all []Neighbours) (*Drawing, error) {
	columns := 0
	for _, n := range all {
		columns = max(columns, len(n.Nearest))
	}
	if columns == 0 {
		return nil, errors.New("no neighbours to draw")
	}
	const rowH = neighbourSide + neighbourNamesHeight + neighbourGap
	d := &Drawing{W: 2*margin + (columns+1)*neighbourSide + (columns-1)*neighbourGap + neighbourQueryGap,
		H: 2*margin + 14 + len(all)*rowH}
	d.add(text{at: Point{margin, margin + 6}, size: nameSize, anchor: "start", ink: black, words: "test image"})
	left := margin + neighbourSide + neighbourQueryGap
	d.add(text{at: Point{float64(left), margin + 6}, size: nameSize, anchor: "start", ink: black,
		words: "nearest training images, by the last hidden layer"})
	for i, n := range all {
		y := margin + 14 + i*rowH
		d.named(n.Of, margin, y)
		for k, e := range n.Nearest {
			d.named(e, left+k*(neighbourSide+neighbourGap), y)
		}
	}
	return d, nil
}

// named draws an image with its class below.
func (d *Drawing) named(e Example, x, y int) {
	d.tile(e.Image, x, y, neighbourSide)
	d.add(short(text{at: Point{float64(x) + neighbourSide/2, float64(y) + neighbourSide + 12}, size: smallSize,
		anchor: "middle", ink: black, words: e.Name}, neighbourSide))
}

// short leaves out the end of words that are too long for so many pixels.
func short(t text, most float64) text {
	for whole := []rune(t.words); t.length() > most && len(whole) > 1; {
		whole = whole[:len(whole)-1]
		t.words = string(whole) + ".."
	}
	return t
}

// tile draws an image within a square: a small one larger by a whole factor, a large one as the means of its pixels.
func (d *Drawing) tile(m image.Image, x, y, side int) {
	size := m.Bounds().Size()
	longest := max(size.X, size.Y, 1)
	p := picture{scale: max(1, side/longest), img: image.NewRGBA(image.Rect(0, 0, size.X, size.Y))}
	if longest > side {
		p.img = image.NewRGBA(image.Rect(0, 0, max(1, size.X*side/longest), max(1, size.Y*side/longest)))
	}
	average(p.img, m)
	drawn := p.img.Rect.Size().Mul(p.scale)
	p.x, p.y = x+(side-drawn.X)/2, y+(side-drawn.Y)/2
	d.add(p)
}

// average fills dst with means of the pixels of src that lie under each of its own, by area.
func average(dst *image.RGBA, src image.Image) {
	to, from := dst.Rect.Size(), src.Bounds()
	fx, fy := float64(from.Dx())/float64(to.X), float64(from.Dy())/float64(to.Y)
	for y := range to.Y {
		for x := range to.X {
			var sum [3]float64
			area := 0.0
			for sy := int(float64(y) * fy); float64(sy) < float64(y+1)*fy-1e-9; sy++ {
				for sx := int(float64(x) * fx); float64(sx) < float64(x+1)*fx-1e-9; sx++ {
					w := overlap(sx, float64(x)*fx, fx) * overlap(sy, float64(y)*fy, fy)
					r, g, b, _ := src.At(from.Min.X+sx, from.Min.Y+sy).RGBA()
					for k, v := range []uint32{r, g, b} {
						sum[k] += w * float64(v)
					}
					area += w
				}
			}
			at := func(k int) uint8 { return uint8(sum[k]/area/0x101 + 0.5) }
			dst.SetRGBA(x, y, color.RGBA{at(0), at(1), at(2), 0xff})
		}
	}
}

// overlap is how much of pixel i lies within `width` from `from` on.
func overlap(i int, from, width float64) float64 {
	return math.Min(float64(i+1), from+width) - math.Max(float64(i), from)
}

// Part is a part of a bar.
type Part struct {
	Name  string
	Value float64
}

// Bar is a bar of parts that follow one another.
type Bar struct {
	Name  string
	Parts []Part
}

// Bars draws bars below one another, along an axis from 0: parts of one name have one colour, in the order of names.
func Bars(title, unit string, names []string, all []Bar) (*Drawing, error) {
	const left, barH, pitch, apart, top, right, bottom, w = 92, 11, 13, 6, 62, 24, 40, 720
	longest := 0.0
	var at []float64 // of each bar's upper edge; one without a name stays with the one above
	below := float64(top)
	for i, b := range all {
		if i > 0 && b.Name != "" {
			below += apart
		}
		at = append(at, below)
		below += pitch
		sum := 0.0
		for _, p := range b.Parts {
			sum += p.Value
		}
		longest = max(longest, sum)
	}
	if !(longest > 0) || math.IsInf(longest, 0) {
		return nil, fmt.Errorf("%s: there is nothing to draw", title)
	}
	d := &Drawing{W: w, H: int(below) + bottom}
	xs := ticks(0, longest)
	place := func(v float64) float64 { return left + v/xs[len(xs)-1]*(w-left-right) }
	foot := below + 2
	for _, x := range xs {
		d.add(line{points: []Point{{place(x), top - 4}, {place(x), foot}}, width: 1, ink: pale})
		d.add(text{at: Point{place(x), foot + 15}, size: tickSize, anchor: "middle", ink: black, words: number(x)})
	}
	d.add(text{at: Point{w - right, foot + 31}, size: labelSize, anchor: "end", ink: black, words: unit})
	d.add(short(text{at: Point{margin, 22}, size: labelSize, anchor: "start", ink: black, words: title}, w-2*margin))
	x := float64(margin)
	inkOf := map[string]color.RGBA{}
	for i, n := range names {
		inkOf[n] = inks[i%len(inks)]
		t := text{at: Point{x + 16, 44}, size: tickSize, anchor: "start", ink: black, words: n}
		d.add(rect{x: x, y: 34, w: 11, h: 11, fill: inkOf[n]})
		d.add(t)
		x += t.length() + 34
	}
	for i, b := range all {
		d.add(short(text{at: Point{left - 8, at[i] + barH - 1}, size: smallSize, anchor: "end", ink: black, words: b.Name},
			left-12))
		sum := 0.0
		for _, p := range b.Parts {
			from := place(sum)
			sum += p.Value
			d.add(rect{x: from, y: at[i], w: place(sum) - from, h: barH, fill: inkOf[p.Name]})
		}
	}
	return d, nil
}
