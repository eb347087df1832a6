package fsm

import (
	"cmp"
	"fmt"
	"strings"

	"colonnade/proto/commandpb"
)

// Order compares two jobs by their places in the queue: the higher priority first, then the one that was submitted
// first, however often it has been preempted.
func Order(a, b *commandpb.JobRecord) int {
	if by := cmp.Compare(b.Priority, a.Priority); by != 0 {
		return by
	}
	if by := cmp.Compare(a.SubmittedUnixNs, b.SubmittedUnixNs); by != 0 {
		return by
	}
	return cmp.Compare(a.Submitted.Job, b.Submitted.Job)
}

// MostWorkers is how many workers a job has at a time at most: no more than cells, nor than its quota.
func MostWorkers(j *commandpb.JobRecord) int {
	if n := int64(j.MaxWorkers); n > 0 && n < int64(cells(j)) {
		return int(n)
	}
	return cells(j)
}

// LeastWorkers is how many workers a job must have to begin.
func LeastWorkers(j *commandpb.JobRecord) int {
	return int(max(min(int64(j.MinWorkers), int64(MostWorkers(j))), 1))
}

// Waits says whether a job is in the queue for workers.
func Waits(j *commandpb.JobRecord) bool { return j.State == Queued || j.State == Recovering }

// validQueue wants a job's minimum of workers to be within what it may have.
func validQueue(cells int64, most, least uint32) bool {
	return int64(least) <= cells && (most == 0 || least <= most)
}

// setQueue says how a job stands in the queue from now on. It takes effect at once where the job waits, and where it
// runs when the scheduler sees to it.
func (a *applier) setQueue(c *commandpb.SetQueue) error {
	j, err := a.job(c.Job)
	switch {
	case err != nil:
		return err
	case asked(j, c.Request):
		return nil
	case j.State == Done:
		return fmt.Errorf("job %s is done, it does not wait for workers any more; see: coordinator queue: %w", c.Job,
			ErrJobState)
	case !validQueue(int64(cells(j)), c.MaxWorkers, c.MinWorkers):
		return fmt.Errorf("job %s of %d cells on %d workers at least and %d at most: %w", c.Job, cells(j), c.MinWorkers,
			c.MaxWorkers, ErrInvalid)
	}
	remember(j, c.Request)
	before := standing(j)
	j.Priority, j.MaxWorkers, j.MinWorkers = c.Priority, c.MaxWorkers, c.MinWorkers
	a.keep(j)
	if now := standing(j); now != before {
		a.event("job", c.Job, "", "job %s has %s, it had %s", c.Job, now, before)
	}
	return nil
}

// standing is how a job stands in the queue, in words.
func standing(j *commandpb.JobRecord) string {
	words := fmt.Sprintf("priority %d", j.Priority)
	if j.MinWorkers > 1 {
		words += fmt.Sprintf(", %d workers at least", j.MinWorkers)
	}
	if j.MaxWorkers > 0 {
		words += fmt.Sprintf(", %d workers at most", j.MaxWorkers)
	}
	return words
}

// NameOf is a job with its priority, if that is not the usual one: "b (priority 5)".
func NameOf(j *commandpb.JobRecord) string {
	if j.Priority == 0 {
		return j.Submitted.Job
	}
	return fmt.Sprintf("%s (priority %d)", j.Submitted.Job, j.Priority)
}

// preemptJob has a generation stop at a step boundary, as an operator would, for its job to wait in the queue again.
// Only a job of a higher priority that waits may ask for that.
func (a *applier) preemptJob(c *commandpb.PreemptJob) error {
	j, err := a.current(c.Job, c.Generation)
	if err != nil {
		return err
	}
	by := a.s.v.Jobs[c.By]
	switch {
	case j.State != Running:
		return fmt.Errorf("job %s is %s: %w", c.Job, j.State, ErrJobState)
	case by == nil || !Waits(by):
		return fmt.Errorf("job %s does not wait, job %s need not make way for it: %w", c.By, c.Job, ErrJobState)
	case by.Priority <= j.Priority:
		return fmt.Errorf("job %s of priority %d does not make way for %s of priority %d: %w", c.Job, j.Priority, c.By,
			by.Priority, ErrInvalid)
	}
	j.PreemptedBy = fmt.Sprintf("%s (priority %d)", c.By, by.Priority)
	a.enter(j, Stopping, "makes way for job "+j.PreemptedBy+": it stops at a step boundary and is queued again")
	j.Requeuing = true
	a.keep(j)
	a.event("job", c.Job, "", "job %s makes way for job %s", c.Job, j.PreemptedBy)
	return nil
}

// preempted begins the reason of a job that waits after it has been preempted.
const preempted = "preempted after step "

// Preempted says whether a job waits because it has been preempted.
func Preempted(j *commandpb.JobRecord) bool {
	return j.State == Queued && strings.HasPrefix(j.Reason, preempted)
}

// requeue has a job whose cells have stopped wait for workers again, in the place it had.
func (a *applier) requeue(j *commandpb.JobRecord, step uint64) {
	j.Preemptions++
	a.enter(j, Queued, fmt.Sprintf(preempted+"%d by job %s", step, j.PreemptedBy))
	j.Placement = nil
	a.event("job", j.Submitted.Job, "", "job %s is preempted at step %d by job %s; it goes on from there by itself",
		j.Submitted.Job, step, j.PreemptedBy)
}
