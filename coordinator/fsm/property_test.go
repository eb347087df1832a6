package fsm

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"colonnade/proto/commandpb"
)

// drawCommands draws a command that has a fair chance to take effect on a state, and a fair chance not to, or the same
// of every cell of a job.
func drawCommands(t *rapid.T, v View) []*commandpb.Command {
	job := rapid.SampledFrom([]string{"j0", "j1"}).Draw(t, "job")
	worker := rapid.SampledFrom([]string{"w0", "w1", "w2"}).Draw(t, "worker")
	j := v.Jobs[job]
	if j == nil {
		j = &commandpb.JobRecord{Submitted: submit(job, 1, 2, 6, 2).GetSubmitJob()}
	}
	generation := j.Generation
	if rarely(t, "another generation") {
		generation += uint64(rapid.IntRange(-2, 2).Draw(t, "by"))
	}
	step := rapid.Uint64Range(1, 6).Draw(t, "step")
	c := cell(rapid.Int32Range(0, j.Submitted.Replicas-1).Draw(t, "replica"), rapid.Int32Range(0, 1).Draw(t, "column"))
	if rarely(t, "out of range") {
		c.Column, step = 2, 7
	}
	every := func(one func(*commandpb.Cell) *commandpb.Command) (out []*commandpb.Command) {
		for i := range cells(j) {
			out = append(out, one(cell(int32(i)/j.Submitted.Columns, int32(i)%j.Submitted.Columns)))
		}
		return out
	}
	kind := rapid.SampledFrom(kinds).Draw(t, "kind")
	switch kind {
	case "all written":
		return every(func(c *commandpb.Cell) *commandpb.Command { return written(job, generation, step, c) })
	case "all finished":
		return every(func(c *commandpb.Cell) *commandpb.Command { return finished(job, generation, 6, c) })
	case "preempted":
		stops := every(func(c *commandpb.Cell) *commandpb.Command { return stopped(job, generation, step, c) })
		return slices.Concat([]*commandpb.Command{high("j9", 3), preempt(job, generation, "j9")}, stops)
	case "all stopped":
		return every(func(c *commandpb.Cell) *commandpb.Command { return stopped(job, generation, step, c) })
	}
	return []*commandpb.Command{drawCommand(t, v, j, kind, worker, generation, step, c)}
}

// rarely is true once in a dozen; rapid draws small numbers more often.
func rarely(t *rapid.T, what string) bool { return rapid.IntRange(0, 11).Draw(t, what) == 7 }

func drawCommand(t *rapid.T, v View, j *commandpb.JobRecord, kind, worker string, generation, step uint64,
	c *commandpb.Cell) *commandpb.Command {
	job := j.Submitted.Job
	switch kind {
	case "init":
		return initCluster(rapid.SampledFrom([]string{"c", "d"}).Draw(t, "cluster"))
	case "register":
		return register(worker, rapid.SampledFrom([]string{"a", "a", "a", "b"}).Draw(t, "incarnation"))
	case "lose":
		return lose(worker, "silent")
	case "submit":
		return submit(job, rapid.Int32Range(0, 2).Draw(t, "replicas"), 2, 6, rapid.Uint64Range(0, 3).Draw(t, "keep"))
	case "assign":
		return drawAssign(t, v, j, generation)
	case "release":
		return release(job, generation, "failed")
	case "pause", "pin", "delete", "delete job", "fork", "preempt", "queue":
		return drawOperation(t, j, kind, step)
	case "stop":
		return stop(job, rapid.Bool().Draw(t, "now"))
	case "resume":
		return resume(job, rapid.IntRange(-1, 6).Draw(t, "from"))
	case "written":
		return written(job, generation, step, c)
	case "bad":
		return with(bad(job, step, "rot"), (*commandpb.Command).GetMarkCheckpointBad,
			func(m *commandpb.MarkCheckpointBad) {
				m.Generation = rapid.Uint64Range(0, generation).Draw(t, "found by")
			})
	case "forget":
		return forgotten(worker)
	case "test":
		return drawTest(t, v, job, worker)
	case "drop":
		return drop(job, rapid.SliceOfN(rapid.Uint64Range(1, 6), 0, 3).Draw(t, "steps")...)
	case "evaluation":
		return evaluation(job, generation, step, 10)
	case "finished":
		return finished(job, generation, 6, c)
	case "stopped":
		return stopped(job, generation, step, c)
	case "drain":
		return drain(worker, rapid.Bool().Draw(t, "undo"))
	case "move":
		return moves(job, generation)
	case "veto":
		v := veto(job, generation, step, c)
		v.GetVetoStep().Skip = rapid.Bool().Draw(t, "skip")
		if rapid.Bool().Draw(t, "not finite") {
			v.GetVetoStep().Cause = "loss-not-finite"
		}
		return v
	case "decide":
		r := resume(job, rapid.IntRange(-1, 1).Draw(t, "from"))
		r.GetResumeJob().SkipBatch = rapid.Bool().Draw(t, "skip")
		r.GetResumeJob().AcceptBatch = !r.GetResumeJob().SkipBatch || rarely(t, "both")
		return r
	case "fail":
		return failJob(job, generation, "cannot")
	}
	return event("note")
}

