package rpc

import (
	"context"

	"colonnade/proto/clusterpb"
)

// PauseJob implements the Operator service.
func (s *Server) PauseJob(ctx context.Context, r *clusterpb.PauseJobRequest) (*clusterpb.Job, error) {
	if err := named(r.Name); err != nil {
		return nil, err
	}
	if err := s.Control.Pause(ctx, r.Name, r.Request); err != nil {
		return nil, s.status(err)
	}
	return s.GetJob(ctx, &clusterpb.GetJobRequest{Name: r.Name})
}

// SetQueue implements the Operator service.
func (s *Server) SetQueue(ctx context.Context, r *clusterpb.SetQueueRequest) (*clusterpb.Job, error) {
	if err := named(r.Name); err != nil {
		return nil, err
	}
	if err := s.Control.SetQueue(ctx, r); err != nil {
		return nil, s.status(err)
	}
	return s.Control.Written(r.Name), nil
}

// CheckpointNow implements the Operator service.
func (s *Server) CheckpointNow(ctx context.Context, r *clusterpb.CheckpointNowRequest) (*clusterpb.Job, error) {
	if err := named(r.Name); err != nil {
		return nil, err
	}
	if err := s.Control.CheckpointNow(ctx, r.Name); err != nil {
		return nil, s.status(err)
	}
	return s.GetJob(ctx, &clusterpb.GetJobRequest{Name: r.Name})
}

// DeleteJob implements the Operator service.
func (s *Server) DeleteJob(ctx context.Context, r *clusterpb.DeleteJobRequest) (*clusterpb.DeleteJobReply, error) {
	if err := named(r.Name); err != nil {
		return nil, err
	}
	gone, err := s.Control.DeleteJob(ctx, r.Name, r.Request)
	return &clusterpb.DeleteJobReply{Checkpoints: gone}, s.status(err)
}

// PinCheckpoint implements the Operator service.
func (s *Server) PinCheckpoint(ctx context.Context, r *clusterpb.PinCheckpointRequest) (*clusterpb.ListCheckpointsReply,
	error) {
	if err := named(r.Name); err != nil {
		return nil, err
	}
	if err := s.Control.Pin(ctx, r.Name, r.Step, r.Undo); err != nil {
		return nil, s.status(err)
	}
	return s.ListCheckpoints(ctx, &clusterpb.GetJobRequest{Name: r.Name})
}

// DeleteCheckpoint implements the Operator service.
func (s *Server) DeleteCheckpoint(ctx context.Context, r *clusterpb.DeleteCheckpointRequest) (
	*clusterpb.ListCheckpointsReply, error) {
	if err := named(r.Name); err != nil {
		return nil, err
	}
	if err := s.Control.DeleteCheckpoint(ctx, r.Name, r.Step, r.Request); err != nil {
		return nil, s.status(err)
	}
	return s.ListCheckpoints(ctx, &clusterpb.GetJobRequest{Name: r.Name})
}
