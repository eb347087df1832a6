package fsm

import (
	"cmp"
	"maps"
	"slices"

	"colonnade/proto/commandpb"
)

// Enrolled is a worker and its id. Beside the record is what a decision looks at in every one of ten thousand workers:
// following pointers to it would take most of its time.
type Enrolled struct {
	ID                           string
	Record                       *commandpb.WorkerRecord
	Numerics, DirectNumerics     string
	RegisteredUnixNs, LostUnixNs int64
	Lost, Hung, Draining         bool
	Cells                        int32 // that jobs which run or stop have there
}

// spellings are numerics as entries on a roll have them: one string for all that are alike is quick to compare.
type spellings []string

func (all *spellings) of(numerics string) string {
	at := slices.Index(*all, numerics) // there are few
	if at < 0 {
		*all = append(*all, numerics)
		return numerics
	}
	return (*all)[at]
}

// enroll is what a roll has of a worker.
func (all *spellings) enroll(id string, w *commandpb.WorkerRecord) Enrolled {
	device := w.GetRegistered().GetDevice()
	return Enrolled{ID: id, Record: w, Numerics: all.of(device.GetNumerics()),
		DirectNumerics: all.of(device.GetDirectNumerics()), RegisteredUnixNs: w.RegisteredUnixNs,
		LostUnixNs: w.LostUnixNs, Lost: w.Lost, Hung: w.Hung, Draining: w.Draining}
}

// Enrolled are a view's workers in order of id: its roll, or, of a view that was made by hand, what it should be.
func (v View) Enrolled() []Enrolled {
	if len(v.Roll) == len(v.Workers) {
		return v.Roll
	}
	return RollOf(v)
}

// RollOf makes a view's roll anew.
func RollOf(v View) []Enrolled {
	roll := make([]Enrolled, 0, len(v.Workers))
	var numerics spellings
	for id, w := range v.Workers {
		roll = append(roll, numerics.enroll(id, w))
	}
	slices.SortFunc(roll, func(a, b Enrolled) int { return cmp.Compare(a.ID, b.ID) })
	for _, j := range v.Jobs {
		for _, p := range placed(j) {
			if at, there := enrolled(roll, p.Worker); there {
				roll[at].Cells++
			}
		}
	}
	return roll
}

// enrolled is a worker's place on a roll, or where it would be.
func enrolled(roll []Enrolled, id string) (int, bool) {
	return slices.BinarySearchFunc(roll, id, func(e Enrolled, id string) int { return cmp.Compare(e.ID, id) })
}

// placed are the cells that a job has on workers; none unless it runs or stops.
func placed(j *commandpb.JobRecord) []*commandpb.Placement {
	if j.GetState() != Running && j.GetState() != Stopping {
		return nil
	}
	return j.Placement
}

// keepWorker puts a worker's record in its place.
func (s *State) keepWorker(id string, w *commandpb.WorkerRecord) {
	s.ownWorkers()
	s.v.Workers[id] = w
	at, there := enrolled(s.v.Roll, id)
	if !there {
		s.v.Roll = slices.Insert(s.v.Roll, at, Enrolled{ID: id})
		for _, on := range s.seated { // nobody new has cells, but in a state that was damaged
			for _, p := range on {
				if p.Worker == id {
					s.v.Roll[at].Cells++
				}
			}
		}
	}
	cells := s.v.Roll[at].Cells
	s.v.Roll[at] = s.numerics.enroll(s.v.Roll[at].ID, w)
	s.v.Roll[at].Cells = cells
}

// dropWorker takes a worker's record out.
func (s *State) dropWorker(id string) {
	s.ownWorkers()
	delete(s.v.Workers, id)
	if at, there := enrolled(s.v.Roll, id); there {
		s.v.Roll = slices.Delete(s.v.Roll, at, at+1)
	}
}

// ownWorkers makes what holds the workers' records the state's own, to be changed.
func (s *State) ownWorkers() {
	if s.workersShared {
		s.v.Workers, s.workersShared = maps.Clone(s.v.Workers), false
	}
	s.ownRoll()
}

func (s *State) ownRoll() {
	if s.rollShared {
		s.v.Roll, s.rollShared = slices.Clone(s.v.Roll), false
	}
}

// seat has the roll say where a job's cells are now; nil: the job is gone.
func (s *State) seat(job string, j *commandpb.JobRecord) {
	was, now := s.seated[job], placed(j)
	if slices.Equal(was, now) {
		return
	}
	s.ownRoll()
	for _, p := range was {
		if at, there := enrolled(s.v.Roll, p.Worker); there {
			s.v.Roll[at].Cells--
		}
	}
	for _, p := range now {
		if at, there := enrolled(s.v.Roll, p.Worker); there {
			s.v.Roll[at].Cells++
		}
	}
	if s.seated[job] = now; len(now) == 0 {
		delete(s.seated, job)
	}
}
