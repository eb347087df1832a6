package simtest

import (
	"cmp"
	"slices"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/commandpb"
)

// drawQueue draws how jobs stand in the queue, in most lives. No job insists on more workers than there will be.
func (s *sim) drawQueue() {
	if s.r.IntN(3) == 0 {
		return
	}
	for i := range s.jobs {
		j := &s.jobs[i]
		j.priority = int32(s.r.IntN(3))
		j.least, j.most = s.drawQuota(*j)
	}
}

func (s *sim) drawQuota(j jobSpec) (least, most uint32) {
	if s.r.IntN(3) == 0 {
		most = 1 + s.r.Uint32N(uint32(j.cells()))
	}
	if s.r.IntN(3) == 0 {
		least = 1 + s.r.Uint32N(uint32(min(j.cells(), len(s.workers))))
		if most > 0 {
			least = min(least, most)
		}
	}
	return least, most
}

// reorder has an operator change how a job stands in the queue.
func (s *sim) reorder() {
	if !s.chance(3) {
		return
	}
	spec := s.jobs[s.r.IntN(len(s.jobs))]
	if j := s.view.Jobs[spec.name]; j == nil || j.State == fsm.Done {
		return
	}
	least, most := s.drawQuota(spec)
	s.apply(&commandpb.Command{Kind: &commandpb.Command_SetQueue{SetQueue: &commandpb.SetQueue{Job: spec.name,
		Priority: int32(s.r.IntN(3)), MinWorkers: least, MaxWorkers: most}}})
}

// interfere has an operator stop a job that is making way.
func (s *sim) interfere(job string) {
	if s.up && s.view.Jobs[job].GetRequeuing() {
		s.apply(&commandpb.Command{Kind: &commandpb.Command_RequestStop{RequestStop: &commandpb.RequestStop{Job: job}}})
	}
}

// least is how many workers a job needs to begin.
func least(j *commandpb.JobRecord) int { return max(int(j.MinWorkers), 1) }

// most is how many workers a job may have.
func most(j *commandpb.JobRecord) int {
	cells := int(j.Submitted.Replicas * j.Submitted.Columns)
	if j.MaxWorkers > 0 {
		return min(int(j.MaxWorkers), cells)
	}
	return cells
}

// users are, by worker, the jobs that have cells there.
func users(in sched.Input) map[string]*commandpb.JobRecord {
	out := map[string]*commandpb.JobRecord{}
	for _, j := range in.View.Jobs {
		if j.State == fsm.Running || j.State == fsm.Stopping {
			for _, p := range j.Placement {
				out[p.Worker] = j
			}
		}
	}
	return out
}

// usable are the workers that cells may be placed on.
func usable(in sched.Input) (ids []string) {
	for id, w := range in.View.Workers {
		if !w.Lost && !w.Draining && !w.Hung && of(in, id).Connected {
			ids = append(ids, id)
		}
	}
	return ids
}

// line is the jobs that wait, in the order in which they must be served.
func line(in sched.Input) (jobs []*commandpb.JobRecord) {
	for _, j := range in.View.Jobs {
		if j.State == fsm.Queued || j.State == fsm.Recovering {
			jobs = append(jobs, j)
		}
	}
	slices.SortFunc(jobs, func(a, b *commandpb.JobRecord) int {
		return cmp.Or(-cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.SubmittedUnixNs, b.SubmittedUnixNs),
			cmp.Compare(a.Submitted.Job, b.Submitted.Job))
	})
	return jobs
}

