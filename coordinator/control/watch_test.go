package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
)

// says sends a heartbeat about a column of job j.
func (w worker) says(column int32, change func(*clusterpb.CellStatus)) {
	s := &clusterpb.CellStatus{Job: "j", Generation: 1, Cell: &clusterpb.Cell{Column: column}, Step: 811, Kind: "forward",
		Phase: "conv3", InPhaseSeconds: 0.02, UsualSeconds: 0.04, BusySeconds: 0.1, Memory: "shm"}
	if change != nil {
		change(s)
	}
	w.Heartbeat(&clusterpb.Heartbeat{Cells: []*clusterpb.CellStatus{s}})
}

// waiting is a cell that waits for the other column.
func waiting(seconds float64) func(*clusterpb.CellStatus) {
	return func(s *clusterpb.CellStatus) {
		s.Kind, s.Phase, s.InPhaseSeconds = "wait", "conv3 wait for column 1", seconds
		s.WaitsFor = []*clusterpb.Cell{{Column: 1}}
	}
}

// hangs are the events about workers that do not get on.
func (r *rig) hangs() (out []string) {
	view, _ := r.node.View()
	for _, e := range view.Events {
		if e.Kind == "hang" {
			out = append(out, e.Text)
		}
	}
	return out
}

// A worker that is silent is named once, in the log, in its note and in the job's reason; when it is heard of again
// that is written down too, and nothing else has happened.
func TestStoppedWorkerIsNamed(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		b.says(1, nil)
		stopped := time.Now()
		named := time.Duration(0)
		for n := 0; n < 20 && named == 0; n++ {
			r.beat(100 * time.Millisecond)
			if n%5 == 0 {
				a.says(0, waiting(time.Since(stopped).Seconds()))
			}
			if r.job(); len(r.hangs()) > 0 {
				named = time.Since(stopped)
			}
		}
		want := "worker name-b (device) has stopped: r0c1 in forward conv3 of step 812 for 1.2 s; r0c0 waits for it"
		if all := r.hangs(); named == 0 || named > 2*time.Second || len(all) != 1 || all[0] != want {
			t.Fatalf("after %v: %q", named, all)
		}
		if why := r.job().Reason; !strings.Contains(why, "; worker name-b (device) has stopped: r0c1 in forward conv3") {
			t.Errorf("the job's reason is %s", why)
		}
		if w := r.Worker("b"); !strings.Contains(w.Note, "has stopped") || w.State != "connected" {
			t.Errorf("the worker is %v", w)
		}
		b.says(1, nil)
		r.beat(500*time.Millisecond, a, b)
		if all := r.hangs(); len(all) != 2 || all[1] != "worker name-b is heard of again" {
			t.Errorf("when it is back: %q", all)
		}
		if j := r.job(); j.Generation != 1 || strings.Contains(j.Reason, "stopped") || r.Worker("b").Note != "" {
			t.Errorf("the job is %s at generation %d", j.Reason, j.Generation)
		}
	})
}

// A stuck worker is replaced when its grace is over; it is given nothing while it works on what it hung in, and is a
// spare when that has ended.
func TestStuckWorkerIsReplaced(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		c := r.attach(registration("c"))
		began := time.Now()
		for time.Since(began) < sched.DefaultPatience.Grace+2*time.Second && r.job().State == fsm.Running {
			a.says(0, waiting(time.Since(began).Seconds()))
			b.says(1, func(s *clusterpb.CellStatus) { s.InPhaseSeconds = time.Since(began).Seconds() })
			c.Heartbeat(&clusterpb.Heartbeat{})
			r.beat(500 * time.Millisecond)
		}
		all := r.hangs()
		if len(all) == 0 || !strings.HasPrefix(all[0],
			"worker name-b (device) is stuck: r0c1 in forward conv3 of step 812 for 1.0 s; r0c0 waits for it") {
			t.Errorf("named: %q", all)
		}
		if took := time.Since(began); took < sched.DefaultPatience.Grace || took > sched.DefaultPatience.Grace+2*time.Second {
			t.Errorf("replaced after %v", took)
		}
		b.over()
		again := registration("b")
		again.Running = []*clusterpb.Running{{Job: "j", Generation: 1}}
		b = r.attach2(again)
		if note := r.Worker("b").Note; !strings.Contains(note, "hangs in what it was given") {
			t.Errorf("its note is %q", note)
		}
		stuck := func(s *clusterpb.CellStatus) { s.InPhaseSeconds = 20 }
		for range 10 {
			b.says(1, stuck)
			r.beat(500*time.Millisecond, a, c)
		}
		j := r.job()
		for _, p := range j.Placement {
			if p.Worker == "b" {
				t.Errorf("generation %d has a cell on the worker that hangs", j.Generation)
			}
		}
		if j.State != fsm.Running || j.Generation != 2 {
			t.Errorf("the job is %s, generation %d: %s", j.State, j.Generation, j.Reason)
		}
		b.Heartbeat(&clusterpb.Heartbeat{}) // it has come out of it
		b.over()
		r.attach2(registration("b"))
		if w := r.Worker("b"); w.Note != "" || w.State != "connected" {
			t.Errorf("the worker is %v", w)
		}
	})
}

