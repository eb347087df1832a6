package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

// workerState is what status says of a worker.
func (r *rig) workerState(id string) string {
	r.t.Helper()
	synctest.Wait()
	var s clusterpb.StatusReply
	r.Status(r.ctx, &s, true)
	for _, w := range s.Workers {
		if w.Id == id {
			return w.State
		}
	}
	return "unknown"
}

func TestAttachRefusesWhatCannotBe(t *testing.T) {
	inBubble(t, func(r *rig) {
		for name, spoil := range map[string]func(*clusterpb.Register){
			"protocol":    func(g *clusterpb.Register) { g.Protocol = 99 },
			"id":          func(g *clusterpb.Register) { g.Worker = "" },
			"incarnation": func(g *clusterpb.Register) { g.Incarnation = "" },
			"address":     func(g *clusterpb.Register) { g.Address = "" },
			"device":      func(g *clusterpb.Register) { g.Device = nil },
		} {
			g := registration("a")
			spoil(g)
			if _, err := r.Attach(r.ctx, g); !errors.Is(err, ErrRegister) {
				t.Errorf("a registration with a bad %s gives %v", name, err)
			}
		}
		if n := count[*commandpb.Command_RegisterWorker](r.node); n > 0 {
			t.Errorf("%d bad registrations are in the log", n)
		}
	})
}

// A registration changes the state, which wakes the loop: it must not find a worker that has no session, nor judge one
// by the session that it lost long ago.
func TestWorkerThatJoinsIsNotLost(t *testing.T) {
	inBubble(t, func(r *rig) {
		time.Sleep(time.Minute) // this leader has long begun to judge
		r.attach(registration("back")).Detach()
		time.Sleep(time.Minute)
		if s := r.workerState("back"); s != "gone" {
			t.Fatalf("a worker that went a minute ago is %s", s)
		}
		losses := count[*commandpb.Command_LoseWorker](r.node)
		r.node.hook(nil, func(c *commandpb.Command) {
			if c.GetRegisterWorker() != nil {
				time.Sleep(2 * time.Second) // the loop decides before the session learns that it is registered
			}
		})
		for _, id := range []string{"new", "back"} {
			w := r.attach(registration(id))
			if n := count[*commandpb.Command_LoseWorker](r.node); n != losses || r.workerState(id) != "connected" {
				t.Errorf("worker %s: %d losses, it is %s", id, n-losses, r.workerState(id))
			}
			w.Detach()
			time.Sleep(time.Minute)
			losses++
		}
	})
}

func TestRegistrationThatIsNotWrittenLeavesNoSession(t *testing.T) {
	inBubble(t, func(r *rig) {
		broken := errors.New("log is broken")
		r.node.hook(func(*commandpb.Command) error { return broken }, nil)
		if _, err := r.Attach(r.ctx, registration("a")); !errors.Is(err, broken) {
			t.Errorf("attach gives %v", err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.sessions) > 0 {
			t.Error("a session is left")
		}
	})
}

func TestGraceThenLossThenRecovery(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		r.beat(5*time.Second, a, b)
		b.Detach()
		r.beat(500*time.Millisecond, a)
		if s := r.workerState("b"); s != "silent" {
			t.Errorf("within its grace a worker is %s", s)
		}
		a.quiet()
		r.beat(600*time.Millisecond, a)
		if s := r.workerState("b"); s != "gone" {
			t.Errorf("after its grace a worker is %s", s)
		}
		if m := a.next().GetRevoke(); m.GetGeneration() != 1 {
			t.Errorf("the other worker is told %v", m)
		}
		if j := r.job(); j.State != fsm.Recovering || !strings.Contains(j.Reason, "name-b is lost") {
			t.Errorf("the job is %s: %s", j.State, j.Reason)
		}
		r.beat(3*time.Second, a)
		if m := a.next().GetAssign(); m.GetGeneration() != 2 || len(m.Cells) != 2 {
			t.Errorf("after the wait for others the one left is told %v", m)
		}
	})
}

