package web

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"colonnade/proto/clusterpb"
)

// callLimit is how long the leader may take to answer a call of the API; a leader is waited for as long.
const callLimit = 5 * time.Second

// refuse answers with an error.
func (s *Server) refuse(w http.ResponseWriter, code int, reason, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	var body struct {
		Error struct {
			Reason string `json:"reason"`
			Text   string `json:"text"`
		} `json:"error"`
	}
	body.Error.Reason, body.Error.Text = reason, text
	_ = json.NewEncoder(w).Encode(body) // whom it cannot be told does not listen
}

// statusOf are the answers to errors of the Operator service.
var statusOf = map[codes.Code]int{
	codes.NotFound: http.StatusNotFound, codes.AlreadyExists: http.StatusConflict,
	codes.FailedPrecondition: http.StatusConflict, codes.InvalidArgument: http.StatusBadRequest,
	codes.Unavailable: http.StatusServiceUnavailable, codes.DeadlineExceeded: http.StatusGatewayTimeout,
	codes.Unimplemented: http.StatusNotImplemented,
}

// fail answers with an error of the Operator service.
func (s *Server) fail(w http.ResponseWriter, err error) {
	code, ok := statusOf[status.Code(err)]
	if !ok {
		code = http.StatusInternalServerError
	}
	reason := strings.ToUpper(status.Code(err).String())
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			reason = info.Reason
		}
	}
	s.refuse(w, code, reason, plainError(err))
}

// plainError is what an error says, without what gRPC puts before it.
func plainError(err error) string { return status.Convert(err).Message() }

// asked is a request's context with the time the leader has.
func asked(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), callLimit)
}

// answer is a call that changes nothing: it asks, and answers with what it is told.
func answer[Out proto.Message](s *Server, f func(context.Context, *http.Request) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := asked(r)
		defer cancel()
		out, err := f(ctx, r)
		if err != nil {
			s.fail(w, err)
			return
		}
		send(w, out)
	}
}

func (s *Server) jobs(ctx context.Context, _ *http.Request) (*clusterpb.ListJobsReply, error) {
	return s.cfg.Operator.ListJobs(ctx, &clusterpb.ListJobsRequest{})
}

func (s *Server) job(ctx context.Context, r *http.Request) (*clusterpb.Job, error) {
	return s.cfg.Operator.GetJob(ctx, &clusterpb.GetJobRequest{Name: r.PathValue("job")})
}

func (s *Server) checkpoints(ctx context.Context, r *http.Request) (*clusterpb.ListCheckpointsReply, error) {
	return s.cfg.Operator.ListCheckpoints(ctx, &clusterpb.GetJobRequest{Name: r.PathValue("job")})
}

// evaluations lists what coordinator evaluate has had tested: all that is kept, or what is of a job.
func (s *Server) evaluations(ctx context.Context, r *http.Request) (*clusterpb.EvaluateListReply, error) {
	return s.cfg.Operator.EvaluateList(ctx, &clusterpb.EvaluateListRequest{Job: r.FormValue("job")})
}

// cluster is the status without jobs and events, which have calls of their own.
func (s *Server) cluster(ctx context.Context, r *http.Request) (out *clusterpb.StatusReply, err error) {
	if r.FormValue("local") != "" {
		out, err = s.cfg.Local(ctx)
	} else {
		out, err = s.cfg.Operator.Status(ctx, &clusterpb.StatusRequest{})
	}
	if err == nil {
		out.Jobs, out.Events = nil, nil
	}
	return out, err
}

// events are what this node has of the log's events.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	after, ok := s.number(w, r, "after", 0)
	if !ok {
		return
	}
	limit, ok := s.number(w, r, "limit", 1000)
	if !ok {
		return
	}
	out := &clusterpb.JobUpdate{}
	for _, e := range s.cfg.Events(after) {
		if of(e, r.Form["job"]) {
			out.Events = append(out.Events, e)
		}
	}
	if n := uint64(len(out.Events)); n > limit {
		out.Events = out.Events[n-limit:]
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(eventsJSON(out.Events), '\n')) // whom it cannot be told does not listen
}

// of says whether an event is of one of some jobs, or of the cluster; no jobs are all.
func of(e *clusterpb.LogEvent, jobs []string) bool {
	if len(jobs) == 0 || e.Job == "" {
		return true
	}
	for _, name := range jobs {
		if e.Job == name {
			return true
		}
	}
	return false
}

// number reads a whole number of a request's query.
func (s *Server) number(w http.ResponseWriter, r *http.Request, name string, missing uint64) (uint64, bool) {
	text := r.FormValue(name)
	if text == "" {
		return missing, true
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		s.refuse(w, http.StatusBadRequest, "INVALID", name+" is "+strconv.Quote(text)+"; give a whole number")
		return 0, false
	}
	return n, true
}
