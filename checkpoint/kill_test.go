package checkpoint

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childDir is the environment variable that makes a test process a writer of checkpoints below that directory.
const (
	childDir  = "COLONNADE_CHECKPOINT_CHILD"
	childKill = "COLONNADE_CHECKPOINT_KILL" // after so many looks at the context it kills itself; 0: never
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

// suicidal is a context that kills the process at its n-th look: Write looks before each chunk that it writes or
// hashes.
type suicidal struct {
	context.Context
	left int
}

func (s *suicidal) Err() error {
	if s.left--; s.left == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return nil
}

// child writes one step, or with no kill ordered, steps without end.
func child(dir string) {
	n, _ := strconv.Atoi(os.Getenv(childKill))
	for step := uint64(1); n == 0 || step == 1; step++ {
		m, tensors := stepState(step)
		if _, err := Write(&suicidal{context.Background(), n}, dir, m, tensors, nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	os.Exit(0)
}

// stepState is a state that differs from step to step: several chunks, 3 MiB.
func stepState(step uint64) (Meta, []Tensor) {
	m := Meta{Job: "killed", Step: step, Numerics: "test/1"}
	out := []Tensor{{Name: "a/w", Shape: []int{3, chunkBytes / 4}}, {Name: "a/b", Shape: []int{5}}}
	for i := range out {
		n, _ := volume(out[i].Shape)
		out[i].Data = make([]float32, n)
		for j := range out[i].Data {
			out[i].Data[j] = float32(step) + float32(j%1000)
		}
	}
	return m, out
}

// inspect wants every file that has its final name to be whole, and returns how many there are and how many were cut.
func inspect(t *testing.T, dir string) (whole, cut int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "killed", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, ".tmp") {
			cut++
			continue
		}
		step, err := strconv.ParseUint(filepath.Base(filepath.Dir(f)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		m, want := stepState(step)
		got, err := read(f, Want{Meta: m})
		if err != nil || !same(got, want) {
			t.Errorf("a half file is taken for whole, or worse: %v", err)
		}
		whole++
	}
	if err := Sweep(dir, "killed", 0, 0); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "killed", "*", "*.tmp")); len(left) > 0 {
		t.Errorf("left after sweeping: %v", left)
	}
	return whole, cut
}

func childCommand(t *testing.T, dir string, kill int) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0])
	c.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("%s=%d", childKill, kill))
	c.Stderr = os.Stderr
	return c
}

// TestKilledAtEveryChunk kills a writer before each piece of its work in turn, until one gets through.
func TestKilledAtEveryChunk(t *testing.T) {
	cuts := 0
	for n := 1; ; n++ {
		dir := t.TempDir()
		err := childCommand(t, dir, n).Run()
		whole, cut := inspect(t, dir)
		cuts += cut
		if err == nil {
			if whole != 1 || cuts < 4 {
				t.Errorf("%d looks, %d files cut, %d whole at the end", n, cuts, whole)
			}
			return
		}
		if whole != 0 || n > 100 {
			t.Fatalf("killed at look %d: %d whole files", n, whole)
		}
	}
}

// TestKilledAtAnyMoment kills writers that never stop, wherever they are.
func TestKilledAtAnyMoment(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	whole, cut := 0, 0
	for range 24 {
		dir := t.TempDir()
		c := childCommand(t, dir, 0)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Duration(r.IntN(120_000)) * time.Microsecond)
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = c.Wait()
		w, p := inspect(t, dir)
		whole, cut = whole+w, cut+p
	}
	t.Logf("%d whole files, %d cut", whole, cut)
}