func TestReconnectWithinGraceLeavesItAlone(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		r.beat(5*time.Second, a, b)
		b.Detach()
		r.beat(500*time.Millisecond, a)
		again := registration("b")
		again.Running = []*clusterpb.Running{{Job: "j", Generation: 1}}
		b = r.attach(again)
		r.beat(10*time.Second, a, b)
		a.quiet()
		b.quiet()
		if g := r.job().Generation; g != 1 {
			t.Errorf("generation %d", g)
		}
	})
}

// An assignment may have been on its way when the stream broke: a worker that does not say that it runs it is told
// again, and so is one that was not told to stop.
func TestReconnectRepeatsWhatWasMissed(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		if err := r.Stop(r.ctx, "j", false, ""); err != nil {
			t.Fatal(err)
		}
		if m := a.next().GetStop(); m.GetGeneration() != 1 {
			t.Errorf("worker a is told %v", m)
		}
		b.Detach()
		b = r.attach2(registration("b"))
		all := b.pending()
		if len(all) != 2 || all[0].GetAssign().GetGeneration() != 1 || all[1].GetStop().GetGeneration() != 1 {
			t.Errorf("worker b is told %v, want its assignment and the stop", all)
		}
	})
}

// attach2 is attach that leaves what follows the welcome to be read.
func (r *rig) attach2(reg *clusterpb.Register) worker {
	r.t.Helper()
	s, err := r.Attach(r.ctx, reg)
	if err != nil {
		r.t.Fatal(err)
	}
	if m := s.Next(r.ctx); m.GetWelcome() == nil {
		r.t.Fatalf("a session begins with %v", m)
	}
	return worker{s, r}
}

func TestReconnectTakesBackWhatIsNoLongerSo(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		r.beat(5*time.Second, a, b)
		b.Detach()
		r.beat(2*time.Second, a) // b is lost
		a.pending()
		late := registration("b")
		late.Running = []*clusterpb.Running{{Job: "j", Generation: 1}, {Job: "unknown", Generation: 7}}
		b = r.attach2(late)
		var told []string
		for _, m := range b.pending() {
			told = append(told, fmt.Sprintf("%s/%d", m.GetRevoke().GetJob(), m.GetRevoke().GetGeneration()))
		}
		if !slices.Equal(told[:2], []string{"unknown/7", "j/1"}) {
			t.Errorf("revoked %v", told)
		}
	})
}

// A worker that starts again has lost what its cells had, however quickly it is back.
func TestRestartedWorkerEndsTheGeneration(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, old := r.running()
		again := registration("b")
		again.Incarnation = "second"
		b := r.attach2(again)
		old.over()
		r.beat(3*time.Second, a, b)
		all := a.pending()
		if len(all) != 2 || all[0].GetRevoke().GetGeneration() != 1 || all[1].GetAssign().GetGeneration() != 2 {
			t.Errorf("worker a is told %v", all)
		}
		if m := b.next().GetAssign(); m.GetGeneration() != 2 {
			t.Errorf("worker b is told %v", m)
		}
	})
}

// The stream of a worker may be half dead when it comes back: what the old one still says and its end change nothing.
func TestOldStreamCannotHarmTheNew(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, old := r.running()
		again := registration("b")
		again.Running = []*clusterpb.Running{{Job: "j", Generation: 1}}
		b := r.attach(again)
		old.over()
		status := func(step uint64) *clusterpb.Heartbeat {
			return &clusterpb.Heartbeat{Cells: []*clusterpb.CellStatus{{Job: "j", Generation: 1,
				Cell: &clusterpb.Cell{Column: 1}, Step: step}}}
		}
		b.Heartbeat(status(9))
		old.Heartbeat(status(5))
		if m := old.Next(r.ctx); m != nil {
			t.Errorf("the old stream is sent %v", m)
		}
		old.Detach()
		r.beat(10*time.Second, a, b)
		if j := r.job(); j.Step != 9 || j.Generation != 1 || r.workerState("b") != "connected" {
			t.Errorf("step %d, generation %d, worker %s", j.Step, j.Generation, r.workerState("b"))
		}
	})
}

