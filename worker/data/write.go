package data

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"colonnade/shard/pack"
)

// chunkBytes is about what a chunk of pixels takes: what is hashed when one of its images is first looked at.
const chunkBytes = 1 << 20

// defaultShard is how much goes into one file of pixels.
const defaultShard = int64(4) << 30

// journalPause is how much work a kill may cost.
const journalPause = 2 * time.Second

// writer builds a pack. Pixels go to files of their own as they come, since labels and mean stand before them, and a
// journal beside them says how far they are; finish puts the parts together under the final name. Nothing is ever left
// under that name but a whole pack.
type writer struct {
	path   string
	h      pack.Header
	at     journal
	every  func() bool
	noted  int      // images that the journal on disk speaks of
	pixels *os.File // the one that is written to
	shard  int      // its number
}

// journal is what a run that goes on must know of what was done. It is written after the pixels it speaks of.
type journal struct {
	Fingerprint [32]byte
	Lot         int // lots done
	Labels      []byte
	Sums        []uint64 // by place in the image
	Channels    []uint64
	Products    []uint64
	Skipped     []Skipped
}

// newWriter begins, or goes on if the journal at the path is of the same packing.
func newWriter(path string, p *packing) (*writer, error) {
	s := p.shape
	w := &writer{path: path, every: p.o.journalEvery, h: pack.Header{Channels: s.channels, Height: s.height,
		Width: s.width, Classes: p.classes}}
	each := int64(w.h.ImageBytes())
	w.h.Extra = &pack.Extra{Chunk: int(max(chunkBytes/each, 1)), Made: p.made()}
	limit := p.o.Shard
	if limit == 0 {
		limit = defaultShard
	}
	if int64(len(p.l.items)) > limit/each {
		w.h.Extra.Shard = int(max(limit/each/int64(w.h.Extra.Chunk), 1)) * w.h.Extra.Chunk
	}
	if w.every == nil {
		last := time.Now()
		w.every = func() bool {
			if time.Since(last) < journalPause {
				return false
			}
			last = time.Now()
			return true
		}
	}
	print := p.fingerprint()
	if err := w.resume(print); err == nil {
		return w, nil
	}
	w.removeBut(w.pixelsPath(0))
	w.noted = 0
	pairs := s.channels * (s.channels + 1) / 2
	w.h.Images, w.at = 0, journal{Fingerprint: print, Sums: make([]uint64, w.h.ImageBytes()),
		Channels: make([]uint64, s.channels), Products: make([]uint64, pairs)}
	return w, w.open(0, 0)
}

// journalPath and pixelsPath are the names of a pack that is not whole yet.
func (w *writer) journalPath() string { return w.path + ".journal.tmp" }
func (w *writer) pixelsPath(shard int) string {
	if w.h.Extra.Shard == 0 {
		return w.path + ".pixels.tmp"
	}
	return fmt.Sprintf("%s.pixels.%04d.tmp", w.path, shard)
}

// resume goes on with what a killed run left, if it is all there and of the same packing.
func (w *writer) resume(print [32]byte) error {
	f, err := os.Open(w.journalPath())
	if err != nil {
		return err
	}
	defer f.Close()
	if err := gob.NewDecoder(bufio.NewReader(f)).Decode(&w.at); err != nil || w.at.Fingerprint != print {
		return errors.Join(err, errors.New("another packing"))
	}
	w.h.Images = len(w.at.Labels) / 2
	w.noted = w.h.Images
	shard, in := 0, w.h.Images
	if n := w.h.Extra.Shard; n > 0 {
		shard, in = w.h.Images/n, w.h.Images%n
		for s := range shard {
			info, err := os.Stat(w.pixelsPath(s))
			if err != nil || info.Size() != int64(n)*int64(w.h.ImageBytes()) {
				return errors.Join(err, errors.New("pixels are missing"))
			}
		}
	}
	return w.open(shard, int64(in)*int64(w.h.ImageBytes()))
}

