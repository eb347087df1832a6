package data

import (
	"archive/tar"
	"bytes"
	"fmt"
	img "image"
	"image/color"
	"image/jpeg"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// pets is a small folder of classes.
func pets(t testing.TB) files {
	return files{
		"train/cat/10.png": grey(t, 1, 2, 1, 2),
		"train/cat/9.png":  grey(t, 1, 2, 3, 4),
		"train/dog/a.png":  grey(t, 1, 2, 5, 6),
		"test/cat/1.png":   grey(t, 1, 2, 7, 8),
		"test/dog/1.PNG":   grey(t, 1, 2, 9, 10),
	}
}

// content lists the labels and pixels of a pack.
func content(t testing.TB, path string) []string {
	t.Helper()
	p := mustOpen(t, path)
	var out []string
	for i := range p.Images {
		out = append(out, fmt.Sprintf("%s %v", p.Classes[p.Label(i)], p.Image(i)))
	}
	return out
}

func TestFolderIsPackedInOrderOfPaths(t *testing.T) {
	path, _ := mustPack(t, PackOptions{From: pets(t).folder(t), Split: "train"})
	want := []string{"cat [1 2]", "cat [3 4]", "dog [5 6]"} // 10.png comes before 9.png
	if diff := cmp.Diff(want, content(t, path)); diff != "" {
		t.Errorf("train (-want +got):\n%s", diff)
	}
	path, _ = mustPack(t, PackOptions{From: pets(t).folder(t), Split: "test"})
	if diff := cmp.Diff([]string{"cat [7 8]", "dog [9 10]"}, content(t, path)); diff != "" {
		t.Errorf("test (-want +got):\n%s", diff)
	}
	path, _ = mustPack(t, PackOptions{From: filepath.Join(pets(t).folder(t), "test")})
	if diff := cmp.Diff([]string{"cat [7 8]", "dog [9 10]"}, content(t, path)); diff != "" {
		t.Errorf("a folder of classes without splits (-want +got):\n%s", diff)
	}
}

// TestArchivesAreFolders packs the same files from a folder and from archives of every kind and order.
func TestArchivesAreFolders(t *testing.T) {
	f := pets(t)
	below := files{}
	for name, b := range f {
		below["./pets/"+name] = b
	}
	backwards := f.names()
	slices.Reverse(backwards)
	plain := f.tar(t, f.names())
	for _, split := range []string{"train", "test"} {
		_, want := mustPack(t, PackOptions{From: f.folder(t), Split: split})
		for name, path := range map[string]string{
			"tar":       stow(t, "x.tar", plain),
			"tar.gz":    stow(t, "x.tar.gz", gzipped(t, plain)),
			"tgz":       stow(t, "x.tgz", gzipped(t, plain)),
			"tar.zst":   stow(t, "x.tar.zst", zstandard(t, plain)),
			"backwards": stow(t, "x.tar", f.tar(t, backwards)),
			"prefix":    stow(t, "x.tar", below.tar(t, below.names())),
		} {
			if _, s := mustPack(t, PackOptions{From: path, Split: split}); s.ID != want.ID {
				t.Errorf("%s of %s: another pack than the folder gives: %+v", split, name, s)
			}
		}
	}
}

func TestOtherFilesAreNoImages(t *testing.T) {
	f := pets(t)
	_, want := mustPack(t, PackOptions{From: f.folder(t), Split: "train"})
	f["train/cat/._9.png"] = []byte("a resource fork")
	f["train/README.txt"] = []byte("read me")
	f["labels.csv"] = []byte("9.png,cat")
	_, got := mustPack(t, PackOptions{From: f.folder(t), Split: "train"})
	if diff := cmp.Diff(want.ID, got.ID); diff != "" {
		t.Errorf("identity (-want +got):\n%s", diff)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "train/cat/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "train/cat/link.png", Typeflag: tar.TypeSymlink, Linkname: "../../../../etc/passwd"},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	path := stow(t, "x.tar", append(b.Bytes(), f.tar(t, f.names())...))
	if _, got = mustPack(t, PackOptions{From: path, Split: "train"}); got.ID != want.ID {
		t.Error("links and directories of an archive change the pack")
	}
}

func TestGivenClassesDecideLabels(t *testing.T) {
	path, s := mustPack(t, PackOptions{From: pets(t).folder(t), Split: "train", Classes: []string{"dog", "cow", "cat"}})
	p := mustOpen(t, path)
	got := []int{p.Label(0), p.Label(1), p.Label(2)}
	if diff := cmp.Diff([]int{2, 2, 0}, got); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"dog", "cow", "cat"}, s.Classes); diff != "" {
		t.Errorf("classes (-want +got):\n%s", diff)
	}
}

