package sched

import (
	"fmt"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// drainedJobs are jobs and, with them, those that run on workers that are drained.
func (p *pool) drainedJobs(jobs []*commandpb.JobRecord) []*commandpb.JobRecord {
	have := map[string]bool{}
	for _, j := range jobs {
		have[j.Submitted.Job] = true
	}
	for name, j := range p.in.View.Jobs {
		if j.State == fsm.Running && !have[name] && p.onDrained(j) != "" {
			jobs = append(jobs, j)
		}
	}
	inOrder(jobs)
	return jobs
}

// onDrained is the name of the first worker of a job that is drained, if there is one.
func (p *pool) onDrained(j *commandpb.JobRecord) string {
	if len(p.draining) == 0 {
		return ""
	}
	for _, c := range j.Placement {
		if p.draining[c.Worker] {
			return p.in.View.Workers[c.Worker].Registered.GetName()
		}
	}
	return ""
}

// move has the cells of a job that runs go elsewhere: off a worker that is drained, or apart, if they share one and
// others have come that are free. Whom a job moves to is kept for it until it has stopped.
func (p *pool) move(j *commandpb.JobRecord, crowded bool, d *Decision) {
	name := j.Submitted.Job
	cells := int(j.Submitted.Replicas) * int(j.Submitted.Columns)
	load := map[string]int{}
	for _, c := range j.Placement {
		load[c.Worker]++
	}
	most, own := 0, 0 // the cells of its fullest worker; the workers it has and may keep
	for id, n := range load {
		if w := p.in.View.Workers[id]; w != nil && placeable(w, p.in.Sessions.Of(id)) {
			most, own = max(most, n), own+1
		}
	}
	free, _ := p.freeFor(j, time.Time{}, cells-own)
	switch drained := p.onDrained(j); {
	case j.Moving:
		p.take(free)
	case drained != "" && own+len(free) == 0:
		d.Reasons[name] = fmt.Sprintf("worker %s is drained, but there is no other for its cells; start another one", drained)
	case drained != "":
		p.take(free)
		d.Actions = append(d.Actions, Move{name, j.Generation, fmt.Sprintf("worker %s is drained", drained)})
	case crowded && p.in.Rules.Spread > 0 && own == len(load) && apart(cells, own+len(free)) < most:
		began := p.past(p.in.Leader, j.StateUnixNs).Add(p.in.Rules.Spread)
		if p.now.Before(began) {
			d.wakeAt(began)
			return
		}
		ready, next := p.freeFor(j, p.now.Add(-p.in.Rules.Spread), cells-own)
		if !next.IsZero() {
			d.wakeAt(next.Add(p.in.Rules.Spread))
		}
		if apart(cells, own+len(ready)) < most {
			p.take(ready)
			d.Actions = append(d.Actions, Move{name, j.Generation, fmt.Sprintf("%s on %s, %s more free: cells spread out",
				count(cells, "cell"), count(own, "worker"), count(len(ready), "worker"))})
		}
	}
}

// apart is how many cells the fullest of so many workers has.
func apart(cells, workers int) int {
	n := max(min(cells, workers), 1)
	return (cells + n - 1) / n
}

// freeFor are the first workers that could take cells of a job, at most so many, in order of id: those that have been
// there since a time, if one is given. It says when the next of the others came.
func (p *pool) freeFor(j *commandpb.JobRecord, since time.Time, most int) (free []*candidate, next time.Time) {
	kind := kindOf(j)
	for i := range p.all {
		w := &p.all[i]
		if len(free) >= most {
			break
		}
		if w.taken || w.runs[kind] < 0 || p.names[w.runs[kind]] != j.Numerics {
			continue
		}
		if at := p.past(time.Time{}, w.registered); !since.IsZero() && at.After(since) {
			if next.IsZero() || at.Before(next) {
				next = at
			}
			continue
		}
		free = append(free, w)
	}
	return free, next
}
