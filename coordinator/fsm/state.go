// Package fsm is the coordinator's state and the only way it changes: commands of the Raft log, applied in order. It is
// pure: no clock, no randomness, no goroutine, no order of a map in anything it leaves behind, so every node that has
// applied the same log has the same bytes.
package fsm

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"colonnade/proto/commandpb"
)

// Why a command is refused. A refused command changes nothing; every node refuses it alike.
var (
	ErrNoJob        = errors.New("no such job")
	ErrJobExists    = errors.New("job exists")
	ErrNoWorker     = errors.New("no such worker")
	ErrStale        = errors.New("of an older generation")
	ErrJobState     = errors.New("not in the job's present state")
	ErrNoCheckpoint = errors.New("no such checkpoint")
	ErrNumerics     = errors.New("other numerics")
	ErrCluster      = errors.New("of another cluster")
	ErrInvalid      = errors.New("invalid command")
	ErrNoVeto       = errors.New("no such batch to decide on")
	ErrNoEvaluation = errors.New("no such evaluation")
)

// ErrUnknownCommand stops a node: the log holds something this program cannot apply, and skipping it would fork the
// state.
var ErrUnknownCommand = errors.New("unknown command; this program is older than the log, install a newer one")

// Version is that of the command contract.
const Version = 1

// States of a job.
const (
	Queued     = "queued"     // waits for its first workers, or to be resumed
	Running    = "running"    // a generation has its cells
	Recovering = "recovering" // a generation was lost; waits for workers
	Stopping   = "stopping"   // asked to stop at a step boundary, or to go on from there, elsewhere or later
	Stopped    = "stopped"    // an operator stopped it; can be resumed
	Paused     = "paused"     // a guard vetoed a step; can be resumed
	Done       = "done"
	Failed     = "failed" // can be resumed
)

// maxFailures is how many generations may fail without a new checkpoint before the job does.
const maxFailures = 5

// maxEvents bounds the log of events.
const maxEvents = 1000

// View is a state to read. Nothing in it may be changed; later commands do not change it either.
type View struct {
	Cluster string
	Index   uint64
	Workers map[string]*commandpb.WorkerRecord
	Roll    []Enrolled // Workers, in order of id
	Jobs    map[string]*commandpb.JobRecord
	Deleted []*commandpb.DeletedRecord // jobs that were deleted last, oldest first
	// DeletedGeneration is the highest generation of deleted jobs that are not among them any more.
	DeletedGeneration uint64
	Events            []*commandpb.EventRecord   // oldest first
	Lineage           []*commandpb.LineageRecord // backups that the state was restored from, oldest first

	Evaluations []*commandpb.EvaluationRecord // by id
}

// JobNames returns the jobs in the order they were submitted.
func (v View) JobNames() []string {
	return slices.SortedFunc(maps.Keys(v.Jobs), func(a, b string) int {
		x, y := v.Jobs[a].SubmittedUnixNs, v.Jobs[b].SubmittedUnixNs
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		case a < b:
			return -1
		}
		return 1
	})
}

// State is the coordinator's state. Records are replaced, never changed in place, and a map that a View has is copied
// before it changes: a View costs nothing, however many workers there are and however often it is asked for.
type State struct {
	v                                     View
	workersShared, rollShared, jobsShared bool // with a View
	numerics                              spellings
	seated                                map[string][]*commandpb.Placement // by job: what the roll has of its cells
}

// New returns the empty state.
func New() *State {
	return &State{v: View{Workers: map[string]*commandpb.WorkerRecord{}, Jobs: map[string]*commandpb.JobRecord{}},
		seated: map[string][]*commandpb.Placement{}}
}

// View returns the present state to read.
func (s *State) View() View {
	s.workersShared, s.rollShared, s.jobsShared = true, true, true
	return s.v
}

// keepJob puts a job's record in its place.
func (s *State) keepJob(j *commandpb.JobRecord) {
	if s.jobsShared {
		s.v.Jobs, s.jobsShared = maps.Clone(s.v.Jobs), false
	}
	s.v.Jobs[j.Submitted.Job] = j
	s.seat(j.Submitted.Job, j)
}

// dropJob takes a job's record out.
func (s *State) dropJob(name string) {
	if s.jobsShared {
		s.v.Jobs, s.jobsShared = maps.Clone(s.v.Jobs), false
	}
	delete(s.v.Jobs, name)
	s.seat(name, nil)
}

// Result is what applying a command came to.
type Result struct {
	Index   uint64
	Refused error // nil if the command took effect
}

// applier is one command at work on a state.
type applier struct {
	s     *State
	index uint64
	now   int64
}

// Apply applies one command. An error means that the node must stop.
func (s *State) Apply(index uint64, c *commandpb.Command) (Result, error) {
	if c.Version > Version && !c.Ignorable {
		return Result{}, fmt.Errorf("entry %d of version %d: %w", index, c.Version, ErrUnknownCommand)
	}
	a := &applier{s, index, c.DecidedUnixNs}
	err := a.dispatch(c)
	if errors.Is(err, ErrUnknownCommand) {
		if !c.Ignorable {
			return Result{}, fmt.Errorf("entry %d: %w", index, err)
		}
		err = nil
	}
	s.v.Index = index
	return Result{Index: index, Refused: err}, nil
}

