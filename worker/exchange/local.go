package exchange

import (
	"context"
	"fmt"
	"sync"
)

// localMessages bounds what waits between two cells of one worker: in lock step they are a message or two apart.
const localMessages = 16

// localLink hands messages to another cell of the same worker. A receiver that waits gets the sender's bytes straight
// into its own memory. Else they are copied once more, because they are the sender's again when send returns: to wait
// for the receiver instead would have two cells that send to each other wait for ever.
type localLink struct {
	m    *Membership
	from Cell

	mu     sync.Mutex
	queue  []localMessage // empty while a receiver waits
	posted *posted
	spare  [][]byte      // memory of messages that were taken
	room   chan struct{} // a token after every message taken
}

type localMessage struct {
	tag  Tag
	data []byte // a copy
}

// posted is a receiver that waits.
type posted struct {
	tag  Tag
	into []byte
	done chan error // holds one
}

func newLocalLink(m *Membership, from Cell) *localLink {
	return &localLink{m: m, from: from, room: make(chan struct{}, 1)}
}

func (l *localLink) carrier() Carrier { return CarrierLocal }

func (l *localLink) send(ctx context.Context, tag Tag, data []byte) error {
	for !l.offer(tag, data) {
		select {
		case <-l.room:
		case <-l.m.done:
			return l.m.Err()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// offer hands a message over, or keeps a copy, or reports that there is no room.
func (l *localLink) offer(tag Tag, data []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.posted; p != nil {
		l.posted = nil
		p.done <- l.fill(p.tag, p.into, tag, data)
		return true
	}
	if len(l.queue) == localMessages {
		return false
	}
	var b []byte
	if n := len(l.spare); n > 0 {
		b, l.spare = l.spare[n-1], l.spare[:n-1]
	}
	l.queue = append(l.queue, localMessage{tag, append(b[:0], data...)})
	return true
}

// fill checks that a message is the one that is wanted, and copies it.
func (l *localLink) fill(want Tag, into []byte, tag Tag, data []byte) error {
	a := arrival{header: header{tag: tag, total: uint64(len(data)), length: uint32(len(data))}}
	if uint64(a.length) != a.total {
		return fmt.Errorf("cell %s sends %d bytes at once: %w", l.from, len(data), ErrFrame)
	}
	if err := a.due(l.from, want, 0, 0, into); err != nil {
		return err
	}
	copy(into, data)
	return nil
}

func (l *localLink) recv(ctx context.Context, m *Membership, tag Tag, into []byte) error {
	l.mu.Lock()
	if len(l.queue) > 0 {
		msg := l.queue[0]
		l.queue = append(l.queue[:0], l.queue[1:]...)
		l.mu.Unlock()
		select {
		case l.room <- struct{}{}:
		default: // the sender has not used the one before
		}
		err := l.fill(tag, into, msg.tag, msg.data)
		l.mu.Lock()
		if len(l.spare) < spareCopies {
			l.spare = append(l.spare, msg.data)
		}
		l.mu.Unlock()
		return err
	}
	p := &posted{tag: tag, into: into, done: make(chan error, 1)}
	l.posted = p
	l.mu.Unlock()
	var err error
	select {
	case err := <-p.done:
		return err
	case <-m.done:
		err = m.Err()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.posted != p { // it came before the end
		return <-p.done
	}
	l.posted = nil
	return err
}

func (l *localLink) finish(string) {}

// drop has nothing to free: what nobody took is garbage.
func (l *localLink) drop() {}
