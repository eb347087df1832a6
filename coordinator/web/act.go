package web

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"google.golang.org/protobuf/proto"

	"colonnade/proto/clusterpb"
	"colonnade/shard/job"
)

// bodyLimit bounds what comes with an action.
const bodyLimit = 1 << 16

// body reads what comes with an action, which may be nothing. Unknown keys are refused: they would be misspelt ones.
func (s *Server) body(w http.ResponseWriter, r *http.Request, into any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, bodyLimit))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		s.refuse(w, http.StatusBadRequest, "INVALID", "the body is not what the call takes: "+err.Error())
		return false
	}
	return true
}

// request is the id of one action: a call that broke in the middle and is made again takes effect once.
func request() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}

// none is what an action takes that takes nothing.
type none struct{}

// act is an action: it reads what comes with a request, asks the leader, has the streams hear of it at once, and
// answers with what the leader says.
func act[In any, Out proto.Message](s *Server,
	f func(context.Context, *http.Request, *In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		if !s.body(w, r, &in) {
			return
		}
		ctx, cancel := asked(r)
		defer cancel()
		out, err := f(ctx, r, &in)
		if bad := (&badRequest{}); errors.As(err, &bad) {
			s.refuse(w, http.StatusBadRequest, "INVALID", bad.Error())
			return
		}
		if err != nil {
			s.fail(w, err)
			return
		}
		s.lookNow()
		send(w, out)
	}
}

// badRequest is an error that the leader need not be asked about.
type badRequest struct{ error }

func (b *badRequest) Unwrap() error { return b.error }

// stepOf is the step that a request's path names.
func stepOf(r *http.Request) (uint64, error) {
	n, err := strconv.ParseUint(r.PathValue("step"), 10, 64)
	if err != nil {
		return 0, &badRequest{errors.New("the step is " + strconv.Quote(r.PathValue("step")) + "; give a whole number")}
	}
	return n, nil
}

type stopBody struct {
	Now bool `json:"now"`
}

func (s *Server) stop(ctx context.Context, r *http.Request, in *stopBody) (*clusterpb.Job, error) {
	return s.cfg.Operator.StopJob(ctx, &clusterpb.StopJobRequest{Name: r.PathValue("job"), Now: in.Now,
		Request: request()})
}

type resumeBody struct {
	Step        *uint64 `json:"step"`
	SkipBatch   bool    `json:"skip_batch"`
	AcceptBatch bool    `json:"accept_batch"`
}

func (s *Server) resume(ctx context.Context, r *http.Request, in *resumeBody) (*clusterpb.Job, error) {
	ask := &clusterpb.ResumeJobRequest{Name: r.PathValue("job"), SkipBatch: in.SkipBatch, AcceptBatch: in.AcceptBatch,
		Request: request()}
	if in.Step != nil {
		ask.Step, ask.FromStep = *in.Step, true
	}
	return s.cfg.Operator.ResumeJob(ctx, ask)
}

func (s *Server) pause(ctx context.Context, r *http.Request, _ *none) (*clusterpb.Job, error) {
	return s.cfg.Operator.PauseJob(ctx, &clusterpb.PauseJobRequest{Name: r.PathValue("job"), Request: request()})
}

func (s *Server) deleteJob(ctx context.Context, r *http.Request, _ *none) (*clusterpb.DeleteJobReply, error) {
	return s.cfg.Operator.DeleteJob(ctx, &clusterpb.DeleteJobRequest{Name: r.PathValue("job"), Request: request()})
}

func (s *Server) checkpointNow(ctx context.Context, r *http.Request, _ *none) (*clusterpb.Job, error) {
	return s.cfg.Operator.CheckpointNow(ctx, &clusterpb.CheckpointNowRequest{Name: r.PathValue("job")})
}

type undoBody struct {
	Undo bool `json:"undo"`
}

func (s *Server) pin(ctx context.Context, r *http.Request, in *undoBody) (*clusterpb.ListCheckpointsReply, error) {
	step, err := stepOf(r)
	if err != nil {
		return nil, err
	}
	return s.cfg.Operator.PinCheckpoint(ctx, &clusterpb.PinCheckpointRequest{Name: r.PathValue("job"), Step: step,
		Undo: in.Undo})
}

func (s *Server) deleteCheckpoint(ctx context.Context, r *http.Request, _ *none) (*clusterpb.ListCheckpointsReply,
	error) {
	step, err := stepOf(r)
	if err != nil {
		return nil, err
	}
	return s.cfg.Operator.DeleteCheckpoint(ctx, &clusterpb.DeleteCheckpointRequest{Name: r.PathValue("job"), Step: step,
		Request: request()})
}

type forkBody struct {
	Name string   `json:"name"`
	Set  []string `json:"set"` // KEY=VALUE
}

// fork submits a job that goes on from a checkpoint of another one with other settings.
func (s *Server) fork(ctx context.Context, r *http.Request, in *forkBody) (*clusterpb.Job, error) {
	step, err := stepOf(r)
	if err != nil {
		return nil, err
	}
	parent, err := s.cfg.Operator.GetJob(ctx, &clusterpb.GetJobRequest{Name: r.PathValue("job")})
	if err != nil {
		return nil, err
	}
	j, err := job.Fork(parent.Spec, in.Name, in.Set)
	if err != nil {
		return nil, &badRequest{err}
	}
	return s.cfg.Operator.SubmitJob(ctx, &clusterpb.SubmitJobRequest{Spec: j.Encode(), Request: request(),
		FromJob: parent.Name, FromStep: step})
}

// queueBody is how a job is to stand in the queue; what is not given stays as it is.
type queueBody struct {
	Priority   *int32  `json:"priority"`
	MaxWorkers *uint32 `json:"max_workers"`
	MinWorkers *uint32 `json:"min_workers"`
}

func (s *Server) queue(ctx context.Context, r *http.Request, in *queueBody) (*clusterpb.Job, error) {
	return s.cfg.Operator.SetQueue(ctx, &clusterpb.SetQueueRequest{Name: r.PathValue("job"), Priority: in.Priority,
		MaxWorkers: in.MaxWorkers, MinWorkers: in.MinWorkers, Request: request()})
}

func (s *Server) drain(ctx context.Context, r *http.Request, in *undoBody) (*clusterpb.Worker, error) {
	return s.cfg.Operator.DrainWorker(ctx, &clusterpb.DrainWorkerRequest{Worker: r.PathValue("worker"), Undo: in.Undo})
}
