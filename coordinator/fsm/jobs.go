package fsm

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"colonnade/proto/commandpb"
)

// maxCells bounds a job: more cells than any cluster has workers.
const maxCells = 1 << 16

func validCells(c *commandpb.SubmitJob) bool {
	return c.Replicas >= 1 && c.Columns >= 1 && int64(c.Replicas)*int64(c.Columns) <= maxCells
}

func (a *applier) submitJob(c *commandpb.SubmitJob) error {
	if old, ok := a.s.v.Jobs[c.Job]; ok {
		if asked(old, c.Request) {
			return nil
		}
		return fmt.Errorf("job %s: %w; go on with it: coordinator job resume %s, or choose another name",
			c.Job, ErrJobExists, c.Job)
	}
	if c.Job == "" || c.Steps == 0 || !validCells(c) ||
		!validQueue(int64(c.Replicas)*int64(c.Columns), c.MaxWorkers, c.MinWorkers) {
		return fmt.Errorf("job %q of %d steps, %d replicas, %d columns: %w", c.Job, c.Steps, c.Replicas, c.Columns,
			ErrInvalid)
	}
	j := &commandpb.JobRecord{Submitted: c, SubmittedUnixNs: a.now, Generation: a.firstGeneration(c.Job),
		Priority: c.Priority, MaxWorkers: c.MaxWorkers, MinWorkers: c.MinWorkers}
	if c.FromJob != "" {
		if err := a.fork(j); err != nil {
			return err
		}
	}
	remember(j, c.Request)
	a.enter(j, Queued, "submitted")
	a.keep(j)
	if j.Parent != nil {
		a.event("job", c.Job, "", "job %s forked from %s, step %d of %d", c.Job, c.FromJob, c.FromStep, c.Steps)
		return nil
	}
	a.event("job", c.Job, "", "job %s submitted, %d steps", c.Job, c.Steps)
	return nil
}

// maxRequests is how many of a job's requests are remembered: many more than can be asked again at a time.
const maxRequests = 16

// asked says whether a request has taken effect before: its answer was lost, and it is made again.
func asked(j *commandpb.JobRecord, request string) bool {
	return request != "" && slices.Contains(j.Requests, request)
}

// remember writes down that a request has taken effect.
func remember(j *commandpb.JobRecord, request string) {
	if request == "" {
		return
	}
	j.Requests = append(j.Requests, request)
	if n := len(j.Requests); n > maxRequests {
		j.Requests = slices.Clone(j.Requests[n-maxRequests:])
	}
}

// cells is the number of a job's cells.
func cells(j *commandpb.JobRecord) int { return int(j.Submitted.Replicas) * int(j.Submitted.Columns) }

// rank is a cell's place in (replica, column) order, or -1 if the job has no such cell.
func rank(j *commandpb.JobRecord, c *commandpb.Cell) int {
	r, k := c.GetReplica(), c.GetColumn()
	if r < 0 || r >= j.Submitted.Replicas || k < 0 || k >= j.Submitted.Columns {
		return -1
	}
	return int(r*j.Submitted.Columns + k)
}

// CellName is a cell of the log or of the wire as workers name it too: "r0c1".
func CellName(c interface {
	GetReplica() int32
	GetColumn() int32
}) string {
	return fmt.Sprintf("r%dc%d", c.GetReplica(), c.GetColumn())
}

