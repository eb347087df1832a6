// Package web is the coordinator's HTTP port: the dashboard, the JSON API and the stream of changes behind it, health
// and metrics. It asks the leader like any other operator, through the Operator service, so every coordinator serves
// the same; API.md is the contract.
package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/plainjson"
	"colonnade/proto/clusterpb"
)

// Config is what a server needs.
type Config struct {
	// Operator reaches the leader, wherever it is, and waits for one until the context of a call ends.
	Operator clusterpb.OperatorClient
	// Local is what this node knows by itself, leader or not.
	Local func(context.Context) (*clusterpb.StatusReply, error)
	// Events are the node's events behind an index of the log, oldest first.
	Events func(after uint64) []*clusterpb.LogEvent
	// Past is what the node's history knows of a job; nil: nothing.
	Past func(context.Context, *clusterpb.HistoryRequest) (*clusterpb.HistoryReply, error)

	Files Files // nil: it reads none
	Store Store // of series; nil: in memory
	Token string
	Hosts []string // names that may stand in a request's Host, besides addresses and localhost
	Log   *slog.Logger
	Now   func() time.Time // nil: time.Now
	Every time.Duration    // between two looks at the cluster; 0: a second
}

// Server answers on the HTTP port. Make it with New; Run keeps it up to date.
type Server struct {
	cfg   Config
	store Store
	kick  chan struct{} // holds a token: look now
	ways  []string      // patterns of all routes

	mu      sync.Mutex
	seen    *snapshot
	changed chan struct{}  // closed when seen is replaced
	watched map[string]int // by job: streams that want its details
	streams int            // open ones
}

// snapshot is the cluster at one time, in the bytes that streams send. It never changes, but for frames.
type snapshot struct {
	number  uint64 // of the look
	at      time.Time
	trouble string // why nobody answers; the rest is then of before
	jobs    []byte
	cluster []byte
	detail  map[string][]byte // by job: of those that run or are watched
	list    []*clusterpb.Job
	full    map[string]*clusterpb.Job
	status  *clusterpb.StatusReply // without jobs and events
	frames  *frames
}

// New makes a server.
func New(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Every == 0 {
		cfg.Every = time.Second
	}
	s := &Server{cfg: cfg, store: cfg.Store, kick: make(chan struct{}, 1), seen: &snapshot{frames: &frames{}},
		changed: make(chan struct{}), watched: map[string]int{}}
	if s.store == nil {
		s.store = NewMemory()
	}
	return s
}

// Run looks at the cluster until ctx ends, which is no error.
func (s *Server) Run(ctx context.Context) {
	tick := time.NewTicker(s.cfg.Every)
	defer tick.Stop()
	for {
		s.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.kick:
		}
	}
}

// lookNow has Run look at once.
func (s *Server) lookNow() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// answerLimit is how long the leader may take to answer a look.
const answerLimit = 2 * time.Second

// look asks the leader how things are, writes the series down and tells the streams.
func (s *Server) look(ctx context.Context) {
	s.mu.Lock()
	before := s.seen
	var watched []string
	for name := range s.watched {
		watched = append(watched, name)
	}
	s.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	next, err := s.ask(limited, watched)
	if err != nil {
		if ctx.Err() != nil {
			return
		}
		still := *before
		still.trouble = plainError(err)
		next = &still
	}
	next.number, next.frames = before.number+1, &frames{}
	s.mu.Lock()
	s.seen = next
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
}

// ask makes a snapshot.
func (s *Server) ask(ctx context.Context, watched []string) (*snapshot, error) {
	status, err := s.cfg.Operator.Status(ctx, &clusterpb.StatusRequest{})
	if err != nil {
		return nil, err
	}
	next := &snapshot{at: s.cfg.Now(), list: status.Jobs, detail: map[string][]byte{}, full: map[string]*clusterpb.Job{},
		jobs: plainjson.Marshal(&clusterpb.ListJobsReply{Jobs: status.Jobs})}
	var names []string
	for _, brief := range status.Jobs {
		names = append(names, brief.Name)
		if fsm.Ended(brief.State) && !slices.Contains(watched, brief.Name) {
			continue
		}
		j, err := s.cfg.Operator.GetJob(ctx, &clusterpb.GetJobRequest{Name: brief.Name})
		if err != nil {
			return nil, err
		}
		j.Spec = nil
		next.full[j.Name], next.detail[j.Name] = j, plainjson.Marshal(j)
		if j.State == fsm.Running || j.State == fsm.Stopping {
			s.fill(ctx, j.Name)
			s.store.Add(j.Name, next.at, measure(j))
		}
	}
	s.store.Keep(names)
	status.Jobs, status.Events, status.Now = nil, nil, nil // what changes by itself is no news
	next.status, next.cluster = status, plainjson.Marshal(status)
	return next, nil
}

