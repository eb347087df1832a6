package data

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"colonnade/shard/pack"
)

// writer builds a pack. Pixels go to a side file as they come, since labels and mean stand before them; finish puts
// the parts together under the final name. Nothing is ever left under that name but a whole pack.
type writer struct {
	path   string
	side   *os.File
	buf    *bufio.Writer
	h      pack.Header
	labels []byte
	sums   []uint64 // by pixel, over all images: exact
}

func newWriter(path string) (*writer, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("write pack: %w; choose another --out", err)
	}
	side, err := os.Create(path + ".pixels.tmp")
	if err != nil {
		return nil, fmt.Errorf("write pack: %w; choose another --out", err)
	}
	return &writer{path: path, side: side, buf: bufio.NewWriterSize(side, 1<<20)}, nil
}

// fits says why an image does not go with those before it. The first one decides the shape.
func (w *writer) fits(img image, label int) error {
	if label < 0 || label >= len(w.h.Classes) {
		return fmt.Errorf("has label %d, but there are %d classes", label, len(w.h.Classes))
	}
	if w.h.Images == 0 {
		return nil
	}
	if img.channels != w.h.Channels || img.height != w.h.Height || img.width != w.h.Width {
		return fmt.Errorf("is %dx%dx%d, others are %dx%dx%d (channels x height x width)", img.channels, img.height,
			img.width, w.h.Channels, w.h.Height, w.h.Width)
	}
	return nil
}

// add appends an image that fits. An error is that of the file written.
func (w *writer) add(img image, label int) error {
	if w.h.Images == 0 {
		w.h.Channels, w.h.Height, w.h.Width = img.channels, img.height, img.width
		w.sums = make([]uint64, len(img.pixels))
	}
	for i, p := range img.pixels {
		w.sums[i] += uint64(p)
	}
	w.labels = binary.LittleEndian.AppendUint16(w.labels, uint16(label))
	w.h.Images++
	if _, err := w.buf.Write(img.pixels); err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	return nil
}

// discard removes what was written.
func (w *writer) discard() {
	w.side.Close()
	os.Remove(w.side.Name())
	os.Remove(w.path + ".tmp")
}

// finish writes the pack and returns its header.
func (w *writer) finish() (h *pack.Header, err error) {
	if w.h.Images == 0 {
		return nil, errors.New("no images")
	}
	if err := w.h.Check(); err != nil {
		return nil, err
	}
	if err := w.buf.Flush(); err != nil {
		return nil, fmt.Errorf("write pack: %w", err)
	}
	mean := make([]byte, 0, 4*len(w.sums))
	for _, s := range w.sums {
		m := float32(float64(s) / float64(w.h.Images))
		mean = binary.LittleEndian.AppendUint32(mean, math.Float32bits(m))
	}
	if err := w.identify(mean); err != nil {
		return nil, err
	}
	if err := w.assemble(mean); err != nil {
		return nil, fmt.Errorf("write pack: %w", err)
	}
	return &w.h, nil
}

// identify computes the identity from what will lie in the file.
func (w *writer) identify(mean []byte) error {
	id := w.h.NewIdentity()
	id.Write(w.labels)
	id.Write(mean)
	if err := copyFile(id, w.side); err != nil {
		return fmt.Errorf("write pack: %w", err)
	}
	copy(w.h.ID[:], id.Sum(nil))
	return nil
}

// assemble puts header, labels, mean and pixels together, makes them durable and gives them their name.
func (w *writer) assemble(mean []byte) error {
	out, err := os.Create(w.path + ".tmp")
	if err != nil {
		return err
	}
	defer out.Close()
	for _, part := range [][]byte{w.h.Encode(), w.labels, mean} {
		if _, err := out.Write(part); err != nil {
			return err
		}
	}
	if err := copyFile(out, w.side); err != nil {
		return err
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return err
	}
	if err := os.Rename(out.Name(), w.path); err != nil {
		return err
	}
	w.side.Close()
	os.Remove(w.side.Name())
	return syncDirectory(filepath.Dir(w.path))
}

// syncDirectory makes a rename in a directory durable.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
