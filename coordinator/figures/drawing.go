// Package figures draws the paper's pictures of a job: the kernels of the first layer, learning curves, and the network
// with its columns and crossings. A Drawing is a list of shapes, written as SVG and, by a small rasterizer, as PNG.
package figures

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"strings"
)

// Colours.
var (
	black = color.RGBA{0x22, 0x22, 0x22, 0xff}
	grey  = color.RGBA{0xaa, 0xaa, 0xaa, 0xff}
	pale  = color.RGBA{0xe8, 0xe8, 0xe8, 0xff}
	white = color.RGBA{0xff, 0xff, 0xff, 0xff}
	// inks tell series and columns apart, for the colour-blind too (Okabe and Ito).
	inks = []color.RGBA{{0x00, 0x72, 0xb2, 0xff}, {0xd5, 0x5e, 0x00, 0xff}, {0x00, 0x9e, 0x73, 0xff},
		{0xcc, 0x79, 0xa7, 0xff}, {0xe6, 0x9f, 0x00, 0xff}, {0x56, 0xb4, 0xe9, 0xff}}
)

// Point is a place in a drawing, in pixels from its upper left corner.
type Point struct{ X, Y float64 }

// Drawing is a picture of W x H pixels on white. Shapes lie over those drawn before.
type Drawing struct {
	W, H   int
	shapes []shape
}

// shape can be written in both forms.
type shape interface {
	svg(io.Writer)
	paint(*image.RGBA)
}

type line struct {
	points []Point
	width  float64
	ink    color.RGBA
	dashed bool
}

type rect struct {
	x, y, w, h float64
	fill       color.RGBA
	edge       color.RGBA // none where A is 0
}

type text struct {
	at     Point // of the baseline's begin, middle or end
	size   float64
	anchor string // start, middle, end
	ink    color.RGBA
	words  string
}

type picture struct {
	x, y, scale int
	img         *image.RGBA
}

func (d *Drawing) add(s shape) { d.shapes = append(d.shapes, s) }

// SVG writes the drawing as SVG.
func (d *Drawing) SVG(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\">\n",
		d.W, d.H, d.W, d.H)
	fmt.Fprintf(&b, "<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n", d.W, d.H)
	for _, s := range d.shapes {
		s.svg(&b)
	}
	b.WriteString("</svg>\n")
	_, err := w.Write(b.Bytes())
	return err
}

// PNG writes the drawing as PNG.
func (d *Drawing) PNG(w io.Writer) error {
	m := image.NewRGBA(image.Rect(0, 0, d.W, d.H))
	for i := range m.Pix {
		m.Pix[i] = 0xff
	}
	for _, s := range d.shapes {
		s.paint(m)
	}
	return png.Encode(w, m)
}

func hex(c color.RGBA) string { return fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B) }

func (l line) svg(w io.Writer) {
	var at []string
	for _, p := range l.points {
		at = append(at, fmt.Sprintf("%.2f,%.2f", p.X, p.Y))
	}
	dash := ""
	if l.dashed {
		dash = fmt.Sprintf(" stroke-dasharray=\"%d %d\"", dashOn, dashOff)
	}
	fmt.Fprintf(w, "<polyline points=%q fill=\"none\" stroke=%q stroke-width=\"%g\" stroke-linejoin=\"round\""+
		" stroke-linecap=\"round\"%s/>\n", strings.Join(at, " "), hex(l.ink), l.width, dash)
}

func (r rect) svg(w io.Writer) {
	edge := ""
	if r.edge.A != 0 {
		edge = fmt.Sprintf(" stroke=%q", hex(r.edge))
	}
	fmt.Fprintf(w, "<rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" fill=%q%s/>\n", r.x, r.y, r.w, r.h, hex(r.fill),
		edge)
}

func (t text) svg(w io.Writer) {
	var words bytes.Buffer
	_ = xml.EscapeText(&words, []byte(t.words)) // a buffer takes everything
	// A letter of a font has half the gap on either side of it.
	gap := letterGap * t.size / letterGrid
	x := t.at.X + map[string]float64{"start": -gap / 2, "end": gap / 2}[t.anchor]
	fmt.Fprintf(w, "<text x=\"%g\" y=\"%g\" font-family=\"monospace\" font-size=\"%g\" textLength=\"%.1f\""+
		" lengthAdjust=\"spacingAndGlyphs\" text-anchor=%q fill=%q>%s</text>\n", x, t.at.Y, 1.25*t.size,
		t.length()+gap, t.anchor, hex(t.ink), words.String())
}

func (p picture) svg(w io.Writer) {
	var b bytes.Buffer
	_ = png.Encode(&b, p.img) // a buffer takes everything
	s := p.img.Bounds().Size()
	fmt.Fprintf(w, "<image x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" style=\"image-rendering:pixelated\""+
		" href=\"data:image/png;base64,%s\"/>\n", p.x, p.y, s.X*p.scale, s.Y*p.scale,
		base64.StdEncoding.EncodeToString(b.Bytes()))
}

