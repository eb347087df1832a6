package data

import (
	"archive/tar"
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
	Split    string   // train or test: of an IDX directory; of others the subtree of that name, if it has splits
	Classes  []string // names by label; nil takes the folder's own, sorted
	Channels int      // 1 or 3; 0 takes 1 if all images are grey, else 3
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
	if err := o.check(); err != nil {
		return Summary{}, fmt.Errorf("pack %s: %w", o.From, err)
	}
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
	case kind == "idx" && o.Channels > 1:
		err = errors.New("IDX images are grey; leave out --channels")
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

// check refuses what cannot be, before anything is read or written.
func (o PackOptions) check() error {
	if o.Channels != 0 && o.Channels != 1 && o.Channels != 3 {
		return fmt.Errorf("%d channels; use --channels 1 or --channels 3", o.Channels)
	}
	seen := make(map[string]bool)
	for _, c := range o.Classes {
		if seen[c] {
			return fmt.Errorf("class %q is given twice; name each class once", c)
		}
		seen[c] = true
	}
	from, err := os.Stat(o.From)
	if err != nil {
		return fmt.Errorf("%w; give an existing file or directory with --from", err)
	}
	switch out, err := os.Stat(o.Out); {
	case err != nil: // not there yet; what else is wrong with it shows when it is made
	case out.IsDir():
		return fmt.Errorf("%s is a directory; give a file with --out", o.Out)
	case os.SameFile(from, out):
		return errors.New("the pack would replace its own source; give another file with --out")
	}
	return nil
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
	if o.Channels == 0 {
		o.Channels = commonChannels(pictures)
	}
	var skipped []Skipped
	for _, p := range pictures {
		img, label, err := readPicture(o, w, p)
		if err != nil {
			skipped = append(skipped, Skipped{p.name, err.Error()})
			if len(skipped) > o.MaxBad {
				return skipped, fmt.Errorf("%s %w; mend or remove it, or allow broken images with --max-bad N", p.name, err)
			}
		} else if err := w.add(img, label); err != nil {
			return skipped, err
		}
		if err := each(); err != nil {
			return skipped, err
		}
	}
	return skipped, nil
}

// commonChannels is 1 if all pictures that can be read are grey, else 3: colour is not thrown away unasked.
func commonChannels(pictures []picture) int {
	for _, p := range pictures {
		if n, err := channelsOf(p.data); err == nil && n == 3 {
			return 3
		}
	}
	return 1
}

// readPicture decodes a picture; an error says what is wrong with that picture.
func readPicture(o PackOptions, w *writer, p picture) (image, int, error) {
	label := slices.Index(w.h.Classes, p.class)
	if label < 0 {
		return image{}, 0, fmt.Errorf("is of class %q, which is not among the given classes", p.class)
	}
	img, err := decodeImage(p.data, o.Channels)
	if err != nil {
		return image{}, 0, err
	}
	return img, label, w.fits(img, label)
}

// isPicture goes by the name.
func isPicture(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".jpg", ".jpeg", ".png":
		return !strings.HasPrefix(path.Base(name), ".")
	}
	return false
}

// takeSplit keeps the pictures below the split's directory and cuts their names down to what follows it. A source
// without splits is taken whole.
func takeSplit(all []picture, split string) ([]picture, error) {
	depth, err := splitDepth(all, split)
	if err != nil {
		return nil, err
	}
	var out []picture
	for _, p := range all {
		parts := strings.Split(p.name, "/")
		if depth >= 0 {
			if depth >= len(parts)-1 || parts[depth] != split {
				continue
			}
			parts = parts[depth+1:]
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

// splitDepth is how many directories lie above the split's, -1 for a source without splits. The outermost directory of
// that name counts: a set may have a class called train.
func splitDepth(all []picture, split string) (int, error) {
	depth, other := -1, ""
	for _, p := range all {
		dirs := strings.Split(path.Dir(p.name), "/")
		if at := slices.Index(dirs, split); split != "" && at >= 0 && (depth < 0 || at < depth) {
			depth = at
		}
		for _, s := range []string{"train", "test"} {
			if slices.Contains(dirs, s) {
				other = s
			}
		}
	}
	if split != "" && depth < 0 && other != "" {
		return 0, fmt.Errorf("no directory %s in it, but there is %s; choose another --split", split, other)
	}
	return depth, nil
}

func readFolder(ctx context.Context, from string) ([]picture, error) {
	from, err := filepath.EvalSymlinks(from) // a walk does not follow a link it begins at
	if err != nil {
		return nil, err
	}
	var out []picture
	err = filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
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
			_, err = io.Copy(io.Discard, r) // only at its end does a compressed file prove to be whole
			if err != nil {
				err = fmt.Errorf("read archive: %w", err)
			}
			return out, err
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
