package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"colonnade/shard/job"
)

// TestRunsAreJobs: every run's file is a job, with its own name and seed, and a schedule that ends within it.
func TestRunsAreJobs(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range runs() {
		if seen[r.name] {
			t.Errorf("two runs are called %s", r.name)
		}
		seen[r.name] = true
		sample, err := os.ReadFile(filepath.Join("../jobs", r.job+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := r.text(string(sample), "/packs")
		if err != nil {
			t.Fatal(err)
		}
		j, err := job.Parse(r.name, []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if j.Name != r.name || j.Seed != uint64(r.seed) || filepath.Dir(j.Data.Train) != "/packs" ||
			filepath.Dir(j.Data.Test) != "/packs" || r.epochs > 0 && j.Recipe.Epochs != r.epochs {
			t.Errorf("%s: job %+v", r.name, j)
		}
		if want, err := strconv.ParseFloat(r.rate, 64); r.rate != "" && (err != nil || j.Recipe.Rate != want) {
			t.Errorf("%s: rate %v, want %s", r.name, j.Recipe.Rate, r.rate)
		}
		last := 1
		for _, d := range j.Recipe.Schedule {
			if d.Epoch <= last || d.Epoch > j.Recipe.Epochs {
				t.Errorf("%s: a drop in epoch %d of %d, behind one in %d", r.name, d.Epoch, j.Recipe.Epochs, last)
			}
			last = d.Epoch
		}
	}
}

// TestRecord: losses by ascending step, each once; the first evaluation with a quarter wrong counts.
func TestRecord(t *testing.T) {
	r := &record{}
	for _, line := range []string{
		`{"job":{"state":"queued","step":0,"steps":20,"loss":0}}`,
		`{"job":{"state":"running","step":3,"steps":20,"loss":2.5}}`,
		`{"job":{"state":"running","step":3,"steps":20,"loss":2.5}}`,
		`{"job":{"state":"running","step":2,"steps":20,"loss":2.6}}`,
		`{"job":{"state":"running","step":9,"steps":20,"loss":2,"evaluations":[{"epoch":1,"images":8,"top1_errors":2.5}]}}`,
		`{"job":{"state":"done","step":9,"steps":20,"loss":2,"digest":"ab","evaluations":[
  {"epoch":1,"images":8,"top1_errors":2.5},{"epoch":2,"images":8,"top1_errors":2}]}}`,
	} {
		var u update
		if err := json.Unmarshal([]byte(line), &u); err != nil {
			t.Fatal(err)
		}
		r.take(u)
	}
	if !r.Done || r.Steps != 20 || r.Digest != "ab" || len(r.Losses) != 2 || r.Losses[1] != (loss{9, 2}) ||
		r.reached() != 2 {
		t.Errorf("%+v, reached %d", r, r.reached())
	}
	o := options{data: t.TempDir()}
	r.Name = "x"
	if err := write(o.file("x"), r); err != nil {
		t.Fatal(err)
	}
	if back, err := readRecord(o.file("x"), "x"); err != nil || len(back.Evaluations) != 2 || back.Digest != "ab" {
		t.Errorf("%+v, %v", back, err)
	}
}

// TestFastest: of a job's rates the one with the fewest epochs to a quarter counts, and all others are told.
func TestFastest(t *testing.T) {
	at := func(epochs ...uint64) *record {
		r := &record{Of: 9}
		for i, errors := range epochs {
			r.Evaluations = append(r.Evaluations, evaluation{Epoch: uint64(i + 1), Images: 100, Top1: float64(errors)})
		}
		return r
	}
	all := map[string]*record{}
	for _, w := range runs() {
		all[w.name] = &record{}
	}
	all["figure1-relu"], all["figure1-relu-0.002"] = at(40, 30, 25), &record{Of: 9, Diverged: true}
	if got, want := epochs(all, "figure1-relu"),
		"3, at a rate of 0.001 (0.00025: not run, 0.0005: not run, 0.002: diverged)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	all["figure1-relu-0.0005"], all["figure1-relu-0.00025"] = at(40, 24), at(40, 26)
	if got, want := epochs(all, "figure1-relu"),
		"2, at a rate of 0.0005 (0.00025: not in 2: 26.0 %, 0.001: 3, 0.002: diverged)"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := fastest(all, "figure1-tanh").name; !strings.HasPrefix(got, "figure1-tanh") {
		t.Errorf("nothing was run, and %q is the fastest", got)
	}
}

// TestBest takes what is kept unless what was done here is worth as much.
func TestBest(t *testing.T) {
	o := options{data: t.TempDir(), kept: t.TempDir()}
	if err := os.MkdirAll(filepath.Join(o.kept, "results"), 0o755); err != nil {
		t.Fatal(err)
	}
	part, whole := &record{Name: "x", Of: 20, Steps: 9}, &record{Name: "x", Of: 20, Steps: 20, Done: true}
	for _, c := range []struct{ own, kept, want *record }{{own: part, want: part}, {kept: part, want: part},
		{own: part, kept: whole, want: whole}, {own: whole, kept: part, want: whole},
		{own: &record{Name: "x", Of: 20, Steps: 2}, kept: part, want: part}} {
		for path, r := range map[string]*record{o.file("x"): c.own, o.keptFile("x"): c.kept} {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if r != nil {
				if err := write(path, r); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got, err := o.best(run{name: "x"}); err != nil || got.Steps != c.want.Steps || got.Done != c.want.Done {
			t.Errorf("of %+v and, kept, %+v: %+v, %v", c.own, c.kept, got, err)
		}
	}
}

// TestPage: PAPER.md has the table, and the directory figure 1, of the results that lie beside it.
func TestPage(t *testing.T) {
	o := options{data: t.TempDir(), kept: "."}
	all := map[string]*record{}
	for _, w := range runs() {
		r, err := o.best(w)
		if err != nil {
			t.Fatal(err)
		}
		all[w.name] = r
	}
	want, err := table(all, "../jobs")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("PAPER.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), tableBegins+want+tableEnds) {
		t.Error("PAPER.md has another table than results/ come to; write it with: scripts/paper --report --keep")
	}
	d, err := figure1(all)
	if err != nil || d == nil {
		t.Fatalf("figure 1: %v, %v", d, err)
	}
	var fresh bytes.Buffer
	if err := d.PNG(&fresh); err != nil {
		t.Fatal(err)
	}
	if old, err := os.ReadFile("figure1.png"); err != nil || !bytes.Equal(old, fresh.Bytes()) {
		t.Errorf("figure1.png is not drawn from results/: %v; draw it with: scripts/paper --report --keep", err)
	}
}

// TestPatches: patches for training lie left of those for testing, whole inside their photograph, the same every time.
func TestPatches(t *testing.T) {
	from := t.TempDir()
	m := image.NewRGBA(image.Rect(0, 0, 1024, 300))
	for x := range 1024 { // every column has a grey of its own, so far as JPEG lets it
		for y := range 300 {
			m.SetRGBA(x, y, color.RGBA{uint8(x / 4), uint8(x / 4), uint8(x / 4), 255})
		}
	}
	f, err := os.Create(filepath.Join(from, "Grey.jpg"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(jpeg.Encode(f, m, &jpeg.Options{Quality: 100}), f.Close()); err != nil {
		t.Fatal(err)
	}
	to, again := t.TempDir(), t.TempDir()
	if err := errors.Join(patches(from, to, 4, 2), patches(from, again, 4, 2)); err != nil {
		t.Fatal(err)
	}
	for split, n := range map[string]int{"train": 4, "test": 2} {
		paths, err := filepath.Glob(filepath.Join(to, split, "grey", "*.jpg"))
		if err != nil || len(paths) != n {
			t.Fatalf("%s has %v, %v", split, paths, err)
		}
		for _, path := range paths {
			p, err := photographOf(path)
			if err != nil {
				t.Fatal(err)
			}
			left, right := int(p.RGBAAt(2, 9).R)*4, int(p.RGBAAt(patchSide-3, 9).R)*4
			if b := p.Bounds(); b.Dx() != patchSide || b.Dy() != patchSide || right-left < 230 ||
				split == "train" && right > 1024-patchSide+16 || split == "test" && left < 1024-patchSide-16 {
				t.Errorf("%s: %v, from %d to %d", path, b, left, right)
			}
			one, err1 := os.ReadFile(path)
			two, err2 := os.ReadFile(strings.Replace(path, to, again, 1))
			if err := errors.Join(err1, err2); err != nil || string(one) != string(two) {
				t.Errorf("%s is not the same again: %v", path, err)
			}
		}
	}
	if err := patches(to, again, 1, 1); err == nil || !strings.Contains(err.Error(), "install Debian's mate-backgrounds") {
		t.Errorf("without photographs: %v", err)
	}
	if err := patches(filepath.Join(to, "test", "grey"), again, 1, 1); err == nil ||
		!strings.Contains(err.Error(), "512x256 are wanted at least") {
		t.Errorf("of patches: %v", err)
	}
}

// TestKillAllKillsWorkers: a child in a group of its own goes with its parent.
func TestKillAllKillsWorkers(t *testing.T) {
	cmd := exec.Command("bash", "-c", "set -m; sleep 300 & echo $!; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var b [32]byte
	n, err := out.Read(b[:])
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		t.Fatal(err)
	}
	if err := killAll(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // killed
	if _, err := out.Read(b[:]); err == nil {
		t.Error("the child has written")
	}
	for syscall.Kill(child, 0) == nil { // until it is reaped by whoever took it over; the test's limit bounds it
		if state, err := os.ReadFile("/proc/" + strconv.Itoa(child) + "/stat"); err != nil ||
			strings.Contains(string(state), ") Z") {
			break
		}
	}
}
