package data

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"colonnade/shard/pack"
)

// PackOptions says what to pack and how.
type PackOptions struct {
	From     string   // see sourceKind
	Out      string   // pack file
	Split    string   // a part that the source has, or NAME=FROM-TO in percent
	Classes  []string // names by label; nil takes the source's own, sorted
	Labels   string   // file that says the classes of pictures in no class directory
	Synsets  string   // file of class names in the order of the numbers in Labels
	Channels int      // 1 or 3; 0 takes 1 if all images are grey, else 3
	Size     int      // shorter side and central square; 0: images stay as they are and must have one size
	MaxBad   int      // broken images to skip; one more fails
	Shard    int64    // bytes of a file of pixels, where they are more; 0: 4 GiB
	Progress func(Progress)

	journalEvery func() bool // when to write down how far it is; nil: every few seconds
}

// Progress is how far packing is.
type Progress struct {
	Images  int // packed
	Skipped int
	Total   int // images of the source
	Resumed int // images of an earlier run that were not done again
}

// scratch is the directory for what is unpacked.
func (o *PackOptions) scratch() string { return filepath.Dir(o.Out) }

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

// keepFrom is how many images make the work of a run that failed worth keeping.
const keepFrom = 4096

// MakePack packs a dataset. The same source gives the same file, however often it is killed on the way: the same call
// goes on where the last one stopped. On an error nothing is under Out but what was there before.
func MakePack(ctx context.Context, o PackOptions) (s Summary, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("pack %s: %w", o.From, err)
		}
	}()
	if err := o.check(); err != nil {
		return Summary{}, err
	}
	if err := os.MkdirAll(o.scratch(), 0o755); err != nil {
		return Summary{}, fmt.Errorf("write pack: %w; choose another --out", err)
	}
	l, err := list(ctx, o)
	if err != nil {
		return Summary{}, err
	}
	defer l.close()
	p, err := newPacking(o, l)
	if err != nil {
		return Summary{}, err
	}
	w, err := newWriter(o.Out, p)
	if err != nil {
		return Summary{}, err
	}
	if err = p.run(ctx, w); err == nil {
		err = p.complete(w)
	}
	if err == nil {
		err = w.finish(ctx)
	}
	if err != nil {
		return Summary{}, w.abandon(ctx, err)
	}
	return Summary{Path: o.Out, ID: fmt.Sprintf("%x", w.h.ID), Images: w.h.Images, Classes: w.h.Classes,
		Skipped: w.at.Skipped}, nil
}

// check refuses what cannot be, before anything is read or written.
func (o *PackOptions) check() error {
	switch {
	case o.Channels != 0 && o.Channels != 1 && o.Channels != 3:
		return fmt.Errorf("%d channels; use --channels 1 or --channels 3", o.Channels)
	case o.Size != 0 && (o.Size < minSide || o.Size > 4096):
		return fmt.Errorf("size %d; use --size 256, or between %d and 4096", o.Size, minSide)
	case o.Synsets != "" && o.Labels == "":
		return errors.New("--synsets gives the names of the numbers in --labels; give both")
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
	case !out.Mode().IsRegular(): // a device such as /dev/null: a file that is renamed would do away with it
		return fmt.Errorf("%s is no plain file and would be replaced by one; give another file with --out", o.Out)
	case os.SameFile(from, out):
		return errors.New("the pack would replace its own source; give another file with --out")
	}
	return nil
}

// packing is one run of MakePack.
type packing struct {
	o       PackOptions
	l       *listing
	classes []string
	labels  map[string]int // by class
	shape   image          // of every image; without pixels
	lot     int            // images that are done together
}

// lotBytes is about what a lot's pixels take.
const lotBytes = 4 << 20

func newPacking(o PackOptions, l *listing) (*packing, error) {
	p := &packing{o: o, l: l, classes: l.classes, labels: make(map[string]int)}
	if o.Classes != nil {
		p.classes = o.Classes
	}
	for i, c := range p.classes {
		p.labels[c] = i
	}
	switch {
	case l.channels > 0 && o.Channels == 0:
		p.o.Channels = l.channels
	case o.Channels == 0:
		p.o.Channels = l.commonChannels()
	}
	// The first image that is sound decides the shape.
	reason := errors.New("no images")
	var first *item
	for i := range l.items {
		img, _, err := p.decode(&l.items[i])
		if err == nil {
			p.shape = image{channels: img.channels, height: img.height, width: img.width}
			p.lot = min(max(lotBytes/len(img.pixels), 1), 256)
			return p, nil
		}
		if first == nil {
			first, reason = &l.items[i], err
		}
		if i >= o.MaxBad {
			break
		}
	}
	return nil, fmt.Errorf("%s %w; mend or remove it, or allow broken images with --max-bad N", first.name, reason)
}

// commonChannels is 1 if all pictures that can be read are grey, else 3: colour is not thrown away unasked.
func (l *listing) commonChannels() int {
	for i := range l.items {
		if b, err := l.read(&l.items[i]); err == nil {
			if n, err := channelsOf(b); err == nil && n == 3 {
				return 3
			}
		}
	}
	return 1
}

// made says what the pixels went through.
func (p *packing) made() string {
	how := decoder
	if p.l.channels > 0 {
		how = "raw pixels"
	}
	if p.o.Size > 0 {
		how += fmt.Sprintf(", to %d by %s", p.o.Size, resizing)
	}
	return how
}

