// Package doctor looks at what a program of ours stands on, a directory, memory, an address, a clock, and says what is
// wrong with it and what to do. It only looks: what it writes, it removes.
package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"colonnade/checkpoint/cli"
)

// Grade is how something was found.
type Grade string

// Grades, from best to worst.
const (
	OK   Grade = "ok"
	Warn Grade = "warn" // it works, less well or not for long
	Bad  Grade = "bad"  // it does not work
)

// Finding is how one thing was found, in words, and, unless it is OK, what to do.
type Finding struct {
	What  string `json:"what"`
	Grade Grade  `json:"grade"`
	Says  string `json:"says"`
	Mend  string `json:"mend,omitempty"`
}

// Of makes a finding that is OK if good, else of a grade, with what to do.
func Of(what string, good bool, grade Grade, says, mend string) Finding {
	if good {
		return Finding{What: what, Grade: OK, Says: says}
	}
	return Finding{What: what, Grade: grade, Says: says, Mend: mend}
}

// Err makes a finding of an error that ends with what to do, as ours do; or else says that.
func Err(what string, grade Grade, err error, or string) Finding {
	text := err.Error()
	if i := strings.LastIndex(text, "; "); i >= 0 {
		return Finding{what, grade, text[:i], text[i+2:]}
	}
	return Finding{what, grade, text, or}
}

// ErrBad says that something was found to be bad.
var ErrBad = errors.New("not all is well; what is bad is said above")

// Report writes findings, a line each and another one with what to do, or as a JSON list. ErrBad: one of them is bad.
func Report(w io.Writer, asJSON bool, all []Finding) error {
	var out []byte
	if asJSON {
		b, err := json.MarshalIndent(all, "", "  ")
		if err != nil {
			return err
		}
		out = append(b, '\n')
	} else {
		width := 0
		for _, f := range all {
			width = max(width, len(f.What))
		}
		for _, f := range all {
			out = fmt.Appendf(out, "%-4s  %-*s  %s\n", f.Grade, width, f.What, f.Says)
			if f.Mend != "" {
				out = fmt.Appendf(out, "%*s%s\n", width+8, "", f.Mend)
			}
		}
	}
	if _, err := w.Write(out); err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(f Finding) bool { return f.Grade == Bad }) {
		return ErrBad
	}
	return nil
}

// Limits of what is called slow or little.
const (
	slowSync   = 30 * time.Millisecond // a coordinator syncs its log before it answers; elections wait 150 ms
	clockApart = 5 * time.Second
)

// Directory looks at a directory that is written to, or, where there is none yet, at the one that it would be made in:
// whether it may be written, how much is free, and how long a file takes until it is on the disk.
func Directory(what, dir string, want uint64) []Finding {
	if at, err := filepath.Abs(dir); err == nil {
		dir = at // whoever reads it may be elsewhere
	}
	there := dir
	for {
		info, err := os.Stat(there)
		if err == nil && !info.IsDir() {
			return []Finding{{what, Bad, there + " is no directory", "name another directory"}}
		}
		if err == nil {
			break
		}
		if up := filepath.Dir(there); errors.Is(err, os.ErrNotExist) && up != there {
			there = up
			continue
		}
		return []Finding{{what, Bad, err.Error(), "name a directory that this user may write to"}}
	}
	took, err := syncTime(there)
	if err != nil {
		return []Finding{{what, Bad, fmt.Sprintf("%s: %v", there, plain(err)), mendWrite(err)}}
	}
	var s unix.Statfs_t
	if err := unix.Statfs(there, &s); err != nil {
		return []Finding{{what, Bad, fmt.Sprintf("%s: %v", there, err), "name another directory"}}
	}
	free := s.Bavail * uint64(s.Bsize)
	says := there + " can be written"
	if there != dir {
		says = dir + " can be made"
	}
	return []Finding{
		{What: what, Grade: OK, Says: says},
		Of(what+", space", free >= want, Warn, Bytes(free)+" free", "less than "+Bytes(want)+": make room, or name another "+
			"directory"),
		Of(what+", speed", took <= slowSync, Warn, fmt.Sprintf("%.1f ms until 4 KiB are on the disk",
			took.Seconds()*1000), "a disk this slow delays elections and checkpoints: raise coordinator start "+
			"--election-timeout, or name a directory on a local SSD"),
	}
}

