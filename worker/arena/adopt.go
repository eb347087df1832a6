package arena

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Held is what the host has of one cell.
type Held struct {
	Replica, Column int
	Generation      uint64   // that wrote it
	Steps           []uint64 // newest first; one or two
	Numerics        string
	Kind            Kind
	Job             string
	Busy            bool // another process has it, and may go on
}

// Held lists what there is of a job, or of all jobs of the cluster if job is empty, in no order. Arenas in use by this
// process are in it too; steps of busy ones may go on.
func (s *Store) Held(cluster, job string) (out []Held) {
	part := ""
	if job != "" {
		part = jobPart(cluster, job) + "-"
	}
	add := func(k *Key, o owner, kind Kind, steps []uint64, busy bool) {
		if k.Cluster == cluster && (job == "" || k.Job == job) && (len(steps) > 0 || job == "") {
			out = append(out, Held{Replica: k.Replica, Column: k.Column, Generation: o.generation, Steps: steps,
				Numerics: k.Numerics, Kind: kind, Job: k.Job, Busy: busy})
		}
	}
	for _, f := range s.look(part) {
		if f.err == nil {
			add(&f.key, f.owner, f.kind, f.held, busy(f.path))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.parked {
		if o, err := readOwner(a.mem[:headerBytes]); err == nil {
			add(&a.key, o, a.kind, a.Held(), false)
		}
	}
	return out
}

// busy says whether somebody has a file locked.
func busy(path string) bool {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	return errors.Is(unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// Adopt returns an arena of the key that holds a step, and from now on that one alone: one whose owner is gone as it
// is, else a copy of what an owner that lives, stopped perhaps, has. An owner that goes on meanwhile is noticed. What
// generations before since have left is of a history that was given up, and passed over.
func (s *Store) Adopt(key Key, generation, step, since uint64) (*Arena, error) {
	var adopted *Arena
	var why []error
	fits := func(k *Key, o owner) bool { return key.differs(k) == "" && o.generation < generation }
	for _, a := range s.takeAll(fits, math.MaxInt) {
		o, err := readOwner(a.mem[:headerBytes])
		if adopted != nil || a.HalfOf(step) < 0 || err != nil || o.generation < since {
			a.Close()
			continue
		}
		s.own(a, generation)
		a.Begin(1 - a.HalfOf(step))
		a.wantHuge()
		adopted = a
	}
	if adopted != nil {
		return adopted, nil
	}
	for _, f := range s.look(jobPart(key.Cluster, key.Job) + "-") {
		switch diff := key.differs(&f.key); {
		case f.err != nil:
			why = append(why, fmt.Errorf("%s: %w", f.path, f.err))
		case f.key.Replica != key.Replica || f.key.Column != key.Column:
		case diff != "":
			why = append(why, fmt.Errorf("%s: %w: %s", f.path, ErrOther, diff))
		case !slices.Contains(f.held, step):
			why = append(why, fmt.Errorf("%s: %w: it holds %v", f.path, ErrStep, f.held))
		case f.owner.generation >= generation:
			why = append(why, fmt.Errorf("%s: %w: of generation %d", f.path, ErrBusy, f.owner.generation))
		case f.owner.generation < since:
			why = append(why, fmt.Errorf("%s: %w: of generation %d, and the job went back behind it in %d", f.path, ErrStep,
				f.owner.generation, since))
		default:
			a, err := s.copyOf(f, key, generation, step)
			if err == nil {
				return a, nil
			}
			why = append(why, fmt.Errorf("%s: %w", f.path, err))
		}
	}
	if len(why) == 0 {
		why = []error{fmt.Errorf("%w: nothing of the cell is left", ErrStep)}
	}
	return nil, fmt.Errorf("step %d of cell r%dc%d in memory: %w", step, key.Replica, key.Column, errors.Join(why...))
}

// copyOf copies a half of an arena that another process has. That one may wake and go on with the step it was in, which
// writes the other half; it cannot begin one more without its peers. If it did, the half's count would say so.
func (s *Store) copyOf(f found, key Key, generation, step uint64) (*Arena, error) {
	file, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := check(file); err != nil {
		return nil, err
	}
	theirs := &Arena{key: key, path: f.path, store: s}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil || st.Size != int64(key.size()) {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrHeader, st.Size, key.size())
	}
	if theirs.mem, err = unix.Mmap(int(file.Fd()), 0, key.size(), unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map: %w", err)
	}
	defer unix.Munmap(theirs.mem)
	half := theirs.HalfOf(step)
	if half < 0 {
		return nil, fmt.Errorf("%w: it holds %v", ErrStep, theirs.Held())
	}
	begun := theirs.word(offBegun + half*lineBytes)
	before := begun.Load()
	mine, err := s.Make(key, generation)
	if err != nil {
		return nil, err
	}
	copy(mine.Half(half), theirs.Half(half))
	if begun.Load() != before || theirs.HalfOf(step) != half {
		mine.Remove()
		return nil, fmt.Errorf("%w, which has gone on while it was copied", ErrBusy)
	}
	mine.Finish(half, step)
	return mine, nil
}

// Retire removes what older generations have left of an arena's cell, but for what somebody has.
func (s *Store) Retire(a *Arena, generation uint64) {
	s.remove(func(k *Key, o owner) bool {
		return k.Cluster == a.key.Cluster && k.Job == a.key.Job && k.Replica == a.key.Replica &&
			k.Column == a.key.Column && o.generation < generation
	})
}

// Forget removes what generations before `below` have left of a job, but for what somebody has. It returns how many
// arenas it was.
func (s *Store) Forget(cluster, job string, below uint64) int {
	return s.remove(func(k *Key, o owner) bool {
		return k.Cluster == cluster && k.Job == job && o.generation < below
	})
}

func (s *Store) remove(fits func(*Key, owner) bool) int {
	all := s.takeAll(fits, math.MaxInt)
	for _, a := range all {
		a.discard()
	}
	return len(all)
}
