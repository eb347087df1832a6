// Package control is the leader's loop: it knows the workers' sessions, has the scheduler decide, writes the decisions
// into the log, and brings every worker's session into line with what the log says. It also writes down what workers
// report and keeps what is not worth a log entry: how far each cell is.
package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

// Node is the part of a coordinator node this package needs.
type Node interface {
	Apply(ctx context.Context, c *commandpb.Command) (fsm.Result, error)
	View() (fsm.View, <-chan struct{})
	Barrier(ctx context.Context) error
	// VerifyLeader asks the others whether this node still leads.
	VerifyLeader(ctx context.Context) error
	Term() uint64
	Leadership() <-chan bool
}

// Config is what a control loop is made of.
type Config struct {
	Node  Node
	Rules sched.Rules
	// Patience is how long workers may not get on; zero: sched.DefaultPatience.
	Patience sched.Patience
	Now      func() time.Time
	Log      *slog.Logger
	Cluster  string  // id for the cluster, if it has none yet
	Name     string  // this node's id, for the event that it leads; empty: there is none
	History  History // nil: nobody is told
}

// History is told how training goes.
type History interface {
	// Begin says which generation of a job runs, from which step.
	Begin(job string, submitted int64, generation, base uint64) error
	// Add says how far a cell of that generation is. Neither may wait for a disk.
	Add(job string, generation uint64, st *clusterpb.CellStatus) error
}

// ErrNotLeading means that another node leads, or none does yet.
var ErrNotLeading = errors.New("this coordinator does not lead")

// Control is one node's loop. Make it with New, then Run it.
type Control struct {
	cfg  Config
	wake chan struct{}

	mu       sync.Mutex
	leading  bool
	since    time.Time // since when
	term     uint64    // in which the view was whole; of no other is this node the leader
	sessions map[string]*Session
	broken   map[string]time.Time             // when workers without a session lost it
	handled  map[string]handled               // by worker: reports that are written down
	cells    map[string]map[cellKey]*cellNote // by job: the newest generation's cells
	reasons  map[string]string                // by job, from the last decision
	waits    map[uint64]string                // by evaluation, from the last decision
	specs    map[string]specFacts             // by job: what its spec says, which never changes
	troubles []sched.Trouble                  // from the last judgement
	changed  chan struct{}                    // closed and replaced when something to watch has changed
	roster   roster
	logs     logs
}

type cellKey struct{ replica, column int32 }

type cellNote struct {
	worker string
	status *clusterpb.CellStatus
	heard  time.Time // when it said so
	best   float64   // the least seconds that it has worked on a step in this generation; 0: not known
}

// New makes a control loop.
func New(cfg Config) *Control {
	if cfg.Patience == (sched.Patience{}) {
		cfg.Patience = sched.DefaultPatience
	}
	return &Control{cfg: cfg, wake: make(chan struct{}, 1), sessions: map[string]*Session{},
		broken: map[string]time.Time{}, handled: map[string]handled{}, cells: map[string]map[cellKey]*cellNote{},
		reasons: map[string]string{}, specs: map[string]specFacts{}, changed: make(chan struct{}),
		roster: newRoster()}
}

// Run leads whenever its node does, until ctx ends.
func (c *Control) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case leads := <-c.cfg.Node.Leadership():
			for leads && ctx.Err() == nil {
				leads = c.lead(ctx)
			}
		}
	}
}

// lead decides until leadership or ctx ends. It returns true if leadership was lost and is back: a lost lead may be
// told of only by the next one, and what this node knew of the workers is no longer true then.
func (c *Control) lead(ctx context.Context) (again bool) {
	defer c.follow()
	for {
		term := c.cfg.Node.Term()
		err := c.begin(ctx)
		if err == nil {
			c.mu.Lock()
			c.leading, c.since, c.term = true, c.cfg.Now(), term
			c.logs = logs{source: c.since.UnixNano()}
			c.mu.Unlock()
			break
		}
		c.cfg.Log.Warn("cannot lead yet", "err", err)
		retry := time.NewTimer(beginAgain)
		select {
		case <-ctx.Done():
			retry.Stop()
			return false
		case again := <-c.cfg.Node.Leadership():
			retry.Stop()
			return again
		case <-retry.C:
		}
	}
	c.cfg.Log.Info("leading")
	if c.cfg.Name != "" && !c.restless() {
		c.write(ctx, &commandpb.Command{Ignorable: true, Kind: &commandpb.Command_RecordEvent{
			RecordEvent: &commandpb.RecordEvent{Kind: "leader", Text: fmt.Sprintf("coordinator %s leads, term %d", c.cfg.Name,
				c.cfg.Node.Term())}}})
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		_, changed := c.cfg.Node.View()
		timer.Reset(c.decide(ctx))
		select {
		case <-ctx.Done():
			return false
		case again := <-c.cfg.Node.Leadership():
			return again
		case <-changed:
		case <-c.wake:
		case <-timer.C:
		}
	}
}

// restless says whether leaders have come and gone several times within a minute: that has been said then, and saying
// it again would only push other events out of the state.
func (c *Control) restless() bool {
	view, _ := c.cfg.Node.View()
	changes, since := 0, c.cfg.Now().Add(-time.Minute).UnixNano()
	for _, e := range slices.Backward(view.Events) {
		if e.AtUnixNs < since {
			break
		}
		if e.Kind == "leader" {
			changes++
		}
	}
	return changes >= 3
}

// beginAgain is how long to wait when the log was too busy to begin.
const beginAgain = 200 * time.Millisecond

