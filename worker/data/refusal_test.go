package data

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"colonnade/checkpoint/disktest"
)

// refused packs what must not be packed and gives the line it is refused with. Nothing may be left behind.
func refused(t *testing.T, o PackOptions) string {
	t.Helper()
	if o.Out == "" {
		dir := t.TempDir()
		o.Out = filepath.Join(dir, "x")
		defer func() {
			if half := left(t, dir); len(half) > 0 {
				t.Errorf("left behind: %v", half)
			}
		}()
	}
	s, err := MakePack(t.Context(), o)
	if err == nil {
		t.Errorf("packed: %+v", s)
		return ""
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %v", err)
	}
	return err.Error()
}

// TestCompressedSourcesAreReadToTheirChecksum damages the checksum at the end of compressed files.
func TestCompressedSourcesAreReadToTheirChecksum(t *testing.T) {
	spoilt := func(b []byte, fromEnd int) []byte {
		b = bytes.Clone(b)
		b[len(b)-fromEnd] ^= 1
		return b
	}
	images, labels := digits(11)
	archive := pets(t).tar(t, pets(t).names())
	idx := func(images, labels []byte) string {
		return files{"t10k-images-idx3-ubyte.gz": images, "t10k-labels-idx1-ubyte.gz": labels}.folder(t)
	}
	for name, from := range map[string]string{
		"images":  idx(spoilt(gzipped(t, images), 6), gzipped(t, labels)),
		"labels":  idx(gzipped(t, images), spoilt(gzipped(t, labels), 6)),
		"cut":     idx(gzipped(t, images)[:len(gzipped(t, images))-4], gzipped(t, labels)),
		"tar.gz":  stow(t, "x.tar.gz", spoilt(gzipped(t, archive), 6)),
		"tar.zst": stow(t, "x.tar.zst", spoilt(zstandard(t, archive), 1)),
	} {
		t.Run(name, func(t *testing.T) { refused(t, PackOptions{From: from, Split: "test"}) })
	}
}

func TestIDXFilesThatGoOnAreRefused(t *testing.T) {
	images, labels := digits(11)
	for name, f := range map[string]files{
		"images": {"t10k-images-idx3-ubyte": append(bytes.Clone(images), 0), "t10k-labels-idx1-ubyte": labels},
		"labels": {"t10k-images-idx3-ubyte": images, "t10k-labels-idx1-ubyte": append(bytes.Clone(labels), 0)},
	} {
		if line := refused(t, PackOptions{From: f.folder(t), Split: "test"}); !strings.Contains(line, "-"+name+"-") {
			t.Errorf("error %q does not name the file of %s", line, name)
		}
	}
}

func TestImpossibleChannelsAreRefused(t *testing.T) {
	for _, channels := range []int{-1, 2, 4, 64} {
		from := files{"a/1.png": grey(t, 1, 1, 1)}.folder(t)
		if line := refused(t, PackOptions{From: from, Channels: channels}); !strings.Contains(line, "--channels") {
			t.Errorf("%d channels: error %q does not name --channels", channels, line)
		}
	}
}

func TestChannelsOfIDX(t *testing.T) {
	refused(t, PackOptions{From: digitFolder(t), Split: "train", Channels: 3})
}

// TestOneColourImageMakesAllColour: colour is never thrown away because the first image is grey.
func TestOneColourImageMakesAllColour(t *testing.T) {
	from := files{"a/1.png": grey(t, 1, 1, 7), "a/2.png": colour(t, 1, 1, 10, 20, 30)}.folder(t)
	path, _ := mustPack(t, PackOptions{From: from})
	if diff := cmp.Diff([]string{"a [7 7 7]", "a [10 20 30]"}, content(t, path)); diff != "" {
		t.Errorf("pixels (-want +got):\n%s", diff)
	}
}

