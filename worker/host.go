package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"colonnade/checkpoint"
	"colonnade/cudakern"
	"colonnade/proto/clusterpb"
	"colonnade/worker/arena"
	"colonnade/worker/buddy"
	"colonnade/worker/exchange"
	"colonnade/worker/otlp"
	"colonnade/worker/session"
	"colonnade/worker/train"
)

// Why an assignment's run was ended from outside.
var (
	errSuperseded = errors.New("a newer generation took its place")
	errRevoked    = errors.New("the coordinator took the assignment back")
)

// host runs the assignments of one worker: the session's Handler.
type host struct {
	ctx     context.Context                                  // of the process; runs are its children
	open    func(cudakern.Settings) (cudakern.Device, error) // the device that the worker registered with, for one cell
	threads int                                              // of this worker, shared out among the cells of an assignment
	mesh    *exchange.Mesh
	root    string // checkpoint directory
	packs   string // directory of packs known by identity
	worker  string
	address string // of the exchange, for carriers that go through it even within this worker
	carrier exchange.Carrier
	log     *slog.Logger
	report  func(*clusterpb.Report)
	lost    func(error) // ends the worker, whose device has died
	answer  func(*clusterpb.Holdings)
	arenas  *arena.Store // nil: states lie in the devices' own memory
	copies  *buddy.Store // of cells' states, this worker's and others'
	buddies *buddy.Client

	spans      *otlp.Exporter // of steps; nil: nobody wants them
	traceEvery uint64

	mu       sync.Mutex
	runs     map[string]*assignment // by job: the newest generation given to us
	ended    map[string]uint64      // by job: the newest generation that ended here
	closed   bool                   // nothing is begun any more
	draining bool                   // no cell is placed here
	tasks    sync.WaitGroup

	part  *partRun     // of an evaluation, that is computed; nil: none
	ready *readyModels // of an evaluation, between two parts; nil: none

	warm     *warming        // what a spare is ready for; nil: nothing
	cluster  string          // id of the one this worker is in
	finished map[string]bool // jobs whose cells here have come to their end
}

// assignment is one generation of a job on this worker.
type assignment struct {
	job        string
	generation uint64
	local      []*clusterpb.Cell
	from       uint64 // step that it goes on from
	cancel     context.CancelCauseFunc
	quiet      chan struct{} // closed when its cells are gone, and their memory is anybody's
	done       chan struct{} // closed when it has left the exchange too

	mu     sync.Mutex
	phase  string                        // what it does until its cells run
	since  time.Time                     // since when
	cells  map[exchange.Cell]*train.Cell // once built
	links  map[exchange.Cell]string      // over which carriers they send
	memory map[exchange.Cell]string      // where their states lie
	stop   bool                          // asked for before they were

	buddies []*clusterpb.Buddy // who keeps copies of its cells' states, the first that can
}

// Phases of an assignment before its cells run.
const (
	phaseReplace = "wait for the generation before to end"
	phasePacks   = "open packs"
	phaseFetch   = "fetch pack" // and which, from whom, how far: the coordinator says so of the job
	phaseDevices = "open devices"
	phaseJoin    = "join"
	phaseBuild   = "build"
	phaseRestore = "restore"
)

func (a *assignment) enter(phase string) {
	a.mu.Lock()
	a.phase, a.since = phase, time.Now()
	a.mu.Unlock()
}

var _ session.Handler = (*host)(nil)

// Assign starts a generation, after the one it replaces has ended.
func (h *host) Assign(a *clusterpb.Assign) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a.Part != nil {
		h.assignPart(a)
		return
	}
	old := h.runs[a.Job]
	if h.closed || (old != nil && old.generation >= a.Generation) || h.ended[a.Job] >= a.Generation {
		return
	}
	ctx, cancel := context.WithCancelCause(h.ctx)
	run := &assignment{job: a.Job, generation: a.Generation, local: a.Cells, cancel: cancel,
		quiet: make(chan struct{}), done: make(chan struct{}), phase: phaseReplace, since: time.Now()}
	switch {
	case a.FromMemory:
		run.from = a.MemoryStep
	case len(a.Restore) > 0:
		run.from = a.Restore[0].Step
	}
	h.runs[a.Job] = run
	h.copies.Fence(h.cluster, a.Job, a.Generation)
	delete(h.finished, a.Job) // an earlier generation's cells had stopped
	warm := h.warm
	h.warm = nil
	parts := h.endParts()
	h.tasks.Go(func() {
		defer close(run.done)
		defer cancel(nil)
		parts()
		if old != nil {
			old.cancel(errSuperseded)
			<-old.done
		}
		defer h.cool(warm) // what it has mapped stays so until this has its own
		if warm != nil {
			warm.cancel()
			<-warm.done
		}
		finished := h.run(ctx, run, a)
		h.mu.Lock()
		defer h.mu.Unlock()
		if finished {
			h.finished[run.job] = true
		}
		if h.runs[run.job] == run {
			delete(h.runs, run.job)
		}
		h.ended[run.job] = max(h.ended[run.job], run.generation)
	})
}