func (a *applier) assignJob(c *commandpb.AssignJob) error {
	j, err := a.job(c.Job)
	if err != nil {
		return err
	}
	switch {
	case j.State != Queued && j.State != Recovering:
		return fmt.Errorf("job %s is %s: %w", c.Job, j.State, ErrJobState)
	case c.Generation != j.Generation+1:
		return fmt.Errorf("job %s: generation %d does not follow %d: %w", c.Job, c.Generation, j.Generation, ErrStale)
	case j.Numerics != "" && j.Numerics != c.Numerics:
		return fmt.Errorf("job %s began under %s, not %s: %w", c.Job, j.Numerics, c.Numerics, ErrNumerics)
	case c.HasRestore && usable(j, c.RestoreStep) == nil:
		return fmt.Errorf("job %s, step %d: %w", c.Job, c.RestoreStep, ErrNoCheckpoint)
	case j.Parent != nil && !c.HasRestore && !c.FromMemory:
		return fmt.Errorf("job %s begins with step %d of %s, not with nothing: %w", c.Job, j.Parent.Step, j.Parent.Job,
			ErrNoCheckpoint)
	}
	if err := checkMemory(j, c); err != nil {
		return err
	}
	if err := a.checkPlacement(j, c); err != nil {
		return err
	}
	goOnFrom(j, c)
	j.Generation, j.Placement, j.Numerics = c.Generation, c.Placement, c.Numerics
	j.RestoreStep, j.HasRestore = c.RestoreStep, c.HasRestore
	j.Finished, j.Stopped = nil, nil
	j.HasResumeStep, j.ResumeStep = false, 0
	j.Checkpoints = slices.DeleteFunc(j.Checkpoints, func(r *commandpb.CheckpointRecord) bool { return !r.Committed })
	a.enter(j, Running, c.Reason)
	a.keep(j)
	for _, p := range c.Placement {
		a.freeParts(true, p.Worker)
	}
	from := "the start"
	switch {
	case c.FromMemory:
		from = fmt.Sprintf("step %d in memory", c.MemoryStep)
	case c.HasRestore:
		from = fmt.Sprintf("step %d", c.RestoreStep)
	}
	a.event("generation", c.Job, "", "job %s: generation %d from %s on %s", c.Job, c.Generation, from,
		workersOf(c.Placement))
	return nil
}

// checkMemory wants a job that goes on from memory to be one that has just run, and not to fall behind a checkpoint.
func checkMemory(j *commandpb.JobRecord, c *commandpb.AssignJob) error {
	if !c.FromMemory {
		return nil
	}
	behind := uint64(0) // a newer checkpoint may be there, with workers that are not
	if c.HasRestore {
		behind = c.RestoreStep
	}
	switch {
	case j.State != Recovering:
		return fmt.Errorf("job %s is %s, only one that recovers goes on from memory: %w", c.Job, j.State, ErrJobState)
	case j.AvoidMemory:
		return fmt.Errorf("job %s: generation %d could not go on from memory, %d tries it again: %w", c.Job, j.Generation,
			c.Generation, ErrInvalid)
	case c.MemoryStep == 0 || c.MemoryStep < behind || c.MemoryStep > j.Submitted.Steps:
		return fmt.Errorf("job %s: from step %d in memory, with a checkpoint of step %d, of %d steps: %w", c.Job,
			c.MemoryStep, behind, j.Submitted.Steps, ErrInvalid)
	}
	return nil
}

// goOnFrom notes what a generation goes on from. One that is further than the one before was is progress, which a job's
// failures are counted from.
func goOnFrom(j *commandpb.JobRecord, c *commandpb.AssignJob) {
	tries, since := uint64(0), uint64(0)
	if c.FromMemory {
		since = MemorySince(j)
		tries = 1
		if j.FromMemory && j.MemoryStep == c.MemoryStep {
			tries = j.MemoryTries + 1
		}
		if c.MemoryStep > began(j) {
			j.Failures = 0
		}
	}
	j.FromMemory, j.MemoryStep, j.MemoryTries, j.AvoidMemory = c.FromMemory, c.MemoryStep, tries, false
	j.MemorySince = since
}

// MemorySince is the oldest generation whose memory a job may go on from: what is older is of a history that was given
// up when a generation went back to a checkpoint.
func MemorySince(j *commandpb.JobRecord) uint64 {
	if j.FromMemory {
		return j.MemorySince
	}
	return j.Generation
}

// began is the step that the present generation went on from.
func began(j *commandpb.JobRecord) uint64 {
	switch {
	case j.FromMemory:
		return j.MemoryStep
	case j.HasRestore:
		return j.RestoreStep
	}
	return 0
}

// checkPlacement wants every cell once, on workers that are there.
func (a *applier) checkPlacement(j *commandpb.JobRecord, c *commandpb.AssignJob) error {
	seen := make([]bool, cells(j))
	for _, p := range c.Placement {
		r := rank(j, p.Cell)
		if r < 0 || seen[r] {
			return fmt.Errorf("job %s: cell %s placed twice or not the job's: %w", c.Job, CellName(p.Cell), ErrInvalid)
		}
		seen[r] = true
		w, ok := a.s.v.Workers[p.Worker]
		if !ok || w.Lost {
			return fmt.Errorf("job %s: worker %s: %w", c.Job, p.Worker, ErrNoWorker)
		}
	}
	if slices.Contains(seen, false) {
		return fmt.Errorf("job %s: not every cell is placed: %w", c.Job, ErrInvalid)
	}
	return nil
}

