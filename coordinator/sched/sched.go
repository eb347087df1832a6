// Package sched decides which worker runs which cell. Decide is a pure function of the time, the coordinator's state
// and what is known of the workers' sessions; it returns actions and, for every job, the reason in words that status
// prints.
package sched

import (
	"cmp"
	"fmt"
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
	Files   time.Duration // how long to wait for workers that have the newest checkpoint's files, before an older one
	// How long a worker must have been there, and a job have run, before cells that share a worker move to that one; 0:
	// they never do.
	Spread time.Duration
	Forget time.Duration // how long a worker must have been lost to be forgotten; 0: none is
	// How long a part of an evaluation may get no further before another worker is given it; ten times as long while
	// its worker gets ready for it.
	Stall time.Duration
}

// DefaultRules suit machines on one network.
var DefaultRules = Rules{Lease: 3 * time.Second, Grace: time.Second, Settle: 2 * time.Second,
	Regroup: 500 * time.Millisecond, Ask: 3 * time.Second, Files: 30 * time.Second, Spread: 10 * time.Second,
	Forget: 24 * time.Hour, Stall: time.Minute}

// Liveness is what the leader knows of a worker's session.
type Liveness struct {
	Connected bool
	Heard     time.Time // the last message
	Broken    time.Time // when the session broke, if it is not connected
	Memory    bool      // it can be asked what its host holds
	Evaluates bool      // it takes parts of evaluations
}

// Session is what the leader knows of one worker's session.
type Session struct {
	Worker string
	Liveness
	Answers map[string]Holding // by job: the newest to what it was asked
	Part    PartProgress       // what it was last heard to work on
}

// Sessions are in order of worker. A worker that is not among them has not been heard of by this leader.
type Sessions []Session

// Of is a worker's session; nil: there is none.
func (s Sessions) Of(worker string) *Session {
	at, ok := slices.BinarySearchFunc(s, worker, func(x Session, id string) int { return cmp.Compare(x.Worker, id) })
	if !ok {
		return nil
	}
	return &s[at]
}

// connected says whether a worker is.
func (s Sessions) connected(worker string) bool {
	x := s.Of(worker)
	return x != nil && x.Connected
}

// Input is all that a decision depends on.
type Input struct {
	View     fsm.View
	Sessions Sessions
	Keepers  map[string][]string // by job that recovers: workers that may have copies of its cells, cells of theirs or not
	Leader   time.Time           // since when this node leads: it judges nobody before one lease has passed
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
	Waits   map[uint64]string // by evaluation: what it waits for, if nobody works on it
	Next    time.Time         // zero: only a change of the input will
}

// wakeAt notes a time at which to decide again.
func (d *Decision) wakeAt(t time.Time) {
	if d.Next.IsZero() || t.Before(d.Next) {
		d.Next = t
	}
}

// maxAssigns bounds the generations that one decision starts, and with it the time that a decision takes: those who
// write them down ask for the next one at once.
const maxAssigns = 64

// Decide decides. Lost workers come first: placing waits until they are out of the state.
func Decide(now time.Time, in Input) Decision {
	d := Decision{Reasons: map[string]string{}}
	in.View.Roll = in.View.Enrolled()
	seen := look(in.View.Roll)
	jobs, crowded := undecided(in.View, seen.shares)
	tests := underTest(in.View)
	p := newPool(now, in, len(jobs) > 0 || len(tests) > 0, seen.free, &d)
	if len(d.Actions) > 0 {
		return d
	}
	if len(p.draining) > 0 { // whom they run must be looked at too
		if jobs = p.drainedJobs(jobs); len(jobs) > 0 && !p.wanted {
			p = newPool(now, in, true, seen.free, &Decision{})
		}
	}
	for _, j := range jobs {
		if len(d.Actions) >= maxAssigns {
			if !underWay(j) || j.State == fsm.Recovering {
				d.Reasons[j.Submitted.Job] = fmt.Sprintf("waits until the %d jobs before it are placed", maxAssigns)
			}
			continue
		}
		switch {
		case p.disturbed[j.Submitted.Job]:
		case j.State == fsm.Running || j.Moving:
			p.move(j, &d)
		default:
			p.begin(j, &d)
		}
	}
	for _, j := range jobs {
		if crowded[j.Submitted.Job] && !p.disturbed[j.Submitted.Job] && len(d.Actions) < maxAssigns {
			p.spreadOut(j, &d)
		}
	}
	p.evaluate(tests, &d)
	p.forget(&d)
	return d
}

