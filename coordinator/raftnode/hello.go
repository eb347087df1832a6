package raftnode

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// A connection between two coordinators begins with a hello and its answer, so that raft only ever speaks to the node
// it means, of the cluster it means. Without that, a node whose directory was lost and that runs again at the old
// address would vote a second time in the old one's name, and one whose address went to another cluster would mix up
// both.
//
//	hello   version uint8 | kind uint8 | cluster | from: node | to: node, empty for any
//	answer  version uint8 | accepted uint8 | index uint64 big-endian | cluster | node | refusal
//
// Texts are a length, uint8, and so many bytes.

// Kinds of hello.
const (
	forRaft   = 1 // what follows is raft's
	forInvite = 2 // a node that waits to join a cluster now knows which; nothing follows
	forProbe  = 3 // who is there, and how far is it? Nothing follows
	forGone   = 4 // does your leader answer? Refused if none does; index is the log's last. Nothing follows
)

const (
	helloVersion = 1
	helloLimit   = 5 * time.Second // for a hello to come
)

// ErrRefused means that the coordinator at an address does not want the connection: it is not the one that was meant.
var ErrRefused = errors.New("refused")

type hello struct {
	kind              byte
	cluster, from, to string
}

type answer struct {
	accepted      bool
	index         uint64 // of the last entry it has applied
	cluster, node string
	refusal       string
}

// refused is a with a refusal.
func (a answer) refused(format string, args ...any) answer {
	a.accepted, a.refusal = false, fmt.Sprintf(format, args...)
	return a
}

func appendText(b []byte, s string) []byte {
	s = s[:min(len(s), 255)]
	return append(append(b, byte(len(s))), s...)
}

func (h hello) encode() []byte {
	b := []byte{helloVersion, h.kind}
	return appendText(appendText(appendText(b, h.cluster), h.from), h.to)
}

func (a answer) encode() []byte {
	b := []byte{helloVersion, 0}
	if a.accepted {
		b[1] = 1
	}
	b = binary.BigEndian.AppendUint64(b, a.index)
	return appendText(appendText(appendText(b, a.cluster), a.node), a.refusal)
}

// readTexts reads a fixed head and the texts behind it, and not a byte more.
func readTexts(r io.Reader, head []byte, texts ...*string) error {
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	if head[0] != helloVersion {
		return fmt.Errorf("it speaks version %d, this coordinator %d; run the same version everywhere", head[0], helloVersion)
	}
	for _, t := range texts {
		var n [1]byte
		if _, err := io.ReadFull(r, n[:]); err != nil {
			return err
		}
		b := make([]byte, n[0])
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		*t = string(b)
	}
	return nil
}

func readHello(r io.Reader) (h hello, err error) {
	var head [2]byte
	err = readTexts(r, head[:], &h.cluster, &h.from, &h.to)
	h.kind = head[1]
	return h, err
}

func readAnswer(r io.Reader) (a answer, err error) {
	var head [10]byte
	err = readTexts(r, head[:], &a.cluster, &a.node, &a.refusal)
	a.accepted, a.index = head[1] == 1, binary.BigEndian.Uint64(head[2:])
	return a, err
}

// greet says hello on a new connection and waits for the answer. The connection is closed unless it was accepted.
func greet(conn net.Conn, h hello, limit time.Duration) (a answer, err error) {
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return a, err
	}
	if _, err := conn.Write(h.encode()); err != nil {
		return a, fmt.Errorf("say hello: %w", err)
	}
	if a, err = readAnswer(conn); err != nil {
		return a, fmt.Errorf("no answer from a coordinator: %w", err)
	}
	if !a.accepted {
		return a, fmt.Errorf("%w: %s", ErrRefused, a.refusal)
	}
	if h.kind != forRaft { // the other side has ended it already
		return a, nil
	}
	return a, conn.SetDeadline(time.Time{})
}
