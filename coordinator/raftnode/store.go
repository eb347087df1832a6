package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"github.com/zeebo/xxh3"
	bolt "go.etcd.io/bbolt"
)

// ErrCorruptLog means that an entry of the log is not what was written. The node must stop: it cannot know what it has
// acknowledged.
var ErrCorruptLog = errors.New("corrupt raft log")

// errNotFound has the text hashicorp/raft looks for when a stable key has never been set.
var errNotFound = errors.New("not found")

// store is raft's log and stable store in one bbolt file:
//
//	logs    index, uint64 big-endian -> checksum uint64 | term uint64 | type uint8 | appended int64 ns |
//	        length uint32 | data | extensions (little-endian; the checksum is xxh3 of all behind it and of the index)
//	stable  key -> value, as raft gives them
type store struct{ db *bolt.DB }

var (
	bucketLogs   = []byte("logs")
	bucketStable = []byte("stable")
)

const logHeader = 8 + 8 + 1 + 8 + 4

func openStore(path string) (*store, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, NoFreelistSync: true,
		Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("open raft log %s: %w", path, err)
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
		return nil, errors.Join(fmt.Errorf("open raft log %s: %w", path, err), db.Close())
	}
	return &store{db}, nil
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
	b = le.AppendUint64(b, uint64(l.AppendedAt.UnixNano()))
	b = le.AppendUint32(b, uint32(len(l.Data)))
	b = append(b, l.Data...)
	b = append(b, l.Extensions...)
	le.PutUint64(b, logSum(l.Index, b[8:]))
	return b
}

func logSum(index uint64, b []byte) uint64 { return xxh3.HashSeed(b, index) }

func decodeLog(index uint64, b []byte, l *raft.Log) error {
	le := binary.LittleEndian
	if len(b) < logHeader || le.Uint64(b) != logSum(index, b[8:]) {
		return fmt.Errorf("%w: entry %d: checksum does not match; restore this node's data directory from a backup",
			ErrCorruptLog, index)
	}
	n := int(le.Uint32(b[25:]))
	if n > len(b)-logHeader {
		return fmt.Errorf("%w: entry %d: %d bytes of data in %d", ErrCorruptLog, index, n, len(b))
	}
	*l = raft.Log{Index: index, Term: le.Uint64(b[8:]), Type: raft.LogType(b[16]),
		AppendedAt: time.Unix(0, int64(le.Uint64(b[17:]))),
		Data:       append([]byte(nil), b[logHeader:logHeader+n]...)}
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
	return s.db.Update(func(tx *bolt.Tx) error {
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
	return s.db.Update(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketLogs).Cursor()
		for k, _ := c.Seek(indexKey(lo)); k != nil && binary.BigEndian.Uint64(k) <= hi; k, _ = c.Next() {
			if err := c.Delete(); err != nil {
				return err
			}
		}
		return nil
	})
}

// check reads the whole log, so that a damaged entry is found at the start and not in the middle of something.
func (s *store) check() error {
	return s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketLogs).ForEach(func(k, v []byte) error {
			return decodeLog(binary.BigEndian.Uint64(k), v, &raft.Log{})
		})
	})
}

// Set implements raft.StableStore.
func (s *store) Set(k, v []byte) error {
	return s.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketStable).Put(k, v) })
}

// Get implements raft.StableStore.
func (s *store) Get(k []byte) (v []byte, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketStable).Get(k)
		if b == nil {
			return errNotFound
		}
		v = append([]byte(nil), b...)
		return nil
	})
	return v, err
}

// SetUint64 implements raft.StableStore.
func (s *store) SetUint64(k []byte, v uint64) error { return s.Set(k, indexKey(v)) }

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
