package data

import (
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
)

// item is one image of a source, still encoded and not yet read.
type item struct {
	name  string // CLASS/.../FILE below the split
	class string // its name; empty if label is given
	label int
	from  *spool // nil: the file `path`
	path  string
	at    int64 // where its bytes are
	size  int64
	raw   bool // bytes are pixels, planar, of the listing's shape
}

// listing is what a source holds, in the order in which it is packed.
type listing struct {
	items    []item
	classes  []string // by label, where the source itself says; nil: from the items, sorted
	channels int      // of raw items; 0 if they are encoded
	height   int
	width    int
	spools   []*spool
}

func (l *listing) close() {
	for _, s := range l.spools {
		s.close()
	}
}

// read gives an item's bytes.
func (l *listing) read(it *item) ([]byte, error) {
	if it.from == nil {
		return os.ReadFile(it.path)
	}
	b := make([]byte, it.size)
	if _, err := it.from.f.ReadAt(b, it.at); err != nil {
		return nil, fmt.Errorf("read %s: %w", it.from.path, err)
	}
	return b, nil
}

// isPicture goes by the name.
func isPicture(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".jpg", ".jpeg", ".png":
		return !strings.HasPrefix(path.Base(name), ".")
	}
	return false
}

// isArchive goes by the name too.
func isArchive(name string) bool {
	name = strings.ToLower(path.Base(name))
	return !strings.HasPrefix(name, ".") && (strings.HasSuffix(name, ".tgz") || strings.HasSuffix(name, ".tzst") ||
		strings.HasSuffix(name, ".tar") || strings.Contains(name, ".tar."))
}

// sourceKind tells sources apart by looking.
func sourceKind(from string) (string, error) {
	info, err := os.Stat(from)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		switch {
		case isArchive(from):
			return "tar", nil
		case strings.HasSuffix(strings.ToLower(from), ".bin"):
			return "cifar", nil
		}
		return "idx", nil
	}
	for _, k := range []struct{ pattern, kind string }{{"*-images-idx3-ubyte*", "idx"}, {"data_batch_*.bin", "cifar"},
		{"test_batch.bin", "cifar"}, {"train.bin", "cifar"}, {"test.bin", "cifar"}} {
		if found, err := filepath.Glob(filepath.Join(escape(from), k.pattern)); err != nil || len(found) > 0 {
			return k.kind, err
		}
	}
	return "folder", nil
}