// open makes a file of pixels the one that is written to, cut to what the journal speaks of.
func (w *writer) open(shard int, size int64) error {
	if w.pixels != nil {
		if err := errors.Join(w.pixels.Sync(), w.pixels.Close()); err != nil {
			return fmt.Errorf("write pack: %w", err)
		}
		w.pixels = nil
	}
	f, err := os.OpenFile(w.pixelsPath(shard), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("write pack: %w; choose another --out", err)
	}
	info, err := f.Stat()
	if err == nil && info.Size() < size {
		err = errors.New("pixels are missing")
	}
	if err == nil && info.Mode().IsRegular() {
		err = f.Truncate(size)
	}
	if err == nil && size > 0 {
		_, err = f.Seek(size, io.SeekStart)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write pack: %w", err), f.Close())
	}
	w.pixels, w.shard = f, shard
	return nil
}

// add appends a lot.
func (w *writer) add(b *batchOf) error {
	each := w.h.ImageBytes()
	for rest := b.pixels; len(rest) > 0; {
		part := rest
		if n := w.h.Extra.Shard; n > 0 {
			if shard := w.h.Images / n; shard != w.shard {
				if err := w.open(shard, 0); err != nil {
					return err
				}
			}
			part = rest[:min(len(rest), (n-w.h.Images%n)*each)]
		}
		if _, err := w.pixels.Write(part); err != nil {
			return failed(err)
		}
		w.h.Images += len(part) / each
		rest = rest[len(part):]
	}
	for _, s := range []struct{ to, from []uint64 }{{w.at.Sums, b.sums}, {w.at.Channels, b.channels},
		{w.at.Products, b.products}} {
		for i, v := range s.from {
			s.to[i] += v
		}
	}
	w.at.Labels = append(w.at.Labels, b.labels...)
	w.at.Skipped = append(w.at.Skipped, b.skipped...)
	w.at.Lot++
	if w.every() {
		return w.note()
	}
	return nil
}

// note writes the journal, behind the pixels it speaks of. Where it cannot, the one before stays.
func (w *writer) note() error {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(&w.at)
	if err == nil {
		err = w.pixels.Sync()
	}
	next := w.journalPath() + ".new"
	if err == nil {
		err = writeSynced(next, b.Bytes())
	}
	if err == nil {
		err = os.Rename(next, w.journalPath())
	}
	if err != nil {
		os.Remove(next)
		return failed(err)
	}
	w.noted = len(w.at.Labels) / 2
	return nil
}

// failed says what to do where a pack cannot be written.
func failed(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("write pack: %w; make room, or choose another --out", err)
	}
	return fmt.Errorf("write pack: %w", err)
}

