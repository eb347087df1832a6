package main

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"colonnade/checkpoint/disktest"
)

// filesBelow are the names of all files and directories below a directory, and how large the files are.
func filesBelow(t *testing.T, dir string) (names []string, bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() {
			bytes += info.Size()
		}
		names = append(names, path[len(dir)+1:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names, bytes
}

// smallDisk is a file system of so many KiB.
func smallDisk(t *testing.T, kib int64) string {
	t.Helper()
	dir := t.TempDir()
	disktest.Small(t, dir, kib)
	return dir
}

// TestImportOntoAFullDisk has the room end at the job, at a column's file, and at the model: nothing is left of any.
func TestImportOntoAFullDisk(t *testing.T) {
	dir, file := modelDir(t)
	_, bytes := filesBelow(t, filepath.Join(dir, "ckpt"))
	kib := bytes >> 10
	for _, c := range []struct{ checkpoints, model int64 }{{4, 1024}, {kib / 3, 1024}, {kib - 40, 1024}, {4 * kib, 4},
		{4 * kib, 8}} {
		checkpoints, models := smallDisk(t, c.checkpoints), smallDisk(t, c.model)
		args := []string{"checkpoint", "import", filepath.Join(dir, "foreign.pt"), "--job", file, "--dir",
			filepath.Join(checkpoints, "below", "ckpt"), "--out", filepath.Join(models, "new.safetensors")}
		r := command(args...)
		if r.status == 0 || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, "no space left on device; free") {
			t.Errorf("%d and %d KiB: status %d, %q, want one line of a full disk", c.checkpoints, c.model, r.status, r.err)
		}
		for _, disk := range []string{checkpoints, models} {
			if left, _ := filesBelow(t, disk); len(left) > 0 {
				t.Errorf("%d and %d KiB: left behind: %v", c.checkpoints, c.model, left)
			}
			disktest.Resize(t, disk, 8<<10)
		}
		succeeds(t, args...)
		succeeds(t, "checkpoint", "export", "j", "--dir", filepath.Join(checkpoints, "below", "ckpt"), "--out",
			filepath.Join(models, "back.safetensors"))
	}
}

// TestImportBesideOtherCheckpoints writes into directories that have something of that job, or of another, already.
func TestImportBesideOtherCheckpoints(t *testing.T) {
	dir, file := modelDir(t)
	to := filepath.Join(dir, "ckpt")
	step := filepath.Join(to, "j", "000000000000")
	args := func(file string) []string {
		return []string{"checkpoint", "import", filepath.Join(dir, "foreign.pt"), "--job", file, "--dir", to, "--out",
			filepath.Join(dir, "again.safetensors")}
	}
	refused := func(file, want string) {
		t.Helper()
		before, _ := filesBelow(t, dir)
		r := command(args(file)...)
		if r.status == 0 || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, want) {
			t.Errorf("status %d, %q, want one line with %q", r.status, r.err, want)
		}
		if after, _ := filesBelow(t, dir); strings.Join(after, " ") != strings.Join(before, " ") {
			t.Errorf("there was %v, there is %v", before, after)
		}
	}
	refused(file, "job j has step 0 in "+step+" already; remove that directory")
	other := writeJob(t, dir, "other.yaml", "seed: 77")
	refused(other, "something else than job j")
	if err := os.Rename(step, filepath.Join(to, "j", "000000000007")); err != nil {
		t.Fatal(err)
	}
	refused(other, "something else than job j")
	// A later step of the same job stays, and so does nothing of an import that was killed.
	killed := filepath.Join(to, ".j.stage.tmp", "j", "000000000000")
	if err := os.MkdirAll(killed, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(killed, "r0c9.g0.ckpt"), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	succeeds(t, args(file)...)
	got, _ := filesBelow(t, to)
	want := "j j/000000000000 j/000000000000/r0c0.g0.ckpt j/000000000000/r0c1.g0.ckpt " +
		"j/000000000007 j/000000000007/r0c0.g0.ckpt j/000000000007/r0c1.g0.ckpt j/job.yaml"
	if strings.Join(got, " ") != want {
		t.Errorf("there is %v", got)
	}
	// What is in the way of the directory is not touched.
	to = filepath.Join(dir, "job.yaml", "ckpt")
	refused(file, "not a directory")
}

// TestImportOfAnythingElse reads files that are cut short, of something else, made to unpack without end, or whose
// pickle would run a program: one line, no file, no checkpoint, and nothing is run.
func TestImportOfAnythingElse(t *testing.T) {
	dir, file := modelDir(t)
	var raw = map[string][]byte{}
	for format, ext := range extensions {
		path := filepath.Join(dir, "whole"+ext)
		succeeds(t, "checkpoint", "export", "j", "--dir", filepath.Join(dir, "ckpt"), "--format", format, "--out", path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		raw[format] = b
	}
	ran := filepath.Join(dir, "it-ran")
	evil := func(call string) []byte { return zipped(t, "m/data.pkl", "\x80\x02"+call, 0) }
	cases := map[string]struct {
		raw  []byte
		want string
	}{
		"a text":           {[]byte("layer: conv1\nweights: many, many\n"), "it is damaged, cut short, or of another format"},
		"a PNG":            {[]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00\x00\x01"), "of another format"},
		"a gzip":           {append([]byte{0x1f, 0x8b, 8, 0}, raw["npz"][:400]...), "of another format"},
		"zeros":            {make([]byte, 4096), "of another format"},
		"a protobuf":       {[]byte("\x08\x08\x12\x04text\x1a\x02hi"), "as ONNX it has no tensor in it"},
		"another zip":      {zipped(t, "word/document.xml", "<w/>", 0), "neither a numpy array nor PyTorch's"},
		"a program":        {evil("cposix\nsystem\n(X" + le32(len(ran)+6) + "touch " + ran + "tR."), `"posix.system"`},
		"a program, eval":  {evil("c__builtin__\neval\n(X" + le32(1) + "1tR."), `"__builtin__.eval"`},
		"an object":        {evil("ctorch.nn.modules.linear\nLinear\n)\x81."), `"torch.nn.modules.linear.Linear"`},
		"a bomb of arrays": {zipped(t, "conv1.weight.npy", npyHead("(8, 3, 3, 3)"), 64<<20), "takes"},
		"a bomb's pickle":  {zipped(t, "m/data.pkl", "\x80\x02", 64<<20), "more than 16777216"},
		"a bomb of a mean": {zipped(t, "input_mean.npy", npyHead("(67108864,)"), 256<<20), "which no network takes"},
	}
	for format, b := range raw {
		for _, part := range []int{2, 3, 10} { // what is left of ten parts
			cut := cases["a text"]
			cut.raw, cut.want = b[:len(b)*part/10-1], ""
			cases[fmt.Sprintf("%d tenths of %s", part, format)] = cut
		}
	}
	for name, c := range cases {
		to := t.TempDir()
		from := filepath.Join(dir, "spoilt")
		if err := os.WriteFile(from, c.raw, 0o644); err != nil {
			t.Fatal(err)
		}
		r := command("checkpoint", "import", from, "--job", file, "--dir", filepath.Join(to, "ckpt"), "--out",
			filepath.Join(to, "new.safetensors"))
		if r.status == 0 || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, c.want) ||
			!strings.Contains(r.err, from) {
			t.Errorf("%s: status %d, %q, want one line with the file and %q", name, r.status, r.err, c.want)
		}
		if left, _ := filesBelow(t, to); len(left) > 0 {
			t.Errorf("%s: left behind: %v", name, left)
		}
		if _, err := os.Stat(ran); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: it has been run", name)
		}
	}
}

// zipped is an archive with one packed member, a text and so many zeros.
func zipped(t *testing.T, name, text string, zeros int) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create(name)
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	for part := make([]byte, 1<<20); err == nil && zeros > 0; zeros -= len(part) {
		part = part[:min(zeros, len(part))]
		_, err = w.Write(part)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// npyHead is the header of an array of floats.
func npyHead(shape string) string {
	return fmt.Sprintf("\x93NUMPY\x01\x00\x76\x00%-117s\n",
		"{'descr': '<f4', 'fortran_order': False, 'shape': "+shape+", }")
}

// le32 is a number of four bytes.
func le32(n int) string { return string(binary.LittleEndian.AppendUint32(nil, uint32(n))) }
