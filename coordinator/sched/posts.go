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
	if p.ids.table == nil {
		p.ids = placesOf(p.in.View.Roll)
	}
	at := p.ids.of(id)
	return at, at >= 0 && p.posts[at].sound
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

// places is where workers are on a roll: a table by a sum of their ids, which is quicker for ten thousand than a map,
// and nothing to collect.
type places struct {
	roll  []fsm.Enrolled
	table []slot
}

type slot struct {
	sum uint32
	at  int32 // from 1; 0: nobody's
}

func placesOf(roll []fsm.Enrolled) places {
	size := 2
	for size < 2*len(roll) {
		size *= 2
	}
	p := places{roll: roll, table: make([]slot, size)}
	for i := range roll {
		sum := sumOf(roll[i].ID)
		k := sum & uint32(size-1)
		for p.table[k].at != 0 {
			k = (k + 1) & uint32(size-1)
		}
		p.table[k] = slot{sum, int32(i + 1)}
	}
	return p
}

// of is where a worker is; -1: nowhere.
func (p places) of(id string) int {
	sum, last := sumOf(id), uint32(len(p.table)-1)
	for k := sum & last; p.table[k].at != 0; k = (k + 1) & last {
		if at := int(p.table[k].at - 1); p.table[k].sum == sum && p.roll[at].ID == id {
			return at
		}
	}
	return -1
}

// sumOf spreads ids over a table.
func sumOf(id string) uint32 {
	sum := uint64(len(id))
	for len(id) >= 8 {
		sum = (sum ^ word(id)) * 0x9e3779b97f4a7c15
		sum ^= sum >> 29
		id = id[8:]
	}
	for i := range len(id) {
		sum = (sum ^ uint64(id[i])) * 0x9e3779b97f4a7c15
	}
	return uint32(sum >> 32)
}

// word is the first eight bytes of an id that has as many.
func word(id string) uint64 {
	_ = id[7]
	return uint64(id[0]) | uint64(id[1])<<8 | uint64(id[2])<<16 | uint64(id[3])<<24 | uint64(id[4])<<32 |
		uint64(id[5])<<40 | uint64(id[6])<<48 | uint64(id[7])<<56
}
