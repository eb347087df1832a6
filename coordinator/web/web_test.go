package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"colonnade/proto/clusterpb"
)

// leader is an Operator service in memory.
type leader struct {
	clusterpb.OperatorClient
	mu     sync.Mutex
	gone   bool
	step   uint64
	asked  []string
	events []*clusterpb.LogEvent
}

func (l *leader) enter(what string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, what)
	if l.gone {
		return status.Error(codes.Unavailable, "nobody leads")
	}
	return nil
}

func (l *leader) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *leader) theJob() *clusterpb.Job {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &clusterpb.Job{Name: "j", State: "running", Step: l.step, Steps: 100, Loss: 1 / float64(1+l.step),
		ImagesPerSecond: 50, Spec: []byte("job: j\n"), Cells: []*clusterpb.CellStatus{{Job: "j", Cell: &clusterpb.Cell{},
			Step: l.step, PhaseSeconds: map[string]float64{"conv1": 1, "conv1 gradient": 2, "conv2 wait for column 1": 3,
				"data": 4, "update": 5, "snapshot": 6}}},
		Evaluations: []*clusterpb.Evaluation{{Step: 1, Images: 10, Top1Errors: 5}}}
}

func (l *leader) Status(context.Context, *clusterpb.StatusRequest, ...grpc.CallOption) (*clusterpb.StatusReply, error) {
	return &clusterpb.StatusReply{Node: "n", Leader: "n", Jobs: []*clusterpb.Job{l.theJob()},
		Workers: []*clusterpb.Worker{{Id: "w", Name: `"odd\` + "\n", State: "connected"}}}, l.enter("status")
}

func (l *leader) GetJob(_ context.Context, r *clusterpb.GetJobRequest, _ ...grpc.CallOption) (*clusterpb.Job, error) {
	if err := l.enter("get " + r.Name); err != nil {
		return nil, err
	}
	if r.Name != "j" {
		return nil, status.Error(codes.NotFound, "there is no job "+r.Name)
	}
	return l.theJob(), nil
}

func (l *leader) ListJobs(context.Context, *clusterpb.ListJobsRequest, ...grpc.CallOption) (*clusterpb.ListJobsReply,
	error) {
	return &clusterpb.ListJobsReply{Jobs: []*clusterpb.Job{l.theJob()}}, l.enter("jobs")
}

func (l *leader) ListCheckpoints(context.Context, *clusterpb.GetJobRequest, ...grpc.CallOption) (
	*clusterpb.ListCheckpointsReply, error) {
	return &clusterpb.ListCheckpointsReply{}, l.enter("checkpoints")
}

func (l *leader) StopJob(_ context.Context, r *clusterpb.StopJobRequest, _ ...grpc.CallOption) (*clusterpb.Job, error) {
	return l.theJob(), l.enter(fmt.Sprintf("stop %s %v %v", r.Name, r.Now, r.Request != ""))
}

func (l *leader) ResumeJob(_ context.Context, r *clusterpb.ResumeJobRequest, _ ...grpc.CallOption) (*clusterpb.Job,
	error) {
	return l.theJob(), l.enter(fmt.Sprintf("resume %s %v %d %v", r.Name, r.FromStep, r.Step, r.SkipBatch))
}

func (l *leader) DrainWorker(_ context.Context, r *clusterpb.DrainWorkerRequest, _ ...grpc.CallOption) (
	*clusterpb.Worker, error) {
	return &clusterpb.Worker{Id: r.Worker}, l.enter(fmt.Sprintf("drain %s %v", r.Worker, r.Undo))
}

func (l *leader) PauseJob(_ context.Context, r *clusterpb.PauseJobRequest, _ ...grpc.CallOption) (*clusterpb.Job,
	error) {
	return l.theJob(), l.enter(fmt.Sprintf("pause %s %v", r.Name, r.Request != ""))
}

func (l *leader) DeleteJob(_ context.Context, r *clusterpb.DeleteJobRequest, _ ...grpc.CallOption) (
	*clusterpb.DeleteJobReply, error) {
	return &clusterpb.DeleteJobReply{}, l.enter(fmt.Sprintf("delete %s %v", r.Name, r.Request != ""))
}

func (l *leader) CheckpointNow(_ context.Context, r *clusterpb.CheckpointNowRequest, _ ...grpc.CallOption) (
	*clusterpb.Job, error) {
	return l.theJob(), l.enter("checkpoint " + r.Name)
}

func (l *leader) PinCheckpoint(_ context.Context, r *clusterpb.PinCheckpointRequest, _ ...grpc.CallOption) (
	*clusterpb.ListCheckpointsReply, error) {
	return &clusterpb.ListCheckpointsReply{}, l.enter(fmt.Sprintf("pin %s %d %v", r.Name, r.Step, r.Undo))
}

func (l *leader) DeleteCheckpoint(_ context.Context, r *clusterpb.DeleteCheckpointRequest, _ ...grpc.CallOption) (
	*clusterpb.ListCheckpointsReply, error) {
	return &clusterpb.ListCheckpointsReply{}, l.enter(fmt.Sprintf("unlink %s %d", r.Name, r.Step))
}

func (l *leader) EvaluateList(_ context.Context, r *clusterpb.EvaluateListRequest, _ ...grpc.CallOption) (
	*clusterpb.EvaluateListReply, error) {
	return &clusterpb.EvaluateListReply{Evaluations: []*clusterpb.EvaluationStatus{{Id: 7}}}, l.enter("tests " + r.Job)
}

// Logs sends what there is behind the asked for line, and with follow waits for the call's end.
func (l *leader) Logs(ctx context.Context, r *clusterpb.LogsRequest, _ ...grpc.CallOption) (
	grpc.ServerStreamingClient[clusterpb.LogsReply], error) {
	return &lines{ctx: ctx, ask: r}, l.enter(fmt.Sprintf("logs %s %s %d", r.Job, r.Worker, r.After))
}

// lines are three lines of a log.
type lines struct {
	grpc.ServerStreamingClient[clusterpb.LogsReply]
	ctx  context.Context
	ask  *clusterpb.LogsRequest
	sent bool
}

func (l *lines) Recv() (*clusterpb.LogsReply, error) {
	if l.sent && l.ask.Follow {
		<-l.ctx.Done()
		return nil, l.ctx.Err()
	}
	if l.sent {
		return nil, io.EOF
	}
	l.sent = true
	out := &clusterpb.LogsReply{Source: 5}
	for i, level := range []string{"INFO", "WARN", "ERROR"} {
		if n := uint64(i + 1); n > l.ask.After {
			out.Records = append(out.Records, &clusterpb.LogRecord{Sequence: n, Level: level, Text: "Line of " + level})
		}
	}
	return out, nil
}

// somewhere has the files of one checkpoint.
type somewhere struct{}

func (somewhere) Kernels(_ context.Context, job string, step *uint64) (*Kernels, error) {
	if step != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "step %d of %s lies elsewhere", *step, job)
	}
	return &Kernels{Job: job, Step: 9, Columns: []KernelColumn{{Column: 1, PNG: []byte("png")}}}, nil
}

func (somewhere) Examples(_ context.Context, job string) ([]byte, error) {
	return []byte(`{"of":"` + job + `"}`), nil
}

func (somewhere) Export(context.Context, string, uint64) (func(io.Writer) error, error) {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, "tensors")
		return err
	}, nil
}

func (l *leader) has(after uint64) (out []*clusterpb.LogEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.Index > after {
			out = append(out, e)
		}
	}
	return out
}

// serve runs a server until the test ends.
func serve(t *testing.T, l *leader, change func(*Config)) (*Server, *httptest.Server) {
	t.Helper()
	cfg := Config{Operator: l, Events: l.has, Every: 5 * time.Millisecond,
		Log: slog.New(slog.DiscardHandler), Local: func(ctx context.Context) (*clusterpb.StatusReply, error) {
			s, _ := l.Status(ctx, nil)
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.gone {
				s.Leader = ""
			}
			return s, nil
		}}
	if change != nil {
		change(&cfg)
	}
	s := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	h := httptest.NewUnstartedServer(s.Handler())
	h.Start()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		h.CloseClientConnections()
		h.Close()
	})
	return s, h
}

// call makes a request, changed as a test wants it, and returns the answer with its body.
func call(t *testing.T, method, url, body string, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set(ActionHeader, "1")
	}
	if change != nil {
		change(r)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(b)
}

// seen waits until the server has looked at least once.
func seen(t *testing.T, s *Server) {
	t.Helper()
	for {
		now, changed := s.now()
		if !now.at.IsZero() {
			return
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatal("the server does not look")
		}
	}
}

func TestCalls(t *testing.T) {
	l := &leader{step: 7, events: []*clusterpb.LogEvent{{Index: 1, Job: "j", Text: "one"},
		{Index: 2, Job: "k", Text: "two"}, {Index: 3, Text: "three"}}}
	s, h := serve(t, l, func(c *Config) { c.Files = somewhere{} })
	seen(t, s)
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/healthz", "", 200, "ok"},
		{"GET", "/readyz", "", 200, "ok"},
		{"GET", "/", "", 200, "<div id=\"app\">"},
		{"GET", "/jobs/j", "", 200, "<div id=\"app\">"},
		{"GET", "/nothing.js", "", 404, ""},
		{"POST", "/", "", 405, ""},
		{"GET", "/api/v1/jobs", "", 200, `{"jobs":[{"name":"j",`},
		{"GET", "/api/v1/jobs/j", "", 200, `"spec":"job: j\n"`},
		{"GET", "/api/v1/jobs/x", "", 404, `"there is no job x"`},
		{"GET", "/api/v1/jobs/j/checkpoints", "", 200, `{"checkpoints":[]`},
		{"GET", "/api/v1/jobs/j/series?name=loss", "", 200, `"series":[{"name":"loss","step":[7]`},
		{"GET", "/api/v1/jobs/x/series", "", 404, "NO_JOB"},
		{"GET", "/api/v1/jobs/j/series?points=0", "", 400, "points"},
		{"GET", "/api/v1/jobs/j/series?points=a", "", 400, "whole number"},
		{"GET", "/api/v1/cluster", "", 200, `"jobs":[],"events":[]`},
		{"GET", "/api/v1/cluster?local=1", "", 200, `"leader":"n"`},
		{"GET", "/api/v1/events?after=1&job=j", "", 200, `{"events":[{"index":3,`},
		{"GET", "/api/v1/events?limit=1", "", 200, `{"events":[{"index":3,`},
		{"GET", "/api/v1/stream?after=x", "", 400, "give an id of this stream"},
		{"GET", "/api/v2/jobs", "", 404, "NO_SUCH_CALL"},
		{"POST", "/api/v1/jobs/j/stop", "", 200, `"name":"j"`},
		{"POST", "/api/v1/jobs/j/stop", `{"now":true}`, 200, `"name":"j"`},
		{"POST", "/api/v1/jobs/j/stop", `{"soon":true}`, 400, "soon"},
		{"POST", "/api/v1/jobs/j/resume", `{"step":0,"skip_batch":true}`, 200, `"name":"j"`},
		{"POST", "/api/v1/workers/w/drain", `{"undo":true}`, 200, `"id":"w"`},
		{"POST", "/api/v1/jobs/j/pause", "", 200, `"name":"j"`},
		{"POST", "/api/v1/jobs/j/checkpoint", "", 200, `"name":"j"`},
		{"POST", "/api/v1/jobs/j/delete", "", 200, `"checkpoints":[]`},
		{"POST", "/api/v1/jobs/j/checkpoints/3/pin", `{"undo":true}`, 200, `"checkpoints":[]`},
		{"POST", "/api/v1/jobs/j/checkpoints/3/delete", "", 200, `"checkpoints":[]`},
		{"POST", "/api/v1/jobs/j/checkpoints/x/delete", "", 400, "whole number"},
		{"POST", "/api/v1/jobs/j/checkpoints/3/fork", `{"name":"k","set":["data.train=x"]}`, 400, "INVALID"},
		{"POST", "/api/v1/jobs/x/checkpoints/3/fork", `{"name":"k"}`, 404, "there is no job x"},
		{"GET", "/api/v1/jobs/j/kernels", "", 200, `"step":9,"low":0,"high":0,"columns":[{"column":1,`},
		{"GET", "/api/v1/jobs/j/kernels?step=3", "", 409, "step 3 of j lies elsewhere"},
		{"GET", "/api/v1/jobs/j/examples", "", 200, `{"of":"j"}`},
		{"GET", "/api/v1/jobs/j/checkpoints/3/safetensors", "", 200, "tensors"},
		{"GET", "/api/v1/evaluations?job=j", "", 200, `{"evaluations":[{"id":7`},
		{"GET", "/api/v1/logs?job=j&worker=w&text=line&level=warn&last=1", "", 200, `"text":"Line of ERROR"`},
		{"GET", "/api/v1/logs?last=2", "", 200, `{"records":[{"at":null,"level":"WARN"`},
		{"GET", "/api/v1/logs?text=nothing", "", 200, `{"records":[]`},
		{"GET", "/api/v1/logs?level=loud", "", 400, "give info, warn or error"},
		{"GET", "/api/v1/logs/stream?after=5", "", 400, "give an id of the logs' stream"},
	} {
		answer, body := call(t, c.method, h.URL+c.path, c.body, nil)
		if answer.StatusCode != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %.300s; want %d and %q", c.method, c.path, answer.StatusCode, body, c.code, c.want)
		}
	}
	l.mu.Lock()
	all := strings.Join(l.asked, "\n")
	l.gone = true
	l.mu.Unlock()
	for _, want := range []string{"stop j false true", "stop j true true", "resume j true 0 true", "drain w true",
		"pause j true", "checkpoint j", "delete j true", "pin j 3 true", "unlink j 3", "tests j", "logs j w 0"} {
		if !strings.Contains(all, want) {
			t.Errorf("the leader was not asked to %q", want)
		}
	}
	if answer, body := call(t, "GET", h.URL+"/api/v1/jobs", "", nil); answer.StatusCode != 503 ||
		!strings.Contains(body, "nobody leads") {
		t.Errorf("without a leader: %d %s", answer.StatusCode, body)
	}
	if answer, _ := call(t, "GET", h.URL+"/readyz", "", nil); answer.StatusCode != 503 {
		t.Errorf("ready without a leader: %d", answer.StatusCode)
	}
	if answer, _ := call(t, "GET", h.URL+"/healthz", "", nil); answer.StatusCode != 200 {
		t.Errorf("alive without a leader: %d", answer.StatusCode)
	}
}

func TestEveryCallIsDocumented(t *testing.T) {
	s, _ := serve(t, &leader{}, nil)
	text, err := os.ReadFile("API.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range s.ways {
		if !strings.Contains(string(text), "`"+way+"`") {
			t.Errorf("API.md does not name %s", way)
		}
	}
}

func TestWhoMay(t *testing.T) {
	_, open := serve(t, &leader{}, func(c *Config) { c.Hosts = []string{"Known.example"} })
	_, closed := serve(t, &leader{}, func(c *Config) { c.Token = "0123456789abcdef" })
	host := func(name string) func(*http.Request) { return func(r *http.Request) { r.Host = name } }
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for _, c := range []struct {
		what, method, url string
		change            func(*http.Request)
		code              int
	}{
		{"localhost", "GET", open.URL + "/api/v1/jobs", host("localhost:1"), 200},
		{"an IPv6 address", "GET", open.URL + "/api/v1/jobs", host("[::1]:1"), 200},
		{"a known name", "GET", open.URL + "/api/v1/jobs", host("known.EXAMPLE"), 200},
		{"a stranger's name", "GET", open.URL + "/api/v1/jobs", host("evil.example:7401"), 421},
		{"a stranger's name for the page", "GET", open.URL + "/", host("localhost.evil.example"), 421},
		{"a stranger's name for a probe", "GET", open.URL + "/healthz", host("any"), 200},
		{"an action without its header", "POST", open.URL + "/api/v1/jobs/j/stop",
			func(r *http.Request) { r.Header.Del(ActionHeader) }, 403},
		{"an action of another page", "POST", open.URL + "/api/v1/jobs/j/stop", header("Origin", "http://evil.example"), 403},
		{"an action a browser calls foreign", "POST", open.URL + "/api/v1/jobs/j/stop",
			header("Sec-Fetch-Site", "cross-site"), 403},
		{"no token", "GET", closed.URL + "/api/v1/jobs", nil, 401},
		{"no token for metrics", "GET", closed.URL + "/metrics", nil, 401},
		{"a wrong token", "GET", closed.URL + "/api/v1/jobs", header("Authorization", "Bearer 0123456789abcdeF"), 401},
		{"a token of no kind", "GET", closed.URL + "/api/v1/jobs", header("Authorization", "0123456789abcdef"), 401},
		{"the token", "GET", closed.URL + "/api/v1/jobs", header("Authorization", "Bearer 0123456789abcdef"), 200},
		{"the page without a token", "GET", closed.URL + "/", nil, 200},
		{"a probe without a token", "GET", closed.URL + "/readyz", nil, 200},
	} {
		if answer, body := call(t, c.method, c.url, "", c.change); answer.StatusCode != c.code {
			t.Errorf("%s: %d, want %d: %s", c.what, answer.StatusCode, c.code, body)
		}
	}
}

// said is one event of a stream.
type said struct{ id, event, data string }

// listen opens a stream and returns how to receive its next event of a kind, with all since that was of another.
func listen(t *testing.T, url, last string) (next func(kind string) said, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	return func(kind string) said {
		t.Helper()
		var e said
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "id":
				e.id = value
			case "event":
				e.event = value
			case "data":
				e.data = value
			}
			if lines.Text() == "" {
				if e.event == kind {
					return e
				}
				e = said{}
			}
		}
		t.Fatalf("the stream ended before an event %q: %v", kind, lines.Err())
		return e
	}, cancel
}

// A stream that breaks goes on where it was: every event of the log and every sample comes once.
func TestStreamGoesOn(t *testing.T) {
	l := &leader{step: 1, events: []*clusterpb.LogEvent{{Index: 1, Text: "before"}}}
	s, h := serve(t, l, nil)
	seen(t, s)
	next, end := listen(t, h.URL+"/api/v1/stream?job=j", "")
	next("leader")
	if got := next("job").data; !strings.Contains(got, `"phase_seconds":{"conv1":1`) || strings.Contains(got, "job: j") {
		t.Errorf("the job is %s", got)
	}
	l.set(func() { l.step, l.events = 2, append(l.events, &clusterpb.LogEvent{Index: 2, Text: "two"}) })
	if got := next("events").data; !strings.Contains(got, "two") || strings.Contains(got, "before") {
		t.Errorf("events %s", got)
	}
	id := next("at").id
	end()
	for step := uint64(3); step <= 6; step++ {
		l.set(func() {
			l.step, l.events = step, append(l.events, &clusterpb.LogEvent{Index: step, Text: fmt.Sprint("e", step)})
		})
		for {
			now, changed := s.now()
			if len(now.list) > 0 && now.list[0].Step == step {
				break
			}
			<-changed
		}
	}
	next, end = listen(t, h.URL+"/api/v1/stream?job=j", id)
	defer end()
	var samples seriesReply
	if err := json.Unmarshal([]byte(next("samples").data), &samples); err != nil {
		t.Fatal(err)
	}
	for _, one := range samples.Series {
		if one.Name == "loss" && fmt.Sprint(one.Step) != "[3 4 5 6]" && fmt.Sprint(one.Step) != "[2 3 4 5 6]" {
			t.Errorf("samples of steps %v", one.Step)
		}
	}
	got := next("events").data
	for i, want := range []string{"e3", "e4", "e5", "e6"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("event %d came %d times: %s", i+3, strings.Count(got, want), got)
		}
	}
	if strings.Contains(got, "two") {
		t.Errorf("an event came twice: %s", got)
	}
	l.set(func() { l.gone = true })
	if got := next("leader").data; got != `{"text":"nobody leads"}` {
		t.Errorf("without a leader: %s", got)
	}
	l.set(func() { l.gone = false })
	if got := next("leader").data; got != `{"text":""}` {
		t.Errorf("with a leader again: %s", got)
	}
}

// The logs' stream goes on behind the line that its id names, and lines that are not wanted are passed over.
func TestLogStream(t *testing.T) {
	_, h := serve(t, &leader{}, nil)
	next, end := listen(t, h.URL+"/api/v1/logs/stream?level=error", "")
	if got := next("logs"); got.id != "5-3" || strings.Contains(got.data, "WARN") || !strings.Contains(got.data, "ERROR") {
		t.Errorf("at first %+v", got)
	}
	end()
	next, end = listen(t, h.URL+"/api/v1/logs/stream", "5-2")
	defer end()
	if got := next("logs"); strings.Contains(got.data, "WARN") || !strings.Contains(got.data, "ERROR") {
		t.Errorf("behind the second line %+v", got)
	}
}

func TestStreamSaysWhatItCannotGoOnFrom(t *testing.T) {
	l := &leader{step: 1, events: []*clusterpb.LogEvent{{Index: 500}}}
	s, h := serve(t, l, nil)
	seen(t, s)
	next, end := listen(t, h.URL+"/api/v1/stream", "7-1")
	defer end()
	next("gap")
}

func TestPromtoolTakesTheMetrics(t *testing.T) {
	s, h := serve(t, &leader{step: 7}, nil)
	seen(t, s)
	_, text := call(t, "GET", h.URL+"/metrics", "", nil)
	for _, want := range []string{`colonnade_job_step{job="j"} 7`, `colonnade_job_test_error_ratio{job="j"} 0.5`,
		`colonnade_cell_phase_seconds{job="j",cell="r0c0",phase="wait"} 3`, `colonnade_raft_leader 1`,
		`colonnade_worker_cells{worker="w",name="\"odd\\\n"} 0`} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	document, err := os.ReadFile("API.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(text, "\n") {
		if name, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, _, _ = strings.Cut(name, " ")
			short := "`" + strings.TrimPrefix(name, "colonnade_job") + "`"
			if !strings.Contains(string(document), name) && !strings.Contains(string(document), short) {
				t.Errorf("API.md does not name %s", name)
			}
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("not checked by promtool: it is not installed (Debian package prometheus)")
	}
	cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

func TestBriefJobsStayWhole(t *testing.T) {
	l := &leader{step: 3}
	before := proto.Clone(l.theJob())
	j := l.theJob()
	measure(j)
	if !proto.Equal(before, j) {
		t.Error("measuring changes the job")
	}
}
