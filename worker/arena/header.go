package arena

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/zeebo/xxh3"
)

// Key is what an arena is of. Only a cell of the very same key can use what it holds.
type Key struct {
	Cluster         string // that the job is of: names of jobs mean nothing beyond it
	Job             string
	Replica, Column int
	Identity        [32]byte // of the job: all that reaches a weight
	Plan            [32]byte
	Numerics        string
	Layout          [32]byte // of what lies in a half, and where
	HalfBytes       int      // a multiple of PageBytes
}

// PageBytes is what a half is a multiple of.
const PageBytes = headerBytes

// The header is one page in front of the halves, numbers little-endian. What never changes comes first, with a checksum
// over it. Behind it, each on a cache line of its own: two records of who has the arena, written in turn so that one of
// them is whole at any instant, and four words that change with every step.
const (
	headerBytes = 4096
	lineBytes   = 64

	magic   = "COLARENA"
	version = 1

	offVersion  = 8
	offHalf     = 16 // bytes of a half
	offReplica  = 24
	offColumn   = 28
	offIdentity = 32
	offPlan     = 64
	offLayout   = 96
	offText     = 128 // cluster, job, numerics, boot: each a uint16 of its length and its bytes
	offSum      = 3000
	textBytes   = offSum - offText

	offOwner = 3072 // two records
	offStep  = 3328 // two words: the step a half holds, sealed; 0: none
	offBegun = 3584 // two words: how often writing a half was begun
)

// encode writes the part that never changes. boot names the running kernel: after a crash of the machine a file on disk
// may have a newer step word than state.
func (k *Key) encode(page []byte, boot string) error {
	text := [][]byte{[]byte(k.Cluster), []byte(k.Job), []byte(k.Numerics), []byte(boot)}
	need := 0
	for _, t := range text {
		need += 2 + len(t)
	}
	if need > textBytes {
		return fmt.Errorf("names of %d bytes do not fit into an arena's header of %d", need, textBytes)
	}
	copy(page, magic)
	binary.LittleEndian.PutUint32(page[offVersion:], version)
	binary.LittleEndian.PutUint64(page[offHalf:], uint64(k.HalfBytes))
	binary.LittleEndian.PutUint32(page[offReplica:], uint32(k.Replica))
	binary.LittleEndian.PutUint32(page[offColumn:], uint32(k.Column))
	copy(page[offIdentity:], k.Identity[:])
	copy(page[offPlan:], k.Plan[:])
	copy(page[offLayout:], k.Layout[:])
	at := offText
	for _, t := range text {
		binary.LittleEndian.PutUint16(page[at:], uint16(len(t)))
		at += 2 + copy(page[at+2:], t)
	}
	binary.LittleEndian.PutUint64(page[offSum:], xxh3.Hash(page[:offSum]))
	return nil
}

// decode reads the part that never changes and checks it.
func decode(page []byte, boot string) (k Key, err error) {
	switch {
	case len(page) < headerBytes || string(page[:len(magic)]) != magic:
		return k, fmt.Errorf("%w: it does not begin like one", ErrHeader)
	case binary.LittleEndian.Uint64(page[offSum:]) != xxh3.Hash(page[:offSum]):
		return k, fmt.Errorf("%w: its header is damaged", ErrHeader)
	case binary.LittleEndian.Uint32(page[offVersion:]) != version:
		return k, fmt.Errorf("%w: it is of version %d, this program knows %d", ErrHeader,
			binary.LittleEndian.Uint32(page[offVersion:]), version)
	}
	k.HalfBytes = int(binary.LittleEndian.Uint64(page[offHalf:]))
	k.Replica = int(binary.LittleEndian.Uint32(page[offReplica:]))
	k.Column = int(binary.LittleEndian.Uint32(page[offColumn:]))
	copy(k.Identity[:], page[offIdentity:])
	copy(k.Plan[:], page[offPlan:])
	copy(k.Layout[:], page[offLayout:])
	at := offText
	var then string
	for _, t := range []*string{&k.Cluster, &k.Job, &k.Numerics, &then} {
		n := int(binary.LittleEndian.Uint16(page[at:]))
		if at+2+n > offSum {
			return k, fmt.Errorf("%w: names do not fit", ErrHeader)
		}
		*t = string(page[at+2 : at+2+n])
		at += 2 + n
	}
	if then != boot {
		return k, fmt.Errorf("%w: it is of before the machine was started", ErrHeader)
	}
	if k.HalfBytes <= 0 || k.HalfBytes%headerBytes != 0 {
		return k, fmt.Errorf("%w: halves of %d bytes", ErrHeader, k.HalfBytes)
	}
	return k, nil
}

