package session

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"colonnade/proto/clusterpb"
)

type attachStream = grpc.BidiStreamingClient[clusterpb.WorkerMessage, clusterpb.CoordinatorMessage]

// registerOf is the registration with what is running now.
func registerOf(r *clusterpb.Register, running []*clusterpb.Running) *clusterpb.Register {
	out := proto.CloneOf(r)
	out.Protocol = Protocol
	out.Running = running
	return out
}

// sendLoop sends heartbeats on time and reports as they come.
func (s *Session) sendLoop(ctx context.Context, stream attachStream, every time.Duration) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var sent uint64 // sequence of the last report sent on this stream
	for {
		for _, r := range s.after(sent) {
			if err := stream.Send(&clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Report{Report: r}}); err != nil {
				return fmt.Errorf("send report: %w", err)
			}
			sent = r.Sequence
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-ticker.C:
			beat := &clusterpb.Heartbeat{Cells: s.cfg.Handler.Cells()}
			err := stream.Send(&clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Heartbeat{Heartbeat: beat}})
			if err != nil {
				return fmt.Errorf("send heartbeat: %w", err)
			}
		}
	}
}

// receiveLoop passes on what the coordinator says until the stream breaks.
func (s *Session) receiveLoop(stream attachStream) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		switch k := m.Kind.(type) {
		case *clusterpb.CoordinatorMessage_Assign:
			s.cfg.Handler.Assign(k.Assign)
		case *clusterpb.CoordinatorMessage_Revoke:
			s.cfg.Handler.Revoke(k.Revoke)
		case *clusterpb.CoordinatorMessage_Stop:
			s.cfg.Handler.Stop(k.Stop)
		case *clusterpb.CoordinatorMessage_Ack:
			s.acknowledge(k.Ack.Sequence)
			if len(k.Ack.Dropped) > 0 {
				s.cfg.Handler.Dropped(k.Ack.Dropped)
			}
		case *clusterpb.CoordinatorMessage_Goodbye:
			return fmt.Errorf("%w: %s", ErrGoodbye, k.Goodbye.Reason)
		default:
			s.cfg.Log.Warn("coordinator says something this worker does not know", "kind", fmt.Sprintf("%T", m.Kind))
		}
	}
}
