package history

import (
	"bytes"
	"encoding/binary"
	"slices"

	bolt "go.etcd.io/bbolt"

	"colonnade/proto/clusterpb"
)

// keepEvents is how many events are kept: the newest.
const keepEvents = 20_000

// eventKey is the length of an event's key: the log's index, and which event of that entry.
const eventKey = 8 + 2

// events is what is in memory of them: how many are on the disk, and those that are not.
type events struct {
	last    uint64 // index of the newest, on the disk or not
	kept    int    // on the disk
	pending []*clusterpb.LogEvent
}

func (e *events) load(tx *bolt.Tx) error {
	return tx.Bucket(bucketEvents).ForEach(func(k, _ []byte) error {
		e.kept++
		e.last = binary.BigEndian.Uint64(k)
		return nil
	})
}

// AddEvents adds those of a log's events that are new, in the log's order. Entries come whole.
func (s *Store) AddEvents(happened []*clusterpb.LogEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &s.events
	fresh := len(happened)
	for fresh > 0 && happened[fresh-1].Index > e.last {
		fresh--
	}
	if fresh == len(happened) || s.off != nil {
		return
	}
	e.pending = append(e.pending, happened[fresh:]...)
	e.last = happened[len(happened)-1].Index
	if n := len(e.pending); n > keepEvents {
		e.pending = slices.Clone(e.pending[n-keepEvents:])
	}
}

// Events returns events behind an index that match, oldest first; if there are more than limit, the newest. limit 0 is
// no limit, match nil matches all.
func (s *Store) Events(after uint64, match func(*clusterpb.LogEvent) bool, limit int) ([]*clusterpb.LogEvent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.off != nil {
		return nil, s.off
	}
	var out []*clusterpb.LogEvent // newest first
	full := func() bool { return limit > 0 && len(out) >= limit }
	for _, e := range slices.Backward(s.events.pending) {
		if e.Index > after && !full() && (match == nil || match(e)) {
			out = append(out, e)
		}
	}
	err := s.transaction(s.db.View, func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketEvents).Cursor()
		for k, v := c.Last(); k != nil && binary.BigEndian.Uint64(k) > after && !full(); k, v = c.Prev() {
			e := &clusterpb.LogEvent{}
			if err := unseal(k, v, e); err != nil {
				return err
			}
			if match == nil || match(e) {
				out = append(out, e)
			}
		}
		return nil
	})
	if err != nil {
		return nil, s.fail(err)
	}
	slices.Reverse(out)
	return out, nil
}

// happened is what a flush writes of the events.
type happened struct {
	events []*clusterpb.LogEvent
	kept   int // on the disk before it, and then behind it
}

func (e *events) todo() *happened {
	return &happened{events: slices.Clone(e.pending), kept: e.kept}
}

func (h *happened) none() bool { return len(h.events) == 0 }

func (h *happened) write(b *bolt.Bucket) error {
	c := b.Cursor()
	drop := 0
	if over := h.kept + len(h.events) - keepEvents; over > 0 {
		drop = min(over, h.kept)
	}
	for k, _ := c.First(); k != nil && drop > 0; k, _ = c.First() {
		if err := c.Delete(); err != nil {
			return err
		}
		drop--
		h.kept--
	}
	var before []byte
	for _, e := range h.events {
		k := binary.BigEndian.AppendUint64(nil, e.Index)
		place := uint16(0)
		if before != nil && bytes.Equal(before[:8], k) {
			place = binary.BigEndian.Uint16(before[8:]) + 1
		}
		k = binary.BigEndian.AppendUint16(k, place)
		v, err := seal(k, e)
		if err != nil {
			return err
		}
		if err := b.Put(k, v); err != nil {
			return err
		}
		before = k
		h.kept++
	}
	return nil
}

// written takes out of memory what is on the disk now. The store's lock is held.
func (e *events) written(h *happened) {
	e.kept = h.kept
	e.pending = e.pending[min(len(h.events), len(e.pending)):]
}

// LastEvent is the index of the newest event that is known.
func (s *Store) LastEvent() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events.last
}
