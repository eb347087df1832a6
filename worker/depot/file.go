package depot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"colonnade/shard/pack"
)

// temporary is what the names of files end in that are not a pack yet.
const temporary = ".fetch.tmp"

// retryClaim is how often a pack that another fetches is looked at.
const retryClaim = 100 * time.Millisecond

// claim opens the file of the header and locks it. Whoever had the lock before may have renamed or removed the file:
// then it is opened anew.
func (f *fetching) claim(ctx context.Context) error {
	tick := time.NewTicker(retryClaim)
	defer tick.Stop()
	for {
		file, err := os.OpenFile(f.path+temporary, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return f.full(err)
		}
		switch err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil && sameFile(file):
			f.main = file
			return nil
		case err != nil && !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			return errors.Join(fmt.Errorf("lock %s: %w", file.Name(), err), file.Close())
		}
		file.Close()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func sameFile(file *os.File) bool {
	a, err := file.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(file.Name())
	return err == nil && os.SameFile(a, b)
}

func (f *fetching) release() { f.main.Close() }

// remove takes away all that is not a pack yet.
func (f *fetching) remove() {
	f.empty()
	os.Remove(f.path + temporary)
}

// empty throws away what was fetched.
func (f *fetching) empty() {
	_ = f.main.Truncate(0)                                           // what is left is looked at again
	parts, _ := filepath.Glob(f.path + ".????????.????" + temporary) // the pattern is sound: the name has no letters of it
	for _, p := range parts {
		os.Remove(p)
	}
}

func (f *fetching) partName(shard int) string { return f.h.ShardName(f.path, shard) + temporary }

// part is the pixels in one file.
type part struct {
	file  *os.File
	index uint32 // as the wire counts files
	at    int64  // where in the file they begin
	first int    // chunk
	bytes int64
	own   bool
}

func (f *fetching) openPart(shard int) (*part, error) {
	if f.h.Shards() == 0 {
		return &part{file: f.main, at: f.h.PixelsAt(), bytes: int64(f.h.Images) * int64(f.h.ImageBytes())}, nil
	}
	from, to := f.h.ShardImages(shard)
	file, err := os.OpenFile(f.partName(shard), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, f.full(err)
	}
	return &part{file: file, index: uint32(shard) + 1, first: from / f.h.Extra.Chunk,
		bytes: int64(to-from) * int64(f.h.ImageBytes()), own: true}, nil
}

func (p *part) close() error {
	if !p.own {
		return nil
	}
	return errors.Join(p.file.Sync(), p.file.Close())
}

// chunkBytes is the size of the chunk that begins so many bytes into a part.
func (f *fetching) chunkBytes(p *part, at int64) int64 {
	if f.h.Extra == nil {
		return p.bytes
	}
	return min(int64(f.h.Extra.Chunk)*int64(f.h.ImageBytes()), p.bytes-at)
}

// sound says whether the chunk that begins so many bytes into a part has the hash that the table says.
func (f *fetching) sound(p *part, at int64, sum hash.Hash) (bool, error) {
	if f.h.Extra == nil {
		return true, nil // version 1: the whole is known by its identity, no part is
	}
	n := int64(p.first) + at/(int64(f.h.Extra.Chunk)*int64(f.h.ImageBytes()))
	want := make([]byte, sha256.Size)
	if _, err := f.main.ReadAt(want, f.h.TableAt()+sha256.Size*n); err != nil {
		return false, fmt.Errorf("read the table: %w", err)
	}
	return bytes.Equal(sum.Sum(nil), want), nil
}

// fill fetches what a part lacks: all behind the last chunk that is here and sound. A chunk that is not what the table
// says is thrown away, and its peer with it. Memory is a piece at a time, however large chunks are.
func (f *fetching) fill(from *source, p *part, tell func(int64)) error {
	at, err := f.have(from.ctx, p)
	if err != nil {
		return err
	}
	if err := p.file.Truncate(p.at + at); err != nil {
		return f.full(err)
	}
	tell(at)
	if at == p.bytes {
		return nil
	}
	in, err := from.open(p.index, p.at+at)
	if err != nil {
		return err
	}
	defer in.close()
	buf := make([]byte, pieceBytes)
	for at < p.bytes {
		sum, size, begin := sha256.New(), f.chunkBytes(p, at), at
		for at < begin+size {
			n, err := in.Read(buf[:min(int64(len(buf)), begin+size-at)])
			if n > 0 {
				sum.Write(buf[:n])
				if _, err := p.file.WriteAt(buf[:n], p.at+at); err != nil {
					return f.full(err)
				}
				at += int64(n)
				f.got += int64(n)
				tell(at)
			}
			if in.err != nil {
				return in.err
			}
			if err != nil && at < begin+size {
				return fmt.Errorf("%w: its pixels end after %d of %d bytes", ErrWrong, at, p.bytes)
			}
		}
		ok, err := f.sound(p, begin, sum)
		if err != nil {
			return err
		}
		if !ok {
			f.got -= size // nothing has been got
			return errors.Join(fmt.Errorf("%w: a chunk of its pixels, at byte %d, does not have the hash of its table",
				ErrWrong, begin), p.file.Truncate(p.at+begin))
		}
	}
	return nil
}

// have is how many bytes of a part are here and sound.
func (f *fetching) have(ctx context.Context, p *part) (int64, error) {
	if f.h.Extra == nil {
		return 0, nil
	}
	here := min(fileBytes(p.file.Name())-p.at, p.bytes)
	buf := make([]byte, pieceBytes)
	at := int64(0)
	for at < here {
		size := f.chunkBytes(p, at)
		if at+size > here {
			break
		}
		sum := sha256.New()
		if _, err := io.CopyBuffer(onlyWriter{sum}, io.NewSectionReader(p.file, p.at+at, size), buf); err != nil {
			return 0, fmt.Errorf("read %s: %w", p.file.Name(), err)
		}
		ok, err := f.sound(p, at, sum)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		at += size
	}
	return at, nil
}

// onlyWriter keeps io.CopyBuffer to its buffer.
type onlyWriter struct{ io.Writer }

// identify hashes all that is here into the identity, and counts the sums that the header has, which the identity does
// not cover: they follow from the pixels, and colour noise is made of them.
func (f *fetching) identify(ctx context.Context) error {
	h := f.h
	id := h.NewIdentity()
	buf := make([]byte, pieceBytes)
	if _, err := io.CopyBuffer(onlyWriter{id}, io.NewSectionReader(f.main, h.LabelsAt(), h.TableAt()-h.LabelsAt()),
		buf); err != nil {
		return fmt.Errorf("read what was fetched: %w", err)
	}
	var count *pack.Sums
	if h.Extra != nil {
		count = pack.NewSums(h.Channels, h.Height*h.Width)
	}
	for i := range max(h.Shards(), 1) {
		p, err := f.openPart(i)
		if err != nil {
			return err
		}
		err = hashPixels(ctx, p, buf, id, count)
		if err := errors.Join(err, p.close()); err != nil {
			return fmt.Errorf("read what was fetched: %w", err)
		}
	}
	switch {
	case !bytes.Equal(id.Sum(nil), f.want.ID[:]):
		return fmt.Errorf("%w: all of it together does not have the identity", ErrWrong)
	case count != nil && !count.Are(h.Extra):
		return fmt.Errorf("%w: the sums of colours in its header are not those of its pixels", ErrWrong)
	}
	return nil
}

func hashPixels(ctx context.Context, p *part, buf []byte, id hash.Hash, count *pack.Sums) error {
	in := io.NewSectionReader(p.file, p.at, p.bytes)
	for {
		n, err := in.Read(buf)
		id.Write(buf[:n])
		if count != nil {
			count.Add(buf[:n])
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
}

// finish makes the files durable and gives them their names, that of the header last: without it there is no pack.
func (f *fetching) finish() error {
	err := f.main.Truncate(f.h.FileBytes())
	if err == nil {
		err = f.main.Sync()
	}
	for s := range f.h.Shards() {
		if err == nil {
			err = os.Rename(f.partName(s), f.h.ShardName(f.path, s))
		}
	}
	if err == nil {
		err = os.Rename(f.path+temporary, f.path)
	}
	if err == nil {
		err = syncDirectory(f.cfg.Directory)
	}
	if err != nil {
		return f.full(err)
	}
	return nil
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
