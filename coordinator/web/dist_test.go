package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestPageIsBuiltFromItsSources needs no npm: gen.sh has written down what it built from what.
func TestPageIsBuiltFromItsSources(t *testing.T) {
	var paths []string
	err := filepath.WalkDir("app", func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.Name() == "node_modules" {
			return filepath.SkipDir
		}
		if err == nil && !d.IsDir() {
			paths = append(paths, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	hash := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%x", sha256.Sum256(b))
	}
	var list strings.Builder
	for _, p := range paths {
		fmt.Fprintf(&list, "%s  %s\n", hash(p), p)
	}
	want := fmt.Sprintf("sources %x\n", sha256.Sum256([]byte(list.String())))
	built, err := fs.ReadDir(dist, "dist")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range built {
		if f.Name() != "sums.txt" {
			want += fmt.Sprintf("%s  %s\n", hash(filepath.Join("dist", f.Name())), f.Name())
		}
	}
	got, err := os.ReadFile("dist/sums.txt")
	if err != nil {
		t.Fatal(err)
	}
	if _, sums, _ := strings.Cut(string(got), "\n"); sums != want {
		t.Errorf("dist is not what app says, or was changed by hand; run scripts/gen\nthere\n%s\nwant\n%s", sums, want)
	}
}

// A page of a hundred kilobytes is there at once on any line.
func TestPageIsSmall(t *testing.T) {
	const most = 100_000
	total := 0
	for name, a := range pageAssets() {
		if strings.HasSuffix(name, ".txt") {
			continue // not of the page
		}
		if a.kind == "" {
			t.Errorf("%s has no content type", name)
		}
		z, err := gzip.NewReader(bytes.NewReader(a.zipped))
		if err != nil {
			t.Fatal(err)
		}
		var plain bytes.Buffer
		if _, err := plain.ReadFrom(z); err != nil || !bytes.Equal(plain.Bytes(), a.plain) {
			t.Errorf("%s is compressed into something else: %v", name, err)
		}
		total += len(a.zipped)
	}
	t.Logf("%d bytes, compressed", total)
	if total > most || total < 10_000 {
		t.Errorf("the page has %d bytes, compressed; at most %d", total, most)
	}
}