// Dashes of a dashed line, in pixels.
const (
	dashOn  = 6
	dashOff = 6
)

func (l line) paint(m *image.RGBA) {
	segments := l.segments()
	if len(segments) == 0 {
		return
	}
	lo, hi := Point{math.Inf(1), math.Inf(1)}, Point{math.Inf(-1), math.Inf(-1)}
	for _, s := range segments {
		for _, p := range s {
			lo = Point{min(lo.X, p.X), min(lo.Y, p.Y)}
			hi = Point{max(hi.X, p.X), max(hi.Y, p.Y)}
		}
	}
	reach := l.width/2 + 1
	area := image.Rect(int(lo.X-reach), int(lo.Y-reach), int(hi.X+reach)+1, int(hi.Y+reach)+1).Intersect(m.Bounds())
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			d := math.Inf(1)
			at := Point{float64(x) + 0.5, float64(y) + 0.5}
			for _, s := range segments {
				if math.Abs(at.X-s[0].X) > reach && math.Abs(at.X-s[1].X) > reach && (at.X < s[0].X) == (at.X < s[1].X) {
					continue
				}
				d = min(d, distance(at, s[0], s[1]))
			}
			blend(m, x, y, l.ink, l.width/2+0.5-d)
		}
	}
}

// segments are the line's straight pieces, cut into dashes if it is dashed.
func (l line) segments() (out [][2]Point) {
	if len(l.points) == 1 {
		return [][2]Point{{l.points[0], l.points[0]}}
	}
	along := 0.0
	for i := 1; i < len(l.points); i++ {
		a, b := l.points[i-1], l.points[i]
		length := math.Hypot(b.X-a.X, b.Y-a.Y)
		if !l.dashed || length == 0 {
			out = append(out, [2]Point{a, b})
			continue
		}
		for t := 0.0; t < length; {
			in := math.Mod(along+t, dashOn+dashOff)
			next := min(length, t+dashOn+dashOff-in)
			if in < dashOn {
				next = min(length, t+dashOn-in)
				out = append(out, [2]Point{between(a, b, t/length), between(a, b, next/length)})
			}
			if next <= t+1e-9 {
				next = t + 1e-6
			}
			t = next
		}
		along += length
	}
	return out
}

func between(a, b Point, t float64) Point { return Point{a.X + (b.X-a.X)*t, a.Y + (b.Y-a.Y)*t} }

// distance is that of p from the segment a to b.
func distance(p, a, b Point) float64 {
	dx, dy := b.X-a.X, b.Y-a.Y
	t := 0.0
	if n := dx*dx + dy*dy; n > 0 {
		t = min(max(((p.X-a.X)*dx+(p.Y-a.Y)*dy)/n, 0), 1)
	}
	return math.Hypot(p.X-a.X-t*dx, p.Y-a.Y-t*dy)
}

// blend lays ink over a pixel; cover is the share of it that is covered.
func blend(m *image.RGBA, x, y int, ink color.RGBA, cover float64) {
	if cover = min(cover, 1); cover <= 0 {
		return
	}
	i := m.PixOffset(x, y)
	for k, v := range []uint8{ink.R, ink.G, ink.B} {
		m.Pix[i+k] = uint8(float64(m.Pix[i+k])*(1-cover) + float64(v)*cover + 0.5)
	}
}

func (r rect) paint(m *image.RGBA) {
	for y := max(0, int(r.y)); y < min(m.Rect.Max.Y, int(math.Ceil(r.y+r.h))); y++ {
		for x := max(0, int(r.x)); x < min(m.Rect.Max.X, int(math.Ceil(r.x+r.w))); x++ {
			fx, fy := float64(x), float64(y)
			cover := (min(fx+1, r.x+r.w) - max(fx, r.x)) * (min(fy+1, r.y+r.h) - max(fy, r.y))
			blend(m, x, y, r.fill, cover)
		}
	}
	if r.edge.A != 0 {
		line{points: []Point{{r.x, r.y}, {r.x + r.w, r.y}, {r.x + r.w, r.y + r.h}, {r.x, r.y + r.h}, {r.x, r.y}}, width: 1,
			ink: r.edge}.paint(m)
	}
}

func (p picture) paint(m *image.RGBA) {
	s := p.img.Bounds().Size()
	for y := range s.Y * p.scale {
		for x := range s.X * p.scale {
			if at := (image.Point{p.x + x, p.y + y}); at.In(m.Bounds()) {
				m.SetRGBA(at.X, at.Y, p.img.RGBAAt(x/p.scale, y/p.scale))
			}
		}
	}
}
