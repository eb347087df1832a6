package fsm

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"colonnade/proto/commandpb"
)

// What has become of a step that a guard vetoed.
const (
	VetoPaused   = "paused"   // the job waits, or has gone on without anybody having said what to do with the batch
	VetoSkipped  = "skipped"  // the step changes nothing
	VetoAccepted = "accepted" // an operator has the step done in spite of its loss
)

// Spike is the cause of a veto that an operator can set aside: numbers that are not finite cannot be gone on with.
const Spike = "loss-spike"

// maxVetoes bounds a job's record of them.
const maxVetoes = 4096

// vetoStep ends a generation whose guard has found a step wrong. All its workers report the same step: the first report
// takes effect, and it does too when the generation has been ended by a link that one of them broke on leaving.
func (a *applier) vetoStep(c *commandpb.VetoStep) error {
	j, err := a.current(c.Job, c.Generation)
	if errors.Is(err, ErrJobState) {
		if j, err = a.job(c.Job); err == nil && (j.State != Recovering || j.Generation != c.Generation) {
			err = fmt.Errorf("job %s is %s: %w", c.Job, j.State, ErrJobState)
		}
	}
	switch {
	case err != nil:
		return err
	case rank(j, c.Cell) < 0 || c.Step == 0 || c.Step > j.Submitted.Steps || c.Cause == "" || c.Reason == "" ||
		!(math.Abs(c.Loss) <= math.MaxFloat64) || !(math.Abs(c.Limit) <= math.MaxFloat64):
		return fmt.Errorf("job %s: veto of step %d by cell %s: %w", c.Job, c.Step, CellName(c.Cell), ErrInvalid)
	}
	at, found := findVeto(j, c.Step)
	if found && j.Vetoes[at].Outcome == VetoSkipped {
		return fmt.Errorf("job %s: step %d is skipped, it cannot be vetoed: %w", c.Job, c.Step, ErrInvalid)
	}
	j.Failures = 0 // what follows is no repetition
	r := &commandpb.VetoRecord{Vetoed: c, Outcome: VetoPaused, AtUnixNs: a.now}
	switch {
	case found:
		j.Vetoes[at] = r
	case len(j.Vetoes) >= maxVetoes:
		a.fail(j, fmt.Sprintf("%d steps were vetoed; the last: %s", len(j.Vetoes), c.Reason))
		a.keep(j)
		return nil
	default:
		j.Vetoes = slices.Insert(j.Vetoes, at, r)
	}
	if c.Skip {
		// Memory may hold what made the step wrong: cells go on from what is on disk, and come to the same bits.
		r.Outcome, j.AvoidMemory = VetoSkipped, true
		if j.State == Stopping && !goesOn(j) {
			a.rest(j, c.Reason+"; its batch is skipped")
		} else {
			a.enter(j, Recovering, c.Reason+"; its batch is skipped")
		}
		takeBack(j, c.Step-1) // there is nothing, unless a step came out otherwise than before
	} else {
		a.enter(j, Paused, c.Reason)
		j.Placement = nil
	}
	a.keep(j)
	a.event("guard", c.Job, "", "job %s: %s; %s", c.Job, c.Reason, consequence(r.Outcome, c.Job))
	return nil
}

// consequence says what follows from a veto.
func consequence(outcome, job string) string {
	if outcome == VetoSkipped {
		return "no cell has applied it; goes back to the last checkpoint and skips its batch"
	}
	return fmt.Sprintf("no cell has applied it; paused, go on without its batch: coordinator job resume %s --skip-batch",
		job)
}

func findVeto(j *commandpb.JobRecord, step uint64) (int, bool) {
	return slices.BinarySearchFunc(j.Vetoes, step, func(r *commandpb.VetoRecord, step uint64) int {
		return cmp.Compare(r.Vetoed.GetStep(), step)
	})
}

// Named returns the veto that a job waits to be told about: the latest one that nobody has decided on, or nil.
func Named(j *commandpb.JobRecord) *commandpb.VetoRecord {
	var last *commandpb.VetoRecord
	for _, r := range j.Vetoes {
		if r.Outcome == VetoPaused && (last == nil || r.AtUnixNs >= last.AtUnixNs) {
			last = r
		}
	}
	return last
}

// StepsOf returns the vetoed steps of one outcome, ascending.
func StepsOf(j *commandpb.JobRecord, outcome string) (steps []uint64) {
	for _, r := range j.Vetoes {
		if r.Outcome == outcome {
			steps = append(steps, r.Vetoed.GetStep())
		}
	}
	return steps
}

// decideVeto notes what an operator who resumes a job says of the batch that it paused for. It returns words for the
// event.
func decideVeto(j *commandpb.JobRecord, c *commandpb.ResumeJob) (words string, err error) {
	if !c.SkipBatch && !c.AcceptBatch {
		return "", nil
	}
	name := j.Submitted.Job
	named := Named(j)
	switch {
	case c.SkipBatch && c.AcceptBatch:
		return "", fmt.Errorf("job %s: a batch is either skipped or accepted: %w", name, ErrInvalid)
	case named == nil:
		return "", fmt.Errorf("job %s has not paused for a batch; see: coordinator job show %s: %w", name, name, ErrNoVeto)
	case c.AcceptBatch && named.Vetoed.Cause != Spike:
		return "", fmt.Errorf("job %s: what is not finite cannot be accepted (%s); skip the batch: coordinator job resume "+
			"%s --skip-batch: %w", name, named.Vetoed.Reason, name, ErrNoVeto)
	}
	at, _ := findVeto(j, named.Vetoed.Step)
	outcome := VetoSkipped
	if c.AcceptBatch {
		outcome = VetoAccepted
	}
	j.Vetoes[at] = &commandpb.VetoRecord{Vetoed: named.Vetoed, Outcome: outcome, AtUnixNs: named.AtUnixNs}
	// What lies behind was computed with the step as it was.
	takeBack(j, named.Vetoed.Step-1)
	return fmt.Sprintf("; the batch of step %d is %s", named.Vetoed.Step, outcome), nil
}

// takeBack takes back what a job has come to after a step.
func takeBack(j *commandpb.JobRecord, step uint64) {
	j.Checkpoints = slices.DeleteFunc(j.Checkpoints, func(r *commandpb.CheckpointRecord) bool { return r.Step > step })
	j.Evaluations = slices.DeleteFunc(j.Evaluations, func(e *commandpb.RecordEvaluation) bool { return e.Step > step })
}
