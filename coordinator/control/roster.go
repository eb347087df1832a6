package control

import (
	"cmp"
	"maps"
	"slices"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/commandpb"
)

// roster is what the loop keeps about sessions and jobs from one round to the next, so that a round costs what has
// changed, not every worker times every job. It is under c.mu.
type roster struct {
	inOrder []*Session                      // c.sessions, in order of worker
	seen    map[string]*commandpb.JobRecord // jobs as on has them
	on      map[string][]string             // by worker: jobs under way with cells there, in order of name
	holders map[string]map[string]bool      // by job: workers whose hosts may hold something of it

	ring   *sched.Ring    // nil: to be made anew
	ringOf []fsm.Enrolled // the roll that it was made of

	firsts map[kind]*commandpb.JobRecord // of this round: the first job that runs under some numerics
	listed bool                          // whether firsts is made

	parts map[string]givenPart // of this round: parts of evaluations under way, by worker
}

// kind is what decides whether a worker could take a job's cells.
type kind struct {
	numerics string
	direct   bool
}

func newRoster() roster {
	return roster{seen: map[string]*commandpb.JobRecord{}, on: map[string][]string{},
		holders: map[string]map[string]bool{}}
}

// seat is a worker's place among the sessions.
func (r *roster) seat(worker string) (int, bool) {
	return slices.BinarySearchFunc(r.inOrder, worker, func(s *Session, id string) int { return cmp.Compare(s.worker, id) })
}

// join puts a session in its worker's place.
func (r *roster) join(s *Session) {
	at, there := r.seat(s.worker)
	if there {
		r.leaveAt(at)
	}
	r.inOrder = slices.Insert(r.inOrder, at, s)
	r.ring = nil
}

// leave takes a worker's session out.
func (r *roster) leave(worker string) {
	if at, there := r.seat(worker); there {
		r.leaveAt(at)
	}
}

func (r *roster) leaveAt(at int) {
	s := r.inOrder[at]
	for job := range s.holds {
		r.unhold(s, job)
	}
	r.inOrder = slices.Delete(r.inOrder, at, at+1)
	r.ring = nil
}

// hold notes that a session's host may hold something of a job.
func (r *roster) hold(s *Session, job string) {
	s.holds[job] = true
	if r.holders[job] == nil {
		r.holders[job] = map[string]bool{}
	}
	r.holders[job][s.worker] = true
}

// unhold notes that it does not.
func (r *roster) unhold(s *Session, job string) {
	delete(s.holds, job)
	if delete(r.holders[job], s.worker); len(r.holders[job]) == 0 {
		delete(r.holders, job)
	}
}

// keepers are, by job that recovers, the workers that may hold something of it.
func (r *roster) keepers(view fsm.View) map[string][]string {
	out := map[string][]string{}
	for job, workers := range r.holders {
		if view.Jobs[job].GetState() == fsm.Recovering {
			out[job] = slices.Sorted(maps.Keys(workers))
		}
	}
	return out
}

// follow brings the roster in line with the jobs of a view.
func (r *roster) follow(view fsm.View) {
	r.listed = false
	for name, j := range view.Jobs {
		if was := r.seen[name]; was != j {
			r.replace(name, placedOn(was), placedOn(j))
			r.seen[name] = j
		}
	}
	if len(r.seen) == len(view.Jobs) {
		return
	}
	for name, was := range r.seen { // of a cluster that was restored from a backup
		if view.Jobs[name] == nil {
			r.replace(name, placedOn(was), nil)
			delete(r.seen, name)
		}
	}
}

// placedOn are the workers that have cells of a job under way.
func placedOn(j *commandpb.JobRecord) []*commandpb.Placement {
	if j.GetState() != fsm.Running && j.GetState() != fsm.Stopping {
		return nil
	}
	return j.Placement
}

// replace notes that a job has moved.
func (r *roster) replace(job string, from, to []*commandpb.Placement) {
	if len(from) == len(to) && (len(from) == 0 || &from[0] == &to[0]) {
		return
	}
	for _, p := range from {
		if at, has := slices.BinarySearch(r.on[p.Worker], job); has {
			if r.on[p.Worker] = slices.Delete(r.on[p.Worker], at, at+1); len(r.on[p.Worker]) == 0 {
				delete(r.on, p.Worker)
			}
		}
	}
	for _, p := range to {
		if at, has := slices.BinarySearch(r.on[p.Worker], job); !has {
			r.on[p.Worker] = slices.Insert(r.on[p.Worker], at, job)
		}
	}
}

// concerns are the jobs that a session has to do with, in the order they were submitted: what it was told to run, and
// what it is to run. Jobs that are not in the view are left out.
func (r *roster) concerns(view fsm.View, s *Session) []string {
	on := r.on[s.worker]
	if len(on) == 0 && len(s.told) == 0 {
		return nil
	}
	names := slices.Clone(on)
	for name := range s.told {
		if view.Jobs[name] != nil && !slices.Contains(on, name) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(view.Jobs[a].SubmittedUnixNs, view.Jobs[b].SubmittedUnixNs), cmp.Compare(a, b))
	})
	return names
}

// ringNow is who keeps copies for whom among those who are there now.
func (r *roster) ringNow(view fsm.View, sessions map[string]*Session) *sched.Ring {
	same := len(r.ringOf) == len(view.Roll) && (len(view.Roll) == 0 || &r.ringOf[0] == &view.Roll[0])
	if r.ring == nil || !same {
		r.ringOf = view.Roll
		r.ring = sched.NewRing(view, func(id string) bool { s := sessions[id]; return s != nil && s.memory })
	}
	return r.ring
}

// firstUnder is the first job, in the order they were submitted, that runs under some numerics.
func (r *roster) firstUnder(view fsm.View, k kind) *commandpb.JobRecord {
	if !r.listed {
		r.firsts, r.listed = map[kind]*commandpb.JobRecord{}, true
		for _, j := range view.Jobs {
			if j.State != fsm.Running && j.State != fsm.Stopping {
				continue
			}
			k := kind{j.Numerics, j.Submitted.Direct}
			if was := r.firsts[k]; was == nil || sched.Before(j, was) {
				r.firsts[k] = j
			}
		}
	}
	return r.firsts[k]
}