// begin has a job that waits begin, or says what it waits for, and what it will take before others do.
func (p *pool) begin(j *commandpb.JobRecord, d *Decision) {
	idle := p.idle
	p.promised = 0
	a, reason := p.place(j, d)
	if a != nil {
		d.Actions = append(d.Actions, *a)
		return
	}
	d.Reasons[j.Submitted.Job] = reason
	p.claim(j, fsm.MostWorkers(j)-(idle-p.idle)-p.promised)
}

// undecided are the jobs that want workers, or other ones than they have, in the order of the queue: those that wait,
// that move, that have more workers than they may, and whose cells share workers, which are the crowded ones: some are.
func undecided(v fsm.View, some bool) (out []*commandpb.JobRecord, crowded map[string]bool) {
	for name, j := range v.Jobs {
		switch {
		case some && j.State == fsm.Running && shares(j.Placement):
			if crowded == nil {
				crowded = map[string]bool{}
			}
			crowded[name] = true
			out = append(out, j)
		case fsm.Waits(j) || j.Moving || j.State == fsm.Running && overQuota(j):
			out = append(out, j)
		}
	}
	inOrder(out)
	return out, crowded
}

// inOrder puts jobs in the order of the queue.
func inOrder(jobs []*commandpb.JobRecord) { slices.SortFunc(jobs, fsm.Order) }

// Before says whether a job is before another in the order of the queue.
func Before(a, b *commandpb.JobRecord) bool { return fsm.Order(a, b) < 0 }

// shares says whether cells share a worker.
func shares(placement []*commandpb.Placement) bool {
	const few = 16
	if len(placement) > few {
		seen := make(map[string]struct{}, len(placement))
		for _, p := range placement {
			seen[p.Worker] = struct{}{}
		}
		return len(seen) < len(placement)
	}
	for i, p := range placement {
		for _, q := range placement[:i] {
			if p.Worker == q.Worker {
				return true
			}
		}
	}
	return false
}

// verdict is why a worker is given up; most are made and never said.
type verdict struct {
	format string
	span   time.Duration
}

// String is the verdict in words.
func (v verdict) String() string { return fmt.Sprintf(v.format, v.span) }