func (a *applier) dispatch(c *commandpb.Command) error {
	switch k := c.Kind.(type) {
	case *commandpb.Command_InitCluster:
		return a.initCluster(k.InitCluster)
	case *commandpb.Command_RegisterWorker:
		return a.registerWorker(k.RegisterWorker)
	case *commandpb.Command_LoseWorker:
		return a.loseWorker(k.LoseWorker)
	case *commandpb.Command_SubmitJob:
		return a.submitJob(k.SubmitJob)
	case *commandpb.Command_AssignJob:
		return a.assignJob(k.AssignJob)
	case *commandpb.Command_ReleaseJob:
		return a.releaseJob(k.ReleaseJob)
	case *commandpb.Command_RequestStop:
		return a.requestStop(k.RequestStop)
	case *commandpb.Command_ResumeJob:
		return a.resumeJob(k.ResumeJob)
	case *commandpb.Command_CheckpointWritten:
		return a.checkpointWritten(k.CheckpointWritten)
	case *commandpb.Command_MarkCheckpointBad:
		return a.markCheckpointBad(k.MarkCheckpointBad)
	case *commandpb.Command_DropCheckpoints:
		return a.dropCheckpoints(k.DropCheckpoints)
	case *commandpb.Command_RecordEvaluation:
		return a.recordEvaluation(k.RecordEvaluation)
	case *commandpb.Command_CellFinished:
		return a.cellFinished(k.CellFinished)
	case *commandpb.Command_CellStopped:
		return a.cellStopped(k.CellStopped)
	case *commandpb.Command_FailJob:
		return a.failJob(k.FailJob)
	case *commandpb.Command_DrainWorker:
		return a.drainWorker(k.DrainWorker)
	case *commandpb.Command_ForgetWorker:
		return a.forgetWorker(k.ForgetWorker)
	case *commandpb.Command_MoveJob:
		return a.moveJob(k.MoveJob)
	case *commandpb.Command_PinCheckpoint:
		return a.pinCheckpoint(k.PinCheckpoint)
	case *commandpb.Command_DeleteCheckpoint:
		return a.deleteCheckpoint(k.DeleteCheckpoint)
	case *commandpb.Command_DeleteJob:
		return a.deleteJob(k.DeleteJob)
	case *commandpb.Command_VetoStep:
		return a.vetoStep(k.VetoStep)
	case *commandpb.Command_RequestEvaluation:
		return a.requestEvaluation(k.RequestEvaluation)
	case *commandpb.Command_GivePart:
		return a.givePart(k.GivePart)
	case *commandpb.Command_PartEvaluated:
		return a.partEvaluated(k.PartEvaluated)
	case *commandpb.Command_EndEvaluation:
		return a.cancelEvaluation(k.EndEvaluation)
	case *commandpb.Command_SetQueue:
		return a.setQueue(k.SetQueue)
	case *commandpb.Command_PreemptJob:
		return a.preemptJob(k.PreemptJob)
	case *commandpb.Command_RecordEvent:
		a.event(k.RecordEvent.Kind, k.RecordEvent.Job, k.RecordEvent.Worker, "%s", k.RecordEvent.Text)
		return nil
	}
	return fmt.Errorf("kind %T: %w", c.Kind, ErrUnknownCommand)
}

// event appends to the log of events. Views made before keep theirs: what is appended lies behind their ends, and
// there is only one history to append to.
func (a *applier) event(kind, job, worker, format string, args ...any) {
	e := &commandpb.EventRecord{Index: a.index, AtUnixNs: a.now, Kind: kind, Job: job, Worker: worker,
		Text: fmt.Sprintf(format, args...)}
	events := a.s.v.Events
	if len(events) >= maxEvents {
		events = events[len(events)-maxEvents+1:]
	}
	a.s.v.Events = append(events, e)
}

// job returns a copy of a job's record that the command may change and then keep.
func (a *applier) job(name string) (*commandpb.JobRecord, error) {
	j, ok := a.s.v.Jobs[name]
	if !ok {
		return nil, fmt.Errorf("job %s: %w; see: coordinator job list", name, ErrNoJob)
	}
	return copyJob(j), nil
}

func (a *applier) keep(j *commandpb.JobRecord) { a.s.keepJob(j) }

// enter moves a job to another state.
func (a *applier) enter(j *commandpb.JobRecord, state, reason string) {
	if j.State != state {
		j.StateUnixNs = a.now
	}
	j.State, j.Reason = state, reason
	j.Moving = j.Moving && state == Stopping
	j.Pausing = j.Pausing && state == Stopping
	j.Requeuing = j.Requeuing && state == Stopping
	if Ended(state) {
		j.EndedUnixNs = a.now
	}
}

// Ended says whether a job in a state has no cells and gets none before an operator says so.
func Ended(state string) bool {
	return state == Done || state == Failed || state == Stopped || state == Paused
}

// current returns a job for a command of one generation, which must be the one that runs.
func (a *applier) current(name string, generation uint64) (*commandpb.JobRecord, error) {
	j, err := a.job(name)
	if err != nil {
		return nil, err
	}
	if generation != j.Generation {
		return nil, fmt.Errorf("job %s is at generation %d, not %d: %w", name, j.Generation, generation, ErrStale)
	}
	if j.State != Running && j.State != Stopping {
		return nil, fmt.Errorf("job %s is %s: %w", name, j.State, ErrJobState)
	}
	return j, nil
}

func (a *applier) initCluster(c *commandpb.InitCluster) error {
	if a.s.v.Cluster != "" && a.s.v.Cluster != c.Cluster {
		return fmt.Errorf("cluster %s: %w (%s)", c.Cluster, ErrCluster, a.s.v.Cluster)
	}
	a.s.v.Cluster = c.Cluster
	return nil
}
