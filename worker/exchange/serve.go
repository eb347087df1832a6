package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"colonnade/proto/exchangepb"
)

// errEOF is what sending on a stream says that the peer has ended: the reason comes with the next receive.
var errEOF = io.EOF

// one makes a channel that holds one error.
func one(err error) <-chan error {
	c := make(chan error, 1)
	c <- err
	return c
}

// closedBy finds the reason behind an error of sending.
func closedBy(err error, broken <-chan error) error {
	if !errors.Is(err, errEOF) {
		return err
	}
	if err = <-broken; err == nil || errors.Is(err, errEOF) {
		return errors.New("it has left")
	}
	if status.Code(err) == codes.Unavailable {
		return errors.New("its connection broke")
	}
	return errors.New(status.Convert(err).Message())
}

// Open is the receiving end of a link.
func (m *Mesh) Open(stream grpc.BidiStreamingServer[exchangepb.Frame, exchangepb.Frame]) error {
	var first incoming
	if err := stream.RecvMsg(&first); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	mem, in, hello, err := m.welcome(&first)
	if err != nil {
		return err
	}
	offered, answer, err := m.answerHello(stream, mem, in, hello)
	if err != nil {
		mem.tasks.Done()
		in.end(err)
		return err
	}
	frames := make(chan error, 1)
	go func() { // counted by welcome; ends when this handler has returned, if not before
		defer mem.tasks.Done()
		frames <- m.receive(stream, mem, in, offered, answer)
	}()
	select {
	case err = <-frames:
	case <-mem.done:
		err = status.Error(codes.Aborted, "the receiver has left")
	}
	return err
}

// answerHello tells a peer that its link is welcome and offers it shared memory if that may work. Without an offer the
// link is up.
func (m *Mesh) answerHello(stream grpc.ServerStream, mem *Membership, in *inbox, hello *exchangepb.Hello) (*ring,
	*exchangepb.Hello, error) {
	offered, answer := m.offer(mem, in, hello)
	if offered == nil && mem.group.Carrier == CarrierSHM {
		mem.fail(noSHM(in.from, in.worker, answer.NoRing))
		return nil, nil, status.Error(codes.ResourceExhausted, answer.NoRing)
	}
	if answer.Landing == nil && mem.group.mustLand(in.from, in.link.to) {
		if offered != nil {
			offered.close()
		}
		mem.fail(noPeer(in.from, in.worker, answer.NoLanding))
		return nil, nil, status.Error(codes.ResourceExhausted, answer.NoLanding)
	}
	answer.Version = mem.group.Version
	payload, err := proto.Marshal(answer)
	if err == nil {
		err = stream.SendMsg(&outgoing{payload: payload, header: header{kind: kindHello, job: in.link.job,
			generation: in.link.generation, from: in.link.to, to: in.link.from, total: uint64(len(payload))}})
	}
	if err != nil {
		if offered != nil {
			offered.close()
		}
		mem.fail(mem.lost(in.from, in.worker, brokenBy(err)))
		return nil, nil, err
	}
	if offered == nil {
		m.linkUp(mem)
	}
	return offered, answer, nil
}

