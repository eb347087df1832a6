package control

import (
	"fmt"
	"strings"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

// mostPeers is how many workers are named to one that may lack a pack.
const mostPeers = 32

// peers are workers that are there and may have a job's packs: those with cells of it first, in the order of the
// cells, and then others by id. Which of them has a pack, who lacks it finds out by asking. c.mu is held.
func (c *Control) peers(view fsm.View, j *commandpb.JobRecord) (out []*clusterpb.Peer) {
	named := map[string]bool{}
	add := func(id string) {
		w := view.Workers[id]
		if named[id] || len(out) >= mostPeers || w == nil || w.Lost || c.sessions[id] == nil {
			return
		}
		named[id] = true
		out = append(out, &clusterpb.Peer{Worker: id, Name: w.Registered.Name, Address: w.Registered.Address})
	}
	for _, p := range j.Placement {
		add(p.Worker)
	}
	for _, s := range c.roster.inOrder {
		if len(out) >= mostPeers {
			break
		}
		add(s.worker)
	}
	return out
}

// fetching says in words which workers fetch a pack before their cells can begin: a worker's cells all say the same.
func fetching(j *clusterpb.Job) string {
	var words []string
	said := map[string]bool{}
	for _, s := range j.Cells {
		rest, ok := strings.CutPrefix(s.Phase, "fetch pack ")
		if !ok {
			continue
		}
		for _, p := range j.Placement {
			if !said[p.WorkerName] && s.Cell.GetReplica() == p.Cell.GetReplica() && s.Cell.GetColumn() == p.Cell.GetColumn() {
				words, said[p.WorkerName] = append(words, fmt.Sprintf("worker %s fetches pack %s", p.WorkerName, rest)), true
			}
		}
	}
	return strings.Join(words, "; ")
}
