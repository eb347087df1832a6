package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"colonnade/checkpoint/model"
	"colonnade/checkpoint/tensors"
)

// modelDir is a directory with a job file, and the checkpoint of step 0 of it in a directory as a worker's: random
// weights that were imported.
func modelDir(t *testing.T) (dir, file string) {
	t.Helper()
	dir = t.TempDir()
	file = writeJob(t, dir, "job.yaml")
	j, err := readJob(file)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := j.Plan()
	if err != nil {
		t.Fatal(err)
	}
	s := model.NewState(plan)
	for c := range s.Values {
		for p := range s.Values[c] {
			for i := range s.Values[c][p] {
				s.Values[c][p][i] = float32(c*100+p) + float32(i)/1024
			}
		}
	}
	all, err := s.Whole()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tensors.Write(&b, "pytorch", nil, all); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "foreign.pt"), b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	like(t, succeeds(t, "checkpoint", "import", filepath.Join(dir, "foreign.pt"), "--job", file, "--dir",
		filepath.Join(dir, "ckpt"), "--out", filepath.Join(dir, "start.safetensors")),
		`wrote \S+: tiny in 2 columns, 8 classes, from pytorch; begin a job with it: start: .*`)
	return dir, file
}

// TestModelsTravel imports a model, exports the checkpoint it became in all formats, imports those, and wants the same
// bytes.
func TestModelsTravel(t *testing.T) {
	dir, file := modelDir(t)
	want, err := os.ReadFile(filepath.Join(dir, "start.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	for format, ext := range extensions {
		out := filepath.Join(dir, "out"+ext)
		text := succeeds(t, "checkpoint", "export", "j", "--dir", filepath.Join(dir, "ckpt"), "--format", format, "--out",
			out)
		says(t, text, `wrote \S+: step 0 of j, \d+ parameters in 11 tensors, .*`)
		if has := strings.Contains(text, "out.py: the network in PyTorch"); has != (format != "onnx") {
			t.Errorf("%s prints %s", format, text)
		}
		back := filepath.Join(dir, "back.safetensors")
		succeeds(t, "checkpoint", "import", out, "--job", file, "--out", back)
		got, err := os.ReadFile(back)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: exported and imported, other bytes", format)
		}
	}
	// A model file in another format, and back by what it says itself.
	succeeds(t, "checkpoint", "export", filepath.Join(dir, "start.safetensors"), "--format", "npz")
	again := filepath.Join(dir, "again.safetensors")
	succeeds(t, "checkpoint", "import", filepath.Join(dir, "start.safetensors"), "--out", again)
	if got, err := os.ReadFile(again); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read and written, other bytes: %v", err)
	}
	// Another way to subtract the mean is another model, which says so; and goes back.
	succeeds(t, "checkpoint", "import", filepath.Join(dir, "start.safetensors"), "--mean", "centre", "--out", again)
	if a, _, err := model.Read(again); err != nil || !a.CentreMean {
		t.Errorf("imported with --mean centre: %+v, %v", a, err)
	}
	succeeds(t, "checkpoint", "import", again, "--mean", "image", "--out", again)
	if got, err := os.ReadFile(again); err != nil || !bytes.Equal(got, want) {
		t.Errorf("imported with --mean image, other bytes: %v", err)
	}
	var e exported
	text := succeeds(t, "checkpoint", "export", "j", "--dir", filepath.Join(dir, "ckpt"), "--column", "1", "--json",
		"--out",
		filepath.Join(dir, "col.npz"), "--format", "npz")
	if err := json.Unmarshal([]byte(text), &e); err != nil || e.Tensors != 13 || e.Module != "" {
		t.Errorf("column 1: %+v, %v", e, err)
	}
	began := writeJob(t, dir, "began.yaml", "start: {from: start.safetensors, fresh: [fc5]}", "augment: {scale: 0.015625}")
	j, err := readJob(began)
	if err != nil || j.Start.From != filepath.Join(dir, "start.safetensors") || len(j.Start.SHA256) != 64 {
		t.Errorf("a job that begins with it: %+v, %v", j, err)
	}
}

