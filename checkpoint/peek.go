package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Peek reads some tensors of a checkpoint file, into what `into` returns for each name and shape; nil passes one over.
// Only what it reads is verified, chunk by chunk: it is for pictures, and nothing is trained or exported from it. It
// touches little of a large file.
func Peek(ctx context.Context, path string, want Want, into func(name string, shape []int) []float32) error {
	stat, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("checkpoint file %s: %w", path, ErrMissing)
	case err != nil:
		return fmt.Errorf("checkpoint file %s: %w", path, err)
	case want.Bytes != 0 && stat.Size() != want.Bytes:
		return fmt.Errorf("checkpoint file %s: %w: %d bytes instead of %d", path, ErrCorrupt, stat.Size(), want.Bytes)
	}
	err = inFile(path, 0, func(tx *bolt.Tx) error {
		m, digest, err := readMeta(tx)
		if err != nil {
			return err
		}
		if err := matches(m, want.Meta); err != nil {
			return err
		}
		if want.Digest != ([32]byte{}) && digest != want.Digest {
			return fmt.Errorf("%w: digest %x instead of %x", ErrMismatch, digest[:6], want.Digest[:6])
		}
		return peekTensors(ctx, tx, into)
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("checkpoint file %s: %w", path, err)
	}
	return err
}

func peekTensors(ctx context.Context, tx *bolt.Tx, into func(string, []int) []float32) error {
	all := tx.Bucket(bucketTensors)
	if all == nil {
		return fmt.Errorf("%w: no %s", ErrCorrupt, bucketTensors)
	}
	for i := 0; ; i++ {
		b := all.Bucket(key(i))
		if b == nil {
			return nil
		}
		t := Tensor{Name: string(b.Get(keyName)), Shape: decodeShape(b.Get(keyShape))}
		n, err := volume(t.Shape)
		if err != nil {
			return err
		}
		if t.Data = into(t.Name, slices.Clone(t.Shape)); t.Data == nil {
			continue
		}
		if len(t.Data) != n {
			return fmt.Errorf("%w: tensor %s has shape %v, %d values are wanted", ErrMismatch, t.Name, t.Shape, len(t.Data))
		}
		if err := readChunks(ctx, b, t, newDigester()); err != nil {
			return fmt.Errorf("tensor %s: %w", t.Name, err)
		}
	}
}