// drawOperation draws a command of an operator who clears up or forks.
func drawOperation(t *rapid.T, j *commandpb.JobRecord, kind string, step uint64) *commandpb.Command {
	job := j.Submitted.Job
	switch kind {
	case "pause":
		return pause(job)
	case "pin":
		return pin(job, step, rapid.Bool().Draw(t, "undo"))
	case "delete":
		return deleteCheckpoint(job, step)
	case "delete job":
		return deleteJob(job)
	case "preempt":
		return preempt(job, j.Generation, rapid.SampledFrom([]string{"j0", "j1", "j2"}).Draw(t, "by"))
	case "queue":
		return setQueue(job, rapid.Int32Range(0, 2).Draw(t, "priority"), rapid.Uint32Range(0, 3).Draw(t, "most"),
			rapid.Uint32Range(0, 3).Draw(t, "least"))
	}
	name := rapid.SampledFrom([]string{"j0", "j1", "j2", "j3"}).Draw(t, "heir")
	if good := Usable(j); len(good) > 0 {
		step = rapid.SampledFrom(good).Draw(t, "from").Step
	}
	return forked(submit(name, j.Submitted.Replicas, j.Submitted.Columns, 6, 1), job, step)
}

// drawTest draws a command of an evaluation, mostly of the last one.
func drawTest(t *rapid.T, v View, job, worker string) *commandpb.Command {
	what := rapid.IntRange(0, 4).Draw(t, "of an evaluation")
	if len(v.Evaluations) == 0 || what == 0 {
		return evaluate(job, 25)
	}
	r := v.Evaluations[len(v.Evaluations)-1]
	part := rapid.Uint32Range(0, 2).Draw(t, "part")
	switch {
	case what == 1 && rarely(t, "ends"):
		return endEvaluation(r.Id, rapid.Bool().Draw(t, "failed"))
	case what > 2 && len(r.Given) > 0:
		_, images := PartOf(r, r.Given[0].Part)
		return evaluated(r.Id, r.Given[0].Generation, sumOf(r.Given[0].Part, images))
	}
	return give(r.Id, part, worker, "")
}

// kinds are drawn in these proportions.
var kinds = slices.Concat(slices.Repeat([]string{"assign"}, 10), slices.Repeat([]string{"all written"}, 6),
	slices.Repeat([]string{"preempted", "written", "finished", "register", "resume", "veto"}, 2), []string{"init", "lose",
		"submit", "release", "stop", "drain", "move", "forget", "veto", "decide",
		"pause", "pin", "delete", "delete job", "fork", "fork", "preempt", "preempt", "queue", "queue",
		"test", "test", "test",
		"bad", "drop", "evaluation", "all finished", "stopped", "all stopped", "fail", "event"})

