package exchange

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// errRing means that what lies in a ring cannot have been written by a peer that works.
var errRing = errors.New("shared memory is damaged")

// Layout of a ring, little-endian. Every word that one end waits on has a cache line of its own.
//
//	   0 magic u64, 8 slots u32, 12 zero u32, 16 bytes a slot u64, 24 nonce, 40 proof: the nonce with every bit flipped
//	  64 written u32: chunks written since the start, mod 2^32      128 the writer waits u32
//	 192 taken   u32: chunks taken since the start, mod 2^32        256 the reader waits u32
//	4096 slot 0: frame header, from byte 128 on the payload; then slot 1, at a whole page
const (
	ringMagic   = 0x31474e49_524e4c43 // "CLNRING1"
	ringSlots   = 2
	nonceBytes  = 16
	atSlots     = 8
	atSlotBytes = 16
	atNonce     = 24
	atProof     = 40
	atWritten   = 64
	atWriter    = 128
	atTaken     = 192
	atReader    = 256
	ringPage    = 4096
	slotHeader  = 128
)

// ringRecheck bounds a sleep. Whoever ends a wait also wakes it, but may do so just before the sleep begins.
const ringRecheck = 50 * time.Millisecond

// slotStride is the distance between slots, and ringSize the bytes of a whole ring.
func slotStride(slotBytes int) int {
	return (slotHeader + slotBytes + ringPage - 1) / ringPage * ringPage
}
func ringSize(slotBytes int) int { return ringPage + ringSlots*slotStride(slotBytes) }

// ring is one end of a one-way link through shared memory: two slots, each for a frame. Only one goroutine at a time
// writes or takes; any may poke and close. Nothing in the memory is believed: the other end may be mad, but all it can
// do is to break the link.
type ring struct {
	path      string   // of the file, until it is unlinked
	file      *os.File // at the end that made it, until it is unlinked: holds the lock that says it is in use
	slotBytes int
	recheck   time.Duration // bounds a sleep

	mu     sync.RWMutex // read: mem is in use; write: it is unmapped
	mem    []byte       // nil once closed
	closed atomic.Bool

	written, taken, writer, reader *atomic.Uint32 // in mem
	sleeps                         *atomic.Uint32 // the one of them that this end waits on
	count                          uint32         // chunks this end has written, or taken

	hold *os.File       // at the end that opened it: holds the lock that says that it may write; see letGo
	land *landing       // device memory behind it, or nil
	over func(*landing) // what is done with it when the ring is closed
}

func (r *ring) word(at int) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&r.mem[at])) }

// attach finds the words in a mapping.
func (r *ring) attach(mem []byte, reads bool) {
	r.mem, r.recheck = mem, ringRecheck
	r.written, r.writer = r.word(atWritten), r.word(atWriter)
	r.taken, r.reader = r.word(atTaken), r.word(atReader)
	r.sleeps = r.taken
	if reads {
		r.sleeps = r.written
	}
}

// initialise writes the head of a new ring.
func (r *ring) initialise(nonce []byte) {
	le := binary.LittleEndian
	le.PutUint64(r.mem, ringMagic)
	le.PutUint32(r.mem[atSlots:], ringSlots)
	le.PutUint64(r.mem[atSlotBytes:], uint64(r.slotBytes))
	copy(r.mem[atNonce:], nonce)
}

// check says whether a mapping is the ring with this nonce.
func (r *ring) check(nonce []byte) error {
	le := binary.LittleEndian
	if le.Uint64(r.mem) != ringMagic || le.Uint32(r.mem[atSlots:]) != ringSlots ||
		le.Uint64(r.mem[atSlotBytes:]) != uint64(r.slotBytes) {
		return fmt.Errorf("%s is no ring of %d slots of %d bytes", r.path, ringSlots, r.slotBytes)
	}
	if string(r.mem[atNonce:atNonce+nonceBytes]) != string(nonce) {
		return fmt.Errorf("%s is another file here than there", r.path)
	}
	return nil
}

// prove writes what the end that made the ring will look for, and proven looks for it.
func (r *ring) prove() {
	for i := range nonceBytes {
		r.mem[atProof+i] = ^r.mem[atNonce+i]
	}
}

