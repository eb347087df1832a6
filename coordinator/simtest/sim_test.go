package simtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/commandpb"
)

// epoch is when simulations begin.
var epoch = time.Unix(1_000_000, 0)

// mostEvents is many more than any life has: one that has more goes round in circles.
const mostEvents = 100_000

// sim is one simulated cluster. Everything happens in run's loop, in the order of time and then of scheduling.
type sim struct {
	r      *rand.Rand
	now    time.Time
	events queue
	count  int
	done   bool // all jobs are
	traced bool
	trace  []string
	failed error

	// The coordinator: what its log says, and what its leader knows.
	state    *fsm.State
	view     fsm.View // of state
	index    uint64
	up       bool
	since    time.Time
	sessions map[string]*session
	broken   map[string]time.Time
	handled  map[string]handled // by worker: the last report that is written down
	kicked   bool
	wake     int         // the timer that counts: the newest decision's
	in       sched.Input // its maps are made once
	ring     *sched.Ring // of those who are there now; nil: not made yet

	workers []*worker
	memory  map[int][]*arena // by host
	jobs    []jobSpec
	forked  int // jobs, and deleted ones
	deleted int
	groups  map[groupKey]*group
	faults  bool
	check   *checker
}

// jobSpec is a job; its bits depend on the seed alone.
type jobSpec struct {
	name              string
	replicas, columns int32
	steps, every      uint64
	keep              uint64
	seed              uint64
	copies            uint64 // steps between copies on other hosts
	bad               uint64 // step, counted from 1, that the guard of a cell vetoes; 0: none
	sees              int    // which cell's
	late              bool   // it is the update that is wrong: other columns hold the step until the next guard
	skips             bool   // the job says to go on without the batch; else an operator has to
	priority          int32
	least, most       uint32   // workers
	from              *descent // of a fork: where it begins
	turn              uint64   // of a fork: what makes its steps others than its source's
	gone              bool     // it is deleted, and does not come back
}

func (j jobSpec) cells() int { return int(j.replicas * j.columns) }

func newSim(seed uint64) *sim {
	s := &sim{r: rand.New(rand.NewPCG(seed, 0xc0)), now: epoch, state: fsm.New(), sessions: map[string]*session{},
		broken: map[string]time.Time{}, groups: map[groupKey]*group{}, faults: true,
		memory: map[int][]*arena{}, handled: map[string]handled{}, in: sched.Input{Rules: rules(),
			Keepers: map[string][]string{}}}
	s.view = s.state.View()
	s.check = newChecker(s)
	for i := range 1 + s.r.IntN(4) {
		s.workers = append(s.workers, &worker{sim: s, id: fmt.Sprintf("w%d", i), disk: map[fileKey]file{},
			ended: map[string]uint64{}, host: s.r.IntN(3)})
	}
	shapes := [][2]int32{{1, 1}, {1, 2}, {1, 2}, {2, 2}}
	for i := range 1 + s.r.IntN(3) {
		shape := shapes[s.r.IntN(len(shapes))]
		s.jobs = append(s.jobs, jobSpec{name: fmt.Sprintf("job-%d", i), replicas: shape[0], columns: shape[1],
			steps: 15 + s.r.Uint64N(40), every: 2 + s.r.Uint64N(8), keep: s.r.Uint64N(4), seed: s.r.Uint64(),
			copies: 1 + s.r.Uint64N(6)})
		if j := &s.jobs[i]; s.r.IntN(3) == 0 {
			j.bad, j.sees, j.skips = 1+s.r.Uint64N(j.steps), s.r.IntN(j.cells()), s.r.IntN(2) == 0
			j.late = j.columns > 1 && j.bad%2 == 0
		}
	}
	s.drawQueue()
	return s
}

// rules are the usual ones, with less patience before cells spread out: these jobs are short.
func rules() sched.Rules {
	r := sched.DefaultRules
	r.Spread, r.Forget = 2*time.Second, 3*time.Second
	return r
}

// after has something happen later.
func (s *sim) after(d time.Duration, f func()) { s.at(s.now.Add(d), f) }

