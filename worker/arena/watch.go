package arena

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lookAgain is how long a watch trusts that a directory has not changed because its time has not: the kernel's clock
// for that ticks every few milliseconds.
const lookAgain = 20 * time.Millisecond

// Watch sees the steps of a job's cells as they are finished, from outside. It takes no lock, so it never is in the way
// of who wants one, and keeps files open, so that looking every millisecond costs little. One goroutine uses it; Close
// ends it.
type Watch struct {
	s            *Store
	cluster, job string
	dirs         []watchedDir
}

type watchedDir struct {
	directory
	changed unix.Timespec // the directory's time when it was read
	read    time.Time
	files   map[string]*watched // by name
}

type watched struct {
	file *os.File
	key  Key
}

// Watch watches a job.
func (s *Store) Watch(cluster, job string) *Watch {
	w := &Watch{s: s, cluster: cluster, job: job}
	for _, d := range s.dirs {
		w.dirs = append(w.dirs, watchedDir{directory: d, files: map[string]*watched{}})
	}
	return w
}

// Newest is the newest step of every cell of the job that holds one, by replica and column.
func (w *Watch) Newest() map[[2]int]uint64 {
	out := map[[2]int]uint64{}
	page := make([]byte, headerBytes)
	for i := range w.dirs {
		d := &w.dirs[i]
		w.look(d)
		for _, f := range d.files {
			if _, err := f.file.ReadAt(page[offStep:offStep+2*lineBytes], offStep); err != nil {
				continue // cut short: no arena any more
			}
			if held := heldIn(page); len(held) > 0 {
				cell := [2]int{f.key.Replica, f.key.Column}
				out[cell] = max(out[cell], held[0])
			}
		}
	}
	return out
}

// look reads a directory if it may have changed.
func (w *Watch) look(d *watchedDir) {
	var st unix.Stat_t
	now := time.Now()
	if err := unix.Stat(d.path, &st); err != nil {
		d.close()
		return
	}
	if st.Mtim == d.changed && now.Sub(d.read) < lookAgain {
		return
	}
	d.changed, d.read = st.Mtim, now
	entries, err := os.ReadDir(d.path)
	if err != nil {
		d.close()
		return
	}
	there := map[string]bool{}
	part := jobPart(w.cluster, w.job) + "-"
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, suffix) || !strings.HasPrefix(name, part) {
			continue
		}
		there[name] = true
		if d.files[name] != nil && d.files[name].still(filepath.Join(d.path, name)) {
			continue
		}
		if f := w.open(filepath.Join(d.path, name)); f != nil {
			if old := d.files[name]; old != nil {
				old.file.Close()
			}
			d.files[name] = f
		}
	}
	for name, f := range d.files {
		if !there[name] {
			f.file.Close()
			delete(d.files, name)
		}
	}
}

// still says whether a path leads to the file that is open.
func (f *watched) still(path string) bool {
	a, err := f.file.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// open opens a file if it is a whole arena of the job.
func (w *Watch) open(path string) *watched {
	f := found{path: path}
	if err := w.s.peek(&f); err != nil || f.key.Cluster != w.cluster || f.key.Job != w.job {
		return nil
	}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	return &watched{file, f.key}
}

func (d *watchedDir) close() {
	for name, f := range d.files {
		f.file.Close()
		delete(d.files, name)
	}
}

// Close lets go of all files.
func (w *Watch) Close() {
	for i := range w.dirs {
		w.dirs[i].close()
	}
}
