package pack

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
)

// Extra is what version 2 adds to the header, little-endian between identity and checksum:
//
//	chunk     uint32  images of a chunk; the last may have fewer
//	shard     uint64  images of a file of pixels, a multiple of chunk; 0: the pixels follow the table
//	index     32 bytes SHA-256 of labels, mean and table
//	sums      uint64 x channels: of the pixels of each channel
//	products  uint64 x channels x (channels + 1) / 2: sums over all pixels of the product of channels c and d, for c
//	          from 0 and d from c up
//	made      uint16 length, UTF-8 bytes: what decoded and resized the images
//
// Sums are exact, and follow from the pixels; where they come from is not part of the identity, nor is the layout.
type Extra struct {
	Chunk    int
	Shard    int
	Index    [32]byte
	Sums     []uint64 // by channel
	Products []uint64 // by pair of channels, c <= d
	Made     string
}

const (
	fixedExtra = 4 + 8 + 32 + 2
	maxMade    = 1 << 10
	maxExtra   = fixedExtra + 8*64 + 8*64*65/2 + maxMade
)

func (e *Extra) bytes() int { return fixedExtra + 8*len(e.Sums) + 8*len(e.Products) + len(e.Made) }

func (e *Extra) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(e.Chunk))
	b = le.AppendUint64(b, uint64(e.Shard))
	b = append(b, e.Index[:]...)
	for _, all := range [][]uint64{e.Sums, e.Products} {
		for _, v := range all {
			b = le.AppendUint64(b, v)
		}
	}
	b = le.AppendUint16(b, uint16(len(e.Made)))
	return append(b, e.Made...)
}

// readExtra reads what follows the identity; it must be all of b.
func readExtra(b []byte, channels int) (*Extra, error) {
	le := binary.LittleEndian
	if channels < 1 || channels > 64 {
		return nil, fmt.Errorf("%w with images of %d channels", ErrPack, channels)
	}
	pairs := channels * (channels + 1) / 2
	if len(b) < fixedExtra+8*(channels+pairs) {
		return nil, fmt.Errorf("%w with a truncated header", ErrPack)
	}
	e := &Extra{Chunk: int(le.Uint32(b)), Shard: int(le.Uint64(b[4:]))}
	copy(e.Index[:], b[12:])
	b = b[12+len(e.Index):]
	words := make([]uint64, channels+pairs)
	for i := range words {
		words[i] = le.Uint64(b[8*i:])
	}
	e.Sums, e.Products = words[:channels:channels], words[channels:]
	b = b[8*len(words):]
	if int(le.Uint16(b)) != len(b)-2 {
		return nil, fmt.Errorf("%w with a damaged header (its origin)", ErrPack)
	}
	e.Made = string(b[2:])
	return e, nil
}

func (e *Extra) check(h *Header) error {
	pairs := h.Channels * (h.Channels + 1) / 2
	switch {
	case e.Chunk < 1 || e.Chunk > 1<<30:
		return fmt.Errorf("%w with chunks of %d images", ErrPack, e.Chunk)
	case e.Shard < 0 || e.Shard%e.Chunk != 0 || h.Shards() > MaxShards:
		return fmt.Errorf("%w with %d images a file", ErrPack, e.Shard)
	case len(e.Sums) != h.Channels || len(e.Products) != pairs:
		return fmt.Errorf("%w with %d sums and %d products of %d channels", ErrPack, len(e.Sums), len(e.Products), h.Channels)
	case len(e.Made) > maxMade:
		return fmt.Errorf("%w with an origin of %d bytes", ErrPack, len(e.Made))
	case int64(h.Images) > MaxPixels/int64(h.Height*h.Width):
		return fmt.Errorf("%w of more than 2^48 pixels: the sums of their products do not fit", ErrPack)
	}
	return nil
}

// MaxPixels of a pack, height x width x images: so many products of two bytes fit in 64 bits.
const MaxPixels = int64(1) << 48

// MaxShards is how many files the pixels may lie in.
const MaxShards = 1 << 16

// Chunks is the number of chunks in the table; 0 for version 1.
func (h *Header) Chunks() int {
	if h.Extra == nil {
		return 0
	}
	return (h.Images + h.Extra.Chunk - 1) / h.Extra.Chunk
}

// ChunkImages gives the images [from, to) of a chunk.
func (h *Header) ChunkImages(chunk int) (from, to int) {
	return chunk * h.Extra.Chunk, min(h.Images, (chunk+1)*h.Extra.Chunk)
}

// Shards is the number of files that the pixels lie in; 0: they are in the file of the header.
func (h *Header) Shards() int {
	if h.Extra == nil || h.Extra.Shard == 0 {
		return 0
	}
	return (h.Images-1)/h.Extra.Shard + 1
}

// ShardImages gives the images [from, to) of a file of pixels.
func (h *Header) ShardImages(shard int) (from, to int) {
	return shard * h.Extra.Shard, min(h.Images, (shard+1)*h.Extra.Shard)
}

// ShardName is the path of a file of pixels of the pack at path. It names the identity, so that an old pack and a new
// one can lie under one name until the new one is whole.
func (h *Header) ShardName(path string, shard int) string {
	return filepath.Join(filepath.Dir(path), fmt.Sprintf("%s.%x.%04d", filepath.Base(path), h.ID[:4], shard))
}

// Product is the sum over all pixels of channel c times channel d.
func (e *Extra) Product(c, d int) uint64 {
	if c > d {
		c, d = d, c
	}
	n := len(e.Sums)
	return e.Products[c*n-c*(c-1)/2+d-c]
}
