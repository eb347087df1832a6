package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"math"
	"os"
	"unsafe"
)

// Digest is the SHA-256 of a state: for each tensor in the order given, the length of its name (uint32), the name, the
// number of its dimensions (uint32), each of them (uint32), and its values (float32), all little-endian.
func Digest(tensors []Tensor) [32]byte {
	d := newDigester()
	for _, t := range tensors {
		d.tensor(t)
		d.bytes(littleEndian(t.Data))
	}
	return d.sum()
}

// digester makes a Digest as the values come by.
type digester struct{ h hash.Hash }

func newDigester() digester { return digester{h: sha256.New()} }

// tensor begins a tensor; its values follow.
func (d digester) tensor(t Tensor) {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(t.Name)))
	b = append(b, t.Name...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(t.Shape)))
	d.h.Write(append(b, encodeShape(t.Shape)...))
}

// bytes adds values of the tensor begun last, little-endian.
func (d digester) bytes(b []byte) { d.h.Write(b) }

func (d digester) sum() [32]byte { return [32]byte(d.h.Sum(nil)) }

// Do runs one piece of work, of some 20 ms at most, and returns when it is done: by another thread, or later, as is
// convenient to whoever else wants the processors.
type Do func(piece func())

// hashFile feeds a file to a hash as it lies on disk and counts its bytes.
func hashFile(ctx context.Context, path string, h io.Writer, do Do) (n int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	// Small enough to be in the second cache still when it is hashed.
	buf := make([]byte, 256<<10)
	for err == nil {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		do(func() {
			for piece := 0; piece < chunkBytes && err == nil; {
				var k int
				k, err = f.Read(buf)
				_, _ = h.Write(buf[:k]) // a hash takes everything
				piece += k
				n += int64(k)
			}
		})
	}
	if errors.Is(err, io.EOF) {
		return n, nil
	}
	return 0, err
}

var hostIsLittleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// littleEndian gives the values' bytes: their own memory where the machine has them in this order.
func littleEndian(v []float32) []byte {
	if hostIsLittleEndian {
		return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
	}
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

// putLittleEndian decodes bytes into values.
func putLittleEndian(dst []float32, b []byte) {
	if hostIsLittleEndian {
		copy(littleEndian(dst), b)
		return
	}
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
}
