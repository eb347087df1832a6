package checkpoint

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/zeebo/xxh3"
	bolt "go.etcd.io/bbolt"
)

// Write makes a cell's state a durable file below root, under the name that Path gives, and returns what a manifest
// keeps of it. The file appears under its name only when it is whole; on an error nothing is left but what was there.
// The tensors must not change meanwhile. All that takes processor time is run by `do`, nil for at once.
func Write(ctx context.Context, root string, m Meta, tensors []Tensor, do Do) (info Info, err error) {
	if do == nil {
		do = func(piece func()) { piece() }
	}
	name, err := Path(m)
	if err != nil {
		return Info{}, err
	}
	path := filepath.Join(root, filepath.FromSlash(name))
	defer func() {
		if err != nil {
			os.Remove(path + ".tmp")
			os.Remove(filepath.Dir(path)) // if nothing else is in it
			err = fmt.Errorf("write checkpoint %s: %w%s", path, err, hint(err))
		}
	}()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return Info{}, err
	}
	info.Path = name
	if info.Digest, err = writeFile(ctx, path+".tmp", m, tensors, do); err != nil {
		return Info{}, err
	}
	sum := xxh3.New()
	if info.Bytes, err = hashFile(ctx, path+".tmp", sum, do); err != nil {
		return Info{}, err
	}
	info.XXH3 = sum.Sum128().Bytes()
	if err := os.Rename(path+".tmp", path); err != nil {
		return Info{}, err
	}
	// The directories may be new too: make every name on the way durable, up to the root's own.
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if err := syncDirectory(dir); err != nil {
			return Info{}, err
		}
		if dir == filepath.Clean(root) || dir == filepath.Dir(dir) {
			return info, nil
		}
	}
}

// hint says what to do about a failed write, where that is known.
func hint(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return "; free some space there"
	case errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS):
		return "; make the directory writable, or use another one"
	}
	return ""
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeFile fills a new database: chunks in transactions that are not synced one by one, the digest in the last, one
// sync at the end. InitialMmapSize spares the copies that growing the map would make of everything pending.
func writeFile(ctx context.Context, path string, m Meta, tensors []Tensor, do Do) (digest [32]byte, err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return digest, err
	}
	total := 0
	for _, t := range tensors {
		if len(t.Data) == 0 || t.Name == "" {
			return digest, fmt.Errorf("tensor %q is empty", t.Name)
		}
		total += 4 * len(t.Data)
	}
	db, err := bolt.Open(path, 0o644, &bolt.Options{InitialMmapSize: total + total/4 + 1<<20, NoFreelistSync: true,
		FreelistType: bolt.FreelistMapType, NoSync: true, NoGrowSync: true})
	if err != nil {
		return digest, err
	}
	defer func() {
		if cerr := db.Close(); err == nil {
			err = cerr
		}
	}()
	w := &chunkWriter{db: db, digest: newDigester(), do: do}
	if err := w.all(ctx, m, tensors); err != nil {
		if w.tx != nil {
			_ = w.tx.Rollback() // it is closed already if its commit failed
		}
		return digest, err
	}
	do(func() { err = db.Sync() })
	return w.digest.sum(), err
}

// chunkWriter writes tensors in transactions of bounded size.
type chunkWriter struct {
	db      *bolt.DB
	tx      *bolt.Tx
	pending int
	digest  digester // of the tensors so far
	do      Do
}

func (w *chunkWriter) all(ctx context.Context, m Meta, tensors []Tensor) (err error) {
	if w.tx, err = w.db.Begin(true); err != nil {
		return err
	}
	meta, err := w.tx.CreateBucket(bucketMeta)
	if err != nil {
		return err
	}
	header, err := json.Marshal(m)
	if err != nil {
		return err
	}
	err = errors.Join(meta.Put(keyVersion, binary.LittleEndian.AppendUint32(nil, Version)), meta.Put(keyHeader, header))
	if err != nil {
		return err
	}
	if _, err := w.tx.CreateBucket(bucketTensors); err != nil {
		return err
	}
	for i, t := range tensors {
		if err := w.tensor(ctx, i, t); err != nil {
			return err
		}
	}
	digest := w.digest.sum()
	if err := w.tx.Bucket(bucketMeta).Put(keyDigest, digest[:]); err != nil {
		return err
	}
	return w.commit()
}

// commit ends a transaction, which copies all of it into pages and gives them to the system.
func (w *chunkWriter) commit() (err error) {
	w.do(func() { err = w.tx.Commit() })
	return err
}

func (w *chunkWriter) tensor(ctx context.Context, index int, t Tensor) error {
	b, err := w.tx.Bucket(bucketTensors).CreateBucket(key(index))
	if err != nil {
		return err
	}
	if err := errors.Join(b.Put(keyName, []byte(t.Name)), b.Put(keyShape, encodeShape(t.Shape))); err != nil {
		return err
	}
	for _, sub := range [][]byte{bucketChunks, bucketSums} {
		if _, err := b.CreateBucket(sub); err != nil {
			return err
		}
	}
	w.digest.tensor(t)
	data := littleEndian(t.Data)
	for c := 0; len(data) > 0; c++ {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n := min(len(data), chunkBytes)
		if err := w.chunk(index, c, data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func (w *chunkWriter) chunk(index, c int, data []byte) (err error) {
	if w.pending+len(data) > transactionBytes {
		if err := w.commit(); err != nil {
			return err
		}
		if w.tx, err = w.db.Begin(true); err != nil {
			w.tx = nil
			return err
		}
		w.pending = 0
	}
	w.pending += len(data)
	b := w.tx.Bucket(bucketTensors).Bucket(key(index))
	chunks := b.Bucket(bucketChunks)
	chunks.FillPercent = 1
	var sum []byte
	w.do(func() {
		sum = binary.LittleEndian.AppendUint64(nil, xxh3.Hash(data))
		w.digest.bytes(data)
	})
	return errors.Join(chunks.Put(key(c), data), b.Bucket(bucketSums).Put(key(c), sum))
}
