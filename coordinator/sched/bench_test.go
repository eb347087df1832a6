package sched

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// spare is a worker of the crowd; the last thousand are spares.
func spare(i int) string { return fmt.Sprintf("%016x", uint64(i+1)*0x9e3779b97f4a7c15) }

// crowd is a cluster of ten thousand workers: most run jobs of ten cells, one in ten is a spare.
func crowd() *world {
	w := newWorld()
	const workers, cells = 10_000, 10
	id := spare
	for i := range workers {
		w.worker(id(i), "n0", 1)
		w.heard(id(i), 99)
		s := w.Sessions[id(i)]
		s.Memory = true
		w.Sessions[id(i)] = s
	}
	for k := range workers * 9 / 10 / cells {
		var on []string
		for i := range cells {
			on = append(on, id(k*cells+i))
		}
		w.job(fmt.Sprintf("job-%04d", k), fsm.Running, cells, 2, on...)
	}
	return w
}

// full is the crowd without spares.
func full() *world {
	w := crowd()
	for i := range 100 {
		var on []string
		for k := range 10 {
			on = append(on, spare(9000+i*10+k))
		}
		w.job(fmt.Sprintf("more-%04d", i), fsm.Running, 10, 2, on...)
	}
	return w
}

// recover has a job of the crowd recover, and everybody who can be asked say what they hold.
func (w *world) recover(name string, answered bool) {
	j := w.View.Jobs[name]
	j.State, j.StateUnixNs = fsm.Recovering, at(99).UnixNano()
	for id := range w.View.Workers {
		at := slices.IndexFunc(j.Placement, func(p *commandpb.Placement) bool { return p.Worker == id })
		if !answered {
			continue
		}
		h := Holding{Generation: j.Generation}
		if at >= 0 {
			h.Held = []Held{{Replica: int32(at / 2), Column: int32(at % 2), Generation: j.Generation, Numerics: "n0",
				Steps: []uint64{57, 56}}}
		}
		w.Holdings[id] = map[string]Holding{name: h}
	}
}

// BenchmarkDecide measures decisions among ten thousand workers, on one core, and reports the 99th percentile of what
// one takes, by the clock and of the processor: the two differ where others want the machine too.
//
//	go test ./coordinator/sched -run '^$' -bench Decide -benchtime 300x -cpu 1
func BenchmarkDecide(b *testing.B) {
	for _, c := range []struct {
		name string
		make func() *world
		want func(Decision) bool
	}{
		{"nothing to do", crowd, func(d Decision) bool { return len(d.Actions) == 0 && len(d.Reasons) == 0 }},
		{"one job waits for answers", func() *world {
			w := crowd()
			w.recover("job-0001", false)
			return w
		}, func(d Decision) bool { return len(d.Asks) > 1000 && len(d.Reasons) == 1 }},
		{"one job goes on from memory", func() *world {
			w := crowd()
			w.recover("job-0001", true)
			return w
		}, func(d Decision) bool { return len(d.Actions) == 1 && d.Actions[0].(Assign).FromMemory }},
		{"200 jobs are submitted", func() *world {
			w := crowd()
			for i := range 200 {
				w.job(fmt.Sprintf("new-%04d", i), fsm.Queued, 10, 90)
			}
			return w
		}, func(d Decision) bool { return len(d.Actions) == maxAssigns && len(d.Reasons) == 200-maxAssigns }},
		{"everybody is free and 1,000 jobs come", func() *world {
			w := crowd()
			for _, j := range w.View.Jobs {
				j.State, j.Placement, j.Generation = fsm.Queued, nil, 0
			}
			for i := range 100 {
				w.job(fmt.Sprintf("new-%04d", i), fsm.Queued, 10, 90)
			}
			return w
		}, func(d Decision) bool { return len(d.Actions) == maxAssigns }},
		{"one job waits, and nobody may be disturbed", func() *world {
			return full().job("new", fsm.Queued, 10, 90)
		}, func(d Decision) bool { return len(d.Actions) == 0 && len(d.Reasons) == 1 }},
		{"one job has ten others make way", func() *world {
			return full().job("new", fsm.Queued, 100, 90).priority("new", 5).quota("new", 100, 0)
		}, func(d Decision) bool { return len(d.Actions) == 10 && d.Actions[0].(Preempt).By == "new" }},
		{"one job of 10,000 cells is placed", func() *world {
			w := crowd()
			clear(w.View.Jobs)
			w.job("all", fsm.Queued, 10_000, 90)
			return w
		}, func(d Decision) bool { return len(d.Actions) == 1 && len(d.Actions[0].(Assign).Placement) == 10_000 }},
		{"everybody is lost", func() *world {
			w := crowd()
			clear(w.Sessions)
			return w
		}, func(d Decision) bool { return len(d.Actions) == 10_000 }},
	} {
		b.Run(c.name, func(b *testing.B) {
			in := c.make().input()
			if d := Decide(at(100), in); !c.want(d) {
				b.Fatalf("decides otherwise: %d actions, %d asks, %d wait", len(d.Actions), len(d.Asks), len(d.Reasons))
			}
			percentiles(b, func() { Decide(at(100), in) })
		})
	}
}