// begin brings this node's view up to date and makes the cluster if there is none.
func (c *Control) begin(ctx context.Context) error {
	if err := c.cfg.Node.Barrier(ctx); err != nil {
		return fmt.Errorf("catch up with the log: %w", err)
	}
	if view, _ := c.cfg.Node.View(); view.Cluster != "" {
		return nil
	}
	id := c.cfg.Cluster
	if id == "" {
		id = fmt.Sprintf("cluster-%x", c.cfg.Now().UnixNano())
	}
	_, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_InitCluster{
		InitCluster: &commandpb.InitCluster{Cluster: id}}})
	if err != nil {
		return fmt.Errorf("name the cluster: %w", err)
	}
	return nil
}

// follow forgets what only a leader knows; workers find the new leader by themselves.
func (c *Control) follow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leading = false
	for _, s := range c.sessions {
		s.end()
	}
	clear(c.sessions)
	c.roster = newRoster()
	clear(c.broken)
	clear(c.handled)
	clear(c.cells)
	clear(c.reasons)
	c.waits = nil
	c.troubles = nil
	c.notifyLocked() // watchers go and look for the new leader too
}

// idle is how long to sleep when nothing but a change can matter.
const idle = time.Second

// decide has the scheduler decide, writes its actions into the log, and returns when to decide again.
func (c *Control) decide(ctx context.Context) time.Duration {
	view, _ := c.cfg.Node.View()
	now := c.cfg.Now()
	d := sched.Decide(now, c.input(view))
	next := idle
	if !d.Next.IsZero() {
		next = min(max(d.Next.Sub(now), time.Millisecond), idle)
	}
	for _, a := range d.Actions {
		next = 0 // the state has changed
		if _, err := c.cfg.Node.Apply(ctx, decision(a)); err != nil {
			// The state has moved on, which wakes the loop at once, or the log is in trouble: trying again at once would
			// only fill it.
			c.cfg.Log.Warn("decision was not written", "action", fmt.Sprintf("%+v", a), "err", err)
			next = idle
			break
		}
		if f, ok := a.(sched.Forget); ok {
			c.forgotten(f.Worker)
		}
	}
	next = min(next, c.judge(ctx, now))
	c.mu.Lock()
	c.reasons, c.waits = d.Reasons, d.Waits
	c.mu.Unlock()
	c.reconcile()
	c.ask(d.Asks)
	c.notify()
	return next
}

// forgotten drops what this node alone knows of a worker that the state does not know any more.
func (c *Control) forgotten(worker string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions[worker] == nil {
		delete(c.broken, worker)
		delete(c.handled, worker)
	}
}

// input is what the scheduler is told.
func (c *Control) input(view fsm.View) sched.Input {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := sched.Input{View: view, Leader: c.since, Rules: c.cfg.Rules, Keepers: c.roster.keepers(view),
		Sessions: make(sched.Sessions, 0, len(c.roster.inOrder)+len(c.broken))}
	for _, s := range c.roster.inOrder {
		in.Sessions = append(in.Sessions, sched.Session{Worker: s.enrolled, Answers: s.answers, Part: s.part,
			Liveness: sched.Liveness{Connected: true, Heard: s.heard, Memory: s.memory, Evaluates: s.evaluates}})
	}
	for id, t := range c.broken {
		in.Sessions = append(in.Sessions, sched.Session{Worker: id, Liveness: sched.Liveness{Broken: t}})
	}
	if len(c.broken) > 0 {
		slices.SortFunc(in.Sessions, func(a, b sched.Session) int { return cmp.Compare(a.Worker, b.Worker) })
	}
	return in
}

// decision is an action as the log has it.
func decision(a sched.Action) *commandpb.Command {
	switch a := a.(type) {
	case sched.Lose:
		return &commandpb.Command{Kind: &commandpb.Command_LoseWorker{
			LoseWorker: &commandpb.LoseWorker{Worker: a.Worker, Reason: a.Reason, Hung: a.Hung}}}
	case sched.Assign:
		return &commandpb.Command{Kind: &commandpb.Command_AssignJob{AssignJob: &commandpb.AssignJob{Job: a.Job,
			Generation: a.Generation, Placement: a.Placement, RestoreStep: a.Restore, HasRestore: a.HasRestore,
			FromMemory: a.FromMemory, MemoryStep: a.Memory, Numerics: a.Numerics, Reason: a.Reason}}}
	case sched.Forget:
		return &commandpb.Command{Kind: &commandpb.Command_ForgetWorker{
			ForgetWorker: &commandpb.ForgetWorker{Worker: a.Worker}}}
	case sched.Give:
		return &commandpb.Command{Kind: &commandpb.Command_GivePart{GivePart: &commandpb.GivePart{Evaluation: a.Evaluation,
			Part: a.Part, Worker: a.Worker, From: a.From}}}
	case sched.EndEvaluation:
		return &commandpb.Command{Kind: &commandpb.Command_EndEvaluation{EndEvaluation: &commandpb.EndEvaluation{
			Evaluation: a.Evaluation, Reason: a.Reason, Failed: true}}}
	case sched.Preempt:
		return &commandpb.Command{Kind: &commandpb.Command_PreemptJob{PreemptJob: &commandpb.PreemptJob{Job: a.Job,
			Generation: a.Generation, By: a.By}}}
	case sched.Move:
		return &commandpb.Command{Kind: &commandpb.Command_MoveJob{MoveJob: &commandpb.MoveJob{Job: a.Job,
			Generation: a.Generation, Reason: a.Reason}}}
	}
	panic(fmt.Sprintf("control: unknown action %T", a))
}

// kick has the loop look again.
func (c *Control) kick() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// notify tells watchers that something has changed.
func (c *Control) notify() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.notifyLocked()
}

func (c *Control) notifyLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Changed returns a channel that is closed at the next change worth showing.
func (c *Control) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}
