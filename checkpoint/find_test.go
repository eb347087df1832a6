package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFind looks for files without a manifest: each column the newest generation's, of the newest whole step.
func TestFind(t *testing.T) {
	root := t.TempDir()
	for _, f := range []string{
		"000000000003/r0c0.g1.ckpt", "000000000003/r0c1.g1.ckpt", "000000000003/r0c1.g10.ckpt", "000000000003/r0c1.g9.ckpt",
		"000000000006/r0c0.g1.ckpt", "000000000006/r0c1.g1.ckpt", "000000000006/r0c1.g2.ckpt.tmp",
		"000000000006/r0c1.g02.ckpt", "000000000009/r0c0.g1.ckpt", "000000000009/r1c1.g1.ckpt", "12/r0c0.g1.ckpt", "job.yaml",
	} {
		path := filepath.Join(root, "j", filepath.FromSlash(f))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	three, nine := uint64(3), uint64(9)
	for _, c := range []struct {
		step *uint64
		at   uint64
		want string
	}{{nil, 6, "r0c0.g1.ckpt r0c1.g1.ckpt"}, {&three, 3, "r0c0.g1.ckpt r0c1.g10.ckpt"}} {
		at, files, err := Find(root, "j", c.step, 2)
		for i := range files {
			files[i] = filepath.Base(files[i])
		}
		if err != nil || at != c.at || strings.Join(files, " ") != c.want {
			t.Errorf("step %d, %v, %v; want %d, %s", at, files, err, c.at, c.want)
		}
	}
	if _, _, err := Find(root, "j", &nine, 2); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(),
		"not step 9") {
		t.Errorf("a step that is not whole: %v", err)
	}
	for _, job := range []string{"none", "../j", ""} {
		if _, _, err := Find(root, job, nil, 2); err == nil {
			t.Errorf("job %q is found", job)
		}
	}
}

// TestSpec puts a job beside its checkpoints, and lists such jobs.
func TestSpec(t *testing.T) {
	root := t.TempDir()
	if _, err := ReadSpec(root, "j"); !errors.Is(err, ErrMissing) {
		t.Errorf("no job: %v", err)
	}
	for _, want := range []string{"one", "one", "another"} {
		if err := WriteSpec(root, "j", []byte(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadSpec(root, "j"); err != nil || string(got) != want {
			t.Errorf("read %q, %v, want %q", got, err, want)
		}
	}
	if jobs, err := Jobs(root); err != nil || strings.Join(jobs, " ") != "j" {
		t.Errorf("jobs %v, %v", jobs, err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "j")); err != nil || len(left) != 1 {
		t.Errorf("%d files, %v", len(left), err)
	}
	if err := WriteSpec(root, "../j", nil); err == nil {
		t.Error("a job outside of the directory is written")
	}
}
