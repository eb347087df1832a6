package exchange

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"
)

// ErrFrame is wrapped by every refusal of a frame.
var ErrFrame = errors.New("bad frame")

// kind is what a frame is for.
type kind uint8

const (
	kindHello     kind = 1 // payload: exchangepb.Hello; first frame each way
	kindData      kind = 2 // a chunk of a message
	kindKeepalive kind = 3 // nothing to say, still there
	kindAbort     kind = 4 // payload: why the sender gives up
	kindBye       kind = 5 // the sender has sent all it ever will
	kindRing      kind = 6 // answer to an offer of shared memory; payload: why the sender cannot map it, or nothing;
	// where a landing is offered too: exchangepb.RingReply
	kindLanded kind = 7 // in shared memory only: a whole message, which is in the landing's slot of the same number
)

// ChunkBytes is the most a frame on a stream carries; longer messages are cut into chunks of this size.
const ChunkBytes = 1 << 20

// maxMessage bounds a message: far above any exchange, far below what would overflow.
const maxMessage = 1 << 40

const (
	frameMagic   = 0x4d524643 // "CFRM"
	frameVersion = 1
	headerBytes  = 72
)

// header comes before every payload, little-endian:
//
//	 0 magic    u32     4 version u8      5 kind u8        6 zero u16
//	 8 job      u64 xxh3 of the job's name
//	16 generation u64  24 step u64
//	32 exchange u32    36 zero u32
//	40 from replica u16, from column u16, to replica u16, to column u16
//	48 total    u64 bytes of the whole message
//	56 chunk    u32    60 length  u32 bytes of payload behind this header
//	64 checksum u64 xxh3 of bytes 0..63 and the payload; in shared memory of bytes 0..63 alone
type header struct {
	kind       kind
	job        uint64
	generation uint64
	tag        Tag
	from, to   Cell
	total      uint64
	chunk      uint32
	length     uint32
	checksum   uint64
}

// fence refuses a frame that does not belong on the link it came over.
func (h *header) fence(link header) error {
	if h.job == link.job && h.generation == link.generation && h.from == link.from && h.to == link.to {
		return nil
	}
	return fmt.Errorf("%w: of generation %d from cell %s on the link of generation %d from cell %s", ErrFrame,
		h.generation, h.from, link.generation, link.from)
}

// jobHash is how frames name a job.
func jobHash(name string) uint64 { return xxh3.HashString(name) }

// put encodes the header into b, checksum included.
func (h *header) put(b []byte, payload []byte) {
	h.length = uint32(len(payload))
	h.encode(b)
	h.checksum = checksum(b, payload)
	binary.LittleEndian.PutUint64(b[64:], h.checksum)
}

// putInMemory encodes the header of a chunk that travels through shared memory: there is no wire that could damage its
// payload, but whoever wakes up late could write where it has no business.
func (h *header) putInMemory(b []byte, length int) {
	h.length = uint32(length)
	h.encode(b)
	h.checksum = checksum(b)
	binary.LittleEndian.PutUint64(b[64:], h.checksum)
}

// encode encodes all but the checksum.
func (h *header) encode(b []byte) {
	le := binary.LittleEndian
	clear(b[:headerBytes])
	le.PutUint32(b[0:], frameMagic)
	b[4], b[5] = frameVersion, byte(h.kind)
	le.PutUint64(b[8:], h.job)
	le.PutUint64(b[16:], h.generation)
	le.PutUint64(b[24:], h.tag.Step)
	le.PutUint32(b[32:], h.tag.Exchange)
	le.PutUint16(b[40:], uint16(h.from.Replica))
	le.PutUint16(b[42:], uint16(h.from.Column))
	le.PutUint16(b[44:], uint16(h.to.Replica))
	le.PutUint16(b[46:], uint16(h.to.Column))
	le.PutUint64(b[48:], h.total)
	le.PutUint32(b[56:], h.chunk)
	le.PutUint32(b[60:], h.length)
}

// checksum is over the header but for its own place, and the payload's parts.
func checksum(b []byte, payload ...[]byte) uint64 {
	var x xxh3.Hasher
	x.Write(b[:64])
	for _, p := range payload {
		x.Write(p)
	}
	return x.Sum64()
}

// parseHeader decodes the header of a frame of up to `most` bytes and checks what it can without the payload.
func parseHeader(b []byte, most uint32) (header, error) {
	le := binary.LittleEndian
	if len(b) < headerBytes {
		return header{}, fmt.Errorf("%w: %d bytes are no frame", ErrFrame, len(b))
	}
	if le.Uint32(b) != frameMagic || le.Uint16(b[6:]) != 0 || le.Uint32(b[36:]) != 0 {
		return header{}, fmt.Errorf("%w: wrong magic or reserved bytes", ErrFrame)
	}
	if b[4] != frameVersion {
		return header{}, fmt.Errorf("%w: version %d, this worker speaks %d", ErrFrame, b[4], frameVersion)
	}
	cell := func(at int) Cell {
		return Cell{Replica: int(le.Uint16(b[at:])), Column: int(le.Uint16(b[at+2:]))}
	}
	h := header{kind: kind(b[5]), job: le.Uint64(b[8:]), generation: le.Uint64(b[16:]),
		tag: Tag{Step: le.Uint64(b[24:]), Exchange: le.Uint32(b[32:])}, from: cell(40), to: cell(44),
		total: le.Uint64(b[48:]), chunk: le.Uint32(b[56:]), length: le.Uint32(b[60:]), checksum: le.Uint64(b[64:])}
	if h.kind < kindHello || h.kind > kindLanded {
		return header{}, fmt.Errorf("%w: kind %d", ErrFrame, h.kind)
	}
	if h.length > most || h.total > maxMessage {
		return header{}, fmt.Errorf("%w: chunk of %d bytes in a message of %d", ErrFrame, h.length, h.total)
	}
	return h, nil
}
