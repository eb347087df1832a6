// Package buddy keeps copies of cells' states in this process's memory: those of its own cells, and those that workers
// on other hosts hand over, so that a lost host takes nothing along. It knows what a copy is of, not what lies in it.
package buddy

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/zeebo/xxh3"

	"colonnade/worker/arena"
)

// Errors that a caller decides on.
var (
	ErrStale   = errors.New("of a generation that is over")
	ErrNone    = errors.New("there is no such copy")
	ErrNoRoom  = errors.New("there is no room for a copy")
	ErrCorrupt = errors.New("a copy is damaged")
)

// oldCopies is how many copies of older generations are kept of a cell while the newest has none yet that all cells
// have: the oldest, which all had, and the newest, of which that is not known.
const oldCopies = 3

// Store holds copies. Its methods may be called at any time.
type Store struct {
	free func() uint64 // bytes of memory that this machine has left; nil: no limit

	mu       sync.Mutex
	whole    map[cellKey][]*Copy
	arriving map[cellKey]*Arrival
	fences   map[jobKey]uint64 // by job: what is of older generations is refused
	spare    [][]byte          // to be used again
	held     uint64            // bytes
}

type jobKey struct{ cluster, job string }

type cellKey struct {
	jobKey
	replica, column int
}

func keyOf(k *arena.Key) cellKey { return cellKey{jobKey{k.Cluster, k.Job}, k.Replica, k.Column} }

// Copy is one cell's whole state after a step.
type Copy struct {
	Key        arena.Key
	Generation uint64 // that computed it
	Step       uint64
	Sums       []uint64 // of its pieces

	store *Store
	data  []byte
	users int  // under store.mu
	gone  bool // dropped; the last user gives the memory back
}

// New makes a store. free says how many bytes of memory the machine has left; nil: as many as one likes.
func New(free func() uint64) *Store {
	return &Store{free: free, whole: map[cellKey][]*Copy{}, arriving: map[cellKey]*Arrival{}, fences: map[jobKey]uint64{}}
}

// Arrival is a copy that is not whole yet. One goroutine uses it, and ends it with Done or Abort.
type Arrival struct {
	copy *Copy

	// Under store.mu.
	over bool // given up, for a newer one or because the job is over
	ours bool // its user writes to the memory without the lock, and gives it back itself
}

// end gives an arrival up from outside: whoever writes it learns of it. s.mu is held.
func (s *Store) end(a *Arrival) {
	if a.over = true; !a.ours {
		s.abort(a)
	}
}

// Begin makes room for a copy of a cell. keep is the newest step of which every cell of the job has a whole copy in
// this generation: all others are given up, and what generations before have left of the job. 0: there is none, and
// nothing is given up but this generation's. A copy of the cell that has not become whole is given up in any case.
func (s *Store) Begin(key arena.Key, generation, step, keep uint64) (*Arrival, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.pass(&key, generation); err != nil {
		return nil, err
	}
	id := keyOf(&key)
	s.settle(id, generation, keep)
	if old := s.arriving[id]; old != nil {
		s.end(old)
	}
	data, err := s.room(key.HalfBytes)
	if err != nil {
		return nil, err
	}
	a := &Arrival{copy: &Copy{Key: key, Generation: generation, Step: step, store: s, data: data}}
	s.arriving[id] = a
	return a, nil
}

// pass refuses what is of an older generation than is known, and notes a newer one. s.mu is held.
func (s *Store) pass(key *arena.Key, generation uint64) error {
	job := jobKey{key.Cluster, key.Job}
	if fence := s.fences[job]; generation < fence {
		return fmt.Errorf("copy of generation %d of job %s: %w: %d is known", generation, key.Job, ErrStale, fence)
	}
	s.fences[job] = generation
	return nil
}

