package arena

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"
)

// Config is what a store is made of.
type Config struct {
	Shared []string // directories of shared memory, tried in order; arenas lie below, in a directory of the user's
	Data   string   // a directory on disk for when there is no memory; empty: none
	Log    *slog.Logger
}

// Store makes and finds the arenas of one host. Its methods may be called at any time, an Arena's by one goroutine.
type Store struct {
	log   *slog.Logger
	boot  string
	start uint64 // of this process
	dirs  []directory

	mu     sync.Mutex
	parked []*Arena // private ones that nobody uses
}

type directory struct {
	path string
	kind Kind
}

const suffix = ".arena"

// Open makes a store. Directories that cannot be had are passed over: private memory always works.
func Open(cfg Config) *Store {
	s := &Store{log: cfg.Log, boot: bootID(), start: startTime(os.Getpid())}
	for _, d := range cfg.Shared {
		s.add(filepath.Join(d, fmt.Sprintf("colonnade-%d", os.Geteuid())), Shared)
	}
	if cfg.Data != "" {
		s.add(cfg.Data, File)
	}
	return s
}

// add takes a directory if it is, or can be made, one that only this user can write to: whoever can, can hand a cell
// any weights.
func (s *Store) add(path string, kind Kind) {
	err := os.Mkdir(path, 0o700)
	if errors.Is(err, os.ErrExist) {
		err = nil
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Lstat(path, &st)
	}
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0:
		err = errors.New("it is no directory that this user alone can write to")
	}
	if err != nil {
		s.log.Info("no arenas in this directory", "path", path, "err", err)
		return
	}
	s.dirs = append(s.dirs, directory{path, kind})
}

// bootID names the running kernel; empty if it cannot be told.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// startTime is when a process started, in ticks since boot (proc(5)); 0 if it cannot be told.
func startTime(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0
	}
	var t uint64
	fmt.Sscan(fields[19], &t)
	return t
}

// Make returns an arena that holds no step: one that lies about, of the same key, or a new one, in the best place with
// room for it.
func (s *Store) Make(key Key, generation uint64) (*Arena, error) {
	fits := func(k *Key, o owner) bool { return key.differs(k) == "" && o.generation <= generation }
	for _, a := range s.takeAll(fits, 1) {
		s.own(a, generation)
		a.Begin(0)
		a.Begin(1)
		return a, nil
	}
	var why []error
	for _, d := range s.dirs {
		a, err := s.create(d, key, generation)
		if err == nil {
			return a, nil
		}
		why = append(why, err)
	}
	a := &Arena{key: key, kind: Private, store: s}
	var err error
	if a.mem, err = mapMemory(nil, key.size()); err == nil {
		err = s.initialise(a, generation)
	}
	if err != nil {
		return nil, fmt.Errorf("memory for the state of cell r%dc%d: %w", key.Replica, key.Column,
			errors.Join(append(why, err)...))
	}
	s.log.Warn("the state of a cell lies in memory that ends with this process", "job", key.Job,
		"cell", fmt.Sprintf("r%dc%d", key.Replica, key.Column), "why", errors.Join(why...))
	return a, nil
}

// create makes a file with all of its memory reserved: a store into memory that is not there would be the end of the
// process.
func (s *Store) create(d directory, key Key, generation uint64) (*Arena, error) {
	var random [6]byte
	rand.Read(random[:]) // never fails: crypto/rand ends the process instead
	name := fmt.Sprintf("%s-r%dc%d-%x%s", jobPart(key.Cluster, key.Job), key.Replica, key.Column, random, suffix)
	a := &Arena{key: key, kind: d.kind, path: filepath.Join(d.path, name), store: s}
	file, err := os.OpenFile(a.path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	a.file = file
	fail := func(what string, err error) (*Arena, error) {
		a.discard()
		return nil, fmt.Errorf("%s %s: %w", what, a.path, err)
	}
	if err := lock(file); err != nil { // whoever reaps what has no header may have it already
		return fail("lock", err)
	}
	if err := unix.Fallocate(int(file.Fd()), 0, 0, int64(key.size())); err != nil {
		return fail("reserve memory for", err)
	}
	if a.mem, err = mapMemory(file, key.size()); err != nil {
		return fail("map", err)
	}
	if err := s.initialise(a, generation); err != nil {
		return fail("write the header of", err)
	}
	return a, nil
}

func (s *Store) initialise(a *Arena, generation uint64) error {
	s.own(a, generation)
	if err := a.key.encode(a.mem[:headerBytes], s.boot); err != nil {
		return err
	}
	a.wantHuge()
	return nil
}

// own writes down that this process has the arena.
func (s *Store) own(a *Arena, generation uint64) {
	old, _ := readOwner(a.mem[:headerBytes]) // none: it is new
	writeOwner(a.mem[:headerBytes], owner{turn: old.turn + 1, generation: generation, pid: uint64(os.Getpid()),
		start: s.start})
}

// jobPart is the beginning of the names of a job's files: for people, and what tells jobs apart.
func jobPart(cluster, job string) string {
	plain := strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' {
			return c
		}
		return '_'
	}, job[:min(len(job), 64)])
	return fmt.Sprintf("%s-%08x", plain, uint32(xxh3.HashString(cluster+"\x00"+job)))
}

