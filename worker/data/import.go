package data

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// PackOptions says what to pack and how.
type PackOptions struct {
	From     string   // IDX file or directory, folder CLASS/IMAGE, or tar (plain, gzip, zstd) of such a folder
	Out      string   // pack file
	Split    string   // train or test: of an IDX directory; of others the subtree of that name, if there is one
	Classes  []string // names by label; nil takes the folder's own, sorted
	Channels int      // 1 or 3; 0 takes what the first image has
	MaxBad   int      // broken images to skip; one more fails
	Progress func(images int)
}

// Summary is what packing came to.
type Summary struct {
	Path    string    `json:"path"`
	ID      string    `json:"id"`
	Images  int       `json:"images"`
	Classes []string  `json:"classes"`
	Skipped []Skipped `json:"skipped"`
}

// Skipped is an image that was left out.
type Skipped struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// MakePack packs a dataset. The same source gives the same file. On an error nothing is left under Out but what was
// there before.
func MakePack(ctx context.Context, o PackOptions) (s Summary, err error) {
	w, err := newWriter(o.Out)
	if err != nil {
		return Summary{}, err
	}
	defer func() {
		if err != nil {
			w.discard()
			err = fmt.Errorf("pack %s: %w", o.From, err)
		}
	}()
	each := func() error {
		if o.Progress != nil {
			o.Progress(w.h.Images)
		}
		return context.Cause(ctx)
	}
	switch kind, kindErr := sourceKind(o.From); {
	case kindErr != nil:
		return Summary{}, kindErr
	case kind == "idx":
		err = importIDX(o.From, o.Split, o.Classes, w, each)
	default:
		s.Skipped, err = importPictures(ctx, o, kind, w, each)
	}
	if err != nil {
		return Summary{}, err
	}
	h, err := w.finish()
	if err != nil {
		return Summary{}, err
	}
	s.Path, s.ID, s.Images, s.Classes = o.Out, fmt.Sprintf("%x", h.ID), h.Images, h.Classes
	return s, nil
}

// sourceKind tells idx, folder and tar apart by looking.
func sourceKind(from string) (string, error) {
	info, err := os.Stat(from)
	if err != nil {
		return "", err
	}
	name := strings.ToLower(filepath.Base(from))
	if !info.IsDir() {
		if strings.Contains(name, ".tar") || strings.HasSuffix(name, ".tgz") {
			return "tar", nil
		}
		return "idx", nil
	}
	found, err := filepath.Glob(filepath.Join(from, "*-images-idx3-ubyte*"))
	if err != nil || len(found) == 0 {
		return "folder", err
	}
	return "idx", nil
}

// picture is one encoded image of a folder or tar.
type picture struct {
	name  string // CLASS/.../FILE below the split
	class string
	data  []byte
}

// importPictures reads all encoded images, which are much smaller than decoded ones, sorts them by name and packs them.
func importPictures(ctx context.Context, o PackOptions, kind string, w *writer, each func() error) ([]Skipped, error) {
	read := readFolder
	if kind == "tar" {
		read = readTar
	}
	pictures, err := read(ctx, o.From)
	if err != nil {
		return nil, err
	}
	if pictures, err = takeSplit(pictures, o.Split); err != nil {
		return nil, err
	}
	slices.SortFunc(pictures, func(a, b picture) int { return strings.Compare(a.name, b.name) })
	if w.h.Classes = o.Classes; o.Classes == nil {
		for _, p := range pictures {
			w.h.Classes = append(w.h.Classes, p.class)
		}
		slices.Sort(w.h.Classes)
		w.h.Classes = slices.Compact(w.h.Classes)
	}
	var skipped []Skipped
	for _, p := range pictures {
		if err := addPicture(o, w, p); err != nil {
			skipped = append(skipped, Skipped{p.name, err.Error()})
			if len(skipped) > o.MaxBad {
				return skipped, fmt.Errorf("%s %w; mend or remove it, or allow broken images with --max-bad N", p.name, err)
			}
		}
		if err := each(); err != nil {
			return skipped, err
		}
	}
	return skipped, nil
}

func addPicture(o PackOptions, w *writer, p picture) error {
	label := slices.Index(w.h.Classes, p.class)
	if label < 0 {
		return fmt.Errorf("is of class %q, which is not among the given classes", p.class)
	}
	channels := o.Channels
	if channels == 0 {
		channels = w.h.Channels // of the first image, once there is one
	}
	img, err := decodeImage(bytes.NewReader(p.data), channels)
	if err != nil {
		return err
	}
	return w.add(img, label)
}

// isPicture goes by the name.
func isPicture(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".jpg", ".jpeg", ".png":
		return !strings.HasPrefix(path.Base(name), ".")
	}
	return false
}

// takeSplit keeps the pictures below the split's directory, if there is one, and cuts the path down to CLASS/FILE.
func takeSplit(all []picture, split string) ([]picture, error) {
	inSplit := func(name string) bool {
		return split != "" && slices.Contains(strings.Split(path.Dir(name), "/"), split)
	}
	any := slices.ContainsFunc(all, func(p picture) bool { return inSplit(p.name) })
	var out []picture
	for _, p := range all {
		parts := strings.Split(p.name, "/")
		if any {
			at := slices.Index(parts[:len(parts)-1], split)
			if at < 0 {
				continue
			}
			parts = parts[at+1:]
		}
		if len(parts) < 2 {
			return nil, fmt.Errorf("%s lies in no class directory; use CLASS/IMAGE", p.name)
		}
		p.name, p.class = path.Join(parts...), parts[len(parts)-2]
		out = append(out, p)
	}
	if len(out) == 0 {
		return nil, errors.New("no .jpg, .jpeg or .png in it; use CLASS/IMAGE")
	}
	return out, nil
}

func readFolder(ctx context.Context, from string) ([]picture, error) {
	var out []picture
	err := filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || !isPicture(d.Name()) {
			return context.Cause(ctx)
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(p)
		out = append(out, picture{name: filepath.ToSlash(rel), data: data})
		return err
	})
	return out, err
}

func readTar(ctx context.Context, from string) ([]picture, error) {
	f, err := os.Open(from)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, done, err := decompress(f)
	if err != nil {
		return nil, err
	}
	defer done()
	var out []picture
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read archive: %w", err)
		}
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg || !isPicture(h.Name) {
			continue
		}
		data, err := io.ReadAll(t)
		if err != nil {
			return nil, fmt.Errorf("read %s from archive: %w", h.Name, err)
		}
		out = append(out, picture{name: strings.TrimPrefix(path.Clean(h.Name), "./"), data: data})
	}
}

// decompress looks at the first bytes and undoes gzip or zstd.
func decompress(f *os.File) (io.Reader, func(), error) {
	var head [4]byte
	n, err := io.ReadFull(f, head[:])
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, nil, fmt.Errorf("read archive: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, nil, err
	}
	switch {
	case n >= 2 && head[0] == 0x1f && head[1] == 0x8b:
		z, err := gzip.NewReader(f)
		return z, func() {}, err
	case head == [4]byte{0x28, 0xb5, 0x2f, 0xfd}:
		z, err := zstd.NewReader(f, zstd.WithDecoderMaxWindow(1<<28))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return f, func() {}, nil
}
