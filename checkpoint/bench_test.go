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
	"time"
)

// BenchmarkWrite makes the state of full-size alexnet durable, 0.5 GB in two cells. What it costs a trainer on the same
// processors is processor time, of the system too: cpu-s for both files. The disk may take longer.
func BenchmarkWrite(b *testing.B) {
	root := b.TempDir()
	var before, after syscall.Rusage
	var spent time.Duration
	for b.Loop() {
		b.StopTimer()
		metas, tensors := halves()
		b.StartTimer()
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &before); err != nil {
			b.Fatal(err)
		}
		for i, m := range metas {
			info, err := Write(context.Background(), root, m, tensors[i], nil)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(metas)) * info.Bytes)
		}
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &after); err != nil {
			b.Fatal(err)
		}
		for _, t := range []struct{ from, to syscall.Timeval }{{before.Utime, after.Utime}, {before.Stime, after.Stime}} {
			spent += time.Duration(t.to.Nano() - t.from.Nano())
		}
	}
	b.ReportMetric(spent.Seconds()/float64(b.N), "cpu-s/op")
}

// halves is the state of full-size alexnet with its momentum, as two columns have it.
func halves() (metas []Meta, tensors [][]Tensor) {
	const values = 30_482_612 // half of the network's parameters
	for column := range 2 {
		metas = append(metas, Meta{Job: "bench", Generation: 1, Step: 1, Column: column, Numerics: "bench/1"})
		var half []Tensor
		for _, name := range []string{"w", "v"} {
			t := Tensor{Name: name, Shape: []int{values}, Data: make([]float32, values)}
			for i := range t.Data {
				t.Data[i] = float32(i*7919+column) * 1e-6
			}
			half = append(half, t)
		}
		tensors = append(tensors, half)
	}
	return metas, tensors
}

// BenchmarkRestore verifies and loads the state of full-size alexnet in two cells, 0.5 GB with its momentum, from files
// that are in no cache.
func BenchmarkRestore(b *testing.B) {
	root := b.TempDir()
	var wants []Want
	var paths []string
	var state [][]float32
	metas, tensors := halves()
	for i, m := range metas {
		for _, t := range tensors[i] {
			state = append(state, t.Data)
		}
		info, err := Write(context.Background(), root, m, tensors[i], nil)
		if err != nil {
			b.Fatal(err)
		}
		wants = append(wants, manifest(m, info))
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
