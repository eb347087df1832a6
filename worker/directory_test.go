package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestClaimDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	id, release, err := claimDirectory(dir)
	if err != nil || len(id) != 16 {
		t.Fatalf("id %q, %v", id, err)
	}
	_, _, err = claimDirectory(dir)
	if err == nil || !strings.Contains(err.Error(), "used by another worker; choose another --data") {
		t.Errorf("a second worker: %v", err)
	}
	release()
	again, release, err := claimDirectory(dir)
	if err != nil || again != id {
		t.Errorf("came back as %q, %v; was %q", again, err, id)
	}
	release()
	for name, b := range map[string]string{"empty": "", "blank": " \n", "long": strings.Repeat("x", 65)} {
		if err := os.WriteFile(filepath.Join(dir, "worker.id"), []byte(b), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := claimDirectory(dir); err == nil || !strings.Contains(err.Error(), "remove the file") {
			t.Errorf("%s id: %v", name, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "worker.id")); err != nil {
		t.Fatal(err)
	}
	other, release, err := claimDirectory(dir) // the lock was let go by every refusal
	if err != nil || other == id {
		t.Errorf("a new id is %q, %v", other, err)
	}
	release()
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
