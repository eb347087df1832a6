package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// BenchmarkRestore verifies and loads the state of full-size alexnet in two cells, 0.5 GB with its momentum, from files
// that are in no cache.
func BenchmarkRestore(b *testing.B) {
	root := b.TempDir()
	const values = 30_482_612 // half of the network's parameters
	var wants []Want
	var paths []string
	var state [][]float32
	for column := range 2 {
		m := Meta{Job: "bench", Generation: 1, Step: 1, Column: column, Numerics: "bench/1"}
		var tensors []Tensor
		for _, name := range []string{"w", "v"} {
			t := Tensor{Name: name, Shape: []int{values}, Data: make([]float32, values)}
			for i := range t.Data {
				t.Data[i] = float32(i*7919+column) * 1e-6
			}
			tensors = append(tensors, t)
			state = append(state, t.Data)
		}
		info, err := Write(context.Background(), root, m, tensors)
		if err != nil {
			b.Fatal(err)
		}
		wants = append(wants, Want{Meta: m, Bytes: info.Bytes, SHA256: info.SHA256})
		paths = append(paths, filepath.Join(root, filepath.FromSlash(info.Path)))
	}
	b.SetBytes(2 * wants[0].Bytes)
	for b.Loop() {
		b.StopTimer()
		for _, p := range paths {
			if err := forget(p); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		var cells sync.WaitGroup
		errs := make([]error, len(paths))
		for column, p := range paths {
			cells.Go(func() {
				next := 2 * column
				_, errs[column] = Load(context.Background(), p, wants[column], func(string, []int) ([]float32, error) {
					next++
					return state[next-1], nil
				})
			})
		}
		cells.Wait()
		if err := errors.Join(errs...); err != nil {
			b.Fatal(err)
		}
	}
}

// forget drops a file's pages from the cache, once they are on disk.
func forget(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	const dontNeed = 4 // POSIX_FADV_DONTNEED
	if _, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0); errno != 0 {
		return fmt.Errorf("drop %s from the cache: %w", path, errno)
	}
	return nil
}
