package history

import (
	"encoding/binary"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// batch is what a flush writes of one job.
type batch struct {
	name    string
	h       *history
	line    line
	wiped   uint64
	points  map[key]*point
	deleted bool
}

// Flush writes what has been added, in one transaction. It is for one goroutine to call again and again; what was added
// since the last time is lost if the process dies.
func (s *Store) Flush() error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.mu.Lock()
	if s.off != nil {
		defer s.mu.Unlock()
		return s.off
	}
	var todo []batch
	for _, name := range slices.Sorted(maps.Keys(s.jobs)) {
		h := s.jobs[name]
		if len(h.pending) > 0 || h.wiped != h.gone || !h.lined {
			b := batch{name: name, h: h, line: h.line, wiped: h.wiped, points: map[key]*point{}, deleted: h.line == line{}}
			for _, of := range h.pending {
				maps.Copy(b.points, of)
			}
			todo = append(todo, b)
		}
	}
	happened := s.events.todo()
	s.mu.Unlock()
	if len(todo) == 0 && happened.none() {
		return nil
	}
	err := s.transaction(s.db.Update, func(tx *bolt.Tx) error {
		for _, b := range todo {
			if err := b.write(tx.Bucket(bucketJobs)); err != nil {
				return err
			}
		}
		return happened.write(tx.Bucket(bucketEvents))
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		return s.fail(err)
	}
	for _, b := range todo {
		b.written()
		if b.deleted && b.h.line == (line{}) && b.h.wiped == b.wiped {
			delete(s.jobs, b.name)
		}
	}
	s.events.written(happened)
	return nil
}

// write puts a job's batch into its bucket.
func (b *batch) write(jobs *bolt.Bucket) error {
	if b.wiped != b.h.gone && jobs.Bucket([]byte(b.name)) != nil { // only a flush changes gone
		if err := jobs.DeleteBucket([]byte(b.name)); err != nil {
			return err
		}
	}
	if b.deleted {
		return nil
	}
	into, err := jobs.CreateBucketIfNotExists([]byte(b.name))
	if err != nil {
		return err
	}
	v := binary.BigEndian.AppendUint64(nil, uint64(b.line.submitted))
	if err := into.Put(keyLine, binary.BigEndian.AppendUint64(v, b.line.generation)); err != nil {
		return err
	}
	for _, k := range slices.SortedFunc(maps.Keys(b.points), func(a, b key) int { return slices.Compare(a[:], b[:]) }) {
		p := b.points[k]
		if p.Observations == 0 {
			err = into.Delete(k[:])
		} else {
			var v []byte
			if v, err = seal(k[:], p); err == nil {
				err = into.Put(k[:], v)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// written takes out of memory what is on the disk now. The store's lock is held.
func (b *batch) written() {
	b.h.gone = b.wiped
	b.h.lined = b.h.line == b.line && b.h.wiped == b.wiped
	for k, p := range b.points {
		of := b.h.pending[k.series()]
		if of[k] == p { // else it has changed since
			delete(of, k)
		}
	}
}
