package exchange

import (
	"fmt"
	"sync"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// codecName is the content subtype of the raw frames.
const codecName = "colonnade-frame"

func init() { encoding.RegisterCodecV2(codec{}) }

// outgoing is a frame to send. payload is copied into pooled memory before Marshal returns, so it may be reused then.
type outgoing struct {
	header
	payload []byte
}

// incoming is a frame received. free gives its memory back.
type incoming struct {
	header
	payload mem.BufferSlice
}

func (f *incoming) free() { f.payload.Free() }

// codec moves frames without protobuf: header and payload as they are.
type codec struct{}

func (codec) Name() string { return codecName }

// Marshal lays the header and a copy of the payload into one pooled buffer.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*outgoing)
	if !ok {
		return nil, fmt.Errorf("%w: cannot send a %T", ErrFrame, v)
	}
	b := framePool.Get(headerBytes + len(f.payload))
	copy((*b)[headerBytes:], f.payload)
	f.put(*b, (*b)[headerBytes:])
	return mem.BufferSlice{mem.NewBuffer(b, framePool)}, nil
}

// framePool holds memory for frames of any size up to the largest. Unlike gRPC's own it does not clear what will be
// written over, which would cost as much as the copy does.
var framePool = &frameMemory{}

type frameMemory struct{ whole, small sync.Pool }

// smallFrame is enough for keepalives, verdicts and the like.
const smallFrame = 4 << 10

// Get returns memory of that length, with anything in it.
func (p *frameMemory) Get(length int) *[]byte {
	pool, size := &p.small, smallFrame
	if length > smallFrame {
		pool, size = &p.whole, max(length, headerBytes+ChunkBytes)
	}
	if b, ok := pool.Get().(*[]byte); ok && cap(*b) >= length {
		*b = (*b)[:length]
		return b
	}
	b := make([]byte, length, size)
	return &b
}

// Put takes memory back.
func (p *frameMemory) Put(b *[]byte) {
	if cap(*b) > smallFrame {
		p.whole.Put(b)
		return
	}
	p.small.Put(b)
}

// Unmarshal checks a frame and keeps its payload where it was received.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*incoming)
	if !ok {
		return fmt.Errorf("%w: cannot receive a %T", ErrFrame, v)
	}
	if data.Len() > headerBytes+ChunkBytes {
		return fmt.Errorf("%w: %d bytes", ErrFrame, data.Len())
	}
	var head [headerBytes]byte
	if data.CopyTo(head[:min(headerBytes, data.Len())]) < headerBytes {
		return fmt.Errorf("%w: %d bytes are no frame", ErrFrame, data.Len())
	}
	h, err := parseHeader(head[:], ChunkBytes)
	if err != nil {
		return err
	}
	if int(h.length) != data.Len()-headerBytes {
		return fmt.Errorf("%w: %d bytes of payload, the header says %d", ErrFrame, data.Len()-headerBytes, h.length)
	}
	var parts [][]byte
	skip := headerBytes
	for _, b := range data {
		p := b.ReadOnlyData()
		n := min(skip, len(p))
		skip -= n
		parts = append(parts, p[n:])
	}
	if checksum(head[:], parts...) != h.checksum {
		return fmt.Errorf("%w: checksum does not match", ErrFrame)
	}
	data.Ref()
	f.header, f.payload = h, data
	return nil
}

// text returns the payload of a control frame and frees the frame.
func (f *incoming) text() []byte {
	b := make([]byte, f.length)
	f.copyPayload(b)
	f.free()
	return b
}

// copyPayload copies the frame's payload to dst, which has its length.
func (f *incoming) copyPayload(dst []byte) {
	skip := headerBytes
	for _, b := range f.payload {
		p := b.ReadOnlyData()
		n := min(skip, len(p))
		skip -= n
		dst = dst[copy(dst, p[n:]):]
	}
}
