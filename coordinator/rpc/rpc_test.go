package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"colonnade/coordinator/control"
	"colonnade/coordinator/fsm"
	"colonnade/coordinator/raftnode"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
	"colonnade/shard"
	"colonnade/shard/job"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rules do not wait for more workers than there are.
var rules = sched.Rules{Lease: time.Minute, Grace: time.Second}

// limit ends a test that hangs.
const limit = 5 * time.Minute

// trapNode is a node that panics over one kind of command, and takes another only when it may.
type trapNode struct {
	*raftnode.Node
	may chan struct{}
}

func (n trapNode) Apply(ctx context.Context, c *commandpb.Command) (fsm.Result, error) {
	if c.GetMarkCheckpointBad() != nil {
		select {
		case <-n.may:
		case <-ctx.Done():
			return fsm.Result{}, context.Cause(ctx)
		}
	}
	if c.GetCellStopped() != nil {
		panic("trapped")
	}
	return n.Node.Apply(ctx, c)
}

// cluster is a coordinator in this process and connections to it.
type cluster struct {
	t        *testing.T
	ctx      context.Context
	may      chan struct{} // closed: marks of checkpoints are taken
	control  *control.Control
	server   *grpc.Server
	operator clusterpb.OperatorClient
	sessions clusterpb.SessionClient
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// newCluster starts a coordinator and waits until it leads; all of it has ended when the test has.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	peers, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n, err := raftnode.New(raftnode.Config{Directory: t.TempDir(), Address: "127.0.0.1:0",
		Streams: raftnode.Loopback{Listener: peers}, Log: quiet(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, may: make(chan struct{})}
	c.control = control.New(control.Config{Node: trapNode{n, c.may}, Rules: rules, Now: time.Now,
		Log: quiet()})
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	c.ctx = ctx
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.control.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	c.serve(&Server{Control: c.control, Node: n, Version: "v", Log: quiet()})
	if err := c.control.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return c
}

// serve serves on loopback and connects.
func (c *cluster) serve(s *Server) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.server = grpc.NewServer(s.Options()...)
	s.Register(c.server)
	served := make(chan error, 1)
	go func() { served <- c.server.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		c.t.Fatal(err)
	}
	c.operator, c.sessions = clusterpb.NewOperatorClient(conn), clusterpb.NewSessionClient(conn)
	c.t.Cleanup(func() {
		conn.Close()
		c.server.Stop()
		<-served
	})
}

func spec(t *testing.T, name string) []byte {
	t.Helper()
	j, err := job.Parse("job.yaml", fmt.Appendf(nil, "job: %s\nnetwork: tiny\ndata: {train: t.pack}\n"+
		"recipe: {batch: 4, steps: 100, rate: 0.1}\n", name))
	if err != nil {
		t.Fatal(err)
	}
	text, err := shard.EmbeddedText("tiny")
	if err != nil {
		t.Fatal(err)
	}
	pack := &job.Pack{Path: "/t.pack", ID: "ab", Images: 40, Channels: 1, Height: 12, Width: 12, Classes: 8}
	if err := j.Resolve(text, pack, nil); err != nil {
		t.Fatal(err)
	}
	return j.Encode()
}

func (c *cluster) submit(name string) {
	c.t.Helper()
	if _, err := c.operator.SubmitJob(c.ctx, &clusterpb.SubmitJobRequest{Spec: spec(c.t, name)}); err != nil {
		c.t.Fatal(err)
	}
}

// stream is a worker's session.
type stream struct {
	grpc.BidiStreamingClient[clusterpb.WorkerMessage, clusterpb.CoordinatorMessage]
	t *testing.T
}

func (c *cluster) attach(first *clusterpb.WorkerMessage) stream {
	c.t.Helper()
	s, err := c.sessions.Attach(c.ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	stream := stream{s, c.t}
	stream.send(first)
	return stream
}

func (s stream) send(m *clusterpb.WorkerMessage) {
	s.t.Helper()
	if err := s.Send(m); err != nil {
		s.t.Fatal(err)
	}
}

func (s stream) heartbeat(step uint64) {
	s.t.Helper()
	s.send(&clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Heartbeat{Heartbeat: &clusterpb.Heartbeat{
		Cells: []*clusterpb.CellStatus{{Job: "j", Generation: 1, Cell: &clusterpb.Cell{}, Step: step,
			PhaseSeconds: map[string]float64{"conv1": 1}}}}}})
}

func register(worker string) *clusterpb.WorkerMessage {
	return &clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Register{Register: &clusterpb.Register{Worker: worker,
		Name: worker, Address: "w:1", Incarnation: "1", Protocol: control.Protocol,
		Device: &clusterpb.Device{Numerics: "n"}}}}
}

