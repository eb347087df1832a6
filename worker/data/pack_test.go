package data

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"colonnade/shard/pack"
)

// TestPackIsGolden lays out a whole pack by hand.
func TestPackIsGolden(t *testing.T) {
	from := files{
		"b/1.png": grey(t, 1, 2, 10, 21),
		"a/2.png": grey(t, 1, 2, 1, 2),
		"a/1.png": grey(t, 1, 2, 0, 255),
	}.folder(t)
	path, _ := mustPack(t, PackOptions{From: from})

	h := pack.Header{Images: 3, Channels: 1, Height: 1, Width: 2, Classes: []string{"a", "b"}, Extra: &pack.Extra{
		Chunk: 1 << 19, Made: "image/jpeg of Go", Sums: []uint64{289}, Products: []uint64{255*255 + 1 + 4 + 100 + 441}}}
	body := []byte{0, 0, 0, 0, 1, 0} // labels of a/1, a/2, b/1
	mean := []float32{11.0 / 3, 278.0 / 3}
	for _, m := range mean {
		body = binary.LittleEndian.AppendUint32(body, math.Float32bits(m))
	}
	pixels := []byte{0, 255, 1, 2, 10, 21}
	first := h
	first.Extra = nil // the identity is that of version 1
	head := first.Encode()
	h.ID = sha256.Sum256(bytes.Join([][]byte{head[:len(head)-36], body, pixels}, nil)) // without identity and checksum
	table := sha256.Sum256(pixels)
	body = append(body, table[:]...)
	h.Extra.Index = sha256.Sum256(body)
	body = append(body, pixels...)
	if diff := cmp.Diff(append(h.Encode(), body...), mustRead(t, path)); diff != "" {
		t.Errorf("pack (-want +got):\n%s", diff)
	}
	p := mustOpen(t, path)
	if diff := cmp.Diff(mean, p.Mean()); diff != "" {
		t.Errorf("mean (-want +got):\n%s", diff)
	}
}

func TestOpenGivesWhatWasPacked(t *testing.T) {
	path, s := mustPack(t, PackOptions{From: digitFolder(t), Split: "train"})
	p := mustOpen(t, path)
	want := pack.Header{Images: 23, Channels: 1, Height: 3, Width: 4, Classes: strings.Split("0123456789", ""), ID: p.ID,
		Extra: p.Extra}
	if diff := cmp.Diff(want, p.Header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	sums := make([]int, 12)
	for i := range 23 {
		if p.Label(i) != i%10 {
			t.Errorf("image %d has label %d", i, p.Label(i))
		}
		for at, v := range p.Image(i) {
			if v != byte(i*at+i) {
				t.Errorf("pixel %d of image %d is %d", at, i, v)
			}
			sums[at] += int(v)
		}
	}
	for at, m := range p.Mean() {
		if want := float32(float64(sums[at]) / 23); m != want {
			t.Errorf("mean of pixel %d is %g, want %g", at, m, want)
		}
	}
	id := fmt.Sprintf("%x", p.ID)
	if diff := cmp.Diff(Summary{Path: path, ID: id, Images: 23, Classes: want.Classes}, s); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
}

func TestInfo(t *testing.T) {
	from := files{
		"x/1.png": colour(t, 1, 2, 10, 20, 30, 30, 20, 10),
		"x/2.png": colour(t, 1, 2, 0, 0, 0, 0, 0, 2),
		"y/1.png": colour(t, 1, 2, 2, 2, 0, 0, 0, 0),
	}.folder(t)
	path, s := mustPack(t, PackOptions{From: from, Classes: []string{"x", "unseen", "y"}})
	got, err := Info(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Facts{Path: path, ID: s.ID, Images: 3, Channels: 3, Height: 1, Width: 2,
		Classes: []Class{{"x", 2}, {"unseen", 0}, {"y", 1}},
		Mean:    []float64{42.0 / 6, 42.0 / 6, 42.0 / 6}, Made: got.Made, Bytes: int64(len(mustRead(t, path))),
		Colour: got.Colour}
	near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-5 })
	if diff := cmp.Diff(want, got, near); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	write(t, path, append(mustRead(t, path), 0))
	if _, err := Info(path); !errors.Is(err, pack.ErrPack) {
		t.Errorf("info on a damaged pack: %v, want ErrPack", err)
	}
}