// Cells that wait for each other are nobody's fault: their generation ends when the grace is over.
func TestLockedCellsBeginAnew(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		began := time.Now()
		for time.Since(began) < sched.DefaultPatience.Grace+2*time.Second && r.job().Generation == 1 {
			a.says(0, waiting(time.Since(began).Seconds()))
			b.says(1, func(s *clusterpb.CellStatus) {
				waiting(time.Since(began).Seconds())(s)
				s.WaitsFor = []*clusterpb.Cell{{}}
			})
			r.beat(500 * time.Millisecond)
		}
		if all := r.hangs(); len(all) == 0 || !strings.Contains(all[0], "its cells wait for each other") {
			t.Errorf("named: %q", all)
		}
		if j := r.job(); j.Generation == 1 && j.State == fsm.Running {
			t.Errorf("the job is %s: %s", j.State, j.Reason)
		}
		view, _ := r.node.View()
		if view.Workers["a"].Lost || view.Workers["b"].Lost {
			t.Error("a worker is given up")
		}
	})
}

// A worker that is drained is told so, its cells stop at a step boundary and go on on the spare, and then it is told
// that it may end. Its undoing is told too.
func TestDrain(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		c := r.attach2(registration("c"))
		c.pending()
		if err := r.Drain(r.ctx, "b", false); err != nil {
			t.Fatal(err)
		}
		told := fmt.Sprint(b.pending())
		if !strings.Contains(told, "draining:true") || !strings.Contains(told, "stop:{") {
			t.Errorf("it is told %s", told)
		}
		if j := r.job(); j.State != "moving" || !strings.Contains(j.Reason, "worker name-b is drained") {
			t.Errorf("the job is %s: %s", j.State, j.Reason)
		}
		for i, w := range []worker{a, b} {
			w.report(1, 1, written(int32(i), 7))
			w.report(2, 1, &clusterpb.CellStopped{Cell: &clusterpb.Cell{Column: int32(i)}, Step: 7})
		}
		b.pending()
		if w := r.Worker("b"); w.Drained {
			t.Error("it is drained before its successor has what it wrote")
		}
		r.beat(4*time.Second, a, b, c)
		j := r.job()
		if j.State != fsm.Running || j.Generation != 2 || j.Placement[1].Worker != "c" || j.CommittedStep != 7 {
			t.Fatalf("the job is %s, generation %d, at step %d on %v", j.State, j.Generation, j.CommittedStep, j.Placement)
		}
		second := func(s *clusterpb.CellStatus) { s.Generation = 2 }
		a.says(0, second)
		c.says(1, second)
		r.beat(time.Second, a, b, c)
		if w := r.Worker("b"); !w.Drained || !strings.Contains(fmt.Sprint(b.pending()), "drained:true") {
			t.Errorf("when its cell is elsewhere it is %v", w)
		}
		if err := r.Drain(r.ctx, "b", true); err != nil {
			t.Fatal(err)
		}
		if told := fmt.Sprint(b.pending()); !strings.Contains(told, "drain:{}") || r.Worker("b").Draining {
			t.Errorf("when it is undone it is told %s", told)
		}
	})
}

// A spare is told once which job to be ready for.
func TestSparesAreWarm(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.running()
		reg := registration("c")
		reg.Memory = true
		c := r.attach2(reg)
		all := c.pending()
		if len(all) != 1 || all[0].GetWarm().GetJob() != "j" || len(all[0].GetWarm().GetSpec()) == 0 {
			t.Errorf("it is told %v", all)
		}
		r.beat(time.Second, c)
		c.quiet()
	})
}