// TestColourIsPlanar gives one plane of red, one of green, one of blue.
func TestColourIsPlanar(t *testing.T) {
	path, _ := mustPack(t, PackOptions{From: files{"a/1.png": colour(t, 2, 1, 1, 2, 3, 4, 5, 6)}.folder(t)})
	if diff := cmp.Diff([]string{"a [1 4 2 5 3 6]"}, content(t, path)); diff != "" {
		t.Errorf("pixels (-want +got):\n%s", diff)
	}
}

func TestChannelsAsAsked(t *testing.T) {
	for name, c := range map[string]struct {
		picture  []byte
		channels int
		want     string
	}{
		"grey":           {grey(t, 1, 2, 7, 9), 0, "a [7 9]"},
		"grey as RGB":    {grey(t, 1, 2, 7, 9), 3, "a [7 9 7 9 7 9]"},
		"colour":         {colour(t, 1, 1, 10, 20, 30), 0, "a [10 20 30]"},
		"colour as luma": {colour(t, 1, 1, 10, 20, 30), 1, "a [18]"}, // (299*10 + 587*20 + 114*30) / 1000
	} {
		path, _ := mustPack(t, PackOptions{From: files{"a/1.png": c.picture}.folder(t), Channels: c.channels})
		if diff := cmp.Diff([]string{c.want}, content(t, path)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestPNGKinds decodes the colour models PNG files have.
func TestPNGKinds(t *testing.T) {
	at := img.Rect(0, 0, 1, 1)
	set := func(m interface {
		img.Image
		Set(x, y int, c color.Color)
	}, c color.Color) []byte {
		m.Set(0, 0, c)
		return encode(t, m)
	}
	palette := color.Palette{color.Black, color.RGBA{9, 8, 7, 255}}
	for name, c := range map[string]struct {
		picture []byte
		want    []byte
	}{
		"palette":     {set(img.NewPaletted(at, palette), palette[1]), []byte{9, 8, 7}},
		"16 bit":      {set(img.NewRGBA64(at), color.RGBA64{0x1234, 0x5678, 0x9abc, 0xffff}), []byte{0x12, 0x56, 0x9a}},
		"16 bit grey": {set(img.NewGray16(at), color.Gray16{0xabcd}), []byte{0xab}},
		"half opaque": {set(img.NewNRGBA(at), color.NRGBA{200, 100, 50, 128}), []byte{100, 50, 25}}, // over black
	} {
		got, err := decodeImage(c.picture, len(c.want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got.pixels); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestJPEG decodes a smooth picture to within the loss of quality 95.
func TestJPEG(t *testing.T) {
	m := img.NewRGBA(img.Rect(0, 0, 32, 16))
	want := func(x, y int) [3]byte { return [3]byte{byte(4 * x), byte(8 * y), byte(100 + x + y)} }
	for y := range 16 {
		for x := range 32 {
			c := want(x, y)
			m.Set(x, y, color.RGBA{c[0], c[1], c[2], 255})
		}
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: 95}); err != nil {
		t.Fatal(err)
	}
	got, err := decodeImage(b.Bytes(), 3)
	if err != nil {
		t.Fatal(err)
	}
	if got.channels != 3 || got.height != 16 || got.width != 32 {
		t.Fatalf("decoded as %d x %d x %d", got.channels, got.height, got.width)
	}
	for i, v := range got.pixels {
		c, y, x := i/512, i%512/32, i%32
		if d := math.Abs(float64(v) - float64(want(x, y)[c])); d > 12 {
			t.Fatalf("channel %d of pixel (%d, %d) is %d, want about %d", c, y, x, v, want(x, y)[c])
		}
	}
}

// TestBrokenImages skips as many as allowed, and says which and why.
func TestBrokenImages(t *testing.T) {
	f := pets(t)
	f["train/cat/11.png"] = []byte("no picture")
	f["train/dog/b.png"] = grey(t, 2, 2, 1, 2, 3, 4)
	f["train/fox/1.png"] = f["train/cat/9.png"][:20]
	o := PackOptions{From: f.folder(t), Split: "train", Classes: []string{"cat", "dog", "fox"}, MaxBad: 3}
	path, s := mustPack(t, o)
	if diff := cmp.Diff([]string{"cat [1 2]", "cat [3 4]", "dog [5 6]"}, content(t, path)); diff != "" {
		t.Errorf("pack (-want +got):\n%s", diff)
	}
	reasons := map[string]string{"cat/11.png": "cannot be decoded", "dog/b.png": "is 1x2x2, others are 1x1x2",
		"fox/1.png": "cannot be decoded"}
	for _, skip := range s.Skipped {
		if want := reasons[skip.Name]; want == "" || !strings.Contains(skip.Reason, want) {
			t.Errorf("skipped %+v, want the reason %q", skip, want)
		}
		delete(reasons, skip.Name)
	}
	if len(reasons) > 0 {
		t.Errorf("not listed as skipped: %v", reasons)
	}
	for allowed := range 3 {
		o.MaxBad, o.Out = allowed, filepath.Join(t.TempDir(), "x")
		_, err := MakePack(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), "--max-bad N") || !strings.Contains(err.Error(), o.From) {
			t.Errorf("%d of 3 broken images allowed: error %v, want one with the source and --max-bad N", allowed, err)
		}
	}
}

func TestPictureRefusals(t *testing.T) {
	one, archive := grey(t, 1, 1, 1), pets(t).tar(t, pets(t).names())
	for name, c := range map[string]struct {
		from string
		want string
	}{
		"no class":      {files{"1.png": one}.folder(t), "1.png lies in no class directory; use CLASS/IMAGE"},
		"no pictures":   {files{"a/b.txt": nil}.folder(t), "no .jpg, .jpeg or .png in it; use CLASS/IMAGE"},
		"other class":   {files{"a/1.png": one, "ox/2.png": one}.folder(t), `"ox", which is not among the given classes`},
		"no archive":    {stow(t, "x.tar", []byte("this is no archive at all")), "read archive"},
		"empty archive": {stow(t, "x.tar", nil), "read archive"},
		"cut gzip":      {stow(t, "x.tar.gz", gzipped(t, archive)[:200]), "archive"},
		"cut zstd":      {stow(t, "x.tar.zst", zstandard(t, archive)[:200]), "archive"},
		"cut tar":       {stow(t, "x.tar", archive[:540]), "archive"},
		"no source":     {filepath.Join(t.TempDir(), "nowhere"), "no such file"},
	} {
		dir := t.TempDir()
		out := filepath.Join(dir, "x")
		_, err := MakePack(t.Context(), PackOptions{From: c.from, Out: out, Classes: []string{"a", "cat", "dog"}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.from) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v, want one line with the source and %q", name, err, c.want)
		}
		if got := left(t, dir); len(got) > 0 {
			t.Errorf("%s: left behind: %v", name, got)
		}
	}
}