// writeSynced writes a file and makes it durable.
func writeSynced(path string, parts ...[]byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for _, b := range parts {
		if _, err := f.Write(b); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// abandon ends a run that failed. What it did is kept where it was interrupted, or where it is much, and the error then
// says so. A full disk may have no room for a new journal: then what the last one speaks of is kept.
func (w *writer) abandon(ctx context.Context, cause error) error {
	worth := func(images int) bool { return images > 0 && (ctx.Err() != nil || images >= keepFrom) }
	if w.pixels != nil {
		if worth(len(w.at.Labels) / 2) {
			_ = w.note() // what comes of it is in w.noted
		}
		_ = w.pixels.Close() // nothing more is expected of it
	}
	if worth(w.noted) {
		return fmt.Errorf("%w (%d images are kept beside %s: the same command goes on from there)", cause, w.noted, w.path)
	}
	w.remove()
	return cause
}

// remove takes away what is not a pack yet.
func (w *writer) remove() { w.removeBut("") }

func (w *writer) removeBut(keep string) {
	paths, _ := filepath.Glob(escape(w.path) + ".pixels*.tmp") // the pattern is sound
	for _, p := range append(paths, w.journalPath(), w.journalPath()+".new", w.path+".tmp") {
		if p != keep {
			os.Remove(p)
		}
	}
}

// finish makes the pack of the parts and gives it its name.
func (w *writer) finish(ctx context.Context) error {
	if w.h.Images == 0 {
		return errors.New("no images")
	}
	w.h.Extra.Sums, w.h.Extra.Products = w.at.Channels, w.at.Products
	if err := w.h.Check(); err != nil {
		return err
	}
	if w.h.Images >= keepFrom { // what follows may find no room, for a second copy even
		if err := w.note(); err != nil {
			return err
		}
	}
	mean := make([]byte, 0, 4*len(w.at.Sums))
	for _, s := range w.at.Sums {
		m := float32(float64(s) / float64(w.h.Images))
		mean = binary.LittleEndian.AppendUint32(mean, math.Float32bits(m))
	}
	table, err := w.identify(ctx, mean)
	if err != nil {
		return err
	}
	if err := w.assemble(mean, table); err != nil {
		return failed(err)
	}
	return nil
}

// identify computes the identity and the table of chunks, which the header's index is of.
func (w *writer) identify(ctx context.Context, mean []byte) ([]byte, error) {
	id := w.h.NewIdentity()
	id.Write(w.at.Labels)
	id.Write(mean)
	var table []byte
	chunk := make([]byte, w.h.Extra.Chunk*w.h.ImageBytes())
	sums := make(chan [32]byte, 1)
	err := w.eachPixels(func(f *os.File) error {
		for {
			n, err := io.ReadFull(f, chunk)
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				return err
			}
			go func() { sums <- sha256.Sum256(chunk[:n]) }() // waited for below
			id.Write(chunk[:n])
			sum := <-sums
			table = append(table, sum[:]...)
			if err := context.Cause(ctx); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("write pack: %w", err)
	}
	if len(table) != sha256.Size*w.h.Chunks() {
		return nil, fmt.Errorf("write pack: the pixels of %s were changed on the way", w.path)
	}
	copy(w.h.ID[:], id.Sum(nil))
	w.h.Extra.Index = sha256.Sum256(bytes.Join([][]byte{w.at.Labels, mean, table}, nil))
	return table, nil
}

// eachPixels reads the files of pixels from their beginning.
func (w *writer) eachPixels(do func(*os.File) error) error {
	for s := range max(w.h.Shards(), 1) {
		f, err := os.Open(w.pixelsPath(s))
		if err != nil {
			return err
		}
		if err := errors.Join(do(f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// assemble puts header, labels, mean, table and pixels together, makes them durable and gives them their name.
func (w *writer) assemble(mean, table []byte) error {
	if err := errors.Join(w.pixels.Sync(), w.pixels.Close()); err != nil {
		return err
	}
	w.pixels = nil
	parts := [][]byte{w.h.Encode(), w.at.Labels, mean, table}
	if err := writeSynced(w.path+".tmp", parts...); err != nil {
		return err
	}
	if w.h.Shards() > 0 {
		for s := range w.h.Shards() {
			if err := os.Rename(w.pixelsPath(s), w.h.ShardName(w.path, s)); err != nil {
				return err
			}
		}
	} else {
		out, err := os.OpenFile(w.path+".tmp", os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		err = w.eachPixels(func(f *os.File) error { _, err := io.Copy(out, f); return err })
		if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
			return err
		}
	}
	if err := os.Rename(w.path+".tmp", w.path); err != nil {
		return err
	}
	w.remove()
	w.removeOlder()
	return syncDirectory(filepath.Dir(w.path))
}

// removeOlder takes away the files of pixels of a pack that was under this name before.
func (w *writer) removeOlder() {
	all, _ := filepath.Glob(escape(w.path) + ".????????.????*") // the pattern is sound
	for _, p := range all {
		var id uint32
		var n int
		_, err := fmt.Sscanf(p[len(w.path)+1:], "%08x.%d", &id, &n)
		if err == nil && (id != binary.BigEndian.Uint32(w.h.ID[:]) || n >= w.h.Shards()) {
			os.Remove(p)
		}
	}
}

// syncDirectory makes a rename in a directory durable.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