func (s *sim) at(t time.Time, f func()) {
	s.count++
	s.events.push(event{t.UnixNano(), s.count, f})
}

func (s *sim) logf(format string, args ...any) {
	if !s.traced {
		return
	}
	s.trace = append(s.trace, fmt.Sprintf("%8.3f ", s.now.Sub(epoch).Seconds())+fmt.Sprintf(format, args...))
}

func (s *sim) fail(format string, args ...any) {
	if s.failed == nil {
		s.failed = fmt.Errorf(format, args...)
		s.logf("FAILED: %v", s.failed)
	}
}

// between is a random time span.
func (s *sim) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(s.r.Int64N(int64(hi-lo)))
}

// chance is true with probability 1 in n, while there are faults.
func (s *sim) chance(n int) bool { return s.faults && s.r.IntN(n) == 0 }

// Faults end after troubled; every job must be done by the end of patience.
const (
	troubled = 15 * time.Second
	patience = 120 * time.Second
)

// run simulates until every job is done, or something is wrong. A panic of the code under test is that too.
func (s *sim) run() (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.fail("panic: %v\n%s", r, debug.Stack())
			err = s.failed
		}
	}()
	s.begin()
	for s.failed == nil && len(s.events) > 0 && !s.done {
		e := s.events.pop()
		s.now = time.Unix(0, e.at)
		e.do()
		if s.now.Sub(epoch) > troubled && s.faults {
			s.heal()
		}
		switch {
		case s.now.Sub(epoch) > patience:
			s.fail("no progress: not all jobs are done %v after the last fault: %s", patience-troubled, s.states())
		case s.count > mostEvents:
			s.fail("no progress: %d events in %v", s.count, s.now.Sub(epoch))
		}
	}
	return s.failed
}

// states is where every job is, in words.
func (s *sim) states() string {
	var out []string
	for _, name := range s.view.JobNames() {
		j := s.view.Jobs[name]
		out = append(out, fmt.Sprintf("%s is %s: %s", name, j.State, j.Reason))
	}
	return strings.Join(out, "; ")
}

func (s *sim) begin() {
	s.lead()
	for _, w := range s.workers {
		s.after(s.between(0, 3*time.Second), w.start)
	}
	for _, j := range s.jobs {
		s.after(s.between(0, 2*time.Second), func() { s.submit(j) })
	}
	s.after(time.Second, s.trouble)
	s.after(time.Second, s.operate)
}

func (s *sim) allDone() bool {
	for _, j := range s.jobs {
		if r := s.view.Jobs[j.name]; !j.gone && (r == nil || r.State != fsm.Done) {
			return false
		}
	}
	return true
}

// ---- the coordinator

// lead begins a new leader's time: it knows the log and nobody's session.
func (s *sim) lead() {
	s.up, s.since = true, s.now
	clear(s.sessions)
	clear(s.broken)
	clear(s.handled)
	s.logf("a leader begins")
	s.kick()
}

// crash ends a leader. What is in the log stays; the next reads it from a snapshot, as a restarted node does.
func (s *sim) crash() {
	s.logf("the leader crashes")
	s.up = false
	for _, w := range s.workers {
		if w.session != nil {
			w.session.close()
		}
	}
	b, err := s.view.Encode()
	if err != nil {
		s.fail("encode: %v", err)
		return
	}
	if s.state, err = fsm.Decode(bytes.NewReader(b)); err != nil {
		s.fail("decode: %v", err)
		return
	}
	s.view = s.state.View()
	s.after(s.between(100*time.Millisecond, 4*time.Second), s.lead)
}

// apply writes a command into the log. The state keeps parts of commands, and changes none.
func (s *sim) apply(c *commandpb.Command) error {
	s.index++
	c.Version, c.DecidedUnixNs = fsm.Version, s.now.UnixNano()
	before := s.view
	r, err := s.state.Apply(s.index, c)
	if err != nil {
		s.fail("entry %d stops the node: %v", s.index, err)
		return err
	}
	s.view = s.state.View()
	if s.traced {
		s.logf("entry %d: %v", s.index, c)
		if r.Refused != nil {
			s.logf("  refused: %v", r.Refused)
		}
	}
	s.check.applied(before, s.view, c, r.Refused)
	s.done = s.allDone()
	s.kick()
	return r.Refused
}

