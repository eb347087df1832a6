package exchange

import (
	"context"
	"fmt"
)

// inbox is the receiving end of a link from another worker. Frames are put in order by the carrier and taken in order
// by recv. With shared memory they are in the ring; the stream brings only those that found no room there when the
// sender left, which come behind all in the ring.
type inbox struct {
	from   Cell
	worker string
	link   header // what every frame of it says: job, generation, from, to
	frames chan arrival
	ended  chan struct{} // closed by the carrier once it will put no more frames
	cause  error         // why; set before ended is closed

	ring *ring    // or nil; set before the membership is ready
	held *arrival // the next frame of the stream, while the ring may have older ones; recv's
}

// arrival is one frame in an inbox: a chunk of a message.
type arrival struct {
	header
	copyTo func(dst []byte)
	free   func()
}

// inboxFrames bounds what waits in an inbox; a carrier that is further ahead waits. Frames are chunks, so a network
// link holds up to 64 MiB here and as much again in gRPC's window.
const inboxFrames = 64

func newInbox(link header, worker string) *inbox {
	return &inbox{from: link.from, worker: worker, link: link, frames: make(chan arrival, inboxFrames),
		ended: make(chan struct{})}
}

// put hands a frame over; it reports false if done was closed first.
func (in *inbox) put(a arrival, done <-chan struct{}) bool {
	select {
	case in.frames <- a:
		in.wake()
		return true
	case <-done:
		a.free()
		return false
	}
}

// end says that no more frames come.
func (in *inbox) end(cause error) {
	in.cause = cause
	close(in.ended)
	in.wake()
}

// wake has a receiver look that sleeps in shared memory.
func (in *inbox) wake() {
	if in.ring != nil {
		in.ring.poke()
	}
}

// drop gives back what nobody took.
func (in *inbox) drop() {
	for in.hold() {
		in.held.free()
		in.held = nil
	}
}

// take waits for the next frame. What has arrived is taken even if the link has ended since.
func (in *inbox) take(ctx context.Context, m *Membership) (arrival, error) {
	if in.ring != nil {
		return in.takeFromRing(ctx, m)
	}
	select {
	case a := <-in.frames:
		return a, nil
	default:
	}
	select {
	case a := <-in.frames:
		return a, nil
	case <-in.ended:
	case <-m.done:
	case <-ctx.Done():
	}
	err := in.over(ctx, m)
	select {
	case a := <-in.frames: // it came before the end
		return a, nil
	default:
		return arrival{}, err
	}
}

// over says why there is no use in waiting, if so.
func (in *inbox) over(ctx context.Context, m *Membership) error {
	select {
	case <-m.done: // if all of it ended, so did the link
		return m.Err()
	default:
	}
	select {
	case <-in.ended:
		if err := m.Err(); err != nil {
			return err
		}
		return m.lost(in.from, in.worker, in.cause)
	case <-ctx.Done():
		return context.Cause(ctx)
	default:
		return nil
	}
}

// hold takes the stream's next frame, if there is one, and says whether there is.
func (in *inbox) hold() bool {
	if in.held == nil {
		select {
		case a := <-in.frames:
			in.held = &a
		default:
		}
	}
	return in.held != nil
}

// takeFromRing is take with shared memory. It looks first for the end, then for what the stream brought, then into the
// ring: what is in the ring was written before the one, and the one came before the other.
func (in *inbox) takeFromRing(ctx context.Context, m *Membership) (arrival, error) {
	if !in.ring.enter() {
		return arrival{}, m.Err()
	}
	entered := true
	defer func() {
		if entered {
			in.ring.exit()
		}
	}()
	var stop func() bool
	for {
		over, late := in.over(ctx, m), in.hold()
		h, payload, ok, err := in.ring.next()
		if err == nil && ok {
			err = h.fence(in.link)
		}
		switch {
		case err != nil:
			return arrival{}, m.lost(in.from, in.worker, err)
		case ok:
			entered = false // until it is freed
			return arrival{header: h, copyTo: func(dst []byte) { copy(dst, payload) }, free: func() {
				in.ring.take()
				in.ring.exit()
			}}, nil
		case late:
			a := *in.held
			in.held = nil
			return a, nil
		case over != nil:
			return arrival{}, over
		}
		if stop == nil {
			stop = context.AfterFunc(ctx, in.ring.poke)
			defer stop()
		}
		in.ring.waitForChunk()
	}
}

// recv takes the chunks of one message.
func (in *inbox) recv(ctx context.Context, m *Membership, tag Tag, into []byte) error {
	a, err := in.take(ctx, m)
	if err != nil {
		return err
	}
	return in.chunks(ctx, m, tag, into, a)
}

// chunks takes the rest of a message's chunks behind the first.
func (in *inbox) chunks(ctx context.Context, m *Membership, tag Tag, into []byte, a arrival) (err error) {
	for chunk, at := uint32(0), 0; ; chunk++ {
		if chunk > 0 {
			if a, err = in.take(ctx, m); err != nil {
				return err
			}
		}
		if err = a.due(in.from, tag, chunk, at, into); err != nil {
			a.free()
			return err
		}
		a.copyTo(into[at : at+int(a.length)])
		a.free()
		if at += int(a.length); at == len(into) {
			return nil
		}
	}
}

// due checks that a frame is the next chunk of the message that is wanted.
func (a *arrival) due(from Cell, tag Tag, chunk uint32, at int, into []byte) error {
	switch {
	case a.tag != tag:
		return outOfTurn(from, a.tag, tag)
	case a.kind == kindLanded:
		return fmt.Errorf("cell %s sends step %d exchange %d from device to device, to the host is due: %w", from, tag.Step,
			tag.Exchange, ErrOutOfOrder)
	case a.total != uint64(len(into)):
		return fmt.Errorf("cell %s sends %d bytes in step %d exchange %d, %d are due: %w", from, a.total, tag.Step,
			tag.Exchange, len(into), ErrOutOfOrder)
	case a.chunk != chunk || at+int(a.length) > len(into) || (a.length == 0 && len(into) > 0):
		return fmt.Errorf("cell %s sends chunk %d of %d bytes, chunk %d is due at %d of %d: %w", from, a.chunk, a.length,
			chunk, at, len(into), ErrOutOfOrder)
	}
	return nil
}
