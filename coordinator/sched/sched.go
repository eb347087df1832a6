// Package sched decides which worker runs which cell. Decide is a pure function of the time, the coordinator's state
// and what is known of the workers' sessions; it returns actions and, for every job, the reason in words that status
// prints.
package sched

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// Rules are the times decisions go by.
type Rules struct {
	Lease  time.Duration // a worker not heard of for so long is lost
	Grace  time.Duration // a worker whose session broke may come back for so long
	Settle time.Duration // how long after a change to wait for more workers before cells have to share one
	// The same for a job that recovers: whoever restarts what died does so at once, and training stands still.
	Regroup time.Duration
	Ask     time.Duration // how long a worker may take to say what its host holds of a job that recovers
	// How long a worker must have been there, and a job have run, before cells that share a worker move to that one; 0:
	// they never do.
	Spread time.Duration
}

// DefaultRules suit machines on one network.
var DefaultRules = Rules{Lease: 3 * time.Second, Grace: time.Second, Settle: 2 * time.Second,
	Regroup: 500 * time.Millisecond, Ask: 3 * time.Second,
	Spread: 10 * time.Second}

// Liveness is what the leader knows of a worker's session.
type Liveness struct {
	Connected bool
	Heard     time.Time // the last message
	Broken    time.Time // when the session broke, if it is not connected
	Memory    bool      // it can be asked what its host holds
}

// Input is all that a decision depends on.
type Input struct {
	View     fsm.View
	Sessions map[string]Liveness           // by worker; a worker without one has not been heard of by this leader
	Holdings map[string]map[string]Holding // by worker and job: the newest answers to asks
	Leader   time.Time                     // since when this node leads: it judges nobody before one lease has passed
	Rules    Rules
}

// Action is something to write into the log.
type Action interface{ action() }

// Lose takes a worker out.
type Lose struct {
	Worker, Reason string
	Hung           bool // it is there, but a cell of it does not get on
}

// Assign starts a generation.
type Assign struct {
	Job        string
	Generation uint64
	Placement  []*commandpb.Placement
	Restore    uint64
	HasRestore bool
	Memory     uint64 // step in memory that all cells go on from, if FromMemory; the checkpoint stands behind it
	FromMemory bool
	Numerics   string
	Reason     string
}

// Move has a generation stop at a step boundary, to be placed anew.
type Move struct {
	Job        string
	Generation uint64
	Reason     string
}

func (Lose) action()   {}
func (Move) action()   {}
func (Assign) action() {}

// Decision is what to do now, why jobs are as they are, and when time alone will change the decision.
type Decision struct {
	Actions []Action
	Asks    []Ask             // to be asked once; the answers come with the input
	Reasons map[string]string // by job, for those that wait
	Next    time.Time         // zero: only a change of the input will
}

// wakeAt notes a time at which to decide again.
func (d *Decision) wakeAt(t time.Time) {
	if d.Next.IsZero() || t.Before(d.Next) {
		d.Next = t
	}
}

// Decide decides. Lost workers come first: placing waits until they are out of the state.
func Decide(now time.Time, in Input) Decision {
	d := Decision{Reasons: map[string]string{}}
	for _, id := range slices.Sorted(maps.Keys(in.View.Workers)) {
		if reason := lost(now, in, id, &d); reason != "" {
			d.Actions = append(d.Actions, Lose{Worker: id, Reason: reason})
		}
	}
	if len(d.Actions) > 0 {
		return d
	}
	busy := busyWorkers(in.View)
	for _, name := range in.View.JobNames() {
		j := in.View.Jobs[name]
		if j.State == fsm.Running || j.Moving {
			move(now, in, j, busy, &d)
			continue
		}
		if j.State != fsm.Queued && j.State != fsm.Recovering {
			continue
		}
		a, reason := place(now, in, j, busy, &d)
		if a == nil {
			d.Reasons[name] = reason
			continue
		}
		d.Actions = append(d.Actions, *a)
		for _, p := range a.Placement {
			busy[p.Worker] = name
		}
	}
	return d
}

