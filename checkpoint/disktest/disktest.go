// Package disktest makes disks that fill up, for tests.
package disktest

import (
	"fmt"
	"syscall"
	"testing"
)

// Small has a directory be a file system of its own, of so many KiB, until the test ends. Where none may be mounted, as
// by who is not root, the test is skipped.
func Small(t testing.TB, dir string, kib int64) {
	t.Helper()
	if err := syscall.Mount("full", dir, "tmpfs", 0, size(kib)); err != nil {
		t.Skipf("no small file system to be had: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// Resize gives such a file system another size.
func Resize(t testing.TB, dir string, kib int64) {
	t.Helper()
	if err := syscall.Mount("full", dir, "tmpfs", syscall.MS_REMOUNT, size(kib)); err != nil {
		t.Fatal(err)
	}
}

func size(kib int64) string { return fmt.Sprintf("size=%dk", kib) }
