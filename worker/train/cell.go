package train

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"colonnade/cudakern"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/exchange"
)

// Config is what a cell is made of.
type Config struct {
	Job        *job.Job
	Plan       *shard.Plan
	Cell       exchange.Cell
	Cells      []exchange.Cell // all cells of the job
	Generation uint64
	Device     cudakern.Device
	Exchanger  exchange.Exchanger
	Source     Source
	Directory  string           // of checkpoints
	Report     func(Event)      // called in order from the cell's goroutines; must not block for long
	Now        func() time.Time // for reports only
	Log        *slog.Logger
	History    job.History // the evaluations that the job's log has: what a recipe's plateau goes by
	// Memory, if set, is asked for the memory of the cell's state. Devices that can work in it (cudakern.Placer) do; of
	// others the state is written there whenever a copy is due, before Copy is called. It must stay until the cell is
	// closed. An error of it is New's.
	Memory func(MemoryLayout) (Memory, error)

	Trace Tracer // nil: nobody wants to know what steps are made of

	// Copy, if set, brings a copy of the cell's memory after a step to safety on another host, and returns when it is
	// there, or why it is not; without an error if there is no other host. It is called every CopyEvery steps of the job,
	// by all cells or none, on a goroutine of the run's. The half that holds the step stays as it is for at least the
	// next step; Copy must see whether it did. Of the copies before, only that of step keep is needed, unless keep is 0.
	Copy func(ctx context.Context, step, keep uint64) (whole bool, err error)

	// Steps, counted from 1, that were vetoed and then decided on: they change nothing, or are done however high their
	// loss. All cells have the same.
	Skipped, Accepted []uint64

	// For tests; the bits depend on none of them.
	staged                bool // exchange through host buffers even where the host can address device memory
	partBytes, smallBytes int  // 0: as said in replicas.go
}

// Cell is one column of one replica on a device.
type Cell struct {
	id exchange.Cell
	// The cells of this column, by replica, and those of this replica, by column; this one among both.
	replicas, columns []exchange.Cell

	job    *job.Job
	plan   *shard.Plan
	dev    cudakern.Device
	st     cudakern.Stream
	ex     exchange.Exchanger
	source Source
	report func(Event)
	now    clock
	trace  *tracer // nil: nobody wants to know
	log    *slog.Logger

	b        *builder
	params   []*param // in canonical order
	backward []phase
	saver    *saver
	copies   *copier
	mem      Memory  // of the state
	mirror   *mirror // nil: there is no need, or nobody to ask for memory
	watch    watch
	layout   MemoryLayout
	step     uint64      // finished steps
	owed     Owed        // before the next step
	recorded job.History // as Config.History
	history  job.History // the evaluations up to step, if the job's course depends on them
	stop     atomic.Bool
	status   tracker
	timing   *timing
	usual    usual
	reserve  func(int) ([]byte, error)   // memory for the snapshot
	reported bool                        // times have been reported
	saves    bool                        // steps are to write the checkpoints that are due
	timed    func(*phase, time.Duration) // told of every phase of a step, if set

	epochLoss  float64 // sum of the mean losses of the steps this run has done in the epoch
	epochSteps int
}

// New builds a cell: ops, buffers and phases. It has no state yet: call Initialise, Restore or Resume. Close gives
// everything back.
func New(cfg Config) (*Cell, error) {
	st, err := cfg.Device.NewStream()
	if err != nil {
		return nil, fmt.Errorf("cell %s: %w", cfg.Cell, err)
	}
	c := &Cell{id: cfg.Cell, job: cfg.Job, plan: cfg.Plan, dev: cfg.Device, st: st,
		source: cfg.Source, report: cfg.Report, now: cfg.Now, log: cfg.Log, timing: newTiming(), usual: usual{},
		reserve: reserve, recorded: cfg.History}
	c.trace = newTracer(cfg.Trace, c.now)
	c.ex = &observed{cfg.Exchanger, &c.status, cfg.Cell, c.trace}
	for _, other := range cfg.Cells {
		if other.Column == cfg.Cell.Column {
			c.replicas = append(c.replicas, other)
		}
		if other.Replica == cfg.Cell.Replica {
			c.columns = append(c.columns, other)
		}
	}
	slices.SortFunc(c.replicas, func(a, b exchange.Cell) int { return a.Replica - b.Replica })
	slices.SortFunc(c.columns, func(a, b exchange.Cell) int { return a.Column - b.Column })
	c.b = &builder{dev: cfg.Device, st: st, plan: cfg.Plan, column: cfg.Cell.Column, batch: cfg.Job.Slice(),
		first: cfg.Cell.Replica * cfg.Job.Slice(), whole: cfg.Job.Recipe.Batch, cell: cfg.Cell, ex: c.ex,
		seed: cfg.Job.Seed, params: map[int]*param{}, staged: cfg.staged,
		in: &inputStage{source: cfg.Source, scale: float32(cfg.Job.Augment.Scale),
			centre: cfg.Job.Augment.CentreMean()}}
	if len(cfg.Job.Recipe.Layers) > 0 {
		c.b.frozen = func(step uint64, q *param) bool { return c.job.UpdateAt(step, q.Param, c.history).Frozen }
	}
	if err = c.b.openStreams(); err != nil {
		c.Close()
		return nil, fmt.Errorf("cell %s: %w", cfg.Cell, err)
	}
	if len(c.replicas) > 1 {
		c.b.reducer, err = c.b.newReducer(c.replicas, cmp.Or(cfg.partBytes, partBytes), cmp.Or(cfg.smallBytes, smallBytes))
	}
	if err == nil {
		err = c.b.build()
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("cell %s: %w", cfg.Cell, err)
	}
	for i := range cfg.Plan.Params[cfg.Cell.Column] {
		c.params = append(c.params, c.b.params[i])
	}
	c.watch.past.window = cfg.Job.GuardRules().Window // which has room in every half
	if err := c.place(cfg); err != nil {
		c.Close()
		return nil, fmt.Errorf("cell %s: %w", cfg.Cell, err)
	}
	if err := c.newWatch(cfg); err != nil {
		c.Close()
		return nil, fmt.Errorf("cell %s: guard: %w", cfg.Cell, err)
	}
	c.backward = c.b.backwardPhases()
	c.saver = newSaver(c, cfg)
	c.copies = newCopier(c, cfg)
	return c, nil
}

