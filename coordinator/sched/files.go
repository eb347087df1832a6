package sched

import (
	"fmt"
	"slices"
	"strings"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// goOn chooses what a job goes on from, and where: the newest step that it can have now, in memory or in a checkpoint
// whose files are within reach. If there is a newer checkpoint, whose files lie with workers that are away, it waits
// for them for a while: they are not lost, and nor is the checkpoint when an older one is taken in the end.
func (p *pool) goOn(j *commandpb.JobRecord, workers []*candidate, a *Assign, d *Decision) (used []*candidate,
	memory, waits string) {
	good := fsm.Usable(j)
	if j.HasResumeStep && j.ResumeStep == 0 {
		good = nil
	}
	away := ""
	for i := len(good); ; i-- {
		a.Restore, a.HasRestore, a.Memory, a.FromMemory = 0, false, 0, false
		if i > 0 {
			a.Restore, a.HasRestore = good[i-1].Step, true
		}
		used, memory = remember(p.in, j, workers, a.Numerics, a)
		if i == 0 || a.FromMemory {
			break
		}
		missing := p.away(j, good[i-1], a.Placement)
		if missing == "" {
			break
		}
		if away == "" {
			away = fmt.Sprintf("the checkpoint of step %d: its files lie with %s", good[i-1].Step, missing)
		}
	}
	if away == "" && j.Parent != nil && !a.HasRestore && !a.FromMemory {
		return nil, "", fmt.Sprintf("waits for the checkpoint of step %d of %s, which it begins with and which cannot be "+
			"used; delete it, and fork another step: coordinator checkpoint list %s", j.Parent.Step, j.Parent.Job, j.Parent.Job)
	}
	if away == "" {
		return used, memory, ""
	}
	if j.Parent != nil && !a.HasRestore && !a.FromMemory {
		return nil, "", fmt.Sprintf("waits for %s, away now; start what is missing again", away)
	}
	if until := p.past(p.in.Leader, j.StateUnixNs).Add(p.in.Rules.Files); p.now.Before(until) {
		d.wakeAt(until)
		return nil, "", fmt.Sprintf("waits up to %v for %s, away now; start what is missing again", p.in.Rules.Files, away)
	}
	return used, memory + "; without " + away + ", away", ""
}

// away names the workers that have files of a checkpoint which nobody can get at now; empty: there are none. Workers
// that keep checkpoints at the same path are taken to share them, until the job has failed.
func (p *pool) away(j *commandpb.JobRecord, r *commandpb.CheckpointRecord, placed []*commandpb.Placement) string {
	var names []string
	for i, f := range r.Files { // in the order of the cells, like placements
		if p.in.Sessions.connected(f.Worker) || i < len(placed) && placed[i].Worker == f.Worker {
			continue
		}
		name := f.Worker
		if w := p.in.View.Workers[f.Worker]; w != nil {
			name = w.Registered.Name
			if i < len(placed) && j.Failures == 0 {
				if at := p.in.View.Workers[placed[i].Worker]; at != nil && at.Registered.Checkpoints == w.Registered.Checkpoints {
					continue
				}
			}
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, " and ")
}