// until receives until a message is of a kind.
func until[T any](s stream, get func(*clusterpb.CoordinatorMessage) *T) *T {
	s.t.Helper()
	for {
		m, err := s.Recv()
		if err != nil {
			s.t.Fatalf("session ended: %v", err)
		}
		if got := get(m); got != nil {
			return got
		}
	}
}

// broken receives until the session ends.
func (s stream) broken() error {
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
}

func TestErrorsSurviveTheWire(t *testing.T) {
	reasons := map[string]codes.Code{}
	for _, k := range known {
		text := fmt.Sprintf("job x: %v; do this", k.err)
		onWire := status.Convert(toStatus(fmt.Errorf("job x: %w; do this", k.err))).Proto()
		got := FromStatus(status.FromProto(onWire).Err())
		if !errors.Is(got, k.err) {
			t.Errorf("%v arrives as %v", k.err, got)
		}
		if got.Error() != text {
			t.Errorf("%q arrives as %q", text, got)
		}
		if codes.Code(onWire.Code) != k.code {
			t.Errorf("%v has code %v", k.err, onWire.Code)
		}
		if code, twice := reasons[k.reason]; twice && code != k.code {
			t.Errorf("reason %s has codes %v and %v", k.reason, code, k.code)
		}
		reasons[k.reason] = k.code
		for _, other := range known {
			if other.reason != k.reason && errors.Is(got, other.err) {
				t.Errorf("%v arrives as %v too", k.err, other.err)
			}
		}
	}
}

func TestOtherErrorsStayWhatTheyAre(t *testing.T) {
	if toStatus(nil) != nil || FromStatus(nil) != nil {
		t.Error("no error becomes one")
	}
	if err := toStatus(errors.New("odd")); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "odd") {
		t.Errorf("an unknown error becomes %v", err)
	}
	given := status.Error(codes.InvalidArgument, "bad")
	if toStatus(given) != given || FromStatus(given) != given {
		t.Error("a status does not stay as it is")
	}
	plain := errors.New("plain")
	if FromStatus(plain) != plain {
		t.Error("an error that is no status does not stay as it is")
	}
}

func TestHandlersRefuse(t *testing.T) {
	c := newCluster(t)
	c.submit("j")
	watch := func(name string) error {
		s, err := c.operator.WatchJob(c.ctx, &clusterpb.GetJobRequest{Name: name})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	get := func(call func(context.Context, *clusterpb.GetJobRequest, ...grpc.CallOption) error) func(string) error {
		return func(name string) error { return call(c.ctx, &clusterpb.GetJobRequest{Name: name}) }
	}
	byName := map[string]func(name string) error{
		"watch": watch,
		"get": get(func(ctx context.Context, r *clusterpb.GetJobRequest, o ...grpc.CallOption) error {
			_, err := c.operator.GetJob(ctx, r, o...)
			return err
		}),
		"checkpoints": get(func(ctx context.Context, r *clusterpb.GetJobRequest, o ...grpc.CallOption) error {
			_, err := c.operator.ListCheckpoints(ctx, r, o...)
			return err
		}),
		"stop": func(name string) error {
			_, err := c.operator.StopJob(c.ctx, &clusterpb.StopJobRequest{Name: name})
			return err
		},
		"resume": func(name string) error {
			_, err := c.operator.ResumeJob(c.ctx, &clusterpb.ResumeJobRequest{Name: name})
			return err
		},
	}
	for what, call := range byName {
		if err := call(""); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(),
			"see: coordinator job list") {
			t.Errorf("%s without a name: %v", what, err)
		}
		if err := call("none"); !errors.Is(FromStatus(err), fsm.ErrNoJob) || !strings.Contains(err.Error(),
			"see: coordinator job list") {
			t.Errorf("%s of no job: %v", what, err)
		}
	}
	if err := byName["resume"]("j"); !errors.Is(FromStatus(err), fsm.ErrJobState) {
		t.Errorf("resuming what runs: %v", err)
	}
	_, err := c.operator.SubmitJob(c.ctx, &clusterpb.SubmitJobRequest{Spec: []byte("nonsense")})
	if !errors.Is(FromStatus(err), job.ErrJob) {
		t.Errorf("submitting nonsense: %v", err)
	}
	if _, err = c.operator.SubmitJob(c.ctx, &clusterpb.SubmitJobRequest{Spec: spec(t,
		"j")}); !errors.Is(FromStatus(err), fsm.ErrJobExists) {
		t.Errorf("submitting again: %v", err)
	}
	if _, err := c.operator.StopJob(c.ctx, &clusterpb.StopJobRequest{Name: "j"}); err != nil {
		t.Fatal(err)
	}
	_, err = c.operator.ResumeJob(c.ctx, &clusterpb.ResumeJobRequest{Name: "j", Step: 7, FromStep: true})
	if !errors.Is(FromStatus(err), fsm.ErrNoCheckpoint) {
		t.Errorf("resuming from no checkpoint: %v", err)
	}
}

