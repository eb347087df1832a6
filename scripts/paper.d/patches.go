package main

import (
	"errors"
	"fmt"
	"image"
	"image/draw"
	"image/jpeg"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"colonnade/checkpoint/tensors"
)

// Patches are squares of photographs: real pixels at their own scale, of which one can have as many as one wants. A
// photograph is a class; what is tested on lies in another part of it than what is trained on.
const (
	patchSide    = 256
	patchSeed    = 2012
	patchQuality = 95 // of JPEG
	trainPatches = 100
	testPatches  = 20
)

// patches cuts out of every photograph in a directory so many patches for training and for testing, at random places,
// into TO/train/NAME and TO/test/NAME. They are the same every time.
func patches(from, to string, train, test int) error {
	paths, err := filepath.Glob(filepath.Join(from, "*.jpg"))
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		return fmt.Errorf("no photographs, *.jpg, in %s; install Debian's mate-backgrounds, or name a directory of yours",
			from)
	}
	for i, path := range paths {
		m, err := photograph(path)
		if err != nil {
			return err
		}
		rng := rand.New(rand.NewPCG(patchSeed, uint64(i)))
		name := strings.ToLower(strings.TrimSuffix(filepath.Base(path), ".jpg"))
		left, right := regions(m.Bounds())
		err = errors.Join(cut(m, left, rng, filepath.Join(to, "train", name), train),
			cut(m, right, rng, filepath.Join(to, "test", name), test))
		if err != nil {
			return err
		}
	}
	return nil
}

// photograph reads a photograph that is large enough to have both regions.
func photograph(path string) (*image.RGBA, error) {
	m, err := photographOf(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if b := m.Bounds(); b.Dx() < 2*patchSide || b.Dy() < patchSide {
		return nil, fmt.Errorf("%s has %dx%d pixels, %dx%d are wanted at least; leave it out", path, b.Dx(), b.Dy(),
			2*patchSide, patchSide)
	}
	return m, nil
}

func photographOf(path string) (*image.RGBA, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := jpeg.Decode(f)
	if err != nil {
		return nil, err
	}
	b := m.Bounds()
	out := image.NewRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	draw.Draw(out, out.Bounds(), m, b.Min, draw.Src)
	return out, nil
}

// regions are what is trained on, the left four fifths, and what is tested on.
func regions(b image.Rectangle) (left, right image.Rectangle) {
	x := b.Max.X - max(b.Dx()/5, patchSide)
	return image.Rect(b.Min.X, b.Min.Y, x, b.Max.Y), image.Rect(x, b.Min.Y, b.Max.X, b.Max.Y)
}

// cut writes n patches of a region as JPEG.
func cut(m *image.RGBA, region image.Rectangle, rng *rand.Rand, dir string, n int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i := range n {
		x := region.Min.X + rng.IntN(region.Dx()-patchSide+1)
		y := region.Min.Y + rng.IntN(region.Dy()-patchSide+1)
		patch := m.SubImage(image.Rect(x, y, x+patchSide, y+patchSide))
		err := tensors.Create(filepath.Join(dir, fmt.Sprintf("%03d.jpg", i)), func(w io.Writer) error {
			return jpeg.Encode(w, patch, &jpeg.Options{Quality: patchQuality})
		})
		if err != nil {
			return err
		}
	}
	return nil
}
