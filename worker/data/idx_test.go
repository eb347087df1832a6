package data

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestIDXSources packs the same images in every way IDX comes.
func TestIDXSources(t *testing.T) {
	images, labels := digits(11)
	plain := files{"t10k-images-idx3-ubyte": images, "t10k-labels-idx1-ubyte": labels}
	packed := files{"t10k-images-idx3-ubyte.gz": gzipped(t, images), "t10k-labels-idx1-ubyte.gz": gzipped(t, labels)}
	alone := files{"some-images.idx3": images, "some-labels.idx1": labels}
	_, want := mustPack(t, PackOptions{From: plain.folder(t), Split: "test"})
	if want.Images != 11 {
		t.Fatalf("packed %d images", want.Images)
	}
	for name, o := range map[string]PackOptions{
		"gzip":           {From: packed.folder(t), Split: "test"},
		"one file":       {From: filepath.Join(plain.folder(t), "t10k-images-idx3-ubyte")},
		"one gzip":       {From: filepath.Join(packed.folder(t), "t10k-images-idx3-ubyte.gz")},
		"one of another": {From: filepath.Join(alone.folder(t), "some-images.idx3")},
	} {
		if _, s := mustPack(t, o); s.ID != want.ID {
			t.Errorf("%s: another pack: %+v", name, s)
		}
	}
}

func TestIDXSplitAndClasses(t *testing.T) {
	from := digitFolder(t)
	_, train := mustPack(t, PackOptions{From: from, Split: "train"})
	_, test := mustPack(t, PackOptions{From: from, Split: "test", Classes: strings.Split("abcdefghijk", "")})
	if train.Images != 23 || test.Images != 11 {
		t.Errorf("packed %d and %d images, want 23 and 11", train.Images, test.Images)
	}
	if diff := cmp.Diff(strings.Split("0123456789", ""), train.Classes); diff != "" {
		t.Errorf("classes of their own (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(strings.Split("abcdefghijk", ""), test.Classes); diff != "" {
		t.Errorf("classes as given (-want +got):\n%s", diff)
	}
}

// TestIDXRefusals wants one line that names the file and the reason, and nothing left.
func TestIDXRefusals(t *testing.T) {
	images, labels := digits(11)
	fewer, _ := digits(10)
	for name, c := range map[string]struct {
		images, labels []byte
		classes        []string
		want           []string
	}{
		"no magic":         {[]byte("hello, world"), labels, nil, []string{"-images", "no IDX file"}},
		"empty":            {nil, labels, nil, []string{"-images", "too short"}},
		"labels as images": {labels, labels, nil, []string{"-images", "3 dimensions"}},
		"images as labels": {images, images, nil, []string{"-labels", "1 dimensions"}},
		"floats":           {append([]byte{0, 0, 13, 3}, images[4:]...), labels, nil, []string{"-images", "unsigned bytes"}},
		"header cut":       {images[:14], labels, nil, []string{"-images", "truncated header"}},
		"images cut":       {images[:len(images)-1], labels, nil, []string{"-images", "truncated at image 10"}},
		"labels cut":       {images, labels[:len(labels)-1], nil, []string{"-labels", "truncated"}},
		"another count":    {fewer, labels, nil, []string{"10 images", "11 labels"}},
		"no images":        {idxFile(nil, 0, 3, 4), idxFile(nil, 0), nil, []string{"-images", "dimensions"}},
		"huge":             {idxFile(nil, 1<<16, 1<<16, 1<<16), labels, nil, []string{"-images", "dimensions"}},
		"too few classes":  {images, labels, []string{"a", "b"}, []string{"image 2", "label 2", "2 classes"}},
	} {
		from := files{"t10k-images-idx3-ubyte": c.images, "t10k-labels-idx1-ubyte": c.labels}.folder(t)
		dir := t.TempDir()
		out := filepath.Join(dir, "x")
		_, err := MakePack(t.Context(), PackOptions{From: from, Split: "test", Classes: c.classes, Out: out})
		if err == nil {
			t.Errorf("%s: packed", name)
			continue
		}
		for _, want := range append(c.want, from) {
			if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: error %q is not one line with %q", name, err, want)
			}
		}
		if got := left(t, dir); len(got) > 0 {
			t.Errorf("%s: left behind: %v", name, got)
		}
	}
}

func TestIDXDirectoryRefusals(t *testing.T) {
	from := digitFolder(t)
	if err := os.Remove(filepath.Join(from, "t10k-images-idx3-ubyte")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(from, "train-labels-idx1-ubyte")); err != nil {
		t.Fatal(err)
	}
	for split, want := range map[string]string{
		"":      "--split train or --split test",
		"valid": "--split train or --split test",
		"test":  "has no t10k-images-idx3-ubyte[.gz]",
		"train": "train-labels-idx1-ubyte",
	} {
		_, err := MakePack(t.Context(), PackOptions{From: from, Split: split, Out: filepath.Join(t.TempDir(), "x")})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("split %q: error %v, want %q in it", split, err, want)
		}
	}
}

func TestTruncatedGzipIsRefused(t *testing.T) {
	images, labels := digits(11)
	z := gzipped(t, images)
	for _, n := range []int{3, len(z) / 2} {
		from := files{"t10k-images-idx3-ubyte.gz": z[:n], "t10k-labels-idx1-ubyte.gz": gzipped(t, labels)}.folder(t)
		_, err := MakePack(t.Context(), PackOptions{From: from, Split: "test", Out: filepath.Join(t.TempDir(), "x")})
		if err == nil {
			t.Errorf("cut to %d of %d bytes: packed", n, len(z))
		}
	}
}

// FuzzIDX never panics, never claims more than the limit, and reads back what it accepts.
func FuzzIDX(f *testing.F) {
	images, labels := digits(2)
	f.Add(images, 3)
	f.Add(labels, 1)
	f.Add(idxFile(nil, 1<<31-1, 1<<31-1), 2)
	f.Fuzz(func(t *testing.T, b []byte, dims int) {
		if dims < 0 || dims > 255 {
			return
		}
		r := bytes.NewReader(b)
		size, err := idxHeader(r, dims)
		if err != nil {
			return
		}
		rest, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b, idxFile(rest, size...)); diff != "" {
			t.Fatalf("read %v, which is written otherwise (-read +written):\n%s", size, diff)
		}
		total := 1
		for _, d := range size {
			total *= d
		}
		if total < 1 || total > idxLimit {
			t.Fatalf("accepts dimensions %v", size)
		}
	})
}

// FuzzImportIDX packs whatever two files hold, or refuses it and leaves nothing.
func FuzzImportIDX(f *testing.F) {
	images, labels := digits(3)
	f.Add(images, labels)
	f.Add(gzipped(f, images), gzipped(f, labels))
	f.Fuzz(func(t *testing.T, images, labels []byte) {
		if len(images) > 16 && (images[4] > 0 || images[8] > 0 || images[12] > 0) {
			return // sizes of gigabytes are allowed, and slow
		}
		from := files{"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": labels}.folder(t)
		dir := t.TempDir()
		out := filepath.Join(dir, "x")
		s, err := MakePack(t.Context(), PackOptions{From: from, Split: "train", Out: out})
		if err != nil {
			if got := left(t, dir); len(got) > 0 {
				t.Fatalf("refused (%v), but left %v", err, got)
			}
			return
		}
		p, err := Open(out)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil || p.Images != s.Images {
			t.Fatalf("packed %d images, read %d; %v", s.Images, p.Images, err)
		}
	})
}
