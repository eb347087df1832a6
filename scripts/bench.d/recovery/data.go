package main

import (
	"errors"
	"fmt"
	"image"
	"image/png"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"

	"colonnade/scripts/cluster"
)

// pack makes the dataset of the small network.
func (o *options) pack() (string, error) {
	images, pack := filepath.Join(o.dir, "images"), filepath.Join(o.dir, "blobs.pack")
	if err := os.MkdirAll(images, 0o755); err != nil {
		return "", err
	}
	if err := cluster.Blobs(images, 1000); err != nil {
		return "", err
	}
	return pack, o.packing("--from", images, "--split", "train", "--out", pack)
}

func (o *options) packing(args ...string) error {
	out, err := exec.Command(filepath.Join(o.programs, "worker"), append([]string{"data", "pack"}, args...)...).
		CombinedOutput()
	if err != nil {
		return fmt.Errorf("worker data pack: %w: %s", err, out)
	}
	return nil
}

// pictures makes a dataset of random colour images, in ten classes, as large as the full-size network wants them.
func (o *options) pictures() (string, error) {
	const images, size = 64, 256
	dir, pack := filepath.Join(o.dir, "pictures"), filepath.Join(o.dir, "pictures.pack")
	r := rand.New(rand.NewPCG(3, 4))
	for i := range images {
		m := image.NewNRGBA(image.Rect(0, 0, size, size))
		for p := range m.Pix {
			if m.Pix[p] = byte(r.Uint32()); p%4 == 3 {
				m.Pix[p] = 255
			}
		}
		class := filepath.Join(dir, fmt.Sprintf("class-%02d", i%10))
		if err := os.MkdirAll(class, 0o755); err != nil {
			return "", err
		}
		f, err := os.Create(filepath.Join(class, fmt.Sprintf("%03d.png", i)))
		if err != nil {
			return "", err
		}
		if err := errors.Join((&png.Encoder{CompressionLevel: png.NoCompression}).Encode(f, m), f.Close()); err != nil {
			return "", err
		}
	}
	return pack, o.packing("--from", dir, "--out", pack)
}