// kick has the leader decide soon.
func (s *sim) kick() {
	if !s.kicked {
		s.kicked = true
		s.after(time.Millisecond, s.decide)
	}
}

func (s *sim) decide() {
	s.kicked = false
	if !s.up {
		return
	}
	in := s.in
	in.View, in.Leader = s.view, s.since
	in.Sessions = in.Sessions[:0]
	for _, j := range s.jobs {
		in.Keepers[j.name] = s.keepers(j.name)
	}
	for _, w := range s.workers {
		if x := s.sessions[w.id]; x != nil {
			in.Sessions = append(in.Sessions, sched.Session{Worker: w.id, Answers: x.answers,
				Liveness: sched.Liveness{Connected: true, Heard: x.heard, Memory: true}})
		} else if t, ok := s.broken[w.id]; ok {
			in.Sessions = append(in.Sessions, sched.Session{Worker: w.id, Liveness: sched.Liveness{Broken: t}})
		}
	}
	s.in.Sessions = in.Sessions
	d := sched.Decide(s.now, in)
	s.check.decided(in, d)
	for _, a := range d.Actions {
		if err := s.apply(command(a)); err != nil {
			s.fail("the state refuses a decision taken on it: %+v: %v", a, err)
		}
		if p, ok := a.(sched.Preempt); ok && s.chance(4) {
			s.after(s.between(time.Millisecond, 300*time.Millisecond), func() { s.interfere(p.Job) })
		}
	}
	s.reconcile()
	s.asks(d)
	s.wake++ // what an older decision wanted is its affair no more, as in the leader's loop
	if !d.Next.IsZero() {
		mine := s.wake
		s.at(d.Next, func() {
			if s.wake == mine {
				s.kick()
			}
		})
	}
}

func command(a sched.Action) *commandpb.Command {
	switch a := a.(type) {
	case sched.Lose:
		return &commandpb.Command{Kind: &commandpb.Command_LoseWorker{LoseWorker: &commandpb.LoseWorker{Worker: a.Worker,
			Reason: a.Reason}}}
	case sched.Assign:
		return &commandpb.Command{Kind: &commandpb.Command_AssignJob{AssignJob: &commandpb.AssignJob{Job: a.Job,
			Generation: a.Generation, Placement: a.Placement, RestoreStep: a.Restore, HasRestore: a.HasRestore,
			FromMemory: a.FromMemory, MemoryStep: a.Memory, Numerics: a.Numerics, Reason: a.Reason}}}
	case sched.Forget:
		return &commandpb.Command{Kind: &commandpb.Command_ForgetWorker{ForgetWorker: &commandpb.ForgetWorker{
			Worker: a.Worker}}}
	case sched.Preempt:
		return &commandpb.Command{Kind: &commandpb.Command_PreemptJob{PreemptJob: &commandpb.PreemptJob{Job: a.Job,
			Generation: a.Generation, By: a.By}}}
	case sched.Move:
		return &commandpb.Command{Kind: &commandpb.Command_MoveJob{MoveJob: &commandpb.MoveJob{Job: a.Job,
			Generation: a.Generation, Reason: a.Reason}}}
	}
	panic("unknown action")
}

// reconcile tells every worker what has changed for it.
func (s *sim) reconcile() {
	names := s.view.JobNames()
	s.ring = nil
	for _, w := range s.workers {
		if x := s.sessions[w.id]; x != nil {
			for _, name := range names {
				x.align(s.view.Jobs[name])
			}
		}
	}
}