// TestClassNamedLikeASplit packs a set, such as CIFAR-100, that has a class of trains.
func TestClassNamedLikeASplit(t *testing.T) {
	f := files{
		"set/train/cat/1.png": grey(t, 1, 1, 1), "set/train/train/1.png": grey(t, 1, 1, 2),
		"set/test/cat/1.png": grey(t, 1, 1, 3), "set/test/train/1.png": grey(t, 1, 1, 4),
	}
	for split, want := range map[string][]string{"train": {"cat [1]", "train [2]"}, "test": {"cat [3]", "train [4]"}} {
		path, _ := mustPack(t, PackOptions{From: f.folder(t), Split: split})
		if diff := cmp.Diff(want, content(t, path)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", split, diff)
		}
	}
}

// TestMissingSplitIsRefused: packing everything as the test set would mix it with what is trained on.
func TestMissingSplitIsRefused(t *testing.T) {
	f := pets(t)
	delete(f, "test/cat/1.png")
	delete(f, "test/dog/1.PNG")
	refused(t, PackOptions{From: f.folder(t), Split: "test"})
	refused(t, PackOptions{From: f.folder(t), Split: "tset"})
}

func TestLinkToAFolderIsFollowed(t *testing.T) {
	link := filepath.Join(t.TempDir(), "data")
	if err := os.Symlink(pets(t).folder(t), link); err != nil {
		t.Fatal(err)
	}
	if _, s := mustPack(t, PackOptions{From: link, Split: "train"}); s.Images != 3 {
		t.Errorf("packed %d images, want 3", s.Images)
	}
}

// TestHugePictureIsRefusedUnread gives a PNG of a few bytes that claims 60,000 x 60,000 pixels.
func TestHugePictureIsRefusedUnread(t *testing.T) {
	b := grey(t, 1, 1, 1)
	binary.BigEndian.PutUint32(b[16:], 60_000)
	binary.BigEndian.PutUint32(b[20:], 60_000)
	binary.BigEndian.PutUint32(b[29:], crc32.ChecksumIEEE(b[12:29]))
	line := refused(t, PackOptions{From: files{"a/1.png": b}.folder(t)})
	if !strings.Contains(line, "60000") {
		t.Errorf("error %q does not name the size", line)
	}
}

func TestFullDiskIsNoBrokenImage(t *testing.T) {
	f := files{}
	big := make([]byte, 1<<20)
	f["a/1.png"], f["a/2.png"] = grey(t, 1<<10, 1<<10, big...), grey(t, 1<<10, 1<<10, big...)
	dir := t.TempDir()
	out := filepath.Join(dir, "x")
	if err := os.Symlink("/dev/full", out+".pixels.tmp"); err != nil {
		t.Fatal(err)
	}
	_, err := MakePack(t.Context(), PackOptions{From: f.folder(t), Out: out})
	if !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "--max-bad") {
		t.Errorf("error %v, want a full disk and no advice on broken images", err)
	}
}

