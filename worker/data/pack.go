package data

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"colonnade/shard/pack"
)

// Pack is an open pack file, mapped read-only.
type Pack struct {
	pack.Header
	path   string
	mapped []byte
	labels []byte
	mean   []float32
	pixels []byte
}

// Open maps a pack and checks its length and, by hashing all of it (about 2 GB a second), its identity.
func Open(path string) (*Pack, error) {
	h, err := pack.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open pack: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open pack: %w", err)
	}
	if info.Size() != h.FileBytes() {
		return nil, refuse(path, "has %d bytes instead of %d", info.Size(), h.FileBytes())
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map pack %s: %w", path, err)
	}
	p := &Pack{Header: *h, path: path, mapped: m, labels: m[h.LabelsAt():h.MeanAt()], pixels: m[h.PixelsAt():]}
	if err := p.verify(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func refuse(path, format string, args ...any) error {
	return fmt.Errorf("%w %s %s; make it again with: worker data pack --from SRC --out FILE", pack.ErrPack, path,
		fmt.Sprintf(format, args...))
}

// verify hashes everything behind the header and decodes the mean.
func (p *Pack) verify() error {
	id := p.NewIdentity()
	id.Write(p.mapped[p.LabelsAt():])
	if !bytes.Equal(id.Sum(nil), p.ID[:]) {
		return refuse(p.path, "is damaged: its contents do not have its identity")
	}
	raw := p.mapped[p.MeanAt():p.PixelsAt()]
	p.mean = make([]float32, p.ImageBytes())
	for i := range p.mean {
		p.mean[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	for i := range p.Images {
		if p.Label(i) >= len(p.Classes) {
			return refuse(p.path, "has label %d at image %d but only %d classes", p.Label(i), i, len(p.Classes))
		}
	}
	return nil
}

// Image is image i, channels x height x width. It must not be written to, nor used after Close.
func (p *Pack) Image(i int) []byte { return p.pixels[i*p.ImageBytes() : (i+1)*p.ImageBytes()] }

// Label is the class of image i.
func (p *Pack) Label(i int) int { return int(binary.LittleEndian.Uint16(p.labels[2*i:])) }

// Mean is the mean image, channels x height x width.
func (p *Pack) Mean() []float32 { return p.mean }

// Close unmaps the pack.
func (p *Pack) Close() error {
	if p.mapped == nil {
		return nil
	}
	m := p.mapped
	p.mapped, p.labels, p.pixels = nil, nil, nil
	if err := unix.Munmap(m); err != nil {
		return fmt.Errorf("unmap pack %s: %w", p.path, err)
	}
	return nil
}
