package sched

import (
	"slices"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// post is a worker on the roll, as far as a decision knows it. It has no pointers: there are ten thousand.
type post struct {
	session int32 // its place among the sessions, from 1; 0: it has none
	sound   bool  // cells may be placed there
}

// glance is what a look at a roll says.
type glance struct {
	free   int  // workers without cells
	shares bool // some worker has cells that share it
}

func look(roll []fsm.Enrolled) (g glance) {
	for i := range roll {
		switch n := roll[i].Cells; {
		case n == 0:
			g.free++
		case n > 1:
			g.shares = true
		}
	}
	return g
}

// staffed are the jobs that have workers, in the order of the queue.
func (p *pool) staffed() []*commandpb.JobRecord {
	if p.staff == nil {
		p.staff = make([]*commandpb.JobRecord, 0, len(p.in.View.Jobs))
		for _, j := range p.in.View.Jobs {
			if manned(j) {
				p.staff = append(p.staff, j)
			}
		}
		inOrder(p.staff)
	}
	return p.staff
}

// soundAt is where a worker is on the roll, if cells may be placed on it, whether others have it or not.
func (p *pool) soundAt(id string) (int, bool) {
	if p.places == nil {
		p.places = placesOf(p.in.View.Roll)
	}
	at, there := p.places[id]
	return int(at), there && p.posts[at].sound
}

// crewOf are the workers of a job that another could be given, in order of id.
func (p *pool) crewOf(j *commandpb.JobRecord) []candidate {
	on := make([]int, 0, len(j.Placement))
	for _, place := range j.Placement {
		if at, sound := p.soundAt(place.Worker); sound {
			on = append(on, at)
		}
	}
	slices.Sort(on)
	on = slices.Compact(on)
	out := make([]candidate, 0, len(on))
	for _, at := range on {
		out = append(out, p.candidate(&p.in.View.Roll[at], &p.in.Sessions[p.posts[at].session-1]))
	}
	return out
}

// placesOf says where workers are on a roll, by id.
func placesOf(roll []fsm.Enrolled) map[string]int32 {
	places := make(map[string]int32, len(roll))
	for i := range roll {
		places[roll[i].ID] = int32(i)
	}
	return places
}
