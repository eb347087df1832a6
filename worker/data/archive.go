package data

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// addArchive lists the pictures of a tar, plain or compressed. Plain ones are read where they are; others are unpacked
// first, since images are packed in the order of their names. A tar within it counts as a directory of its name, as in
// ILSVRC2012_img_train.tar. below is the directory that it stands for itself.
func (l *listing) addArchive(ctx context.Context, from, below, scratch string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	r, done, err := decompress(f)
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", from, err), f.Close())
	}
	s := &spool{f: f, path: from}
	if r != nil {
		s, err = unpack(r, from, scratch)
		done()
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	l.spools = append(l.spools, s)
	end, err := s.f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	before := len(l.items)
	if end == 0 {
		return fmt.Errorf("read archive %s: it is empty", from)
	}
	if err := l.walkTar(ctx, s, 0, end, "", 0); err != nil {
		return fmt.Errorf("read archive %s: %w", from, err)
	}
	for i := range l.items[before:] { // what no directory within says, the archive's name does
		if it := &l.items[before+i]; below != "" && it.class == "" && !strings.Contains(it.name, "/") {
			it.name = below + "/" + it.name
		}
	}
	return nil
}

// maxClassText is what a .cls file beside an image may have.
const maxClassText = 256

// walkTar lists the tar in bytes [at, at+size) of a file.
func (l *listing) walkTar(ctx context.Context, s *spool, at, size int64, below string, depth int) error {
	section := io.NewSectionReader(s.f, at, size)
	classes := make(map[string]string) // by name without its suffix: WebDataset's KEY.cls
	before := len(l.items)
	for t := tar.NewReader(section); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
		name := path.Join(below, strings.TrimPrefix(path.Clean(h.Name), "/"))
		if h.Typeflag != tar.TypeReg || strings.HasPrefix(name, "../") {
			continue
		}
		here, err := section.Seek(0, io.SeekCurrent) // a tar.Reader reads no further than it must
		if err != nil {
			return err
		}
		switch {
		case isPicture(name):
			if here+h.Size > size {
				return fmt.Errorf("%s: %w", name, io.ErrUnexpectedEOF)
			}
			l.items = append(l.items, item{name: name, from: s, at: at + here, size: h.Size})
		case path.Ext(name) == ".cls" && h.Size <= maxClassText:
			text, err := io.ReadAll(t)
			if err != nil {
				return err
			}
			classes[strings.TrimSuffix(name, ".cls")] = strings.TrimSpace(string(text))
		case strings.HasSuffix(strings.ToLower(name), ".tar") && depth == 0:
			if err := l.walkTar(ctx, s, at+here, h.Size, archiveStem(name), depth+1); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	for i := range l.items[before:] {
		it := &l.items[before+i]
		if c := classes[strings.TrimSuffix(it.name, path.Ext(it.name))]; c != "" {
			it.class = c
		}
	}
	return nil
}

// decompress looks at the first bytes and undoes gzip or zstd; the reader is nil for what is neither.
func decompress(f *os.File) (io.Reader, func(), error) {
	b := bufio.NewReaderSize(io.NewSectionReader(f, 0, 1<<62), 1<<16)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("read archive: %w", err)
	}
	switch {
	case len(head) >= 2 && head[0] == 0x1f && head[1] == 0x8b:
		z, err := gzip.NewReader(b)
		return z, func() {}, err
	case len(head) == 4 && [4]byte(head) == [4]byte{0x28, 0xb5, 0x2f, 0xfd}:
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(1<<28))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return nil, func() {}, nil
}
