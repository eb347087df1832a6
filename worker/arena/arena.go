// Package arena keeps the state of cells in memory that outlives the process that trains them: a file of shared memory
// with two halves, of which one always holds the last finished step. It knows neither networks nor devices; what lies
// in a half is its user's.
//
// A process that dies at any instant leaves the arena as it is. Whoever finds it on the same host locks it, which works
// only when its owner is gone or has let go of it, and goes on in place; from an owner that is only stopped it copies.
package arena

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Errors that a caller decides on.
var (
	ErrHeader = errors.New("no sound arena")             // not one of ours, damaged, or cut short
	ErrOther  = errors.New("an arena of something else") // sound, but of another cell, plan or layout
	ErrStep   = errors.New("step is not held")
	ErrBusy   = errors.New("in use by another process")
)

// Arena is the memory of one cell's state. One goroutine at a time uses it.
type Arena struct {
	key   Key
	kind  Kind
	path  string   // empty: private memory
	file  *os.File // holds the lock; nil: private memory
	mem   []byte   // header and both halves
	huge  sync.WaitGroup
	quit  atomic.Bool // whoever asks for huge pages is to stop
	store *Store
}

// Kind says where an arena lies.
type Kind string

// The kinds of memory, best first.
const (
	Shared  Kind = "shared memory"  // in a directory of memory: survives the process
	File    Kind = "file"           // in the data directory: likewise, and is written to disk now and then
	Private Kind = "private memory" // ends with the process
)

// Key is what it is of.
func (a *Arena) Key() Key { return a.key }

// Snapshot copies the half that holds a step to dst, while its user may go on: an error if that has begun to write the
// half before the copy was whole.
func (a *Arena) Snapshot(step uint64, dst []byte) error {
	half := a.HalfOf(step)
	if half < 0 {
		return fmt.Errorf("copy step %d: %w: it holds %v", step, ErrStep, a.Held())
	}
	begun := a.word(offBegun + half*lineBytes)
	before := begun.Load()
	copy(dst, a.Half(half))
	if begun.Load() != before || a.HalfOf(step) != half {
		return fmt.Errorf("copy step %d: %w: the cell has gone on", step, ErrStep)
	}
	return nil
}

// Kind says where it lies.
func (a *Arena) Kind() Kind { return a.kind }

// Path is its file; empty if it has none.
func (a *Arena) Path() string { return a.path }

// Half is the memory of half i, 0 or 1, page-aligned. It is valid until Close.
func (a *Arena) Half(i int) []byte {
	at := headerBytes + i*a.key.HalfBytes
	return a.mem[at : at+a.key.HalfBytes : at+a.key.HalfBytes]
}

// Begin says that half i is about to be written: it holds no step from here on.
func (a *Arena) Begin(i int) {
	a.word(offBegun + i*lineBytes).Add(1)
	a.word(offStep + i*lineBytes).Store(0)
}

// Finish says that half i holds the whole state after `step` finished steps. All that was written to it is there for
// whoever sees the step: the store releases, and a process that dies takes nothing back.
func (a *Arena) Finish(i int, step uint64) { a.word(offStep + i*lineBytes).Store(sealStep(i, step)) }

// Held are the steps that the arena holds, the newest first.
func (a *Arena) Held() []uint64 { return heldIn(a.mem) }

// HalfOf is the half that holds a step; -1: neither does. Where a cell works in the arena it is half step mod 2; where
// it only writes its state there now and then, either.
func (a *Arena) HalfOf(step uint64) int {
	for i := range 2 {
		if held, ok := openStep(i, a.word(offStep+i*lineBytes).Load()); ok && held == step {
			return i
		}
	}
	return -1
}

func (a *Arena) word(at int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&a.mem[at])) }

// Close lets go of the arena and leaves what it holds for whoever comes next.
func (a *Arena) Close() {
	a.quit.Store(true)
	a.huge.Wait()
	if a.file == nil {
		a.store.park(a)
		return
	}
	a.unmap()
	a.file.Close()
}

func (a *Arena) unmap() {
	_ = unix.MunmapPtr(unsafe.Pointer(&a.mem[0]), uintptr(len(a.mem))) // fails only for what is no mapping
	a.mem = nil
}

// pageBytes is the size of a huge page: mappings begin at a multiple of it, so that they can have some.
const pageBytes = 2 << 20

// mapMemory maps n bytes of a file, or of private memory, beginning at a multiple of a huge page.
func mapMemory(file *os.File, n int) ([]byte, error) {
	fd, flags := -1, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS
	if file != nil {
		fd, flags = int(file.Fd()), unix.MAP_SHARED
	}
	whole, err := unix.MmapPtr(-1, 0, nil, uintptr(n+pageBytes), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("find room for %d bytes: %w", n, err)
	}
	before := (pageBytes - int(uintptr(whole)%pageBytes)) % pageBytes
	at := unsafe.Add(whole, before)
	if _, err = unix.MmapPtr(fd, 0, at, uintptr(n), unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_FIXED); err != nil {
		_ = unix.MunmapPtr(whole, uintptr(n+pageBytes))
		return nil, fmt.Errorf("map %d bytes: %w", n, err)
	}
	if before > 0 {
		_ = unix.MunmapPtr(whole, uintptr(before))
	}
	_ = unix.MunmapPtr(unsafe.Add(at, n), uintptr(pageBytes-before))
	return unsafe.Slice((*byte)(at), n), nil
}

// wantHuge asks for huge pages: private memory gets them as it is touched, that of files is put together from small
// ones, which takes milliseconds each and so goes on while its user has begun. Without them all works the same, a
// little slower.
func (a *Arena) wantHuge() {
	if len(a.mem) < pageBytes || unix.Madvise(a.mem, unix.MADV_HUGEPAGE) != nil || a.kind != Shared {
		return
	}
	a.huge.Go(func() {
		for at := 0; at+pageBytes <= len(a.mem) && !a.quit.Load(); at += pageBytes {
			if unix.Madvise(a.mem[at:at+pageBytes], madvCollapse) != nil {
				return
			}
		}
	})
}

// madvCollapse is MADV_COLLAPSE of Linux 6.1 and newer; others refuse it.
const madvCollapse = 25
