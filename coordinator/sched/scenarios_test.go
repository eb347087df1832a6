package sched

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The scenarios' leader begins at t0.
var t0 = time.Unix(1_000_000, 0)

func at(seconds float64) time.Time { return t0.Add(time.Duration(seconds * float64(time.Second))) }

// world is an Input under construction.
type world struct {
	Input
	Sessions map[string]Liveness           // by worker
	Holdings map[string]map[string]Holding // by worker and job
	Parts    map[string]PartProgress       // by worker
}

func newWorld() *world {
	rules := DefaultRules
	rules.Forget = 0 // but where it is what a scenario is about
	return &world{Input: Input{Leader: t0, Rules: rules,
		View: fsm.View{Workers: map[string]*commandpb.WorkerRecord{}, Jobs: map[string]*commandpb.JobRecord{}}},
		Sessions: map[string]Liveness{}, Holdings: map[string]map[string]Holding{},
		Parts: map[string]PartProgress{}}
}

// input is what the world comes to.
func (w *world) input() Input {
	in := w.Input
	in.View.Roll = fsm.RollOf(in.View)
	roll := map[string]string{}
	for _, e := range in.View.Roll {
		roll[e.ID] = e.ID
	}
	for _, id := range slices.Sorted(maps.Keys(w.Sessions)) {
		id = cmp.Or(roll[id], id) // its own string, as the leader's loop has it
		in.Sessions = append(in.Sessions, Session{id, w.Sessions[id], w.Holdings[id], w.Parts[id]})
	}
	return in
}

// of is what is known of a worker; nothing if it has no session.
func (s Sessions) of(worker string) Session {
	if x := s.Of(worker); x != nil {
		return *x
	}
	return Session{}
}

// worker adds a worker that registered when it was last heard of, and is connected.
func (w *world) worker(id, numerics string, registered float64) *world {
	w.View.Workers[id] = &commandpb.WorkerRecord{RegisteredUnixNs: at(registered).UnixNano(),
		Registered: &commandpb.RegisterWorker{
			Worker: id, Name: id, Device: &commandpb.Device{Numerics: numerics}}}
	w.Sessions[id] = Liveness{Connected: true, Heard: at(registered)}
	return w
}

// direct says under which numerics a worker runs jobs with `winograd: off`.
func (w *world) direct(id, numerics string) *world {
	w.View.Workers[id].Registered.Device.DirectNumerics = numerics
	return w
}

func (w *world) heard(id string, when float64) *world {
	w.Sessions[id] = Liveness{Connected: true, Heard: at(when)}
	return w
}

func (w *world) broken(id string, when float64) *world {
	w.Sessions[id] = Liveness{Broken: at(when)}
	return w
}

func (w *world) unheard(id string) *world {
	delete(w.Sessions, id)
	return w
}

func (w *world) lost(id string, when float64) *world {
	w.View.Workers[id].Lost, w.View.Workers[id].LostUnixNs = true, at(when).UnixNano()
	return w.unheard(id)
}

// job adds a job of some cells, two columns a replica where there are two or more, on workers in the order of cells.
func (w *world) job(name, state string, cells int32, since float64, workers ...string) *world {
	columns := min(cells, 2)
	j := &commandpb.JobRecord{State: state, StateUnixNs: at(since).UnixNano(), SubmittedUnixNs: int64(len(w.View.Jobs)),
		Submitted: &commandpb.SubmitJob{Job: name, Replicas: cells / columns, Columns: columns, Steps: 100, Keep: 3}}
	for i, id := range workers {
		j.Placement = append(j.Placement, &commandpb.Placement{Worker: id,
			Cell: &commandpb.Cell{Replica: int32(i) / columns, Column: int32(i) % columns}})
	}
	if state != fsm.Queued || len(workers) > 0 {
		j.Generation, j.Numerics = 1, "n0"
	}
	w.View.Jobs[name] = j
	return w
}

// checkpoints gives a job committed checkpoints; a negative step is a bad one.
func (w *world) checkpoints(name string, steps ...int) *world {
	for _, s := range steps {
		r := &commandpb.CheckpointRecord{Step: uint64(max(s, -s)), Committed: true}
		if s < 0 {
			r.Bad = "rot"
		}
		w.View.Jobs[name].Checkpoints = append(w.View.Jobs[name].Checkpoints, r)
	}
	return w
}

