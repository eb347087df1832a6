package buddy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"colonnade/proto/exchangepb"
)

// Copies are handed over on connections of their own, at the address where gRPC listens. gRPC copies every byte seven
// times and on threads that compete with training; here a byte goes from the sender's copy into the kernel and from
// there to where it stays, on threads of low priority.
//
//	sender                                                  receiver
//	mark
//	┌ length, CopyHeader (protobuf) ───────────────────────▶ begins a copy
//	│ ◀──────────────────────────────────── status of that
//	│ for every piece: xxh3 of it and its place, bytes ────▶ checks it
//	└ ◀─────────────── status: the copy is whole and kept
//	and so on: the connection stays for the next copy
//
// Numbers are little-endian. A status is a gRPC code, the length of a message, and the message.

// mark is the first byte of such a connection: gRPC's begin with a letter, TLS with 22.
const mark = 0xC6

// Bounds of what the other side may send.
const (
	headerMost  = 64 << 10
	messageMost = 4 << 10
)

// Door is the credentials of the gRPC server at whose address copies arrive: it takes their connections out and serves
// them. Other connections are gRPC's. Close it after the server.
type Door struct {
	credentials.TransportCredentials
	store *Store

	mu      sync.Mutex
	closed  bool
	conns   map[net.Conn]bool
	serving sync.WaitGroup
}

// NewDoor makes the door to a store.
func NewDoor(store *Store) *Door {
	return &Door{TransportCredentials: insecure.NewCredentials(), store: store, conns: map[net.Conn]bool{}}
}

// Clone implements credentials.TransportCredentials.
func (d *Door) Clone() credentials.TransportCredentials { return d }

// begun is a connection whose first byte has been read.
type begun struct {
	net.Conn
	first []byte
}

func (c *begun) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// ServerHandshake tells the connections apart; gRPC calls it on a goroutine of each, with a deadline.
func (d *Door) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(c, first); err != nil {
		return nil, nil, err
	}
	if first[0] != mark {
		return d.TransportCredentials.ServerHandshake(&begun{c, first})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, nil, errors.New("the door is closed")
	}
	d.conns[c] = true
	d.serving.Go(func() {
		d.serve(c)
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.conns, c)
		c.Close()
	})
	return nil, nil, credentials.ErrConnDispatched
}

// Close ends all connections and waits for their goroutines.
func (d *Door) Close() {
	d.mu.Lock()
	d.closed = true
	for c := range d.conns {
		c.Close()
	}
	d.mu.Unlock()
	d.serving.Wait()
}

// serve takes copies in until the connection ends.
func (d *Door) serve(c net.Conn) {
	yieldToTraining()
	for {
		if err := c.SetDeadline(time.Time{}); err != nil { // the next copy comes when it comes
			return
		}
		h, err := readHeader(c)
		if err != nil {
			return
		}
		if err := d.take(c, h); err != nil {
			return
		}
	}
}

// take takes a copy in. A refusal goes to the sender; an error ends the connection.
func (d *Door) take(c net.Conn, h *exchangepb.CopyHeader) error {
	key, err := keyIn(h)
	var a *Arrival
	if err == nil {
		a, err = d.store.Begin(key, h.Generation, h.Step, h.Keep)
	}
	if lost := writeStatus(c, err); lost != nil || err != nil {
		if a != nil {
			a.Abort()
		}
		return lost
	}
	room := a.Room()
	var bad error
	for at := 0; at < len(room); at += pieceBytes {
		sum, err := readPiece(c, room[at:min(at+pieceBytes, len(room))])
		if err != nil {
			a.Abort()
			return err
		}
		if bad == nil { // what comes behind a bad piece is read, or the sender would not read why
			bad = a.Add(sum)
		}
	}
	if bad == nil {
		bad = a.Done()
	} else {
		a.Abort()
	}
	return writeStatus(c, bad)
}

// Yielding calls f on a thread of low priority and returns when it has ended.
func Yielding(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		yieldToTraining()
		f()
	}()
	<-done
}

// yieldToTraining makes the goroutine's thread its own, of low priority: it takes what training leaves, which waits now
// and then, and a tenth of a processor where nothing is left. It asks for short turns, since a cell that wakes while it
// has one waits for its end (Linux 6.12 and newer; others give the usual 3 ms). The thread ends with the goroutine,
// since its priority cannot be raised again.
func yieldToTraining() {
	runtime.LockOSThread()
	const low, turn = 10, 300 * time.Microsecond
	short := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: low, Runtime: uint64(turn)}
	if unix.SchedSetAttr(0, &short, 0) != nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, 0, low) // Linux: of this thread; without, all works the same
	}
}

func writeHeader(c net.Conn, h *exchangepb.CopyHeader) error {
	b := make([]byte, 4)
	b, err := proto.MarshalOptions{}.MarshalAppend(b, h)
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
	return writeAll(c, b)
}

func readHeader(c net.Conn) (*exchangepb.CopyHeader, error) {
	b, err := readSized(c, headerMost)
	if err != nil {
		return nil, err
	}
	h := &exchangepb.CopyHeader{}
	if err := proto.Unmarshal(b, h); err != nil {
		return nil, err
	}
	return h, nil
}

// writeStatus tells how something has ended.
func writeStatus(c net.Conn, err error) error {
	s := status.Convert(refusalOf(err))
	text := s.Message()[:min(len(s.Message()), messageMost)]
	b := binary.LittleEndian.AppendUint32([]byte{byte(s.Code())}, uint32(len(text)))
	return writeAll(c, append(b, text...))
}

// readStatus reads how something has ended: said is the other side's word, err of the connection.
func readStatus(c net.Conn) (said, err error) {
	code := make([]byte, 1)
	if err := readAll(c, code); err != nil {
		return nil, err
	}
	text, err := readSized(c, messageMost)
	if err != nil {
		return nil, err
	}
	return status.Error(codes.Code(code[0]), string(text)), nil // nil for OK
}

func writePiece(c net.Conn, sum uint64, b []byte) error {
	if err := writeAll(c, binary.LittleEndian.AppendUint64(nil, sum)); err != nil {
		return err
	}
	return writeAll(c, b)
}

func readPiece(c net.Conn, into []byte) (sum uint64, err error) {
	var b [8]byte
	if err := readAll(c, b[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b[:]), readAll(c, into)
}

func readSized(c net.Conn, most uint32) ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(c, n[:]); err != nil { // of a header: whenever it comes
		return nil, err
	}
	size := binary.LittleEndian.Uint32(n[:])
	if size > most {
		return nil, fmt.Errorf("%w: %d bytes of a header, %d are the most", ErrCorrupt, size, most)
	}
	b := make([]byte, size)
	return b, readAll(c, b)
}

// readAll and writeAll move all of b, which is a piece at most, or fail when the other side is silent for too long.
func readAll(c net.Conn, b []byte) error {
	if err := c.SetReadDeadline(time.Now().Add(Silence)); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
}

func writeAll(c net.Conn, b []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(Silence)); err != nil {
		return err
	}
	_, err := c.Write(b)
	return err
}
