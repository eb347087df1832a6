package data

import "fmt"

// Picture decodes a JPEG or PNG as a stored image of channels x h x w. One of another size is scaled, and its central
// square cut out, as a pack's images are (paper, section 2); that gives squares only.
func Picture(raw []byte, channels, h, w int) ([]byte, error) {
	img, err := decodeImage(raw, channels)
	if err != nil {
		return nil, err
	}
	if h == w && (img.height != h || img.width != w) {
		if img, err = square(img, h); err != nil {
			return nil, err
		}
	}
	if img.height != h || img.width != w {
		return nil, fmt.Errorf("has %dx%d pixels, the network was trained on %dx%d", img.width, img.height,
			w, h)
	}
	return img.pixels, nil
}
