package depot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"colonnade/shard/pack"
)

// Why a pack could not be fetched.
var (
	// ErrNobody means that every peer answered, and none has the pack.
	ErrNobody = errors.New("no worker has it")
	// ErrRoom means that the disk has too little room. Nothing is left on it.
	ErrRoom = errors.New("too little room on the disk")
	// ErrWrong means that what a peer gave was not the pack. Nothing of it is kept.
	ErrWrong = errors.New("what it gave is not the pack")
	// ErrLost means that a peer could not be reached, or was lost on the way. What is here is kept for the next try.
	ErrLost = errors.New("lost on the way")
)

// errNone means that a peer answers, and has no such pack.
var errNone = errors.New("it has none")

// Want is the pack to fetch, as a job names it.
type Want struct {
	ID                              [32]byte
	Path                            string // where the job has it
	Images, Channels, Height, Width int
	Classes                         int // 0: not known
}

// Peer is a worker to ask.
type Peer struct{ Worker, Address string }

// Progress is how far fetching is.
type Progress struct {
	Worker      string // that the bytes come from; empty: the whole is verified
	Done, Total int64  // bytes
}

// Config is how packs are fetched.
type Config struct {
	Directory string        // they come to lie in, as IDENTITY.pack
	Silence   time.Duration // how long a peer may take for a piece; 0: 10 s
	Tell      func(Progress)
	Dial      []grpc.DialOption // on top of the usual ones

	room func(directory string) (int64, error) // bytes that are free
}

// spare is the room that a fetched pack leaves on the disk: checkpoints may lie there too.
const spare = 64 << 20

// rounds is how often the peers are asked again, as long as each round gets further.
const rounds = 5

// Fetch fetches a pack from the first of some peers that has all of it, and returns its path. It goes on with what an
// earlier call left. Only one call fetches a pack at a time, whatever process it is in: the others wait.
func Fetch(ctx context.Context, cfg Config, want Want, peers []Peer) (path string, err error) {
	if cfg.Silence == 0 {
		cfg.Silence = 10 * time.Second
	}
	if cfg.Tell == nil {
		cfg.Tell = func(Progress) {}
	}
	if cfg.room == nil {
		cfg.room = freeBytes
	}
	path = filepath.Join(cfg.Directory, fmt.Sprintf("%x.pack", want.ID))
	defer func() {
		if err != nil {
			err = fmt.Errorf("fetch pack %.6x: %w", want.ID, err)
		}
	}()
	if err := os.MkdirAll(cfg.Directory, 0o755); err != nil {
		return "", fmt.Errorf("%w; choose another --packs", err)
	}
	f := &fetching{cfg: cfg, want: want, path: path}
	if err := f.claim(ctx); err != nil {
		return "", err
	}
	defer f.release()
	if h, err := pack.ReadFile(path); err == nil && h.ID == want.ID {
		f.remove() // another has fetched it meanwhile
		return path, nil
	}
	return path, f.from(ctx, peers)
}

// fetching is one call of Fetch.
type fetching struct {
	cfg  Config
	want Want
	path string   // it is to have
	main *os.File // the file of the header, locked, under its temporary name
	h    *pack.Header
	got  int64 // bytes that have come in all
}

// from asks one peer after another.
func (f *fetching) from(ctx context.Context, peers []Peer) error {
	wrong := map[string]bool{}
	for range rounds {
		before, asked := f.got, false
		var lost, refused []error
		for _, p := range peers {
			if wrong[p.Address] {
				continue
			}
			err := f.attempt(ctx, p)
			switch {
			case err == nil:
				return nil
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case errors.Is(err, ErrRoom):
				f.remove()
				return err
			case errors.Is(err, errNone):
				continue
			}
			err = fmt.Errorf("worker %s: %w", p.Worker, err)
			if errors.Is(err, ErrWrong) {
				wrong[p.Address] = true
				refused = append(refused, err)
				continue
			}
			if !errors.Is(err, ErrLost) {
				return err // of this host
			}
			asked = true
			lost = append(lost, err)
		}
		switch {
		case asked && f.got > before:
		case len(lost) > 0:
			return lost[0]
		case len(wrong) > 0:
			f.remove()
			if len(refused) == 0 {
				return fmt.Errorf("%w: %d of the workers that say they have it", ErrWrong, len(wrong))
			}
			return refused[0]
		default:
			f.remove()
			return fmt.Errorf("%w of the %d that were asked", ErrNobody, len(peers))
		}
	}
	return fmt.Errorf("%w, again and again", ErrLost)
}