// workersOf is how many workers a placement is on, in words.
func workersOf(placement []*commandpb.Placement) string {
	var ids []string
	for _, p := range placement {
		ids = append(ids, p.Worker)
	}
	slices.Sort(ids)
	if n := len(slices.Compact(ids)); n != 1 {
		return fmt.Sprintf("%d workers", n)
	}
	return "1 worker"
}

// releaseJob ends a generation that failed. A job whose generations keep failing without a new checkpoint fails.
func (a *applier) releaseJob(c *commandpb.ReleaseJob) error {
	j, err := a.current(c.Job, c.Generation)
	if errors.Is(err, ErrJobState) && c.Memory {
		// Another cell's report has ended the generation, because this one left; what it says still counts.
		return a.avoidMemory(c)
	}
	if err != nil {
		return err
	}
	j.AvoidMemory = c.Memory
	a.release(j, c.Reason)
	a.keep(j)
	return nil
}

// avoidMemory notes that a generation that has ended could not go on from memory.
func (a *applier) avoidMemory(c *commandpb.ReleaseJob) error {
	j, err := a.job(c.Job)
	if err != nil {
		return err
	}
	if j.State != Recovering {
		return fmt.Errorf("job %s is %s: %w", c.Job, j.State, ErrJobState)
	}
	j.AvoidMemory = true
	a.keep(j)
	return nil
}

// release ends the generation that runs, and the job too if that has gone on for too long.
func (a *applier) release(j *commandpb.JobRecord, reason string) {
	j.Failures++
	if j.Failures >= maxFailures && j.State == Running {
		a.fail(j, fmt.Sprintf("%d generations failed without a new checkpoint; the last: %s", j.Failures, reason))
	} else {
		a.end(j, reason)
	}
}

func (a *applier) failJob(c *commandpb.FailJob) error {
	j, err := a.current(c.Job, c.Generation)
	if err != nil {
		return err
	}
	a.fail(j, c.Reason)
	a.keep(j)
	return nil
}

func (a *applier) fail(j *commandpb.JobRecord, reason string) {
	a.enter(j, Failed, reason)
	j.Placement = nil
	a.event("job", j.Submitted.Job, "", "job %s failed: %s", j.Submitted.Job, reason)
}

func (a *applier) requestStop(c *commandpb.RequestStop) error {
	j, err := a.job(c.Job)
	if err != nil {
		return err
	}
	if asked(j, c.Request) {
		return nil
	}
	remember(j, c.Request) // kept only if it takes effect
	switch {
	case j.State == Running && !c.Now:
		a.enter(j, Stopping, "asked to stop at a step boundary")
		j.Pausing = c.Pause
	case j.State == Done || j.State == Failed || j.State == Stopped || c.Pause && j.State == Paused:
		return fmt.Errorf("job %s is %s: %w", c.Job, j.State, ErrJobState)
	case j.State == Stopping && !c.Now && goesOn(j): // it stops where it was to go on from
		j.Moving, j.Requeuing, j.Pausing = false, false, c.Pause
		a.enter(j, Stopping, "asked to stop at a step boundary")
	case j.State == Stopping && !c.Now && (j.Pausing == c.Pause || c.Pause):
		return nil
	case j.State == Stopping && !c.Now:
		j.Pausing = false
	case c.Pause:
		a.enter(j, Paused, PausedByOperator)
		j.Placement = nil
	default:
		a.enter(j, Stopped, "stopped by an operator")
		j.Placement = nil
	}
	a.keep(j)
	a.event("job", c.Job, "", "job %s: %s", c.Job, j.Reason)
	return nil
}

// goesOn says whether a job that stops does so to go on from there by itself.
func goesOn(j *commandpb.JobRecord) bool { return j.Moving || j.Requeuing }

// moveJob has a generation stop at a step boundary to go on on other workers.
func (a *applier) moveJob(c *commandpb.MoveJob) error {
	j, err := a.current(c.Job, c.Generation)
	if err != nil {
		return err
	}
	if j.State != Running {
		return fmt.Errorf("job %s is %s: %w", c.Job, j.State, ErrJobState)
	}
	a.enter(j, Stopping, c.Reason)
	j.Moving = true
	a.keep(j)
	a.event("job", c.Job, "", "job %s moves: %s", c.Job, c.Reason)
	return nil
}

