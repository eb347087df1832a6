package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
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

// reason is the error of a call in the words of who made it, without gRPC's frame around them.
func reason(err error) error {
	text := status.Convert(err).Message()
	if _, dialing, ok := strings.Cut(text, "Error while dialing: "); ok {
		text = strings.TrimSuffix(dialing, `"`)
	}
	return errors.New(text)
}

// notThere is why a coordinator did not welcome the worker; one that does not lead says who does.
func notThere(err error) error {
	why := fmt.Errorf("register: %w", reason(err))
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*clusterpb.Redirect); ok {
			return &elsewhere{r.Leader, why}
		}
	}
	return why
}

// sendError is what sending failed of; at the end of a stream that is nothing, since receiving says why it ended.
func sendError(what string, err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, reason(err))
}

// sendLoop sends heartbeats on time and reports as they come.
func (s *Session) sendLoop(ctx context.Context, stream attachStream, every time.Duration) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var sent uint64 // sequence of the last report sent on this stream
	for {
		for _, r := range s.after(sent) {
			err := stream.Send(&clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Report{Report: r}})
			if err != nil {
				return sendError("send report", err)
			}
			sent = r.Sequence
		}
		if answers := s.taken(); len(answers) > 0 {
			if err := s.beat(stream, answers); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-ticker.C:
			if err := s.beat(stream, nil); err != nil {
				return err
			}
		}
	}
}

// beat sends a heartbeat, with answers if there are any.
func (s *Session) beat(stream attachStream, answers []*clusterpb.Holdings) error {
	beat := &clusterpb.Heartbeat{Cells: s.cfg.Handler.Cells(), Part: s.cfg.Handler.Part(), Holdings: answers}
	if s.cfg.Logs != nil {
		beat.Logs = s.cfg.Logs()
	}
	if s.cfg.Health != nil {
		beat.Health = s.cfg.Health()
	}
	err := stream.Send(&clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Heartbeat{Heartbeat: beat}})
	if err != nil {
		return sendError("send heartbeat", err)
	}
	return nil
}

// receiveLoop passes on what the coordinator says until the stream breaks. A coordinator answers every heartbeat with
// an empty acknowledgement; once one has, it counts as silent when nothing comes from it for a lease: the worker then
// turns to the next, before that one has given it up.
func (s *Session) receiveLoop(stream attachStream, watch *time.Timer, lease time.Duration) error {
	answers := false
	for {
		m, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("receive: %w", reason(err))
		}
		if answers {
			watch.Reset(lease)
		}
		switch k := m.Kind.(type) {
		case *clusterpb.CoordinatorMessage_Assign:
			s.cfg.Handler.Assign(k.Assign)
		case *clusterpb.CoordinatorMessage_Revoke:
			s.cfg.Handler.Revoke(k.Revoke)
		case *clusterpb.CoordinatorMessage_Stop:
			s.cfg.Handler.Stop(k.Stop)
		case *clusterpb.CoordinatorMessage_Ack:
			answers = answers || k.Ack.Sequence == 0 && len(k.Ack.Dropped) == 0
			s.acknowledge(k.Ack.Sequence)
			if len(k.Ack.Dropped) > 0 {
				s.cfg.Handler.Dropped(k.Ack.Dropped)
			}
		case *clusterpb.CoordinatorMessage_Ask:
			s.cfg.Handler.Ask(k.Ask)
		case *clusterpb.CoordinatorMessage_Forget:
			s.cfg.Handler.Forget(k.Forget)
		case *clusterpb.CoordinatorMessage_Buddies:
			s.cfg.Handler.Buddies(k.Buddies)
		case *clusterpb.CoordinatorMessage_Drain:
			s.cfg.Handler.Drain(k.Drain)
		case *clusterpb.CoordinatorMessage_Warm:
			s.cfg.Handler.Warm(k.Warm)
		case *clusterpb.CoordinatorMessage_Goodbye:
			return fmt.Errorf("%w: %s", ErrGoodbye, k.Goodbye.Reason)
		default:
			s.cfg.Log.Warn("coordinator says something this worker does not know", "kind", fmt.Sprintf("%T", m.Kind))
		}
	}
}
