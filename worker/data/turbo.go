//go:build turbojpeg && cgo

package data

import (
	"errors"
	"image/color"
	"strings"

	"colonnade/worker/data/turbojpeg"
)

// A build with the tag turbojpeg decodes JPEG with that library, but for what it leaves to the standard one.
func init() {
	decoder = strings.TrimSpace("libjpeg-turbo "+turbojpeg.Version()) + ", what it warns of by image/jpeg of Go"
	decodeJPEG = func(data []byte, channels int) (pixels []byte, height, width int, err error) {
		pixels, height, width, grey, err := turbojpeg.Decode(data, maxPixels)
		switch {
		case errors.Is(err, turbojpeg.ErrOther):
			return nil, 0, 0, errStandard
		case err != nil:
			return nil, 0, 0, err
		case grey && channels == 3:
			out := make([]byte, 0, 3*len(pixels))
			for _, v := range pixels {
				out = append(out, v, v, v)
			}
			pixels = out
		case !grey && channels == 1: // the luma of the colours, as of any picture
			for i := range height * width {
				c := color.RGBA{pixels[3*i], pixels[3*i+1], pixels[3*i+2], 255}
				pixels[i] = color.GrayModel.Convert(c).(color.Gray).Y
			}
			pixels = pixels[:height*width]
		}
		return pixels, height, width, nil
	}
}
