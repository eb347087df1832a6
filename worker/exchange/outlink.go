package exchange

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"colonnade/proto/exchangepb"
)

// connectBackoff is how connections to workers are tried again: they may start after us.
var connectBackoff = backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2,
	MaxDelay: 500 * time.Millisecond}

// helloBackoff is how long to wait before knocking again at a worker that has not joined yet.
const helloBackoff = 20 * time.Millisecond

// outLink sends one cell's messages to a cell of another worker. Its goroutine is the membership's.
type outLink struct {
	m        *Membership
	ctx      context.Context
	cancel   context.CancelFunc
	job      uint64 // hash of its name
	from, to Cell
	worker   string
	address  string
	up       chan struct{} // closed when the peer has welcomed us and the carrier is settled
	ring     *ring         // or nil: set before up is closed, like why
	why      string        // there is no ring, or no landing behind it
	queue    chan message
	pending  atomic.Int32  // messages in the queue or being written from it
	handover chan struct{} // closed when what is left is to go over the stream
	spare    chan []byte   // memory of messages that are gone
	closing  chan string   // finish: the reason of an abort, or empty
	flushed  chan struct{} // closed when run has ended
	once     sync.Once
}

// message is what is still to be sent of a message.
type message struct {
	tag   Tag
	data  []byte
	total int
	chunk uint32 // number of the next one
	copy  []byte // the memory data is in, if it is the link's
}

// queueMessages bounds what waits to be sent on a link: a step sends a handful.
const queueMessages = 16

func newOutLink(m *Membership, from, to Cell, worker, address string) *outLink {
	ctx, cancel := context.WithCancel(m.ctx)
	return &outLink{m: m, ctx: ctx, cancel: cancel, job: jobHash(m.group.Job),
		from: from, to: to, worker: worker, address: address,
		up: make(chan struct{}), queue: make(chan message, queueMessages), handover: make(chan struct{}),
		spare: make(chan []byte, spareCopies), closing: make(chan string, 1), flushed: make(chan struct{})}
}

// spareCopies is how many copies' memory a link keeps: in lock step it needs no more.
const spareCopies = 2

func (o *outLink) carrier() Carrier {
	switch {
	case o.ring == nil:
		return CarrierGRPC
	case o.ring.land != nil:
		return CarrierPeer
	}
	return CarrierSHM
}

func (o *outLink) send(ctx context.Context, tag Tag, data []byte) error {
	msg := message{tag: tag, data: data, total: len(data)}
	if whole, err := o.sendDirect(&msg); whole || err != nil {
		return err
	}
	msg.copy = o.keep(msg.data)
	msg.data = msg.copy
	o.pending.Add(1)
	select {
	case o.queue <- msg:
		return nil
	case <-o.m.done:
		o.pending.Add(-1)
		return o.m.Err()
	case <-ctx.Done():
		o.pending.Add(-1)
		return context.Cause(ctx)
	}
}

// keep copies what cannot be sent at once.
func (o *outLink) keep(data []byte) []byte {
	var b []byte
	select {
	case b = <-o.spare:
	default:
	}
	return append(b[:0], data...)
}

// sent gives the memory of a message back that is gone.
func (o *outLink) sent(msg *message) {
	o.pending.Add(-1)
	select {
	case o.spare <- msg.copy:
	default:
	}
}

// abortPart is the part of the mesh's silence that peers get to take note of an abort: they are told out of courtesy,
// and whoever gives up is in a hurry to start anew.
const abortPart = 8

// finish has what is queued sent, then the goodbye, and waits for the peer to have it, but not for ever.
func (o *outLink) finish(abort string) {
	o.once.Do(func() { o.closing <- abort })
	patience := o.m.mesh.cfg.Silence
	if abort != "" {
		patience /= abortPart
	}
	select {
	case <-o.up:
	default: // nobody to say goodbye to
		o.cancel()
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-o.flushed:
	case <-timeout.C:
		o.cancel()
	}
}

