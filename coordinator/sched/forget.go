package sched

import (
	"time"

	"colonnade/coordinator/fsm"
)

// Forget takes a worker that has been lost for long out of the state.
type Forget struct{ Worker string }

func (Forget) action() {}

// maxForgets bounds what one decision forgets; the next follows at once.
const maxForgets = 64

// lapse notes a worker that is lost, and has been for long or will have been.
func (p *pool) lapse(w *fsm.Enrolled, d *Decision) {
	if p.in.Rules.Forget <= 0 {
		return
	}
	if until := time.Unix(0, w.LostUnixNs).Add(p.in.Rules.Forget); p.now.Before(until) {
		d.wakeAt(until)
	} else {
		p.lapsed = append(p.lapsed, w.ID)
	}
}

// forget takes workers out that have been lost for long, in order of id. Those that a job may still need to know stay:
// where its cells were, and who has files of its checkpoints.
func (p *pool) forget(d *Decision) {
	if len(p.lapsed) == 0 {
		return
	}
	needed, n := fsm.NeededWorkers(p.in.View), 0
	for _, id := range p.lapsed {
		if !needed[id] && n < maxForgets {
			d.Actions = append(d.Actions, Forget{id})
			n++
		}
	}
}
