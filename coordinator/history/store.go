// Package history keeps how training went: for each job a series of losses and speeds by step, for each of its first
// cells the times of its phases, and what has happened to the cluster. It is bounded, by levels of less and less
// detail, and beside the log: no state, no checkpoint and no weight depends on it.
package history

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/types/known/timestamppb"

	"colonnade/coordinator/boltfile"
	"colonnade/proto/clusterpb"
)

// ErrDamaged means that the file is not what was written.
var ErrDamaged = errors.New("damaged history")

// ErrOff means that nothing is kept any more: the disk is full or broken, or the store is closed.
var ErrOff = errors.New("no training history is kept")

// Store is a coordinator's history, in one bbolt file:
//
//	jobs/NAME  key of a point -> checksum | HistoryPoint; "line" -> submission int64 | generation uint64, big-endian
//	events     index uint64 | place within it uint16, big-endian -> checksum | LogEvent
//
// What is added is in memory until Flush, and is read from there meanwhile: adding waits for no disk. A write that
// fails is the last, as it is the raft log's beside it. All methods may be called at once.
type Store struct {
	path string
	now  func() time.Time
	db   *bolt.DB

	flushing sync.Mutex // one at a time
	mu       sync.Mutex
	off      error
	jobs     map[string]*history
	events   events
}

// history is what is in memory of a job.
type history struct {
	line
	pending map[series]map[key]*point // not on the disk yet
	wiped   uint64                    // how often all of it was to be deleted
	gone    uint64                    // how many of those the disk knows
	lined   bool                      // line is on the disk
	newest  map[series]uint64         // step
	seen    map[series]uint64         // the last step that a cell told of, by cell
}

// line is which course of which job: what older generations did behind the step that this one began with is cut off.
type line struct {
	submitted  int64
	generation uint64
}

var (
	bucketJobs   = []byte("jobs")
	bucketEvents = []byte("events")
	keyLine      = []byte("line")
)

// Open opens or makes a store, which reads all of one that is there. One that is damaged is put aside, under the same
// name and ".damaged", and a new one is made: aside says so, in one line. now is the clock observations are stamped by.
func Open(path string, now func() time.Time) (s *Store, aside string, err error) {
	_, err = boltfile.Check(path, ErrDamaged, checkAll)
	if errors.Is(err, ErrDamaged) {
		aside = fmt.Sprintf("training history %s: %v; it is put aside as %s.damaged and begins anew; jobs are not touched",
			path, err, path)
		err = os.Rename(path, path+".damaged")
	}
	if err != nil {
		return nil, aside, fmt.Errorf("training history %s: %w", path, err)
	}
	s = &Store{path: path, now: now, jobs: map[string]*history{}}
	if err := s.open(); err != nil {
		return nil, aside, fmt.Errorf("training history %s: %w", path, err)
	}
	return s, aside, nil
}

func (s *Store) open() (err error) {
	defer boltfile.Caught(&err, ErrDamaged)()
	if s.db, err = bolt.Open(s.path, 0o600, boltfile.Options()); err != nil {
		return err
	}
	err = s.db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketJobs, bucketEvents} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketJobs).ForEachBucket(func(name []byte) error {
			return s.load(string(name), tx.Bucket(bucketJobs).Bucket(name))
		})
	})
	if err == nil {
		err = s.db.View(s.events.load)
	}
	if err != nil {
		return errors.Join(err, s.db.Close())
	}
	return nil
}

// checkAll reads every record.
func checkAll(tx *bolt.Tx) error {
	jobs, happened := tx.Bucket(bucketJobs), tx.Bucket(bucketEvents)
	if jobs == nil || happened == nil {
		return fmt.Errorf("%w: a bucket is missing", ErrDamaged)
	}
	err := jobs.ForEach(func(name, v []byte) error {
		if v != nil || jobs.Bucket(name) == nil {
			return fmt.Errorf("%w: job %q is no bucket", ErrDamaged, name)
		}
		return jobs.Bucket(name).ForEach(checkJob)
	})
	if err != nil {
		return err
	}
	return happened.ForEach(func(k, v []byte) error {
		if len(k) != eventKey {
			return fmt.Errorf("%w: event %x", ErrDamaged, k)
		}
		return unseal(k, v, &clusterpb.LogEvent{})
	})
}

func checkJob(k, v []byte) error {
	if bytes.Equal(k, keyLine) {
		if len(v) != 16 {
			return fmt.Errorf("%w: a line of %d bytes", ErrDamaged, len(v))
		}
		return nil
	}
	if len(k) != len(key{}) || key(k).level() >= levels {
		return fmt.Errorf("%w: record %x", ErrDamaged, k)
	}
	p := &point{}
	if err := unseal(k, v, p); err != nil {
		return err
	}
	if !sane(p, key(k).level()) || p.FirstStep/width(key(k).level()) != key(k).index() {
		return fmt.Errorf("%w: record %x is no point of its level", ErrDamaged, k)
	}
	return nil
}

