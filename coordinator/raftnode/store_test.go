package raftnode

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	bolt "go.etcd.io/bbolt"

	"colonnade/coordinator/boltfile"
)

func open(t testing.TB, path string) *store {
	t.Helper()
	s, err := openStore(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// entry is the log entry of an index, all of its fields filled.
func entry(i uint64) *raft.Log {
	l := &raft.Log{Index: i, Term: i/10 + 1, Type: raft.LogType(i % 3), Data: bytes.Repeat([]byte{byte(i)}, int(i%300)),
		AppendedAt: time.Unix(0, int64(i)+1)}
	if i%2 == 0 {
		l.Extensions = []byte{1, 2, byte(i)}
	}
	return l
}

func entries(lo, hi uint64) (out []*raft.Log) {
	for i := lo; i <= hi; i++ {
		out = append(out, entry(i))
	}
	return out
}

func edges(t *testing.T, s *store) [2]uint64 {
	t.Helper()
	first, err1 := s.FirstIndex()
	last, err2 := s.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return [2]uint64{first, last}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// has wants exactly the entries of some indices up to limit.
func has(t *testing.T, s *store, limit uint64, want func(uint64) bool) {
	t.Helper()
	for i := range limit + 1 {
		var l raft.Log
		err := s.GetLog(i, &l)
		switch {
		case !want(i):
			if !errors.Is(err, raft.ErrLogNotFound) {
				t.Fatalf("entry %d: %v, want not found", i, err)
			}
		case err != nil:
			t.Fatalf("entry %d: %v", i, err)
		default:
			w := entry(i)
			if len(w.Data) == 0 {
				w.Data = nil
			}
			if !reflect.DeepEqual(w, &l) {
				t.Fatalf("entry %d (-want +got):\n%s", i, cmp.Diff(w, &l))
			}
		}
	}
}

func TestLogStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	s := open(t, path)
	if got := edges(t, s); got != [2]uint64{} {
		t.Fatalf("an empty log goes from %d to %d", got[0], got[1])
	}
	must(t, s.StoreLog(entry(1)))
	must(t, s.StoreLogs(entries(2, 3000)))
	must(t, s.StoreLogs(nil))
	if got := edges(t, s); got != [2]uint64{1, 3000} {
		t.Fatalf("log goes from %d to %d", got[0], got[1])
	}
	has(t, s, 3001, func(i uint64) bool { return i >= 1 && i <= 3000 })
	for _, r := range [][2]uint64{{1, 1000}, {2900, 3000}, {1500, 1499}, {4000, 5000}, {0, 1001}} {
		must(t, s.DeleteRange(r[0], r[1]))
	}
	left := func(i uint64) bool { return i >= 1002 && i < 2900 }
	has(t, s, 3001, left)
	must(t, s.StoreLogs([]*raft.Log{entry(2898), entry(2899), entry(5000)})) // written again, and behind a gap
	left2 := func(i uint64) bool { return left(i) || i == 5000 }
	must(t, s.Close())
	s = open(t, path)
	has(t, s, 5001, left2)
	if got := edges(t, s); got != [2]uint64{1002, 5000} {
		t.Fatalf("log goes from %d to %d", got[0], got[1])
	}
	must(t, s.DeleteRange(0, 1<<63))
	if got := edges(t, s); got != [2]uint64{} {
		t.Fatalf("an emptied log goes from %d to %d", got[0], got[1])
	}
}

func TestStableStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	s := open(t, path)
	// Raft compares the text.
	if _, err := s.Get([]byte("k")); err == nil || err.Error() != "not found" {
		t.Errorf("unset key: %v", err)
	}
	if _, err := s.GetUint64([]byte("k")); err == nil || err.Error() != "not found" {
		t.Errorf("unset number: %v", err)
	}
	must(t, s.Set([]byte("k"), []byte("one")))
	must(t, s.Set([]byte("k"), []byte("two")))
	must(t, s.Set([]byte("empty"), nil))
	must(t, s.SetUint64([]byte("n"), 1<<63+7))
	must(t, s.Close())
	s = open(t, path)
	if v, err := s.Get([]byte("k")); err != nil || string(v) != "two" {
		t.Errorf("k is %q, %v", v, err)
	}
	if v, err := s.Get([]byte("empty")); err != nil || len(v) != 0 {
		t.Errorf("empty is %q, %v", v, err)
	}
	if n, err := s.GetUint64([]byte("n")); err != nil || n != 1<<63+7 {
		t.Errorf("n is %d, %v", n, err)
	}
	if _, err := s.GetUint64([]byte("k")); !errors.Is(err, ErrCorruptLog) {
		t.Errorf("a text as a number: %v", err)
	}
}

// The layout of an entry and of a value is on users' disks.
func TestGoldenEntries(t *testing.T) {
	l := &raft.Log{Index: 258, Term: 3, Type: raft.LogConfiguration, Data: []byte("data"), Extensions: []byte("ext"),
		AppendedAt: time.Unix(0, 0x0102030405060708)}
	for _, tt := range []struct {
		log  *raft.Log
		want string
	}{
		{l, "8f7b6e4b7abd958a" + "0300000000000000" + "05" + "0807060504030201" + "04000000" + "64617461" + "657874"},
		{&raft.Log{Index: 1, Term: 1}, "6e5cc83c900fa244" + "0100000000000000" + "00" + "0000000000000000" + "00000000"},
	} {
		got := encodeLog(tt.log)
		if hex.EncodeToString(got) != tt.want {
			t.Errorf("entry %d is\n%x, want\n%s", tt.log.Index, got, tt.want)
		}
		var back raft.Log
		must(t, decodeLog(tt.log.Index, got, &back))
		if back.AppendedAt.IsZero() != tt.log.AppendedAt.IsZero() {
			t.Errorf("entry %d: appended at %v", tt.log.Index, back.AppendedAt)
		}
	}
}

func TestDecodeLogRefusesEveryBitAndLength(t *testing.T) {
	good := encodeLog(entry(12))
	var l raft.Log
	must(t, decodeLog(12, good, &l))
	if err := decodeLog(13, good, &l); !errors.Is(err, ErrCorruptLog) {
		t.Errorf("under another index: %v", err)
	}
	for n := range good {
		if err := decodeLog(12, good[:n], &l); !errors.Is(err, ErrCorruptLog) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	for i := range len(good) * 8 {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		if err := decodeLog(12, b, &l); !errors.Is(err, ErrCorruptLog) {
			t.Fatalf("bit %d flipped: %v", i, err)
		}
	}
	long := bytes.Clone(good) // a length beyond the entry under a checksum that is right
	binary.LittleEndian.PutUint32(long[25:], 1<<31)
	binary.LittleEndian.PutUint64(long, logSum(12, long[8:]))
	if err := decodeLog(12, long, &l); !errors.Is(err, ErrCorruptLog) || !strings.Contains(err.Error(), "entry 12") {
		t.Errorf("a length beyond the entry: %v", err)
	}
}

// put writes past the store, as rot does.
func put(t *testing.T, path string, bucket, k, v []byte) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	must(t, db.Update(func(tx *bolt.Tx) error {
		if v == nil {
			return tx.Bucket(bucket).Delete(k)
		}
		return tx.Bucket(bucket).Put(k, v)
	}))
	must(t, db.Close())
}

func TestOpenRefusesDamage(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(t *testing.T, path string)
		text string
	}{
		{"damaged entry", func(t *testing.T, path string) {
			b := encodeLog(entry(7))
			b[len(b)-1]++
			put(t, path, bucketLogs, indexKey(7), b)
		}, "entry 7: checksum does not match"},
		{"truncated entry", func(t *testing.T, path string) {
			put(t, path, bucketLogs, indexKey(7),
				encodeLog(entry(7))[:20])
		}, "entry 7"},
		{"an entry in another's place", func(t *testing.T, path string) {
			put(t, path, bucketLogs, indexKey(7),
				encodeLog(entry(8)))
		}, "entry 7"},
		{"a key that is no index", func(t *testing.T, path string) { put(t, path, bucketLogs, []byte("x"), []byte("y")) },
			"key 78"},
		{"damaged value", func(t *testing.T, path string) { put(t, path, bucketStable, []byte("CurrentTerm"), indexKey(8)) },
			`value of "CurrentTerm"`},
		{"no database", func(t *testing.T, path string) { must(t, os.WriteFile(path, make([]byte, 1<<16), 0o600)) },
			"invalid database"},
		{"half a file", func(t *testing.T, path string) {
			must(t, os.Truncate(path, boltfile.Size(path)/2))
		}, "bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "raft.db")
			fill(t, path)
			tt.do(t, path)
			s, err := openStore(path)
			if !errors.Is(err, ErrCorruptLog) || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(),
				"\n") ||
				!strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "from a backup") ||
				!strings.Contains(err.Error(), "coordinator member remove") {
				t.Errorf("opened as %v with %v, want %q", s, err, tt.text)
			}
		})
	}
}

