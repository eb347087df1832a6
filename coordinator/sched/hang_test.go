package sched

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"colonnade/coordinator/fsm"
)

// watch is a Watched under construction: job j of two columns on w0 and w1, at step 812 of which both are computing.
type watch struct{ Watched }

func newWatch() *watch {
	w := newWorld().worker("w0", "n0", 0).worker("w1", "n0", 0).worker("w2", "n0", 0).
		job("j", fsm.Running, 2, 0, "w0", "w1")
	for _, r := range w.View.Workers {
		r.Registered.Device.Name = "cpu"
	}
	out := &watch{Watched{View: w.View, Sessions: w.input().Sessions, Patience: DefaultPatience, Named: map[string]bool{},
		Cells: map[string][]Progress{}}}
	for i, id := range []string{"w0", "w1"} {
		out.Cells["j"] = append(out.Cells["j"], Progress{Cell: Place{Column: int32(i)}, Worker: id, Step: 811, Train: true,
			Phase: "forward conv3", InPhase: 20 * time.Millisecond, Usual: 40 * time.Millisecond,
			Busy: 100 * time.Millisecond, Best: 90 * time.Millisecond})
	}
	return out.heard(10, "w0", "w1", "w2")
}

// heard has workers heard of.
func (w *watch) heard(when float64, ids ...string) *watch {
	for _, id := range ids {
		w.Sessions.Of(id).Heard = at(when)
		for i := range w.Cells["j"] {
			if w.Cells["j"][i].Worker == id {
				w.Cells["j"][i].Heard = at(when)
			}
		}
	}
	return w
}

// waits has a column wait for the other.
func (w *watch) waits(column int32, phase string, inPhase float64) *watch {
	c := &w.Cells["j"][column]
	c.Phase, c.WaitsFor = phase, []Place{{Column: 1 - column}}
	c.InPhase = time.Duration(inPhase * float64(time.Second))
	return w
}

func (w *watch) cell(column int32, change func(*Progress)) *watch {
	change(&w.Cells["j"][column])
	return w
}

func TestJudge(t *testing.T) {
	for name, c := range map[string]struct {
		w    *watch
		now  float64
		want string // kind, worker, replaced, text; empty: nobody
		next float64
	}{
		"all get on": {newWatch(), 10.5, "", 11.2},
		"a stopped one": {newWatch().waits(0, "conv4 wait for column 1", 1.0).heard(11.2, "w0", "w2"), 11.4,
			"stopped w1 false worker w1 (cpu) has stopped: r0c1 in forward conv3 of step 812 for 1.4 s; r0c0 waits for it",
			12.4},
		"others have seen it further than it could say": {newWatch().waits(0, "fc6 wait for column 1", 1.0).
			cell(0, func(p *Progress) { p.Step = 814 }).heard(11.2, "w0", "w2"), 11.4,
			"stopped w1 false worker w1 (cpu) has stopped: r0c1 before \"fc6 wait for column 1\" of step 815 for 1.2 s " +
				"(it was last heard of in forward conv3 of step 812); r0c0 waits for it", 12.4},
		"a spare that has stopped": {newWatch().heard(11.2, "w0", "w1"), 11.4,
			"stopped w2 false worker w2 (cpu) has stopped: not heard of for 1.4 s", 12.4},
		"a stuck one": {newWatch().waits(0, "conv4 wait for column 1", 1.1).
			cell(1, func(p *Progress) { p.InPhase = 1100 * time.Millisecond }), 10.1,
			"stuck w1 false worker w1 (cpu) is stuck: r0c1 in forward conv3 of step 812 for 1.2 s; r0c0 waits for it; " +
				"usually it takes 0.04 s", 11.2},
		"a stuck one, when the grace is over": {newWatch().waits(0, "conv4 wait for column 1", 11).
			cell(1, func(p *Progress) { p.InPhase = 11 * time.Second }), 10.1,
			"stuck w1 true worker w1 (cpu) is stuck: r0c1 in forward conv3 of step 812 for 11.1 s; r0c0 waits for it; " +
				"usually it takes 0.04 s", 11.2},
		"a phase that usually takes long": {newWatch().waits(0, "conv4 wait for column 1", 1.1).
			cell(1, func(p *Progress) { p.InPhase, p.Usual = 1100*time.Millisecond, time.Second }), 10.1, "", 11.2},
		"nobody waits for it": {newWatch().cell(1, func(p *Progress) { p.InPhase = 2 * time.Second }), 10.1, "", 11.2},
		"it is not known what is usual": {newWatch().waits(0, "conv4 wait for column 1", 1.1).
			cell(1, func(p *Progress) { p.Train, p.Phase, p.InPhase, p.Usual = false, "restore", 20*time.Second, 0 }),
			10.1, "", 11.2},
		"half a minute of what may take long": {newWatch().waits(0, "conv4 wait for column 1", 31).
			cell(1, func(p *Progress) { p.Train, p.Phase, p.InPhase, p.Usual = false, "restore", 31*time.Second, 0 }), 10.1,
			"stuck w1 false worker w1 (cpu) is stuck: r0c1 in restore for 31.1 s; r0c0 waits for it", 11.2},
		"a chain has one end": {newWatch().waits(0, "guard", 5).waits(1, "guard", 0.5), 10.1, "", 11.2},
		"all wait for each other": {newWatch().waits(0, "guard", 5).waits(1, "fc6 wait for column 0", 4), 10.1,
			"locked  false job j does not get on: its cells wait for each other for 5.1 s: r0c0 for r0c1 in guard of step " +
				"812, r0c1 for r0c0 in fc6 wait for column 0 of step 812", 11.2},
		"all wait for each other, when the grace is over": {newWatch().waits(0, "guard", 11).
			waits(1, "fc6 wait for column 0", 11), 10.1,
			"locked  true job j does not get on: its cells wait for each other for 11.1 s: r0c0 for r0c1 in guard of step " +
				"812, r0c1 for r0c0 in fc6 wait for column 0 of step 812", 11.2},
		"slower than the other": {newWatch().cell(1, func(p *Progress) {
			p.Busy, p.Best = 400*time.Millisecond, 380*time.Millisecond
		}), 10.1,
			"slow w1 false worker w1 (cpu) is slow: r0c1 works on a step for 0.40 s, 4.0 times as long as the others do", 11.2},
		"slower than before": {newWatch().cell(0, func(p *Progress) { p.Busy = 0 }).
			cell(1, func(p *Progress) { p.Busy = 290 * time.Millisecond }), 10.1,
			"slow w1 false worker w1 (cpu) is slow: r0c1 works on a step for 0.29 s, 3.2 times as long as before", 11.2},
		"a lost one is no news": {func() *watch {
			w := newWatch()
			w.View.Workers["w1"].Lost = true
			w.View.Jobs["j"].State = fsm.Recovering
			return w.heard(12, "w0", "w2")
		}(), 12.1, "", 13.2},
		"the generation has ended because of it": {func() *watch {
			w := newWatch().waits(0, "guard", 1)
			w.View.Jobs["j"].State = fsm.Recovering
			return w.heard(11.9, "w0", "w2")
		}(), 12,
			"stopped w1 false worker w1 (cpu) has stopped: r0c1 in forward conv3 of step 812 for 2.0 s; r0c0 waits for it",
			13.1},
	} {
		t.Run(name, func(t *testing.T) {
			found, next := Judge(at(c.now), c.w.Watched)
			var got []string
			for _, f := range found {
				got = append(got, strings.Join([]string{f.Kind, f.Worker, map[bool]string{true: "true", false: "false"}[f.Replace],
					f.Text}, " "))
			}
			if text := strings.Join(got, "\n"); text != c.want {
				t.Errorf("found:\n%s\nwant:\n%s", text, c.want)
			}
			if c.next != 0 && next.Sub(at(c.next)).Abs() > time.Millisecond {
				t.Errorf("next is %v, want %v", next.Sub(t0), at(c.next).Sub(t0))
			}
		})
	}
}

