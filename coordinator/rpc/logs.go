package rpc

import (
	"google.golang.org/grpc"

	"colonnade/proto/clusterpb"
)

// Logs implements the Operator service.
func (s *Server) Logs(r *clusterpb.LogsRequest, stream grpc.ServerStreamingServer[clusterpb.LogsReply]) error {
	ctx := stream.Context()
	ask := &clusterpb.LogsRequest{Job: r.Job, Worker: r.Worker, Last: r.Last, After: r.After, Source: r.Source}
	for first := true; ; first = false {
		changed := s.Control.Changed()
		_, until, _ := s.Control.LogsAt()
		out, err := s.Control.Logs(ctx, ask)
		if err != nil {
			return s.status(err)
		}
		if first || len(out.Records) > 0 { // the first says that there are none, too
			if err := stream.Send(out); err != nil {
				return err
			}
		}
		if !r.Follow {
			return nil
		}
		ask.Last, ask.Source = 0, out.Source
		for _, one := range out.Records {
			ask.After = max(ask.After, one.Sequence)
		}
		for same := true; same; { // nobody is asked whether this node still leads while there is nothing new
			if err := s.untilChanged(ctx, changed); err != nil {
				return err
			}
			changed = s.Control.Changed()
			source, last, leading := s.Control.LogsAt()
			same = leading && source == out.Source && last == until
		}
	}
}
