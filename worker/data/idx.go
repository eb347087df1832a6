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

// readIDXLabels reads a file of labels.
func readIDXLabels(path string) ([]byte, error) {
	r, done, err := openMaybeGzip(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = done() }() // only read
	count, err := idxHeader(r, 1)
	if err != nil {
		return nil, fmt.Errorf("%s %w", path, err)
	}
	all, err := io.ReadAll(io.LimitReader(r, int64(count[0]))) // what the header claims is not asked of memory at once
	if err == nil && len(all) < count[0] {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("%s is truncated: %w", path, err)
	}
	return all, atEnd(path, r)
}
