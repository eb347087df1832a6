package sched

import (
	"cmp"
	"slices"

	"colonnade/coordinator/fsm"
)

// MostBuddies is how many workers are named to keep copies of a worker's cells: the first that can does.
const MostBuddies = 3

// Ring is who keeps copies for whom: the machines in the order of their ids, each for the one before it, the last for
// the first. It is a function of which workers are there, so every leader finds the same.
type Ring struct {
	machines []machine
	of       map[string][2]int // by worker: place of its machine, and its own on it
}

type machine struct {
	id      string
	workers []string // by id
}

// NewRing makes the ring of the workers that are there and say on which machine they are.
func NewRing(v fsm.View, connected func(worker string) bool) *Ring {
	r := &Ring{of: map[string][2]int{}}
	type at struct{ machine, worker string }
	all := make([]at, 0, len(v.Workers))
	for id, w := range v.Workers {
		if m := w.Registered.Machine; m != "" && !w.Lost && connected(id) {
			all = append(all, at{m, id})
		}
	}
	slices.SortFunc(all, func(a, b at) int {
		return cmp.Or(cmp.Compare(a.machine, b.machine), cmp.Compare(a.worker, b.worker))
	})
	for _, a := range all {
		if n := len(r.machines); n == 0 || r.machines[n-1].id != a.machine {
			r.machines = append(r.machines, machine{id: a.machine})
		}
		m := &r.machines[len(r.machines)-1]
		r.of[a.worker] = [2]int{len(r.machines) - 1, len(m.workers)}
		m.workers = append(m.workers, a.worker)
	}
	return r
}

// After are workers on the machines behind a worker's own, one on each, at most MostBuddies; none if there is no other
// machine, or the worker is not known.
func (r *Ring) After(worker string) (out []string) {
	at, ok := r.of[worker]
	if !ok {
		return nil
	}
	for i := 1; i < len(r.machines) && len(out) < MostBuddies; i++ {
		m := r.machines[(at[0]+i)%len(r.machines)]
		out = append(out, m.workers[at[1]%len(m.workers)])
	}
	return out
}