// BenchmarkJudge measures in the same way how long it takes to see who does not get on.
//
//	go test ./coordinator/sched -run '^$' -bench Judge -benchtime 300x -cpu 1
func BenchmarkJudge(b *testing.B) {
	whole := func() *world {
		w := crowd()
		clear(w.View.Jobs)
		w.job("all", fsm.Running, 10_000, 2, slices.Sorted(maps.Keys(w.View.Workers))...)
		return w
	}
	kinds := func(found []Trouble) map[string]int {
		n := map[string]int{}
		for _, t := range found {
			n[t.Kind]++
		}
		return n
	}
	for _, c := range []struct {
		name  string
		world func() *world
		now   float64
		cell  func(i int, p *Progress)
		want  map[string]int
	}{
		{"all get on", crowd, 100, nil, map[string]int{}},
		{"all have stopped", crowd, 101, nil, map[string]int{Halted: 10_000}},
		{"one cell in ten is stuck", crowd, 100, func(i int, p *Progress) {
			if p.InPhase = 2 * time.Second; i%10 > 0 {
				p.WaitsFor = []Place{{}}
			}
		}, map[string]int{Stuck: 900}},
		{"one job of 10,000 cells, all get on", whole, 100, nil, map[string]int{}},
		{"of one job, one cell is stuck", whole, 100, func(i int, p *Progress) {
			if p.InPhase = 2 * time.Second; i > 0 {
				p.WaitsFor = []Place{{}}
			}
		}, map[string]int{Stuck: 1}},
		{"of one job, every other cell is slow", whole, 100, func(i int, p *Progress) {
			p.Busy = time.Duration(i%2*900+100) * time.Millisecond
		}, map[string]int{Slow: 5000}},
		{"of one job, all have stopped", whole, 101, func(i int, p *Progress) {
			if p.Heard = at(99); i > 0 {
				p.WaitsFor = []Place{{}}
			}
		}, map[string]int{Halted: 10_000}},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := c.world()
			whole := w.input()
			in := Watched{View: whole.View, Sessions: whole.Sessions, Cells: map[string][]Progress{},
				Patience: DefaultPatience}
			for name, j := range w.View.Jobs {
				for i, p := range j.Placement {
					cell := Progress{Cell: Place{p.Cell.Replica, p.Cell.Column}, Worker: p.Worker, Step: 811, Train: true,
						Phase: "conv3", InPhase: 20 * time.Millisecond, Usual: 40 * time.Millisecond,
						Busy: 100 * time.Millisecond, Best: 90 * time.Millisecond, Heard: at(99)}
					if c.cell != nil {
						c.cell(i, &cell)
					}
					in.Cells[name] = append(in.Cells[name], cell)
				}
			}
			if found, _ := Judge(at(c.now), in); !maps.Equal(kinds(found), c.want) {
				b.Fatalf("finds %v, want %v", kinds(found), c.want)
			}
			percentiles(b, func() { Judge(at(c.now), in) })
		})
	}
}

// percentiles reports the median and the 99th percentile of what f takes.
func percentiles(b *testing.B, f func()) {
	var wall, core []time.Duration
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for b.Loop() {
		began, used := time.Now(), threadTime(b)
		f()
		wall, core = append(wall, time.Since(began)), append(core, threadTime(b)-used)
	}
	for name, all := range map[string][]time.Duration{"wall": wall, "core": core} {
		slices.Sort(all)
		for at, q := range map[string]float64{"p50": 0.5, "p99": 0.99} {
			b.ReportMetric(float64(all[int(q*float64(len(all)-1))].Microseconds())/1000, at+"-"+name+"-ms")
		}
	}
	b.ReportMetric(0, "ns/op")
}

// threadTime is what this thread has had of a processor.
func threadTime(b *testing.B) time.Duration {
	const ofThread = 1 // RUSAGE_THREAD of Linux
	var u syscall.Rusage
	if err := syscall.Getrusage(ofThread, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
