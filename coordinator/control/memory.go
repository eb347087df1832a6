package control

import (
	"cmp"
	"maps"
	"slices"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

// memories is what a session knows of what the worker's host holds of jobs in memory; under c.mu. It is the session's
// own: a worker that reconnects, or another leader, asks anew.
type memories struct {
	memory  bool                     // the worker can be asked
	asked   map[string]uint64        // by job: the newest generation that it was asked about
	answers map[string]sched.Holding // by job
	holds   map[string]bool          // jobs of which the host may hold something
	forgot  map[string]uint64        // by job: older generations than this one it has been told to forget
	buddies map[string]buddies       // by job: who was last said to keep copies of its cells
}

// buddies are who keeps copies of a worker's cells in a generation.
type buddies struct {
	generation uint64
	workers    []string
}

func newMemories(can bool) memories {
	return memories{memory: can, asked: map[string]uint64{}, answers: map[string]sched.Holding{}, holds: map[string]bool{},
		forgot: map[string]uint64{}, buddies: map[string]buddies{}}
}

// note keeps what a worker says. c.mu is held.
func (s *Session) note(h *clusterpb.Holdings) {
	for _, held := range h.Held {
		s.c.roster.hold(s, held.Job)
	}
	if h.Job == "" {
		return
	}
	s.c.roster.hold(s, h.Job)
	answer := sched.Holding{Generation: h.Generation}
	for _, held := range h.Held {
		if held.Job == h.Job && held.Generation <= h.Generation {
			answer.Held = append(answer.Held, sched.Held{Replica: held.Cell.GetReplica(), Column: held.Cell.GetColumn(),
				Generation: held.Generation, Steps: held.Steps, Numerics: held.Numerics,
				Copy: held.Copy})
		}
	}
	s.answers = maps.Clone(s.answers) // a decision may be at what was
	s.answers[h.Job] = answer
}

// ask puts questions to workers, each once.
func (c *Control) ask(asks []sched.Ask) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range asks {
		s := c.sessions[a.Worker]
		if s == nil || s.asked[a.Job] == a.Generation {
			continue
		}
		s.asked[a.Job] = a.Generation
		s.send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Ask{
			Ask: &clusterpb.Ask{Job: a.Job, Generation: a.Generation}}})
	}
}

// forgetEnded has a worker's host give up what no generation will go on from: all of jobs that have ended, that have to
// wait in the queue, or that this cluster does not know; and of a job that runs elsewhere what is older than a
// checkpoint of the generation that runs. c.mu is held.
func (s *Session) forgetEnded(view fsm.View, id string) {
	for _, name := range slices.Sorted(maps.Keys(s.holds)) {
		j := view.Jobs[name]
		below, forget := uint64(0), true
		switch {
		case j == nil:
		case fsm.Ended(j.State) || j.State == fsm.Queued:
		default:
			below = j.Generation
			forget = (j.State == fsm.Running || j.State == fsm.Stopping) && len(cellsOn(j, id)) == 0 && kept(j)
		}
		if !forget || (below > 0 && s.forgot[name] >= below) {
			continue
		}
		s.send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Forget{
			Forget: &clusterpb.Forget{Job: name, Below: below}}})
		// What it holds of the generation that runs, copies for others, stays until the end.
		if s.forgot[name] = below; below == 0 {
			s.c.roster.unhold(s, name)
			delete(s.forgot, name)
		}
	}
}

// tellBuddies says to a worker who keeps copies of its cells of a job, if that is new. c.mu is held.
func (s *Session) tellBuddies(view fsm.View, j *commandpb.JobRecord, c *Control) {
	name, now := j.Submitted.Job, buddies{j.Generation, c.roster.ringNow(view, c.sessions).After(s.worker)}
	was, told := s.buddies[name]
	if !s.memory || (!told || was.generation != now.generation) && len(now.workers) == 0 ||
		was.generation == now.generation && slices.Equal(was.workers, now.workers) {
		return
	}
	s.buddies[name] = now
	m := &clusterpb.Buddies{Job: name, Generation: j.Generation}
	for _, id := range now.workers {
		m.Workers = append(m.Workers, &clusterpb.Buddy{Worker: id, Address: view.Workers[id].Registered.Address})
		if other := c.sessions[id]; other != nil { // it has to be told when nobody needs them any more
			c.roster.hold(other, name)
		}
	}
	s.send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Buddies{Buddies: m}})
}

// kept says whether the generation that runs has a checkpoint.
func kept(j *commandpb.JobRecord) bool {
	return slices.ContainsFunc(fsm.Usable(j), func(r *commandpb.CheckpointRecord) bool {
		return r.Generation == j.Generation
	})
}

// goOn says in an assignment what is gone on from in memory, and what is owed of that step. Nothing about the step is
// written down in this generation before all of its cells have begun, so all are told the same.
func goOn(a *clusterpb.Assign, j *commandpb.JobRecord) {
	if !j.FromMemory {
		return
	}
	a.FromMemory, a.MemoryStep, a.MemorySince = true, j.MemoryStep, fsm.MemorySince(j)
	a.OwesCheckpoint = !slices.ContainsFunc(fsm.Usable(j), func(r *commandpb.CheckpointRecord) bool {
		return r.Step == j.MemoryStep
	})
	_, found := slices.BinarySearchFunc(j.Evaluations, j.MemoryStep, func(e *commandpb.RecordEvaluation, s uint64) int {
		return cmp.Compare(e.Step, s)
	})
	a.OwesEvaluation = !found
}

// buddiesOf are the workers that were last said to keep copies of a worker's cells, the first that takes them, of all
// its jobs. c.mu is held.
func (c *Control) buddiesOf(view fsm.View, id string) (ids []string) {
	s := c.sessions[id]
	if s == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.buddies)) {
		j := view.Jobs[name]
		if j == nil || j.Generation != s.buddies[name].generation || len(cellsOn(j, id)) == 0 {
			continue
		}
		for _, b := range s.buddies[name].workers {
			if !slices.Contains(ids, b) {
				ids = append(ids, b)
			}
		}
	}
	return ids
}
