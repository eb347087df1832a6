package fsm

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"colonnade/proto/commandpb"
)

// registerWorker makes a worker known. A worker that comes back as another process has lost what its cells had.
func (a *applier) registerWorker(c *commandpb.RegisterWorker) error {
	if c.Worker == "" || c.Device == nil {
		return fmt.Errorf("worker without id or device: %w", ErrInvalid)
	}
	old := a.s.v.Workers[c.Worker]
	record := &commandpb.WorkerRecord{Registered: c, RegisteredUnixNs: a.now, Draining: old.GetDraining(),
		Hung: old.GetHung() && c.Working && old.GetRegistered().GetIncarnation() == c.Incarnation}
	same := old != nil && old.Registered.Incarnation == c.Incarnation && !old.Lost
	if same { // the same process on a new session: only where it is reached may have changed
		record.RegisteredUnixNs = old.RegisteredUnixNs
	}
	a.s.keepWorker(c.Worker, record)
	switch {
	case same:
	case old == nil:
		a.event("worker", "", c.Worker, "worker %s joined with %s", c.Name, c.Device.Model)
	case old.Registered.Incarnation != c.Incarnation:
		a.event("worker", "", c.Worker, "worker %s started again", c.Name)
		a.abandon(c.Worker, fmt.Sprintf("worker %s started again", c.Name))
	default:
		a.event("worker", "", c.Worker, "worker %s is back", c.Name)
	}
	return nil
}

func (a *applier) loseWorker(c *commandpb.LoseWorker) error {
	w, ok := a.s.v.Workers[c.Worker]
	if !ok {
		return fmt.Errorf("worker %s: %w", c.Worker, ErrNoWorker)
	}
	if w.Lost {
		return nil
	}
	a.s.keepWorker(c.Worker, &commandpb.WorkerRecord{Registered: w.Registered, RegisteredUnixNs: w.RegisteredUnixNs,
		Lost: true, LostReason: c.Reason, LostUnixNs: a.now, Hung: w.Hung || c.Hung, Draining: w.Draining})
	a.event("worker", "", c.Worker, "worker %s is lost: %s", w.Registered.Name, c.Reason)
	a.abandon(c.Worker, fmt.Sprintf("worker %s is lost: %s", w.Registered.Name, c.Reason))
	return nil
}

// drainWorker has the scheduler place no cells on a worker any more, or again.
func (a *applier) drainWorker(c *commandpb.DrainWorker) error {
	w, ok := a.s.v.Workers[c.Worker]
	if !ok {
		return fmt.Errorf("worker %s: %w; see: coordinator worker list", c.Worker, ErrNoWorker)
	}
	if w.Draining == !c.Undo {
		return nil
	}
	w = proto.CloneOf(w)
	w.Draining = !c.Undo
	a.s.keepWorker(c.Worker, w)
	if c.Undo {
		a.event("worker", "", c.Worker, "worker %s is given cells again", w.Registered.Name)
	} else {
		a.event("worker", "", c.Worker, "worker %s is drained: its cells go elsewhere, and it gets no others",
			w.Registered.Name)
	}
	return nil
}

// forgetWorker takes a worker that is lost out of the state, unless a job may still need to know it. If it comes back
// it is a new one.
func (a *applier) forgetWorker(c *commandpb.ForgetWorker) error {
	w, ok := a.s.v.Workers[c.Worker]
	switch {
	case !ok:
		return fmt.Errorf("worker %s: %w", c.Worker, ErrNoWorker)
	case !w.Lost:
		return fmt.Errorf("worker %s is not lost: %w", c.Worker, ErrInvalid)
	case NeededWorkers(a.s.v)[c.Worker]:
		return fmt.Errorf("worker %s has cells or files of a job that is not done: %w", c.Worker, ErrInvalid)
	}
	a.s.dropWorker(c.Worker)
	a.event("worker", "", c.Worker, "worker %s is forgotten: %s", w.Registered.Name, w.LostReason)
	return nil
}

// NeededWorkers are those that jobs which are not done may still need to know: where their cells are or were, and who
// has files of their checkpoints.
func NeededWorkers(v View) map[string]bool {
	needed := map[string]bool{}
	for _, j := range v.Jobs {
		if j.State == Done {
			continue
		}
		for _, p := range j.Placement {
			needed[p.Worker] = true
		}
		for _, r := range j.Checkpoints {
			for _, f := range r.Files {
				needed[f.Worker] = true
			}
		}
	}
	neededForTests(v, needed)
	return needed
}

// abandon ends every generation that has a cell on a worker, and takes back what it was given of an evaluation.
func (a *applier) abandon(worker, reason string) {
	a.freeParts(false, worker)
	for _, name := range a.s.v.JobNames() {
		j := a.s.v.Jobs[name]
		on := slices.ContainsFunc(j.Placement, func(p *commandpb.Placement) bool { return p.Worker == worker })
		if !on || (j.State != Running && j.State != Stopping) {
			continue
		}
		j, _ = a.job(name)
		a.end(j, reason)
		a.keep(j)
	}
}

// end ends a generation: the job waits for workers, or, if it was asked to stop for good, is stopped where its newest
// checkpoint is.
func (a *applier) end(j *commandpb.JobRecord, reason string) {
	if j.State == Stopping && !goesOn(j) {
		a.rest(j, reason)
	} else {
		a.enter(j, Recovering, reason)
	}
	a.event("generation", j.Submitted.Job, "", "job %s: generation %d ended: %s", j.Submitted.Job, j.Generation, reason)
}