// settle gives up what a cell does not need. s.mu is held.
func (s *Store) settle(id cellKey, generation, keep uint64) {
	if keep > 0 {
		s.dropOld(id.jobKey, generation)
		s.drop(id, func(c *Copy) bool { return c.Step != keep })
		return
	}
	s.drop(id, func(c *Copy) bool { return c.Generation == generation }) // not all have it
	if all := s.whole[id]; len(all) > oldCopies {
		from, to := all[1].Step, all[len(all)-oldCopies].Step
		s.drop(id, func(c *Copy) bool { return c.Step >= from && c.Step <= to })
	}
}

// dropOld gives up what generations before one have left of a job. s.mu is held.
func (s *Store) dropOld(job jobKey, below uint64) (n int) {
	for id := range s.whole {
		if id.jobKey == job {
			n += s.drop(id, func(c *Copy) bool { return c.Generation < below })
		}
	}
	return n
}

func (s *Store) drop(id cellKey, gone func(*Copy) bool) (n int) {
	var left []*Copy
	for _, c := range s.whole[id] {
		if !gone(c) {
			left = append(left, c)
			continue
		}
		n++
		if c.gone = true; c.users == 0 {
			s.giveBack(c.data)
		}
	}
	if s.whole[id] = left; len(left) == 0 {
		delete(s.whole, id)
	}
	return n
}

// room finds memory. s.mu is held.
func (s *Store) room(n int) ([]byte, error) {
	for i, b := range s.spare {
		if len(b) == n {
			s.spare = slices.Delete(s.spare, i, i+1)
			s.held += uint64(n)
			return b, nil
		}
	}
	// A machine without memory kills a process, which costs more than a copy that is missing.
	if s.free != nil {
		if free := s.free(); uint64(n) > free/2 {
			return nil, fmt.Errorf("%w: it has %d bytes, the machine has %d left", ErrNoRoom, n, free)
		}
	}
	s.held += uint64(n)
	return make([]byte, n), nil
}

// giveBack takes memory back; a little is kept for the next copy. s.mu is held.
func (s *Store) giveBack(b []byte) {
	s.held -= uint64(len(b))
	if s.spare = append(s.spare, b); len(s.spare) > 2 {
		s.spare = s.spare[1:]
	}
}

// Room is the memory of the whole copy, for who fills it.
func (a *Arrival) Room() []byte {
	a.copy.store.mu.Lock()
	defer a.copy.store.mu.Unlock()
	a.ours = true
	return a.copy.data
}

// Filled says that all of Room is written.
func (a *Arrival) Filled() {
	c := a.copy
	for c.Sums = nil; len(c.Sums) < c.pieces(); {
		c.Sums = append(c.Sums, c.sum(len(c.Sums)))
	}
}

// Add says that the next piece is written to Room; sum is what its sender says of it.
func (a *Arrival) Add(sum uint64) error {
	c, n := a.copy, len(a.copy.Sums)
	if c.sum(n) != sum {
		return fmt.Errorf("%w: the piece at %d", ErrCorrupt, n*pieceBytes)
	}
	c.Sums = append(c.Sums, sum)
	return nil
}

// pieces is in how many pieces the state travels.
func (c *Copy) pieces() int { return (len(c.data) + pieceBytes - 1) / pieceBytes }

// piece is the i-th of them.
func (c *Copy) piece(i int) []byte { return c.data[i*pieceBytes : min((i+1)*pieceBytes, len(c.data))] }

// sum is the checksum of a piece as it is: xxh3 of its bytes, seeded with its place.
func (c *Copy) sum(i int) uint64 { return xxh3.HashSeed(c.piece(i), uint64(i*pieceBytes)) }

// Sum is the checksum of the whole state: xxh3 of the pieces' checksums.
func (c *Copy) Sum() uint64 { return sumOf(c.Sums) }

func sumOf(sums []uint64) uint64 {
	var b []byte
	for _, s := range sums {
		b = binary.LittleEndian.AppendUint64(b, s)
	}
	return xxh3.Hash(b)
}