// drawAssign draws a generation that would be right if its workers are there, and then sometimes spoils it.
func drawAssign(t *rapid.T, v View, j *commandpb.JobRecord, generation uint64) *commandpb.Command {
	restore := -1
	if good := Usable(j); len(good) > 0 {
		restore = int(rapid.SampledFrom(good).Draw(t, "good").Step)
	}
	present := slices.DeleteFunc(slices.Sorted(maps.Keys(v.Workers)), func(id string) bool { return v.Workers[id].Lost })
	workers := make([]string, cells(j))
	for i := range workers {
		workers[i] = "w0"
		if len(present) > 0 {
			workers[i] = rapid.SampledFrom(present).Draw(t, "on")
		}
	}
	c := assign(j.Submitted.Job, generation+1, restore, place(j.Submitted.Columns, workers...)...)
	a := c.GetAssignJob()
	if !rarely(t, "spoil") {
		return c
	}
	switch rapid.IntRange(0, 4).Draw(t, "how") {
	case 0:
		a.Placement = a.Placement[1:]
	case 1:
		a.Placement[0].Cell = a.Placement[len(a.Placement)-1].Cell
	case 2:
		a.Placement[0].Worker = rapid.SampledFrom([]string{"w0", "w1", "w2", "w9"}).Draw(t, "anywhere")
	case 3:
		a.RestoreStep, a.HasRestore = 5, true
	case 4:
		a.Numerics = "n1"
	}
	return c
}

// TestProperties applies random commands and holds every step against rules that are written here anew.
func TestProperties(t *testing.T) {
	seen := map[string]int{} // how often rules were put to the test
	rapid.Check(t, func(t *rapid.T) {
		l, twin := &tlog{t: t, State: New()}, &tlog{t: t, State: New()}
		var kept []keptView
		dones := map[string][]byte{}
		run := func(c *commandpb.Command) {
			if rapid.IntRange(0, 3).Draw(t, "keep a view") == 3 && len(kept) < 12 {
				kept = append(kept, keptView{l.View(), encodeT(t, l.View())})
			}
			if rapid.IntRange(0, 7).Draw(t, "restore") == 7 {
				twin.State = decodeT(t, encodeT(t, twin.View()))
			}
			refused := both(t, l, twin, c, seen)
			seen[fmt.Sprintf("%T %t", c.Kind, refused == nil)]++
			for _, k := range kept {
				if !bytes.Equal(encodeT(t, k.view), k.bytes) {
					t.Fatalf("entry %d, %v has changed a view of index %d", l.index, c, k.view.Index)
				}
			}
			checkState(t, l.View(), dones)
			for _, j := range l.View().Jobs {
				seen["job "+j.State]++
			}
		}
		for _, c := range begun(t) {
			run(c)
		}
		for range rapid.IntRange(10, 100).Draw(t, "length") {
			for _, c := range drawCommands(t, l.View()) {
				run(c)
			}
		}
	})
	for _, state := range []string{Queued, Running, Recovering, Stopping, Stopped, Paused, Done, Failed} {
		if seen["job "+state] == 0 {
			t.Errorf("no job has ever been %s: the commands are drawn badly", state)
		}
	}
	for _, what := range []string{"fork", "job gone", "preempted"} {
		if seen[what] == 0 {
			t.Errorf("there was no %s: the commands are drawn badly", what)
		}
	}
	t.Log(seen)
}

// begun is how a run begins: mostly with workers and jobs.
func begun(t *rapid.T) []*commandpb.Command {
	if rarely(t, "begin with nothing") {
		return nil
	}
	return []*commandpb.Command{register("w0", "a"), register("w1", "a"), register("w2", "a"),
		submit("j0", rapid.Int32Range(1, 2).Draw(t, "replicas"), 2, 6, rapid.Uint64Range(0, 3).Draw(t, "keep")),
		submit("j1", 1, 1, 6, 1)}
}

