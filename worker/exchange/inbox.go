package exchange

import (
	"context"
	"fmt"
)

// inbox is the receiving end of one link. Frames are put in order by the carrier and taken in order by Recv.
type inbox struct {
	from   Cell
	worker string
	frames chan arrival
	ended  chan struct{} // closed by the carrier once it will put no more frames
	cause  error         // why; set before ended is closed
}

// arrival is one frame in an inbox: a chunk that came over the network, or a whole message from the same worker.
type arrival struct {
	header
	copyTo func(dst []byte)
	free   func()
}

// Bounds of what waits in an inbox; a carrier that is further ahead waits. Frames are chunks, so a network link holds
// up to 64 MiB here and as much again in gRPC's window. A local arrival is a whole message: cells in lock step are a
// message or two ahead of each other.
const (
	inboxFrames   = 64
	localMessages = 16
)

func newInbox(from Cell, worker string, bound int) *inbox {
	return &inbox{from: from, worker: worker, frames: make(chan arrival, bound), ended: make(chan struct{})}
}

// put hands a frame over; it reports false if done was closed first.
func (in *inbox) put(a arrival, done <-chan struct{}) bool {
	select {
	case in.frames <- a:
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
}

// take waits for the next frame. What has arrived is taken even if the link has ended since.
func (in *inbox) take(ctx context.Context, m *Membership) (arrival, error) {
	select {
	case a := <-in.frames:
		return a, nil
	default:
	}
	var err error
	select {
	case a := <-in.frames:
		return a, nil
	case <-in.ended:
		if err = m.Err(); err == nil { // else the link ended because all of it did
			err = m.lost(in.from, in.worker, in.cause)
		}
	case <-m.done:
		err = m.Err()
	case <-ctx.Done():
		return arrival{}, context.Cause(ctx)
	}
	select {
	case a := <-in.frames: // it came before the end
		return a, nil
	default:
		return arrival{}, err
	}
}

// recv takes the chunks of one message.
func (in *inbox) recv(ctx context.Context, m *Membership, tag Tag, into []byte) error {
	for chunk, at := uint32(0), 0; ; chunk++ {
		a, err := in.take(ctx, m)
		if err != nil {
			return err
		}
		err = in.accept(a, tag, chunk, at, into)
		if err != nil {
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

// accept checks that a frame is the next chunk of the message that is wanted.
func (in *inbox) accept(a arrival, tag Tag, chunk uint32, at int, into []byte) error {
	switch {
	case a.tag != tag:
		return fmt.Errorf("cell %s sends step %d exchange %d, step %d exchange %d is due: %w", in.from, a.tag.Step,
			a.tag.Exchange, tag.Step, tag.Exchange, ErrOutOfOrder)
	case a.total != uint64(len(into)):
		return fmt.Errorf("cell %s sends %d bytes in step %d exchange %d, %d are due: %w", in.from, a.total, tag.Step,
			tag.Exchange, len(into), ErrOutOfOrder)
	case a.chunk != chunk || at+int(a.length) > len(into) || (a.length == 0 && len(into) > 0):
		return fmt.Errorf("cell %s sends chunk %d of %d bytes, chunk %d is due at %d of %d: %w", in.from, a.chunk, a.length,
			chunk, at, len(into), ErrOutOfOrder)
	}
	return nil
}
