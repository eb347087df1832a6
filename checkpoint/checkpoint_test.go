package checkpoint

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sample is a small state with values on both sides of a chunk's end.
func sample() (Meta, []Tensor) {
	m := Meta{Job: "job-1", Generation: 4, Step: 120, Replica: 0, Column: 1, PlanDigest: [32]byte{1, 2, 3},
		Numerics: "test/1"}
	var out []Tensor
	r := rand.New(rand.NewPCG(1, 2))
	for _, shape := range [][]int{{1}, {3, 5}, {7, 3, 2, 2}, {chunkBytes/4 - 1}, {chunkBytes / 4}, {chunkBytes/4 + 1}} {
		n := 1
		for _, d := range shape {
			n *= d
		}
		t := Tensor{Name: fmt.Sprintf("layer%d/w", len(out)), Shape: shape, Data: make([]float32, n)}
		for i := range t.Data {
			t.Data[i] = r.Float32() - 0.5
		}
		out = append(out, t)
	}
	return m, out
}

// small is sample without the large tensors.
func small() (Meta, []Tensor) {
	m, t := sample()
	return m, t[:3]
}

func write(t testing.TB, m Meta, tensors []Tensor) (root, path string, info Info) {
	t.Helper()
	root = t.TempDir()
	info, err := Write(context.Background(), root, m, tensors, nil)
	if err != nil {
		t.Fatal(err)
	}
	return root, filepath.Join(root, info.Path), info
}

// read loads a file into fresh tensors.
func read(path string, want Want) (map[string][]float32, error) {
	got := map[string][]float32{}
	_, err := Load(context.Background(), path, want, func(name string, shape []int) ([]float32, error) {
		n, err := volume(shape)
		if err != nil {
			return nil, err
		}
		got[name] = make([]float32, n)
		return got[name], nil
	})
	return got, err
}

func same(got map[string][]float32, want []Tensor) bool {
	if len(got) != len(want) {
		return false
	}
	for _, t := range want {
		if !bytes.Equal(littleEndian(got[t.Name]), littleEndian(t.Data)) {
			return false
		}
	}
	return true
}

func TestRoundTrip(t *testing.T) {
	m, tensors := sample()
	root, path, info := write(t, m, tensors)
	got, err := read(path, manifest(m, info))
	if err != nil {
		t.Fatal(err)
	}
	if !same(got, tensors) {
		t.Fatal("what is read is not what was written")
	}
	_, again, err := Verify(context.Background(), path, Want{Meta: m})
	if again.Path = info.Path; err != nil || again != info {
		t.Fatalf("verify gives %+v, %v; writing gave %+v", again, err, info)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "*", "*", "*.tmp")); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestDigestIsPinned(t *testing.T) {
	d := Digest([]Tensor{{"a/w", []int{2, 1}, []float32{1, -2}}, {"b", []int{1}, []float32{0.5}}})
	if got, want := fmt.Sprintf("%x", d), "605f15df509dc26c84d31e3a5485b8828f92bb19184362246403b976cc7e5bbb"; got != want {
		t.Fatalf("digest %s, want %s", got, want)
	}
}

func TestRefusals(t *testing.T) {
	m, tensors := small()
	_, path, info := write(t, m, tensors)
	good := manifest(m, info)
	for name, c := range map[string]struct {
		change func(*Want)
		path   string
		want   error
	}{
		"missing":      {func(*Want) {}, path + "x", ErrMissing},
		"size":         {func(w *Want) { w.Bytes++ }, path, ErrCorrupt},
		"sum":          {func(w *Want) { w.XXH3[0]++ }, path, ErrCorrupt},
		"sum of old":   {func(w *Want) { w.SHA256[0]++ }, path, ErrCorrupt},
		"digest":       {func(w *Want) { w.Digest[0]++ }, path, ErrMismatch},
		"job":          {func(w *Want) { w.Meta.Job = "other" }, path, ErrMismatch},
		"step":         {func(w *Want) { w.Meta.Step++ }, path, ErrMismatch},
		"replica":      {func(w *Want) { w.Meta.Replica++ }, path, ErrMismatch},
		"column":       {func(w *Want) { w.Meta.Column++ }, path, ErrMismatch},
		"plan":         {func(w *Want) { w.Meta.PlanDigest[31]++ }, path, ErrMismatch},
		"numerics":     {func(w *Want) { w.Meta.Numerics = "cuda" }, path, ErrMismatch},
		"not database": {func(w *Want) { *w = Want{Meta: m} }, "checkpoint_test.go", ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			want := good
			c.change(&want)
			_, err := read(c.path, want)
			refused(t, c.path, err, c.want)
		})
	}
}

