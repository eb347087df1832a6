package depot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"colonnade/checkpoint/disktest"
	"colonnade/proto/exchangepb"
	"colonnade/shard/pack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sample is what a pack is made of. Images are large enough for a file to be several pieces.
type sample struct {
	h            pack.Header
	labels, mean []byte
	pixels       []byte
	// What a forger changes: the table and the header are made of these pixels and labels, the identity of the others.
	forgedPixels, forgedLabels []byte
	sums                       bool // say other sums
}

// newSample is a pack of 50 images of 3x150x150, in chunks of so many images and files of so many; chunk 0: version 1.
func newSample(chunk, shard int) *sample {
	s := &sample{h: pack.Header{Images: 50, Channels: 3, Height: 150, Width: 150, Classes: []string{"a", "b"}}}
	size := s.h.ImageBytes()
	for i := range s.h.Images {
		s.labels = append(s.labels, byte(i%2), 0)
	}
	s.mean, s.pixels = make([]byte, 4*size), make([]byte, s.h.Images*size)
	for i := range s.pixels {
		s.pixels[i] = byte(i*7 + i/251)
	}
	if chunk > 0 {
		s.h.Extra = &pack.Extra{Chunk: chunk, Shard: shard, Made: "a test"}
	}
	return s
}

// write writes the pack's files and returns the path of its header's.
func (s *sample) write(t *testing.T, dir string) string {
	t.Helper()
	id := s.h.NewIdentity()
	for _, b := range [][]byte{s.labels, s.mean, s.pixels} {
		id.Write(b)
	}
	copy(s.h.ID[:], id.Sum(nil))
	pixels, labels := s.pixels, s.labels
	if s.forgedPixels != nil {
		pixels = s.forgedPixels
	}
	if s.forgedLabels != nil {
		labels = s.forgedLabels
	}
	var table []byte
	if e := s.h.Extra; e != nil {
		for n := range s.h.Chunks() {
			from, to := s.h.ChunkImages(n)
			sum := sha256.Sum256(pixels[from*s.h.ImageBytes() : to*s.h.ImageBytes()])
			table = append(table, sum[:]...)
		}
		e.Index = sha256.Sum256(slices.Concat(labels, s.mean, table))
		n := pack.NewSums(s.h.Channels, s.h.Height*s.h.Width)
		n.Add(pixels[:1000])
		n.Add(pixels[1000:])
		e.Sums, e.Products = n.Counts()
		if s.sums {
			e.Products[0]++
		}
	}
	path := filepath.Join(dir, "x.pack")
	main := slices.Concat(s.h.Encode(), labels, s.mean, table)
	if s.h.Shards() == 0 {
		main = append(main, pixels...)
	}
	put(t, path, main)
	for i := range s.h.Shards() {
		from, to := s.h.ShardImages(i)
		put(t, s.h.ShardName(path, i), pixels[from*s.h.ImageBytes():to*s.h.ImageBytes()])
	}
	return path
}

func put(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func (s *sample) want(path string) Want {
	return Want{ID: s.h.ID, Path: path, Images: s.h.Images, Channels: 3, Height: 150, Width: 150, Classes: 2}
}

// peer is a worker that hands out a pack, as it is or spoilt on the way.
type peer struct {
	service
	sent  atomic.Int64                                              // bytes of files
	spoil func(r *exchangepb.PackRequest, at int64, b []byte) error // of what lies at a place of a file; nil: nothing
}

// spoiling is a stream that is spoilt.
type spoiling struct {
	grpc.ServerStreamingServer[exchangepb.PackPiece]
	p  *peer
	r  *exchangepb.PackRequest
	at int64
}

func (s *spoiling) Send(m *exchangepb.PackPiece) error {
	if s.p.spoil != nil {
		if err := s.p.spoil(s.r, s.at, m.Data); err != nil {
			return err
		}
	}
	s.at += int64(len(m.Data))
	s.p.sent.Add(int64(len(m.Data)))
	return s.ServerStreamingServer.Send(m)
}

func (p *peer) Fetch(r *exchangepb.PackRequest, out grpc.ServerStreamingServer[exchangepb.PackPiece]) error {
	return p.service.Fetch(r, &spoiling{out, p, r, int64(r.Offset)})
}

// serve has a peer of a directory listen.
func serve(t *testing.T, p *peer, path string) Peer {
	t.Helper()
	p.slots = make(chan struct{}, mostStreams)
	p.find = func(id [32]byte, _ string) (string, error) {
		if path == "" {
			return "", fs.ErrNotExist
		}
		return path, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	exchangepb.RegisterPacksServer(s, p)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return Peer{Worker: "w", Address: l.Addr().String()}
}

// files are what lies in a directory, by name without that of the pack.
func files(t *testing.T, dir, path string) map[string]string {
	t.Helper()
	out := map[string]string{}
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimPrefix(e.Name(), filepath.Base(path))] = string(b)
	}
	return out
}

