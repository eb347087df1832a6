// Package rpc is the coordinator's gRPC face: it checks what comes in, calls control, and maps errors. Nothing else.
package rpc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"colonnade/coordinator/control"
	"colonnade/coordinator/fsm"
	"colonnade/coordinator/history"
	"colonnade/coordinator/raftnode"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

// Node is the node itself, and the cluster that it is a member of.
type Node interface {
	ID() string
	Leader() string
	LeaderAddress() string
	Address() string
	Addresses() []string
	Term() uint64
	Members() ([]raftnode.Member, error)
	Admit(ctx context.Context, id, address string) error
	Remove(ctx context.Context, id string) error
}

// Server implements the Session and Operator services.
type Server struct {
	clusterpb.UnimplementedSessionServer
	clusterpb.UnimplementedOperatorServer
	Control *control.Control
	Node    Node
	State   State          // nil: there is no history
	Past    *history.Store // nil: there is none
	Version string
	Log     *slog.Logger

	looks looks
}

// Register adds both services to a gRPC server.
func (s *Server) Register(g *grpc.Server) {
	clusterpb.RegisterSessionServer(g, s)
	clusterpb.RegisterOperatorServer(g, s)
}

// Attach is a worker's session.
func (s *Server) Attach(stream grpc.BidiStreamingServer[clusterpb.WorkerMessage, clusterpb.CoordinatorMessage]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	r := first.GetRegister()
	if r == nil {
		return status.Error(codes.InvalidArgument, "a session begins with a registration")
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	session, err := s.Control.Attach(ctx, r)
	if errors.Is(err, control.ErrRegister) {
		return stream.Send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Goodbye{
			Goodbye: &clusterpb.Goodbye{Reason: err.Error()}}})
	}
	if err != nil {
		return s.status(err)
	}
	defer session.Detach()
	received := make(chan error, 2)
	reports := make(chan *clusterpb.Report, waitingReports)
	side := func(f func() error) { // ends when this handler has returned, if not before
		defer cancel()
		received <- s.guard(clusterpb.Session_Attach_FullMethodName, f)
	}
	go side(func() error { return receive(ctx, stream, session, reports) })
	go side(func() error { return write(ctx, session, reports) })
	for m := session.Next(ctx); m != nil; m = session.Next(ctx) {
		if w := m.GetWelcome(); w != nil {
			w.Coordinators = s.Node.Addresses()
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	select {
	case err := <-received:
		return s.status(err)
	default:
		return status.Error(codes.Unavailable, "this coordinator has ended the session; register again")
	}
}

// waitingReports is how many of a worker's reports may wait for the log before nothing more is read from it.
const waitingReports = 256

// write has the log take a worker's reports, one after another, until there are no more.
func write(ctx context.Context, session *control.Session, reports <-chan *clusterpb.Report) error {
	for {
		select {
		case r, more := <-reports:
			if !more {
				return nil
			}
			if err := session.Report(ctx, r); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// receive takes a worker's messages until its stream ends. Reports are for write to put down: a log that is slow to
// take one must not make the worker look silent.
func receive(ctx context.Context, stream grpc.ServerStream, session *control.Session,
	reports chan<- *clusterpb.Report) error {
	defer close(reports)
	for {
		var m clusterpb.WorkerMessage
		if err := stream.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		switch k := m.Kind.(type) {
		case *clusterpb.WorkerMessage_Heartbeat:
			session.Heartbeat(k.Heartbeat)
		case *clusterpb.WorkerMessage_Report:
			select {
			case reports <- k.Report:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		default:
			return status.Errorf(codes.InvalidArgument, "message of kind %T within a session", m.Kind)
		}
	}
}

// Status implements the Operator service. What a node knows by itself it says without a leader too.
func (s *Server) Status(ctx context.Context, r *clusterpb.StatusRequest) (*clusterpb.StatusReply, error) {
	out := &clusterpb.StatusReply{Version: s.Version, Now: timestamppb.Now()}
	if err := s.Control.Status(ctx, out, r.Local); err != nil {
		return nil, s.status(err)
	}
	out.Node, out.Leader, out.Term = s.Node.ID(), s.Node.Leader(), s.Node.Term()
	members, err := s.members()
	if err != nil {
		return nil, s.status(err)
	}
	out.Members = members
	return out, nil
}

// SubmitJob implements the Operator service.
func (s *Server) SubmitJob(ctx context.Context, r *clusterpb.SubmitJobRequest) (*clusterpb.Job, error) {
	submit := func() (string, error) { return s.Control.Submit(ctx, r.Spec, r.Resume, r.Request) }
	if r.FromJob != "" {
		submit = func() (string, error) { return s.Control.Fork(ctx, r.Spec, r.FromJob, r.FromStep, r.Request) }
	}
	name, err := submit()
	if err != nil {
		return nil, s.status(err)
	}
	return s.Control.Written(name), nil
}

// ListJobs implements the Operator service.
func (s *Server) ListJobs(ctx context.Context, _ *clusterpb.ListJobsRequest) (*clusterpb.ListJobsReply, error) {
	jobs, err := s.Control.Jobs(ctx)
	return &clusterpb.ListJobsReply{Jobs: jobs}, s.status(err)
}

// GetJob implements the Operator service.
func (s *Server) GetJob(ctx context.Context, r *clusterpb.GetJobRequest) (*clusterpb.Job, error) {
	if err := named(r.Name); err != nil {
		return nil, err
	}
	j, err := s.Control.Job(ctx, r.Name)
	return j, s.status(err)
}

// named wants a job's name.
func named(name string) error {
	if name == "" {
		return status.Error(codes.InvalidArgument, "the request names no job; see: coordinator job list")
	}
	return nil
}

// StopJob implements the Operator service.
func (s *Server) StopJob(ctx context.Context, r *clusterpb.StopJobRequest) (*clusterpb.Job, error) {
	if err := named(r.Name); err != nil {
		return nil, err
	}
	if err := s.Control.Stop(ctx, r.Name, r.Now, r.Request); err != nil {
		return nil, s.status(err)
	}
	return s.Control.Written(r.Name), nil
}

// ResumeJob implements the Operator service.
func (s *Server) ResumeJob(ctx context.Context, r *clusterpb.ResumeJobRequest) (*clusterpb.Job, error) {
	if err := named(r.Name); err != nil {
		return nil, err
	}
	err := s.Control.Resume(ctx, &commandpb.ResumeJob{Job: r.Name, Step: r.Step, FromStep: r.FromStep,
		Request: r.Request, SkipBatch: r.SkipBatch, AcceptBatch: r.AcceptBatch})
	if err != nil {
		return nil, s.status(err)
	}
	return s.Control.Written(r.Name), nil
}

// ListCheckpoints implements the Operator service.
func (s *Server) ListCheckpoints(ctx context.Context, r *clusterpb.GetJobRequest) (
	*clusterpb.ListCheckpointsReply, error) {
	if err := named(r.Name); err != nil {
		return nil, err
	}
	out, err := s.Control.Checkpoints(ctx, r.Name)
	return out, s.status(err)
}

// Evaluate implements the Operator service.
func (s *Server) Evaluate(ctx context.Context, r *clusterpb.EvaluateRequest) (*clusterpb.EvaluationStatus, error) {
	out, err := s.Control.Evaluate(ctx, r)
	return out, s.status(err)
}

// EvaluateList implements the Operator service.
func (s *Server) EvaluateList(ctx context.Context, r *clusterpb.EvaluateListRequest) (*clusterpb.EvaluateListReply,
	error) {
	all, err := s.Control.Evaluations(ctx, r.Job)
	return &clusterpb.EvaluateListReply{Evaluations: all}, s.status(err)
}

// EvaluateCancel implements the Operator service.
func (s *Server) EvaluateCancel(ctx context.Context, r *clusterpb.EvaluationId) (*clusterpb.EvaluationStatus, error) {
	out, err := s.Control.CancelEvaluation(ctx, r.Id)
	return out, s.status(err)
}

// EvaluateWatch implements the Operator service: a slow watcher misses what is in between.
func (s *Server) EvaluateWatch(r *clusterpb.EvaluationId,
	stream grpc.ServerStreamingServer[clusterpb.EvaluationStatus]) error {
	ctx := stream.Context()
	for {
		changed := s.Control.Changed()
		e, err := s.Control.Evaluation(ctx, r.Id)
		if err != nil {
			return s.status(err)
		}
		if err := stream.Send(e); err != nil {
			return err
		}
		if e.State != fsm.Running {
			return nil
		}
		if err := s.untilChanged(ctx, changed); err != nil {
			return err
		}
	}
}

// untilChanged waits for something to show, and at least so long that a watcher can read.
func (s *Server) untilChanged(ctx context.Context, changed <-chan struct{}) error {
	pause := time.NewTimer(watchEvery)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-ctx.Done():
		return s.status(ctx.Err())
	}
	select {
	case <-changed:
	case <-ctx.Done():
		return s.status(ctx.Err())
	}
	return nil
}

// ListWorkers implements the Operator service.
func (s *Server) ListWorkers(ctx context.Context, _ *clusterpb.ListWorkersRequest) (*clusterpb.ListWorkersReply,
	error) {
	workers, err := s.Control.Workers(ctx)
	return &clusterpb.ListWorkersReply{Workers: workers}, s.status(err)
}

// DrainWorker implements the Operator service.
func (s *Server) DrainWorker(ctx context.Context, r *clusterpb.DrainWorkerRequest) (*clusterpb.Worker, error) {
	if r.Worker == "" {
		return nil, status.Error(codes.InvalidArgument, "the request names no worker; see: coordinator worker list")
	}
	if err := s.Control.Drain(ctx, r.Worker, r.Undo); err != nil {
		return nil, s.status(err)
	}
	return s.Control.Worker(r.Worker), nil
}

// guard turns a panic into an error of one call, so that it ends nothing else.
func (s *Server) guard(method string, call func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.Log.Error("handler panicked", "method", method, "panic", r, "stack", string(debug.Stack()))
			err = status.Errorf(codes.Internal, "internal error in %s; see the coordinator's log", method)
		}
	}()
	return call()
}

// Options are what a gRPC server with these services must be made with: panics of handlers become errors.
func (s *Server) Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (
			out any, err error) {
			err = s.guard(info.FullMethod, func() (err error) {
				out, err = next(ctx, req)
				return err
			})
			return out, err
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo,
			next grpc.StreamHandler) error {
			return s.guard(info.FullMethod, func() error { return next(srv, stream) })
		}),
	}
}
