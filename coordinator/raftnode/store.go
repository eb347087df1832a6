package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/zeebo/xxh3"
	bolt "go.etcd.io/bbolt"

	"colonnade/coordinator/boltfile"
)

// ErrCorruptLog means that the log is not what was written. The node must stop: it cannot know what it has
// acknowledged, or for whom it has voted.
var ErrCorruptLog = errors.New("corrupt raft log")

// errNotFound has the text hashicorp/raft looks for when a stable key has never been set.
var errNotFound = errors.New("not found")

// store is raft's log and stable store in one bbolt file:
//
//	logs    index, uint64 big-endian -> checksum uint64 | term uint64 | type uint8 | appended int64 ns |
//	        length uint32 | data | extensions (little-endian; the checksum is xxh3 of all behind it and of the index)
//	stable  key -> checksum uint64 | value (little-endian; the checksum is xxh3 of the key and the value)
//
// One kind of damage cannot be told from a crash: bbolt's two meta pages are written in turns, and when the newer one
// is damaged the last transaction is undone.
//
// Indices need not follow each other: a node that was sent a snapshot goes on behind it, and keeps what it had before.
//
// A write that fails, because the disk is full or broken, is the last: what is on the disk is not known then. All that
// come after it fail alike.
type store struct {
	db     *bolt.DB
	path   string
	update func(func(*bolt.Tx) error) error // db.Update
	broken chan struct{}                    // closed when a write has failed
	raft   atomic.Bool                      // it is raft that sets terms, on a goroutine of its own

	mu    sync.Mutex
	cause error // of the failed write
}

func newStore(db *bolt.DB, path string) *store {
	return &store{db: db, path: path, update: db.Update, broken: make(chan struct{})}
}

// ErrDisk means that a write to the log has failed. The node must stop; what it has acknowledged is not lost.
var ErrDisk = errors.New("cannot write")

// write makes a transaction that is on the disk when it returns without an error.
func (s *store) write(change func(*bolt.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return s.cause
	}
	err := s.update(change)
	if err == nil {
		return nil
	}
	s.cause = fmt.Errorf("raft log %s: %w: %w; the other coordinators go on without this one; make room or replace the "+
		"disk, then start it again", s.path, ErrDisk, err)
	close(s.broken)
	return s.cause
}

// failure is why a write has failed; nil: none has.
func (s *store) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cause
}

var (
	bucketLogs   = []byte("logs")
	bucketStable = []byte("stable")
)

const logHeader = 8 + 8 + 1 + 8 + 4

// openStore opens or makes a store, and reads all of one that is there, so that damage is found at the start and not in
// the middle of something.
func openStore(path string) (_ *store, err error) {
	defer func() {
		if err != nil {
			next := "choose another --data"
			if errors.Is(err, ErrCorruptLog) {
				next = "if there are other coordinators, take this one out with coordinator member remove and start it with " +
					"--join in a new directory; else put the directory back from a backup, or restore one with --restore"
			}
			err = fmt.Errorf("raft log %s: %w; %s", path, err, next)
		}
	}()
	made, err := boltfile.Check(path, ErrCorruptLog, checkAll)
	if err != nil {
		return nil, err
	}
	defer boltfile.Caught(&err, ErrCorruptLog)()
	db, err := bolt.Open(path, 0o600, boltfile.Options())
	if err != nil {
		return nil, err
	}
	s := newStore(db, path)
	if made {
		return s, nil
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range [][]byte{bucketLogs, bucketStable} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// checkAll reads every entry and value.
func checkAll(tx *bolt.Tx) error {
	logs, stable := tx.Bucket(bucketLogs), tx.Bucket(bucketStable)
	if logs == nil || stable == nil {
		return fmt.Errorf("%w: a bucket is missing", ErrCorruptLog)
	}
	last := uint64(0)
	err := logs.ForEach(func(k, v []byte) error {
		if len(k) != 8 || binary.BigEndian.Uint64(k) <= last {
			return fmt.Errorf("%w: key %x after entry %d", ErrCorruptLog, k, last)
		}
		last = binary.BigEndian.Uint64(k)
		return decodeLog(last, v, &raft.Log{})
	})
	if err != nil {
		return err
	}
	return stable.ForEach(func(k, v []byte) error {
		_, err := decodeStable(k, v)
		return err
	})
}

func (s *store) Close() error { return s.db.Close() }

func indexKey(i uint64) []byte { return binary.BigEndian.AppendUint64(nil, i) }

// edge returns the first or last index, or 0 of an empty log.
func (s *store) edge(move func(*bolt.Cursor) ([]byte, []byte)) (i uint64, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		if k, _ := move(tx.Bucket(bucketLogs).Cursor()); k != nil {
			i = binary.BigEndian.Uint64(k)
		}
		return nil
	})
	return i, err
}