// attempt has one peer give what is missing. What other peers gave stays as far as this one's table says it is right;
// so a peer that gives nonsense costs time and never keeps an honest one from giving the pack.
func (f *fetching) attempt(ctx context.Context, p Peer) error {
	conn, err := dial(p.Address, f.cfg.Dial)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	defer conn.Close()
	from := &source{ctx: ctx, conn: conn, silence: f.cfg.Silence, want: f.want}
	if err := f.head(from); err != nil {
		return err
	}
	total := f.totalBytes()
	done := f.h.PixelsAt()
	for i := range max(f.h.Shards(), 1) {
		part, err := f.openPart(i)
		if err != nil {
			return err
		}
		err = f.fill(from, part, func(n int64) {
			f.cfg.Tell(Progress{Worker: p.Worker, Done: done + n, Total: total})
		})
		done += part.bytes
		if err := errors.Join(err, part.close()); err != nil {
			return err
		}
	}
	f.cfg.Tell(Progress{Done: total, Total: total})
	if err := f.identify(ctx); err != nil {
		if errors.Is(err, ErrWrong) {
			f.empty()
		}
		return err
	}
	return f.finish()
}

// totalBytes is the size of all files of the pack.
func (f *fetching) totalBytes() int64 {
	return f.h.PixelsAt() + int64(f.h.Images)*int64(f.h.ImageBytes())
}

// fits says why a header is not that of the pack that is wanted. All that is allocated or written goes by it.
func (f *fetching) fits(h *pack.Header) error {
	w := f.want
	if h.ID != w.ID || h.Images != w.Images || h.Channels != w.Channels || h.Height != w.Height || h.Width != w.Width ||
		w.Classes > 0 && len(h.Classes) != w.Classes {
		return fmt.Errorf("%w: its header has %d images of %dx%dx%d and identity %.6x, wanted are %d of %dx%dx%d and %.6x",
			ErrWrong, h.Images, h.Channels, h.Height, h.Width, h.ID, w.Images, w.Channels, w.Height, w.Width, w.ID)
	}
	return nil
}

// head fetches what lies before the pixels. If it is another than what is here, pixels are looked at again.
func (f *fetching) head(from *source) error {
	in, err := from.open(0, 0)
	if err != nil {
		return err
	}
	defer in.close()
	h, err := pack.Read(in)
	if in.err != nil {
		return in.err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrWrong, err)
	}
	if err := f.fits(h); err != nil {
		return err
	}
	f.h = h
	if err := f.enough(); err != nil {
		return err
	}
	first := h.Encode()
	old := make([]byte, len(first))
	if n, _ := f.main.ReadAt(old, 0); n < len(first) || !bytes.Equal(old, first) || h.Extra == nil {
		// Another layout, or none: nothing that lies here has its place. Version 1 has no table to know pixels by.
		f.empty()
	}
	if _, err := f.main.WriteAt(first, 0); err != nil {
		return f.full(err)
	}
	index := sha256.New()
	at := int64(len(first))
	buf := make([]byte, pieceBytes)
	for at < h.PixelsAt() {
		n, err := in.Read(buf[:min(int64(len(buf)), h.PixelsAt()-at)])
		if n > 0 {
			index.Write(buf[:n])
			if _, err := f.main.WriteAt(buf[:n], at); err != nil {
				return f.full(err)
			}
			at += int64(n)
		}
		if in.err != nil {
			return in.err
		}
		if err != nil && at < h.PixelsAt() {
			return fmt.Errorf("%w: it ends after %d bytes", ErrWrong, at)
		}
	}
	if h.Extra != nil && !bytes.Equal(index.Sum(nil), h.Extra.Index[:]) {
		return fmt.Errorf("%w: labels, mean or table are not what its header says", ErrWrong)
	}
	return nil
}

// enough wants room for what is still to come.
func (f *fetching) enough() error {
	have := fileBytes(f.main.Name())
	for s := range f.h.Shards() {
		have += fileBytes(f.partName(s))
	}
	free, err := f.cfg.room(f.cfg.Directory)
	if err != nil {
		return fmt.Errorf("look for room in %s: %w", f.cfg.Directory, err)
	}
	if need := f.totalBytes() - have; need+spare > free {
		return fmt.Errorf("%w: %d MiB are needed in %s, %d are free and %d stay so; make room, or choose another --packs",
			ErrRoom, need>>20, f.cfg.Directory, free>>20, int64(spare)>>20)
	}
	return nil
}

func fileBytes(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func freeBytes(directory string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(directory, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// full is an error of writing; of a disk that is full it says what to do.
func (f *fetching) full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("%w: %w; make room, or choose another --packs", ErrRoom, err)
	}
	return fmt.Errorf("%w; choose another --packs", err)
}