// decode makes an image of an item; an error says what is wrong with that item.
func (p *packing) decode(it *item) (img image, label int, err error) {
	label = it.label
	if !it.raw {
		var ok bool
		if label, ok = p.labels[it.class]; !ok {
			return image{}, 0, fmt.Errorf("is of class %q, which is not among the given classes", it.class)
		}
	}
	if label >= len(p.classes) {
		return image{}, 0, fmt.Errorf("has label %d, but there are %d classes", label, len(p.classes))
	}
	b, err := p.l.read(it)
	if err != nil {
		return image{}, 0, fmt.Errorf("cannot be read: %w", err)
	}
	if !it.raw {
		img, err = decodeImage(b, p.o.Channels)
	} else {
		img = image{channels: p.l.channels, height: p.l.height, width: p.l.width, pixels: b}
		if p.o.Channels != img.channels {
			err = fmt.Errorf("has %d channels; leave out --channels", img.channels)
		}
	}
	if err == nil && p.o.Size > 0 {
		img, err = square(img, p.o.Size)
	}
	return img, label, err
}

// fits says why an image does not go with the others.
func (p *packing) fits(img image) error {
	s := p.shape
	if img.channels != s.channels || img.height != s.height || img.width != s.width {
		return fmt.Errorf("is %dx%dx%d, others are %dx%dx%d (channels x height x width); bring all to one size "+
			"with --size 256", img.channels, img.height, img.width, s.channels, s.height, s.width)
	}
	return nil
}

// fingerprint is of everything that the pack is a function of, so that only the same packing goes on.
func (p *packing) fingerprint() [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%q %d %d %d %q %d", p.made(), p.shape.channels, p.shape.height, p.shape.width, p.classes, p.lot)
	for i := range p.l.items {
		it := &p.l.items[i]
		fmt.Fprintf(h, "%q %q %d %d\n", it.name, it.class, it.label, it.size)
	}
	return [32]byte(h.Sum(nil))
}

// batchOf is a lot's images, done.
type batchOf struct {
	labels   []byte // uint16 each
	pixels   []byte
	sums     []uint64 // by place in the image
	channels []uint64 // sums by channel
	products []uint64 // by pair of channels
	skipped  []Skipped
}

// do decodes a lot.
func (p *packing) do(n int) *batchOf {
	s := p.shape
	area := s.height * s.width
	b := &batchOf{sums: make([]uint64, s.channels*area)}
	count := pack.NewSums(s.channels, area)
	for i := n * p.lot; i < min((n+1)*p.lot, len(p.l.items)); i++ {
		it := &p.l.items[i]
		img, label, err := p.decode(it)
		if err == nil {
			err = p.fits(img)
		}
		if err != nil {
			b.skipped = append(b.skipped, Skipped{it.name, err.Error()})
			continue
		}
		b.labels = binary.LittleEndian.AppendUint16(b.labels, uint16(label))
		b.pixels = append(b.pixels, img.pixels...)
		for at, v := range img.pixels {
			b.sums[at] += uint64(v)
		}
		count.Add(img.pixels)
	}
	b.channels, b.products = count.Counts()
	return b
}

// run decodes what the writer does not have yet, in parallel, and hands it over in order.
func (p *packing) run(ctx context.Context, w *writer) error {
	lots := (len(p.l.items) + p.lot - 1) / p.lot
	workers := min(runtime.GOMAXPROCS(0), max(lots, 1))
	type task struct {
		n    int
		done chan *batchOf
	}
	stop := make(chan struct{})
	work, order := make(chan task), make(chan task, 2*workers)
	var group sync.WaitGroup
	defer group.Wait()
	defer close(stop)
	group.Go(func() {
		defer close(order)
		defer close(work)
		for n := w.at.Lot; n < lots; n++ {
			t := task{n, make(chan *batchOf, 1)}
			for _, to := range []chan task{order, work} {
				select {
				case to <- t:
				case <-stop:
					return
				}
			}
		}
	})
	for range workers {
		group.Go(func() {
			for t := range work {
				t.done <- p.do(t.n)
			}
		})
	}
	resumed := w.h.Images
	for t := range order {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case b := <-t.done:
			if err := p.take(w, b); err != nil {
				return err
			}
		}
		if p.o.Progress != nil {
			p.o.Progress(Progress{Images: w.h.Images, Skipped: len(w.at.Skipped), Total: len(p.l.items), Resumed: resumed})
		}
	}
	return context.Cause(ctx)
}

// take writes a lot, unless too many images of it are broken.
func (p *packing) take(w *writer, b *batchOf) error {
	if n := p.o.MaxBad - len(w.at.Skipped); len(b.skipped) > n {
		k := b.skipped[max(n, 0)]
		return fmt.Errorf("%s %s; mend or remove it, or allow broken images with --max-bad N", k.Name, k.Reason)
	}
	return w.add(b)
}

// complete wants an image of every class that the source says it has.
func (p *packing) complete(w *writer) error {
	if p.o.Classes != nil {
		return nil // a part of a set may lack some of the classes that were named
	}
	used := make([]bool, len(p.classes))
	for i := range w.h.Images {
		used[binary.LittleEndian.Uint16(w.at.Labels[2*i:])] = true
	}
	if c := slices.Index(used, false); c >= 0 && !p.raw() {
		return fmt.Errorf("class %s has no image that can be used; mend or remove it, or name the classes with --classes",
			p.classes[c])
	}
	return nil
}

// raw says whether the source has pixels and numbers, not pictures and names.
func (p *packing) raw() bool { return p.l.channels > 0 }
