package control

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

// Protocol is the version of the wire contract this coordinator speaks.
const Protocol = 1

// Session is one worker's stream. The rpc layer feeds it and sends what Next says.
type Session struct {
	c           *Control
	worker      string
	incarnation string

	// Under c.mu.
	heard    time.Time
	joined   uint64 // the log's index at which the worker was registered; 0: not yet
	enrolled string // worker, if it can be the roll's own string: two that are one are quick to compare

	mu    sync.Mutex
	queue []*clusterpb.CoordinatorMessage
	ready chan struct{} // holds a token while queue may have something
	done  chan struct{} // closed when the session is over
	once  sync.Once

	// What the worker was told to run, by job; under c.mu.
	told    map[string]uint64
	stopped map[string]uint64
	// What it was told of being drained, and which job to be warm for; under c.mu.
	draining, drained bool
	warmed            string

	evaluates  bool                  // it takes parts of evaluations
	part       sched.PartProgress    // what it was last heard to work on; under c.mu
	partStatus *clusterpb.PartStatus // in its own words; under c.mu

	health *clusterpb.DeviceHealth // of its GPU, as it was last heard; under c.mu

	memories
}

// outLimit bounds what waits to be sent; a worker that far behind is as good as gone.
const outLimit = 10_000

// Attach begins a worker's session; an earlier one of the same worker ends. The worker is told what to run, unless it
// says it runs that already.
func (c *Control) Attach(ctx context.Context, r *clusterpb.Register) (*Session, error) {
	if err := checkRegister(r); err != nil {
		return nil, err
	}
	view, _ := c.cfg.Node.View()
	s := &Session{c: c, worker: r.Worker, enrolled: r.Worker, incarnation: r.Incarnation, ready: make(chan struct{}, 1),
		done: make(chan struct{}), told: map[string]uint64{}, stopped: map[string]uint64{},
		evaluates: r.Evaluates, memories: newMemories(r.Memory)}
	s.send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Welcome{Welcome: &clusterpb.Welcome{
		Cluster: view.Cluster, LeaseMs: uint64(c.cfg.Rules.Lease.Milliseconds()),
		HeartbeatMs: uint64(max(c.cfg.Rules.Lease.Milliseconds()/6, 1))}}})
	for _, run := range r.Running {
		s.told[run.Job] = run.Generation
	}
	// The session is there before the log says so: otherwise a decision in between would find a worker without one, and
	// give up a worker that has just come.
	if err := c.enter(s); err != nil {
		return nil, err
	}
	d := r.Device
	res, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_RegisterWorker{
		RegisterWorker: &commandpb.RegisterWorker{Worker: r.Worker, Name: r.Name, Host: r.Host, Address: r.Address,
			Device: &commandpb.Device{Name: d.Name, Model: d.Model, Numerics: d.Numerics, MemoryBytes: d.MemoryBytes,
				DirectNumerics: d.DirectNumerics, Threads: d.Threads},
			Machine: r.Machine, Version: r.Version, Checkpoints: r.Checkpoints, Incarnation: r.Incarnation,
			Working: len(r.Running) > 0}}})
	if err != nil {
		s.Detach()
		return nil, fmt.Errorf("register worker %s: %w", r.Name, err)
	}
	c.mu.Lock()
	s.joined, s.heard = res.Index, c.cfg.Now()
	c.mu.Unlock()
	c.kick()
	return s, nil
}

// enter puts a session in the place of its worker's earlier one, which ends.
func (c *Control) enter(s *Session) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.leading {
		return ErrNotLeading
	}
	if old := c.sessions[s.worker]; old != nil {
		old.end()
	}
	s.heard = c.cfg.Now()
	c.sessions[s.worker] = s
	c.roster.join(s)
	delete(c.broken, s.worker)
	return nil
}

// ErrRegister is a registration that can never be accepted.
var ErrRegister = fmt.Errorf("registration refused")

func checkRegister(r *clusterpb.Register) error {
	switch {
	case r.Protocol != Protocol:
		return fmt.Errorf("%w: worker speaks protocol %d, this coordinator %d; run the same version on all machines",
			ErrRegister, r.Protocol, Protocol)
	case r.Worker == "" || r.Incarnation == "" || r.Address == "" || r.Device.GetNumerics() == "":
		return fmt.Errorf("%w: id, incarnation, address or device is missing", ErrRegister)
	}
	return nil
}