// Differs says how another key is not this one, in words, or nothing.
func (k *Key) Differs(o *Key) string { return k.differs(o) }

// differs says how another key is not this one, in words, or nothing.
func (k *Key) differs(o *Key) string {
	switch {
	case k.Cluster != o.Cluster || k.Job != o.Job || k.Replica != o.Replica || k.Column != o.Column:
		return "it is another cell's"
	case k.Identity != o.Identity:
		return "the job of this name was another one"
	case k.Numerics != o.Numerics:
		return fmt.Sprintf("it was computed under %s, this worker computes under %s", k.Numerics, o.Numerics)
	case k.Plan != o.Plan:
		return "it is of another plan"
	case k.Layout != o.Layout || k.HalfBytes != o.HalfBytes:
		return "its tensors lie otherwise"
	}
	return ""
}

// size is that of the whole file.
func (k *Key) size() int { return headerBytes + 2*k.HalfBytes }

// owner is who has an arena, and in which generation of its job.
type owner struct {
	turn       uint64 // one more with each owner
	generation uint64
	pid, start uint64 // of the process, and when it started, in the kernel's ticks since boot
}

const ownerBytes = 40

func (o owner) encode(dst []byte) {
	for i, v := range []uint64{o.turn, o.generation, o.pid, o.start} {
		binary.LittleEndian.PutUint64(dst[8*i:], v)
	}
	binary.LittleEndian.PutUint64(dst[32:], xxh3.Hash(dst[:32]))
}

// readOwner returns the newest sound record, of which there is one at any instant.
func readOwner(page []byte) (newest owner, err error) {
	found := false
	for i := range 2 {
		b := page[offOwner+i*lineBytes:][:ownerBytes]
		o := owner{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:]),
			binary.LittleEndian.Uint64(b[24:])}
		if binary.LittleEndian.Uint64(b[32:]) == xxh3.Hash(b[:32]) && o.turn > 0 && o.turn >= newest.turn {
			newest, found = o, true
		}
	}
	if !found {
		return owner{}, fmt.Errorf("%w: it has no sound record of its owner", ErrHeader)
	}
	return newest, nil
}

// writeOwner puts a record in the place of the older one.
func writeOwner(page []byte, o owner) {
	o.encode(page[offOwner+int(o.turn%2)*lineBytes:][:ownerBytes])
}

// A step is sealed with 16 bits of a hash over it and its half, so that a damaged word holds no step. The rest is the
// step plus one: more than any job has.
const stepBits = 48

func sealStep(half int, step uint64) uint64 {
	n := step + 1
	return n | seal(half, n)<<stepBits
}

func seal(half int, n uint64) uint64 {
	b := binary.LittleEndian.AppendUint64([]byte{byte(half)}, n)
	return xxh3.Hash(b) >> stepBits
}

func openStep(half int, word uint64) (step uint64, ok bool) {
	n := word & (1<<stepBits - 1)
	if n == 0 || word>>stepBits != seal(half, n) {
		return 0, false
	}
	return n - 1, true
}

// heldIn are the steps that a page says are held, the newest first.
func heldIn(page []byte) (steps []uint64) {
	for i := range 2 {
		w := (*atomic.Uint64)(unsafe.Pointer(&page[offStep+i*lineBytes])).Load()
		if step, ok := openStep(i, w); ok {
			steps = append(steps, step)
		}
	}
	slices.SortFunc(steps, func(a, b uint64) int { return -cmpUint(a, b) })
	return steps
}

func cmpUint(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Layout is the digest of what lies in a half: names, shapes, layouts and places, in order.
func Layout(parts []Part) [32]byte {
	h := sha256.New()
	var b bytes.Buffer
	for _, p := range parts {
		b.Reset()
		fmt.Fprintf(&b, "%q %v %q %d %d\n", p.Name, p.Shape, p.Layout, p.Offset, p.Bytes)
		h.Write(b.Bytes())
	}
	return [32]byte(h.Sum(nil))
}

// Part is one tensor of a half.
type Part struct {
	Name          string
	Shape         []int
	Layout        string
	Offset, Bytes int
}
