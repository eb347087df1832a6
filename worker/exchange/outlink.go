package exchange

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	from, to Cell
	worker   string
	address  string
	up       chan struct{} // closed when the peer has welcomed us
	queue    chan message
	closing  chan string   // finish: the reason of an abort, or empty
	flushed  chan struct{} // closed when run has ended
	once     sync.Once
}

// message is a copy of what is to be sent.
type message struct {
	tag  Tag
	data []byte
}

// queueMessages bounds what waits to be sent on a link: a step sends a handful.
const queueMessages = 16

func newOutLink(m *Membership, from, to Cell, worker, address string) *outLink {
	ctx, cancel := context.WithCancel(m.ctx)
	return &outLink{m: m, ctx: ctx, cancel: cancel, from: from, to: to, worker: worker, address: address,
		up: make(chan struct{}), queue: make(chan message, queueMessages), closing: make(chan string, 1),
		flushed: make(chan struct{})}
}

func (o *outLink) send(ctx context.Context, tag Tag, data []byte) error {
	b := append(make([]byte, 0, len(data)), data...)
	select {
	case o.queue <- message{tag, b}:
		return nil
	case <-o.m.done:
		return o.m.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
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
		case codes.InvalidArgument:
			return nil, fmt.Errorf("cell %s on worker %s: %w: %s", o.to, o.worker, ErrDisagree, status.Convert(err).Message())
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
	hello, err := proto.Marshal(&exchangepb.Hello{Version: frameVersion, Job: g.Job, Generation: g.Generation,
		FromReplica: int32(o.from.Replica), FromColumn: int32(o.from.Column), ToReplica: int32(o.to.Replica),
		ToColumn: int32(o.to.Column), Worker: o.m.mesh.cfg.Worker, PlanDigest: g.PlanDigest[:], Numerics: g.Numerics})
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
	f.free()
	if f.kind != kindHello {
		return nil, fmt.Errorf("%w: answer to a hello is of kind %d", ErrFrame, f.kind)
	}
	return stream, nil
}

func (o *outLink) frame(k kind, tag Tag, payload []byte) *outgoing {
	return &outgoing{header: header{kind: k, job: jobHash(o.m.group.Job), generation: o.m.group.Generation, tag: tag,
		from: o.from, to: o.to, total: uint64(len(payload))}, payload: payload}
}

// pump sends what is queued, and a keepalive when there is nothing, until the link is closed or breaks.
func (o *outLink) pump(ctx context.Context, stream grpc.ClientStream, broken <-chan error) error {
	idle := time.NewTicker(o.m.mesh.cfg.Silence / 8)
	defer idle.Stop()
	for {
		select {
		case msg := <-o.queue:
			if err := o.message(ctx, stream, msg); err != nil {
				return closedBy(err, broken)
			}
		case <-idle.C:
			if err := stream.SendMsg(o.frame(kindKeepalive, Tag{}, nil)); err != nil {
				return closedBy(err, broken)
			}
		case reason := <-o.closing:
			return o.close(ctx, stream, broken, reason)
		case err := <-broken:
			return closedBy(errEOF, one(err))
		case <-ctx.Done():
			return nil
		}
	}
}

// message sends one message in chunks. An empty one is one empty chunk.
func (o *outLink) message(ctx context.Context, stream grpc.ClientStream, msg message) error {
	if delay := o.m.mesh.cfg.Delay; delay != nil {
		delay(ctx, o.from, o.to, msg.tag)
	}
	total := uint64(len(msg.data))
	for chunk := uint32(0); ; chunk++ {
		n := min(len(msg.data), ChunkBytes)
		f := o.frame(kindData, msg.tag, msg.data[:n])
		f.total, f.chunk = total, chunk
		if err := stream.SendMsg(f); err != nil {
			return err
		}
		if msg.data = msg.data[n:]; len(msg.data) == 0 {
			return nil
		}
	}
}

// close sends what is still queued and the last frame, and waits for the peer to end the stream.
func (o *outLink) close(ctx context.Context, stream grpc.ClientStream, broken <-chan error, abort string) error {
	last := o.frame(kindBye, Tag{}, nil)
	if abort != "" {
		last = o.frame(kindAbort, Tag{}, []byte(abort[:min(len(abort), 4096)]))
	}
	for abort == "" && len(o.queue) > 0 {
		if err := o.message(ctx, stream, <-o.queue); err != nil {
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