// send queues a message for the worker.
func (s *Session) send(m *clusterpb.CoordinatorMessage) {
	s.mu.Lock()
	s.queue = append(s.queue, m)
	full := len(s.queue) > outLimit
	s.mu.Unlock()
	if full {
		s.end()
		return
	}
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Next returns the next message for the worker, or nil when the session is over.
func (s *Session) Next(ctx context.Context) *clusterpb.CoordinatorMessage {
	for {
		select {
		case <-s.done: // what still waits is for the session that took this one's place to say
			return nil
		default:
		}
		s.mu.Lock()
		if len(s.queue) > 0 {
			m := s.queue[0]
			s.queue = s.queue[1:]
			s.mu.Unlock()
			return m
		}
		s.mu.Unlock()
		select {
		case <-s.ready:
		case <-s.done:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// Done is closed when the session is over.
func (s *Session) Done() <-chan struct{} { return s.done }

func (s *Session) end() { s.once.Do(func() { close(s.done) }) }

// Detach ends the session from the worker's side: its stream broke.
func (s *Session) Detach() {
	s.end()
	c := s.c
	c.mu.Lock()
	if c.sessions[s.worker] == s {
		delete(c.sessions, s.worker)
		c.roster.leave(s.worker)
		c.broken[s.worker] = c.cfg.Now()
	}
	c.mu.Unlock()
	c.kick()
}

// Heartbeat keeps the lease and notes how far the worker's cells are. It is answered with an empty acknowledgement, by
// which the worker tells a coordinator that is there from one that is only still connected.
func (s *Session) Heartbeat(h *clusterpb.Heartbeat) {
	defer s.ack(0, nil)
	c := s.c
	view, _ := c.cfg.Node.View()
	var noted []*clusterpb.CellStatus
	defer func() { c.remember(view, noted) }() // when the lock is free again
	c.mu.Lock()
	defer c.mu.Unlock()
	s.heard = c.cfg.Now()
	if c.sessions[s.worker] != s {
		return // what an older stream still holds is of the past
	}
	if w := view.Workers[s.worker]; w != nil && w.Hung && !w.Lost && len(h.Cells) == 0 && s.joined > 0 {
		s.end() // it has come out of where it hung: it registers anew, as one that works on nothing
	}
	if c.trouble(s.worker) != "" {
		c.kick() // it may be over
	}
	s.notePart(h.Part)
	if h.Health != nil {
		s.health = h.Health
	}
	for _, held := range h.Holdings {
		s.note(held)
		c.kick()
	}
	c.logs.add(s.worker, view.Workers[s.worker].GetRegistered().GetName(), h.Logs)
	for _, st := range h.Cells {
		j := view.Jobs[st.GetJob()]
		if j == nil || j.Generation != st.Generation || !placed(j, st.Cell, s.worker) {
			continue
		}
		c.noteCell(s.worker, st, s.heard)
		noted = append(noted, st)
	}
	c.notifyLocked()
}

// remember tells the history how far cells are. What it cannot keep it says itself, once, to who writes it.
func (c *Control) remember(view fsm.View, noted []*clusterpb.CellStatus) {
	if c.cfg.History == nil {
		return
	}
	for _, st := range noted {
		j := view.Jobs[st.Job]
		if c.cfg.History.Begin(st.Job, j.SubmittedUnixNs, j.Generation, Base(j)) == nil {
			_ = c.cfg.History.Add(st.Job, j.Generation, st)
		}
	}
}

// Base is the step that a job's newest generation began with.
func Base(j *commandpb.JobRecord) uint64 {
	switch {
	case j.FromMemory:
		return j.MemoryStep
	case j.HasRestore:
		return j.RestoreStep
	}
	return 0
}

// placed says whether a job has a cell on a worker.
func placed(j *commandpb.JobRecord, cell *clusterpb.Cell, worker string) bool {
	return cell != nil && slices.ContainsFunc(j.Placement, func(p *commandpb.Placement) bool {
		return p.Worker == worker && p.Cell.GetReplica() == cell.Replica && p.Cell.GetColumn() == cell.Column
	})
}

// heardNow keeps the lease.
func (s *Session) heardNow() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.heard = s.c.cfg.Now()
}

// reconcile brings what every worker was told into line with the state.
func (c *Control) reconcile() {
	view, _ := c.cfg.Node.View()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.roster.follow(view)
	c.roster.parts = partsOf(view)
	roll := view.Roll
	for _, s := range c.roster.inOrder { // both are in order of worker
		id := s.worker
		for len(roll) > 0 && roll[0].ID < id {
			roll = roll[1:]
		}
		var w *commandpb.WorkerRecord
		if len(roll) > 0 && roll[0].ID == id {
			w, s.enrolled = roll[0].Record, roll[0].ID
		}
		switch {
		case s.joined == 0 || view.Index < s.joined: // its registration is on its way
		case w == nil || w.Lost:
			// It was silent for too long and is back on the same stream: it has to register anew to get work again.
			s.end()
		default:
			s.align(view, id, c)
			s.tellDrain(view, w, c)
			s.warm(view, w)
		}
	}
}

// align tells one worker what has changed for it: new generations, ended ones, stops.
func (s *Session) align(view fsm.View, id string, c *Control) {
	var told []string
	if len(s.told) > 0 {
		told = slices.Sorted(maps.Keys(s.told))
	}
	for _, name := range told {
		if view.Jobs[name] == nil && !strings.HasPrefix(name, evaluationPrefix) {
			// of another cluster, or of a coordinator that has lost its directory
			s.revoke(name, "this coordinator does not know the job")
		}
	}
	s.alignPart(view, c)
	defer s.forgetEnded(view, id)
	for _, name := range c.roster.concerns(view, s) {
		j := view.Jobs[name]
		mine := cellsOn(j, id)
		active := (j.State == fsm.Running || j.State == fsm.Stopping) && len(mine) > 0
		told, ok := s.told[name]
		if ok && (!active || told != j.Generation) {
			s.revoke(name, fmt.Sprintf("job is %s, generation %d: %s", j.State, j.Generation, j.Reason))
			ok = false
		}
		if active && !ok {
			s.send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Assign{Assign: c.assign(view, j, mine)}})
			s.told[name] = j.Generation
		}
		if active && s.memory && !s.holds[name] { // whether it was told just now or runs it since before
			c.roster.hold(s, name)
		}
		if active {
			s.tellBuddies(view, j, c)
		}
		if active && j.State == fsm.Stopping && s.stopped[name] != j.Generation {
			s.send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Stop{Stop: &clusterpb.Stop{
				Job: name, Generation: j.Generation}}})
			s.stopped[name] = j.Generation
		}
	}
}

