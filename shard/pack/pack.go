// Package pack is the header of a pack file: what a job must know of a dataset, readable without the images.
//
// A pack is, little-endian:
//
//	magic     8 bytes  "colpack\x00"
//	version   uint32   1
//	header    uint32   bytes of the header, from the magic to the checksum
//	images    uint64
//	channels  uint32
//	height    uint32
//	width     uint32
//	classes   uint32
//	names     for every class: uint16 length, UTF-8 bytes
//	identity  32 bytes SHA-256, see NewIdentity
//	checksum  uint32   CRC-32 (IEEE) of the header before it
//	labels    uint16 x images
//	mean      float32 x channels x height x width: the mean image, each value the exact mean rounded once
//	pixels    uint8 x images x channels x height x width
//
// Version 2 has more between identity and checksum, see Extra, and after the mean a table: the SHA-256 of every chunk
// of pixels. Its pixels may lie in files beside it, see ShardName. The identity is computed as for version 1: what a
// dataset is does not depend on how it is laid out.
package pack

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"unicode/utf8"
)

// ErrPack is wrapped by every refusal of a pack.
var ErrPack = errors.New("pack")

// Version is the newest version of the format. Version 1 is still read.
const Version = 2

const (
	magic      = "colpack\x00"
	fixedBytes = 8 + 4 + 4 + 8 + 4*4
	maxClasses = 1 << 16
	maxName    = 1 << 10
	maxSide    = 1 << 16
	maxImages  = 1 << 40
)

// Header is what a pack says of itself.
type Header struct {
	Images   int
	Channels int
	Height   int
	Width    int
	Classes  []string // names, by label
	ID       [32]byte
	Extra    *Extra // nil: version 1
}

// ImageBytes is the size of one image.
func (h *Header) ImageBytes() int { return h.Channels * h.Height * h.Width }

// Bytes is the size of the encoded header.
func (h *Header) Bytes() int {
	n := fixedBytes + 32 + 4
	for _, c := range h.Classes {
		n += 2 + len(c)
	}
	if h.Extra != nil {
		n += h.Extra.bytes()
	}
	return n
}

// LabelsAt, MeanAt, TableAt, PixelsAt and FileBytes are offsets in the file.
func (h *Header) LabelsAt() int64 { return int64(h.Bytes()) }
func (h *Header) MeanAt() int64   { return h.LabelsAt() + 2*int64(h.Images) }
func (h *Header) TableAt() int64  { return h.MeanAt() + 4*int64(h.ImageBytes()) }
func (h *Header) PixelsAt() int64 { return h.TableAt() + sha256.Size*int64(h.Chunks()) }

// FileBytes is the size of the file that the header is in.
func (h *Header) FileBytes() int64 {
	if h.Shards() > 0 {
		return h.PixelsAt()
	}
	return h.PixelsAt() + int64(h.Images)*int64(h.ImageBytes())
}

// NewIdentity returns the hash that gives a dataset its identity, fed with the description of the pack already, as
// version 1 has it. Labels, mean and pixels must follow as they lie in the file.
func (h *Header) NewIdentity() hash.Hash {
	first := *h
	first.Extra = nil
	s := sha256.New()
	s.Write(first.prefix())
	return s
}

// Check says whether the numbers make a pack.
func (h *Header) Check() error {
	switch {
	case h.Images < 1 || h.Images > maxImages:
		return fmt.Errorf("%w with %d images", ErrPack, h.Images)
	case h.Channels < 1 || h.Channels > 64 || h.Height < 1 || h.Height > maxSide || h.Width < 1 || h.Width > maxSide:
		return fmt.Errorf("%w with images of %dx%dx%d", ErrPack, h.Channels, h.Height, h.Width)
	case h.ImageBytes() > 1<<30 || int64(h.Images) > (1<<62)/int64(h.ImageBytes()):
		return fmt.Errorf("%w of %d images of %d bytes is too large", ErrPack, h.Images, h.ImageBytes())
	case len(h.Classes) < 1 || len(h.Classes) > maxClasses:
		return fmt.Errorf("%w with %d classes", ErrPack, len(h.Classes))
	}
	for _, c := range h.Classes {
		if len(c) == 0 || len(c) > maxName || !utf8.ValidString(c) {
			return fmt.Errorf("%w with the class name %q", ErrPack, c)
		}
	}
	if h.Extra != nil {
		return h.Extra.check(h)
	}
	return nil
}