func (r *ring) proven(nonce []byte) bool {
	if !r.enter() {
		return false
	}
	defer r.exit()
	for i, b := range nonce {
		if r.mem[atProof+i] != ^b {
			return false
		}
	}
	return true
}

// enter keeps the ring mapped until exit; it reports false if it is closed.
func (r *ring) enter() bool {
	r.mu.RLock()
	if r.mem == nil || r.closed.Load() {
		r.mu.RUnlock()
		return false
	}
	return true
}

func (r *ring) exit() { r.mu.RUnlock() }

// poke ends this end's sleep, or has it look again. It must not be called between enter and exit.
func (r *ring) poke() {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.mem != nil {
		futexWake(r.sleeps)
	}
}

// close ends this end's waits and unmaps the ring once nobody uses it.
func (r *ring) close() {
	r.closed.Store(true)
	r.poke()
	r.unlink()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mem == nil {
		return
	}
	unmap(r.mem)
	r.mem = nil
	if r.land != nil {
		r.over(r.land)
	}
	if r.hold != nil { // the last: this end writes nothing any more
		r.hold.Close()
	}
}

// nextSlot is the number of the slot that is written or taken next. The caller has entered.
func (r *ring) nextSlot() int { return int(r.count % ringSlots) }

// slot is the memory of a chunk's slot.
func (r *ring) slot(count uint32) []byte {
	stride := slotStride(r.slotBytes)
	at := ringPage + int(count%ringSlots)*stride
	return r.mem[at : at+stride : at+stride]
}

// room says how many chunks can be written now. The caller has entered.
func (r *ring) room() (int, error) {
	used := r.count - r.taken.Load()
	if used > ringSlots {
		return 0, fmt.Errorf("%w: %d of %d chunks are not taken", errRing, used, ringSlots)
	}
	return int(ringSlots - used), nil
}

// put writes a chunk of up to slotBytes; there is room. The caller has entered.
func (r *ring) put(h *header, payload []byte) {
	s := r.slot(r.count)
	h.putInMemory(s, len(payload))
	copy(s[slotHeader:], payload)
	r.count++
	r.written.Store(r.count)
	if r.reader.Swap(0) != 0 {
		futexWake(r.written)
	}
}

// next returns the oldest chunk that has not been taken; its payload is valid until take. The caller has entered.
func (r *ring) next() (h header, payload []byte, ok bool, err error) {
	switch n := r.written.Load() - r.count; {
	case n == 0:
		return header{}, nil, false, nil
	case n > ringSlots:
		return header{}, nil, false, fmt.Errorf("%w: %d chunks in %d slots", errRing, n, ringSlots)
	}
	s := r.slot(r.count)
	var head [headerBytes]byte // a copy: what has been checked cannot change any more
	copy(head[:], s)
	if h, err = parseHeader(head[:], uint32(r.slotBytes)); err != nil {
		return header{}, nil, false, fmt.Errorf("%w: %w", errRing, err)
	}
	landed := h.kind == kindLanded && r.land != nil && h.length == 0
	if h.kind != kindData && !landed || h.checksum != checksum(head[:]) {
		return header{}, nil, false, fmt.Errorf("%w: no header of a chunk", errRing)
	}
	return h, s[slotHeader : slotHeader+int(h.length)], true, nil
}

// take gives the oldest chunk's slot back. The caller has entered.
func (r *ring) take() {
	r.count++
	r.taken.Store(r.count)
	if r.writer.Swap(0) != 0 {
		futexWake(r.taken)
	}
}

// waitForChunk sleeps while there is nothing to take, waitForRoom while there is no room: until the other end moves on,
// a poke, or the bound. The flag is set before the last look and looked at after a move, so that one of the two sees
// the other. The caller has entered.
func (r *ring) waitForChunk() { r.sleepOn(r.written, r.reader, r.count) }
func (r *ring) waitForRoom()  { r.sleepOn(r.taken, r.writer, r.count-ringSlots) }

func (r *ring) sleepOn(word, waits *atomic.Uint32, seen uint32) {
	waits.Store(1)
	if word.Load() == seen {
		futexWait(word, seen, r.recheck)
	}
}
