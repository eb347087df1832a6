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

// pool is whom a decision can place cells on. It is made once for all jobs: there may be ten thousand workers.
type pool struct {
	now       time.Time
	in        Input
	wanted    bool
	connected int
	sound     int                    // of those connected: cells may be placed there
	busyThere int                    // of those sound: a job has them
	drained   int                    // of those connected
	hung      string                 // the name of one of those connected that hangs, if any does
	draining  map[string]bool        // workers that are drained, there or not
	posts     []post                 // of the roll, in its order
	places    map[string]int32       // in the roll; made when it is needed
	staff     []*commandpb.JobRecord // what staffed has made
	all       []candidate            // those of them that no job had when the pool was made, in order of id
	names     []string               // of numerics, by their place in a candidate's
	free      [2][]int               // how many are not taken, by kind of job and numerics
	idle      int                    // how many are not taken
	changed   time.Time              // when who is there last changed
	lapsed    []string               // workers that have been lost for long
	scratch   []*candidate           // what candidates returned last

	fit       [2][]int        // how many there are of those sound, whoever has them, by kind of job and numerics
	made      []crew          // what crews has made
	disturbed map[string]bool // jobs that are asked to stop by this decision
	claimed   []claim
	promised  int // how many workers of those that come free the job will have that was looked at last
}

// Kinds of jobs, as far as numerics go.
const (
	asItLikes = iota
	direct    // without Winograd's algorithm
)

func kindOf(j *commandpb.JobRecord) int {
	if j.Submitted.Direct {
		return direct
	}
	return asItLikes
}

// candidate is a worker as far as placing needs it.
type candidate struct {
	id         string
	registered int64
	session    *Session
	runs       [2]int // under which numerics, by kind of job, as places in pool.names; -1: not at all
	taken      bool
}

// placeable says whether cells may be placed on a worker at all.
func placeable(w *fsm.Enrolled, s *Session) bool {
	return !w.Lost && s != nil && s.Connected && !w.Hung && !w.Draining
}

// newPool looks at every worker, once, in order of id, and goes through sessions beside them: looking ten thousand of
// them up would take most of the time. Those that are to be given up become actions. The pool is empty unless it is
// wanted.
func newPool(now time.Time, in Input, wanted bool, free int, d *Decision) *pool {
	p := &pool{now: now, in: in, wanted: wanted, changed: time.Unix(0, math.MinInt64), disturbed: map[string]bool{}}
	last, unixNow := int64(math.MinInt64), now.UnixNano()
	if wanted {
		p.posts, p.all = make([]post, len(in.View.Roll)), make([]candidate, 0, free)
	}
	l := p.lease(d)
	next := 0 // session; a function for this and for the same walk of Judge costs a decision half its time again
	for i := range in.View.Roll {
		e := &in.View.Roll[i]
		for next < len(in.Sessions) && in.Sessions[next].Worker != e.ID && in.Sessions[next].Worker < e.ID {
			next++
		}
		var s *Session
		if next < len(in.Sessions) && in.Sessions[next].Worker == e.ID {
			s = &in.Sessions[next]
			next++
		}
		l.judge(e, s)
		if !wanted {
			continue
		}
		for _, ns := range [...]int64{e.RegisteredUnixNs, e.LostUnixNs} {
			if ns <= unixNow {
				last = max(last, ns)
			}
		}
		if s != nil {
			p.posts[i].session = int32(next)
		}
		p.admit(i, e, s)
	}
	l.end()
	p.idle, p.changed = len(p.all), time.Unix(0, last)
	return p
}

// lease gives up workers that are to be.
type lease struct {
	*pool
	d      *Decision
	since  time.Time          // who has been heard of since then is not given up
	first  time.Time          // of those, when the one was heard that will be first to be given up
	anyone bool               // there is one
	words  map[verdict]string // most reasons are the same
}

func (p *pool) lease(d *Decision) lease {
	return lease{pool: p, d: d, since: p.now.Add(-p.in.Rules.Lease)}
}

// judge gives a worker up that is to be, and notes what is to be known of it whether cells are to be placed or not.
func (l *lease) judge(w *fsm.Enrolled, s *Session) {
	switch {
	case !w.Lost && s != nil && s.Connected && l.since.Before(s.Heard): // nearly everybody
		if !l.anyone || s.Heard.Before(l.first) {
			l.first, l.anyone = s.Heard, true
		}
	case !w.Lost:
		deadline, why := judge(&l.in, s)
		if l.now.Before(deadline) {
			l.d.wakeAt(deadline)
			break
		}
		text, said := l.words[why]
		if !said {
			if l.words == nil {
				l.words = map[verdict]string{}
			}
			text = why.String()
			l.words[why] = text
		}
		l.d.Actions = append(l.d.Actions, Lose{Worker: w.ID, Reason: text})
	case s == nil || !s.Connected:
		l.lapse(w, l.d)
	}
	if w.Draining {
		if l.draining == nil {
			l.draining = map[string]bool{}
		}
		l.draining[w.ID] = true
	}
}

// end wakes when the first of those will have to be given up that nothing was to be said of.
func (l *lease) end() {
	if l.anyone {
		deadline, _ := judge(&l.in, &Session{Liveness: Liveness{Connected: true, Heard: l.first}})
		l.d.wakeAt(deadline)
	}
}