// both applies a command to two states, of which one is restored from its snapshot now and then, and holds them against
// each other and the step against the rules.
func both(t *rapid.T, l, twin *tlog, c *commandpb.Command, seen map[string]int) error {
	before := l.View()
	beforeBytes := encodeNoIndex(t, before)
	refused, twinRefused := l.apply(c), twin.apply(c)
	after := l.View()
	if fmt.Sprint(refused) != fmt.Sprint(twinRefused) {
		t.Fatalf("refused with %v here, %v there", refused, twinRefused)
	}
	if !bytes.Equal(encodeT(t, after), encodeT(t, twin.View())) {
		t.Fatalf("entry %d, %v: two states that applied the same log differ", l.index, c)
	}
	if refused != nil && !bytes.Equal(encodeNoIndex(t, after), beforeBytes) {
		t.Fatalf("refused with %v, %v has changed the state", refused, c)
	}
	checkStep(t, before, after, c, refused, seen)
	return refused
}

type keptView struct {
	view  View
	bytes []byte
}

// tlog is log for rapid's T.
type tlog struct {
	t *rapid.T
	*State
	index uint64
}

func (l *tlog) apply(c *commandpb.Command) error {
	l.index++
	c.Version, c.DecidedUnixNs = Version, int64(l.index)*1e9
	r, err := l.Apply(l.index, proto.CloneOf(c))
	if err != nil {
		l.t.Fatalf("%v stops the node: %v", c, err)
	}
	return r.Refused
}

