package sched

import (
	"fmt"
	"slices"
	"time"

	"colonnade/proto/commandpb"
)

// move has the cells of a job that runs go elsewhere: off a worker that is drained, or apart, when they share a worker
// and others have come that are free. Whom a job moves to is kept for it until it has stopped.
func move(now time.Time, in Input, j *commandpb.JobRecord, busy map[string]string, d *Decision) {
	name := j.Submitted.Job
	load := map[string]int{}
	drained := ""
	for _, p := range j.Placement {
		load[p.Worker]++
		if w := in.View.Workers[p.Worker]; w.GetDraining() && drained == "" {
			drained = w.Registered.GetName()
		}
	}
	most, own := 0, 0 // the cells of its fullest worker; the workers it has and keeps
	for id, n := range load {
		if usable(in, id) {
			most, own = max(most, n), own+1
		}
	}
	var free []string
	for _, id := range sortedWorkers(in) {
		if busy[id] == "" && usable(in, id) && numericsOf(in.View.Workers[id], j) == j.Numerics {
			free = append(free, id)
		}
	}
	keep := func(n int) {
		for _, id := range free[:min(n, len(free))] {
			busy[id] = name
		}
	}
	cells := int(j.Submitted.Replicas) * int(j.Submitted.Columns)
	switch {
	case j.Moving:
		keep(cells - own)
	case drained != "" && own+len(free) == 0:
		d.Reasons[name] = fmt.Sprintf("worker %s is drained, but there is no other for its cells; start another one", drained)
	case drained != "":
		keep(cells - own)
		d.Actions = append(d.Actions, Move{name, j.Generation, fmt.Sprintf("worker %s is drained", drained)})
	case in.Rules.Spread > 0 && own == len(load):
		if ready := spreadTo(now, in, j, free, own, most, d); ready > 0 {
			keep(ready)
			d.Actions = append(d.Actions, Move{name, j.Generation, fmt.Sprintf("%s on %s, and %s free: cells spread out",
				count(cells, "cell"), count(own, "worker"), count(ready, "worker"))})
		}
	}
}

// spreadTo is how many of the free workers cells of a job should move to: those that have been there for long enough,
// if the fullest worker of the job has fewer cells then. It notes when there may be more.
func spreadTo(now time.Time, in Input, j *commandpb.JobRecord, free []string, own, most int, d *Decision) int {
	cells := int(j.Submitted.Replicas) * int(j.Submitted.Columns)
	helps := func(workers int) bool { n := min(workers, cells); return (cells+n-1)/n < most }
	if !helps(own + len(free)) {
		return 0
	}
	began := later(in.Leader, past(now, j.StateUnixNs)).Add(in.Rules.Spread)
	if now.Before(began) {
		d.wakeAt(began)
		return 0
	}
	ready := 0
	for _, id := range free {
		at := past(now, in.View.Workers[id].RegisteredUnixNs).Add(in.Rules.Spread)
		if now.Before(at) {
			d.wakeAt(at)
			continue
		}
		ready++
	}
	if !helps(own + ready) {
		return 0
	}
	return ready
}

// past is a time of the log; one from the future is another leader's, whose clock is ahead: it says nothing.
func past(now time.Time, ns int64) time.Time {
	if t := time.Unix(0, ns); !t.After(now) {
		return t
	}
	return time.Time{}
}

// usable says whether a worker may have cells.
func usable(in Input, id string) bool {
	w := in.View.Workers[id]
	return w != nil && !w.Lost && !w.Hung && !w.Draining && in.Sessions[id].Connected
}

// sortedWorkers are all workers, by id.
func sortedWorkers(in Input) []string {
	ids := make([]string, 0, len(in.View.Workers))
	for id := range in.View.Workers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
