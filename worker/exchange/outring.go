package exchange

import "context"

// filling is how writing into a ring ended.
type filling struct {
	rest *message // what is left of a message that found no room
	err  error
}

// sendDirect writes a message into the ring without another copy, as far as there is room and nothing is queued before
// it, and says whether that was all of it. What is left then finds the queue empty. The sender of a link is one.
func (o *outLink) sendDirect(msg *message) (whole bool, err error) {
	if o.ring == nil || o.pending.Load() > 0 || o.m.mesh.cfg.Delay != nil {
		return false, nil
	}
	if err := o.m.Err(); err != nil {
		return false, err
	}
	whole, err = o.write(msg)
	if err != nil {
		o.m.fail(o.m.lost(o.to, o.worker, err))
		err = o.m.Err()
	}
	return whole, err
}

// write puts chunks of a message into the ring while there is room, and says whether that was all of it.
func (o *outLink) write(msg *message) (whole bool, err error) {
	if !o.ring.enter() {
		return false, ErrClosed
	}
	defer o.ring.exit()
	for {
		room, err := o.ring.room()
		if room == 0 || err != nil {
			return false, err
		}
		h, payload, last := o.chunk(msg, o.ring.slotBytes)
		o.ring.put(&h, payload)
		if last {
			return true, nil
		}
	}
}

// fill writes what is queued into the ring, waiting for room, until it is told to leave the rest to the stream.
func (o *outLink) fill(ctx context.Context) filling {
	stop := context.AfterFunc(ctx, o.ring.poke)
	defer stop()
	for {
		select {
		case msg := <-o.queue:
			o.delay(ctx, &msg)
			if rest, err := o.writeAll(ctx, &msg); rest || err != nil {
				return filling{&msg, err}
			}
			o.sent(&msg)
		case <-o.handover:
			return filling{}
		case <-ctx.Done():
			return filling{}
		}
	}
}

// writeAll writes a message into the ring; it says whether it was told to leave the rest.
func (o *outLink) writeAll(ctx context.Context, msg *message) (rest bool, err error) {
	for {
		whole, err := o.write(msg)
		if whole || err != nil {
			return false, err
		}
		select {
		case <-o.handover:
			return true, nil
		case <-ctx.Done():
			return true, nil
		default:
		}
		if !o.ring.enter() {
			return false, ErrClosed
		}
		o.ring.waitForRoom()
		o.ring.exit()
	}
}
