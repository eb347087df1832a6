package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"

	"colonnade/checkpoint/disktest"
)

// TestDiskFull writes to file systems that end too early, wherever.
func TestDiskFull(t *testing.T) {
	m, tensors := sample() // 3 MiB
	for _, kib := range []int64{16, 40, 200, 1100, 2500, 3000} {
		t.Run(fmt.Sprintf("%d KiB", kib), func(t *testing.T) {
			dir := t.TempDir()
			disktest.Small(t, dir, kib)
			_, err := Write(context.Background(), dir, m, tensors, nil)
			if !errors.Is(err, syscall.ENOSPC) || strings.ContainsRune(err.Error(), '\n') ||
				!strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "; free some space") {
				t.Fatalf("error %q, want one line with the directory and what to do", err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, m.Job, "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			small, few := golden()
			if kib < 100 {
				return
			}
			if _, err := Write(context.Background(), dir, small, few, nil); err != nil {
				t.Errorf("what fits is not written after that: %v", err)
			}
		})
	}
}

func TestUnwritableDirectory(t *testing.T) {
	m, tensors := small()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, m.Job), nil, 0o644); err != nil { // in the way
		t.Fatal(err)
	}
	if _, err := Write(context.Background(), dir, m, tensors, nil); !errors.Is(err, syscall.ENOTDIR) ||
		strings.ContainsRune(err.Error(), '\n') {
		t.Errorf("error %v, want one line", err)
	}
}

// TestTransactionsAreBounded writes more than one transaction may hold and counts them: bbolt numbers them, and a new
// file begins with two.
func TestTransactionsAreBounded(t *testing.T) {
	m := Meta{Job: "large", Step: 1, Numerics: "test/1"}
	large := Tensor{Name: "a/w", Shape: []int{8*transactionBytes/4 + 1000}}
	large.Data = make([]float32, large.Shape[0])
	for i := range large.Data {
		large.Data[i] = float32(i)
	}
	_, path, info := write(t, m, []Tensor{large})
	got, err := read(path, manifest(m, info))
	if err != nil || !same(got, []Tensor{large}) {
		t.Fatalf("it does not come back: %v", err)
	}
	db, err := bolt.Open(path, 0o444, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		if n := tx.ID() - 1; n != 9 {
			t.Errorf("%d transactions, want 9", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if extra := info.Bytes - int64(4*len(large.Data)); extra > int64(4*len(large.Data)/20) {
		t.Errorf("%d bytes more than the state", extra)
	}
}

// FuzzOpen wants an error or a state whose digest is right from any file, never a crash. Files with a manifest are
// hashed before bbolt sees them; this is what stands behind that.
func FuzzOpen(f *testing.F) {
	whole, err := os.ReadFile(filepath.Join("testdata", "v1.ckpt"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte{})
	f.Add(make([]byte, 8192))
	m, _ := golden()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "f.ckpt")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := read(path, Want{Meta: m})
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrMismatch) && !errors.Is(err, ErrVersion) {
				t.Errorf("an error that nobody can decide on: %v", err)
			}
			return
		}
		_, want := golden()
		if !same(got, want) {
			t.Errorf("another state than the digest's: %v", got)
		}
	})
}
