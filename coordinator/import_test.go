package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
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

// smallDisk mounts a file system of so many KiB.
func smallDisk(t *testing.T, kib int64) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("full", dir, "tmpfs", 0, fmt.Sprintf("size=%dk", kib)); err != nil {
		t.Skipf("no small file system to be had: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
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
			if err := syscall.Mount("full", disk, "tmpfs", syscall.MS_REMOUNT, "size=8m"); err != nil {
				t.Fatal(err)
			}
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