// FirstIndex implements raft.LogStore.
func (s *store) FirstIndex() (uint64, error) { return s.edge((*bolt.Cursor).First) }

// LastIndex implements raft.LogStore.
func (s *store) LastIndex() (uint64, error) { return s.edge((*bolt.Cursor).Last) }

func encodeLog(l *raft.Log) []byte {
	le := binary.LittleEndian
	b := make([]byte, 8, logHeader+len(l.Data)+len(l.Extensions))
	b = le.AppendUint64(b, l.Term)
	b = append(b, byte(l.Type))
	b = le.AppendUint64(b, uint64(unixNano(l.AppendedAt)))
	b = le.AppendUint32(b, uint32(len(l.Data)))
	b = append(b, l.Data...)
	b = append(b, l.Extensions...)
	le.PutUint64(b, logSum(l.Index, b[8:]))
	return b
}

// unixNano is 0 for no time.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func logSum(index uint64, b []byte) uint64 { return xxh3.HashSeed(b, index) }

func decodeLog(index uint64, b []byte, l *raft.Log) error {
	le := binary.LittleEndian
	if len(b) < logHeader || le.Uint64(b) != logSum(index, b[8:]) {
		return fmt.Errorf("%w: entry %d: checksum does not match", ErrCorruptLog, index)
	}
	n := int(le.Uint32(b[25:]))
	if n > len(b)-logHeader {
		return fmt.Errorf("%w: entry %d: %d bytes of data in %d", ErrCorruptLog, index, n, len(b))
	}
	*l = raft.Log{Index: index, Term: le.Uint64(b[8:]), Type: raft.LogType(b[16]), Data: append([]byte(nil),
		b[logHeader:logHeader+n]...)}
	if ns := int64(le.Uint64(b[17:])); ns != 0 {
		l.AppendedAt = time.Unix(0, ns)
	}
	if rest := b[logHeader+n:]; len(rest) > 0 {
		l.Extensions = append([]byte(nil), rest...)
	}
	return nil
}

// GetLog implements raft.LogStore.
func (s *store) GetLog(i uint64, l *raft.Log) error {
	return s.db.View(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketLogs).Get(indexKey(i))
		if v == nil {
			return raft.ErrLogNotFound
		}
		return decodeLog(i, v, l)
	})
}

// StoreLog implements raft.LogStore.
func (s *store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore: one transaction, one sync.
func (s *store) StoreLogs(logs []*raft.Log) error {
	return s.write(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketLogs)
		b.FillPercent = 1 // entries only ever follow each other
		for _, l := range logs {
			if err := b.Put(indexKey(l.Index), encodeLog(l)); err != nil {
				return err
			}
		}
		return nil
	})
}

// DeleteRange implements raft.LogStore.
func (s *store) DeleteRange(lo, hi uint64) error {
	return s.write(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketLogs).Cursor()
		for k, _ := c.Seek(indexKey(lo)); k != nil && binary.BigEndian.Uint64(k) <= hi; k, _ = c.Next() {
			if err := c.Delete(); err != nil {
				return err
			}
		}
		return nil
	})
}

// Set implements raft.StableStore.
func (s *store) Set(k, v []byte) error {
	b := append(binary.LittleEndian.AppendUint64(nil, stableSum(k, v)), v...)
	return s.write(func(tx *bolt.Tx) error { return tx.Bucket(bucketStable).Put(k, b) })
}

func stableSum(k, v []byte) uint64 { return xxh3.HashSeed(v, xxh3.Hash(k)) }

func decodeStable(k, b []byte) ([]byte, error) {
	if len(b) < 8 || binary.LittleEndian.Uint64(b) != stableSum(k, b[8:]) {
		return nil, fmt.Errorf("%w: value of %q: checksum does not match", ErrCorruptLog, k)
	}
	return append([]byte(nil), b[8:]...), nil
}

// Get implements raft.StableStore.
func (s *store) Get(k []byte) (v []byte, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketStable).Get(k)
		if b == nil {
			return errNotFound
		}
		v, err = decodeStable(k, b)
		return err
	})
	return v, err
}

// keyTerm is where raft keeps its term.
var keyTerm = []byte("CurrentTerm")

// SetUint64 implements raft.StableStore. Raft panics if it cannot write its term down; its goroutine ends instead,
// before it has done anything in that term, and the node with it.
func (s *store) SetUint64(k []byte, v uint64) error {
	err := s.Set(k, indexKey(v))
	if errors.Is(err, ErrDisk) && s.raft.Load() && bytes.Equal(k, keyTerm) {
		runtime.Goexit()
	}
	return err
}

// GetUint64 implements raft.StableStore.
func (s *store) GetUint64(k []byte) (uint64, error) {
	v, err := s.Get(k)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("%w: stable value of %d bytes", ErrCorruptLog, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}