// tell reports a run's failure, if it is its own.
func (h *host) tell(ctx context.Context, run *assignment, err error) {
	cause := context.Cause(ctx)
	switch {
	case err == nil:
	case errors.Is(cause, errSuperseded), errors.Is(cause, errRevoked), errors.Is(cause, errAsked),
		h.ctx.Err() != nil:
		h.log.Info("assignment ended", "job", run.job, "generation", run.generation, "cause", cause)
	default:
		h.log.Error("assignment failed", "job", run.job, "generation", run.generation, "err", err)
		h.report(failureReport(run, err))
	}
}

// Revoke ends a generation at once.
func (h *host) Revoke(r *clusterpb.Revoke) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if run := h.runs[r.Job]; run != nil && run.generation <= r.Generation {
		h.log.Info("assignment revoked", "job", r.Job, "generation", r.Generation, "reason", r.Reason)
		run.cancel(errRevoked)
	}
}

// Stop asks a generation's cells to stop at a step boundary.
func (h *host) Stop(s *clusterpb.Stop) {
	h.mu.Lock()
	run := h.runs[s.Job]
	h.mu.Unlock()
	if run == nil || run.generation != s.Generation {
		return
	}
	run.mu.Lock()
	defer run.mu.Unlock()
	run.stop = true
	for _, c := range run.cells {
		c.RequestStop()
	}
}

// Dropped removes the files of checkpoints that retention gave up.
func (h *host) Dropped(manifests []*clusterpb.Manifest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	h.tasks.Go(func() {
		for _, m := range manifests {
			if err := checkpoint.Remove(h.root, m.Job, m.Step); err != nil {
				h.log.Warn("remove dropped checkpoint", "job", m.Job, "step", m.Step, "err", err)
			}
		}
	})
}

// Running lists the generations being worked on.
func (h *host) Running() []*clusterpb.Running {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*clusterpb.Running
	for _, job := range slices.Sorted(maps.Keys(h.runs)) {
		out = append(out, &clusterpb.Running{Job: job, Generation: h.runs[job].generation})
	}
	return out
}

// Cells says how far every cell is.
func (h *host) Cells() []*clusterpb.CellStatus {
	h.mu.Lock()
	runs := slices.Collect(maps.Values(h.runs))
	h.mu.Unlock()
	var out []*clusterpb.CellStatus
	for _, run := range runs {
		out = append(out, h.cellsOf(run)...)
	}
	return out
}

// cellsOf says how far the cells of one assignment are, or what they wait for.
func (h *host) cellsOf(run *assignment) []*clusterpb.CellStatus {
	run.mu.Lock()
	defer run.mu.Unlock()
	var out []*clusterpb.CellStatus
	for id, c := range run.cells {
		s := c.Status()
		p := &clusterpb.CellStatus{Job: run.job, Generation: run.generation, Cell: cellPB(id),
			Step: s.Step, Phase: s.Phase, ImagesPerSecond: s.ImagesPerSecond, Loss: s.Loss,
			Scored: s.Trained.Images, Top1Errors: s.Trained.Top1, Top5Errors: s.Trained.Top5,
			PhaseSeconds: s.PhaseSeconds, Carrier: run.links[id], Memory: run.memory[id], Kind: string(s.Kind),
			InPhaseSeconds: s.InPhase.Seconds(), UsualSeconds: s.Usual.Seconds(), BusySeconds: s.BusySeconds}
		for _, other := range s.WaitsFor {
			p.WaitsFor = append(p.WaitsFor, cellPB(other))
		}
		out = append(out, p)
	}
	if len(out) > 0 {
		return out
	}
	phase := run.phase
	var waits []*clusterpb.Cell
	if phase == phaseJoin {
		var missing []string
		for _, p := range h.mesh.Waiting(run.job, run.generation) {
			missing = append(missing, fmt.Sprintf("cell %s on worker %s", p.Cell, p.Worker))
			waits = append(waits, cellPB(p.Cell))
		}
		if len(missing) > 0 {
			phase = "wait for " + strings.Join(missing, ", ")
		}
	}
	for _, c := range run.local {
		out = append(out, &clusterpb.CellStatus{Job: run.job, Generation: run.generation, Cell: c, Step: run.from,
			Phase: phase, InPhaseSeconds: time.Since(run.since).Seconds(), WaitsFor: waits})
	}
	return out
}

// wait lets nothing more begin and returns when every run has ended; the host's context must have been cancelled.
func (h *host) wait() {
	h.mu.Lock()
	h.closed = true
	warm := h.warm
	h.warm = nil
	h.mu.Unlock()
	h.cool(warm)
	h.tasks.Wait()
}

func cellPB(c exchange.Cell) *clusterpb.Cell {
	return &clusterpb.Cell{Replica: int32(c.Replica), Column: int32(c.Column)}
}

func cellOf(c *clusterpb.Cell) exchange.Cell {
	return exchange.Cell{Replica: int(c.GetReplica()), Column: int(c.GetColumn())}
}