func (a *applier) resumeJob(c *commandpb.ResumeJob) error {
	j, err := a.job(c.Job)
	if err != nil {
		return err
	}
	if asked(j, c.Request) {
		return nil
	}
	if j.State != Stopped && j.State != Failed && j.State != Paused {
		return fmt.Errorf("job %s is %s, only stopped, paused and failed jobs are resumed: %w", c.Job, j.State, ErrJobState)
	}
	decided, err := decideVeto(j, c)
	if err != nil {
		return err
	}
	if c.FromStep {
		if (c.Step > 0 || j.Parent != nil) && usable(j, c.Step) == nil {
			return fmt.Errorf("job %s, step %d: %w; see: coordinator checkpoint list %s", c.Job, c.Step, ErrNoCheckpoint, c.Job)
		}
		j.HasResumeStep, j.ResumeStep = true, c.Step
		takeBack(j, c.Step) // it is computed anew, to the same bits
	}
	j.Failures, j.EndedUnixNs, j.Digest = 0, 0, nil
	remember(j, c.Request)
	a.enter(j, Queued, "resumed")
	a.keep(j)
	a.event("job", c.Job, "", "job %s resumed%s", c.Job, decided)
	return nil
}

func (a *applier) recordEvaluation(c *commandpb.RecordEvaluation) error {
	j, err := a.current(c.Job, c.Generation)
	if err != nil {
		return err
	}
	if c.Step > j.Submitted.Steps {
		return fmt.Errorf("job %s: evaluation after step %d: %w", c.Job, c.Step, ErrInvalid)
	}
	i, found := slices.BinarySearchFunc(j.Evaluations, c.Step, func(e *commandpb.RecordEvaluation, step uint64) int {
		return cmp.Compare(e.Step, step)
	})
	if found {
		j.Evaluations[i] = c
	} else {
		j.Evaluations = slices.Insert(j.Evaluations, i, c)
		a.event("evaluation", c.Job, "", "job %s: epoch %d, test error %.2f %%", c.Job, c.Epoch,
			100*c.Top1Errors/float64(max(c.Images, 1)))
	}
	a.keep(j)
	return nil
}

// cellFinished ends the job with the last cell. Every cell's final checkpoint was committed before.
func (a *applier) cellFinished(c *commandpb.CellFinished) error {
	j, err := a.current(c.Job, c.Generation)
	if err != nil {
		return err
	}
	i := rank(j, c.Cell)
	if i < 0 || len(c.Digest) != sha256.Size || c.Step != j.Submitted.Steps {
		return fmt.Errorf("job %s: end of cell %s at step %d: %w", c.Job, CellName(c.Cell), c.Step, ErrInvalid)
	}
	j.Finished = insertCell(j, j.Finished, i, c)
	if len(j.Finished) == cells(j) {
		h := sha256.New()
		for _, f := range j.Finished {
			h.Write(f.Digest)
		}
		j.Digest = h.Sum(nil)
		j.Placement = nil
		a.enter(j, Done, "all steps are done")
		a.event("job", c.Job, "", "job %s is done, digest %x", c.Job, j.Digest)
	}
	a.keep(j)
	return nil
}

func (a *applier) cellStopped(c *commandpb.CellStopped) error {
	j, err := a.current(c.Job, c.Generation)
	if err != nil {
		return err
	}
	i := rank(j, c.Cell)
	if i < 0 || c.Step > j.Submitted.Steps {
		return fmt.Errorf("job %s: stop of cell %s at step %d: %w", c.Job, CellName(c.Cell), c.Step, ErrInvalid)
	}
	j.Stopped = insertCell(j, j.Stopped, i, c)
	switch {
	case len(j.Stopped) < cells(j):
	case j.Moving: // its placement stays, for cells to stay where they can
		reason := fmt.Sprintf("stopped after step %d to go on elsewhere: %s", c.Step, j.Reason)
		a.enter(j, Recovering, reason)
		a.event("generation", c.Job, "", "job %s: generation %d %s", c.Job, c.Generation, reason)
	case j.Requeuing:
		a.requeue(j, c.Step)
	default:
		a.rest(j, fmt.Sprintf("stopped after step %d", c.Step))
		a.event("job", c.Job, "", "job %s %s after step %d", c.Job, j.State, c.Step)
	}
	a.keep(j)
	return nil
}

// celled is a record of one cell.
type celled interface {
	comparable
	GetCell() *commandpb.Cell
}

// insertCell puts a cell's record in its place, or replaces the one that is there.
func insertCell[T celled](j *commandpb.JobRecord, list []T, at int, c T) []T {
	i, found := slices.BinarySearchFunc(list, at, func(e T, at int) int { return rank(j, e.GetCell()) - at })
	if found {
		list[i] = c
		return list
	}
	return slices.Insert(list, i, c)
}