// escape takes what Glob would read as a pattern literally.
func escape(dir string) string {
	return strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

// list finds what a source holds, takes the split and gives every image its label.
func list(ctx context.Context, o PackOptions) (l *listing, err error) {
	kind, err := sourceKind(o.From)
	if err != nil {
		return nil, err
	}
	split, part, err := parseSplit(o.Split)
	if err != nil {
		return nil, err
	}
	l = &listing{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	switch {
	case (kind == "idx" || kind == "cifar") && o.Labels != "":
		return l, errors.New("the source has labels of its own; leave out --labels")
	case kind == "idx" && o.Channels > 1:
		return l, errors.New("IDX images are grey; leave out --channels")
	case kind == "idx":
		err = l.addIDX(o.From, split, o.Classes, o.scratch())
	case kind == "cifar":
		err = l.addCIFAR(o.From, split)
	case kind == "tar":
		err = l.addArchive(ctx, o.From, "", o.scratch())
	default:
		err = l.addFolder(ctx, o.From, o.scratch())
	}
	if err != nil {
		return l, err
	}
	if kind == "tar" || kind == "folder" {
		if err := l.arrange(o, split, part != nil); err != nil {
			return l, err
		}
	}
	if part != nil {
		l.items = slices.DeleteFunc(l.items, func(it item) bool { return !part.has(it.name) })
	}
	if len(l.items) == 0 {
		return l, errors.New("no images are left for this split; choose another --split")
	}
	return l, nil
}

// arrange gives pictures their classes and their order.
func (l *listing) arrange(o PackOptions, split string, parts bool) (err error) {
	if o.Labels != "" {
		if err := l.label(o.Labels, o.Synsets); err != nil {
			return err
		}
	} else if l.items, err = takeSplit(l.items, split); err != nil {
		return err
	}
	slices.SortStableFunc(l.items, func(a, b item) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(l.items); i++ {
		if l.items[i].name == l.items[i-1].name {
			return fmt.Errorf("%s is in it twice; remove one", l.items[i].name)
		}
	}
	if l.classes == nil {
		for i := range l.items {
			l.classes = append(l.classes, l.items[i].class)
		}
		slices.Sort(l.classes)
		l.classes = slices.Compact(l.classes)
	}
	return nil
}

// takeSplit keeps the pictures below the split's directory and cuts their names down to what follows it. A source
// without splits is taken whole.
func takeSplit(all []item, split string) ([]item, error) {
	depth, err := splitDepth(all, split)
	if err != nil {
		return nil, err
	}
	var out []item
	for _, p := range all {
		parts := strings.Split(p.name, "/")
		if depth >= 0 {
			if depth >= len(parts)-1 || parts[depth] != split {
				continue
			}
			parts = parts[depth+1:]
		}
		if len(parts) < 2 && p.class == "" {
			return nil, fmt.Errorf("%s lies in no class directory; use CLASS/IMAGE, or give --labels FILE", p.name)
		}
		if p.name = path.Join(parts...); p.class == "" {
			p.class = parts[len(parts)-2]
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		return nil, errors.New("no .jpg, .jpeg or .png in it; use CLASS/IMAGE")
	}
	return out, nil
}

// splitDepth is how many directories lie above the split's, -1 for a source without splits. The outermost directory of
// that name counts: a set may have a class called train.
func splitDepth(all []item, split string) (int, error) {
	depth, other := -1, ""
	for _, p := range all {
		dirs := strings.Split(path.Dir(p.name), "/")
		if at := slices.Index(dirs, split); split != "" && at >= 0 && (depth < 0 || at < depth) {
			depth = at
		}
		for _, s := range []string{"train", "val", "test"} {
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

// addFolder lists the pictures of a folder, and what is in the archives of one: shards, or one archive for each class.
func (l *listing) addFolder(ctx context.Context, from, scratch string) error {
	from, err := filepath.EvalSymlinks(from) // a walk does not follow a link it begins at
	if err != nil {
		return err
	}
	var archives []string
	holds := make(map[string]bool) // of every directory: whether something lies in it, at any depth
	err = filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch hidden := strings.HasPrefix(d.Name(), "."); {
		case d.IsDir():
			if !hidden {
				holds[rel] = holds[rel] || false
			}
			return context.Cause(ctx)
		case isArchive(d.Name()):
			archives = append(archives, rel)
		case isPicture(d.Name()):
			info, err := d.Info()
			if err != nil {
				return err
			}
			l.items = append(l.items, item{name: rel, path: p, size: info.Size()})
		}
		for dir := path.Dir(rel); !holds[dir]; dir = path.Dir(dir) {
			if holds[dir] = true; dir == "." {
				break
			}
		}
		return context.Cause(ctx)
	})
	if err != nil {
		return err
	}
	if len(l.items) > 0 { // archives beside pictures are not images
		for dir, used := range holds {
			if !used && dir != "." {
				empty := firstEmpty(holds)
				return fmt.Errorf("the directory %s is empty: a class without images; fill or remove it", empty)
			}
		}
		return nil
	}
	for _, a := range archives {
		if err := l.addArchive(ctx, filepath.Join(from, filepath.FromSlash(a)), archiveStem(a), scratch); err != nil {
			return err
		}
	}
	return nil
}

func firstEmpty(holds map[string]bool) string {
	var empty []string
	for dir, used := range holds {
		if !used && dir != "." {
			empty = append(empty, dir)
		}
	}
	return slices.Min(empty)
}

// archiveStem is an archive's name without its suffixes: the class, where there is one archive for each.
func archiveStem(name string) string {
	dir, base := path.Split(name)
	lower := strings.ToLower(base)
	for _, s := range []string{".tgz", ".tzst", ".tar"} {
		if at := strings.Index(lower, s); at > 0 {
			return dir + base[:at]
		}
	}
	return name
}

// spool is a file that items' bytes are in: the source itself or what it unpacks to.
type spool struct {
	f    *os.File
	path string // of the source
}

func (s *spool) close() { _ = s.f.Close() } // only read, or unlinked already

// unpack writes a compressed source to a file without a name in the scratch directory: whatever happens, nothing stays.
func unpack(r io.Reader, from, scratch string) (*spool, error) {
	f, err := os.CreateTemp(scratch, ".unpacked-*")
	if err != nil {
		return nil, fmt.Errorf("unpack archive %s: %w; choose another --out", from, err)
	}
	s := &spool{f: f, path: from}
	err = os.Remove(f.Name())
	if err == nil {
		_, err = io.Copy(f, r) // to the end: only there does a compressed file prove to be whole
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("unpack archive %s: %w", from, err)
	}
	return s, nil
}