// now is the newest snapshot and a channel that is closed when there is a newer one.
func (s *Server) now() (*snapshot, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen, s.changed
}

// watch has look ask for a job's details until what it returns is called.
func (s *Server) watch(jobs []string) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams++
	for _, name := range jobs {
		s.watched[name]++
	}
	s.lookNow()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.streams--
		for _, name := range jobs {
			if s.watched[name]--; s.watched[name] == 0 {
				delete(s.watched, name)
			}
		}
	}
}

// Handler answers requests.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f http.HandlerFunc) {
		s.ways = append(s.ways, pattern)
		mux.HandleFunc(pattern, f)
	}
	handle("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	handle("GET /readyz", s.ready)
	handle("GET /metrics", s.metrics)
	handle("GET /api/v1/jobs", answer(s, s.jobs))
	handle("GET /api/v1/jobs/{job}", answer(s, s.job))
	handle("GET /api/v1/jobs/{job}/checkpoints", answer(s, s.checkpoints))
	handle("GET /api/v1/jobs/{job}/checkpoints/{step}/safetensors", s.export)
	handle("GET /api/v1/jobs/{job}/kernels", s.kernels)
	handle("GET /api/v1/jobs/{job}/examples", s.examples)
	handle("GET /api/v1/jobs/{job}/series", s.series)
	handle("GET /api/v1/jobs/{job}/plan", s.plan)
	handle("GET /api/v1/jobs/{job}/config", s.config)
	handle("GET /api/v1/cluster", answer(s, s.cluster))
	handle("GET /api/v1/events", s.events)
	handle("GET /api/v1/stream", s.stream)
	handle("GET /api/v1/evaluations", answer(s, s.evaluations))
	handle("GET /api/v1/logs", s.logs)
	handle("GET /api/v1/logs/stream", s.logStream)
	handle("POST /api/v1/jobs/{job}/stop", act(s, s.stop))
	handle("POST /api/v1/jobs/{job}/pause", act(s, s.pause))
	handle("POST /api/v1/jobs/{job}/resume", act(s, s.resume))
	handle("POST /api/v1/jobs/{job}/queue", act(s, s.queue))
	handle("POST /api/v1/jobs/{job}/delete", act(s, s.deleteJob))
	handle("POST /api/v1/jobs/{job}/checkpoint", act(s, s.checkpointNow))
	handle("POST /api/v1/jobs/{job}/checkpoints/{step}/pin", act(s, s.pin))
	handle("POST /api/v1/jobs/{job}/checkpoints/{step}/delete", act(s, s.deleteCheckpoint))
	handle("POST /api/v1/jobs/{job}/checkpoints/{step}/fork", act(s, s.fork))
	handle("POST /api/v1/workers/{worker}/drain", act(s, s.drain))
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, http.StatusNotFound, "NO_SUCH_CALL", fmt.Sprintf("there is no %s %s; see API.md beside the "+
			"coordinator's package web", r.Method, r.URL.Path))
	})
	mux.Handle("/", assets())
	return s.guard(s.recovered(mux))
}

// recovered turns a panic into an answer: it ends nothing else.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			e := recover()
			if isAbort(e) {
				panic(e)
			}
			if e != nil {
				s.cfg.Log.Error("http handler panicked", "path", r.URL.Path, "panic", e, "stack", string(debug.Stack()))
				s.refuse(w, http.StatusInternalServerError, "INTERNAL", "internal error; see the coordinator's log")
			}
		}()
		next.ServeHTTP(w, r)
	})
}

func isAbort(e any) bool {
	err, ok := e.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}

// ready says whether the node is of use: it has heard of a leader.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	local, err := s.cfg.Local(r.Context())
	if err != nil || local.Leader == "" {
		http.Error(w, "no leader", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// send answers with a message.
func send(w http.ResponseWriter, m proto.Message) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(plainjson.Marshal(m), '\n')) // whom it cannot be told does not listen
}
