package exchange

import (
	"context"
	"errors"
	"fmt"

	"colonnade/cudakern"
)

// BufferExchanger is an Exchanger that can hand over what lies in a device's memory without bringing it to the host.
// SendBuffer and RecvBuffer count as Send and Recv.
type BufferExchanger interface {
	Exchanger
	// SendBuffer hands over a buffer's bytes as they lie, behind all that is enqueued on the stream, which is one of
	// its device; the buffer may be written when it returns. Where the link has no such way, or no room, nothing is done
	// and sent is false: Send then takes the bytes.
	SendBuffer(ctx context.Context, to Cell, tag Tag, st cudakern.Stream, src cudakern.Buffer) (sent bool, err error)
	// RecvBuffer is Recv for a message that SendBuffer or Send has sent. One of SendBuffer is copied into dst, behind all
	// that is enqueued on the stream, and landed is true; else it is in host, which has as many bytes as dst.
	RecvBuffer(ctx context.Context, from Cell, tag Tag, st cudakern.Stream, dst cudakern.Buffer, host []byte) (
		landed bool, err error)
}

var _ BufferExchanger = (*exchanger)(nil)

func (e *exchanger) SendBuffer(ctx context.Context, to Cell, tag Tag, st cudakern.Stream, src cudakern.Buffer) (bool,
	error) {
	out, ok := e.m.outs[[2]Cell{e.cell, to}]
	if !ok {
		return false, fmt.Errorf("send from cell %s: cell %s is not in the group", e.cell, to)
	}
	return out.sendBuffer(ctx, tag, st, src)
}

func (e *exchanger) RecvBuffer(ctx context.Context, from Cell, tag Tag, st cudakern.Stream, dst cudakern.Buffer,
	host []byte) (bool, error) {
	in, ok := e.m.inboxes[[2]Cell{from, e.cell}]
	if !ok {
		return false, fmt.Errorf("receive at cell %s: cell %s is not in the group", e.cell, from)
	}
	if len(host) != dst.Bytes() {
		return false, fmt.Errorf("receive at cell %s: %d bytes on the host for a buffer of %d", e.cell, len(host),
			dst.Bytes())
	}
	landed, err := in.recvBuffer(ctx, e.m, tag, st, dst, host)
	e.judge(err)
	return landed, err
}

// judge ends the membership by an error after which the two cells cannot agree any more.
func (e *exchanger) judge(err error) {
	if errors.Is(err, ErrOutOfOrder) || errors.Is(err, ErrFrame) || errors.Is(err, errRing) {
		e.m.fail(err)
	}
}

// sendBuffer has the device copy a message into the landing and says so in the ring, if there is room and nothing is
// queued before it.
func (o *outLink) sendBuffer(ctx context.Context, tag Tag, st cudakern.Stream, src cudakern.Buffer) (bool, error) {
	if o.ring == nil || o.ring.land == nil || src.Bytes() > o.ring.land.slotBytes || o.pending.Load() > 0 {
		return false, nil
	}
	if err := o.m.Err(); err != nil {
		return false, err
	}
	o.delay(ctx, &message{tag: tag})
	if !o.ring.enter() {
		return false, ErrClosed
	}
	defer o.ring.exit()
	room, err := o.ring.room()
	if err != nil {
		o.m.fail(o.m.lost(o.to, o.worker, err))
		return false, o.m.Err()
	}
	if room == 0 {
		return false, nil
	}
	if err := o.ring.land.put(o.ring.nextSlot(), st, src); err != nil {
		return false, fmt.Errorf("copy to cell %s: %w", o.to, err)
	}
	h := o.header(kindLanded, tag)
	h.total = uint64(src.Bytes())
	o.ring.put(&h, nil)
	return true, nil
}

// recvBuffer takes a message that has landed, or else the chunks of one.
func (in *inbox) recvBuffer(ctx context.Context, m *Membership, tag Tag, st cudakern.Stream, dst cudakern.Buffer,
	host []byte) (bool, error) {
	a, err := in.take(ctx, m)
	if err != nil {
		return false, err
	}
	if a.kind != kindLanded {
		return false, in.chunks(ctx, m, tag, host, a)
	}
	defer a.free()
	if err := a.landed(in.from, tag, dst.Bytes()); err != nil {
		return false, err
	}
	if err := in.ring.land.take(in.ring.nextSlot(), st, dst); err != nil {
		return false, fmt.Errorf("copy from cell %s: %w", in.from, err)
	}
	return true, nil
}

// landed checks that a message in a landing is the one that is wanted.
func (a *arrival) landed(from Cell, tag Tag, n int) error {
	switch {
	case a.tag != tag:
		return outOfTurn(from, a.tag, tag)
	case a.total != uint64(n):
		return fmt.Errorf("cell %s sends %d bytes in step %d exchange %d, %d are due: %w", from, a.total, tag.Step,
			tag.Exchange, n, ErrOutOfOrder)
	}
	return nil
}

// outOfTurn is the error of a message that is not the one that is due.
func outOfTurn(from Cell, got, due Tag) error {
	return fmt.Errorf("cell %s sends step %d exchange %d, step %d exchange %d is due: %w", from, got.Step, got.Exchange,
		due.Step, due.Exchange, ErrOutOfOrder)
}