// TestIdentityIsOfTheContent packs the same content twice, elsewhere and later, then other contents.
func TestIdentityIsOfTheContent(t *testing.T) {
	source := func() files {
		return files{"a/1.png": grey(t, 2, 2, 1, 2, 3, 4), "b/1.png": grey(t, 2, 2, 5, 6, 7, 8)}
	}
	path, first := mustPack(t, PackOptions{From: source().folder(t)})
	again, second := mustPack(t, PackOptions{From: source().folder(t)})
	if !bytes.Equal(mustRead(t, path), mustRead(t, again)) || first.ID != second.ID {
		t.Error("the same content gives another pack")
	}
	ids := map[string]string{first.ID: "the first"}
	for name, o := range map[string]PackOptions{
		"a pixel": {From: files{"a/1.png": grey(t, 2, 2, 1, 2, 3, 5), "b/1.png": source()["b/1.png"]}.folder(t)},
		"a label": {From: files{"a/1.png": source()["a/1.png"], "a/2.png": source()["b/1.png"]}.folder(t),
			Classes: []string{"a", "b"}},
		"a class name":  {From: files{"a/1.png": source()["a/1.png"], "c/1.png": source()["b/1.png"]}.folder(t)},
		"class order":   {From: source().folder(t), Classes: []string{"b", "a"}},
		"more classes":  {From: source().folder(t), Classes: []string{"a", "b", "c"}},
		"channels":      {From: source().folder(t), Channels: 3},
		"images' order": {From: files{"a/1.png": source()["b/1.png"], "b/1.png": source()["a/1.png"]}.folder(t)},
	} {
		_, s := mustPack(t, o)
		if other, ok := ids[s.ID]; ok {
			t.Errorf("a pack with another %s has the identity of %s", name, other)
		}
		ids[s.ID] = name
	}
}

// spoil damages a file in one of the ways files are damaged.
func spoil(r *rand.Rand, b []byte) ([]byte, string) {
	at := r.IntN(len(b))
	switch r.IntN(6) {
	case 0:
		bit := r.IntN(8)
		b[at] ^= 1 << bit
		return b, fmt.Sprintf("bit %d of byte %d flipped", bit, at)
	case 1:
		return b[:at], fmt.Sprintf("cut to %d bytes", at)
	case 2:
		more := make([]byte, 1+r.IntN(100))
		return append(b, more...), fmt.Sprintf("%d zeros at the end", len(more))
	case 3: // a block of a disk read as something else
		n := min(len(b)-at, 1+r.IntN(512))
		for i := range n {
			b[at+i] += byte(1 + r.IntN(255))
		}
		return b, fmt.Sprintf("%d bytes at %d overwritten", n, at)
	case 4:
		return append(b[:at], b[at+1:]...), fmt.Sprintf("byte %d missing", at)
	default:
		other := (at + 1 + r.IntN(len(b)-1)) % len(b)
		if b[at] == b[other] {
			b[at]++
		}
		b[at], b[other] = b[other], b[at]
		return b, fmt.Sprintf("bytes %d and %d swapped", at, other)
	}
}

// TestEveryCorruptionIsRefused damages a pack 1,000 times, half of them near its beginning.
func TestEveryCorruptionIsRefused(t *testing.T) {
	path, _ := mustPack(t, PackOptions{From: digitFolder(t), Split: "train"})
	whole := mustRead(t, path)
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		damaged, how := spoil(r, bytes.Clone(whole))
		write(t, path, damaged)
		p, err := Open(path)
		if err == nil {
			p.Close()
			t.Fatalf("%s: not refused", how)
		}
		line := err.Error()
		if !errors.Is(err, pack.ErrPack) || !strings.Contains(line, path) || strings.Contains(line, "\n") ||
			!strings.Contains(line, "worker data pack --from SRC --out FILE") {
			t.Fatalf("%s: error %q is not one line with the file and the next step", how, line)
		}
	}
	write(t, path, whole)
	mustOpen(t, path)
}