// TestPromised: a manifest must say by what a file is to be known, and one of old says it by SHA-256.
func TestPromised(t *testing.T) {
	m, tensors := small()
	_, path, info := write(t, m, tensors)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum, other := sha256.Sum256(file), sha256.Sum256(file[1:])
	for name, c := range map[string]struct {
		xxh3, sha256, digest []byte
		promise, load        string
	}{
		"new":           {info.XXH3[:], nil, info.Digest[:], "", ""},
		"old":           {nil, sum[:], info.Digest[:], "", ""},
		"old, damaged":  {nil, other[:], info.Digest[:], "", "SHA-256"},
		"both":          {info.XXH3[:], other[:], info.Digest[:], "", ""},
		"no digest":     {info.XXH3[:], sum[:], nil, "digest of 0 bytes", ""},
		"no checksum":   {nil, nil, info.Digest[:], "no checksum", ""},
		"half checksum": {info.XXH3[:8], sum[:], info.Digest[:], "XXH3 of 8 bytes", ""},
	} {
		want, err := Promised(info.Bytes, c.xxh3, c.sha256, c.digest)
		if !says(err, c.promise) {
			t.Errorf("%s: Promised: %v, want %q", name, err, c.promise)
		}
		if err != nil {
			continue
		}
		want.Meta = m
		if _, err := read(path, want); !says(err, c.load) {
			t.Errorf("%s: Load: %v, want %q", name, err, c.load)
		}
	}
}

// says is whether an error has a text, or there is none where none is wanted.
func says(err error, text string) bool {
	return (err == nil) == (text == "") && (err == nil || strings.Contains(err.Error(), text))
}

// TestWriteInPieces: all the work goes through Do, in pieces, and what is written is the same.
func TestWriteInPieces(t *testing.T) {
	m, tensors := small()
	_, _, info := write(t, m, tensors)
	pieces, root := 0, t.TempDir()
	other, err := Write(context.Background(), root, m, tensors, func(piece func()) { pieces++; piece() })
	if err != nil {
		t.Fatal(err)
	}
	if err != nil || other.Digest != info.Digest || other.Bytes != info.Bytes {
		t.Fatalf("written in pieces: %v, %+v instead of %+v", err, other, info)
	}
	if _, err := read(filepath.Join(root, filepath.FromSlash(other.Path)), manifest(m, other)); err != nil {
		t.Error(err)
	}
	if pieces < len(tensors)+3 { // a chunk each at least, the commit, the sync, the hash
		t.Errorf("%d pieces of %d tensors", pieces, len(tensors))
	}
}

// manifest is what a manifest wants of a file.
func manifest(m Meta, info Info) Want {
	return Want{Meta: m, Bytes: info.Bytes, XXH3: info.XXH3, Digest: info.Digest}
}

// refused wants an error of a kind, in one line that names the file and ends with what to do.
func refused(t *testing.T, path string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	if s := err.Error(); !strings.Contains(s, path) || strings.ContainsRune(s, '\n') ||
		!strings.Contains(s, "; resume from") {
		t.Fatalf("%q does not name the file and the next step in one line", err)
	}
}