// checkQueue looks at a decision as those who wait would: nobody gets workers that somebody before him waits for, nor
// more than he may have, and nobody is disturbed in vain.
func (c *checker) checkQueue(in sched.Input, d sched.Decision) {
	given, moves := map[string]int{}, false // workers are kept for who moves
	preempted := map[string][]string{}
	for _, a := range d.Actions {
		switch a := a.(type) {
		case sched.Assign:
			given[a.Job] = c.checkQuota(in, a)
		case sched.Preempt:
			preempted[a.By] = append(preempted[a.By], a.Job)
			c.preempted++
		case sched.Move:
			moves = true
		}
	}
	for _, j := range in.View.Jobs {
		moves = moves || j.Moving
	}
	if len(given) == 0 && len(preempted) == 0 {
		return
	}
	has, there := users(in), usable(in)
	left := 0
	for _, id := range there {
		if has[id] == nil {
			left++
		}
	}
	for i, j := range line(in) {
		name := j.Submitted.Job
		switch n := given[name]; {
		case n > left:
			c.s.fail("job %s is given %d workers, and %d are left by those before it", name, n, left)
		case n > 0:
			left -= n
		case len(there) >= least(j): // it can begin some time: it keeps what is free
			if len(preempted[name]) > 0 {
				c.checkPreempted(in, j, preempted[name], i == 0 && !moves && left >= least(j))
			}
			left -= min(left, most(j))
		case len(preempted[name]) > 0:
			c.s.fail("jobs %v make way for %s, which needs more workers than there are", preempted[name], name)
		}
	}
}

// checkQuota wants a job to get no more workers than it may have, and returns how many it gets.
func (c *checker) checkQuota(in sched.Input, a sched.Assign) int {
	j, on := in.View.Jobs[a.Job], map[string]int{}
	fullest := 0
	for _, p := range a.Placement {
		on[p.Worker]++
		fullest = max(fullest, on[p.Worker])
	}
	share := (len(a.Placement) + least(j) - 1) / least(j) // of the fullest worker, if it had as few as it may begin on
	if len(on) > most(j) || fullest > share && !a.FromMemory {
		c.s.fail("job %s, which may have %d workers and needs %d, is given %d, with %d cells on one", a.Job, most(j),
			least(j), len(on), fullest)
	}
	return len(on)
}

// checkPreempted wants those who make way to be of a lower priority, and to be enough; and that it takes them.
func (c *checker) checkPreempted(in sched.Input, j *commandpb.JobRecord, victims []string, couldBegin bool) {
	if couldBegin {
		c.s.fail("jobs %v make way for %s, which could begin as it is", victims, j.Submitted.Job)
	}
	could, has := 0, users(in)
	for _, id := range usable(in) {
		if other := has[id]; other == nil || other.State == fsm.Stopping || other.Priority < j.Priority {
			could++
		}
	}
	if could < least(j) {
		c.s.fail("jobs %v make way for %s in vain: it needs %d workers, and can have %d", victims, j.Submitted.Job, least(j),
			could)
	}
	for _, name := range victims {
		if v := in.View.Jobs[name]; v.Priority >= j.Priority || v.State != fsm.Running {
			c.s.fail("job %s, %s, of priority %d, makes way for %s of priority %d", name, v.State, v.Priority, j.Submitted.Job,
				j.Priority)
		}
		if !c.s.faults {
			c.owed[name] = j.Submitted.Job
		}
	}
}

// checkOwed wants whom others made way for to begin before they go on, unless a fault or an operator comes between: one
// who gives a drained worker back, say, while who is owed waits for those that have its memory.
func (c *checker) checkOwed(a *commandpb.AssignJob, after fsm.View) {
	by := c.owed[a.Job]
	delete(c.owed, a.Job)
	for victim, other := range c.owed {
		if other == a.Job {
			delete(c.owed, victim)
		}
	}
	if j := after.Jobs[by]; j != nil && (j.State == fsm.Queued || j.State == fsm.Recovering) {
		c.s.fail("job %s made way for %s, and goes on before it", a.Job, by)
	}
}

// checkPreempt wants a job that makes way to stop at a step boundary, and not at once.
func (c *checker) checkPreempt(p *commandpb.PreemptJob, after fsm.View) {
	if p != nil && after.Jobs[p.Job].State != fsm.Stopping {
		c.s.fail("job %s is to make way and is %s: it has to stop at a step boundary", p.Job, after.Jobs[p.Job].State)
	}
}