// addPiece puts the next piece of a state in its place.
func addPiece(dst []byte, at *uint64, offset uint64, data []byte, sum uint64) error {
	switch {
	case offset != *at || uint64(len(data)) > uint64(len(dst))-offset:
		return fmt.Errorf("%w: a piece of %d bytes at %d, expected at %d of %d", ErrCorrupt, len(data), offset, *at, len(dst))
	case xxh3.HashSeed(data, offset) != sum:
		return fmt.Errorf("%w: the piece at %d", ErrCorrupt, offset)
	}
	*at += uint64(copy(dst[offset:], data))
	return nil
}

// Done makes the copy one of those held. It is refused if its generation has ended meanwhile.
func (a *Arrival) Done() error {
	s, id := a.copy.store, keyOf(&a.copy.Key)
	if len(a.copy.Sums) < a.copy.pieces() {
		a.Abort()
		return fmt.Errorf("%w: it is cut short", ErrCorrupt)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.over || a.copy.Generation < s.fences[id.jobKey] {
		s.abort(a)
		return fmt.Errorf("copy of generation %d of job %s: %w", a.copy.Generation, a.copy.Key.Job, ErrStale)
	}
	delete(s.arriving, id)
	s.drop(id, func(c *Copy) bool { return c.Step == a.copy.Step })
	s.whole[id] = append(s.whole[id], a.copy)
	slices.SortFunc(s.whole[id], func(a, b *Copy) int { return cmp.Compare(a.Step, b.Step) })
	return nil
}

// Abort gives the copy up.
func (a *Arrival) Abort() {
	s := a.copy.store
	s.mu.Lock()
	defer s.mu.Unlock()
	s.abort(a)
}

func (s *Store) abort(a *Arrival) {
	if id := keyOf(&a.copy.Key); s.arriving[id] == a {
		delete(s.arriving, id)
	}
	if a.copy.gone {
		return
	}
	a.copy.gone = true
	s.giveBack(a.copy.data)
}

// Drop gives up what a cell does not need any more: see Begin.
func (s *Store) Drop(key arena.Key, generation, keep uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.pass(&key, generation); err != nil {
		return err
	}
	s.settle(keyOf(&key), generation, keep)
	return nil
}

// Fence has everything refused from here on that is of a generation of the job before one: what is held stays as it is.
func (s *Store) Fence(cluster, job string, generation uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := jobKey{cluster, job}
	s.fences[k] = max(s.fences[k], generation)
}

// Forget gives up what generations before `below` have left of a job, and returns how many copies it was.
func (s *Store) Forget(cluster, job string, below uint64) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, a := range s.arriving {
		if id.jobKey == (jobKey{cluster, job}) && a.copy.Generation < below {
			s.end(a)
		}
	}
	return s.dropOld(jobKey{cluster, job}, below)
}

// Sweep gives up copies of other clusters' jobs: nobody of this one can ask for them.
func (s *Store) Sweep(cluster string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.whole {
		if id.cluster != cluster {
			s.drop(id, func(*Copy) bool { return true })
		}
	}
}

// Held lists the whole copies of a job, or of all jobs of the cluster if job is empty, in no order.
func (s *Store) Held(cluster, job string) (out []*Copy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, all := range s.whole {
		if id.cluster == cluster && (job == "" || id.job == job) {
			out = append(out, all...)
		}
	}
	return out
}

// Bytes is how much memory copies take.
func (s *Store) Bytes() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// Open returns a copy that stays until its Close.
func (s *Store) Open(cluster, job string, replica, column int, step uint64) (*Copy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.whole[cellKey{jobKey{cluster, job}, replica, column}] {
		if c.Step == step {
			c.users++
			return c, nil
		}
	}
	return nil, fmt.Errorf("step %d of cell r%dc%d of job %s: %w", step, replica, column, job, ErrNone)
}

// Data is the state; it must not be changed, nor used after Close.
func (c *Copy) Data() []byte { return c.data }

// Close lets go of it.
func (c *Copy) Close() {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if c.users--; c.users == 0 && c.gone {
		c.store.giveBack(c.data)
	}
}