func newHistory(l line) *history {
	return &history{line: l, pending: map[series]map[key]*point{}, newest: map[series]uint64{}, seen: map[series]uint64{}}
}

// load reads what is kept in memory of a job: which line it is, and each series' newest step.
func (s *Store) load(name string, b *bolt.Bucket) error {
	v := b.Get(keyLine)
	if len(v) != 16 {
		return nil // it was never begun
	}
	h := newHistory(line{int64(binary.BigEndian.Uint64(v)), binary.BigEndian.Uint64(v[8:])})
	h.lined = true
	s.jobs[name] = h
	return b.ForEach(func(k, v []byte) error {
		if len(k) != len(key{}) {
			return nil
		}
		p := &point{}
		if err := unseal(k, v, p); err != nil {
			return err
		}
		of := key(k).series()
		h.newest[of] = max(h.newest[of], p.LastStep)
		return nil
	})
}

// Close writes what is pending and closes the file.
func (s *Store) Close() error {
	err := s.Flush()
	s.mu.Lock()
	if s.off == nil {
		s.off = fmt.Errorf("%w: it is closed", ErrOff)
	}
	s.mu.Unlock()
	s.flushing.Lock()
	defer s.flushing.Unlock()
	return errors.Join(err, s.db.Close())
}

// fail turns the store off. s.mu is held.
func (s *Store) fail(err error) error {
	if s.off == nil {
		s.off = fmt.Errorf("%w in %s: %w; training goes on; mend the disk and start this coordinator again", ErrOff, s.path,
			err)
	}
	return s.off
}

// Begin says which generation of a job runs and which step it went on from. What is known of later steps is of a course
// that was left, and is cut off. Saying so again does no harm; an older generation changes nothing. submitted tells
// jobs apart that had the same name: an earlier one's history is deleted.
func (s *Store) Begin(job string, submitted int64, generation, base uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off != nil {
		return s.off
	}
	h := s.jobs[job]
	switch {
	case h == nil:
		h = newHistory(line{submitted, generation})
		s.jobs[job] = h
		return nil
	case h.submitted != submitted:
		h.wipe(line{submitted, generation})
		return nil
	case generation <= h.generation:
		return nil
	}
	h.generation, h.lined = generation, false
	return s.cut(job, h, base)
}

// put has a point be written in the place of whatever is there.
func (h *history) put(k key, p *point) {
	of := h.pending[k.series()]
	if of == nil {
		of = map[key]*point{}
		h.pending[k.series()] = of
	}
	of[k] = p
}

// wipe deletes all of a job's points.
func (h *history) wipe(l line) {
	fresh := newHistory(l)
	fresh.wiped, fresh.gone = h.wiped+1, h.gone
	*h = *fresh
}

// Retain deletes the histories of jobs that are not among those that there are.
func (s *Store) Retain(there func(job string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, h := range s.jobs {
		if h.line != (line{}) && !there(name) {
			h.wipe(line{})
		}
	}
}

// Delete deletes a job's history.
func (s *Store) Delete(job string) {
	s.Retain(func(name string) bool { return name != job })
}

// Add notes how far a cell is. What an older generation says is not listened to, nor the same step of a cell twice.
func (s *Store) Add(job string, generation uint64, st *clusterpb.CellStatus) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.jobs[job]
	if s.off != nil || h == nil || h.generation != generation || st.Step == 0 || st.Cell == nil {
		return s.off
	}
	of := seriesOf(st.Cell)
	if of == whole || st.Step <= h.seen[of] {
		return nil
	}
	h.seen[of] = st.Step
	at := timestamppb.New(s.now())
	err := s.add(job, h, whole, observe(st, generation, at, false))
	if _, known := h.newest[of]; err == nil && (known || len(h.newest) <= mostCells) {
		err = s.add(job, h, of, observe(st, generation, at, true))
	}
	return err
}

// add folds an observation into every level of a series. s.mu is held.
func (s *Store) add(job string, h *history, of series, p *point) error {
	newest := h.newest[of]
	for level := range levels {
		i := p.LastStep / width(level)
		if i+of.keep() <= newest/width(level) {
			continue // so old that this level has forgotten it
		}
		k := keyOf(of, level, i)
		old, err := s.get(job, h, k)
		if err != nil {
			return err
		}
		h.put(k, fold(old, p))
	}
	return s.advance(job, h, of, p.LastStep)
}

// advance has a series forget what is too far behind a step, at every level. s.mu is held.
func (s *Store) advance(job string, h *history, of series, step uint64) error {
	newest, known := h.newest[of]
	if known && step <= newest {
		return nil
	}
	h.newest[of] = step
	for level := range levels {
		i, before := step/width(level), newest/width(level)
		if !known || i == before || i < of.keep() {
			continue
		}
		from := before - min(before, of.keep()) // of all that are there
		if err := s.drop(job, h, of, level, from, i-of.keep()); err != nil {
			return err
		}
	}
	return nil
}