// welcome decides about a hello. A link that is welcome counts as one of the membership's tasks.
func (m *Mesh) welcome(f *incoming) (*Membership, *inbox, *exchangepb.Hello, error) {
	hello := &exchangepb.Hello{}
	if err := proto.Unmarshal(f.text(), hello); err != nil || f.kind != kindHello || jobHash(hello.Job) != f.job {
		return nil, nil, nil, status.Error(codes.InvalidArgument, "a link must begin with a hello")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	mem := m.members[hello.Job]
	switch {
	case mem == nil || mem.group.Generation < hello.Generation:
		return nil, nil, nil, status.Error(codes.Unavailable, "not joined yet")
	case mem.group.Generation > hello.Generation:
		return nil, nil, nil, status.Errorf(codes.FailedPrecondition, "job %s is at generation %d, not %d", hello.Job,
			mem.group.Generation, hello.Generation)
	case hello.Version != mem.group.Version:
		err := mem.group.versions(hello.Worker, hello.Version)
		mem.fail(err) // that worker will never do
		return nil, nil, nil, status.Error(codes.OutOfRange, err.Error())
	case string(hello.PlanDigest) != string(mem.group.PlanDigest[:]):
		return nil, nil, nil, status.Errorf(codes.InvalidArgument,
			"plans differ: %x here, %x there; run the same version on all workers",
			mem.group.PlanDigest[:6], hello.PlanDigest[:min(6, len(hello.PlanDigest))])
	case hello.Numerics != mem.group.Numerics:
		return nil, nil, nil, status.Errorf(codes.InvalidArgument,
			"numerics differ: %s here, %s there; use workers of one kind", mem.group.Numerics, hello.Numerics)
	}
	key := [2]Cell{f.from, f.to}
	if _, ok := mem.awaited[key]; !ok {
		return nil, nil, nil, status.Errorf(codes.FailedPrecondition, "no link from cell %s to cell %s is awaited",
			f.from, f.to)
	}
	in, ok := mem.inboxes[key].(*inbox)
	if !ok {
		return nil, nil, nil, status.Errorf(codes.Internal, "the link from cell %s to cell %s is local", f.from, f.to)
	}
	delete(mem.awaited, key)
	mem.tasks.Add(1)
	return mem, in, hello, nil
}

// receive puts frames into the inbox until the link ends, and says how. If a ring was offered, the peer's reply to that
// comes first.
func (m *Mesh) receive(stream grpc.ServerStream, mem *Membership, in *inbox, offered *ring,
	answer *exchangepb.Hello) (err error) {
	watch := watchSilence(m.cfg.Silence, func() {
		mem.fail(mem.lost(in.from, in.worker, fmt.Errorf("silent for %v", m.cfg.Silence)))
	})
	defer watch.stop()
	var cause error
	defer func() {
		if offered != nil {
			offered.close()
		}
		in.end(cause)
	}()
	for {
		var f incoming
		if err := stream.RecvMsg(&f); err != nil {
			if cause = brokenBy(err); mem.ctx.Err() == nil {
				mem.fail(mem.lost(in.from, in.worker, cause))
			}
			return status.Error(codes.Aborted, cause.Error())
		}
		watch.heard()
		if cause = f.fence(in.link); cause == nil && (f.kind == kindRing) != (offered != nil) || f.kind == kindLanded {
			cause = fmt.Errorf("%w: of kind %d, out of turn", ErrFrame, f.kind)
		}
		if cause != nil {
			f.free()
			mem.fail(mem.lost(in.from, in.worker, cause))
			return status.Error(codes.FailedPrecondition, cause.Error())
		}
		switch f.kind {
		case kindRing:
			r := offered
			offered = nil // settle's from here on
			if err := m.settle(mem, in, r, answer, f.text()); err != nil {
				mem.fail(err)
				return status.Error(codes.ResourceExhausted, err.Error())
			}
		case kindBye:
			f.free()
			return nil
		case kindAbort:
			cause = errors.New(string(f.text()))
			mem.fail(mem.lost(in.from, in.worker, cause))
			return nil
		case kindData:
			// While the cell is behind, the sender is held back: its silence then is our doing.
			watch.hold()
			if !in.put(arrival{header: f.header, copyTo: f.copyPayload, free: f.free}, mem.done) {
				return status.Error(codes.Aborted, "the receiver has left")
			}
			watch.heard()
		default:
			f.free()
		}
	}
}

// brokenBy names the end of a stream.
func brokenBy(err error) error {
	if s := status.Convert(err); s.Code() != codes.Canceled && s.Code() != codes.Unknown {
		return errors.New(s.Message())
	}
	if errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled || errors.Is(err, errEOF) {
		return errors.New("its connection broke")
	}
	return err
}