// admit makes a worker a candidate if cells may be placed there, and counts it.
func (p *pool) admit(at int, w *fsm.Enrolled, s *Session) {
	if w.Lost || s == nil || !s.Connected {
		return
	}
	p.connected++
	if !placeable(w, s) {
		if w.Draining {
			p.drained++
		} else {
			p.hung = max(p.hung, w.Record.Registered.Name)
		}
		return
	}
	p.sound++
	p.posts[at].sound = true
	runs := p.runs(w)
	for kind, at := range runs {
		if at >= 0 {
			p.fit[kind][at]++
		}
	}
	if w.Cells > 0 {
		p.busyThere++
		return
	}
	p.all = append(p.all, candidate{id: w.ID, registered: w.RegisteredUnixNs, session: s, runs: runs})
	for kind, at := range runs {
		if at >= 0 {
			p.free[kind][at]++
		}
	}
}

// candidate is a worker that cells may be placed on.
func (p *pool) candidate(w *fsm.Enrolled, s *Session) candidate {
	return candidate{id: w.ID, registered: w.RegisteredUnixNs, session: s, runs: p.runs(w)}
}

// runs says under which numerics a worker runs each kind of job.
func (p *pool) runs(w *fsm.Enrolled) [2]int {
	return [2]int{p.placeOf(w.Numerics), p.placeOf(w.DirectNumerics)}
}

// placeOf is where a pool keeps numerics.
func (p *pool) placeOf(numerics string) int {
	if numerics == "" {
		return -1
	}
	at := slices.Index(p.names, numerics) // there are few
	if at < 0 {
		at = len(p.names)
		p.names = append(p.names, numerics)
		for kind := range p.free {
			p.free[kind], p.fit[kind] = append(p.free[kind], 0), append(p.fit[kind], 0)
		}
	}
	return at
}

// take has workers belong to a job for the rest of this decision.
func (p *pool) take(workers []*candidate) {
	for _, w := range workers {
		w.taken = true
		p.idle--
		for kind, at := range w.runs {
			if at >= 0 {
				p.free[kind][at]--
			}
		}
	}
}

// candidates are the workers that could take the job's cells, in order of id, all of one numerics: the job's, or, for a
// job that has none yet, the one most workers would run it under. They are good until the next call. Of a job that goes
// on from no memory, and for which there are more than enough, those that it cannot be placed on anyway are left out.
func (p *pool) candidates(j *commandpb.JobRecord) (workers []*candidate, numerics string) {
	kind := kindOf(j)
	numerics = j.Numerics
	if numerics == "" {
		numerics = p.commonest(kind)
	}
	at := slices.Index(p.names, numerics)
	if at < 0 || p.free[kind][at] == 0 {
		return nil, numerics
	}
	enough := len(p.all)
	if p.scratch == nil {
		p.scratch = make([]*candidate, 0, len(p.all))
	}
	workers = p.scratch[:0]
	if most := fsm.MostWorkers(j); forgetful(j) && p.free[kind][at] >= most {
		// Those where cells were, or else the first free workers by id.
		enough = most
		for _, was := range j.Placement {
			if i, there := p.find(was.Worker); there && !p.all[i].taken && p.all[i].runs[kind] == at {
				workers = append(workers, &p.all[i])
			}
		}
	}
	old := len(workers)
	for i := range p.all {
		if w := &p.all[i]; !w.taken && w.runs[kind] == at {
			if workers = append(workers, w); len(workers)-old == enough {
				break
			}
		}
	}
	if old > 0 {
		slices.SortFunc(workers, func(a, b *candidate) int { return cmp.Compare(a.id, b.id) })
		workers = slices.Compact(workers)
	}
	p.scratch = workers
	return workers, numerics
}

// find is where a worker is among all, if it is there.
func (p *pool) find(id string) (int, bool) {
	return slices.BinarySearchFunc(p.all, id, func(w candidate, id string) int { return cmp.Compare(w.id, id) })
}

// why says why there is nobody to run a job under some numerics, whether others have workers or not.
func (p *pool) why(kind int, numerics string) string {
	switch {
	case p.connected == 0:
		return "waits for a worker; start one with: worker run --coordinator ADDR --data DIR"
	case p.drained == p.connected:
		return fmt.Sprintf("waits for a worker: all there are (%d) are drained; start another one, or undo it with: "+
			"coordinator worker drain WORKER --undo", p.connected)
	case p.sound == 0:
		return fmt.Sprintf("waits for a worker: %s hangs in what it was given before; start it again, or another one", p.hung)
	case numerics == "" && kind == direct:
		return fmt.Sprintf("waits for a worker that can do without Winograd's algorithm (winograd: off): %s cannot; start "+
			"one of this version", count(p.sound, "worker"))
	}
	return fmt.Sprintf("waits for a worker with numerics %s, under which the job began", numerics)
}

// commonest are the numerics most free workers would run a job under, the first by name; empty if none can.
func (p *pool) commonest(kind int) string {
	best := -1
	for at, n := range p.free[kind] {
		if n > 0 && (best < 0 || n > p.free[kind][best] || (n == p.free[kind][best] && p.names[at] < p.names[best])) {
			best = at
		}
	}
	if best < 0 {
		return ""
	}
	return p.names[best]
}

// past is the later of a time and a stamp, if that is not from the future.
func (p *pool) past(t time.Time, ns int64) time.Time {
	if s := time.Unix(0, ns); !s.After(p.now) {
		return later(t, s)
	}
	return t
}