// files has the files of a job's checkpoint lie with workers, in the order of cells; each keeps its own.
func (w *world) files(name string, step uint64, workers ...string) *world {
	for _, r := range w.View.Jobs[name].Checkpoints {
		if r.Step == step {
			for _, id := range workers {
				r.Files = append(r.Files, &commandpb.CheckpointFile{Worker: id})
				if k := w.View.Workers[id]; k != nil {
					k.Registered.Checkpoints = "/" + id
				}
			}
		}
	}
	return w
}

// away is a job that recovers without the worker that has a file of its newest checkpoint.
func away(heard float64) *world {
	w := newWorld().worker("w0", "n0", 0).worker("w1", "n0", 0).worker("w2", "n0", 0).heard("w0", heard).heard("w1", heard)
	return w.lost("w2", 1).job("j", fsm.Recovering, 2, 1, "w0", "w2").checkpoints("j", 10, 20).files("j", 10, "w0", "w1").
		files("j", 20, "w0", "w2")
}

// forget has workers forgotten that have been lost for so many seconds.
func (w *world) forget(seconds float64) *world {
	w.Rules.Forget = time.Duration(seconds * float64(time.Second))
	return w
}

// askable says that workers can be asked.
func (w *world) askable(ids ...string) *world {
	for _, id := range ids {
		s := w.Sessions[id]
		s.Memory = true
		w.Sessions[id] = s
	}
	return w
}

// copies has a worker answer of job j that it hands over copies of a cell.
func (w *world) copies(id string, cell int32, steps ...uint64) *world {
	w.holds(id, cell, steps...)
	h := w.Holdings[id]["j"]
	h.Held[len(h.Held)-1].Copy = true
	w.Holdings[id]["j"] = h
	return w
}

// holds has a worker answer of job j that its host holds a cell, counted by replica and column, at some steps; a
// negative one is none.
func (w *world) holds(id string, cell int32, steps ...uint64) *world {
	w.askable(id)
	if w.Holdings[id] == nil {
		w.Holdings[id] = map[string]Holding{}
	}
	h := w.Holdings[id]["j"]
	j := w.View.Jobs["j"]
	h.Generation = j.Generation
	if cell >= 0 {
		h.Held = append(h.Held, Held{Replica: cell / j.Submitted.Columns, Column: cell % j.Submitted.Columns, Numerics: "n0",
			Steps: steps, Generation: 1})
	}
	w.Holdings[id]["j"] = h
	return w
}

func (w *world) generation(name string, generation uint64) *world {
	w.View.Jobs[name].Generation = generation
	return w
}

// memory says how the job's present generation began, and whether the next may go on from memory.
func (w *world) memory(step, tries uint64, avoid bool) *world {
	j := w.View.Jobs["j"]
	j.FromMemory, j.MemoryStep, j.MemoryTries, j.AvoidMemory = step > 0, step, tries, avoid
	return w
}

// drained is a job of two cells that runs on workers, of which w1 is drained.
func drained(heard float64, on ...string) *world {
	w := newWorld().worker("w0", "n0", 1).worker("w1", "n0", 1).heard("w0", heard).heard("w1", heard)
	w.View.Workers["w1"].Draining = true
	return w.job("j", fsm.Running, 2, 5, on...).checkpoints("j", 10)
}

// crowded is a job whose two cells share a worker although another one, which came at some time, is free.
func crowded(heard, came float64) *world {
	return newWorld().worker("w0", "n0", 1).worker("w1", "n0", came).heard("w0", heard).heard("w1", heard).
		job("j", fsm.Running, 2, 2, "w0", "w0")
}

// moves has job j be on its way to other workers: stopping, or stopped for it.
func (w *world) moves(state string) *world {
	w.View.Jobs["j"].State, w.View.Jobs["j"].Moving = state, state == fsm.Stopping
	return w
}