// damage changes a file in one of many ways.
func damage(r *rand.Rand, b []byte) []byte {
	c := bytes.Clone(b)
	switch r.IntN(5) {
	case 0: // one bit
		c[r.IntN(len(c))] ^= 1 << r.IntN(8)
	case 1: // cut off
		c = c[:r.IntN(len(c))]
	case 2: // longer
		c = append(c, make([]byte, 1+r.IntN(10000))...)
	case 3: // a page of zeros, or of noise
		at := r.IntN(len(c)/4096) * 4096
		for i := at; i < at+4096; i++ {
			c[i] = byte(r.Uint32() * uint32(r.IntN(2)))
		}
	case 4: // two pages swapped
		i, j := r.IntN(len(c)/4096)*4096, r.IntN(len(c)/4096)*4096
		copy(c[i:i+4096], b[j:j+4096])
		copy(c[j:j+4096], b[i:i+4096])
	}
	return c
}

func TestThousandCorruptions(t *testing.T) {
	m, tensors := small()
	_, path, info := write(t, m, tensors)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 4))
	bad := filepath.Join(t.TempDir(), "bad.ckpt")
	for i := 0; i < 1000; i++ {
		b := damage(r, whole)
		if bytes.Equal(b, whole) {
			i--
			continue
		}
		if err := os.WriteFile(bad, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := read(bad, manifest(m, info)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("corruption %d: got %v, want %v", i, err, ErrCorrupt)
		}
		// Without a manifest the checksums inside must do: no crash, and nothing wrong taken for good.
		if got, err := read(bad, Want{Meta: m}); err == nil && !same(got, tensors) {
			t.Fatalf("corruption %d: wrong state taken for good", i)
		}
	}
}

func TestFailedWriteLeavesWhatWasThere(t *testing.T) {
	m, tensors := small()
	root, path, info := write(t, m, tensors)
	ctx, cancel := context.WithCancelCause(context.Background())
	enough := errors.New("enough")
	cancel(enough)
	if _, err := Write(ctx, root, m, tensors, nil); !errors.Is(err, enough) {
		t.Fatalf("got %v, want %v", err, enough)
	}
	empty := append([]Tensor{}, tensors...)
	empty[1].Data = nil
	if _, err := Write(context.Background(), root, m, empty, nil); err == nil {
		t.Fatal("an empty tensor was written")
	}
	if _, err := read(path, manifest(m, info)); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(path + "*.tmp"); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestSweepAndRemove(t *testing.T) {
	m, tensors := small()
	root := t.TempDir()
	for step := range uint64(5) {
		m.Step = step
		if _, err := Write(context.Background(), root, m, tensors, nil); err != nil {
			t.Fatal(err)
		}
	}
	ours := filepath.Join(root, m.Job, "000000000003", "r0c1.g4.ckpt.tmp")
	others := filepath.Join(root, m.Job, "000000000003", "r0c0.g4.ckpt.tmp")
	elsewhere := filepath.Join(root, m.Job, "notes", "r0c1.g4.ckpt.tmp")
	if err := os.Mkdir(filepath.Dir(elsewhere), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{ours, others, elsewhere} {
		if err := os.WriteFile(f, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := Sweep(root, m.Job, 0, 1); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(root, "never-seen", 0, 1); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(root, m.Job, "*", "*.tmp"))
	if want := []string{others, elsewhere}; !slices.Equal(left, want) {
		t.Fatalf("left %v, want %v", left, want)
	}
	if whole, _ := filepath.Glob(filepath.Join(root, m.Job, "*", "*.ckpt")); len(whole) != 5 {
		t.Fatalf("%d whole files are left of 5", len(whole))
	}
	for range 2 {
		if err := Remove(root, m.Job, 4); err != nil {
			t.Fatal(err)
		}
	}
	for _, job := range []string{"", "..", "a/b", "../x", "-x"} {
		if _, err := Path(Meta{Job: job, Step: 1}); err == nil {
			t.Errorf("job %q has a path", job)
		}
	}
}

// A worker that was cut off may finish a file of a generation that is long over: it must not replace one that counts.
func TestGenerationsDoNotOverwriteEachOther(t *testing.T) {
	m, tensors := small()
	root, path, info := write(t, m, tensors)
	late := m
	late.Generation--
	if _, err := Write(context.Background(), root, late, tensors, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := read(path, manifest(m, info)); err != nil {
		t.Fatal(err)
	}
}