func TestModelMistakes(t *testing.T) {
	dir, file := modelDir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	raw, err := os.ReadFile(at("start.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"cut.safetensors": raw[:len(raw)-4], "head.safetensors": raw[8:],
		"empty.pt": nil} {
		if err := os.WriteFile(at(name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := []string{"--out", at("new.safetensors")}
	other := writeJob(t, dir, "other.yaml", "start: {from: start.safetensors}", "augment: {scale: 0.5}")
	gone := writeJob(t, dir, "gone.yaml", "start: {from: none.safetensors}")
	fresh := writeJob(t, dir, "fresh.yaml", "start: {from: start.safetensors, fresh: [fc9]}")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"cut": {append([]string{"checkpoint", "import", at("cut.safetensors"), "--job", file}, out...),
			"it is cut short or damaged"},
		"no header": {append([]string{"checkpoint", "import", at("head.safetensors"), "--job", file}, out...),
			"it is damaged, cut short"},
		"empty": {append([]string{"checkpoint", "import", at("empty.pt"), "--job", file}, out...),
			"it has only 0 bytes"},
		"no file": {append([]string{"checkpoint", "import", at("none.pt"), "--job", file}, out...),
			"none.pt: no such file"},
		"what is it": {append([]string{"checkpoint", "import", at("foreign.pt")}, out...),
			"name --job JOB.yaml, or --network"},
		"other network": {append([]string{"checkpoint", "import", at("foreign.pt"), "--network", "alexnet-32", "--columns",
			"2", "--scale", "1"}, out...), "conv1.weight"},
		"mean": {append([]string{"checkpoint", "import", at("start.safetensors"), "--mean", "corner"}, out...),
			"--mean corner; use image or centre"},
		"out nowhere": {[]string{"checkpoint", "import", at("foreign.pt"), "--job", file, "--out", at("none/x.safetensors")},
			"name a file in a directory that can be written to"},
		"other scale": {[]string{"job", "submit", other}, "set augment.scale to 0.015625"},
		"gone":        {[]string{"job", "submit", gone}, "none.safetensors: no such file"},
		"fresh": {[]string{"job", "submit", fresh},
			`layer "fc9" is to begin anew, but network tiny has no such layer`},
		"no directory": {[]string{"checkpoint", "export", "j", "--dir", at("none")}, "workers put beside a job's " +
			"checkpoints"},
		"no step": {[]string{"checkpoint", "export", "j", "--dir", at("ckpt"), "--step", "7"}, "not step 7"},
		"column":  {[]string{"checkpoint", "export", "j", "--dir", at("ckpt"), "--column", "2"}, "has columns 0 to 1"},
		"column onnx": {[]string{"checkpoint", "export", "j", "--dir", at("ckpt"), "--column", "1", "--format", "onnx"},
			"a column alone"},
		"module's name": {[]string{"checkpoint", "export", "j", "--dir", at("ckpt"), "--out", at("x.py")},
			"the module that comes beside it"},
	} {
		r := command(c.args...)
		if r.status == 0 || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, c.want) {
			t.Errorf("%s: status %d, %q, want one line with %q", name, r.status, r.err, c.want)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(entries, func(e os.DirEntry) bool {
		return e.Name() == "new.safetensors" || e.Name() == "x.py" || strings.HasSuffix(e.Name(), ".tmp")
	}); i >= 0 {
		t.Errorf("%s is left behind", entries[i].Name())
	}
	// A pack that is gone: said, with a way on.
	if err := os.Remove(at("train.pack")); err != nil {
		t.Fatal(err)
	}
	r := command("checkpoint", "export", "j", "--dir", at("ckpt"), "--out", at("p.safetensors"))
	if r.status == 0 || !strings.Contains(r.err, "--without-pack") {
		t.Errorf("without its pack: %q", r.err)
	}
	succeeds(t, "checkpoint", "export", "j", "--dir", at("ckpt"), "--out", at("p.safetensors"), "--without-pack")
}

// fakeEvaluate says what there is to evaluate: that the job and every column's file can be read there.
func fakeEvaluate(step, views string) int {
	if _, err := os.ReadFile(filepath.Join(filepath.Dir(step), "job.yaml")); err != nil {
		fmt.Println(err)
		return 1
	}
	entries, err := os.ReadDir(step)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Printf("%s views of", views)
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(step, e.Name()))
		fmt.Printf(" %s %t", e.Name(), err == nil && len(b) > 0)
	}
	fmt.Println()
	return 0
}

// evaluatesJ hands the newest checkpoint of job "j", which lies in two workers' directories, to a worker program, and
// leaves nothing behind.
func evaluatesJ(t *testing.T) {
	t.Setenv(asWorker, "evaluate")
	t.Setenv("TMPDIR", t.TempDir())
	like(t, succeeds(t, "evaluate", "j", "--local", "--program", os.Args[0], "--views", "10"),
		`10 views of r0c0.g\d.ckpt true r0c1.g\d.ckpt true\n`)
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) != 0 {
		t.Errorf("%d files are left, %v", len(left), err)
	}
	r := command("evaluate", "none", "--local", "--program", os.Args[0])
	if r.status == 0 || !strings.Contains(r.err, "none") {
		t.Errorf("no such job: %q", r.err)
	}
}

// TestModelsWithSpoiltTensors imports files that lack a tensor, have one too many, of another shape, or with a value
// that is no number: one line names it, and no file and no checkpoint is written.
func TestModelsWithSpoiltTensors(t *testing.T) {
	dir, file := modelDir(t)
	j, err := readJob(file)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := j.Plan()
	if err != nil {
		t.Fatal(err)
	}
	nan := make([]float32, 8)
	nan[5] = float32(math.NaN())
	for name, c := range map[string]struct {
		spoil func([]tensors.Source) []tensors.Source
		want  string
	}{
		"missing": {func(s []tensors.Source) []tensors.Source { return s[1:] }, "tensor conv1.weight of network tiny"},
		"extra": {func(s []tensors.Source) []tensors.Source {
			return append(s, tensors.Of("conv9.bias", []int{1}, []float32{1}))
		}, "tensor conv9.bias of shape [1] is not of network tiny"},
		"misshaped": {func(s []tensors.Source) []tensors.Source {
			s[1] = tensors.Of("conv1.bias", []int{2, 4}, make([]float32, 8))
			return s
		}, "tensor conv1.bias has the shape [2 4], network tiny wants [8]"},
		"NaN": {func(s []tensors.Source) []tensors.Source {
			s[1] = tensors.Of("conv1.bias", []int{8}, nan)
			return s
		}, "value 5 of tensor conv1.bias is NaN"},
	} {
		all, err := model.NewState(plan).Whole()
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := tensors.Write(&b, "safetensors", nil, c.spoil(all)); err != nil {
			t.Fatal(err)
		}
		from := filepath.Join(t.TempDir(), name+".safetensors")
		if err := os.WriteFile(from, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, name)
		if err := os.Mkdir(to, 0o755); err != nil {
			t.Fatal(err)
		}
		r := command("checkpoint", "import", from, "--job", file, "--dir", filepath.Join(to, "ckpt"), "--out",
			filepath.Join(to, "new.safetensors"))
		if r.status == 0 || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, c.want) {
			t.Errorf("%s: status %d, %q, want one line with %q", name, r.status, r.err, c.want)
		}
		if half, err := os.ReadDir(to); err != nil || len(half) > 0 {
			t.Errorf("%s: left behind: %v, %v", name, half, err)
		}
	}
}
