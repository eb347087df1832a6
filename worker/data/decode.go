package data

import (
	"bytes"
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

// maxPixels is what a picture may claim to have. A file of a few bytes can claim more than there is memory.
const maxPixels = 1 << 26

// channelsOf reads from a picture's header whether it is grey (1) or has colour (3).
func channelsOf(data []byte) (int, error) {
	c, _, err := img.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return 0, fmt.Errorf("cannot be decoded: %w", err)
	}
	if c.Width < 1 || c.Height < 1 || c.Width > maxPixels/c.Height {
		return 0, fmt.Errorf("claims %dx%d pixels", c.Width, c.Height)
	}
	if c.ColorModel == color.GrayModel || c.ColorModel == color.Gray16Model {
		return 1, nil
	}
	return 3, nil
}

// decodeImage reads a JPEG or PNG as 1 channel (luma) or 3 (RGB).
func decodeImage(data []byte, channels int) (image, error) {
	if _, err := channelsOf(data); err != nil {
		return image{}, err
	}
	src, _, err := img.Decode(bytes.NewReader(data))
	if err != nil {
		return image{}, fmt.Errorf("cannot be decoded: %w", err)
	}
	b := src.Bounds()
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
