package checkpoint

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/zeebo/xxh3"
	bolt "go.etcd.io/bbolt"
)

// Want is what a file must be. All but Meta comes from the manifest; zero values are not compared, and then only the
// chunks' checksums stand between a damaged file and the state.
type Want struct {
	Meta   Meta // Generation is not compared, nor are Numerics if they are empty
	Bytes  int64
	XXH3   [16]byte // of the file
	SHA256 [32]byte // of the file: what manifests of old have instead of XXH3
	Digest [32]byte // of the state
}

// Promised is what a manifest says of a file: its length, its checksum (XXH3 of 128 bits, or SHA-256 in manifests of
// old) and the digest of the state in it. Meta is left to the caller.
func Promised(bytes int64, xxh3, sha256, digest []byte) (w Want, err error) {
	switch {
	case len(digest) != len(w.Digest):
		return w, fmt.Errorf("a digest of %d bytes instead of %d", len(digest), len(w.Digest))
	case len(xxh3) == len(w.XXH3):
		w.XXH3 = [16]byte(xxh3)
	case len(xxh3) == 0 && len(sha256) == len(w.SHA256):
		w.SHA256 = [32]byte(sha256)
	default:
		return w, fmt.Errorf("no checksum of the file: XXH3 of %d bytes, SHA-256 of %d", len(xxh3), len(sha256))
	}
	w.Bytes, w.Digest = bytes, [32]byte(digest)
	return w, nil
}

// Load reads a checkpoint file into the tensors that `into` returns for each name and shape, and verifies all of it:
// size and the file's checksum first, since a damaged database may crash its reader, then what it is of, every chunk,
// and the digest of the whole. After an error the tensors hold anything. The error names the file, the reason and what
// to do.
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
	if info.Bytes, info.XXH3, err = checkFile(ctx, path, want); err != nil {
		return m, info, err
	}
	m, info.Digest, err = readFile(ctx, path, want, into)
	return m, info, err
}

// checkFile compares the file as it lies with what is wanted of it.
func checkFile(ctx context.Context, path string, want Want) (n int64, got [16]byte, err error) {
	sum, old := xxh3.New(), sha256.New()
	into := io.Writer(sum)
	if want.SHA256 != ([32]byte{}) {
		into = io.MultiWriter(sum, old)
	}
	if n, err = hashFile(ctx, path, into, func(piece func()) { piece() }); err != nil {
		return 0, got, err
	}
	got = sum.Sum128().Bytes()
	if want.XXH3 != ([16]byte{}) && got != want.XXH3 {
		return n, got, fmt.Errorf("%w: XXH3 %x instead of %x", ErrCorrupt, got[:6], want.XXH3[:6])
	}
	if want.SHA256 != ([32]byte{}) && [32]byte(old.Sum(nil)) != want.SHA256 {
		return n, got, fmt.Errorf("%w: SHA-256 %x instead of %x", ErrCorrupt, old.Sum(nil)[:6], want.SHA256[:6])
	}
	return n, got, nil
}

// inFile reads the database. Damage that no checksum has caught before may make bbolt panic or touch memory beyond the
// file's end: both become errors.
func inFile(path string, flags int, read func(*bolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: its database cannot be read: %v", ErrCorrupt, r)
		}
	}()
	db, err := bolt.Open(path, 0o444, &bolt.Options{ReadOnly: true, MmapFlags: flags, Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	defer db.Close()
	return db.View(read)
}

// readFile reads all of a file.
func readFile(ctx context.Context, path string, want Want, into func(string, []int) ([]float32, error)) (
	m Meta, digest [32]byte, err error) {
	// Mapped populated: bbolt advises random access, which makes a cold file thirty times slower to read.
	err = inFile(path, syscall.MAP_POPULATE, func(tx *bolt.Tx) (err error) {
		if m, digest, err = readMeta(tx); err != nil {
			return err
		}
		if err := matches(m, want.Meta); err != nil {
			return err
		}
		if want.Digest != ([32]byte{}) && digest != want.Digest {
			return fmt.Errorf("%w: digest %x instead of %x", ErrMismatch, digest[:6], want.Digest[:6])
		}
		got, err := readTensors(ctx, tx, into)
		if err != nil {
			return err
		}
		if got != digest {
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
		{"numerics", m.Numerics, cmp.Or(want.Numerics, m.Numerics)},
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

// readTensors reads all tensors and gives their digest.
func readTensors(ctx context.Context, tx *bolt.Tx, into func(string, []int) ([]float32, error)) (
	digest [32]byte, err error) {
	all := tx.Bucket(bucketTensors)
	if all == nil {
		return digest, fmt.Errorf("%w: no %s", ErrCorrupt, bucketTensors)
	}
	sum := newDigester()
	room := tx.Size() // a damaged shape must not ask for more memory than the file can fill
	for i := 0; ; i++ {
		b := all.Bucket(key(i))
		if b == nil {
			return sum.sum(), nil
		}
		t := Tensor{Name: string(b.Get(keyName)), Shape: decodeShape(b.Get(keyShape))}
		n, err := volume(t.Shape)
		if err != nil {
			return digest, err
		}
		if room -= 4 * int64(n); room < 0 {
			return digest, fmt.Errorf("%w: tensor %s of shape %v does not fit into the file", ErrCorrupt, t.Name, t.Shape)
		}
		if t.Data, err = into(t.Name, slices.Clone(t.Shape)); err != nil {
			return digest, err
		}
		if len(t.Data) != n {
			return digest, fmt.Errorf("%w: tensor %s has shape %v, %d values are wanted", ErrMismatch, t.Name, t.Shape,
				len(t.Data))
		}
		sum.tensor(t)
		if err := readChunks(ctx, b, t, sum); err != nil {
			return digest, fmt.Errorf("tensor %s: %w", t.Name, err)
		}
	}
}

func readChunks(ctx context.Context, b *bolt.Bucket, t Tensor, digest digester) error {
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
		digest.bytes(data)
		rest = rest[n:]
	}
	return nil
}