// TestFullDiskKeepsWhatIsDone has the room end among the pixels, and where they are put together: there may be none for
// a new journal then, and the last one says where the same command goes on.
func TestFullDiskKeepsWhatIsDone(t *testing.T) {
	const images = 40_000 // of 12 bytes; unpacked, as pixels and in the pack
	pixels, labels := digits(images)
	from := files{"train-images-idx3-ubyte": pixels, "train-labels-idx1-ubyte": labels}.folder(t)
	_, want := mustPack(t, PackOptions{From: from, Split: "train"})
	for _, kib := range []int64{800, 1250} {
		dir := t.TempDir()
		disktest.Small(t, dir, kib)
		resumed := 0
		o := PackOptions{From: from, Split: "train", Out: filepath.Join(dir, "x.pack"),
			Progress: func(p Progress) { resumed = p.Resumed }, journalEvery: func() bool { return true }}
		_, err := MakePack(t.Context(), o)
		var kept int
		if err == nil || !errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), "\n") ||
			!strings.Contains(err.Error(), "; make room, or choose another --out (") {
			t.Fatalf("%d KiB: %v, want one line of a full disk", kib, err)
		}
		_, after, _ := strings.Cut(err.Error(), "--out (")
		if _, err := fmt.Sscanf(after, "%d images are kept", &kept); err != nil || kept < keepFrom || kept > images ||
			(kept == images) != (kib > 1000) {
			t.Errorf("%d KiB: %s: %d images are kept", kib, after, kept)
		}
		if _, err := os.Stat(o.Out); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%d KiB: there is something under the pack's name: %v", kib, err)
		}
		disktest.Resize(t, dir, 8<<10)
		if _, s := mustPack(t, o); s.ID != want.ID || kept < images && resumed != kept {
			t.Errorf("%d KiB: gone on after %d images of %d, identity %s, want %s", kib, resumed, kept, s.ID, want.ID)
		}
		if half := left(t, dir); len(half) != 1 {
			t.Errorf("%d KiB: there is %v", kib, half)
		}
	}
}

func TestSourceIsNotOverwritten(t *testing.T) {
	path := stow(t, "x.tar", pets(t).tar(t, pets(t).names()))
	before := mustRead(t, path)
	refused(t, PackOptions{From: path, Out: path, Split: "train"})
	if !bytes.Equal(before, mustRead(t, path)) {
		t.Error("the source is gone")
	}
}

func TestRepeatedClassIsRefused(t *testing.T) {
	from := files{"a/1.png": grey(t, 1, 1, 1)}.folder(t)
	refused(t, PackOptions{From: from, Classes: []string{"a", "b", "a"}})
}

func TestOutIsADirectory(t *testing.T) {
	progressed := false
	refused(t, PackOptions{From: pets(t).folder(t), Split: "train", Out: t.TempDir(),
		Progress: func(Progress) { progressed = true }})
	if progressed {
		t.Error("refused only after reading images")
	}
}

func TestUnknownFileIsRefused(t *testing.T) {
	line := refused(t, PackOptions{From: stow(t, "set.zip", []byte("PK"))})
	if !strings.Contains(line, "give one, or a folder") {
		t.Errorf("error %q does not say what to give", line)
	}
}

// TestUnwritableOutput has the pack go where nothing can be written.
func TestUnwritableOutput(t *testing.T) {
	from := files{"a/1.png": grey(t, 1, 1, 1)}.folder(t)
	file := stow(t, "file", []byte("kept"))
	for name, out := range map[string]string{"below a file": filepath.Join(file, "x.pack"),
		"a system's directory": "/proc/self/x.pack", "a device": os.DevNull,
		"a name too long": filepath.Join(t.TempDir(), strings.Repeat("x", 300))} {
		line := refused(t, PackOptions{From: from, Out: out})
		if !strings.Contains(line, "choose another --out") && !strings.Contains(line, "give a file with --out") &&
			!strings.Contains(line, "give another file with --out") {
			t.Errorf("%s: %q does not say what to give", name, line)
		}
	}
	if string(mustRead(t, file)) != "kept" {
		t.Error("the file in the way is gone")
	}
}

// TestAnotherVersion opens a pack that a newer program has made, and one that is none.
func TestAnotherVersion(t *testing.T) {
	path, _ := mustPack(t, PackOptions{From: files{"a/1.png": grey(t, 1, 1, 1)}.folder(t)})
	b := mustRead(t, path)
	for version, want := range map[uint32]string{3: "of version 3, this program reads versions 1 to 2",
		0: "of version 0, this program reads versions 1 to 2"} {
		binary.LittleEndian.PutUint32(b[8:], version)
		_, err := Open(stow(t, "x.pack", b))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") ||
			!strings.Contains(err.Error(), "worker data pack --from SRC --out FILE") {
			t.Errorf("version %d: %v", version, err)
		}
	}
}