// lost says why a worker must be given up, or nothing.
func lost(now time.Time, in Input, id string, d *Decision) string {
	if in.View.Workers[id].Lost {
		return ""
	}
	s, known := in.Sessions[id]
	var deadline time.Time
	var reason string
	switch {
	case !known:
		deadline = in.Leader.Add(in.Rules.Lease)
		reason = fmt.Sprintf("not heard of within %v of this leader's start", in.Rules.Lease)
	case !s.Connected:
		deadline = s.Broken.Add(in.Rules.Grace)
		reason = fmt.Sprintf("its session broke and it did not come back within %v", in.Rules.Grace)
	default:
		deadline, reason = s.Heard.Add(in.Rules.Lease), fmt.Sprintf("silent for %v", in.Rules.Lease)
	}
	deadline = later(deadline, in.Leader.Add(in.Rules.Lease))
	if now.Before(deadline) {
		d.wakeAt(deadline)
		return ""
	}
	return reason
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// busyWorkers says which worker runs which job.
func busyWorkers(v fsm.View) map[string]string {
	busy := map[string]string{}
	for _, name := range v.JobNames() {
		j := v.Jobs[name]
		if j.State != fsm.Running && j.State != fsm.Stopping {
			continue
		}
		for _, p := range j.Placement {
			busy[p.Worker] = name
		}
	}
	return busy
}

// place finds workers for a job's cells, or says what it waits for. While it waits for more workers, those that are
// there are kept for it: a smaller job that came later must not take them each time.
func place(now time.Time, in Input, j *commandpb.JobRecord, busy map[string]string, d *Decision) (*Assign, string) {
	workers, numerics, why := candidates(in, j, busy)
	if len(workers) == 0 {
		return nil, why
	}
	cells := int(j.Submitted.Replicas) * int(j.Submitted.Columns)
	waits := ask(now, in, j, workers, d)
	if ready := settled(now, in, j, workers); len(workers) < cells && now.Before(ready) {
		d.wakeAt(ready)
		waits = fmt.Sprintf("%s, %s: waits %v for more before cells share a worker", count(cells, "cell"),
			count(len(workers), "worker"), settle(in, j))
	}
	if waits != "" {
		for _, id := range workers {
			busy[id] = j.Submitted.Job
		}
		return nil, waits
	}
	a := &Assign{Job: j.Submitted.Job, Generation: j.Generation + 1, Numerics: numerics}
	a.Restore, a.HasRestore = restore(j)
	memory := remember(in, j, workers, numerics, a)
	used := map[string]bool{}
	for _, p := range a.Placement {
		used[p.Worker] = true
	}
	a.Reason = count(cells, "cell") + " on " + count(len(used), "worker") + memory
	return a, ""
}

// count is a number of things, in words.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// candidates are the workers that could take the job's cells, in order of id, all of one numerics: the job's, or, for a
// job that has none yet, the one most workers would run it under.
func candidates(in Input, j *commandpb.JobRecord, busy map[string]string) (ids []string, numerics, why string) {
	by := map[string][]string{}
	connected, occupied, hung, drained := 0, 0, "", 0
	for _, id := range slices.Sorted(maps.Keys(in.View.Workers)) {
		w := in.View.Workers[id]
		if w.Lost || !in.Sessions[id].Connected {
			continue
		}
		connected++
		if w.Draining {
			drained++
			continue
		}
		if w.Hung {
			occupied++
			hung = w.Registered.Name
			continue
		}
		if busy[id] != "" {
			occupied++
			continue
		}
		if n := numericsOf(w, j); n != "" {
			by[n] = append(by[n], id)
		}
	}
	numerics = j.Numerics
	if numerics == "" && len(by) > 0 {
		numerics = slices.MaxFunc(slices.Sorted(maps.Keys(by)), func(a, b string) int {
			return cmp.Or(cmp.Compare(len(by[a]), len(by[b])), cmp.Compare(b, a))
		})
	}
	if ids = by[numerics]; len(ids) > 0 {
		return ids, numerics, ""
	}
	switch {
	case connected == 0:
		why = "waits for a worker; start one with: worker run --coordinator ADDR --data DIR"
	case drained == connected:
		why = fmt.Sprintf("waits for a worker: all there are (%d) are drained; start another one, or undo it with: "+
			"coordinator worker drain NAME --undo", connected)
	case occupied+drained == connected && hung != "":
		why = fmt.Sprintf("waits for a worker: %s hangs in what it was given before; start it again, or another one", hung)
	case occupied+drained == connected:
		why = fmt.Sprintf("waits for workers: other jobs have all there are (%d)", occupied)
		if drained > 0 {
			why += fmt.Sprintf("; %d more, drained", drained)
		}
	case numerics == "":
		why = fmt.Sprintf("waits for a worker that can do without Winograd's algorithm (winograd: off): %s cannot; start "+
			"one of this version", count(connected-occupied-drained, "free worker"))
	default:
		why = fmt.Sprintf("waits for a worker with numerics %s, under which the job began", numerics)
	}
	return nil, numerics, why
}

// numericsOf is what a job would run under on a worker, or nothing if it cannot run there.
func numericsOf(w *commandpb.WorkerRecord, j *commandpb.JobRecord) string {
	if j.Submitted.Direct {
		return w.Registered.Device.GetDirectNumerics()
	}
	return w.Registered.Device.GetNumerics()
}

// patience is how many times Settle a job waits in all, however often workers come and go.
const patience = 5

// settled is when to stop waiting for more workers than the given ones: a while after the last change in who is there,
// of the job, or of the leader, but not for ever: one worker that starts over and over must not hold up the others. A
// stamp from the future is another leader's, whose clock is ahead: it says nothing.
func settled(now time.Time, in Input, j *commandpb.JobRecord, workers []string) time.Time {
	after := func(t time.Time, ns int64) time.Time {
		if s := time.Unix(0, ns); !s.After(now) {
			return later(t, s)
		}
		return t
	}
	began := after(in.Leader, j.StateUnixNs)
	last := began
	for _, w := range in.View.Workers {
		last = after(after(last, w.RegisteredUnixNs), w.LostUnixNs)
	}
	first := int64(math.MaxInt64) // since when there is somebody to place on
	for _, id := range workers {
		first = min(first, in.View.Workers[id].RegisteredUnixNs)
	}
	ready, limit := last.Add(settle(in, j)), after(began, first).Add(patience*in.Rules.Settle)
	if j.State == fsm.Recovering { // workers may take that long to find a new leader
		ready = later(ready, in.Leader.Add(in.Rules.Lease))
	}
	if limit.Before(ready) {
		return limit
	}
	return ready
}

// settle is how long a job waits after a change.
func settle(in Input, j *commandpb.JobRecord) time.Duration {
	if j.State == fsm.Recovering {
		return in.Rules.Regroup
	}
	return in.Rules.Settle
}

// spread places every cell: where it was, if that worker is there and not full, else on the worker with fewest cells,
// the first by id. A cell goes to a worker that fits it, if there is one that is not full; nil: all do.
func spread(j *commandpb.JobRecord, workers []string, fits func(cell int, worker string) bool) []*commandpb.Placement {
	cells := int(j.Submitted.Replicas) * int(j.Submitted.Columns)
	full := (cells + len(workers) - 1) / len(workers)
	load := map[string]int{}
	out := make([]*commandpb.Placement, cells)
	cell := func(i int) *commandpb.Cell {
		return &commandpb.Cell{Replica: int32(i) / j.Submitted.Columns, Column: int32(i) % j.Submitted.Columns}
	}
	unfit := func(cell int, worker string) int {
		switch {
		case load[worker] >= full:
			return 2
		case fits != nil && !fits(cell, worker):
			return 1
		}
		return 0
	}
	for _, p := range j.Placement {
		i := int(p.Cell.GetReplica()*j.Submitted.Columns + p.Cell.GetColumn())
		if i < cells && out[i] == nil && slices.Contains(workers, p.Worker) && load[p.Worker] < full &&
			(fits == nil || fits(i, p.Worker)) {
			out[i] = &commandpb.Placement{Cell: cell(i), Worker: p.Worker}
			load[p.Worker]++
		}
	}
	for i := range out {
		if out[i] != nil {
			continue
		}
		w := slices.MinFunc(workers, func(a, b string) int {
			return cmp.Or(cmp.Compare(unfit(i, a), unfit(i, b)), cmp.Compare(load[a], load[b]))
		})
		out[i] = &commandpb.Placement{Cell: cell(i), Worker: w}
		load[w]++
	}
	return out
}

// restore is the step to go on from: the start if an operator wants that, else the newest good checkpoint, which is the
// one an operator named unless that has turned out bad since: resuming forgets what came after it.
func restore(j *commandpb.JobRecord) (uint64, bool) {
	good := fsm.Usable(j)
	if len(good) == 0 || (j.HasResumeStep && j.ResumeStep == 0) {
		return 0, false
	}
	return good[len(good)-1].Step, true
}
