package data

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"colonnade/shard/pack"
)

// Pack is an open pack, mapped read-only.
type Pack struct {
	pack.Header
	path   string
	maps   [][]byte // the file of the header, then those of pixels
	labels []byte
	mean   []float32
	table  []byte
	per    int      // images of a file of pixels
	pixels [][]byte // by file of pixels
	// sound says of every chunk whether it was found to be what the table says. nil: all were, when the pack was opened.
	sound []atomic.Bool
}

// wholeUpTo is how many bytes of pixels are verified when a pack is opened. Of a larger one a chunk is verified when
// one of its images is first used.
const wholeUpTo = int64(4) << 30

// Open maps a pack and checks its length and its content: all of it, or of a large one what is not pixels.
func Open(path string) (*Pack, error) { return open(path, wholeUpTo) }

func open(path string, whole int64) (p *Pack, err error) {
	h, err := pack.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p = &Pack{Header: *h, path: path, per: h.Images}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	m, err := p.mapFile(path, h.FileBytes())
	if err != nil {
		return p, err
	}
	p.labels, p.table = m[h.LabelsAt():h.MeanAt()], m[h.TableAt():h.PixelsAt()]
	if h.Shards() == 0 {
		p.pixels = [][]byte{m[h.PixelsAt():]}
	} else {
		p.per = h.Extra.Shard
	}
	for s := range h.Shards() {
		from, to := h.ShardImages(s)
		part, err := p.mapFile(h.ShardName(path, s), int64(to-from)*int64(h.ImageBytes()))
		if err != nil {
			return p, err
		}
		p.pixels = append(p.pixels, part)
	}
	return p, p.verify(whole)
}

// mapFile maps a file that must have so many bytes.
func (p *Pack) mapFile(path string, size int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, refuse(p.path, "lacks its file %s: copy all files of a pack", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open pack: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open pack: %w", err)
	}
	if info.Size() != size {
		return nil, refuse(path, "has %d bytes instead of %d", info.Size(), size)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map pack %s: %w", path, err)
	}
	p.maps = append(p.maps, m)
	return m, nil
}

func refuse(path, format string, args ...any) error {
	return fmt.Errorf("%w %s %s; make it again with: worker data pack --from SRC --out FILE", pack.ErrPack, path,
		fmt.Sprintf(format, args...))
}

// verify checks what is not pixels, decodes the mean, and hashes the pixels unless they are more than `whole` bytes.
func (p *Pack) verify(whole int64) error {
	m := p.maps[0]
	if p.Extra != nil && sha256.Sum256(m[p.LabelsAt():p.PixelsAt()]) != p.Extra.Index {
		return refuse(p.path, "is damaged: labels, mean or table are not what its header says")
	}
	raw := m[p.MeanAt():p.TableAt()]
	p.mean = make([]float32, p.ImageBytes())
	for i := range p.mean {
		p.mean[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	switch {
	case p.Extra == nil:
		if err := p.VerifyIdentity(); err != nil {
			return err
		}
	case int64(p.Images)*int64(p.ImageBytes()) > whole:
		p.sound = make([]atomic.Bool, p.Chunks())
	default:
		if err := p.verifyChunks(); err != nil {
			return err
		}
	}
	for i := range p.Images {
		if p.Label(i) >= len(p.Classes) {
			return refuse(p.path, "has label %d at image %d but only %d classes", p.Label(i), i, len(p.Classes))
		}
	}
	return nil
}

// VerifyIdentity hashes everything into the identity, on one core.
func (p *Pack) VerifyIdentity() error {
	id := p.NewIdentity()
	id.Write(p.maps[0][p.LabelsAt():p.TableAt()])
	for _, part := range p.pixels {
		id.Write(part)
	}
	if !bytes.Equal(id.Sum(nil), p.ID[:]) {
		return refuse(p.path, "is damaged: its contents do not have its identity")
	}
	return nil
}

// verifyChunks hashes all pixels, on all cores.
func (p *Pack) verifyChunks() error {
	var next atomic.Int64
	var group sync.WaitGroup
	errs := make([]error, min(runtime.GOMAXPROCS(0), p.Chunks()))
	for i := range errs {
		group.Go(func() {
			for errs[i] == nil {
				n := int(next.Add(1)) - 1
				if n >= p.Chunks() {
					return
				}
				errs[i] = p.verifyChunk(n)
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// verifyChunk compares a chunk of pixels with the table.
func (p *Pack) verifyChunk(n int) error {
	sum := sha256.Sum256(p.Chunk(n))
	if !bytes.Equal(sum[:], p.table[sha256.Size*n:sha256.Size*(n+1)]) {
		from, to := p.ChunkImages(n)
		return refuse(p.path, "is damaged: images %d to %d are not what its table says", from, to-1)
	}
	return nil
}

// Chunk is the pixels of a chunk of the table.
func (p *Pack) Chunk(n int) []byte {
	from, to := p.ChunkImages(n)
	return p.pixels[from/p.per][from%p.per*p.ImageBytes():][:(to-from)*p.ImageBytes()]
}

// Check verifies the chunk that image i is in, unless that was done.
func (p *Pack) Check(i int) error {
	if p.sound == nil {
		return nil
	}
	n := i / p.Extra.Chunk
	if p.sound[n].Load() {
		return nil
	}
	if err := p.verifyChunk(n); err != nil {
		return err
	}
	p.sound[n].Store(true)
	return nil
}

// Ahead asks for image i to be read from disk soon. Only large packs need it: others were read when they were opened.
func (p *Pack) Ahead(i int) {
	if p.sound == nil {
		return
	}
	m, at := p.pixels[i/p.per], i%p.per*p.ImageBytes()
	page := os.Getpagesize()
	from := at / page * page
	if p.Shards() == 0 {
		m, from = p.maps[0], (at+int(p.PixelsAt()))/page*page
		at += int(p.PixelsAt())
	}
	_ = unix.Madvise(m[from:at+p.ImageBytes()], unix.MADV_WILLNEED) // advice: without it reading waits, no more
}

// Image is image i, channels x height x width. It must not be written to, nor used after Close.
func (p *Pack) Image(i int) []byte {
	return p.pixels[i/p.per][i%p.per*p.ImageBytes():][:p.ImageBytes()]
}

// Label is the class of image i.
func (p *Pack) Label(i int) int { return int(binary.LittleEndian.Uint16(p.labels[2*i:])) }

// Mean is the mean image, channels x height x width.
func (p *Pack) Mean() []float32 { return p.mean }

// Path is where the pack was opened.
func (p *Pack) Path() string { return p.path }

// Close unmaps the pack.
func (p *Pack) Close() error {
	maps := p.maps
	p.maps, p.labels, p.table, p.pixels = nil, nil, nil, nil
	for _, m := range maps {
		if err := unix.Munmap(m); err != nil {
			return fmt.Errorf("unmap pack %s: %w", p.path, err)
		}
	}
	return nil
}