// same wants the very files of the source and nothing else.
func same(t *testing.T, from, to string) {
	t.Helper()
	a, b := files(t, filepath.Dir(from), from), files(t, filepath.Dir(to), to)
	if len(a) != len(b) {
		t.Errorf("%d files instead of %d", len(b), len(a))
	}
	for name, text := range a {
		if b[name] != text {
			t.Errorf("file %q differs: %d bytes of %d", name, len(b[name]), len(text))
		}
	}
}

// layouts are of version 1, of one file, of several, and of chunks that are the whole and single images.
var layouts = map[string][2]int{"version 1": {}, "one file": {7, 0}, "files": {7, 21}, "one chunk": {50, 0},
	"images": {1, 10}}

func TestFetchGivesTheSameFiles(t *testing.T) {
	for name, l := range layouts {
		s := newSample(l[0], l[1])
		path := s.write(t, t.TempDir())
		honest := &peer{}
		peers := []Peer{serve(t, &peer{}, ""), serve(t, honest, path)}
		var last Progress
		dir := filepath.Join(t.TempDir(), "packs") // it is made
		got, err := Fetch(context.Background(), Config{Directory: dir, Tell: func(p Progress) { last = p }}, s.want(path),
			peers)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		same(t, path, got)
		if last.Done != last.Total || last.Total < int64(len(s.pixels)) {
			t.Errorf("%s: the last progress is %+v", name, last)
		}
		sent := honest.sent.Load()
		if again, err := Fetch(context.Background(), Config{Directory: dir}, s.want(path), peers); err != nil ||
			again != got || honest.sent.Load() != sent {
			t.Errorf("%s: fetched again: %s, %v, %d bytes more", name, again, err, honest.sent.Load()-sent)
		}
	}
}

