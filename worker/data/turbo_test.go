//go:build turbojpeg && cgo

package data

import (
	"bytes"
	img "image"
	"image/color"
	"image/jpeg"
	"strings"
	"testing"
)

// TestDecodersAgree decodes pictures of many sizes with both decoders. Their transforms may round a luma or a chroma
// value to one or the other side, and blue is luma and 1.772 times a chroma: so all but one value in a thousand differ
// by at most two levels, none by more than three, and those of grey pictures by at most one.
func TestDecodersAgree(t *testing.T) {
	turbo := decodeJPEG
	defer func() { decodeJPEG = turbo }()
	var by [256]int // values by how much they differ
	greyWorst, all := 0, 0
	for _, size := range [][2]int{{1, 1}, {8, 8}, {17, 31}, {32, 32}, {131, 64}, {256, 200}} {
		for _, grey := range []bool{false, true} {
			for _, channels := range []int{1, 3} {
				data := busyJPEG(t, size[0], size[1], grey)
				decodeJPEG = turbo
				a, err := decodeImage(data, channels)
				if err != nil {
					t.Fatal(err)
				}
				decodeJPEG = nil
				b, err := decodeImage(data, channels)
				if err != nil {
					t.Fatal(err)
				}
				if a.height != b.height || a.width != b.width || len(a.pixels) != len(b.pixels) {
					t.Fatalf("%v: %dx%d and %dx%d", size, a.width, a.height, b.width, b.height)
				}
				for i, v := range a.pixels {
					d := max(int(v)-int(b.pixels[i]), int(b.pixels[i])-int(v))
					if grey {
						greyWorst = max(greyWorst, d)
					}
					by[d]++
					all++
				}
			}
		}
	}
	beyond := 0
	for d := 4; d < len(by); d++ {
		beyond += by[d]
	}
	t.Logf("of %d values %d differ by 1, %d by 2, %d by 3", all, by[1], by[2], by[3])
	if beyond > 0 || by[3] > all/1000 || greyWorst > 1 {
		t.Errorf("%d values differ by 3, %d by more, grey ones by up to %d", by[3], beyond, greyWorst)
	}
}

// busyJPEG is a picture of slopes and edges.
func busyJPEG(t *testing.T, w, h int, grey bool) []byte {
	t.Helper()
	var m interface {
		img.Image
		Set(x, y int, c color.Color)
	} = img.NewRGBA(img.Rect(0, 0, w, h))
	if grey {
		m = img.NewGray(img.Rect(0, 0, w, h))
	}
	for y := range h {
		for x := range w {
			c := color.RGBA{byte(x * 3), byte(y * 5), byte(x*y/7 + 40), 255}
			if (x/9+y/11)%3 == 0 {
				c.R, c.B = 255-c.R, 10
			}
			m.Set(x, y, c)
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: 88}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestTheDecoderIsSaid wants the decoder's name in what a pack says of itself, and a cut JPEG refused as ever.
func TestTheDecoderIsSaid(t *testing.T) {
	whole := busyJPEG(t, 64, 64, false)
	path, _ := mustPack(t, PackOptions{From: files{"a/1.jpg": whole}.folder(t)})
	if f, err := Info(path); err != nil || !strings.HasPrefix(f.Made, "libjpeg-turbo ") {
		t.Errorf("made by %q, %v", f.Made, err)
	}
	for _, n := range []int{len(whole) / 2, len(whole) - 20, 3} {
		if i, err := decodeImage(whole[:n], 3); err == nil {
			t.Errorf("cut to %d of %d bytes: an image of %dx%d", n, len(whole), i.width, i.height)
		}
	}
}