// lock takes a file, unless another process has it or its name has gone meanwhile.
func lock(file *os.File) error {
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return ErrBusy
		}
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil || st.Nlink == 0 {
		return errors.Join(os.ErrNotExist, err)
	}
	return nil
}

// discard removes an arena's file and lets go of it.
func (a *Arena) discard() {
	a.quit.Store(true)
	a.huge.Wait()
	if a.mem != nil {
		a.unmap()
	}
	if a.file != nil {
		_ = os.Remove(a.path) // someone may have been tidy
		a.file.Close()
	}
}

// Remove ends the arena and what it holds.
func (a *Arena) Remove() { a.discard() }

// park keeps private memory that nobody uses any more.
func (s *Store) park(a *Arena) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parked = append(s.parked, a)
}

// found is a file that may be an arena.
type found struct {
	path  string
	kind  Kind
	key   Key
	owner owner
	held  []uint64
	err   error // why it is none
}

// look reads the header of every file there is, of all jobs or of one.
func (s *Store) look(part string) (out []found) {
	for _, d := range s.dirs {
		entries, err := os.ReadDir(d.path)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), suffix) || !strings.HasPrefix(e.Name(), part) {
				continue
			}
			f := found{path: filepath.Join(d.path, e.Name()), kind: d.kind}
			f.err = s.peek(&f)
			if !errors.Is(f.err, os.ErrNotExist) {
				out = append(out, f)
			}
		}
	}
	return out
}

// peek reads one file's header, without a lock: the steps may go on meanwhile.
func (s *Store) peek(f *found) error {
	file, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	page := make([]byte, headerBytes)
	if err := check(file); err != nil {
		return err
	}
	if _, err := file.ReadAt(page, 0); err != nil {
		return fmt.Errorf("%w: %w", ErrHeader, err)
	}
	if err := s.parse(f, page); err != nil {
		return err
	}
	if st, err := file.Stat(); err != nil || st.Size() != int64(f.key.size()) {
		return fmt.Errorf("%w: it is cut short", ErrHeader)
	}
	return nil
}

func (s *Store) parse(f *found, page []byte) (err error) {
	if f.key, err = decode(page, s.boot); err != nil {
		return err
	}
	f.held = heldIn(page)
	f.owner, err = readOwner(page)
	return err
}

// check wants a plain file of this user's.
func check(file *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: it is no file of this user's", ErrHeader)
	}
	return nil
}

// take opens a file that nobody has, as it is.
func (s *Store) take(f found) (*Arena, error) {
	file, err := os.OpenFile(f.path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	a := &Arena{kind: f.kind, path: f.path, file: file, store: s}
	if err = lock(file); err == nil {
		err = check(file)
	}
	if err == nil {
		a.key, err = s.mapWhole(a)
	}
	if err != nil {
		if a.mem != nil {
			a.unmap()
		}
		file.Close()
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	return a, nil
}

// mapWhole maps a file of the size its header says, and returns its key.
func (s *Store) mapWhole(a *Arena) (Key, error) {
	page := make([]byte, headerBytes)
	if _, err := a.file.ReadAt(page, 0); err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	f := found{}
	if err := s.parse(&f, page); err != nil {
		return Key{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(a.file.Fd()), &st); err != nil || st.Size != int64(f.key.size()) {
		return Key{}, fmt.Errorf("%w: %d bytes instead of %d", ErrHeader, st.Size, f.key.size())
	}
	mem, err := mapMemory(a.file, f.key.size())
	a.mem = mem
	return f.key, err
}

// takeAll takes arenas that fit and that nobody has, at most so many: private ones first, they are nobody else's.
func (s *Store) takeAll(fits func(*Key, owner) bool, most int) (out []*Arena) {
	s.mu.Lock()
	s.parked = slices.DeleteFunc(s.parked, func(a *Arena) bool {
		o, err := readOwner(a.mem[:headerBytes])
		take := err == nil && len(out) < most && fits(&a.key, o)
		if take {
			a.quit.Store(false)
			out = append(out, a)
		}
		return take
	})
	s.mu.Unlock()
	for _, f := range s.look("") {
		if len(out) == most {
			break
		}
		if f.err != nil || !fits(&f.key, f.owner) {
			continue
		}
		a, err := s.take(f)
		if err != nil {
			continue // its owner lives, or it has just gone
		}
		if o, err := readOwner(a.mem[:headerBytes]); err != nil || !fits(&a.key, o) {
			a.Close()
			continue
		}
		out = append(out, a)
	}
	return out
}

// old is after how long what another cluster has left is taken for forgotten.
const old = 24 * time.Hour

// Sweep removes what no one can use: files without a sound header, and those of other clusters that nobody has touched
// for a day. It returns their paths.
func (s *Store) Sweep(cluster string) (removed []string) {
	for _, f := range s.look("") {
		st, err := os.Stat(f.path)
		if err != nil || f.err == nil && (f.key.Cluster == cluster || time.Since(st.ModTime()) < old) {
			continue
		}
		if removeFree(f.path) {
			removed = append(removed, f.path)
		}
	}
	return removed
}

// removeFree removes a file that nobody has.
func removeFree(path string) bool {
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	return check(file) == nil && lock(file) == nil && os.Remove(path) == nil
}