func (h *Header) version() uint32 {
	if h.Extra != nil {
		return 2
	}
	return 1
}

// prefix is the header up to the identity.
func (h *Header) prefix() []byte {
	le := binary.LittleEndian
	b := []byte(magic)
	b = le.AppendUint32(b, h.version())
	b = le.AppendUint32(b, uint32(h.Bytes()))
	b = le.AppendUint64(b, uint64(h.Images))
	for _, v := range []int{h.Channels, h.Height, h.Width, len(h.Classes)} {
		b = le.AppendUint32(b, uint32(v))
	}
	for _, c := range h.Classes {
		b = le.AppendUint16(b, uint16(len(c)))
		b = append(b, c...)
	}
	return b
}

// Encode gives the header's bytes.
func (h *Header) Encode() []byte {
	b := append(h.prefix(), h.ID[:]...)
	if h.Extra != nil {
		b = h.Extra.append(b)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// Read reads a header.
func Read(r io.Reader) (*Header, error) {
	le := binary.LittleEndian
	fixed := make([]byte, fixedBytes)
	if _, err := io.ReadFull(r, fixed); err != nil || string(fixed[:8]) != magic {
		return nil, fmt.Errorf("not a %w file", ErrPack)
	}
	version := le.Uint32(fixed[8:])
	if version < 1 || version > Version {
		return nil, fmt.Errorf("%w of version %d, this program reads versions 1 to %d", ErrPack, version, Version)
	}
	total := le.Uint32(fixed[12:])
	if total < fixedBytes+36 || total > fixedBytes+36+maxClasses*(2+maxName)+maxExtra {
		return nil, fmt.Errorf("%w with a damaged header", ErrPack)
	}
	rest := make([]byte, total-fixedBytes)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, fmt.Errorf("%w with a truncated header", ErrPack)
	}
	all := slices.Concat(fixed, rest)
	if crc32.ChecksumIEEE(all[:len(all)-4]) != le.Uint32(all[len(all)-4:]) {
		return nil, fmt.Errorf("%w with a damaged header (checksum)", ErrPack)
	}
	h := &Header{Images: int(le.Uint64(all[16:])), Channels: int(le.Uint32(all[24:])), Height: int(le.Uint32(all[28:])),
		Width: int(le.Uint32(all[32:]))}
	b := all[fixedBytes : len(all)-4]
	for range le.Uint32(all[36:]) {
		if len(b) < 2 || len(b) < 2+int(le.Uint16(b)) {
			return nil, fmt.Errorf("%w with damaged class names", ErrPack)
		}
		n := int(le.Uint16(b))
		h.Classes = append(h.Classes, string(b[2:2+n]))
		b = b[2+n:]
	}
	if len(b) < len(h.ID) || version == 1 && len(b) != len(h.ID) {
		return nil, fmt.Errorf("%w with damaged class names", ErrPack)
	}
	copy(h.ID[:], b)
	if version == 2 {
		var err error
		if h.Extra, err = readExtra(b[len(h.ID):], h.Channels); err != nil {
			return nil, err
		}
	}
	return h, h.Check()
}

// ReadFile reads the header of a pack file. A missing file is fs.ErrNotExist.
func ReadFile(path string) (*Header, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open pack: %w", err)
	}
	defer f.Close()
	h, err := Read(bufio.NewReader(f))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; make one with: worker data pack --from SRC --out FILE", path, err)
	}
	return h, nil
}