// A worker that was silent for longer than its lease and goes on, on the same stream, has to register again: else it
// would be connected and lost for ever.
func TestSilentWorkerHasToRegisterAgain(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		r.beat(sched.DefaultRules.Lease+time.Second, a)
		if s := r.job().State; s != fsm.Recovering && s != fsm.Running {
			t.Errorf("the job is %s", s)
		}
		b.over()
		b.Detach()
		r.attach2(registration("b"))
		if s := r.workerState("b"); s != "connected" {
			t.Errorf("the worker is %s", s)
		}
		view, _ := r.node.View()
		if view.Workers["b"].Lost {
			t.Error("the worker is connected and lost")
		}
	})
}

func TestHeartbeatsAreOnlyOfPlacedCells(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, _ := r.running()
		for i := range int32(1000) {
			a.Heartbeat(&clusterpb.Heartbeat{Cells: []*clusterpb.CellStatus{
				{Job: "j", Generation: 1, Cell: &clusterpb.Cell{Column: i + 1}, Step: 77},
				{Job: "j", Generation: 2, Cell: &clusterpb.Cell{}, Step: 77},
				{Job: "other", Generation: 1, Cell: &clusterpb.Cell{Column: i}},
				{Job: "j", Generation: 1}, {}}})
		}
		a.Heartbeat(&clusterpb.Heartbeat{Cells: []*clusterpb.CellStatus{{Job: "j", Generation: 1, Cell: &clusterpb.Cell{},
			Step: 3}}})
		r.mu.Lock()
		jobs, cells := len(r.cells), len(r.cells["j"])
		r.mu.Unlock()
		if j := r.job(); j.Step != 3 || jobs != 1 || cells != 1 {
			t.Errorf("step %d, notes of %d jobs and %d cells", j.Step, jobs, cells)
		}
	})
}

func TestStopAtABoundary(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		for range 2 { // asking twice tells once
			if err := r.Stop(r.ctx, "j", false, ""); err != nil {
				t.Fatal(err)
			}
		}
		for i, w := range []worker{a, b} {
			if m := w.next().GetStop(); m.GetGeneration() != 1 {
				t.Errorf("worker is told %v", m)
			}
			w.report(1, 1, written(int32(i), 7))
		}
		if err := r.Resume(r.ctx, &commandpb.ResumeJob{Job: "j"}); !errors.Is(err, fsm.ErrJobState) ||
			!strings.Contains(err.Error(), "still stopping; resume it when") {
			t.Errorf("resuming a stopping job gives %v", err)
		}
		a.report(2, 1, &clusterpb.CellStopped{Cell: &clusterpb.Cell{}, Step: 7})
		if j := r.job(); j.State != fsm.Stopping {
			t.Errorf("with one cell stopped the job is %s", j.State)
		}
		b.report(2, 1, &clusterpb.CellStopped{Cell: &clusterpb.Cell{Column: 1}, Step: 7})
		if j := r.job(); j.State != fsm.Stopped || j.CommittedStep != 7 {
			t.Errorf("the job is %s at step %d", j.State, j.CommittedStep)
		}
		a.pending()
		if err := r.Stop(r.ctx, "j", false, ""); err != nil {
			t.Errorf("stopping a stopped job: %v", err)
		}
		if err := r.Resume(r.ctx, &commandpb.ResumeJob{Job: "j"}); err != nil {
			t.Fatal(err)
		}
		r.beat(3*time.Second, a, b)
		if m := a.next().GetAssign(); m.GetGeneration() != 2 || len(m.Restore) != 1 || m.Restore[0].Step != 7 ||
			m.Restore[0].Files[1].Address != "b:1" {
			t.Errorf("after the resume worker a is told %v", m)
		}
	})
}

func TestStopNow(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, _ := r.running()
		if err := r.Stop(r.ctx, "j", true, ""); err != nil {
			t.Fatal(err)
		}
		if m := a.next().GetRevoke(); m.GetGeneration() != 1 {
			t.Errorf("worker is told %v", m)
		}
		if j := r.job(); j.State != fsm.Stopped {
			t.Errorf("the job is %s", j.State)
		}
	})
}

