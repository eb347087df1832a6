package rpc

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"colonnade/coordinator/control"
	"colonnade/coordinator/fsm"
	"colonnade/coordinator/raftnode"
	"colonnade/proto/clusterpb"
	"colonnade/shard"
	"colonnade/shard/job"
)

// domain is the namespace of the reasons on the wire.
const domain = "colonnade"

// known are the errors clients may decide on: the code and reason each has on the wire. The first that matches counts.
var known = []struct {
	err    error
	code   codes.Code
	reason string
}{
	{fsm.ErrNoJob, codes.NotFound, "NO_JOB"},
	{fsm.ErrJobExists, codes.AlreadyExists, "JOB_EXISTS"},
	{fsm.ErrNoCheckpoint, codes.NotFound, "NO_CHECKPOINT"},
	{fsm.ErrJobState, codes.FailedPrecondition, "JOB_STATE"},
	{fsm.ErrStale, codes.FailedPrecondition, "STALE"},
	{fsm.ErrNumerics, codes.FailedPrecondition, "NUMERICS"},
	{fsm.ErrCluster, codes.FailedPrecondition, "CLUSTER"},
	{fsm.ErrNoEvaluation, codes.NotFound, "NO_EVALUATION"},
	{fsm.ErrNoVeto, codes.FailedPrecondition, "NO_VETO"},
	{fsm.ErrNoWorker, codes.NotFound, "NO_WORKER"},
	{fsm.ErrInvalid, codes.InvalidArgument, "INVALID"},
	{job.ErrJob, codes.InvalidArgument, "BAD_JOB"},
	{shard.ErrNetwork, codes.InvalidArgument, "BAD_NETWORK"},
	{control.ErrRegister, codes.InvalidArgument, "REGISTRATION"},
	{control.ErrNotLeading, codes.Unavailable, "NOT_LEADER"},
	{raftnode.ErrNotLeader, codes.Unavailable, "NOT_LEADER"},
	{raftnode.ErrMembership, codes.FailedPrecondition, "MEMBERSHIP"},
	{raftnode.ErrUnreachable, codes.FailedPrecondition, "UNREACHABLE"},
	{context.Canceled, codes.Canceled, "CANCELED"},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "DEADLINE"},
}

// status puts an error on the wire; who does not lead says who does.
func (s *Server) status(err error) error {
	if !errors.Is(err, control.ErrNotLeading) && !errors.Is(err, raftnode.ErrNotLeader) {
		return toStatus(err)
	}
	leader := s.Node.LeaderAddress()
	if leader == s.Node.Address() { // it is about to lead, or has just stopped
		leader = ""
	}
	return toStatus(err, &clusterpb.Redirect{Leader: leader})
}

// toStatus puts an error on the wire: its text, the reason of the known error behind it, and more details.
func toStatus(err error, details ...protoadapt.MessageV1) error {
	if err == nil {
		return nil
	}
	for _, k := range known {
		if !errors.Is(err, k.err) {
			continue
		}
		s := status.New(k.code, err.Error())
		details = append(details, &errdetails.ErrorInfo{Reason: k.reason, Domain: domain})
		if d, derr := s.WithDetails(details...); derr == nil {
			s = d
		}
		return s.Err()
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}

// remoteError is an error that came over the wire: it is the known errors its reason names.
type remoteError struct {
	text  string
	known []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.known }

// FromStatus takes an error off the wire, so that errors.Is finds the known error again.
func FromStatus(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	for _, d := range s.Details() {
		info, ok := d.(*errdetails.ErrorInfo)
		if !ok || info.Domain != domain {
			continue
		}
		e := &remoteError{text: s.Message()}
		for _, k := range known {
			if k.reason == info.Reason {
				e.known = append(e.known, k.err)
			}
		}
		if len(e.known) > 0 {
			return e
		}
	}
	return err
}