// fill makes a store with 300 entries and a term.
func fill(t testing.TB, path string) {
	s, err := openStore(path)
	must(t, err)
	must(t, s.StoreLogs(entries(1, 300)))
	must(t, s.SetUint64([]byte("CurrentTerm"), 8))
	must(t, s.Close())
}

// A damaged file is refused, or what was damaged was not in use and all is as it was. It never crashes the process.
func TestDamagedFilesNeverCrash(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "raft.db")
	fill(t, path)
	whole, err := os.ReadFile(path)
	must(t, err)
	r := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for i := range 1000 {
		b := bytes.Clone(whole)
		at := r.IntN(len(b))
		switch i % 5 {
		case 0:
			b[at] ^= 1 << r.IntN(8)
		case 1:
			b = b[:at]
		case 2:
			clear(b[at&^4095 : at&^4095+4096]) // a lost page
		case 3:
			for k := at; k < min(at+r.IntN(64), len(b)); k++ {
				b[k] = byte(r.Uint32())
			}
		case 4: // the head of a page, where its kind and size are
			p := at &^ 4095
			b[p+r.IntN(16)] = byte(r.Uint32())
		}
		path := filepath.Join(dir, fmt.Sprintf("%d.db", i)) // bbolt keeps its lock on a file it has panicked over
		must(t, os.WriteFile(path, b, 0o600))
		s, err := openStore(path)
		must(t, os.Remove(path))
		if err != nil {
			if refused++; !errors.Is(err, ErrCorruptLog) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("damage %d: %q", i, err)
			}
			continue
		}
		if len(b) > 0 { // an empty file is a new one
			has(t, s, 301, func(i uint64) bool { return i >= 1 && i <= 300 })
			// Pages 0 and 1 say which transaction was the last, in turns. Where the newer one is damaged bbolt takes the
			// older, as it must after a crash in the middle of a write: the last transaction is gone, which nobody can see.
			undone := at < 2*4096
			if n, err := s.GetUint64([]byte("CurrentTerm")); (err != nil || n != 8) && !(undone && errors.Is(err, errNotFound)) {
				t.Fatalf("damage %d: term is %d, %v", i, n, err)
			}
		}
		must(t, s.Close())
	}
	if refused < 300 {
		t.Errorf("only %d of 1000 damaged files were refused", refused)
	}
	t.Logf("%d of 1000 refused, %d had damage in unused places", refused, 1000-refused)
}

// A process may end between making the file and its buckets.
func TestOpenStoreThatWasJustBegun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	must(t, db.Close())
	must(t, open(t, path).StoreLog(entry(1)))
}

func TestOpenStoreWithoutDirectory(t *testing.T) {
	_, err := openStore(filepath.Join(t.TempDir(), "none", "raft.db"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func BenchmarkStoreLogs(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "raft.db"))
			next := uint64(1)
			for b.Loop() {
				must(b, s.StoreLogs(entries(next, next+uint64(n)-1)))
				next += uint64(n)
			}
		})
	}
}
