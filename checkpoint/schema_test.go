package checkpoint

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
)

// drawn reads the drawing in schema.go: a path for each line, values with a colon behind.
func drawn(t *testing.T) (paths []string) {
	t.Helper()
	source, err := os.ReadFile("schema.go")
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`^//\t( *)([a-z]+|<[a-z]+)(, uint32 big-endian from 0>)?(:?)( .*)?$`)
	var above []string
	for line := range strings.Lines(string(source)) {
		m := key.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue
		}
		name := m[2]
		if m[3] != "" {
			name += ">"
		}
		above = append(above[:len(m[1])/2], name)
		paths = append(paths, strings.Join(above, "/")+m[4])
	}
	return paths
}

// found walks a file and returns its paths the way the drawing has them, numbered keys once.
func found(t *testing.T, path string) (paths []string) {
	t.Helper()
	db, err := bolt.Open(path, 0o444, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	numbered := map[string]string{"tensors": "<tensor>", "tensors/<tensor>/chunks": "<chunk>",
		"tensors/<tensor>/sums": "<chunk>"}
	var walk func(at string, b *bolt.Bucket) error
	walk = func(at string, b *bolt.Bucket) error {
		next := uint32(0)
		return b.ForEach(func(k, v []byte) error {
			name := string(k)
			if n, ok := numbered[at]; ok {
				if len(k) != 4 || binary.BigEndian.Uint32(k) != next {
					t.Errorf("%s: key %x, want number %d", at, k, next)
				}
				next++
				name = n
			}
			p := strings.TrimPrefix(at+"/"+name, "/")
			if v == nil {
				if !slices.Contains(paths, p) {
					paths = append(paths, p)
				}
				return walk(p, b.Bucket(k))
			}
			if p == "tensors/<tensor>/chunks/<chunk>" && len(v) > 1<<20 {
				t.Errorf("a chunk of %d bytes", len(v))
			}
			if !slices.Contains(paths, p+":") {
				paths = append(paths, p+":")
			}
			return nil
		})
	}
	err = db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			paths = append(paths, string(name))
			return walk(string(name), b)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestDrawingIsTheFile(t *testing.T) {
	m, tensors := sample()
	_, path, _ := write(t, m, tensors)
	want, got := drawn(t), found(t, path)
	if len(want) < 12 {
		t.Fatalf("the drawing has only %q", want)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the drawing in schema.go is not the file (-drawn +file):\n%s", diff)
	}
}

var update = flag.Bool("update", false, "write the golden file anew, for a new format version only")

// golden is the state in testdata's file of the present version.
func golden() (Meta, []Tensor) {
	m := Meta{Job: "golden", Generation: 3, Step: 12345, Replica: 1, Column: 2, PlanDigest: [32]byte{9, 8, 7},
		Numerics: "test/1"}
	return m, []Tensor{{Name: "conv1/w", Shape: []int{2, 3}, Data: []float32{1, -2.5, 3e-8, 4e20, 0, -1}},
		{Name: "conv1/b", Shape: []int{2}, Data: []float32{0.25, 7}}}
}

// TestGoldenFile reads what a program of this version wrote once. A file that can no longer be read is someone's work.
func TestGoldenFile(t *testing.T) {
	m, tensors := golden()
	path := filepath.Join("testdata", fmt.Sprintf("v%d.ckpt", Version))
	if *update {
		_, made, _ := write(t, m, tensors)
		b, err := os.ReadFile(made)
		if err == nil {
			err = os.WriteFile(path, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := read(path, Want{Meta: m})
	if err != nil {
		t.Fatal(err)
	}
	if !same(got, tensors) {
		t.Errorf("the golden file holds %v", got)
	}
	meta, info, err := Verify(context.Background(), path, Want{Meta: m})
	if err != nil || !reflect.DeepEqual(meta, m) || info.Digest != Digest(tensors) {
		t.Errorf("verify gives %+v, %+v, %v", meta, info, err)
	}
}

// TestAnotherVersionIsRefused writes a version that does not exist yet.
func TestAnotherVersionIsRefused(t *testing.T) {
	m, tensors := golden()
	_, path, _ := write(t, m, tensors)
	alter(t, path, func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keyVersion, binary.LittleEndian.AppendUint32(nil, Version+1))
	})
	_, err := read(path, Want{Meta: m})
	refused(t, path, err, ErrVersion)
}

// TestLiesInsideAreRefused changes what the database says and leaves the database whole, as no disk would.
func TestLiesInsideAreRefused(t *testing.T) {
	first := func(tx *bolt.Tx) *bolt.Bucket { return tx.Bucket(bucketTensors).Bucket(key(0)) }
	for name, lie := range map[string]func(tx *bolt.Tx) error{
		"no digest":      func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Delete(keyDigest) },
		"another digest": func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyDigest, make([]byte, 32)) },
		"no header":      func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Delete(keyHeader) },
		"no version":     func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Delete(keyVersion) },
		"no meta":        func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketMeta) },
		"no tensors":     func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketTensors) },
		"a tensor less":  func(tx *bolt.Tx) error { return tx.Bucket(bucketTensors).DeleteBucket(key(1)) },
		"another name":   func(tx *bolt.Tx) error { return first(tx).Put(keyName, []byte("conv1/x")) },
		"another shape":  func(tx *bolt.Tx) error { return first(tx).Put(keyShape, encodeShape([]int{3, 2})) },
		"a huge shape":   func(tx *bolt.Tx) error { return first(tx).Put(keyShape, encodeShape([]int{1 << 30, 2})) },
		"an absurd shape": func(tx *bolt.Tx) error {
			return first(tx).Put(keyShape, encodeShape([]int{1 << 31, 1 << 31, 1 << 31}))
		},
		"no shape":      func(tx *bolt.Tx) error { return first(tx).Put(keyShape, encodeShape([]int{0})) },
		"another value": func(tx *bolt.Tx) error { return first(tx).Bucket(bucketChunks).Put(key(0), make([]byte, 24)) },
		"a short chunk": func(tx *bolt.Tx) error { return first(tx).Bucket(bucketChunks).Put(key(0), make([]byte, 20)) },
		"no chunk":      func(tx *bolt.Tx) error { return first(tx).Bucket(bucketChunks).Delete(key(0)) },
		"no sums":       func(tx *bolt.Tx) error { return first(tx).DeleteBucket(bucketSums) },
	} {
		t.Run(name, func(t *testing.T) {
			m, tensors := golden()
			_, path, _ := write(t, m, tensors)
			alter(t, path, lie)
			_, err := read(path, Want{Meta: m})
			refused(t, path, err, ErrCorrupt)
		})
	}
}

func alter(t *testing.T, path string, f func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o644, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(f); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