// TestFetchGoesOn has peers break off over and over: every byte is fetched about once, from whoever is there.
func TestFetchGoesOn(t *testing.T) {
	for name, l := range layouts {
		if name == "version 1" || name == "one chunk" { // there is nothing between the beginning and the end
			continue
		}
		s := newSample(l[0], l[1])
		path := s.write(t, t.TempDir())
		var sent atomic.Int64
		breaks := &peer{}
		breaks.spoil = func(r *exchangepb.PackRequest, at int64, b []byte) error {
			if r.Offset > 0 || r.File > 0 || at > 0 {
				if sent.Add(1)%2 == 0 {
					return status.Error(codes.Unavailable, "the cable is out")
				}
			}
			return nil
		}
		dir := t.TempDir()
		cfg := Config{Directory: dir}
		from := []Peer{serve(t, breaks, path)}
		got, err := "", error(nil)
		for try := 0; try < 50; try++ { // as generations do
			if got, err = Fetch(context.Background(), cfg, s.want(path), from); err == nil || !errors.Is(err, ErrLost) {
				break
			}
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		same(t, path, got)
		// A chunk that was cut off comes again, and a head with every attempt; not the rest.
		if n := breaks.sent.Load(); n > 6*int64(len(s.pixels)) {
			t.Errorf("%s: %d bytes were sent for %d", name, n, len(s.pixels))
		}
	}
}

// TestNoPeerCanGiveAWrongByte has peers that lie in every way, alone and before an honest one.
func TestNoPeerCanGiveAWrongByte(t *testing.T) {
	for _, l := range [][2]int{{7, 0}, {7, 21}, {0, 0}} {
		honest := newSample(l[0], l[1])
		path := honest.write(t, t.TempDir())
		want := honest.want(path)
		at := func(n int) []byte { b := bytes.Clone(honest.pixels); b[n] ^= 1; return b }
		liars := map[string]Peer{}
		forge := func(name string, change func(*sample)) {
			s := newSample(l[0], l[1])
			change(s)
			liars[name] = serve(t, &peer{}, s.write(t, t.TempDir()))
		}
		forge("pixels and table", func(s *sample) { s.forgedPixels = at(len(s.pixels) - 1) })
		forge("labels", func(s *sample) { s.forgedLabels = append([]byte{1}, s.labels[1:]...) })
		if l[0] > 0 {
			forge("sums of colours", func(s *sample) { s.sums = true })
		}
		spoil := func(name string, f func(*exchangepb.PackRequest, int64, []byte) error) {
			liars[name] = serve(t, &peer{spoil: f}, path)
		}
		spoil("a pixel on the way", func(r *exchangepb.PackRequest, _ int64, b []byte) error {
			if r.Offset > 0 || r.File > 0 {
				b[len(b)-1] ^= 1
			}
			return nil
		})
		spoil("every byte", func(_ *exchangepb.PackRequest, _ int64, b []byte) error {
			for i := range b {
				b[i] ^= 0x55
			}
			return nil
		})
		spoil("another shape", func(r *exchangepb.PackRequest, at int64, b []byte) error {
			if r.File == 0 && at == 0 {
				other := honest.h
				other.Images = 1 << 39
				copy(b, other.Encode())
			}
			return nil
		})
		liars["ends early"] = serve(t, &peer{}, truncated(t, path, honest))
		for name, liar := range liars {
			dir := t.TempDir()
			_, err := Fetch(context.Background(), Config{Directory: dir}, want, []Peer{liar})
			if !errors.Is(err, ErrWrong) || strings.Contains(err.Error(), "\n") {
				t.Errorf("layout %v, %s: %v, want ErrWrong in one line", l, name, err)
			}
			if left := files(t, dir, path); len(left) > 0 {
				t.Errorf("layout %v, %s: left behind: %d files", l, name, len(left))
			}
			got, err := Fetch(context.Background(), Config{Directory: dir}, want, []Peer{liar, serve(t, &peer{}, path), liar})
			if err != nil {
				t.Errorf("layout %v, %s, then an honest peer: %v", l, name, err)
				continue
			}
			same(t, path, got)
		}
	}
}

// truncated is a copy of a pack that ends early.
func truncated(t *testing.T, path string, s *sample) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files(t, filepath.Dir(path), path) {
		if s.h.Shards() == 0 || strings.HasSuffix(name, ".0001") {
			text = text[:len(text)-5]
		}
		put(t, filepath.Join(dir, "x.pack"+name), []byte(text))
	}
	return filepath.Join(dir, "x.pack")
}

func TestNobodyHasIt(t *testing.T) {
	s := newSample(7, 0)
	path := s.write(t, t.TempDir())
	other := newSample(7, 0)
	other.labels[0] = 1 // a pack of another identity where the job has this one
	dir := t.TempDir()
	peers := []Peer{serve(t, &peer{}, ""), serve(t, &peer{}, other.write(t, t.TempDir()))}
	if _, err := Fetch(context.Background(), Config{Directory: dir}, s.want(path), peers); !errors.Is(err, ErrNobody) {
		t.Errorf("%v, want ErrNobody", err)
	}
	gone := Peer{Worker: "gone", Address: "127.0.0.1:1"}
	_, err := Fetch(context.Background(), Config{Directory: dir}, s.want(path), append(peers, gone))
	if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "worker gone") {
		t.Errorf("%v, want ErrLost of worker gone: it may have it", err)
	}
}