// revoke takes back what the worker was told to run.
func (s *Session) revoke(name, reason string) {
	s.send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Revoke{Revoke: &clusterpb.Revoke{
		Job: name, Generation: s.told[name], Reason: reason}}})
	delete(s.told, name)
}

func cellsOn(j *commandpb.JobRecord, worker string) []*clusterpb.Cell {
	var out []*clusterpb.Cell
	for _, p := range j.Placement {
		if p.Worker == worker {
			out = append(out, cellPB(p.Cell))
		}
	}
	return out
}

// assign is a worker's part of a generation: with the checkpoint to restore, and the older ones that are kept, behind
// it.
func (c *Control) assign(view fsm.View, j *commandpb.JobRecord, mine []*clusterpb.Cell) *clusterpb.Assign {
	a := &clusterpb.Assign{Job: j.Submitted.Job, Generation: j.Generation, Spec: j.Submitted.Spec, Cells: mine,
		Placement: placementPB(view, j), Skipped: fsm.StepsOf(j, fsm.VetoSkipped),
		Accepted: fsm.StepsOf(j, fsm.VetoAccepted)}
	a.Peers = c.peers(view, j)
	goOn(a, j)
	a.History = c.history(j)
	if !j.HasRestore {
		return a
	}
	for _, r := range j.Checkpoints {
		if r.Committed && r.Step <= j.RestoreStep && (r.Bad == "" || r.Step == j.RestoreStep) {
			a.Restore = append(a.Restore, ManifestPB(j, r))
		}
	}
	slices.Reverse(a.Restore)
	if len(a.Restore) == 0 || a.Restore[0].Step != j.RestoreStep {
		// Its record is gone: the worker must fail, not begin anew. A manifest without files makes it.
		a.Restore = []*clusterpb.Manifest{{Job: j.Submitted.Job, Step: j.RestoreStep}}
	}
	c.locate(view, a.Restore[0])
	return a
}
