package data

import (
	"fmt"
	img "image"
	"image/color"
	"image/png"
	"io"
	"slices"
)

// Sheet is a contact sheet: pictures of one size in rows, 2 pixels apart. A single one is that picture and nothing
// around it: a network that is asked what is on it would see a frame.
type Sheet struct {
	canvas  *img.RGBA
	columns int
	gap     int
	h, w    int
	next    int
}

const (
	sheetGap  = 2
	sheetSide = 1 << 14 // of the whole, in pixels
)

// NewSheet makes a sheet of n pictures of h x w pixels.
func NewSheet(n, columns, h, w int) (*Sheet, error) {
	rows := (n + columns - 1) / max(columns, 1)
	gap := sheetGap
	if n == 1 {
		columns, gap = 1, 0
	}
	width, height := columns*(w+gap)+gap, rows*(h+gap)+gap
	if n < 1 || columns < 1 || width > sheetSide || height > sheetSide {
		return nil, fmt.Errorf("a sheet of %d pictures of %dx%d, %d in a row, has %dx%d pixels; "+
			"ask for between 1 and what fits in %d each way", n, h, w, columns, width, height, sheetSide)
	}
	s := &Sheet{canvas: img.NewRGBA(img.Rect(0, 0, width, height)), columns: columns, gap: gap, h: h, w: w}
	for i := range s.canvas.Pix {
		s.canvas.Pix[i] = 0xff
	}
	return s, nil
}

// Add puts in the next picture: channels x h x w, where one channel is grey and of more the first three are shown.
func (s *Sheet) Add(pixels []byte) {
	area := s.h * s.w
	x0 := s.next%s.columns*(s.w+s.gap) + s.gap
	y0 := s.next/s.columns*(s.h+s.gap) + s.gap
	s.next++
	for i := range area {
		c := color.RGBA{pixels[i], pixels[i], pixels[i], 255}
		if len(pixels) >= 3*area {
			c.G, c.B = pixels[area+i], pixels[2*area+i]
		}
		s.canvas.SetRGBA(x0+i%s.w, y0+i/s.w, c)
	}
}

// PNG writes the sheet as a picture.
func (s *Sheet) PNG(w io.Writer) error { return png.Encode(w, s.canvas) }

// Pick chooses up to n images of a pack: of one class, or of all where class is empty, from the `from`-th of them on.
// Of all classes they are drawn evenly over the pack, since images of a class lie together.
func (p *Pack) Pick(class string, from, n int) ([]int, error) {
	label := slices.Index(p.Classes, class)
	if class != "" && label < 0 {
		return nil, fmt.Errorf("no class %q in %s; worker data info lists them", class, p.path)
	}
	var all []int
	for i := range p.Images {
		if class == "" || p.Label(i) == label {
			all = append(all, i)
		}
	}
	if from < 0 || from >= len(all) {
		return nil, fmt.Errorf("no image %d: there are %d, counted from 0", from, len(all))
	}
	all = all[from:]
	n = min(n, len(all))
	out := make([]int, n)
	for i := range out {
		at := i
		if class == "" {
			at = i * len(all) / n
		}
		out[i] = all[at]
	}
	return out, nil
}
