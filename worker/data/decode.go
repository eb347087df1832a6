package data

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	img "image"
	"image/color"
	_ "image/jpeg" // the formats folders and tars may hold
	_ "image/png"
)

// image is a decoded picture.
type image struct {
	channels, height, width int
	pixels                  []byte // channels x height x width
}

// maxPixels is what a picture may claim to have. A file of a few bytes can claim more than there is memory.
const maxPixels = 1 << 26

// decoder names what decodes JPEG. Decoders may differ in the last bit, so a pack says which one made it.
var decoder = "image/jpeg of Go"

// decodeJPEG decodes a JPEG where another decoder than the standard library's is built in; nil is the standard one. The
// result is interleaved RGB, or grey where channels is 1. What it leaves to the standard one is errStandard.
var decodeJPEG func(data []byte, channels int) (pixels []byte, height, width int, err error)

// errStandard is a JPEG that another decoder leaves to the standard library.
var errStandard = errors.New("left to image/jpeg")

// channelsOf reads from a picture's header whether it is grey (1) or has colour (3).
func channelsOf(data []byte) (int, error) {
	c, _, err := img.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return 0, fmt.Errorf("cannot be decoded: %w", err)
	}
	if c.Width < 1 || c.Height < 1 || c.Width > maxPixels/c.Height {
		return 0, fmt.Errorf("claims %dx%d pixels, more than %d", c.Width, c.Height, maxPixels)
	}
	if c.ColorModel == color.GrayModel || c.ColorModel == color.Gray16Model {
		return 1, nil
	}
	return 3, nil
}

// decodeImage reads a JPEG or PNG as 1 channel (luma) or 3 (RGB), upright as its EXIF orientation says.
func decodeImage(data []byte, channels int) (image, error) {
	if _, err := channelsOf(data); err != nil {
		return image{}, err
	}
	jpeg := len(data) > 2 && data[0] == 0xff && data[1] == 0xd8
	if jpeg && decodeJPEG != nil {
		pixels, h, w, err := decodeJPEG(data, channels)
		if err == nil {
			return upright(planar(pixels, channels, h, w), orientation(data)), nil
		}
		if !errors.Is(err, errStandard) {
			return image{}, fmt.Errorf("cannot be decoded: %w", err)
		}
	}
	src, _, err := img.Decode(bytes.NewReader(data))
	if err != nil {
		return image{}, fmt.Errorf("cannot be decoded: %w", err)
	}
	out := toPlanes(src, channels)
	if jpeg {
		out = upright(out, orientation(data))
	}
	return out, nil
}

// planar takes interleaved pixels apart.
func planar(pixels []byte, channels, h, w int) image {
	out := image{channels: channels, height: h, width: w, pixels: pixels}
	if channels == 1 {
		return out
	}
	area := h * w
	out.pixels = make([]byte, channels*area)
	r, g, b := out.pixels[:area], out.pixels[area:2*area], out.pixels[2*area:]
	for i := range area {
		r[i], g[i], b[i] = pixels[3*i], pixels[3*i+1], pixels[3*i+2]
	}
	return out
}

// toPlanes turns what the standard library decodes to planes. The common kinds have a way of their own; all give what
// the general one gives.
func toPlanes(src img.Image, channels int) image {
	b := src.Bounds()
	out := image{channels: channels, height: b.Dy(), width: b.Dx(), pixels: make([]byte, channels*b.Dx()*b.Dy())}
	area := b.Dx() * b.Dy()
	switch s := src.(type) {
	case *img.Gray:
		for y := range b.Dy() {
			row := s.Pix[y*s.Stride : y*s.Stride+b.Dx()]
			for c := range channels {
				copy(out.pixels[c*area+y*b.Dx():], row)
			}
		}
		return out
	case *img.YCbCr:
		if channels == 3 {
			for y := range b.Dy() {
				for x := range b.Dx() {
					yi, ci := s.YOffset(b.Min.X+x, b.Min.Y+y), s.COffset(b.Min.X+x, b.Min.Y+y)
					at := y*b.Dx() + x
					out.pixels[at], out.pixels[area+at], out.pixels[2*area+at] = color.YCbCrToRGB(s.Y[yi], s.Cb[ci], s.Cr[ci])
				}
			}
			return out
		}
	}
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
	return out
}

// orientation is the EXIF orientation of a JPEG, 1 to 8; 1 where it says nothing, or nonsense. (Exif 2.3, tag 0x0112 of
// the first directory.)
func orientation(data []byte) int {
	for at := 2; at+4 <= len(data) && data[at] == 0xff; {
		marker, n := data[at+1], int(data[at+2])<<8|int(data[at+3])
		if marker == 0xda || n < 2 || at+2+n > len(data) { // the image itself begins
			break
		}
		if body := data[at+4 : at+2+n]; marker == 0xe1 && bytes.HasPrefix(body, []byte("Exif\x00\x00")) {
			return exifOrientation(body[6:])
		}
		at += 2 + n
	}
	return 1
}

func exifOrientation(tiff []byte) int {
	if len(tiff) < 8 {
		return 1
	}
	var order binary.ByteOrder = binary.LittleEndian
	if string(tiff[:2]) == "MM" {
		order = binary.BigEndian
	}
	at := int64(order.Uint32(tiff[4:]))
	if at+2 > int64(len(tiff)) {
		return 1
	}
	entries := tiff[at+2:]
	for range order.Uint16(tiff[at:]) {
		if len(entries) < 12 {
			break
		}
		if order.Uint16(entries) == 0x0112 && order.Uint16(entries[2:]) == 3 {
			if v := int(order.Uint16(entries[8:])); v >= 1 && v <= 8 {
				return v
			}
		}
		entries = entries[12:]
	}
	return 1
}

// upright turns and mirrors an image as an EXIF orientation says.
func upright(in image, how int) image {
	if how == 1 {
		return in
	}
	out := in
	if how >= 5 { // rows become columns
		out.height, out.width = in.width, in.height
	}
	out.pixels = make([]byte, len(in.pixels))
	h, w, area := in.height, in.width, in.height*in.width
	for y := range out.height {
		for x := range out.width {
			sy, sx := y, x
			switch how {
			case 2:
				sx = w - 1 - x
			case 3:
				sy, sx = h-1-y, w-1-x
			case 4:
				sy = h - 1 - y
			case 5:
				sy, sx = x, y
			case 6:
				sy, sx = h-1-x, y
			case 7:
				sy, sx = h-1-x, w-1-y
			case 8:
				sy, sx = x, w-1-y
			}
			for c := range in.channels {
				out.pixels[c*area+y*out.width+x] = in.pixels[c*area+sy*w+sx]
			}
		}
	}
	return out
}