// A job that was stopping when everything was killed is resumed once it has stopped.
func TestSubmitWithResumeWaitsForAStop(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		if err := r.Stop(r.ctx, "j", false, ""); err != nil {
			t.Fatal(err)
		}
		submitted := make(chan error, 1)
		go func() {
			_, err := r.Submit(r.ctx, spec(t, "j", ""), true, "")
			submitted <- err
		}()
		synctest.Wait()
		select {
		case err := <-submitted:
			t.Fatalf("submitted while the job stops: %v", err)
		default:
		}
		b.Detach() // and is lost, which ends the stopping
		r.beat(2*time.Second, a)
		if err := <-submitted; err != nil {
			t.Fatal(err)
		}
		if j := r.job(); j.State != fsm.Queued && j.State != fsm.Running {
			t.Errorf("the job is %s", j.State)
		}
		if _, err := r.Submit(r.ctx, spec(t, "j", ""), true, ""); err != nil {
			t.Errorf("submitting with resume what is under way: %v", err)
		}
	})
}

func TestSubmitOfATakenName(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.submit()
		for change, want := range map[string]string{
			"":                     "exists already and is queued; go on with it by submitting with --resume",
			"evaluate: {every: 3}": "is another one: its network, data, recipe or winograd differ; give this one another name",
			"winograd: off":        "is another one",
		} {
			_, err := r.Submit(r.ctx, spec(t, "j", change), false, "")
			if !errors.Is(err, fsm.ErrJobExists) || !strings.Contains(err.Error(), want) {
				t.Errorf("with %q: %v", change, err)
			}
		}
		if _, err := r.Submit(r.ctx, spec(t, "j", "augment: {flip: true}"), true, ""); !errors.Is(err, fsm.ErrJobExists) {
			t.Errorf("resuming as another job: %v", err)
		}
		if _, err := r.Submit(r.ctx, []byte("nonsense"), false, ""); err == nil {
			t.Error("nonsense is a job")
		}
	})
}

func TestResumeOfWhatCannotBe(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		want := func(req *commandpb.ResumeJob, known error, text string) {
			t.Helper()
			if err := r.Resume(r.ctx, req); !errors.Is(err, known) || !strings.Contains(err.Error(), text) {
				t.Errorf("%v", err)
			}
		}
		want(&commandpb.ResumeJob{Job: "none"}, fsm.ErrNoJob, "coordinator job list")
		want(&commandpb.ResumeJob{Job: "j"}, fsm.ErrJobState, "is running already; follow it with")
		for i, w := range []worker{a, b} {
			w.report(1, 1, written(int32(i), jobSteps))
			w.report(2, 1, &clusterpb.CellFinished{Cell: &clusterpb.Cell{Column: int32(i)}, Step: jobSteps,
				Digest: written(int32(i), jobSteps).File.Digest})
		}
		want(&commandpb.ResumeJob{Job: "j"}, fsm.ErrJobState, "is done, there is nothing to resume")
		if j := r.job(); j.State != fsm.Done || len(j.Digest) != 32 {
			t.Errorf("the job is %s, digest %x", j.State, j.Digest)
		}
	})
}

// While the log is slow a worker's heartbeats wait behind its report: that is not its silence.
func TestSlowLogIsNotTheWorkersSilence(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		r.node.hook(func(c *commandpb.Command) error {
			if c.GetCheckpointWritten() != nil {
				time.Sleep(sched.DefaultRules.Lease - 100*time.Millisecond)
			}
			return nil
		}, nil)
		r.beat(time.Second, a, b)
		reported := make(chan struct{})
		go func() {
			defer close(reported)
			a.Report(r.ctx, report(1, 1, written(0, 10)))
		}()
		r.beat(sched.DefaultRules.Lease, b)
		<-reported
		r.beat(500*time.Millisecond, b)
		if n := count[*commandpb.Command_LoseWorker](r.node); n > 0 || r.job().State != fsm.Running {
			t.Errorf("%d workers are lost, the job is %s", n, r.job().State)
		}
	})
}