// TestASilentPeer never sends anything, and one stops in the middle.
func TestASilentPeer(t *testing.T) {
	s := newSample(7, 0)
	path := s.write(t, t.TempDir())
	for name, from := range map[string]int64{"at once": 0, "in the middle": 1 << 20} {
		over := make(chan struct{})
		silent := serve(t, &peer{spoil: func(_ *exchangepb.PackRequest, at int64, _ []byte) error {
			if at >= from {
				<-over
			}
			return nil
		}}, path)
		dir := t.TempDir()
		cfg := Config{Directory: dir, Silence: 50 * time.Millisecond}
		if _, err := Fetch(context.Background(), cfg, s.want(path), []Peer{silent}); !errors.Is(err, ErrLost) ||
			!strings.Contains(err.Error(), "silent for 50ms") {
			t.Errorf("%s: %v, want ErrLost by silence", name, err)
		}
		close(over)
	}
}

func TestNoRoom(t *testing.T) {
	s := newSample(7, 21)
	path := s.write(t, t.TempDir())
	from := []Peer{serve(t, &peer{}, path)}
	dir := t.TempDir()
	cfg := Config{Directory: dir, room: func(string) (int64, error) { return spare + 1000, nil }}
	_, err := Fetch(context.Background(), cfg, s.want(path), from)
	if !errors.Is(err, ErrRoom) || !strings.Contains(err.Error(), "make room, or choose another --packs") {
		t.Errorf("%v, want ErrRoom", err)
	}
	if left := files(t, dir, path); len(left) > 0 {
		t.Errorf("left behind: %d files", len(left))
	}
	disktest.Small(t, dir, 2<<10)
	cfg.room = func(string) (int64, error) { return 1 << 40, nil } // somebody else has filled the disk meanwhile
	if _, err := Fetch(context.Background(), cfg, s.want(path), from); !errors.Is(err, ErrRoom) ||
		!errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, want ErrRoom by ENOSPC", err)
	}
	if left := files(t, dir, path); len(left) > 0 {
		t.Errorf("left behind on the full disk: %d files", len(left))
	}
}

// TestTwoAtOnce fetches the same pack into one directory twice at once: its pixels travel once.
func TestTwoAtOnce(t *testing.T) {
	s := newSample(7, 21)
	path := s.write(t, t.TempDir())
	honest := &peer{}
	from := []Peer{serve(t, honest, path)}
	dir := t.TempDir()
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if _, err := Fetch(context.Background(), Config{Directory: dir}, s.want(path), from); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := honest.sent.Load(); n >= 2*int64(len(s.pixels)) {
		t.Errorf("%d bytes were sent for %d of pixels", n, len(s.pixels))
	}
	if names := files(t, dir, path); len(names) != 1+s.h.Shards() {
		t.Errorf("%d files are there", len(names))
	}
}

// TestOnlyPacksAreSent asks for what is no file of a pack.
func TestOnlyPacksAreSent(t *testing.T) {
	s := newSample(7, 21)
	path := s.write(t, t.TempDir())
	to := serve(t, &peer{}, path)
	conn, err := dial(to.Address, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, r := range map[string]*exchangepb.PackRequest{
		"no identity":      {},
		"a short identity": {Identity: s.h.ID[:5]},
		"another identity": {Identity: make([]byte, 32)},
		"a file too many":  {Identity: s.h.ID[:], File: uint32(s.h.Shards()) + 1},
		"the last file":    {Identity: s.h.ID[:], File: 1<<32 - 1},
		"before the start": {Identity: s.h.ID[:], Offset: 1 << 63},
	} {
		stream, err := exchangepb.NewPacksClient(conn).Fetch(context.Background(), r)
		if err == nil {
			_, err = stream.Recv()
		}
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	far, err := exchangepb.NewPacksClient(conn).Fetch(context.Background(), &exchangepb.PackRequest{Identity: s.h.ID[:],
		Offset: 1 << 40})
	if err == nil {
		_, err = far.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("beyond the end: %v, want nothing", err)
	}
}
