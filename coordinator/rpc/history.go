package rpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"colonnade/coordinator/control"
	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
)

// State is the state as this node has it, leader or not.
type State interface {
	View() (fsm.View, <-chan struct{})
}

// noHistory is the answer of a coordinator that keeps none.
func (s *Server) noHistory(err error) error {
	why := "its file could not be opened; see this coordinator's log"
	if err != nil {
		why = err.Error()
	}
	return status.Errorf(codes.FailedPrecondition, "coordinator %s keeps no history: %s; ask another one with "+
		"--coordinator ADDR: coordinator member list", s.Node.ID(), why)
}

// History implements the Operator service. This node answers, leader or not.
func (s *Server) History(_ context.Context, r *clusterpb.HistoryRequest) (*clusterpb.HistoryReply, error) {
	if err := named(r.Job); err != nil {
		return nil, err
	}
	if s.Past == nil {
		return nil, s.noHistory(nil)
	}
	view, _ := s.State.View()
	j := view.Jobs[r.Job]
	if j == nil {
		return nil, status.Errorf(codes.NotFound, "there is no job %s; see: coordinator job list", r.Job)
	}
	out, err := s.Past.History(r)
	if err != nil {
		return nil, s.noHistory(err)
	}
	for _, e := range j.Evaluations {
		if !r.Levels && e.Step >= r.FromStep && (r.ToStep == 0 || e.Step <= r.ToStep) {
			out.Evaluations = append(out.Evaluations, control.EvaluationPB(e))
		}
	}
	return out, nil
}

// Events implements the Operator service. This node answers, leader or not: from its history, and, if it keeps none,
// with what the log still has.
func (s *Server) Events(r *clusterpb.EventsRequest, stream grpc.ServerStreamingServer[clusterpb.EventsReply]) error {
	if s.State == nil {
		return s.noHistory(nil)
	}
	match := func(e *clusterpb.LogEvent) bool {
		return (r.Job == "" || e.Job == r.Job) && (r.Worker == "" || e.Worker == r.Worker)
	}
	for after, last, first := r.After, int(r.Last), true; ; first, last = false, 0 {
		view, changed := s.State.View()
		found, err := s.happened(view, after, match, last)
		if err != nil {
			return err
		}
		if len(found) > 0 || first { // the first says that there are none, too
			if err := stream.Send(&clusterpb.EventsReply{Events: found}); err != nil {
				return err
			}
		}
		after = max(after, view.Index)
		if !r.Follow {
			return nil
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return s.status(stream.Context().Err())
		}
	}
}

// happened returns events behind an index, oldest first: of those the newest, if there are more than last. The log has
// what is new, the history what the log has dropped.
func (s *Server) happened(view fsm.View, after uint64, match func(*clusterpb.LogEvent) bool, last int) (
	[]*clusterpb.LogEvent, error) {
	var out []*clusterpb.LogEvent
	if s.Past != nil && (len(view.Events) == 0 || after+1 < view.Events[0].Index) {
		var err error
		if out, err = s.Past.Events(after, func(e *clusterpb.LogEvent) bool {
			return match(e) && (len(view.Events) == 0 || e.Index < view.Events[0].Index)
		}, last); err != nil {
			out = nil // what the log has is better than nothing
		}
	}
	for _, e := range control.EventsPB(view.Events) {
		if e.Index > after && match(e) {
			out = append(out, e)
		}
	}
	if last > 0 && len(out) > last {
		out = out[len(out)-last:]
	}
	return out, nil
}