func encodeT(t *rapid.T, v View) []byte {
	b, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encodeNoIndex(t *rapid.T, v View) []byte {
	v.Index = 0
	return encodeT(t, v)
}

func decodeT(t *rapid.T, b []byte) *State {
	s, err := Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// transitions are the states a job may go to from each.
var transitions = map[string][]string{
	Queued:     {Running, Stopped, Paused},
	Running:    {Recovering, Stopping, Stopped, Paused, Done, Failed},
	Recovering: {Running, Stopped, Paused},
	// Recovering only if it was to move (see TestMove), queued if it made way (see TestPreempt).
	Stopping: {Stopped, Recovering, Queued, Paused, Done, Failed},
	Stopped:  {Queued},
	Paused:   {Queued, Stopped},
	Failed:   {Queued},
	Done:     {},
}

// generationOf is the generation and job of a command that belongs to one.
func generationOf(c *commandpb.Command) (generation uint64, job string, ok bool) {
	switch k := c.Kind.(type) {
	case *commandpb.Command_CheckpointWritten:
		return k.CheckpointWritten.Generation, k.CheckpointWritten.Job, true
	case *commandpb.Command_RecordEvaluation:
		return k.RecordEvaluation.Generation, k.RecordEvaluation.Job, true
	case *commandpb.Command_CellFinished:
		return k.CellFinished.Generation, k.CellFinished.Job, true
	case *commandpb.Command_CellStopped:
		return k.CellStopped.Generation, k.CellStopped.Job, true
	case *commandpb.Command_ReleaseJob:
		return k.ReleaseJob.Generation, k.ReleaseJob.Job, true
	case *commandpb.Command_FailJob:
		return k.FailJob.Generation, k.FailJob.Job, true
	case *commandpb.Command_VetoStep:
		return k.VetoStep.Generation, k.VetoStep.Job, true
	}
	return 0, "", false
}

// checkStep holds what one command did against the rules.
func checkStep(t *rapid.T, before, after View, c *commandpb.Command, refused error, seen map[string]int) {
	if g, job, ok := generationOf(c); ok && refused == nil && before.Jobs[job].Generation != g {
		t.Fatalf("%v was accepted at generation %d", c, before.Jobs[job].Generation)
	}
	checkNew(t, before, after, c, seen)
	for name, old := range before.Jobs {
		now := after.Jobs[name]
		if now == nil {
			if c.GetDeleteJob().GetJob() != name || !Ended(old.State) && old.State != Queued {
				t.Fatalf("%v: job %s, which was %s, is gone", c, name, old.State)
			}
			for other, j := range after.Jobs {
				for _, r := range j.Checkpoints {
					if r.OfJob == name {
						t.Fatalf("%v: job %s needs files of job %s, which is gone", c, other, name)
					}
				}
			}
			seen["job gone"]++
			continue
		}
		if now.Generation < old.Generation || now.Generation > old.Generation+1 {
			t.Fatalf("job %s went from generation %d to %d", name, old.Generation, now.Generation)
		}
		if now.Generation != old.Generation && c.GetAssignJob().GetJob() != name {
			t.Fatalf("%v has begun a generation of job %s", c, name)
		}
		if now.State != old.State && !slices.Contains(transitions[old.State], now.State) {
			t.Fatalf("%v took job %s from %s to %s", c, name, old.State, now.State)
		}
		if old.State == Stopping && now.State == Queued && !old.Requeuing {
			t.Fatalf("%v has queued job %s, which was to stop", c, name)
		}
		if now.Requeuing && !old.Requeuing && before.Jobs[c.GetPreemptJob().GetBy()].GetPriority() <= old.Priority {
			t.Fatalf("%v has job %s of priority %d make way", c, name, old.Priority)
		}
		if now.Preemptions > old.Preemptions {
			seen["preempted"]++
		}
		if old.State == Done && !bytes.Equal(old.Digest, now.Digest) {
			t.Fatalf("%v changed the digest of job %s, which is done", c, name)
		}
		checkVetoes(t, old, now, c)
		a := c.GetAssignJob()
		if a.GetJob() == name && refused == nil && now.Parent != nil && !a.HasRestore && !a.FromMemory {
			t.Fatalf("%v lets a fork begin with nothing", c)
		}
		for _, r := range old.Checkpoints {
			if r.Committed && r.Bad == "" {
				checkKept(t, name, r, now, c, seen)
			}
		}
		if d := c.GetDropCheckpoints(); d.GetJob() == name && refused == nil {
			for _, r := range old.Checkpoints {
				if slices.Contains(d.Steps, r.Step) && (r.Pinned || r.OfJob != "" || Heir(before, name, r.Step) != "") {
					t.Fatalf("%v has dropped a checkpoint that is to be kept: %v", c, r)
				}
			}
		}
		if c.GetDropCheckpoints().GetJob() == name && len(Usable(now)) < min(len(Usable(old)), max(int(old.Submitted.Keep),
			1)) {
			t.Fatalf("%v left %d good checkpoints", c, len(Usable(now)))
		}
	}
}

// checkNew wants of a job that is new to begin behind all that had its name, and of a fork to have its parent's state.
func checkNew(t *rapid.T, before, after View, c *commandpb.Command, seen map[string]int) {
	for name, j := range after.Jobs {
		if before.Jobs[name] != nil {
			continue
		}
		for _, d := range before.Deleted {
			if d.Job == name && j.Generation < d.Generation {
				t.Fatalf("%v: job %s begins with generation %d, its name has been at %d", c, name, j.Generation, d.Generation)
			}
		}
		s := c.GetSubmitJob()
		if s.FromJob == "" {
			continue
		}
		seen["fork"]++
		parent := usable(before.Jobs[s.FromJob], s.FromStep)
		own := usable(j, s.FromStep)
		if parent == nil || own == nil || own.OfJob == "" || !bytes.Equal(StateDigest(own), StateDigest(parent)) ||
			!bytes.Equal(j.Parent.Digest, StateDigest(parent)) || j.Numerics != before.Jobs[s.FromJob].Numerics {
			t.Fatalf("%v: fork %v of %v", c, own, parent)
		}
	}
}

// checkVetoes wants vetoed steps to be kept by step, and decisions to stand: a batch that is skipped stays so, whatever
// happens, since states were computed without it; and nothing behind a step that was decided on to have stayed.
func checkVetoes(t *rapid.T, old, now *commandpb.JobRecord, c *commandpb.Command) {
	for i, v := range now.Vetoes {
		if i > 0 && now.Vetoes[i-1].Vetoed.Step >= v.Vetoed.Step {
			t.Fatalf("%v: vetoes are not by step: %v", c, now.Vetoes)
		}
	}
	for _, v := range old.Vetoes {
		at, found := findVeto(now, v.Vetoed.Step)
		if !found || v.Outcome == VetoSkipped && !proto.Equal(now.Vetoes[at], v) {
			t.Fatalf("%v has changed the decision on step %d of job %s", c, v.Vetoed.Step, now.Submitted.Job)
		}
		if found && v.Outcome != now.Vetoes[at].Outcome && now.Vetoes[at].Outcome != VetoPaused {
			if n := len(now.Checkpoints); n > 0 && now.Checkpoints[n-1].Step >= v.Vetoed.Step {
				t.Fatalf("%v: the checkpoint of step %d was computed before it was decided on step %d", c,
					now.Checkpoints[n-1].Step, v.Vetoed.Step)
			}
		}
	}
}

// checkKept wants a good checkpoint to be there still, unless the command is one that may take it away.
func checkKept(t *rapid.T, job string, r *commandpb.CheckpointRecord, now *commandpb.JobRecord, c *commandpb.Command,
	seen map[string]int) {
	m, d, res, veto := c.GetMarkCheckpointBad(), c.GetDropCheckpoints(), c.GetResumeJob(), c.GetVetoStep()
	marked := m.GetJob() == job && m.GetStep() == r.Step
	dropped := d.GetJob() == job && slices.Contains(d.GetSteps(), r.Step) ||
		c.GetDeleteCheckpoint().GetJob() == job && c.GetDeleteCheckpoint().GetStep() == r.Step && !r.Pinned
	rewound := res.GetJob() == job && res.GetFromStep() && res.GetStep() < r.Step
	i := slices.IndexFunc(now.Checkpoints, func(x *commandpb.CheckpointRecord) bool { return x.Step == r.Step })
	if i < 0 || !now.Checkpoints[i].Committed || now.Checkpoints[i].Bad != "" {
		decided := res.GetJob() == job && (res.GetSkipBatch() || res.GetAcceptBatch()) ||
			veto.GetJob() == job && veto.GetSkip() && veto.GetStep() <= r.Step
		if !marked && !dropped && !rewound && !decided {
			t.Fatalf("%v has taken the committed checkpoint of step %d of job %s", c, r.Step, job)
		}
		seen["checkpoint taken"]++
		return
	}
	for k, f := range now.Checkpoints[i].Files {
		if !bytes.Equal(f.Digest, r.Files[k].Digest) {
			t.Fatalf("%v has changed the state of the committed checkpoint of step %d", c, r.Step)
		}
	}
}

// checkState holds one state against the rules.
func checkState(t *rapid.T, v View, dones map[string][]byte) {
	if !slices.Equal(v.Roll, RollOf(v)) {
		t.Fatalf("the roll %v is not that of %v", v.Roll, v.Workers)
	}
	if len(v.Events) > maxEvents {
		t.Fatalf("%d events", len(v.Events))
	}
	for name := range dones {
		if v.Jobs[name] == nil {
			delete(dones, name)
		}
	}
	if len(v.Deleted) > maxDeleted {
		t.Fatalf("%d deleted jobs are remembered", len(v.Deleted))
	}
	for name, j := range v.Jobs {
		n := int(j.Submitted.Replicas * j.Submitted.Columns)
		if j.State == Running || j.State == Stopping {
			placed := map[[2]int32]bool{}
			for _, p := range j.Placement {
				placed[[2]int32{p.Cell.GetReplica(), p.Cell.GetColumn()}] = true
				if w := v.Workers[p.Worker]; w == nil || w.Lost {
					t.Fatalf("job %s is %s with a cell on worker %s, which is not there", name, j.State, p.Worker)
				}
			}
			if len(placed) != n || len(j.Placement) != n {
				t.Fatalf("job %s of %d cells is %s with placement %v", name, n, j.State, j.Placement)
			}
		}
		if old, ok := dones[name]; ok && (j.State != Done || !bytes.Equal(old, j.Digest)) {
			t.Fatalf("job %s was done with %x and is now %s with %x", name, old, j.State, j.Digest)
		}
		if j.State == Done {
			if len(j.Digest) != 32 {
				t.Fatalf("job %s is done with digest %x", name, j.Digest)
			}
			dones[name] = j.Digest
		}
		for _, r := range j.Checkpoints {
			if r.Committed && len(r.Files) != n {
				t.Fatalf("job %s, step %d: committed with %d files of %d", name, r.Step, len(r.Files), n)
			}
		}
	}
}
