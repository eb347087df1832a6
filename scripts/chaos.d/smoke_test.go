package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestSmoke does three runs of real processes. The seeds are new every time; a run that fails says how to repeat it.
func TestSmoke(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/", "colonnade/coordinator", "colonnade/worker",
		"colonnade/scripts/chaos.d")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var out, errs bytes.Buffer
	seed := time.Now().Unix() * 10
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "chaos.d"), "--json", "--runs", "3", "--faults", "3",
		"--steps", "1000", "--programs", dir, "--dir", filepath.Join(dir, "runs"), "--seed", fmt.Sprint(seed))
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	t.Log(errs.String())
	if err != nil {
		logs, _ := filepath.Glob(filepath.Join(dir, "runs", "seed-*", "*.log"))
		for _, path := range logs {
			b, _ := os.ReadFile(path)
			t.Logf("%s:\n%s", path, b[max(0, len(b)-6000):])
		}
		t.Fatal(err)
	}
	var s summary
	if err := json.Unmarshal(out.Bytes(), &s); err != nil {
		t.Fatalf("%v in:\n%s", err, &out)
	}
	if s.Runs != 3 || s.Same != 3 || s.All.Count == 0 {
		t.Errorf("%d runs, %d with the same digest, %d faults", s.Runs, s.Same, s.All.Count)
	}
}