// run is the link's life: knock until welcomed, then send until the end.
func (o *outLink) run() {
	defer close(o.flushed)
	defer o.cancel()
	conn, release, err := o.m.mesh.conn(o.address)
	if err != nil {
		o.m.fail(o.m.lost(o.to, o.worker, err))
		return
	}
	defer release()
	stream, err := o.open(o.ctx, conn)
	if err != nil {
		if o.ctx.Err() == nil {
			o.m.fail(err)
		}
		return
	}
	if o.ring != nil {
		o.m.use(o.ring)
	}
	close(o.up)
	broken := make(chan error, 1)
	o.m.tasks.Go(func() { // the peer says nothing more until the end: this notices the end
		var f incoming
		err := stream.RecvMsg(&f)
		f.free()
		broken <- err
	})
	if err := o.pump(o.ctx, stream, broken); err != nil {
		o.m.fail(o.m.lost(o.to, o.worker, err))
	}
}

// open knocks until the peer has joined the same generation.
func (o *outLink) open(ctx context.Context, conn *grpc.ClientConn) (grpc.ClientStream, error) {
	for {
		stream, err := o.knock(ctx, conn)
		if err == nil {
			return stream, nil
		}
		switch status.Code(err) {
		case codes.Unimplemented:
			return nil, o.m.lost(o.to, o.worker, fmt.Errorf("who listens at %s is no worker", o.address))
		case codes.FailedPrecondition:
			return nil, fmt.Errorf("cell %s on worker %s: %w: %s", o.to, o.worker, ErrStale, status.Convert(err).Message())
		case codes.ResourceExhausted:
			if o.m.group.Carrier == CarrierPeer {
				return nil, noPeer(o.to, o.worker, status.Convert(err).Message())
			}
			return nil, noSHM(o.to, o.worker, status.Convert(err).Message())
		case codes.OutOfRange: // the peer has looked first
			text := strings.TrimPrefix(status.Convert(err).Message(), ErrVersions.Error()+": ")
			return nil, fmt.Errorf("cell %s on worker %s: %w: %s", o.to, o.worker, ErrVersions, text)
		case codes.InvalidArgument:
			return nil, fmt.Errorf("cell %s on worker %s: %w: %s", o.to, o.worker, ErrDisagree, status.Convert(err).Message())
		}
		if errors.Is(err, ErrCarrier) || errors.Is(err, ErrVersions) {
			return nil, err
		}
		wait := time.NewTimer(helloBackoff)
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil, context.Cause(ctx)
		case <-o.m.done:
			wait.Stop()
			return nil, o.m.Err()
		case reason := <-o.closing:
			o.closing <- reason
			wait.Stop()
			return nil, ErrClosed
		case <-wait.C:
		}
	}
}

// knock opens a stream and says hello; the peer answers with its own.
func (o *outLink) knock(ctx context.Context, conn *grpc.ClientConn) (grpc.ClientStream, error) {
	desc := &exchangepb.Exchange_ServiceDesc.Streams[0]
	stream, err := conn.NewStream(ctx, desc, exchangepb.Exchange_Open_FullMethodName, grpc.CallContentSubtype(codecName))
	if err != nil {
		return nil, err
	}
	g := o.m.group
	h := &exchangepb.Hello{Version: g.Version, Job: g.Job, Generation: g.Generation,
		FromReplica: int32(o.from.Replica), FromColumn: int32(o.from.Column), ToReplica: int32(o.to.Replica),
		ToColumn: int32(o.to.Column), Worker: o.m.mesh.cfg.Worker, PlanDigest: g.PlanDigest[:], Numerics: g.Numerics}
	o.wantsRing(h)
	hello, err := proto.Marshal(h)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(o.frame(kindHello, Tag{}, hello)); err != nil && !errors.Is(err, errEOF) {
		return nil, err
	}
	var f incoming
	if err := stream.RecvMsg(&f); err != nil {
		return nil, err
	}
	answer := f.text()
	if f.kind != kindHello {
		return nil, fmt.Errorf("%w: answer to a hello is of kind %d", ErrFrame, f.kind)
	}
	return stream, o.settle(stream, answer)
}

// settle decides about shared memory and a landing by the peer's answer to our hello, and replies to its offer.
func (o *outLink) settle(stream grpc.ClientStream, answer []byte) error {
	var hello exchangepb.Hello
	if err := proto.Unmarshal(answer, &hello); err != nil {
		return fmt.Errorf("%w: answer to a hello: %w", ErrFrame, err)
	}
	if err := o.m.group.versions(o.worker, hello.Version); err != nil {
		return fmt.Errorf("cell %s: %w", o.to, err)
	}
	r, noRing, noLanding := o.answer(&hello)
	if hello.Ring != nil {
		reply, err := ringReply(&hello, noRing, noLanding)
		if err == nil {
			err = stream.SendMsg(o.frame(kindRing, Tag{}, reply))
		}
		if err != nil {
			if r != nil {
				r.close()
			}
			return err
		}
	}
	g := &o.m.group
	o.ring, o.why = r, cmp.Or(noRing, noLanding)
	switch {
	case r == nil && g.Carrier == CarrierSHM:
		return noSHM(o.to, o.worker, noRing)
	case (r == nil || r.land == nil) && g.mustLand(o.from, o.to):
		if r != nil {
			r.close()
		}
		return noPeer(o.to, o.worker, o.why)
	}
	return nil
}