func (x *session) align(j *commandpb.JobRecord) {
	name := j.Submitted.Job
	active := (j.State == fsm.Running || j.State == fsm.Stopping) &&
		slices.ContainsFunc(j.Placement, func(p *commandpb.Placement) bool { return p.Worker == x.w.id })
	if told, ok := x.told[name]; ok && (!active || told != j.Generation) {
		x.toWorker(func() { x.w.revoke(name, told) })
		delete(x.told, name)
	}
	if _, ok := x.told[name]; active && !ok {
		a := x.w.assignmentOf(j)
		x.toWorker(func() { x.w.assign(a) })
		x.told[name] = j.Generation
	}
	if active {
		x.holds[name] = true // its own copies, when it can take no cell any more
		x.tellBuddies(j)
	}
	if active && j.State == fsm.Stopping && x.stopped[name] != j.Generation {
		generation := j.Generation
		x.toWorker(func() { x.w.stop(name, generation) })
		x.stopped[name] = j.Generation
	}
}

// assignmentOf is what a worker is told of a job's generation.
func (s *sim) assignmentOf(j *commandpb.JobRecord) assignment {
	a := assignment{spec: s.spec(j.Submitted.Job), job: j.Submitted.Job, generation: j.Generation,
		fromMemory: j.FromMemory, memory: j.MemoryStep, since: fsm.MemorySince(j), skipped: fsm.StepsOf(j, fsm.VetoSkipped)}
	for _, p := range j.Placement {
		a.on = append(a.on, p.Worker)
		a.from = append(a.from, p.Source)
	}
	if j.HasRestore {
		for _, r := range j.Checkpoints {
			if r.Step == j.RestoreStep && r.Committed {
				a.restore = r
			}
		}
		if a.restore == nil {
			s.logf("the checkpoint of step %d is gone when it is told of", j.RestoreStep)
		}
	}
	return a
}

// handled is the last report of a worker's process that is written down.
type handled struct {
	incarnation int
	sequence    uint64
}

// report writes down what a worker reports, keeps the job's checkpoints few, and acknowledges. What comes again after
// that is acknowledged only.
func (s *sim) report(x *session, r report) {
	if h := s.handled[x.w.id]; h.incarnation == x.incarnation && r.sequence <= h.sequence {
		x.toWorker(func() { x.w.acknowledge(r.sequence) })
		return
	}
	s.apply(r.command)
	s.retain(r.job)
	s.handled[x.w.id] = handled{x.incarnation, r.sequence}
	x.toWorker(func() { x.w.acknowledge(r.sequence) })
}

// retain drops the checkpoints of a job beyond those it keeps.
func (s *sim) retain(job string) {
	j := s.view.Jobs[job]
	if j == nil {
		return
	}
	good := fsm.Usable(j)
	if len(good) <= fsm.Keep(j) {
		return
	}
	oldest := good[len(good)-fsm.Keep(j)].Step
	var steps []uint64
	for _, c := range j.Checkpoints {
		if c.Step < oldest && !fsm.Kept(s.view, j, c) {
			steps = append(steps, c.Step)
		}
	}
	if len(steps) == 0 {
		return
	}
	drop := &commandpb.DropCheckpoints{Job: job, Steps: steps}
	if s.apply(&commandpb.Command{Kind: &commandpb.Command_DropCheckpoints{DropCheckpoints: drop}}) != nil {
		return
	}
	for _, w := range s.workers {
		if other := s.sessions[w.id]; other != nil {
			other.toWorker(func() { w.dropped(job, steps) })
		}
	}
}

// ---- the operator, and what goes wrong

func (s *sim) submit(j jobSpec) {
	if !s.up {
		s.after(time.Second, func() { s.submit(j) })
		return
	}
	c := &commandpb.SubmitJob{Job: j.name, Steps: j.steps, Replicas: j.replicas, Columns: j.columns, Keep: j.keep,
		Priority: j.priority, MinWorkers: j.least, MaxWorkers: j.most}
	if j.from != nil {
		c.FromJob, c.FromStep = j.from.source, j.from.step
	}
	if err := s.apply(&commandpb.Command{Kind: &commandpb.Command_SubmitJob{SubmitJob: c}}); err != nil {
		s.fail("job %s is refused: %v", j.name, err)
	}
}

