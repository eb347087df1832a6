package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"colonnade/checkpoint/tensors"
	"colonnade/worker/data"
)

// images of the trace that is tested; two batches of them.
const (
	testImages = 8
	testBatch  = 4
)

// testJob writes a small pack of colour images and a job that trains on it by a preset of the paper's.
func testJob(t *testing.T, network, preset string) string {
	t.Helper()
	dir := t.TempDir()
	var batch []byte
	for i := range testImages {
		batch = append(batch, byte(i%10))
		for p := range 3 * 32 * 32 {
			batch = append(batch, byte((i*7919+p*104729+i*p%8191*31)>>5))
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "test_batch.bin"), batch, 0o644); err != nil {
		t.Fatal(err)
	}
	pack := filepath.Join(dir, "test.pack")
	if _, err := data.MakePack(context.Background(), data.PackOptions{From: dir, Split: "test", Size: 72,
		Out: pack}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "job.yaml")
	text := fmt.Sprintf("job: truth\nnetwork: %s\ncolumns: 2\nclasses: 1000\nseed: 7\n"+
		"data: {train: test.pack, test: test.pack}\nrecipe: {preset: %s, batch: %d, steps: 2}\n", network, preset, testBatch)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// load reads a file of a trace.
func load(t *testing.T, dir, name string) (map[string][]float32, map[string]string) {
	t.Helper()
	f, err := tensors.Open(filepath.Join(dir, name+".safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string][]float32{}
	for i, e := range f.Entries {
		if out[e.Name], err = f.Load(i); err != nil {
			t.Fatal(err)
		}
	}
	return out, f.Metadata
}

// TestATraceIsWhole wants of a trace of both forms, made smaller, all that another program needs: what was drawn, masks
// of zeros and ones, of every parameter what the paper's rule makes of gradient, momentum and value, and ten views.
func TestATraceIsWhole(t *testing.T) {
	for network, preset := range map[string]string{"alexnet": "paper", "alexnet-source": "source"} {
		t.Run(network, func(t *testing.T) {
			dir := t.TempDir()
			o := options{job: testJob(t, network, preset), device: "ref", threads: 1, steps: 2, divide: 16, size: 64,
				views: 3, out: dir, wait: true}
			var said strings.Builder
			if err := o.run(context.Background(), strings.NewReader("\n\n"), &said); err != nil {
				t.Fatal(err)
			}
			if got, want := said.String(), "step 1\nstep 2\n"; got != want {
				t.Errorf("said %q, want %q", got, want)
			}
			checkAbout(t, dir, network)
			for column := range 2 {
				checkSteps(t, dir, column, preset == "source")
			}
			views, about := load(t, dir, "views")
			var s seen
			if err := json.Unmarshal([]byte(about["seen"]), &s); err != nil || len(s.Samples) != 3 || s.Loss < 1 {
				t.Errorf("ten views: %+v, %v", s, err)
			}
			if n := len(views["logits"]); n != 10*3*1000 {
				t.Errorf("%d logits of ten views", n)
			}
		})
	}
}

func checkAbout(t *testing.T, dir, network string) {
	t.Helper()
	var a about
	text, err := os.ReadFile(filepath.Join(dir, "job.json"))
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	want := about{Network: network, Columns: 2, Batch: testBatch, Classes: 1000, Images: testImages, Channels: 3,
		Stored: 72, Size: 64, Numerics: a.Numerics}
	if err != nil || a != want || a.Numerics == "" {
		t.Errorf("job.json: %+v, %v", a, err)
	}
	for name, bytes := range map[string]int64{"images.u8": testImages * 3 * 72 * 72, "labels.i32": 4 * testImages} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() != bytes {
			t.Errorf("%s: %v, want %d bytes", name, err, bytes)
		}
	}
}

// checkSteps holds a column's two steps against each other.
func checkSteps(t *testing.T, dir string, column int, source bool) {
	t.Helper()
	before, _ := load(t, dir, fmt.Sprintf("initial-%d", column))
	momentum := map[string][]float32{}
	for step := 1; step <= 2; step++ {
		now, about := load(t, dir, fmt.Sprintf("step-%d-%d", step, column))
		var d drawn
		if err := json.Unmarshal([]byte(about["step"]), &d); err != nil || d.Step != step || len(d.Images) != testBatch ||
			!(d.Loss > 1) {
			t.Errorf("step %d: %+v, %v", step, d, err)
		}
		if n := len(now["input"]); n != testBatch*3*64*64 {
			t.Errorf("%d pixels of input", n)
		}
		masks := 0
		for name, v := range now {
			if strings.HasSuffix(name, "/mask") {
				masks++
				checkMask(t, name, v)
			}
		}
		if masks != 2 {
			t.Errorf("%d masks", masks)
		}
		for name, w := range before {
			checkUpdate(t, name, w, momentum[name], now, source)
			momentum[name] = now[name+".momentum"]
			before[name] = now[name]
		}
	}
}

func checkMask(t *testing.T, name string, mask []float32) {
	t.Helper()
	kept := 0
	for _, v := range mask {
		if v != 0 && v != 1 {
			t.Fatalf("%s has a %g", name, v)
		}
		kept += int(v)
	}
	if n := float64(len(mask)); math.Abs(float64(kept)-n/2) > 2.5*math.Sqrt(n) {
		t.Errorf("%s keeps %d of %g", name, kept, n)
	}
}

// checkUpdate wants the paper's rule (section 5) of a parameter.
func checkUpdate(t *testing.T, name string, before, momentum []float32, now map[string][]float32, source bool) {
	t.Helper()
	rate, decay := 0.01, 0.0005
	if source && strings.HasSuffix(name, "/b") {
		rate, decay = 0.02, 0
	}
	w, v, g := now[name], now[name+".momentum"], now[name+".gradient"]
	if len(w) != len(before) || len(v) != len(w) || len(g) != len(w) || len(w) == 0 {
		t.Fatalf("%s: %d values, %d momenta, %d gradients, %d before", name, len(w), len(v), len(g), len(before))
	}
	for i := range w {
		want := -rate * (decay*float64(before[i]) + float64(g[i]))
		if momentum != nil {
			want += 0.9 * float64(momentum[i])
		}
		if math.Abs(float64(v[i])-want) > 1e-6*math.Abs(want)+1e-9 ||
			math.Abs(float64(w[i])-float64(before[i])-want) > 1e-6*math.Abs(want)+1e-7 {
			t.Fatalf("%s[%d]: from %g to %g, momentum %g, want %g", name, i, before[i], w[i], v[i], want)
		}
	}
}

// TestATraceIsRefused wants one line for what cannot be traced, and for a reader that goes away.
func TestATraceIsRefused(t *testing.T) {
	good := options{job: testJob(t, "alexnet", "paper"), device: "ref", threads: 1, steps: 1, divide: 16, size: 64,
		out: t.TempDir()}
	for want, change := range map[string]func(*options){
		"no such file":         func(o *options) { o.job += ".none" },
		"no device \"abacus\"": func(o *options) { o.device = "abacus" },
		"does not fit":         func(o *options) { o.size = 8 },
		"nobody waits":         func(o *options) { o.wait = true },
		"not a directory":      func(o *options) { o.out = o.job },
	} {
		o := good
		change(&o)
		err := o.run(context.Background(), strings.NewReader(""), io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