func TestSessionsBeginWithARegistration(t *testing.T) {
	c := newCluster(t)
	heartbeat := &clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Heartbeat{Heartbeat: &clusterpb.Heartbeat{}}}
	if err := c.attach(heartbeat).broken(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a session that begins with a heartbeat: %v", err)
	}
	if err := c.attach(&clusterpb.WorkerMessage{}).broken(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a session that begins with nothing: %v", err)
	}
	other := register("a")
	other.GetRegister().Protocol++
	s := c.attach(other)
	if g := until(s, (*clusterpb.CoordinatorMessage).GetGoodbye); !strings.Contains(g.Reason, "run the same version") {
		t.Errorf("goodbye: %s", g.Reason)
	}
	if err := s.broken(); !errors.Is(err, io.EOF) {
		t.Errorf("after the goodbye: %v", err)
	}
	s = c.attach(register("a"))
	until(s, (*clusterpb.CoordinatorMessage).GetWelcome)
	s.send(register("a"))
	if err := s.broken(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a second registration within a session: %v", err)
	}
}

// A log that is slow to take a report keeps nobody's heartbeats waiting, and what is reported is written in order.
func TestHeartbeatsDoNotWaitForTheLog(t *testing.T) {
	c := newCluster(t)
	c.submit("j")
	s := c.attach(register("a"))
	until(s, (*clusterpb.CoordinatorMessage).GetWelcome)
	bad := func(sequence uint64) *clusterpb.WorkerMessage {
		return &clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Report{Report: &clusterpb.Report{Sequence: sequence,
			Job: "j", Generation: 1, Kind: &clusterpb.Report_Bad{Bad: &clusterpb.CheckpointBad{Step: 1,
				Cell: &clusterpb.Cell{}, Reason: "rot"}}}}}
	}
	s.send(bad(1))
	s.send(bad(2))
	for range 3 {
		s.send(&clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Heartbeat{Heartbeat: &clusterpb.Heartbeat{}}})
		if a := until(s, (*clusterpb.CoordinatorMessage).GetAck); a.Sequence != 0 {
			t.Fatalf("report %d is acknowledged, and the log has not taken it", a.Sequence)
		}
	}
	close(c.may)
	for want := uint64(1); want <= 2; want++ {
		if a := until(s, (*clusterpb.CoordinatorMessage).GetAck); a.Sequence != want {
			t.Fatalf("report %d is acknowledged, want %d", a.Sequence, want)
		}
	}
}

func TestNewSessionEndsTheOld(t *testing.T) {
	c := newCluster(t)
	old := c.attach(register("a"))
	until(old, (*clusterpb.CoordinatorMessage).GetWelcome)
	s := c.attach(register("a"))
	until(s, (*clusterpb.CoordinatorMessage).GetWelcome)
	if err := old.broken(); status.Code(err) != codes.Unavailable {
		t.Errorf("the old session: %v", err)
	}
	c.submit("j")
	if a := until(s, (*clusterpb.CoordinatorMessage).GetAssign); a.Job != "j" || len(a.Cells) != 2 {
		t.Errorf("assigned %v", a)
	}
}

// next receives an update of a watch.
func next(t *testing.T, w grpc.ServerStreamingClient[clusterpb.JobUpdate]) *clusterpb.JobUpdate {
	t.Helper()
	u, err := w.Recv()
	if err != nil {
		t.Fatalf("watch: %v", err)
	}
	return u
}