// TestLabelsBeyondTheClassesAreRefused forges a pack with a right identity.
func TestLabelsBeyondTheClassesAreRefused(t *testing.T) {
	h := pack.Header{Images: 1, Channels: 1, Height: 1, Width: 1, Classes: []string{"only"}}
	body := []byte{1, 0, 0, 0, 0, 0, 7}
	id := h.NewIdentity()
	id.Write(body)
	copy(h.ID[:], id.Sum(nil))
	path := stow(t, "x.pack", append(h.Encode(), body...))
	if p, err := Open(path); !errors.Is(err, pack.ErrPack) {
		t.Errorf("opened %v, error %v, want ErrPack", p, err)
	}
}

func TestCloseTwice(t *testing.T) {
	path, _ := mustPack(t, PackOptions{From: digitFolder(t), Split: "test"})
	p, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Error(err)
	}
}

// TestFailureLeavesWhatWasThere fails at every stage, with and without a pack under the name.
func TestFailureLeavesWhatWasThere(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	good := files{"a/1.png": grey(t, 1, 1, 1), "a/2.png": grey(t, 1, 1, 2)}
	broken := files{"a/1.png": grey(t, 1, 1, 1), "a/2.png": []byte("no picture")}
	for name, c := range map[string]struct {
		ctx  context.Context
		from string
	}{
		"missing source": {t.Context(), filepath.Join(t.TempDir(), "nowhere")},
		"empty source":   {t.Context(), t.TempDir()},
		"broken image":   {t.Context(), broken.folder(t)},
		"cancelled":      {cancelled, good.folder(t)},
	} {
		dir := t.TempDir()
		out := filepath.Join(dir, "out.pack")
		if _, err := MakePack(c.ctx, PackOptions{From: c.from, Out: out}); err == nil {
			t.Errorf("%s: packed", name)
		}
		if diff := cmp.Diff([]string{}, left(t, dir)); diff != "" {
			t.Errorf("%s left (-want +got):\n%s", name, diff)
		}
		mustPack(t, PackOptions{From: good.folder(t), Out: out})
		before := mustRead(t, out)
		if _, err := MakePack(c.ctx, PackOptions{From: c.from, Out: out}); err == nil {
			t.Errorf("%s: packed", name)
		}
		if !bytes.Equal(before, mustRead(t, out)) || len(left(t, dir)) != 1 {
			t.Errorf("%s: the pack that was there is no longer what it was, or %v lies beside it", name, left(t, dir))
		}
	}
}

// TestInterruptedPackIsReplaced finds what a killed run leaves, and packs over it.
func TestInterruptedPackIsReplaced(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out.pack")
	write(t, out+".tmp", []byte("half a pack"))
	write(t, out+".pixels.tmp", bytes.Repeat([]byte("half"), 1000))
	mustPack(t, PackOptions{From: digitFolder(t), Split: "train", Out: out})
	mustOpen(t, out)
	if diff := cmp.Diff([]string{"out.pack"}, left(t, dir)); diff != "" {
		t.Errorf("left beside the pack (-want +got):\n%s", diff)
	}
}

// TestProgressAndCancel stops in the middle.
func TestProgressAndCancel(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stopped by the test")
	var seen []int
	dir := t.TempDir()
	_, err := MakePack(ctx, PackOptions{From: digitFolder(t), Split: "train", Out: filepath.Join(dir, "x"),
		Progress: func(p Progress) {
			seen = append(seen, p.Images)
			cancel(stop)
		}})
	if !errors.Is(err, stop) {
		t.Errorf("error %v, want the cause of the cancellation", err)
	}
	if diff := cmp.Diff([]int{23}, seen); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"x.journal.tmp", "x.pixels.tmp"}, left(t, dir)); diff != "" {
		t.Errorf("left behind to go on from (-want +got):\n%s", diff)
	}
}

func TestOpenNamesAMissingPack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pack")
	if _, err := Open(path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v, want fs.ErrNotExist and the path", err)
	}
}
