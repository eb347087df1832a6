package checkpoint

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// Version is the format's version.
const Version = 1

// One file is a bbolt database. Indented names lie in the bucket above; what has a colon is a value. A test holds this
// drawing against a file.
//
//	meta
//	  version: uint32, little-endian
//	  header: JSON of Meta
//	  digest: 32 bytes, Digest of the tensors; written in the last transaction: without it the file is not whole
//	tensors
//	  <tensor, uint32 big-endian from 0>
//	    name: UTF-8
//	    shape: uint32, little-endian, for each dimension
//	    chunks
//	      <chunk, uint32 big-endian from 0>: float32, little-endian; 1 MiB, the last one what is left
//	    sums
//	      <chunk, uint32 big-endian from 0>: uint64, little-endian, xxh3 of the chunk
var (
	bucketMeta    = []byte("meta")
	bucketTensors = []byte("tensors")
	bucketChunks  = []byte("chunks")
	bucketSums    = []byte("sums")
	keyVersion    = []byte("version")
	keyHeader     = []byte("header")
	keyDigest     = []byte("digest")
	keyName       = []byte("name")
	keyShape      = []byte("shape")
)

const (
	chunkBytes       = 1 << 20
	transactionBytes = 16 << 20 // written in one transaction, a piece of work of some 20 ms
)

func key(i int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(i)) }

func encodeShape(shape []int) []byte {
	var b []byte
	for _, d := range shape {
		b = binary.LittleEndian.AppendUint32(b, uint32(d))
	}
	return b
}

func decodeShape(b []byte) []int {
	var out []int
	for ; len(b) >= 4; b = b[4:] {
		out = append(out, int(binary.LittleEndian.Uint32(b)))
	}
	return out
}

// readMeta reads what the file says of itself.
func readMeta(tx *bolt.Tx) (m Meta, digest [32]byte, err error) {
	b := tx.Bucket(bucketMeta)
	if b == nil {
		return m, digest, fmt.Errorf("%w: no %s", ErrCorrupt, bucketMeta)
	}
	v := b.Get(keyVersion)
	if len(v) != 4 {
		return m, digest, fmt.Errorf("%w: no version", ErrCorrupt)
	}
	if got := binary.LittleEndian.Uint32(v); got != Version {
		return m, digest, fmt.Errorf("format %d, this program reads %d: %w", got, Version, ErrVersion)
	}
	if err := json.Unmarshal(b.Get(keyHeader), &m); err != nil {
		return m, digest, fmt.Errorf("%w: header: %w", ErrCorrupt, err)
	}
	d := b.Get(keyDigest)
	if len(d) != len(digest) {
		return m, digest, fmt.Errorf("%w: not written to its end", ErrCorrupt)
	}
	return m, [32]byte(d), nil
}