// judge says when a worker must be given up if nothing is heard of it until then, and why.
func judge(in *Input, s *Session) (deadline time.Time, why verdict) {
	switch {
	case s == nil:
		deadline = in.Leader.Add(in.Rules.Lease)
		why = verdict{"not heard of within %v of this leader's start", in.Rules.Lease}
	case !s.Connected:
		deadline = s.Broken.Add(in.Rules.Grace)
		why = verdict{"its session broke and it did not come back within %v", in.Rules.Grace}
	default:
		deadline, why = s.Heard.Add(in.Rules.Lease), verdict{"silent for %v", in.Rules.Lease}
	}
	return later(deadline, in.Leader.Add(in.Rules.Lease)), why
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// place finds workers for a job's cells, or says what it waits for. While it waits for more workers, those that are
// there are kept for it: a smaller job that came later must not take them each time.
func (p *pool) place(j *commandpb.JobRecord, d *Decision) (*Assign, string) {
	now, in := p.now, p.in
	workers, numerics := p.candidates(j)
	if len(workers) < fsm.LeastWorkers(j) {
		return nil, p.short(j, workers, d)
	}
	cells := int(j.Submitted.Replicas) * int(j.Submitted.Columns)
	waits := ask(now, in, j, workers, d)
	workers = p.within(j, workers)
	if len(workers) < fsm.MostWorkers(j) {
		if ready := p.settled(j, workers); now.Before(ready) {
			d.wakeAt(ready)
			waits = fmt.Sprintf("%s, %s: waits %v for more before cells share a worker", count(cells, "cell"),
				count(len(workers), "worker"), settle(in, j))
		}
	}
	if waits != "" {
		p.take(workers)
		return nil, waits
	}
	a := &Assign{Job: j.Submitted.Job, Generation: j.Generation + 1, Numerics: numerics}
	used, memory, waits := p.goOn(j, workers, a, d)
	if waits != "" {
		p.take(workers)
		return nil, waits
	}
	a.Reason = count(cells, "cell") + " on " + count(len(used), "worker") + memory
	p.take(used)
	return a, ""
}

// count is a number of things, in words.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// patience is how many times Settle a job waits in all, however often workers come and go.
const patience = 5

// settled is when to stop waiting for more workers than the given ones: a while after the last change in who is there,
// of the job, or of the leader, but not for ever: one worker that starts over and over must not hold up the others. A
// stamp from the future is another leader's, whose clock is ahead: it says nothing.
func (p *pool) settled(j *commandpb.JobRecord, workers []*candidate) time.Time {
	in := p.in
	began := p.past(in.Leader, j.StateUnixNs)
	first := int64(math.MaxInt64) // since when there is somebody to place on
	for _, w := range workers {
		first = min(first, w.registered)
	}
	return p.quiet(j, later(began, p.changed).Add(settle(in, j)), p.past(began, first))
}

// quiet is when a job stops waiting for workers, which it does from some time on: as said, but for ever for nobody.
func (p *pool) quiet(j *commandpb.JobRecord, ready, since time.Time) time.Time {
	in, limit := p.in, since.Add(patience*p.in.Rules.Settle)
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

// spread places every cell: where it was, if that worker is there and has fewer than full, else on the worker with
// fewest cells, the first by id. A cell goes to a worker that fits it, if there is one that is not full; nil: all do.
// It also returns the workers that have got cells. fits are places in workers, ascending, by cell.
func spread(j *commandpb.JobRecord, workers []*candidate, fits [][]int, full int) (out []*commandpb.Placement,
	used []*candidate) {
	cells := int(j.Submitted.Replicas) * int(j.Submitted.Columns)
	load := make([]int, len(workers))
	out, used = make([]*commandpb.Placement, cells), make([]*candidate, 0, min(cells, len(workers)))
	made := make([]struct { // in one piece
		placement commandpb.Placement
		cell      commandpb.Cell
	}, cells)
	put := func(i, at int) {
		m := &made[i]
		m.cell.Replica, m.cell.Column = int32(i)/j.Submitted.Columns, int32(i)%j.Submitted.Columns
		m.placement.Worker, m.placement.Cell = workers[at].id, &m.cell
		out[i] = &m.placement
		if load[at]++; load[at] == 1 {
			used = append(used, workers[at])
		}
	}
	for _, p := range j.Placement {
		i := int(p.Cell.GetReplica()*j.Submitted.Columns + p.Cell.GetColumn())
		if i < 0 || i >= cells || out[i] != nil {
			continue
		}
		at, there := slices.BinarySearchFunc(workers, p.Worker, func(w *candidate, id string) int {
			return cmp.Compare(w.id, id)
		})
		if there && load[at] < full && (fits == nil || slices.Contains(fits[i], at)) {
			put(i, at)
		}
	}
	// Loads only grow: whoever is behind next has more cells than least.
	least, next := 0, 0
	for i := range out {
		if out[i] != nil {
			continue
		}
		best := -1
		if fits != nil {
			for _, at := range fits[i] {
				if load[at] < full && (best < 0 || load[at] < load[best]) {
					best = at
				}
			}
		}
		for best < 0 {
			switch {
			case next == len(workers):
				least, next = least+1, 0
			case load[next] > least:
				next++
			default:
				best = next
			}
		}
		put(i, best)
	}
	return out, used
}
