package sched

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// Give has a worker compute a part of an evaluation.
type Give struct {
	Evaluation uint64
	Part       uint32
	Worker     string
	From       string // who had it and does not get on with it
}

// EndEvaluation ends an evaluation that cannot be done.
type EndEvaluation struct {
	Evaluation uint64
	Reason     string
}

func (Give) action()          {}
func (EndEvaluation) action() {}

// PartProgress is what a worker was last heard to say of a part.
type PartProgress struct {
	Evaluation, Generation uint64    // of the part; 0: it works on none
	Computing              bool      // else it gets ready
	Since                  time.Time // since when it has said the same
}

// pausePart is how long a part waits after each failure in a row: what was lost on the way may be back.
const pausePart = time.Second

// maxGives bounds the parts that one decision gives; the next follows at once.
const maxGives = 64

// underTest are the evaluations under way, in order of id.
func underTest(v fsm.View) (out []*commandpb.EvaluationRecord) {
	for _, r := range v.Evaluations {
		if r.State == fsm.Running {
			out = append(out, r)
		}
	}
	return out
}

// taker is a worker that may be given parts.
type taker struct {
	id      string
	record  *commandpb.WorkerRecord
	session *Session
	cells   bool // it has or gets cells
	holds   bool // it has a part
}

// evaluate gives parts to workers that have nothing else to do, the first evaluation first. Jobs have had their choice:
// a worker that was kept or taken for one is not free.
func (p *pool) evaluate(tests []*commandpb.EvaluationRecord, d *Decision) {
	if len(tests) == 0 {
		return
	}
	d.Waits = map[uint64]string{}
	takers, cells := p.takers(tests), placing(d.Actions)
	gives := 0
	for _, r := range tests {
		if reason := lapsed(p.in.View, r); reason != "" {
			d.Actions = append(d.Actions, EndEvaluation{r.Id, reason})
			continue
		}
		why := "" // there is nobody for the next part
		for _, part := range r.Given {
			if gives >= maxGives || cells[part.Worker] && !r.Requested.Busy || !p.stalled(r, part, d) {
				continue
			}
			if w, _ := p.taker(r, takers); w != nil {
				d.Actions = append(d.Actions, Give{r.Id, part.Part, w.id, part.Worker})
				w.holds = true
				gives++
			}
		}
		if until := time.Unix(0, r.FailedUnixNs).Add(time.Duration(r.Failures) * pausePart); r.Failures > 0 &&
			p.now.Before(until) && !time.Unix(0, r.FailedUnixNs).After(p.now) {
			d.wakeAt(until)
			d.Waits[r.Id] = "tries again in a moment: " + r.Reason
			continue
		}
		under := len(r.Given)
		for next := uint32(0); gives < maxGives; {
			part, ok := fsm.FreePart(r, next)
			if !ok {
				break
			}
			var w *taker
			if w, why = p.taker(r, takers); w == nil {
				break
			}
			d.Actions = append(d.Actions, Give{r.Id, part, w.id, ""})
			w.holds = true
			gives, under, next = gives+1, under+1, part+1
		}
		if under == 0 && why != "" {
			d.Waits[r.Id] = why
		}
	}
}

// placing are the workers that a decision places cells on.
func placing(actions []Action) map[string]bool {
	out := map[string]bool{}
	for _, a := range actions {
		if a, ok := a.(Assign); ok {
			for _, p := range a.Placement {
				out[p.Worker] = true
			}
		}
	}
	return out
}

// lapsed says why an evaluation can never be done any more.
func lapsed(v fsm.View, r *commandpb.EvaluationRecord) string {
	for _, m := range r.Requested.Models {
		if v.Jobs[m.Job] == nil {
			return fmt.Sprintf("job %s is gone", m.Job)
		}
	}
	return ""
}

// stalled says whether a part gets no further, and wakes when it will have.
func (p *pool) stalled(r *commandpb.EvaluationRecord, part *commandpb.PartRecord, d *Decision) bool {
	s := p.in.Sessions.Of(part.Worker)
	if p.in.Rules.Stall <= 0 || s == nil || !s.Connected { // it may come back, or is lost
		return false
	}
	since, limit := p.past(p.in.Leader, part.GivenUnixNs), p.in.Rules.Stall
	if at := s.Part; at.Evaluation == r.Id && at.Generation == part.Generation {
		since = later(since, at.Since)
		if !at.Computing {
			limit *= 10
		}
	}
	until := since.Add(limit)
	if p.now.Before(until) {
		d.wakeAt(until)
		return false
	}
	return true
}

