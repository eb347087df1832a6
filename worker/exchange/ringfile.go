package exchange

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// SharedMemory is where rings are made unless said otherwise.
const SharedMemory = "/dev/shm"

// Names of ring files: of the worker and the process that made them, for people, and a random part.
const (
	ringPrefix = "colonnade-"
	ringSuffix = ".ring"
)

// Sizes of a slot. Two slots of a plan's largest message let a cell go on at once after every send; where there is not
// that much room, smaller ones do with more waits.
const (
	minSlotBytes = 64 << 10
	maxSlotBytes = 32 << 20
)

// bootID names the running kernel; empty if it cannot be told.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// makeRing makes a ring in the first directory with room for it: for messages of `largest` bytes, else a smaller one.
func makeRing(dirs []string, worker string, largest uint64) (r *ring, nonce []byte, err error) {
	full := int(min(max(largest, minSlotBytes), maxSlotBytes))
	if largest == 0 {
		full = ChunkBytes
	}
	var errs []error
	for _, slotBytes := range []int{full, min(full, ChunkBytes), minSlotBytes} {
		for _, dir := range dirs {
			if r, nonce, err = makeRingIn(dir, worker, slotBytes); err == nil {
				return r, nonce, nil
			}
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return nil, nil, errors.New("no directory to make it in")
	}
	return nil, nil, errs[len(errs)-1]
}

// makeRingIn makes a ring's file, all of its memory reserved: a store into memory that is not there would be the end
// of the process.
func makeRingIn(dir, worker string, slotBytes int) (*ring, []byte, error) {
	var random [8 + nonceBytes]byte
	rand.Read(random[:]) // never fails: crypto/rand ends the process instead
	nonce := random[8:]
	name := fmt.Sprintf("%s%s-%d-%x%s", ringPrefix, plainName(worker), os.Getpid(), random[:8], ringSuffix)
	r := &ring{path: filepath.Join(dir, name), slotBytes: slotBytes}
	file, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, nil, err
	}
	r.file = file
	fail := func(what string, err error) (*ring, []byte, error) {
		path := r.path
		r.unlink()
		return nil, nil, fmt.Errorf("%s %s: %w", what, path, err)
	}
	// Whoever reaps what the dead have left takes this lock first. Between the file's making and here it may have.
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fail("lock", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil || st.Nlink == 0 {
		return fail("keep", errors.Join(err, os.ErrNotExist))
	}
	if err := unix.Fallocate(int(file.Fd()), 0, 0, int64(ringSize(slotBytes))); err != nil {
		return fail("reserve memory for", err)
	}
	mem, err := mapFile(file, slotBytes)
	if err != nil {
		return fail("map", err)
	}
	r.attach(mem, true)
	r.initialise(nonce)
	return r, nonce, nil
}

// openRing maps a ring that a peer on this host has made. The path is the peer's word: only a file that looks like a
// ring and belongs to this user is touched, and it is written to only if it holds the nonce.
func openRing(path string, nonce []byte, slotBytes uint64) (r *ring, err error) {
	name := filepath.Base(path)
	if !filepath.IsAbs(path) || !isRingName(name) || len(nonce) != nonceBytes || slotBytes < minSlotBytes ||
		slotBytes > maxSlotBytes {
		return nil, fmt.Errorf("%q is no ring", path)
	}
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if r == nil {
			file.Close()
		}
	}()
	// Locked first, and there still: so the end that made it, which unlinks it and then looks for the lock, finds it.
	if err := hold(file); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Nlink == 0 {
		return nil, fmt.Errorf("%s: %w", path, os.ErrNotExist)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Size != int64(ringSize(int(slotBytes))) {
		return nil, fmt.Errorf("%s is no ring of this user's with slots of %d bytes", path, slotBytes)
	}
	mem, err := mapFile(file, int(slotBytes))
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	opened := &ring{slotBytes: int(slotBytes), path: path, hold: file}
	opened.attach(mem, false)
	err = opened.check(nonce)
	opened.path = "" // to unlink it is up to who made it
	if err != nil {
		opened.close()
		return nil, err
	}
	opened.prove()
	return opened, nil
}

func mapFile(f *os.File, slotBytes int) ([]byte, error) {
	return unix.Mmap(int(f.Fd()), 0, ringSize(slotBytes), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED|unix.MAP_POPULATE)
}

func unmap(mem []byte) { _ = unix.Munmap(mem) } // fails only for what is no mapping

// unlink removes the file of a ring that this end made; the memory stays for those who have it mapped. It is called by
// one goroutine at a time.
func (r *ring) unlink() {
	if r.file == nil {
		return
	}
	_ = os.Remove(r.path) // someone may have been tidy
	if r.land != nil {
		r.land.lock = r.file
	} else {
		r.file.Close()
	}
	r.file, r.path = nil, ""
}

func isRingName(name string) bool {
	return strings.HasPrefix(name, ringPrefix) && strings.HasSuffix(name, ringSuffix)
}

// plainName is a worker's id as part of a file name.
func plainName(worker string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' {
			return c
		}
		return '_'
	}, worker[:min(len(worker), 64)])
}

// ReapRings removes the ring files that processes left which died while they set a link up, and returns their paths.
// Files in use are locked by who made them, whatever its process id means here.
func ReapRings(dirs []string) (reaped []string) {
	for _, dir := range dirs {
		left, err := os.ReadDir(dir)
		if err != nil {
			continue // nobody can have made one there
		}
		for _, e := range left {
			path := filepath.Join(dir, e.Name())
			if isRingName(e.Name()) && reapRing(path) {
				reaped = append(reaped, path)
			}
		}
	}
	return reaped
}

func reapRing(path string) bool {
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false // another user's, or gone
	}
	defer file.Close()
	return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && os.Remove(path) == nil
}
