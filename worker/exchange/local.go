package exchange

import (
	"context"
	"fmt"
	"sync"

	"colonnade/cudakern"
)

// localMessages bounds what waits between two cells of one worker: in lock step they are a message or two apart.
const localMessages = 16

// localLink hands messages to another cell of the same worker. A receiver that waits gets the sender's bytes straight
// into its own memory. Else they are copied once more, because they are the sender's again when send returns: to wait
// for the receiver instead would have two cells that send to each other wait for ever. Between devices that can,
// buffers go by way of two slots of the receiver's device.
type localLink struct {
	m    *Membership
	from Cell
	land *landing        // on the receiver's device, or nil; set before the link is used
	dev  cudakern.Lander // the sender's

	mu     sync.Mutex
	queue  []localMessage // empty while a receiver waits
	posted *posted
	spare  [][]byte        // memory of messages that were taken
	room   chan struct{}   // a token after every message taken
	full   [ringSlots]bool // slots of the landing
	next   int             // slot that is filled next
}

type localMessage struct {
	tag   Tag
	data  []byte // a copy
	bytes int    // of a message that has landed
	slot  int    // where; -1: it has not
}

// posted is a receiver that waits.
type posted struct {
	tag    Tag
	into   []byte
	buffer bool          // it takes a message that has landed too
	landed *localMessage // which has come; set before done holds nil
	done   chan error    // holds one
}

func newLocalLink(m *Membership, from Cell) *localLink {
	return &localLink{m: m, from: from, room: make(chan struct{}, 1)}
}

// reach makes a landing on the receiver's device, or says why there is none.
func (l *localLink) reach(to Cell) (why string) {
	g := &l.m.group
	var receiver cudakern.Lander
	if l.dev, why = g.lander(l.from, to); l.dev == nil {
		return why
	}
	if receiver, why = g.lander(to, l.from); receiver == nil {
		return why
	}
	land, err := newLanding(receiver, g.Largest)
	if err != nil {
		return err.Error()
	}
	if err := l.dev.Reach(land.mem); err != nil {
		l.m.mesh.closed(land)
		return err.Error()
	}
	l.land = land
	return ""
}

func (l *localLink) carrier() Carrier {
	if l.land != nil {
		return CarrierPeer
	}
	return CarrierLocal
}

// sendBuffer copies a buffer into a slot, if one is free.
func (l *localLink) sendBuffer(ctx context.Context, tag Tag, st cudakern.Stream, src cudakern.Buffer) (bool, error) {
	if l.land == nil || src.Bytes() > l.land.slotBytes {
		return false, nil
	}
	if err := l.m.Err(); err != nil {
		return false, err
	}
	l.mu.Lock()
	slot := l.next
	free := !l.full[slot] && len(l.queue) < localMessages
	l.mu.Unlock()
	if !free {
		return false, nil
	}
	to := landing{dev: l.dev, mem: l.land.mem, slotBytes: l.land.slotBytes} // as the sender's device reaches it
	if err := to.put(slot, st, src); err != nil {
		return false, fmt.Errorf("copy from cell %s: %w", l.from, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full[slot], l.next = true, (slot+1)%ringSlots
	msg := localMessage{tag: tag, bytes: src.Bytes(), slot: slot}
	p := l.posted
	switch l.posted = nil; {
	case p == nil:
		l.queue = append(l.queue, msg)
	case p.buffer:
		p.landed = &msg
		p.done <- nil
	default:
		p.done <- l.fill(p.tag, p.into, msg)
	}
	return true, nil
}

// recvBuffer takes a message that has landed from its slot.
func (l *localLink) recvBuffer(ctx context.Context, m *Membership, tag Tag, st cudakern.Stream, dst cudakern.Buffer,
	host []byte) (bool, error) {
	msg, err := l.await(ctx, m, &posted{tag: tag, into: host, buffer: true, done: make(chan error, 1)})
	if msg == nil || err != nil {
		return false, err
	}
	a := arrival{header: header{kind: kindLanded, tag: msg.tag, total: uint64(msg.bytes)}}
	if err := a.landed(l.from, tag, dst.Bytes()); err != nil {
		return false, err
	}
	if err := l.land.take(msg.slot, st, dst); err != nil {
		return false, fmt.Errorf("copy from cell %s: %w", l.from, err)
	}
	l.mu.Lock()
	l.full[msg.slot] = false
	l.mu.Unlock()
	return true, nil
}

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
		p.done <- l.fill(p.tag, p.into, localMessage{tag: tag, data: data, slot: -1})
		return true
	}
	if len(l.queue) == localMessages {
		return false
	}
	var b []byte
	if n := len(l.spare); n > 0 {
		b, l.spare = l.spare[n-1], l.spare[:n-1]
	}
	l.queue = append(l.queue, localMessage{tag: tag, data: append(b[:0], data...), slot: -1})
	return true
}

// fill checks that a message is the one that is wanted, and copies it.
func (l *localLink) fill(want Tag, into []byte, msg localMessage) error {
	data := msg.data
	a := arrival{header: header{kind: kindData, tag: msg.tag, total: uint64(len(data)), length: uint32(len(data))}}
	if msg.slot >= 0 {
		a.kind = kindLanded
	}
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
	_, err := l.await(ctx, m, &posted{tag: tag, into: into, done: make(chan error, 1)})
	return err
}

// await waits for the next message. It fills p.into, or the message is one that has landed and p takes such.
func (l *localLink) await(ctx context.Context, m *Membership, p *posted) (landed *localMessage, err error) {
	l.mu.Lock()
	if len(l.queue) > 0 {
		msg := l.queue[0]
		l.queue = append(l.queue[:0], l.queue[1:]...)
		l.mu.Unlock()
		select {
		case l.room <- struct{}{}:
		default: // the sender has not used the one before
		}
		if msg.slot >= 0 && p.buffer {
			return &msg, nil
		}
		err := l.fill(p.tag, p.into, msg)
		l.mu.Lock()
		defer l.mu.Unlock()
		if msg.slot < 0 && len(l.spare) < spareCopies {
			l.spare = append(l.spare, msg.data)
		}
		return nil, err
	}
	l.posted = p
	l.mu.Unlock()
	select {
	case err := <-p.done:
		return p.landed, err
	case <-m.done:
		err = m.Err()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.posted != p { // it came before the end
		err = <-p.done
		return p.landed, err
	}
	l.posted = nil
	return nil, err
}

func (l *localLink) finish(string) {}

// drop gives the landing back; what nobody took is garbage.
func (l *localLink) drop() {
	if l.land != nil {
		l.m.mesh.closed(l.land)
	}
}
