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

// Preempt has a generation stop at a step boundary, after a checkpoint, and its job wait in the queue again: another
// job, of a higher priority, needs workers that it has to begin.
type Preempt struct {
	Job        string
	Generation uint64
	By         string
}

func (Preempt) action() {}

// Queue is the jobs that wait for workers, in the order in which they get them.
func Queue(v fsm.View) (waiting []*commandpb.JobRecord) {
	for _, j := range v.Jobs {
		if fsm.Waits(j) {
			waiting = append(waiting, j)
		}
	}
	inOrder(waiting)
	return waiting
}

// crew is a job that has workers, and those of them that another job could be given.
type crew struct {
	job     *commandpb.JobRecord
	workers []candidate // in order of id; nil: not looked for yet
	leaves  bool        // it stops, so they come free
}

// crews are the jobs that have workers, in the order of the queue. They are made when a job is found to wait behind one
// of a lower priority, which is not often.
func (p *pool) crews() []crew {
	if p.made == nil {
		jobs := p.staffed()
		p.made = make([]crew, len(jobs))
		for i, j := range jobs {
			p.made[i] = crew{job: j, leaves: j.State == fsm.Stopping}
		}
	}
	return p.made
}

// workersOf are the workers of a placement, each once, in order of id.
func workersOf(placement []*commandpb.Placement) []string {
	ids := make([]string, 0, len(placement))
	for _, c := range placement {
		ids = append(ids, c.Worker)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// manned says whether a job has workers.
func manned(j *commandpb.JobRecord) bool { return j.State == fsm.Running || j.State == fsm.Stopping }

// short is what happens to a job for which too few workers are free: it says what it waits for, and may have others
// make way. What is free is kept for it, if it can ever have enough: smaller jobs that come later must not take the
// workers one by one for ever.
func (p *pool) short(j *commandpb.JobRecord, free []*candidate, d *Decision) string {
	kind, least := kindOf(j), fsm.LeastWorkers(j)
	able := p.able(kind, j.Numerics)
	switch {
	case able == 0:
		return p.why(kind, j.Numerics)
	case able < least:
		return fmt.Sprintf("needs %s at least, and %s that could run it: waits until more join, or for less: coordinator "+
			"job priority %s --min-workers N", count(least, "worker"), thereAre(able), j.Submitted.Job)
	}
	r, reason := p.makeRoom(j, d)
	if r != nil {
		free = r.free
	} else {
		reason = p.busy(least-len(free), able)
	}
	p.take(free[:min(len(free), fsm.MostWorkers(j))])
	return reason
}

func thereAre(n int) string {
	if n == 1 {
		return "there is 1"
	}
	return fmt.Sprintf("there are %d", n)
}

// able is how many of the workers that are there could run a job under some numerics, whoever has them; if it has none
// yet, under those that most could.
func (p *pool) able(kind int, numerics string) (most int) {
	for at, n := range p.fit[kind] {
		if numerics == "" || p.names[at] == numerics {
			most = max(most, n)
		}
	}
	return most
}

// makeRoom has jobs of a lower priority make way for one, if it could begin then: otherwise nobody is disturbed. It
// returns the room there will be, and what the job waits for; nil: there is none to be had.
func (p *pool) makeRoom(j *commandpb.JobRecord, d *Decision) (*room, string) {
	if !p.outranks(j) {
		return nil, ""
	}
	for _, at := range p.numericsFor(j) {
		r := p.roomUnder(j, at)
		if r == nil {
			continue
		}
		if waits := p.check(r, d); waits != "" {
			return r, waits
		}
		p.vacate(r, d)
		return r, r.reason()
	}
	return nil, ""
}

// outranks says whether any job that has workers is of a lower priority than j.
func (p *pool) outranks(j *commandpb.JobRecord) bool {
	jobs := p.staffed()
	return len(jobs) > 0 && jobs[len(jobs)-1].Priority < j.Priority
}

// numericsFor are the numerics that a job may be placed under, those first that most workers have.
func (p *pool) numericsFor(j *commandpb.JobRecord) (places []int) {
	fit := p.fit[kindOf(j)]
	for at, name := range p.names {
		if fit[at] > 0 && (j.Numerics == "" || j.Numerics == name) {
			places = append(places, at)
		}
	}
	slices.SortFunc(places, func(a, b int) int {
		return cmp.Or(cmp.Compare(fit[b], fit[a]), cmp.Compare(p.names[a], p.names[b]))
	})
	return places
}

// room is what a job could have if others make way.
type room struct {
	job     *commandpb.JobRecord
	at      int          // numerics
	free    []*candidate // now
	coming  []*candidate // when those have stopped that stop
	leaving []*crew      // whose workers those are
	victims []*crew      // to be asked to make way, in the order of the queue
	gained  []int        // by victim: workers that the job could have
	claimed int          // of all of those: others will have them first
}

// roomUnder looks for room under some numerics; nil: there is not enough. The victims are the last in the queue's
// order, and no more than it takes.
func (p *pool) roomUnder(j *commandpb.JobRecord, at int) *room {
	kind, least := kindOf(j), fsm.LeastWorkers(j)
	r := &room{job: j, at: at, claimed: p.claims(kind, at)}
	for i := range p.all {
		if w := &p.all[i]; !w.taken && w.runs[kind] == at {
			r.free = append(r.free, w)
		}
	}
	crews := p.crews()
	for i := range crews {
		c := &crews[i]
		if !c.leaves {
			continue
		}
		switch before := fsm.Order(c.job, j) < 0; {
		case before && c.job.Moving:
			continue // it goes on before j, with what it has
		case before && (c.job.Requeuing || p.disturbed[c.job.Submitted.Job]):
			r.claimed += fsm.MostWorkers(c.job) // it is queued before j
		}
		if mine := p.of(c, kind, at); len(mine) > 0 {
			r.coming, r.leaving = append(r.coming, mine...), append(r.leaving, c)
		}
	}
	have := len(r.free) + len(r.coming) - r.claimed
	for i := len(crews) - 1; i >= 0 && have < least; i-- {
		c := &crews[i]
		if c.job.Priority >= j.Priority {
			break
		}
		if n := len(p.of(c, kind, at)); n > 0 && !c.leaves && !p.disturbed[c.job.Submitted.Job] {
			r.victims, r.gained = append(r.victims, c), append(r.gained, n)
			have += n
		}
	}
	if have < least {
		return nil
	}
	slices.Reverse(r.victims)
	slices.Reverse(r.gained)
	for i := 0; i < len(r.victims); { // whoever is not needed, the first in the queue's order first, is left alone
		if have-r.gained[i] < least {
			i++
			continue
		}
		have -= r.gained[i]
		r.victims, r.gained = slices.Delete(r.victims, i, i+1), slices.Delete(r.gained, i, i+1)
	}
	return r
}

// claim is what a job that is before others in the queue takes besides what is kept for it, as soon as it is free.
type claim struct {
	job *commandpb.JobRecord
	n   int
}

// claims are how many workers jobs that were looked at before claim of those that could run a job under some numerics.
// Who can never begin with those that are there claims none.
func (p *pool) claims(kind, at int) (n int) {
	for _, c := range p.claimed {
		other := kindOf(c.job) != kind || c.job.Numerics == "" || c.job.Numerics == p.names[at]
		if other && p.able(kindOf(c.job), c.job.Numerics) >= fsm.LeastWorkers(c.job) {
			n += c.n
		}
	}
	return n
}

// claim notes that a job takes so many workers more before those that come after it.
func (p *pool) claim(j *commandpb.JobRecord, n int) {
	if n > 0 {
		p.claimed = append(p.claimed, claim{j, n})
	}
}

// of are a crew's workers that could run a job's cells and are not promised to another job.
func (p *pool) of(c *crew, kind, at int) (out []*candidate) {
	if c.workers == nil {
		c.workers = p.crewOf(c.job)
	}
	for i := range c.workers {
		if w := &c.workers[i]; w.runs[kind] == at && !w.taken {
			out = append(out, w)
		}
	}
	return out
}

// all are the workers that a job could be placed on in a room, in order of id.
func (r *room) all(p *pool) []*candidate {
	all := slices.Concat(r.free, r.coming)
	for _, c := range r.victims {
		all = append(all, p.of(c, kindOf(r.job), r.at)...)
	}
	slices.SortFunc(all, func(a, b *candidate) int { return cmp.Compare(a.id, b.id) })
	return all
}

// check says what a job would wait for although there were room: then nobody makes way yet.
func (p *pool) check(r *room, d *Decision) string {
	if len(r.victims) == 0 {
		return ""
	}
	j, workers := r.job, r.all(p)
	if ready := p.calm(j); p.now.Before(ready) {
		d.wakeAt(ready)
		return fmt.Sprintf("waits %v for more workers before %s has to make way", settle(p.in, j), jobsOf(jobsAt(r.victims)))
	}
	a := &Assign{Job: j.Submitted.Job, Generation: j.Generation + 1, Numerics: p.names[r.at]}
	_, _, waits := p.goOn(j, p.within(j, workers), a, d)
	return waits
}

// calm is when to stop waiting for workers that join before others are disturbed: a while after the last change in who
// is there, or of the leader.
func (p *pool) calm(j *commandpb.JobRecord) time.Time {
	began := p.in.Leader
	return p.quiet(j, later(began, p.changed).Add(settle(p.in, j)), p.past(began, j.StateUnixNs))
}

// vacate has the victims of a room stop. A victim that keeps enough workers to go on with when the job has its own
// moves onto those, from memory; the others are queued again. What the job will have is promised to it.
func (p *pool) vacate(r *room, d *Decision) {
	all, kind := r.all(p), kindOf(r.job)
	takes := min(fsm.MostWorkers(r.job), len(all)-r.claimed)
	left := len(all) - r.claimed - takes
	p.promised = takes
	for i, c := range r.victims {
		c.leaves = true
		p.disturbed[c.job.Submitted.Job] = true
		least := fsm.LeastWorkers(c.job)
		if left < least || kindOf(c.job) != kind || len(r.victims) > 1 && r.gained[i] < least {
			d.Actions = append(d.Actions, Preempt{c.job.Submitted.Job, c.job.Generation, r.job.Submitted.Job})
			continue
		}
		left -= min(left, fsm.MostWorkers(c.job))
		d.Actions = append(d.Actions, Move{c.job.Submitted.Job, c.job.Generation,
			fmt.Sprintf("it makes way for job %s, on fewer workers", fsm.NameOf(r.job))})
	}
	for _, w := range r.coming[:min(len(r.coming), max(takes-len(r.free), 0))] {
		w.taken = true
	}
	takes -= len(r.free) + len(r.coming)
	for _, c := range r.victims {
		for _, w := range p.of(c, kind, r.at) {
			if takes--; takes >= 0 {
				w.taken = true
			}
		}
	}
}

// reason is what the job of a room waits for when the victims have been asked.
func (r *room) reason() string {
	who := jobsAt(r.leaving, r.victims)
	inOrder(who)
	return "waits for " + jobsOf(who) + " to stop at a step boundary and make way"
}

// jobsAt are the jobs of crews.
func jobsAt(crews ...[]*crew) (jobs []*commandpb.JobRecord) {
	for _, c := range slices.Concat(crews...) {
		jobs = append(jobs, c.job)
	}
	return jobs
}

// named is how many jobs are named in a reason.
const named = 3

// jobsOf names jobs: "job a", "jobs a (priority 5) and b", "jobs a, b, c and 7 more".
func jobsOf(jobs []*commandpb.JobRecord) string {
	var names []string
	for _, j := range jobs[:min(len(jobs), named)] {
		names = append(names, fsm.NameOf(j))
	}
	if more := len(jobs) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	if len(names) == 1 {
		return "job " + names[0]
	}
	return "jobs " + strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

// busy says who has the workers that a job waits for, of which it lacks some.
func (p *pool) busy(lacks, able int) string {
	parts := []string{}
	if p.busyThere > 0 {
		hold := "hold"
		if len(p.staffed()) == 1 {
			hold = "holds"
		}
		parts = append(parts, fmt.Sprintf("%s %s %d", jobsOf(p.staffed()), hold, p.busyThere))
	}
	if kept := len(p.all) - p.idle; kept > 0 {
		parts = append(parts, fmt.Sprintf("%d kept for jobs before it in the queue", kept))
	}
	if others := p.sound - able; others > 0 {
		parts = append(parts, fmt.Sprintf("%d cannot run it, with other numerics", others))
	}
	if p.drained > 0 {
		parts = append(parts, fmt.Sprintf("%d drained", p.drained))
	}
	if p.hung != "" {
		parts = append(parts, p.hung+" hangs in what it was given before: start it again")
	}
	return fmt.Sprintf("waits for %s: of the pool of %d, %s", count(lacks, "worker"), p.connected,
		strings.Join(parts, "; "))
}

// within are the workers that a job may have of those it could be placed on: all, or as many as its quota says. Those
// come first on which its cells were, then those that hold something of it in memory.
func (p *pool) within(j *commandpb.JobRecord, workers []*candidate) []*candidate {
	most, cells := fsm.MostWorkers(j), int(j.Submitted.Replicas)*int(j.Submitted.Columns)
	if most >= cells || len(workers) <= most {
		return workers
	}
	was := workersOf(j.Placement)
	worth := func(w *candidate) int {
		if _, had := slices.BinarySearch(was, w.id); had {
			return 0
		}
		if h, ok := answer(w.session, j); ok && len(h.Held) > 0 {
			return 1
		}
		return 2
	}
	chosen := slices.Clone(workers)
	slices.SortStableFunc(chosen, func(a, b *candidate) int { return cmp.Compare(worth(a), worth(b)) })
	chosen = chosen[:most]
	slices.SortFunc(chosen, func(a, b *candidate) int { return cmp.Compare(a.id, b.id) })
	return chosen
}

// overQuota says whether a job runs on more workers than it may have.
func overQuota(j *commandpb.JobRecord) bool {
	return j.MaxWorkers > 0 && len(workersOf(j.Placement)) > fsm.MostWorkers(j)
}