// stopping has job j stop because an operator wants it.
func stopping(w *world) *world {
	w.View.Jobs["j"].State = fsm.Stopping
	return w
}

// off says that a job has `winograd: off`, and what it began under.
func (w *world) off(name, numerics string) *world {
	w.View.Jobs[name].Submitted.Direct, w.View.Jobs[name].Numerics = true, numerics
	return w
}

func (w *world) resumeFrom(name string, step uint64) *world {
	w.View.Jobs[name].HasResumeStep, w.View.Jobs[name].ResumeStep = true, step
	return w
}

// text is a decision in words.
func text(d Decision) string {
	var b strings.Builder
	for _, a := range d.Actions {
		switch a := a.(type) {
		case Preempt:
			fmt.Fprintf(&b, "  preempt %s, generation %d, for %s\n", a.Job, a.Generation, a.By)
		case Move:
			fmt.Fprintf(&b, "  move %s, generation %d: %s\n", a.Job, a.Generation, a.Reason)
		case Lose:
			fmt.Fprintf(&b, "  lose %s: %s\n", a.Worker, a.Reason)
		case Forget:
			fmt.Fprintf(&b, "  forget %s\n", a.Worker)
		case EndEvaluation:
			fmt.Fprintf(&b, "  end evaluation %d: %s\n", a.Evaluation, a.Reason)
		case Give:
			fmt.Fprintf(&b, "  give part %d of evaluation %d to %s", a.Part, a.Evaluation, a.Worker)
			if a.From != "" {
				fmt.Fprintf(&b, ", from %s", a.From)
			}
			b.WriteString("\n")
		case Assign:
			from := "the start"
			switch {
			case a.FromMemory:
				from = fmt.Sprintf("step %d in memory", a.Memory)
			case a.HasRestore:
				from = fmt.Sprintf("step %d", a.Restore)
			}
			fmt.Fprintf(&b, "  assign %s, generation %d, from %s, under %s, %s:", a.Job, a.Generation, from, a.Numerics,
				a.Reason)
			for _, p := range a.Placement {
				fmt.Fprintf(&b, " r%dc%d on %s", p.Cell.Replica, p.Cell.Column, p.Worker)
			}
			b.WriteString("\n")
		}
	}
	for _, a := range d.Asks {
		fmt.Fprintf(&b, "  ask %s of %s, generation %d\n", a.Worker, a.Job, a.Generation)
	}
	for _, name := range []string{"a", "b", "c", "j"} {
		if r := d.Reasons[name]; r != "" {
			fmt.Fprintf(&b, "  %s: %s\n", name, r)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(d.Waits)) {
		fmt.Fprintf(&b, "  evaluation %d: %s\n", id, d.Waits[id])
	}
	if !d.Next.IsZero() {
		fmt.Fprintf(&b, "  again at %v\n", d.Next.Sub(t0))
	}
	return b.String()
}

// Every kind of decision there is, with its reason word for word: users read these.
func TestGoldenScenarios(t *testing.T) {
	two := func() *world { return newWorld().worker("w0", "n0", 1).worker("w1", "n0", 1) }
	// A job of two cells on w0 and w1, of which w1 has died, and a spare; the leader is older than a lease.
	died := func() *world {
		return two().worker("w2", "n0", 1).heard("w0", 8).heard("w2", 8).broken("w1", 8).
			job("j", fsm.Recovering, 2, 8, "w0", "w1").checkpoints("j", 10)
	}
	alone := func() *world {
		return two().heard("w0", 8).broken("w1", 8).job("j", fsm.Recovering, 2, 8, "w0", "w1").checkpoints("j", 10)
	}
	// A job of two cells that were both on w0, which is back, as are two others.
	both := func() *world {
		return two().worker("w2", "n0", 1).heard("w0", 8).heard("w1", 8).heard("w2", 8).
			job("j", fsm.Recovering, 2, 8, "w0", "w0").checkpoints("j", 10)
	}
	var b strings.Builder
	for _, s := range []struct {
		name string
		now  float64
		in   *world
	}{
		{"nothing to do", 1, newWorld()},
		{"no worker", 1, newWorld().job("j", fsm.Queued, 2, 0)},
		{"two workers for two cells", 1.5, two().job("j", fsm.Queued, 2, 1)},
		{"more workers than cells", 1.5, two().worker("w2", "n0", 1).job("j", fsm.Queued, 2, 1)},
		{"one worker: wait for another", 1.5, newWorld().worker("w0", "n0", 1).job("j", fsm.Queued, 2, 0)},
		{"one worker: wait no longer", 3, newWorld().worker("w0", "n0", 1).job("j", fsm.Queued, 2, 0)},
		{"one cell needs no second worker", 1, newWorld().worker("w0", "n0", 1).job("j", fsm.Queued, 1, 1)},
		{"four cells on three workers", 4, two().worker("w2", "n0", 1).heard("w0", 4).heard("w1", 4).heard("w2", 4).job("j",
			fsm.Queued, 4, 1)},
		{"a worker that starts over and over holds nobody up", 11, newWorld().worker("w0", "n0", 1).heard("w0",
			11).worker("w9", "n1", 10.5).
			job("j", fsm.Queued, 2, 0)},
		{"a clock that is ahead holds nobody up", 4, newWorld().worker("w0", "n0", 1).heard("w0", 4).worker("w9", "n1",
			3600).heard("w9", 4).
			job("j", fsm.Queued, 2, 3600)},
		{"a waiting job keeps its workers from a later one", 1.5, newWorld().worker("w0", "n0", 1).job("a", fsm.Queued, 2, 1).
			job("b", fsm.Queued, 1, 1)},
		{"the earlier job first", 1.5, two().job("a", fsm.Queued, 2, 1).job("b", fsm.Queued, 1, 1)},
		{"two jobs side by side", 1.5, two().job("a", fsm.Queued, 1, 1).job("b", fsm.Queued, 1, 1)},
		{"all workers are taken", 1.5, two().job("a", fsm.Running, 2, 1, "w0", "w1").job("b", fsm.Queued, 1, 1)},
		{"a stopping job still has its workers", 1.5, two().job("a", fsm.Stopping, 2, 1, "w0", "w1").job("b", fsm.Queued, 1,
			1)},
		{"a stopped job has none", 1.5, two().job("a", fsm.Stopped, 2, 1).job("b", fsm.Queued, 1, 1)},
		{"the numerics most workers have", 1.5, newWorld().worker("w0", "n1", 1).worker("w1", "n0", 1).worker("w2", "n0", 1).
			job("j", fsm.Queued, 2, 1)},
		{"as many of each: the first by name", 3.5, newWorld().worker("w0", "n1", 1).worker("w1", "n0", 1).heard("w0",
			3).heard("w1", 3).
			job("j", fsm.Queued, 2, 1)},
		{"no worker of the job's numerics", 1.5, newWorld().worker("w0", "n1", 1).job("j", fsm.Recovering, 2, 1, "w1", "w1")},
		{"winograd: off runs under the other numerics", 1.5, two().direct("w0", "d0").direct("w1", "d0").job("j", fsm.Queued,
			2, 1).off("j", "")},
		{"winograd: off, and one worker that cannot", 1.5, two().direct("w1", "d0").job("j", fsm.Queued, 1, 1).off("j", "")},
		{"winograd: off, and none that can", 1.5, two().job("j", fsm.Queued, 2, 1).off("j", "")},
		{"winograd: off, and the one that can has a job", 1.5, two().direct("w1", "d0").job("a", fsm.Running, 1, 1, "w1").
			job("j", fsm.Queued, 2, 1).off("j", "")},
		{"winograd: off, begun under numerics none has now", 1.5, two().direct("w0", "d0").direct("w1", "n0").
			job("j", fsm.Recovering, 2, 1, "w1", "w1").off("j", "d1")},
		{"winograd: off makes no difference", 1.5, two().direct("w0", "n0").direct("w1", "n0").job("j", fsm.Queued, 2, 1).
			off("j", "")},
		{"recovered where it was", 1.5, two().worker("w2", "n0", 1).job("j", fsm.Recovering, 2, 1, "w2",
			"w0").checkpoints("j", 10, 20)},
		{"recovered on the one that is left, and a spare", 1.5, two().worker("w2", "n0", 1).lost("w1", 1.2).
			job("j", fsm.Recovering, 2, 1.2, "w0", "w1").checkpoints("j", 10, 20)},
		{"files of the newest checkpoint away for now", 2, away(2)},
		{"files of the newest checkpoint away for long", 31, away(31)},
		{"files of the newest checkpoint away, but memory is as new", 2, away(2).holds("w0", 0, 21).holds("w1", 1, 21)},
		{"files of the newest checkpoint away, and memory is older", 31, away(31).holds("w0", 0, 15).holds("w1", 1, 15)},
		{"files of all checkpoints away for long", 31, away(31).files("j", 10, "w0", "w2")},
		{"files of the newest checkpoint back", 2, away(2).heard("w2", 1.9)},
		{"past a bad checkpoint", 1.5, two().job("j", fsm.Recovering, 2, 1, "w0", "w1").checkpoints("j", 10, -20)},
		{"from the start if all are bad", 1.5, two().job("j", fsm.Recovering, 2, 1, "w0", "w1").checkpoints("j", -10, -20)},
		{"from the step an operator named", 1.5, two().job("j", fsm.Queued, 2, 1, "w0", "w1").checkpoints("j",
			10).resumeFrom("j", 10)},
		{"the step an operator named is bad", 1.5, two().job("j", fsm.Queued, 2, 1, "w0", "w1").checkpoints("j", 5,
			-10).resumeFrom("j", 10)},
		{"from the start, as an operator wants", 1.5, two().job("j", fsm.Queued, 2, 1, "w0", "w1").resumeFrom("j", 0)},
		{"a broken session within its grace", 5.5, two().heard("w0", 5).broken("w1", 5).job("a", fsm.Running, 1, 1, "w1")},
		{"a broken session beyond it", 6, two().heard("w0", 5).broken("w1", 5).job("a", fsm.Running, 1, 1, "w1")},
		{"a silent worker", 6, two().heard("w0", 5).heard("w1", 3).job("a", fsm.Running, 1, 1, "w1")},
		{"a worker this leader has not heard of", 2.9, two().unheard("w1").job("j", fsm.Recovering, 2, 1, "w0", "w1")},
		{"a worker this leader never hears of", 3, two().unheard("w1").job("j", fsm.Recovering, 2, 1, "w0", "w1")},
		{"a session that broke before a new leader's lease is over", 2.9, two().broken("w1", 1)},
		{"two lost at once, and no placing until they are out", 7, two().broken("w0", 5).heard("w1", 1).worker("w2", "n0", 6).
			job("j", fsm.Queued, 1, 1)},
		{"jobs that have ended want nothing", 1.5, two().job("a", fsm.Done, 2, 1).job("b", fsm.Failed, 2, 1).job("c",
			fsm.Stopped, 2, 1)},
		{"workers are asked what they hold", 8.1, died().askable("w0", "w2")},
		{"one has answered", 8.1, died().askable("w2").holds("w0", 0, 17, 16)},
		{"all have: the one that is ahead steps back", 8.1, died().holds("w0", 0, 18, 17).holds("w2", 1, 17, 16)},
		{"one of old that cannot be asked is not waited for", 8.1, died().holds("w0", 0, 18, 17)},
		{"nobody holds the lost cell", 8.1, died().holds("w0", 0, 18, 17).holds("w2", -1)},
		{"memory is older than the checkpoint", 8.1, died().holds("w0", 0, 9, 8).holds("w2", 1, 9, 8)},
		{"an answer of an older generation counts for nothing", 8.1, died().holds("w0", 0, 18).holds("w2", 1, 18).
			generation("j", 2)},
		{"memory of before a checkpoint was gone back to", 8.1, died().generation("j", 2).holds("w0", 0, 18).
			holds("w2", 1, 18)},
		{"the cells move to whose hosts hold them", 8.1, died().holds("w0", 1, 17).holds("w2", 0, 17)},
		{"no answer in time", 11, died().heard("w0", 11).heard("w2", 11).askable("w2").holds("w0", 0, 18, 17)},
		{"memory that could not be used is not tried again", 8.1, died().holds("w0", 0, 18, 17).holds("w2", 1, 17).
			memory(17, 1, true)},
		{"from the same step a third time, and no fourth", 8.1, died().holds("w0", 0, 18, 17).holds("w2", 1, 17).
			memory(17, 3, false)},
		{"one worker is left, another may come", 8.1, alone().holds("w0", 0, 18, 17).holds("w0", 1, 17)},
		{"a cell makes room for one that can go nowhere else", 8.1, died().holds("w0", 0, 17, 16).holds("w0", 1, 17, 16).
			holds("w2", 0, 17)},
		{"a worker was lost a while ago", 9.9, two().heard("w0", 9).heard("w1", 9).worker("w2", "n0", 0).lost("w2", 5).
			forget(5)},
		{"a worker was lost long ago and is forgotten", 10, two().heard("w0", 9).heard("w1", 9).worker("w2", "n0", 0).
			lost("w2", 5).forget(5)},
		{"one that has a file of a job is not", 40, away(39).forget(5)},
		{"drained, and a spare", 20, drained(20, "w0", "w1").worker("w2", "n0", 1).heard("w2", 20)},
		{"drained, and the other one takes its cell", 20, drained(20, "w0", "w1")},
		{"drained, and nobody else", 20, drained(20, "w1", "w1").lost("w0", 2)},
		{"drained, and the spare has other numerics", 20, drained(20, "w1", "w1").lost("w0", 2).worker("w2", "n1", 1).
			heard("w2", 20)},
		{"drained, and the job has stopped to move", 20, drained(20, "w0", "w1").worker("w2", "n0", 1).heard("w2", 20).
			moves(fsm.Recovering)},
		{"drained, and the job is stopping to move: its spare is kept", 20, drained(20, "w0", "w1").worker("w2", "n0", 1).
			heard("w2", 20).moves(fsm.Stopping).job("b", fsm.Queued, 1, 19)},
		{"drained, and asked to stop", 20, stopping(drained(20, "w0", "w1")).worker("w2", "n0", 1).heard("w2", 20)},
		{"cells share a worker, another has just come", 20, crowded(20, 15)},
		{"cells share a worker, another came long ago", 20, crowded(20, 5)},
		{"cells share a worker, the job has run for a moment", 8, crowded(8, 1)},
		{"a job that has paused wants nothing", 20, two().heard("w0", 20).heard("w1", 20).job("a", fsm.Paused, 2, 1).
			job("j", fsm.Queued, 2, 1)},
		{"one worker is left and takes both", 8.5, alone().holds("w0", 0, 18, 17).holds("w0", 1, 17)},
		{"one had both, and is back: nothing is done again for others that are free", 8.1, both().holds("w0", 0, 17, 16).
			holds("w0", 1, 17, 16).holds("w1", -1).holds("w2", -1)},
		{"one had both, and there is a checkpoint of that step", 8.1, both().holds("w0", 0, 17, 16).holds("w0", 1, 17, 16).
			checkpoints("j", 17)},
		{"one had both, and another has one of them too", 8.1, both().holds("w0", 0, 17, 16).holds("w0", 1, 17, 16).
			holds("w2", 0, 16)},
		{"one had both, and another has one of them of that step", 8.1, both().holds("w0", 0, 17, 16).
			holds("w0", 1, 17, 16).holds("w2", 0, 17)},
		{"one had both, another has a copy of one", 8.1, both().holds("w0", 0, 17, 16).holds("w0", 1, 17, 16).
			copies("w2", 1, 17)},
		{"three of four are with one", 8.6, both().job("j", fsm.Recovering, 4, 8, "w0", "w0", "w0", "w1").
			holds("w0", 0, 17).holds("w0", 1, 17).holds("w0", 2, 17).holds("w1", 3, 17).holds("w2", -1)},
		{"parts for those that are free", 20, tested(20, "w0", "w1", "w2").evaluation(7, 2)},
		{"a part each, and one of another evaluation", 20, tested(20, "w0", "w1").evaluation(7, 1).evaluation(8, 2)},
		{"parts are under way, there is one more", 20, tested(20, "w0", "w1").evaluation(7, 3, "w0").evaluation(8, 1)},
		{"those behind are given too, but not again", 20, tested(20, "w0", "w1", "w2").evaluation(7, 4, "w0", "w1")},
		{"all parts are under way", 20, tested(20, "w0", "w1").evaluation(7, 2, "w0", "w1")},
		{"no worker takes parts", 20, two().heard("w0", 20).heard("w1", 20).job("j", fsm.Done, 2, 1).evaluation(7, 2)},
		{"no worker at all", 20, newWorld().job("j", fsm.Done, 2, 1).evaluation(7, 2)},
		{"whoever trains is left alone", 20, tested(20, "w0", "w1").job("a", fsm.Running, 2, 1, "w0", "w1").evaluation(7, 2)},
		{"whoever trains, as the operator wants", 20, tested(20, "w0", "w1").job("a", fsm.Running, 1, 1, "w0").
			evaluation(7, 3).busy(7)},
		{"a job that is placed comes first", 20, tested(20, "w0", "w1").job("a", fsm.Queued, 2, 1).evaluation(7, 2)},
		{"workers that are kept for a job are not free", 20, tested(20, "w0").job("a", fsm.Queued, 2, 19.5).evaluation(7, 2)},
		{"a worker of other numerics", 20, tested(20).worker("w0", "n1", 1).heard("w0", 20).evaluates("w0").evaluation(7, 2)},
		{"winograd: off is tested under the other numerics", 20, tested(20, "w0", "w1").direct("w1", "n0").
			off("j", "n0").evaluation(7, 2)},
		{"files lie with a worker that is away", 20, tested(20, "w0").evaluation(7, 2).testedFiles(7, "w1")},
		{"files lie with a worker that is there", 20, tested(20, "w0").worker("w9", "n1", 1).heard("w9", 20).
			evaluation(7, 2).testedFiles(7, "w9")},
		{"a part gets no further", 100, tested(100, "w0", "w1").evaluation(7, 1, "w0").at("w0", 7, 39, true)},
		{"a part gets no further, and nobody else is free", 100, tested(100, "w0").evaluation(7, 1, "w0").
			at("w0", 7, 39, true)},
		{"a part got further a moment ago", 100, tested(100, "w0", "w1").evaluation(7, 1, "w0").at("w0", 7, 90, true)},
		{"getting ready takes longer", 100, tested(100, "w0", "w1").evaluation(7, 1, "w0").at("w0", 7, 39, false)},
		{"nothing is heard of a part that was given", 100, tested(100, "w0", "w1").evaluation(7, 1, "w0")},
		{"who did not get on is given no other part", 100, tested(100, "w0").evaluation(7, 2).avoids(7, "w0")},
		{"a part has failed just now", 20.5, tested(20, "w0", "w1").evaluation(7, 2).failed(7, 2, 19, "w0")},
		{"a part has failed a while ago: rather on another", 22, tested(22, "w0", "w1").evaluation(7, 1).
			failed(7, 2, 19, "w0")},
		{"a part has failed, and there is no other worker", 22, tested(22, "w0").evaluation(7, 1).failed(7, 2, 19, "w0")},
		{"a drained worker gets no part", 20, func() *world {
			w := tested(20, "w0", "w1").evaluation(7, 2)
			w.View.Workers["w0"].Draining = true
			return w
		}()},
		{"the job that is tested is gone", 20, func() *world {
			w := tested(20, "w0", "w1").evaluation(7, 2)
			delete(w.View.Jobs, "j")
			return w
		}()},
	} {
		fmt.Fprintf(&b, "%s, at %v\n%s\n", s.name, at(s.now).Sub(t0), text(Decide(at(s.now), s.in.input())))
	}
	golden(t, "scenarios.txt", b.String())
}

// golden holds scenarios against a file.
func golden(t *testing.T, file, got string) {
	t.Helper()
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	g, w := strings.Split(got, "\n\n"), strings.Split(string(want), "\n\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Fatalf("scenario %d differs from %s (%d scenarios, %d there):\n%s", i, path, len(g), len(w),
				strings.Join(g[i:min(i+1, len(g))], ""))
		}
	}
}
