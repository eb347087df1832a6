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

// layout is how a job that runs lies on workers.
type layout struct {
	most, own int // the cells of its fullest worker; the workers it has and may keep
	has, may  int // the workers it has, and may have
	cells     int
}

func (p *pool) layout(j *commandpb.JobRecord) layout {
	load := map[string]int{}
	for _, c := range j.Placement {
		load[c.Worker]++
	}
	s := layout{has: len(load), may: fsm.MostWorkers(j), cells: len(j.Placement)}
	for id, n := range load {
		if _, sound := p.soundAt(id); sound {
			s.most, s.own = max(s.most, n), s.own+1
		}
	}
	return s
}

// move has the cells of a job that runs go elsewhere: off a worker that is drained, or together, if it has more workers
// than its quota. Whom a job moves to is kept for it until it has stopped.
func (p *pool) move(j *commandpb.JobRecord, d *Decision) {
	name, s := j.Submitted.Job, p.layout(j)
	free, _ := p.freeFor(j, time.Time{}, s.may-s.own)
	switch drained := p.onDrained(j); {
	case j.Moving:
		p.take(free)
		p.claim(j, s.may-s.own-len(free))
	case drained != "" && s.own+len(free) == 0:
		d.Reasons[name] = fmt.Sprintf("worker %s is drained, but there is no other for its cells; start another one", drained)
	case drained != "":
		p.take(free)
		d.Actions = append(d.Actions, Move{name, j.Generation, fmt.Sprintf("worker %s is drained", drained)})
		p.disturbed[name] = true
		p.claim(j, s.may-s.own-len(free))
	case s.has > s.may:
		d.Actions = append(d.Actions, Move{name, j.Generation, fmt.Sprintf("it is on %d workers and may have %d",
			s.has, s.may)})
		p.disturbed[name] = true
	}
}

// spreadOut has the cells of a job that runs go apart, if they share a worker and others have come that are free: when
// all jobs that wait have had their choice. A job that can begin does more than one that has its cells apart.
func (p *pool) spreadOut(j *commandpb.JobRecord, d *Decision) {
	s := p.layout(j)
	free, _ := p.freeFor(j, time.Time{}, s.may-s.own)
	if p.in.Rules.Spread <= 0 || s.own < s.has || p.onDrained(j) != "" || apart(s.cells, s.own+len(free)) >= s.most {
		return
	}
	began := p.past(p.in.Leader, j.StateUnixNs).Add(p.in.Rules.Spread)
	if p.now.Before(began) {
		d.wakeAt(began)
		return
	}
	ready, next := p.freeFor(j, p.now.Add(-p.in.Rules.Spread), s.may-s.own)
	if !next.IsZero() {
		d.wakeAt(next.Add(p.in.Rules.Spread))
	}
	if apart(s.cells, s.own+len(ready)) < s.most {
		p.take(ready)
		d.Actions = append(d.Actions, Move{j.Submitted.Job, j.Generation, fmt.Sprintf(
			"%s on %s, %s more free: cells spread out", count(s.cells, "cell"), count(s.own, "worker"),
			count(len(ready), "worker"))})
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
