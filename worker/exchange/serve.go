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
	return errors.New(status.Convert(err).Message())
}

// Open is the receiving end of a link.
func (m *Mesh) Open(stream grpc.BidiStreamingServer[exchangepb.Frame, exchangepb.Frame]) error {
	var first incoming
	if err := stream.RecvMsg(&first); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	mem, in, err := m.welcome(&first)
	if err != nil {
		return err
	}
	answer := &outgoing{header: header{kind: kindHello, job: first.job, generation: first.generation,
		from: first.to, to: first.from}}
	if err := stream.SendMsg(answer); err != nil {
		mem.tasks.Done()
		in.end(err)
		return err
	}
	frames := make(chan error, 1)
	go func() { // counted by welcome; ends when this handler has returned, if not before
		defer mem.tasks.Done()
		frames <- m.receive(stream, mem, in, first.header)
	}()
	select {
	case err = <-frames:
	case <-mem.done:
		err = status.Error(codes.Aborted, "the receiver has left")
	}
	return err
}

// welcome decides about a hello. A link that is welcome counts as one of the membership's tasks.
func (m *Mesh) welcome(f *incoming) (*Membership, *inbox, error) {
	defer f.free()
	payload := make([]byte, f.length)
	f.copyPayload(payload)
	var hello exchangepb.Hello
	if f.kind != kindHello || proto.Unmarshal(payload, &hello) != nil || jobHash(hello.Job) != f.job {
		return nil, nil, status.Error(codes.InvalidArgument, "a link must begin with a hello")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	mem := m.members[hello.Job]
	switch {
	case mem == nil || mem.group.Generation < hello.Generation:
		return nil, nil, status.Error(codes.Unavailable, "not joined yet")
	case mem.group.Generation > hello.Generation:
		return nil, nil, status.Errorf(codes.FailedPrecondition, "job %s is at generation %d, not %d", hello.Job,
			mem.group.Generation, hello.Generation)
	case string(hello.PlanDigest) != string(mem.group.PlanDigest[:]):
		return nil, nil, status.Errorf(codes.InvalidArgument,
			"plans differ: %x here, %x there; run the same version on all workers",
			mem.group.PlanDigest[:6], hello.PlanDigest[:min(6, len(hello.PlanDigest))])
	case hello.Numerics != mem.group.Numerics:
		return nil, nil, status.Errorf(codes.InvalidArgument, "numerics differ: %s here, %s there; use workers of one kind",
			mem.group.Numerics, hello.Numerics)
	}
	key := [2]Cell{f.from, f.to}
	if _, ok := mem.awaited[key]; !ok {
		return nil, nil, status.Errorf(codes.FailedPrecondition, "no link from cell %s to cell %s is awaited", f.from, f.to)
	}
	delete(mem.awaited, key)
	if len(mem.awaited) == 0 {
		close(mem.ready)
	}
	mem.tasks.Add(1)
	return mem, mem.inboxes[key], nil
}

// receive puts frames into the inbox until the link ends, and says how.
func (m *Mesh) receive(stream grpc.ServerStream, mem *Membership, in *inbox, want header) (err error) {
	watch := watchSilence(m.cfg.Silence, func() {
		mem.fail(mem.lost(in.from, in.worker, fmt.Errorf("silent for %v", m.cfg.Silence)))
	})
	defer watch.stop()
	var cause error
	defer func() { in.end(cause) }()
	for {
		var f incoming
		if err := stream.RecvMsg(&f); err != nil {
			if cause = brokenBy(err); mem.ctx.Err() == nil {
				mem.fail(mem.lost(in.from, in.worker, cause))
			}
			return status.Error(codes.Aborted, cause.Error())
		}
		watch.heard()
		if f.job != want.job || f.generation != want.generation || f.from != want.from || f.to != want.to {
			f.free()
			cause = fmt.Errorf("%w: of generation %d from cell %s on the link of generation %d from cell %s", ErrFrame,
				f.generation, f.from, want.generation, want.from)
			mem.fail(mem.lost(in.from, in.worker, cause))
			return status.Error(codes.FailedPrecondition, cause.Error())
		}
		switch f.kind {
		case kindBye:
			f.free()
			return nil
		case kindAbort:
			reason := make([]byte, f.length)
			f.copyPayload(reason)
			f.free()
			cause = errors.New(string(reason))
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
