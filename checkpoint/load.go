package checkpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/zeebo/xxh3"
	bolt "go.etcd.io/bbolt"
)

// Want is what a file must be. Bytes and SHA256 come from the manifest; zero values are not compared, and then only the
// chunks' checksums stand between a damaged file and the state.
type Want struct {
	Meta   Meta // Generation is not compared
	Bytes  int64
	SHA256 [32]byte
}

// Load reads a checkpoint file into the tensors that `into` returns for each name and shape, and verifies all of it:
// size and SHA-256 first, since a damaged database may crash its reader, then what it is of, every chunk, and the
// digest of the whole. After an error the tensors hold anything. The error names the file, the reason and what to do.
func Load(ctx context.Context, path string, want Want,
	into func(name string, shape []int) ([]float32, error)) (Meta, error) {
	m, _, err := load(ctx, path, want, into)
	return m, err
}

// Verify is Load without keeping the state; it returns what a manifest would keep, but for Path.
func Verify(ctx context.Context, path string, want Want) (Meta, Info, error) {
	return load(ctx, path, want, func(_ string, shape []int) ([]float32, error) {
		n, err := volume(shape)
		if err != nil {
			return nil, err
		}
		return make([]float32, n), nil
	})
}

func load(ctx context.Context, path string, want Want,
	into func(string, []int) ([]float32, error)) (m Meta, info Info, err error) {
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("checkpoint file %s: %w; resume from another step, see: coordinator checkpoint list JOB", path, err)
		}
	}()
	stat, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, info, ErrMissing
	}
	if err != nil {
		return m, info, err
	}
	if want.Bytes != 0 && stat.Size() != want.Bytes {
		return m, info, fmt.Errorf("%w: %d bytes instead of %d", ErrCorrupt, stat.Size(), want.Bytes)
	}
	if info.Bytes, info.SHA256, err = hashFile(ctx, path); err != nil {
		return m, info, err
	}
	if want.SHA256 != ([32]byte{}) && info.SHA256 != want.SHA256 {
		return m, info, fmt.Errorf("%w: SHA-256 %x instead of %x", ErrCorrupt, info.SHA256[:6], want.SHA256[:6])
	}
	m, info.Digest, err = readFile(ctx, path, want, into)
	return m, info, err
}

// readFile reads the database. Damage that no checksum has caught before may make bbolt panic or touch memory beyond
// the file's end: both become errors.
func readFile(ctx context.Context, path string, want Want, into func(string, []int) ([]float32, error)) (
	m Meta, digest [32]byte, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: its database cannot be read: %v", ErrCorrupt, r)
		}
	}()
	// Mapped populated: bbolt advises random access, which makes a cold file thirty times slower to read.
	db, err := bolt.Open(path, 0o444, &bolt.Options{ReadOnly: true, MmapFlags: syscall.MAP_POPULATE, Timeout: time.Second})
	if err != nil {
		return m, digest, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) (err error) {
		if m, digest, err = readMeta(tx); err != nil {
			return err
		}
		if err := matches(m, want.Meta); err != nil {
			return err
		}
		tensors, err := readTensors(ctx, tx, into)
		if err != nil {
			return err
		}
		if got := Digest(tensors); got != digest {
			return fmt.Errorf("%w: digest %x instead of %x", ErrCorrupt, got[:6], digest[:6])
		}
		return nil
	})
	return m, digest, err
}

// matches says whether a file is of what is wanted.
func matches(m, want Meta) error {
	for _, c := range []struct {
		what      string
		got, want any
	}{
		{"job", m.Job, want.Job},
		{"step", m.Step, want.Step},
		{"replica", m.Replica, want.Replica},
		{"column", m.Column, want.Column},
		{"plan", fmt.Sprintf("%x", m.PlanDigest[:6]), fmt.Sprintf("%x", want.PlanDigest[:6])},
		{"numerics", m.Numerics, want.Numerics},
	} {
		if c.got != c.want {
			return fmt.Errorf("%w: %s %v instead of %v", ErrMismatch, c.what, c.got, c.want)
		}
	}
	if m.PlanDigest != want.PlanDigest {
		return fmt.Errorf("%w: another plan", ErrMismatch)
	}
	return nil
}

// volume is the number of values of a shape, if it is a sensible one.
func volume(shape []int) (int, error) {
	n := 1
	for _, d := range shape {
		if d < 1 || n > (1<<33)/d {
			return 0, fmt.Errorf("%w: a tensor of shape %v", ErrCorrupt, shape)
		}
		n *= d
	}
	return n, nil
}

func readTensors(ctx context.Context, tx *bolt.Tx, into func(string, []int) ([]float32, error)) ([]Tensor, error) {
	all := tx.Bucket(bucketTensors)
	if all == nil {
		return nil, fmt.Errorf("%w: no %s", ErrCorrupt, bucketTensors)
	}
	var out []Tensor
	room := tx.Size() // a damaged shape must not ask for more memory than the file can fill
	for i := 0; ; i++ {
		b := all.Bucket(key(i))
		if b == nil {
			return out, nil
		}
		t := Tensor{Name: string(b.Get(keyName)), Shape: decodeShape(b.Get(keyShape))}
		n, err := volume(t.Shape)
		if err != nil {
			return nil, err
		}
		if room -= 4 * int64(n); room < 0 {
			return nil, fmt.Errorf("%w: tensor %s of shape %v does not fit into the file", ErrCorrupt, t.Name, t.Shape)
		}
		if t.Data, err = into(t.Name, slices.Clone(t.Shape)); err != nil {
			return nil, err
		}
		if len(t.Data) != n {
			return nil, fmt.Errorf("%w: tensor %s has shape %v, %d values are wanted", ErrMismatch, t.Name, t.Shape, len(t.Data))
		}
		if err := readChunks(ctx, b, t); err != nil {
			return nil, fmt.Errorf("tensor %s: %w", t.Name, err)
		}
		out = append(out, t)
	}
}

func readChunks(ctx context.Context, b *bolt.Bucket, t Tensor) error {
	chunks, sums := b.Bucket(bucketChunks), b.Bucket(bucketSums)
	if chunks == nil || sums == nil {
		return fmt.Errorf("%w: no chunks", ErrCorrupt)
	}
	rest := t.Data
	for c := 0; len(rest) > 0; c++ {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		data, sum := chunks.Get(key(c)), sums.Get(key(c))
		n := min(len(rest), chunkBytes/4)
		if len(data) != 4*n || len(sum) != 8 {
			return fmt.Errorf("%w: chunk %d has %d bytes instead of %d", ErrCorrupt, c, len(data), 4*n)
		}
		if xxh3.Hash(data) != binary.LittleEndian.Uint64(sum) {
			return fmt.Errorf("%w: checksum of chunk %d does not match", ErrCorrupt, c)
		}
		putLittleEndian(rest[:n], data)
		rest = rest[n:]
	}
	return nil
}
