package data

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"colonnade/shard/job"
)

// Real datasets, where they are installed.

// fashion is where Debian's package dataset-fashion-mnist puts its files.
const fashion = "/usr/share/datasets/fashion-mnist"

func needFashion(t testing.TB) string {
	t.Helper()
	if _, err := os.Stat(fashion); err != nil {
		t.Skip("needs the Debian package dataset-fashion-mnist")
	}
	return fashion
}

// needCIFAR finds an archive of CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg.
func needCIFAR(t testing.TB) string {
	t.Helper()
	path := os.Getenv("COLONNADE_CIFAR10")
	if path == "" {
		path = filepath.FromSlash("../../../shared/data/cifar10-jpeg.tar.zst")
	}
	if _, err := os.Stat(path); err != nil {
		t.Skip("needs COLONNADE_CIFAR10, the path of CIFAR-10 as a tar of train/CLASS/*.jpg and test/CLASS/*.jpg")
	}
	return path
}

// evenly checks a pack's facts: every class has as many images.
func evenly(t *testing.T, path string, channels, side, perClass int, classes []string) Facts {
	t.Helper()
	f, err := Info(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Facts{Path: path, ID: f.ID, Images: perClass * len(classes), Channels: channels, Height: side, Width: side,
		Mean: f.Mean, Made: f.Made, Bytes: f.Bytes, Colour: f.Colour}
	for _, c := range classes {
		want.Classes = append(want.Classes, Class{c, perClass})
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	return f
}

// TestFashionMNIST pins the identity of the default dataset: jobs and checkpoints name it. The identities were computed
// by a second implementation, in another language.
func TestFashionMNIST(t *testing.T) {
	from := needFashion(t)
	classes := []string{"t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"}
	for split, want := range map[string]struct {
		perClass int
		id       string
	}{
		"train": {6000, "ccadac8e68be4a422aff09716aac6eb8b4fc97b7efe6eb388cdafd0cd72a08de"},
		"test":  {1000, "9b50df83f930915511fc932e91de31d1bf15ba89f946147938c12fb8eb9ca923"},
	} {
		path, _ := mustPack(t, PackOptions{From: from, Split: split, Classes: classes})
		f := evenly(t, path, 1, 28, want.perClass, classes)
		if diff := cmp.Diff(want.id, f.ID); diff != "" {
			t.Errorf("identity of %s (-want +got):\n%s", split, diff)
		}
	}
}

// TestCIFAR10 packs natural images out of a compressed archive.
func TestCIFAR10(t *testing.T) {
	from := needCIFAR(t)
	path, _ := mustPack(t, PackOptions{From: from, Split: "test"})
	f := evenly(t, path, 3, 32, 1000,
		[]string{"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"})
	for c, want := range []float64{125.3, 123.0, 113.9} { // of the original training images
		if m := f.Mean[c]; m < want-3 || m > want+3 {
			t.Errorf("mean of channel %d is %.1f, want about %.1f", c, m, want)
		}
	}
}

func BenchmarkPackFashionMNIST(b *testing.B) {
	from := needFashion(b)
	for b.Loop() {
		mustPack(b, PackOptions{From: from, Split: "train"})
	}
}

func BenchmarkPackCIFAR10(b *testing.B) {
	from := needCIFAR(b)
	for b.Loop() {
		mustPack(b, PackOptions{From: from, Split: "train"})
	}
}

func BenchmarkOpen(b *testing.B) {
	path, s := mustPack(b, PackOptions{From: needFashion(b), Split: "train"})
	b.SetBytes(int64(s.Images) * 28 * 28)
	for b.Loop() {
		p, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoader(b *testing.B) {
	path, s := mustPack(b, PackOptions{From: needFashion(b), Split: "train"})
	j := &job.Job{Seed: 1, Recipe: job.Recipe{Batch: 128}, Augment: job.Augment{Crop: "random", Pad: 2, Flip: true},
		Train: &job.Pack{Images: s.Images}}
	l := NewLoader(j, 0, mustOpen(b, path), nil, 32, 32)
	b.ReportAllocs()
	for step := uint64(0); b.Loop(); step++ {
		l.Train(step)
	}
	b.ReportMetric(float64(b.N)*128/b.Elapsed().Seconds(), "images/s")
}