func (o *outLink) header(k kind, tag Tag) header {
	return header{kind: k, job: o.job, generation: o.m.group.Generation, tag: tag, from: o.from, to: o.to}
}

func (o *outLink) frame(k kind, tag Tag, payload []byte) *outgoing {
	h := o.header(k, tag)
	h.total = uint64(len(payload))
	return &outgoing{header: h, payload: payload}
}

// pump sends what is queued, and a keepalive when there is nothing, until the link is closed or breaks.
func (o *outLink) pump(ctx context.Context, stream grpc.ClientStream, broken <-chan error) error {
	idle := time.NewTicker(o.m.mesh.cfg.Silence / 8)
	defer idle.Stop()
	queue, filled := o.queue, (chan filling)(nil)
	if o.ring != nil { // what waits for room there must not keep the stream silent
		queue, filled = nil, make(chan filling, 1)
		o.m.tasks.Go(func() { filled <- o.fill(ctx) })
	}
	for {
		select {
		case msg := <-queue:
			if err := o.message(ctx, stream, &msg); err != nil {
				return closedBy(err, broken)
			}
		case f := <-filled: // before it was asked to end
			if filled = nil; f.err != nil {
				return f.err
			}
		case <-idle.C:
			if err := stream.SendMsg(o.frame(kindKeepalive, Tag{}, nil)); err != nil {
				return closedBy(err, broken)
			}
		case reason := <-o.closing:
			return o.close(ctx, stream, broken, filled, reason)
		case err := <-broken:
			return closedBy(errEOF, one(err))
		case <-ctx.Done():
			return nil
		}
	}
}

// message sends one message in chunks, or what is left of it. An empty one is one empty chunk.
func (o *outLink) message(ctx context.Context, stream grpc.ClientStream, msg *message) error {
	o.delay(ctx, msg)
	for {
		h, payload, last := o.chunk(msg, ChunkBytes)
		if err := stream.SendMsg(&outgoing{header: h, payload: payload}); err != nil {
			return err
		}
		if last {
			o.sent(msg)
			return nil
		}
	}
}

func (o *outLink) delay(ctx context.Context, msg *message) {
	if delay := o.m.mesh.cfg.Delay; delay != nil {
		delay(ctx, o.from, o.to, msg.tag)
	}
}

// chunk cuts the next chunk of at most `most` bytes off a message.
func (o *outLink) chunk(msg *message, most int) (h header, payload []byte, last bool) {
	h = o.header(kindData, msg.tag)
	h.total, h.chunk = uint64(msg.total), msg.chunk
	payload = msg.data[:min(len(msg.data), most)]
	msg.data = msg.data[len(payload):]
	msg.chunk++
	return h, payload, len(msg.data) == 0
}

// close sends what is still queued and the last frame, and waits for the peer to end the stream.
func (o *outLink) close(ctx context.Context, stream grpc.ClientStream, broken <-chan error, filled <-chan filling,
	abort string) error {
	last := o.frame(kindBye, Tag{}, nil)
	if abort != "" {
		last = o.frame(kindAbort, Tag{}, []byte(abort[:min(len(abort), 4096)]))
	}
	if filled != nil { // what has no room in memory goes over the stream, behind what is there
		close(o.handover)
		o.ring.poke()
		if f := <-filled; f.rest != nil && abort == "" && o.message(ctx, stream, f.rest) != nil {
			return nil
		}
	}
	for abort == "" && len(o.queue) > 0 {
		if msg := <-o.queue; o.message(ctx, stream, &msg) != nil {
			return nil
		}
	}
	if stream.SendMsg(last) != nil || stream.CloseSend() != nil {
		return nil
	}
	select {
	case <-broken: //nolint:errcheck // the link ends here, however its stream did
	case <-ctx.Done():
	}
	return nil
}