// Mirrored says whether the state lies on the device and is only written to the memory of the host now and then.
func (c *Cell) Mirrored() bool { return c.mirror != nil }

// Close frees what the cell holds on the device. The cell must not be running.
func (c *Cell) Close() error {
	if c.saver != nil {
		c.saver.close()
	}
	c.b.close()
	return c.st.Close()
}

// Initialise gives the cell its state before the first step.
func (c *Cell) Initialise() error {
	if err := c.saver.room(); err != nil {
		return fmt.Errorf("cell %s: %w", c.id, err)
	}
	c.initial(c.saver.snap)
	return c.put(c.saver.snap)
}

// RequestStop asks for a stop at a step boundary. The other cells learn of it in the same step and stop with this one.
func (c *Cell) RequestStop() { c.stop.Store(true) }

// enter says that something begins that is no phase of a step.
func (c *Cell) enter(what string) { c.status.enter(what, "", c.now(), 0) }

// Status says how far the cell is.
func (c *Cell) Status() Status { return c.status.read(c.now()) }

// Loss is the mean loss over the whole batch of the last finished step; 0 before the first.
func (c *Cell) Loss() float64 { return c.status.loss() }

// CellError says which cell's run failed, and how far it had come.
type CellError struct {
	Cell exchange.Cell
	Step uint64 // finished steps
	Err  error
}

// Error names the cell and its step.
func (e *CellError) Error() string {
	return fmt.Sprintf("cell %s after step %d: %v", e.Cell, e.Step, e.Err)
}

// Unwrap gives what went wrong.
func (e *CellError) Unwrap() error { return e.Err }

// Run trains from the cell's state to the job's last step, or until a stop was asked for, and reports Finished or
// Stopped. It locks its OS thread. An error is a *CellError; it leaves the state as it was after some finished step.
func (c *Cell) Run(ctx context.Context) error {
	var stopped bool
	var digest [32]byte
	err := c.inRun(ctx, func(ctx context.Context) (err error) {
		if stopped, err = c.train(ctx); err != nil {
			return err
		}
		if err = c.saver.drain(ctx); err != nil || stopped {
			return err
		}
		digest, err = c.Digest()
		return err
	})
	if err != nil {
		return err
	}
	if stopped {
		c.report(Stopped{Cell: c.id, Step: c.step})
		return nil
	}
	c.report(Finished{Cell: c.id, Step: c.step, Digest: digest})
	return nil
}

// inRun calls f on an OS thread of its own and with the goroutines that steps need. An error is a *CellError.
func (c *Cell) inRun(ctx context.Context, f func(context.Context) error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var tasks sync.WaitGroup
	tasks.Go(func() { c.saver.run(ctx) })
	tasks.Go(func() { c.copies.run(ctx) })
	if r := c.b.reducer; r != nil {
		r.start()
		tasks.Go(func() { r.run(ctx) })
	}
	err := f(ctx)
	cancel(context.Canceled)
	tasks.Wait()
	if c.watch.unsound {
		c.takeBack()
	}
	if err != nil {
		return &CellError{Cell: c.id, Step: c.step, Err: err}
	}
	return nil
}

// train steps until the end or a stop.
func (c *Cell) train(ctx context.Context) (stopped bool, err error) {
	steps := c.job.Steps()
	c.saves = true
	c.status.start(c.now(), c.step)
	if c.owed.Evaluation || c.owed.Checkpoint {
		if err := c.between(ctx, false, c.owed); err != nil {
			return false, err
		}
	}
	for c.step < steps && !stopped {
		if stopped, err = c.oneStep(ctx); err != nil {
			return false, err
		}
		stopped = stopped && c.step < steps
		if err := c.between(ctx, stopped, Owed{Evaluation: true, Checkpoint: !c.watch.open}); err != nil {
			return false, err
		}
	}
	return stopped, nil
}

// between does what is due after a step, as far as it is owed. An evaluation never waits: see finish.
func (c *Cell) between(ctx context.Context, stopped bool, owed Owed) error {
	if owed.Evaluation && c.job.EvaluateAfter(c.step) {
		if err := c.evaluate(ctx); err != nil {
			return err
		}
	}
	if owed.Checkpoint && (c.step == c.job.Steps() || stopped || c.job.CheckpointAfter(c.step)) {
		began := c.now()
		defer func() { c.timing.add("snapshot", c.now().Sub(began)) }()
		return c.saver.save(ctx, c.step)
	}
	return nil
}
