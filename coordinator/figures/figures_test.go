package figures

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"colonnade/shard"
)

var keep = flag.String("figures.keep", "", "directory to leave the tests' pictures in, to be looked at")

// drawn writes a drawing in both forms, checks that both can be read, and gives the pixels.
func drawn(t *testing.T, name string, d *Drawing) (image.Image, string) {
	t.Helper()
	var vector, pixels bytes.Buffer
	if err := errors.Join(d.SVG(&vector), d.PNG(&pixels)); err != nil {
		t.Fatal(err)
	}
	if *keep != "" {
		if err := errors.Join(os.WriteFile(filepath.Join(*keep, name+".png"), pixels.Bytes(), 0o644),
			os.WriteFile(filepath.Join(*keep, name+".svg"), vector.Bytes(), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	x := xml.NewDecoder(bytes.NewReader(vector.Bytes()))
	for {
		if _, err := x.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("SVG: %v", err)
		}
	}
	m, err := png.Decode(&pixels)
	if err != nil {
		t.Fatal(err)
	}
	if s := m.Bounds().Size(); s.X != d.W || s.Y != d.H {
		t.Errorf("%v pixels of a drawing of %dx%d", s, d.W, d.H)
	}
	return m, vector.String()
}

func planOf(t *testing.T, network string, channels, classes, columns int) *shard.Plan {
	t.Helper()
	n, err := shard.Embedded(network)
	if err != nil {
		t.Fatal(err)
	}
	if n, err = n.Resolve(channels, classes); err != nil {
		t.Fatal(err)
	}
	p, err := shard.NewPlan(n, columns)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestKernelsHaveOneScale: the largest weight of any column is white and the smallest black, and 48 kernels of a column
// are three rows of 16.
func TestKernelsHaveOneScale(t *testing.T) {
	p := planOf(t, "alexnet", 3, 1000, 2)
	values := make([][][]float32, 2)
	for c, params := range p.Params {
		for _, q := range params {
			v := []float32(nil)
			if q.Layer == "conv1" {
				v = make([]float32, q.Len())
				for i := range v {
					v[i] = float32(math.Sin(float64(i%121)/float64(3+i/363))) * 0.1
				}
			}
			values[c] = append(values[c], v)
		}
	}
	for ch := range 3 {
		values[0][0][121*ch] = 3         // column 0, first kernel, first pixel
		values[1][0][47*363+121*ch] = -1 // column 1, last kernel
	}
	d, err := Kernels(p, values)
	if err != nil {
		t.Fatal(err)
	}
	mosaics, low, high, err := Mosaics(p, values, 16)
	if err != nil || len(mosaics) != 2 || low != -1 || high != 3 {
		t.Fatalf("%d mosaics from %g to %g: %v", len(mosaics), low, high, err)
	}
	if of := mosaics[1]; of.Kernels != 48 || of.Side != 11 || of.Image.Bounds() != image.Rect(0, 0, 16*12-1, 3*12-1) ||
		of.Image.RGBAAt(15*12, 24) != (color.RGBA{0, 0, 0, 255}) || of.Image.RGBAAt(11, 0).A != 0 {
		t.Errorf("the second mosaic is %d kernels of %d in %v; its last kernel begins with %v", of.Kernels, of.Side,
			of.Image.Bounds(), of.Image.RGBAAt(15*12, 24))
	}
	m, vector := drawn(t, "kernels", d)
	if n := strings.Count(vector, "<image"); n != 96 {
		t.Errorf("%d kernels", n)
	}
	if got := m.At(15, 14+16+1); got != (color.RGBA{255, 255, 255, 255}) {
		t.Errorf("the largest weight is %v", got)
	}
	pitch := 46
	x, y := 14+15*pitch+1, d.H-14-pitch+1
	if got := m.At(x, y); got != (color.RGBA{0, 0, 0, 255}) {
		t.Errorf("the smallest weight is %v", got)
	}
	if _, err := Kernels(p, [][][]float32{{}, {}}); err == nil {
		t.Error("kernels without values are drawn")
	}
}

func TestCurves(t *testing.T) {
	one := Series{Name: "relu", Points: []Point{{0, 90}, {1, 60}, {2, 40}, {3, math.NaN()}, {4, 25}, {5, math.Inf(1)}}}
	two := Series{Name: "tanh", Dashed: true}
	for i := range 36 {
		two.Points = append(two.Points, Point{float64(i), 25 + 65*math.Exp(-float64(i)/12)})
	}
	d, err := Curves(Chart{Title: "figure 1", X: "epochs", Y: "training error (%)", Level: 25, Zero: true}, one, two)
	if err != nil {
		t.Fatal(err)
	}
	m, vector := drawn(t, "curves", d)
	for _, want := range []string{">relu<", ">tanh<", ">epochs<", "stroke-dasharray"} {
		if !strings.Contains(vector, want) {
			t.Errorf("no %s in the SVG", want)
		}
	}
	if strings.Contains(vector, "NaN") || strings.Contains(vector, "Inf") {
		t.Error("the SVG has what is no number")
	}
	blue := 0
	for y := range d.H {
		for x := range d.W {
			if m.At(x, y) == inks[0] {
				blue++
			}
		}
	}
	if blue < 200 {
		t.Errorf("%d pixels of the first series", blue)
	}
	if _, err := Curves(Chart{Title: "x"}, Series{Points: []Point{{1, math.NaN()}}}); err == nil {
		t.Error("nothing is drawn")
	}
	if _, err := Curves(Chart{Title: "x"}, Series{Points: []Point{{1, 1}}}); err != nil {
		t.Errorf("one point: %v", err)
	}
}

// TestNothingIsDrawnOverCurves: a line along the upper edge is there to its end, whatever else has a name; a long title
// ends before the names; and there is no negative part of an epoch.
func TestNothingIsDrawnOverCurves(t *testing.T) {
	high := Series{Name: "training", Points: []Point{{0, 60}, {0.3, 60}}}
	low := Series{Name: "test", Points: []Point{{0.3, 10}}}
	d, err := Curves(Chart{Title: strings.Repeat("long", 30), X: "epochs", Y: "error (%)", Zero: true}, high, low)
	if err != nil {
		t.Fatal(err)
	}
	m, svg := drawn(t, "high", d)
	for x := chartLeft + 2; x < chartW-chartRight-2; x++ {
		if got := m.At(x, chartTop); got != inks[0] {
			t.Fatalf("pixel %d of the line is %v", x, got)
		}
	}
	if strings.Contains(svg, strings.Repeat("long", 20)) {
		t.Error("the title runs into the names")
	}
	if d, err = Curves(Chart{Title: "x"}, Series{Points: []Point{{0.32, 1}}}); err != nil {
		t.Fatal(err)
	}
	if _, svg = drawn(t, "point", d); strings.Contains(svg, ">-") {
		t.Error("the axis of a point at 0.32 begins below 0")
	}
}

// TestNetwork draws every embedded network in as many columns as it takes, and wants every crossing in it.
func TestNetwork(t *testing.T) {
	for _, c := range []struct {
		network string
		columns int
		crosses int // thick lines
	}{{"alexnet", 2, 8}, {"alexnet-source", 2, 7}, {"alexnet-32", 1, 0}, {"alexnet-32", 4, 48}} {
		d := Network(planOf(t, c.network, 3, 1000, c.columns))
		_, vector := drawn(t, "network-"+c.network, d)
		if got := strings.Count(vector, `stroke-width="2.4"`); got != c.crosses {
			t.Errorf("%s in %d columns: %d crossings, want %d", c.network, c.columns, got, c.crosses)
		}
	}
}

// TestLetters: every letter has strokes of whole points on its grid, and is no wider than it is said to be.
func TestLetters(t *testing.T) {
	for r, strokes := range letters {
		for _, s := range strings.Fields(strokes) {
			if len(s)%2 != 0 {
				t.Errorf("%q: stroke %s has half a point", r, s)
			}
			for i := 0; i+1 < len(s); i += 2 {
				if s[i] < '0' || s[i] > '4' || s[i+1] < '0' || s[i+1] > '8' {
					t.Errorf("%q: point %s is off the grid", r, s[i:i+2])
				}
			}
		}
	}
	d := &Drawing{W: 620, H: 110}
	for i, words := range []string{"abcdefghijklmnopqrstuvwxyz 0123456789", "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
		"!\"#%'()*+,-./:;<=>?[]_ \u00e9"} {
		d.add(text{at: Point{10, float64(30 + 30*i)}, size: 14, anchor: "start", ink: black, words: words})
	}
	drawn(t, "letters", d)
}

// checker is an image of n x n pixels, its left half black and its right one white.
func checker(n int) image.Image {
	m := image.NewGray(image.Rect(0, 0, n, n))
	for i := range m.Pix {
		if i%n >= n/2 {
			m.Pix[i] = 255
		}
	}
	return m
}

// count counts the pixels of a colour.
func count(m image.Image, c color.RGBA) (n int) {
	for y := range m.Bounds().Dy() {
		for x := range m.Bounds().Dx() {
			if color.RGBAModel.Convert(m.At(x, y)) == c {
				n++
			}
		}
	}
	return n
}

// TestPredictionsAreBars: a bar is as long as its class is probable, the right one in its own colour; images of any
// size have the same room.
func TestPredictionsAreBars(t *testing.T) {
	one := Prediction{Example{checker(32), "cat"}, []Guess{{"cat", 0.5, true}, {"dog", 0.25, false}, {"frog", 0, false}}}
	large := one
	large.Image = checker(300)
	d, err := Predictions([]Prediction{one, large, one, one, large})
	if err != nil {
		t.Fatal(err)
	}
	m, svg := drawn(t, "predictions", d)
	red, blue := count(m, rightInk), count(m, otherInk)
	if whole := 5 * predictionW * predictionBar; red > whole/2 || red < whole/3 || blue > whole/4 || blue < whole/8 {
		t.Errorf("%d and %d pixels of bars of half and a quarter of %d", red, blue, whole)
	}
	for _, word := range []string{">cat<", ">dog<", ">frog<"} {
		if n := strings.Count(svg, word); n < 5 {
			t.Errorf("%s is written %d times", word, n)
		}
	}
	if n := strings.Count(svg, `width="128" height="128"`); n != 5 {
		t.Errorf("%d images of 128 pixels", n)
	}
	if _, err := Predictions(nil); err == nil {
		t.Error("nothing is drawn")
	}
}

// TestNearestAreRows draws rows of different lengths, and a name that is too long.
func TestNearestAreRows(t *testing.T) {
	e := Example{checker(28), strings.Repeat("a very long name ", 4)}
	d, err := Nearest([]Neighbours{{e, []Example{e, e, e}}, {e, []Example{e}}})
	if err != nil {
		t.Fatal(err)
	}
	_, svg := drawn(t, "nearest", d)
	if n := strings.Count(svg, "<image"); n != 6 {
		t.Errorf("%d images", n)
	}
	if strings.Contains(svg, e.Name) || !strings.Contains(svg, "..<") {
		t.Error("the name is not cut")
	}
	if _, err := Nearest([]Neighbours{{Of: e}}); err == nil {
		t.Error("nothing is drawn")
	}
}

// TestLargeImagesBecomeMeans: an image of 3 x 3 pixels as one is their mean, and as two halves by area.
func TestLargeImagesBecomeMeans(t *testing.T) {
	src := image.NewGray(image.Rect(5, 5, 8, 8))
	copy(src.Pix, []uint8{0, 90, 180, 0, 90, 180, 0, 90, 180})
	for want, dst := range map[[2]uint8]*image.RGBA{
		{90, 90}:  image.NewRGBA(image.Rect(0, 0, 1, 1)),
		{30, 150}: image.NewRGBA(image.Rect(0, 0, 2, 1)),
	} {
		average(dst, src)
		if got := [2]uint8{dst.Pix[0], dst.Pix[len(dst.Pix)-4]}; got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

// TestBarsHaveParts: parts follow one another along the axis, in their own colours.
func TestBarsHaveParts(t *testing.T) {
	d, err := Bars("a step", "ms", []string{"forward", "wait"}, []Bar{
		{"conv1", []Part{{"forward", 30}, {"wait", 10}}}, {"fc2", []Part{{"wait", 20}}}, {"none", nil}})
	if err != nil {
		t.Fatal(err)
	}
	m, svg := drawn(t, "bars", d)
	if a, b := count(m, inks[0]), count(m, inks[1]); a < b*8/10 || a > b*12/10 { // 30 of each
		t.Errorf("%d and %d pixels of two sums that are equal", a, b)
	}
	for _, word := range []string{">conv1<", ">fc2<", ">none<", ">ms<", ">forward<"} {
		if !strings.Contains(svg, word) {
			t.Errorf("%s is not written", word)
		}
	}
	if _, err := Bars("a step", "ms", nil, []Bar{{"none", nil}}); err == nil {
		t.Error("nothing is drawn")
	}
}
