package data

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// idxLimit bounds what an IDX header may claim, before anything is allocated for it.
const idxLimit = 1 << 31

// openMaybeGzip opens a file, through gzip if it is compressed.
func openMaybeGzip(path string) (io.Reader, func() error, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	b := bufio.NewReaderSize(f, 1<<16)
	if head, err := b.Peek(2); err != nil || head[0] != 0x1f || head[1] != 0x8b {
		return b, f.Close, nil
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return z, f.Close, nil
}

// idxHeader reads an IDX header of unsigned bytes with the given number of dimensions
// (http://yann.lecun.com/exdb/mnist describes the format).
func idxHeader(r io.Reader, dims int) ([]int, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, errors.New("is no IDX file: too short")
	}
	if head[0] != 0 || head[1] != 0 || head[2] != 8 || int(head[3]) != dims {
		return nil, fmt.Errorf("is no IDX file of unsigned bytes with %d dimensions (begins with % x)", dims, head)
	}
	out := make([]int, dims)
	total := 1
	for i := range out {
		var n [4]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return nil, errors.New("is an IDX file with a truncated header")
		}
		out[i] = int(binary.BigEndian.Uint32(n[:]))
		if out[i] < 1 || out[i] > idxLimit || total > idxLimit/out[i] {
			return nil, fmt.Errorf("is an IDX file that claims dimensions beyond %d bytes", idxLimit)
		}
		total *= out[i]
	}
	return out, nil
}

// idxPair finds the images and labels of a split in a directory, or beside a file of images.
func idxPair(from, split string) (images, labels string, err error) {
	info, err := os.Stat(from)
	if err != nil {
		return "", "", err
	}
	if !info.IsDir() {
		name := strings.NewReplacer("images", "labels", "idx3", "idx1").Replace(filepath.Base(from))
		if name == filepath.Base(from) {
			return "", "", errors.New("neither a .tar nor an IDX file with images in its name; " +
				"give one, or a folder CLASS/IMAGE")
		}
		return from, filepath.Join(filepath.Dir(from), name), nil
	}
	prefix := map[string]string{"train": "train", "test": "t10k"}[split]
	if prefix == "" {
		return "", "", fmt.Errorf("split %q: a directory of IDX files has train and test; "+
			"use --split train or --split test", split)
	}
	for _, suffix := range []string{"", ".gz"} {
		images = filepath.Join(from, prefix+"-images-idx3-ubyte"+suffix)
		labels = filepath.Join(from, prefix+"-labels-idx1-ubyte"+suffix)
		if _, err := os.Stat(images); err == nil {
			return images, labels, nil
		}
	}
	return "", "", fmt.Errorf("%s has no %s-images-idx3-ubyte[.gz]", from, prefix)
}

// atEnd wants nothing more of an IDX file. Only at its end does a gzip file prove to be whole.
func atEnd(path string, r io.Reader) error {
	switch _, err := io.CopyN(io.Discard, r, 1); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	return fmt.Errorf("%s goes on after what its header says it has", path)
}

// importIDX feeds every image of an IDX pair to w.
func importIDX(from, split string, classes []string, w *writer, each func() error) error {
	images, labels, err := idxPair(from, split)
	if err != nil {
		return err
	}
	ir, iclose, err := openMaybeGzip(images)
	if err != nil {
		return err
	}
	defer func() { _ = iclose() }() // only read
	lr, lclose, err := openMaybeGzip(labels)
	if err != nil {
		return err
	}
	defer func() { _ = lclose() }()
	size, err := idxHeader(ir, 3)
	if err != nil {
		return fmt.Errorf("%s %w", images, err)
	}
	count, err := idxHeader(lr, 1)
	if err != nil {
		return fmt.Errorf("%s %w", labels, err)
	}
	if size[0] != count[0] {
		return fmt.Errorf("%s has %d images, %s has %d labels", images, size[0], labels, count[0])
	}
	all := make([]byte, count[0])
	if _, err := io.ReadFull(lr, all); err != nil {
		return fmt.Errorf("%s is truncated: %w", labels, err)
	}
	if err := atEnd(labels, lr); err != nil {
		return err
	}
	if w.h.Classes = classes; classes == nil {
		top := 0
		for _, l := range all {
			top = max(top, int(l))
		}
		for l := range top + 1 {
			w.h.Classes = append(w.h.Classes, fmt.Sprint(l))
		}
	}
	img := image{channels: 1, height: size[1], width: size[2], pixels: make([]byte, size[1]*size[2])}
	for i, l := range all {
		if _, err := io.ReadFull(ir, img.pixels); err != nil {
			return fmt.Errorf("%s is truncated at image %d: %w", images, i, err)
		}
		if err := w.fits(img, int(l)); err != nil {
			return fmt.Errorf("%s: image %d %w", images, i, err)
		}
		if err := w.add(img, int(l)); err != nil {
			return err
		}
		if err := each(); err != nil {
			return err
		}
	}
	return atEnd(images, ir)
}
