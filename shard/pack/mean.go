package pack

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
)

// ReadMean reads a pack's header and its mean image, channels x height x width, without the images. Nothing but the
// header is verified.
func ReadMean(path string) (*Header, []float32, error) {
	h, err := ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("open pack: %w", err)
	}
	defer f.Close()
	raw := make([]byte, 4*h.ImageBytes())
	if _, err := io.ReadFull(io.NewSectionReader(f, h.MeanAt(), int64(len(raw))), raw); err != nil {
		return nil, nil, fmt.Errorf("%w %s is cut short: %w; make it again with: worker data pack --from SRC --out FILE",
			ErrPack, path, err)
	}
	mean := make([]float32, h.ImageBytes())
	for i := range mean {
		mean[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return h, mean, nil
}