// A slow worker stays slow until it is much faster again, so that nobody is told again and again.
func TestSlownessHasTwoBounds(t *testing.T) {
	w := newWatch().cell(1, func(p *Progress) { p.Busy = 200 * time.Millisecond })
	if found, _ := Judge(at(10.1), w.Watched); len(found) != 0 {
		t.Fatalf("twice as long is slow: %v", found)
	}
	w.Named["slow w1 j 1 r0c1"] = true
	if found, _ := Judge(at(10.1), w.Watched); len(found) != 1 || found[0].Key != "slow w1 j 1 r0c1" {
		t.Errorf("what was slow is not any more: %v", found)
	}
}

// TestStoppedIsNamedInTime draws moments at which a worker stops and at which heartbeats come: it is named within two
// seconds, never when it is heard of, and the same by every look.
func TestStoppedIsNamedInTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stop := rapid.Float64Range(10, 12).Draw(t, "stops")
		offset := rapid.Float64Range(0, 0.5).Draw(t, "heartbeat")
		late := rapid.Float64Range(0, 0.3).Draw(t, "late")
		w := newWatch()
		named := 0.0
		for now := 10.0; now < stop+3 && named == 0; now += 0.01 {
			for _, id := range []string{"w0", "w2", "w1"} {
				until := now
				if id == "w1" {
					until = min(now, stop)
				}
				last := 10 + offset + 0.5*math.Floor((until-10-offset)/0.5)
				if last+late <= now {
					w.heard(max(last+late, 10), id)
				}
			}
			found, _ := Judge(at(now), w.Watched)
			for _, f := range found {
				if f.Kind != Halted || f.Worker != "w1" || now < stop {
					t.Fatalf("at %v, stopped at %v: %+v", now, stop, f)
				}
				named = now
			}
		}
		if named == 0 || named-stop > 2 {
			t.Fatalf("stopped at %v, named at %v", stop, named)
		}
	})
}

// A worker that hangs gets no cell, however free it is.
func TestHungWorkersGetNothing(t *testing.T) {
	w := newWorld().worker("w0", "n0", 0).job("j", fsm.Queued, 1, 0)
	w.View.Workers["w0"].Hung, w.View.Workers["w0"].Registered.Name = true, "left"
	d := Decide(at(1), w.input())
	if len(d.Actions) > 0 || !strings.Contains(d.Reasons["j"], "left hangs in what it was given before") {
		t.Errorf("%s", render(d))
	}
}
