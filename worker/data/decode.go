package data

import (
	"fmt"
	img "image"
	"image/color"
	_ "image/jpeg" // the formats folders and tars may hold
	_ "image/png"
	"io"
	"os"
)

// image is a decoded picture.
type image struct {
	channels, height, width int
	pixels                  []byte // channels x height x width
}

// decodeImage reads a JPEG or PNG as 1 channel (luma) or 3 (RGB); 0 takes what the picture is.
func decodeImage(r io.Reader, channels int) (image, error) {
	src, _, err := img.Decode(r)
	if err != nil {
		return image{}, fmt.Errorf("cannot be decoded: %w", err)
	}
	b := src.Bounds()
	if b.Dx() < 1 || b.Dy() < 1 {
		return image{}, fmt.Errorf("has %dx%d pixels", b.Dx(), b.Dy())
	}
	if channels == 0 {
		channels = 3
		switch src.ColorModel() {
		case color.GrayModel, color.Gray16Model:
			channels = 1
		}
	}
	out := image{channels: channels, height: b.Dy(), width: b.Dx(), pixels: make([]byte, channels*b.Dx()*b.Dy())}
	area := b.Dx() * b.Dy()
	for y := range b.Dy() {
		for x := range b.Dx() {
			at := y*b.Dx() + x
			c := src.At(b.Min.X+x, b.Min.Y+y)
			if channels == 1 {
				out.pixels[at] = color.GrayModel.Convert(c).(color.Gray).Y
				continue
			}
			r, g, bl, _ := c.RGBA()
			out.pixels[at], out.pixels[area+at], out.pixels[2*area+at] = byte(r>>8), byte(g>>8), byte(bl>>8)
		}
	}
	return out, nil
}

// copyFile copies a whole file.
func copyFile(dst io.Writer, src *os.File) error {
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := io.Copy(dst, src)
	return err
}