// operate stops, pauses and resumes jobs at random while there are faults, forks and deletes some, and then resumes
// what is stopped.
func (s *sim) operate() {
	defer s.after(s.between(200*time.Millisecond, 3*time.Second), s.operate)
	if !s.up {
		return
	}
	s.drain()
	s.reorder()
	s.branch()
	s.remove()
	spec := s.jobs[s.r.IntN(len(s.jobs))]
	j := s.view.Jobs[spec.name]
	if j == nil {
		return
	}
	switch {
	case j.State == fsm.Paused && fsm.Named(j) != nil:
		s.apply(&commandpb.Command{Kind: &commandpb.Command_ResumeJob{ResumeJob: &commandpb.ResumeJob{Job: spec.name,
			SkipBatch: !s.chance(3)}}})
	case fsm.Ended(j.State) && j.State != fsm.Done:
		r := &commandpb.ResumeJob{Job: spec.name}
		if good := fsm.Usable(j); s.chance(3) {
			r.FromStep = true
			if len(good) > 0 && s.r.IntN(3) > 0 {
				r.Step = good[s.r.IntN(len(good))].Step
			}
		}
		s.apply(&commandpb.Command{Kind: &commandpb.Command_ResumeJob{ResumeJob: r}})
	case s.chance(3):
		s.apply(&commandpb.Command{Kind: &commandpb.Command_RequestStop{RequestStop: &commandpb.RequestStop{Job: spec.name,
			Now: s.r.IntN(3) == 0, Pause: s.r.IntN(2) == 0}}})
	}
}

// drain drains a worker at random, or undoes it; all of it when there are no more faults.
func (s *sim) drain() {
	for _, w := range s.workers {
		record := s.view.Workers[w.id]
		if record == nil || s.faults && !s.chance(6) || !s.faults && !record.Draining {
			continue
		}
		s.apply(&commandpb.Command{Kind: &commandpb.Command_DrainWorker{DrainWorker: &commandpb.DrainWorker{Worker: w.id,
			Undo: record.Draining}}})
	}
}

// trouble makes one thing go wrong.
func (s *sim) trouble() {
	if !s.faults {
		return
	}
	defer s.after(s.between(50*time.Millisecond, 4*time.Second), s.trouble)
	w := s.workers[s.r.IntN(len(s.workers))]
	switch s.r.IntN(7) {
	case 6:
		s.loseHost(w.host)
	case 0:
		w.kill()
		s.after(s.between(10*time.Millisecond, 6*time.Second), w.start)
	case 1:
		w.cutOff(s.r.IntN(2) == 0)
		s.after(s.between(10*time.Millisecond, 6*time.Second), w.rejoin)
	case 2:
		if s.up {
			s.crash()
		}
	case 3:
		w.rot()
	case 4:
		s.spoil(w)
	case 5:
		if w.session != nil { // a broken connection, nothing else
			w.session.close()
		}
	}
}

// heal ends all faults.
func (s *sim) heal() {
	s.faults = false
	s.logf("no more faults")
	for _, w := range s.workers {
		w.start()
		w.rejoin()
	}
}

// ---- time

type event struct {
	at    int64 // Unix nanoseconds
	count int
	do    func()
}

// queue is a heap of events, the next one first.
type queue []event

func (e event) before(o event) bool { return e.at < o.at || (e.at == o.at && e.count < o.count) }

func (q *queue) push(e event) {
	h := append(*q, e)
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !e.before(h[up]) {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = e
	*q = h
}

func (q *queue) pop() event {
	h := *q
	top, e := h[0], h[len(h)-1]
	h[len(h)-1] = event{}
	h = h[:len(h)-1]
	*q = h
	for i := 0; len(h) > 0; {
		least := i
		for c := 4*i + 1; c <= 4*i+4 && c < len(h); c++ {
			if h[c].before(e) && (least == i || h[c].before(h[least])) {
				least = c
			}
		}
		if least == i {
			h[i] = e
			break
		}
		h[i] = h[least]
		i = least
	}
	return top
}
