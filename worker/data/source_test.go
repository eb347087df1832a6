package data

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	img "image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Small datasets, written as users have them.

// files are the contents of a dataset by slash-separated path.
type files map[string][]byte

// names lists the paths in order.
func (f files) names() []string {
	var out []string
	for name := range f {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// folder writes the files below a new directory.
func (f files) folder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range f {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, path, b)
	}
	return dir
}

// tar gives the files as an archive, in the order of names.
func (f files) tar(t testing.TB, names []string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(f[name]))}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func write(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// stow puts bytes in a new file of the given name.
func stow(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	write(t, path, b)
	return path
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstandard(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// grey is a PNG of one channel.
func grey(t testing.TB, height, width int, pixels ...byte) []byte {
	t.Helper()
	m := img.NewGray(img.Rect(0, 0, width, height))
	copy(m.Pix, pixels)
	return encode(t, m)
}

// colour is a PNG of three channels; pixels are R, G, B of each in turn.
func colour(t testing.TB, height, width int, pixels ...byte) []byte {
	t.Helper()
	m := img.NewRGBA(img.Rect(0, 0, width, height))
	for i := range height * width {
		m.Set(i%width, i/width, color.RGBA{pixels[3*i], pixels[3*i+1], pixels[3*i+2], 255})
	}
	return encode(t, m)
}

func encode(t testing.TB, m img.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// idxFile is an IDX file of unsigned bytes.
func idxFile(data []byte, dims ...int) []byte {
	b := []byte{0, 0, 8, byte(len(dims))}
	for _, d := range dims {
		b = binary.BigEndian.AppendUint32(b, uint32(d))
	}
	return append(b, data...)
}

// digits is an IDX dataset of n images of 3x4 pixels: image i is of class i%10 and pixel p of it is i*p+i.
func digits(n int) (images, labels []byte) {
	for i := range n {
		for p := range 12 {
			images = append(images, byte(i*p+i))
		}
		labels = append(labels, byte(i%10))
	}
	return idxFile(images, n, 3, 4), idxFile(labels, n)
}

// digitFolder is an IDX directory with 23 images to train and 11 to test.
func digitFolder(t testing.TB) string {
	t.Helper()
	f := files{}
	f["train-images-idx3-ubyte"], f["train-labels-idx1-ubyte"] = digits(23)
	f["t10k-images-idx3-ubyte"], f["t10k-labels-idx1-ubyte"] = digits(11)
	return f.folder(t)
}

// mustPack packs and gives the path of the pack.
func mustPack(t testing.TB, o PackOptions) (string, Summary) {
	t.Helper()
	if o.Out == "" {
		o.Out = filepath.Join(t.TempDir(), "out.pack")
	}
	s, err := MakePack(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return o.Out, s
}

func mustOpen(t testing.TB, path string) *Pack {
	t.Helper()
	p, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// left lists what lies in a directory.
func left(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