func TestWatch(t *testing.T) {
	c := newCluster(t)
	c.submit("other")
	c.submit("j")
	w, err := c.operator.WatchJob(c.ctx, &clusterpb.GetJobRequest{Name: "j"})
	if err != nil {
		t.Fatal(err)
	}
	u := next(t, w)
	if u.Job.Name != "j" || u.Job.Spec != nil || len(u.Events) != 1 || u.Events[0].Job != "j" {
		t.Errorf("the first update is %v", u)
	}
	// The whole cluster's events follow, another job's never.
	if _, err := c.operator.StopJob(c.ctx, &clusterpb.StopJobRequest{Name: "other"}); err != nil {
		t.Fatal(err)
	}
	s := c.attach(register("a"))
	until(s, (*clusterpb.CoordinatorMessage).GetWelcome)
	until(s, (*clusterpb.CoordinatorMessage).GetAssign)
	var kinds []string
	for u = next(t, w); u.Job.State != fsm.Running; u = next(t, w) {
		for _, e := range u.Events {
			kinds = append(kinds, e.Kind)
		}
	}
	for _, e := range u.Events {
		kinds = append(kinds, e.Kind)
	}
	if got := strings.Join(kinds, " "); got != "worker generation" {
		t.Errorf("events of kinds %q", got)
	}
	// What the job does in between costs nothing: a slow watcher gets the newest state.
	began := time.Now()
	const beats = 1000
	for i := range uint64(beats) {
		s.heartbeat(i + 1)
	}
	updates := 0
	for ; u.Job.Step < beats; updates++ {
		u = next(t, w)
		for _, cell := range u.Job.Cells {
			if len(cell.PhaseSeconds) > 0 {
				t.Fatal("an update holds the times of every phase")
			}
		}
	}
	if most := int(time.Since(began)/watchEvery) + 2; updates > most {
		t.Errorf("%d updates, at most %d were due", updates, most)
	}
	if j, err := c.operator.GetJob(c.ctx, &clusterpb.GetJobRequest{Name: "j"}); err != nil ||
		len(j.Cells[0].PhaseSeconds) == 0 {
		t.Errorf("watching has changed the job: %v, %v", j, err)
	}
	if _, err := c.operator.StopJob(c.ctx, &clusterpb.StopJobRequest{Name: "j", Now: true}); err != nil {
		t.Fatal(err)
	}
	for u.Job.State != fsm.Stopped {
		u = next(t, w)
	}
	if _, err := w.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("a watch of a job that has ended: %v", err)
	}
}

func TestWatchEndsWithItsCaller(t *testing.T) {
	c := newCluster(t)
	c.submit("j")
	ctx, cancel := context.WithCancel(c.ctx)
	w, err := c.operator.WatchJob(ctx, &clusterpb.GetJobRequest{Name: "j"})
	if err != nil {
		t.Fatal(err)
	}
	next(t, w)
	cancel()
	for err == nil {
		_, err = w.Recv()
	}
	if status.Code(err) != codes.Canceled {
		t.Errorf("watch ends with %v", err)
	}
	c.server.GracefulStop() // returns when no handler is left
}

func TestPanicsEndOneCallOnly(t *testing.T) {
	c := newCluster(t)
	c.submit("j")
	s := c.attach(register("a"))
	until(s, (*clusterpb.CoordinatorMessage).GetAssign)
	s.send(&clusterpb.WorkerMessage{Kind: &clusterpb.WorkerMessage_Report{Report: &clusterpb.Report{Sequence: 1,
		Job:        "j",
		Generation: 1, Kind: &clusterpb.Report_Stopped{Stopped: &clusterpb.CellStopped{Cell: &clusterpb.Cell{}}}}}})
	internal := func(what string, err error) {
		t.Helper()
		if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "see the coordinator's log") {
			t.Errorf("%s: %v", what, err)
		}
	}
	internal("a session's reader", s.broken())
	if _, err := c.operator.Status(c.ctx, &clusterpb.StatusRequest{}); err != nil {
		t.Errorf("the coordinator does not answer any more: %v", err)
	}

	broken := &cluster{t: t, ctx: c.ctx}
	broken.serve(&Server{Log: quiet()}) // without what every handler needs
	_, err := broken.operator.Status(c.ctx, &clusterpb.StatusRequest{})
	internal("a call", err)
	w, err := broken.operator.WatchJob(c.ctx, &clusterpb.GetJobRequest{Name: "j"})
	if err == nil {
		_, err = w.Recv()
	}
	internal("a watch", err)
	internal("a session", broken.attach(register("a")).broken())
}

func TestStatusSaysWhoLeads(t *testing.T) {
	c := newCluster(t)
	s := c.attach(register("a"))
	until(s, (*clusterpb.CoordinatorMessage).GetWelcome)
	r, err := c.operator.Status(c.ctx, &clusterpb.StatusRequest{})
	if err != nil || r.Leader == "" || r.Leader != r.Node || r.Term == 0 || r.Version != "v" || len(r.Workers) != 1 {
		t.Errorf("status %v: %v", r, err)
	}
	list, err := c.operator.ListJobs(c.ctx, &clusterpb.ListJobsRequest{})
	if err != nil || len(list.Jobs) != 0 {
		t.Errorf("jobs %v: %v", list, err)
	}
}