// plain is an error without the name of the trial file.
func plain(err error) error {
	var at *os.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

func mendWrite(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return "make room on that file system"
	case errors.Is(err, syscall.EROFS):
		return "mount it so that it can be written, or name another directory"
	}
	return "name a directory that this user may write to"
}

// syncTime is the median time of writing a little file, and forcing it to the disk, of several.
func syncTime(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, ".colonnade-doctor-*.tmp")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var took []time.Duration
	for range 9 {
		began := time.Now()
		if _, err := f.WriteAt(make([]byte, 4096), 0); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// SharedMemory looks at the directory of memory that arenas lie in.
func SharedMemory(dir string, want uint64) Finding {
	const what = "shared memory"
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return Finding{what, Warn, fmt.Sprintf("%s: %v", dir, err),
			"cells' states lie in files below --data instead; --shm DIR names a directory of memory"}
	}
	free := s.Bavail * uint64(s.Bsize)
	return Of(what, free >= want, Warn, Bytes(free)+" free in "+dir, "less than "+Bytes(want)+": states that do not fit "+
		"lie in files below --data; in a container, docker run --shm-size, or a volume of medium Memory at "+dir)
}

// Memory judges how many bytes this process could have.
func Memory(left, want uint64) Finding {
	return Of("memory", left >= want, Warn, Bytes(left)+" left to this process",
		"less than "+Bytes(want)+": end something, or raise the container's limit")
}

// Listen looks whether an address can be listened on, which a flag names. taken says what answers there already, if
// anything of ours does.
func Listen(what, flag, address string, taken func() string) Finding {
	l, err := net.Listen("tcp", address)
	if err == nil {
		ip := l.Addr().(*net.TCPAddr).IP
		said := "can be listened on"
		if ip.IsLoopback() {
			said += ", from this machine only"
		}
		_ = l.Close() // it was only tried
		return Finding{What: what, Grade: OK, Says: address + " " + said}
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		if who := taken(); who != "" {
			return Finding{What: what, Grade: OK, Says: address + " is listened on by " + who}
		}
		return Finding{what, Bad, address + " is in use by another program", "end that, or give another port: " + flag +
			" HOST:PORT"}
	}
	var at *net.OpError
	if errors.As(err, &at) {
		err = at.Err
	}
	return Finding{what, Bad, fmt.Sprintf("%s: %v", address, err),
		"give an address of this machine: " + flag + " HOST:PORT"}
}

// Clock compares this machine's clock with another's, which said a time between two of ours.
func Clock(of string, said, before, after time.Time) Finding {
	apart := said.Sub(before.Add(after.Sub(before) / 2))
	return Of("clock", apart.Abs() <= clockApart, Warn, fmt.Sprintf("%v apart from that of %s", apart.Abs().Round(
		time.Millisecond), of), "nothing is decided by it, but logs and histories are hard to read side by side: set it "+
		"by NTP")
}

// Versions compares this program's with that of another.
func Versions(ours, of, theirs string) Finding {
	says := fmt.Sprintf("this program and %s are %s", of, short(ours))
	switch {
	case ours == cli.Unversioned || theirs == cli.Unversioned:
		return Finding{"version", Warn, fmt.Sprintf("this program is %s, %s is %s: they cannot be compared", short(ours), of,
			short(theirs)), "build both from one commit by scripts/build, which records it"}
	case ours != theirs:
		says = fmt.Sprintf("this program is %s, %s is %s", short(ours), of, short(theirs))
	}
	return Of("version", ours == theirs, Warn, says,
		"they understand each other if they speak the same protocols; bring both to one version")
}

func short(version string) string {
	if len(version) > 12 {
		return version[:12]
	}
	return version
}

// Bytes writes a size for people.
func Bytes(n uint64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}