// takers are the workers that are there and take parts, in order of id.
func (p *pool) takers(tests []*commandpb.EvaluationRecord) (out []*taker) {
	holds := map[string]bool{}
	for _, r := range tests {
		for _, part := range r.Given {
			holds[part.Worker] = true
		}
	}
	// Whoever still works on a part that was taken back is not free.
	stale := func(s *Session) bool { return s.Part.Generation != 0 && !holds[s.Worker] }
	for i, e := range p.in.View.Roll {
		if !p.posts[i].sound {
			continue
		}
		s := &p.in.Sessions[p.posts[i].session-1]
		if !s.Evaluates {
			continue
		}
		works := e.Cells > 0
		if at, there := p.find(e.ID); there && p.all[at].taken {
			works = true
		}
		out = append(out, &taker{e.ID, e.Record, s, works, holds[e.ID] || stale(s)})
	}
	return out
}

// taker is the worker that is given the next part of an evaluation: rather one without cells, and rather another than
// the one on which the last part failed; the first by id. If there is none it says why.
func (p *pool) taker(r *commandpb.EvaluationRecord, takers []*taker) (best *taker, why string) {
	rank := func(w *taker) int {
		n := 0
		if w.cells {
			n += 2
		}
		if w.id == r.FailedWorker {
			n++
		}
		return n
	}
	var fit, away, cells, avoided int
	missing := ""
	for _, w := range takers {
		if !runs(p.in.View, r, w.record) {
			continue
		}
		fit++
		if slices.Contains(r.Avoid, w.id) {
			avoided++
			continue
		}
		if names := p.awayFrom(r, w); names != "" {
			missing = cmp.Or(missing, names)
			away++
			continue
		}
		if w.cells && !r.Requested.Busy {
			cells++
			continue
		}
		if !w.holds && (best == nil || rank(w) < rank(best)) {
			best = w
		}
	}
	if best != nil {
		return best, ""
	}
	model := fmt.Sprintf("step %d of job %s", r.Checkpoints[0].Step, r.Requested.Models[0].Job)
	switch {
	case p.connected == 0:
		return nil, "waits for a worker; start one with: worker run --coordinator ADDR --data DIR"
	case len(takers) == 0:
		return nil, fmt.Sprintf("waits for a worker: of those there are (%d) all are drained, hang, or are of an older "+
			"version; start another one", p.connected)
	case fit == 0:
		return nil, fmt.Sprintf("waits for a worker with numerics %s, under which %s was trained; start one, or compute it "+
			"otherwise where the files lie: coordinator evaluate --local", r.Checkpoints[0].Numerics, model)
	case cells > 0:
		return nil, fmt.Sprintf("waits for a worker that is free: those that could (%d) have cells of jobs; start another "+
			"one, stop a job, or have them do it beside their cells: coordinator evaluate --busy", cells)
	case away > 0:
		return nil, fmt.Sprintf("waits for files of the checkpoint, %s: they lie with %s, away now; start that one again",
			model, missing)
	case avoided == fit:
		return nil, fmt.Sprintf("waits for another worker: those there are (%d) have not got on with a part; start them "+
			"again, or another one", avoided)
	}
	return nil, "waits for its turn: other evaluations have the workers that are free"
}

// runs says whether a worker computes as all models were trained.
func runs(v fsm.View, r *commandpb.EvaluationRecord, w *commandpb.WorkerRecord) bool {
	for i, m := range r.Requested.Models {
		numerics := w.Registered.Device.GetNumerics()
		if v.Jobs[m.Job].GetSubmitted().GetDirect() {
			numerics = w.Registered.Device.GetDirectNumerics()
		}
		if numerics != r.Checkpoints[i].Numerics {
			return false
		}
	}
	return true
}

// awayFrom names the workers with files that a worker would need and cannot get at now. Those that keep checkpoints at
// the same path are taken to share them, as long as no part has failed.
func (p *pool) awayFrom(r *commandpb.EvaluationRecord, w *taker) string {
	var names []string
	for _, k := range r.Checkpoints {
		for _, f := range k.Files {
			if f.Worker == w.id || p.in.Sessions.connected(f.Worker) {
				continue
			}
			name, owner := f.Worker, p.in.View.Workers[f.Worker]
			if owner != nil {
				if name = owner.Registered.Name; r.Failures == 0 &&
					owner.Registered.Checkpoints == w.record.Registered.Checkpoints {
					continue
				}
			}
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return strings.Join(names, " and ")
}