// few is up to how many places are looked at one by one.
const few = 16

// drop deletes the points of a level from one place to another, both included. s.mu is held.
func (s *Store) drop(job string, h *history, of series, level int, from, to uint64) error {
	if to-from < few && from <= to {
		for i := from; i <= to; i++ {
			p, err := s.get(job, h, keyOf(of, level, i))
			if err != nil {
				return err
			}
			if p != nil {
				h.put(keyOf(of, level, i), &point{})
			}
		}
		return nil
	}
	old, err := s.scan(job, h, of, level, from, to)
	for _, p := range old {
		h.put(keyOf(of, level, p.FirstStep/width(level)), &point{})
	}
	return err
}

// cut deletes what is known of steps behind one. A point that has steps before and behind it is made anew of those of
// the level below; where that does not reach so far back any more it is lost. s.mu is held.
func (s *Store) cut(job string, h *history, step uint64) error {
	clear(h.seen)
	for of, newest := range h.newest {
		if newest <= step {
			continue
		}
		last := uint64(0)
		for level := range levels {
			i := step / width(level)
			if err := s.drop(job, h, of, level, i+1, newest/width(level)); err != nil {
				return err
			}
			p, err := s.get(job, h, keyOf(of, level, i))
			if err != nil {
				return err
			}
			if p != nil && p.LastStep > step {
				if p, err = s.again(job, h, of, level, i); err != nil {
					return err
				}
			}
			if p != nil {
				last = max(last, p.LastStep)
			}
		}
		if last == 0 {
			last = step
		}
		h.newest[of] = last
	}
	return nil
}

// again makes a point anew of those of the level below it, and returns it; nil: there are none. s.mu is held.
func (s *Store) again(job string, h *history, of series, level int, i uint64) (sum *point, err error) {
	if level > 0 {
		parts, err := s.scan(job, h, of, level-1, i*factor, i*factor+factor-1)
		if err != nil {
			return nil, err
		}
		for _, p := range parts {
			sum = fold(sum, p)
		}
	}
	if sum == nil {
		h.put(keyOf(of, level, i), &point{})
		return nil, nil
	}
	h.put(keyOf(of, level, i), sum)
	return sum, nil
}

// get returns a point, nil if there is none. s.mu is held.
func (s *Store) get(job string, h *history, k key) (*point, error) {
	if p, ok := h.pending[k.series()][k]; ok {
		if p.Observations == 0 {
			return nil, nil
		}
		return p, nil
	}
	var found *point
	err := s.view(job, h, func(b *bolt.Bucket) error {
		v := b.Get(k[:])
		if v == nil {
			return nil
		}
		found = &point{}
		return unseal(k[:], v, found)
	})
	return found, err
}

// scan returns the points of a level from one place to another, both included, in order. s.mu is held.
func (s *Store) scan(job string, h *history, of series, level int, from, to uint64) ([]*point, error) {
	byPlace := map[uint64]*point{}
	lo, hi := keyOf(of, level, from), keyOf(of, level, to)
	err := s.view(job, h, func(b *bolt.Bucket) error {
		c := b.Cursor()
		for k, v := c.Seek(lo[:]); k != nil && len(k) == len(lo) && bytes.Compare(k, hi[:]) <= 0; k, v = c.Next() {
			p := &point{}
			if err := unseal(k, v, p); err != nil {
				return err
			}
			byPlace[key(k).index()] = p
		}
		return nil
	})
	for k, p := range h.pending[of] {
		if k.level() == level && k.index() >= from && k.index() <= to {
			byPlace[k.index()] = p
		}
	}
	out := make([]*point, 0, len(byPlace))
	for _, p := range byPlace {
		if p.Observations > 0 {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *point) int {
		if a.FirstStep < b.FirstStep {
			return -1
		}
		return 1
	})
	return out, err
}

// view reads what is on the disk of a job, if it is not to be deleted. A file that turns out to be damaged turns the
// store off. s.mu is held.
func (s *Store) view(job string, h *history, read func(*bolt.Bucket) error) (err error) {
	if s.off != nil {
		return s.off
	}
	if h.wiped != h.gone {
		return nil
	}
	err = s.transaction(s.db.View, func(tx *bolt.Tx) error {
		if b := tx.Bucket(bucketJobs).Bucket([]byte(job)); b != nil {
			return read(b)
		}
		return nil
	})
	if err != nil {
		return s.fail(err)
	}
	return nil
}

// transaction turns what a damaged file does to a transaction into an error.
func (s *Store) transaction(run func(func(*bolt.Tx) error) error, f func(*bolt.Tx) error) (err error) {
	defer boltfile.Caught(&err, ErrDamaged)()
	return run(f)
}
