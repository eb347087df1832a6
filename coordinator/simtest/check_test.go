package simtest

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/commandpb"
)

// checker looks at everything that happens. It keeps its own account of what must not be lost.
type checker struct {
	s         *sim
	good      map[string]map[uint64]bool // committed checkpoints that nobody has given up, by job
	placed    map[groupKey]string        // placement of every generation that ever was
	newest    map[string]uint64          // generation, by job
	seen      map[string]*commandpb.JobRecord
	processes map[groupKey]int // incarnation that began a generation, by job and worker
	committed int
	lost      int

	at         map[cellKey]uint64 // how far each cell of each generation is
	done       map[string]uint64  // step that all cells of a job have finished, in its newest generation
	could      map[string]uint64  // newest generation that could not go on from memory, by job
	history    map[string]uint64  // oldest generation whose memory is of the job's present history, by job
	asked      map[string]string  // by job that an operator has stopped or paused, and not resumed: which of it
	rests      map[string]uint64  // by job that is paused: the step of the checkpoint it has to keep
	rested     map[groupKey]bool  // generations that all cells of have stopped
	left       map[string]uint64  // by job that was deleted, and did not come back: its last generation
	paused     int
	forked     int
	deleted    int
	stops      map[groupKey]uint64    // after which step a generation's cells stop
	stopped    map[cellKey]bool       // cells that have stopped, by replica and column
	states     map[specKey][][]uint64 // by job, column and step: the only state there can be
	digests    map[specKey][][][]byte // of them, as far as they were asked for
	moved      int                    // generations that were to move
	remembered int

	safe     map[string]safety // by job: the newest step that copies make safe
	deaths   int               // of processes
	copied   int               // cells that have gone on from copies
	machines int               // that were lost
	forgot   int               // workers that were forgotten
	vetoed   int               // steps

	preempted int
	owed      map[string]string // by job that has made way when there were no more faults: for whom
}

// cellKey is a cell of one generation.
type cellKey struct {
	groupKey
	cell int
}

func newChecker(s *sim) *checker {
	return &checker{s: s, owed: map[string]string{}, safe: map[string]safety{}, good: map[string]map[uint64]bool{},
		placed: map[groupKey]string{}, newest: map[string]uint64{},
		seen: map[string]*commandpb.JobRecord{}, processes: map[groupKey]int{}, at: map[cellKey]uint64{},
		done: map[string]uint64{}, could: map[string]uint64{}, history: map[string]uint64{}, stops: map[groupKey]uint64{},
		asked: map[string]string{}, stopped: map[cellKey]bool{}, rests: map[string]uint64{}, rested: map[groupKey]bool{},
		left: map[string]uint64{}, states: map[specKey][][]uint64{}, digests: map[specKey][][][]byte{}}
}

// state is the only one a cell can have after some steps.
func (c *checker) state(spec jobSpec, cell int, step uint64) uint64 {
	all := c.states[spec.key()]
	if all == nil {
		all = make([][]uint64, spec.columns)
		for k := range all {
			begin, v := spec.origin(k)
			all[k] = append(make([]uint64, begin, spec.steps+1), v)
			for s := begin; s < spec.steps; s++ {
				if spec.bad != s+1 { // which is skipped in the end
					v = spec.next(v, s)
				}
				all[k] = append(all[k], v)
			}
		}
		c.states[spec.key()] = all
	}
	return all[cell%int(spec.columns)][step]
}

// digest is the digest of state.
func (c *checker) digest(spec jobSpec, cell int, step uint64) []byte {
	all := c.digests[spec.key()]
	if all == nil {
		all = make([][][]byte, spec.columns)
		for k := range all {
			all[k] = make([][]byte, spec.steps+1)
		}
		c.digests[spec.key()] = all
	}
	at := &all[cell%int(spec.columns)][step]
	if *at == nil {
		*at = digest(c.state(spec, cell, step))
	}
	return *at
}

// decided looks at a decision.
func (c *checker) decided(in sched.Input, d sched.Decision) {
	s := c.s
	c.checkQueue(in, d)
	for _, a := range d.Actions {
		switch a := a.(type) {
		case sched.Assign:
			c.checkRestore(in, a)
			c.checkMemory(in, a)
			c.checkAgain(in, a)
			for _, p := range a.Placement {
				if in.View.Workers[p.Worker].Draining {
					s.fail("generation %d of %s has a cell on worker %s, which is drained", a.Generation, a.Job, p.Worker)
				}
			}
		case sched.Move:
			c.moved++
		case sched.Lose:
			c.checkLose(in, a)
		case sched.Forget:
			c.checkForget(in, a)
		}
	}
	if len(d.Actions) > 0 {
		return
	}
	for name, j := range in.View.Jobs {
		if why := d.Reasons[name]; (j.State == fsm.Queued || j.State == fsm.Recovering) && (why == "" ||
			strings.Contains(why, "\n")) {
			s.fail("job %s is %s for the reason %q", name, j.State, why)
		}
	}
}

// of is what the leader knows of a worker's session.
func of(in sched.Input, worker string) sched.Session {
	if x := in.Sessions.Of(worker); x != nil {
		return *x
	}
	return sched.Session{}
}

// checkForget wants a worker to be forgotten that has been lost for long and has no file of a good checkpoint that a
// job may need.
func (c *checker) checkForget(in sched.Input, f sched.Forget) {
	c.forgot++
	w := in.View.Workers[f.Worker]
	if w == nil || !w.Lost || c.s.now.Sub(time.Unix(0, w.LostUnixNs)) < in.Rules.Forget {
		c.s.fail("worker %s is forgotten, which is not lost, or not for long: %v", f.Worker, w)
	}
	for _, j := range in.View.Jobs {
		if j.State == fsm.Done {
			continue
		}
		for _, r := range j.Checkpoints {
			for _, file := range r.Files {
				if c.good[j.Submitted.Job][r.Step] && file.Worker == f.Worker {
					c.s.fail("worker %s is forgotten, and has a file of step %d of %s", f.Worker, r.Step, j.Submitted.Job)
				}
			}
		}
	}
}

// checkLose wants a worker to be given up only when it may be.
func (c *checker) checkLose(in sched.Input, l sched.Lose) {
	s := c.s
	c.lost++
	if s.now.Sub(s.since) < in.Rules.Lease {
		s.fail("worker %s is judged %v after the leader began", l.Worker, s.now.Sub(s.since))
	}
	for _, w := range s.workers {
		// Heartbeats come every half second and travel for at most a tenth of one.
		if w.id == l.Worker && w.session != nil && w.session.open && s.now.Sub(w.session.heard) < in.Rules.Lease/2 {
			s.fail("worker %s is given up (%s), but is here and talks", l.Worker, l.Reason)
		}
	}
}

// checkRestore wants the newest good checkpoint, so that nothing is done again that need not be, or one that is newer
// than all whose files are within reach.
func (c *checker) checkRestore(in sched.Input, a sched.Assign) {
	c.checkBegins(in, a)
	if a.HasRestore != (a.Restore > 0) || a.HasRestore && !c.good[a.Job][a.Restore] {
		c.s.fail("generation %d of %s begins at step %d (%v), which is no good checkpoint", a.Generation, a.Job, a.Restore,
			a.HasRestore)
	}
	for _, r := range in.View.Jobs[a.Job].Checkpoints {
		if r.Step <= a.Restore || !c.good[a.Job][r.Step] {
			continue
		}
		if !slices.ContainsFunc(r.Files, func(f *commandpb.CheckpointFile) bool { return !of(in, f.Worker).Connected }) {
			c.s.fail("generation %d of %s begins at step %d, and there is a good checkpoint of step %d", a.Generation, a.Job,
				a.Restore, r.Step)
		}
	}
}

// checkBad wants a checkpoint to be called bad only if it is: one of its files is not what was written, on the disk of
// whoever wrote it.
func (c *checker) checkBad(job string, step uint64, j *commandpb.JobRecord) {
	for _, r := range j.Checkpoints {
		if r.Step != step {
			continue
		}
		for i, f := range r.Files {
			for _, w := range c.s.workers {
				if own, ok := w.disk[keyOf(job, r, i)]; w.id == f.Worker && (!ok || !bytes.Equal(own.sha256(), f.Sha256)) {
					return
				}
			}
		}
		c.s.fail("the checkpoint of step %d of %s is called bad, and all of its files are good", step, job)
	}
}

// began wants a generation to be begun by one process of a worker only: another has lost what the first one had.
func (c *checker) began(a assignment, w *worker) {
	key := groupKey{a.job + " on " + w.id, a.generation}
	if old, ok := c.processes[key]; ok && old != w.incarnation {
		c.s.fail("generation %d of %s is begun by incarnations %d and %d of worker %s", a.generation, a.job, old,
			w.incarnation, w.id)
	}
	c.processes[key] = w.incarnation
}

// applied looks at what an entry of the log has done.
func (c *checker) applied(before, after fsm.View, cmd *commandpb.Command, refused error) {
	s := c.s
	if refused == nil {
		c.account(cmd, after)
		c.checkPreempt(cmd.GetPreemptJob(), after)
		if cmd.GetDrainWorker().GetUndo() { // a worker more: there may be room for both
			clear(c.owed)
		}
	}
	c.checkOthers(before, after, cmd)
	var runs map[string]string
	for _, spec := range s.jobs {
		j := after.Jobs[spec.name]
		if j == nil {
			continue
		}
		if c.seen[spec.name] != j { // records are replaced, not changed
			c.seen[spec.name] = j
			c.checkGood(spec, j)
			c.checkGeneration(spec, j)
			c.checkRest(before.Jobs[spec.name], j, cmd)
		}
		if old := before.Jobs[spec.name]; old != nil && old.State == fsm.Done && (j.State != fsm.Done ||
			!bytes.Equal(j.Digest, old.Digest)) {
			s.fail("job %s was done and is %s", spec.name, j.State)
		}
		if j.State == fsm.Done && !bytes.Equal(j.Digest, c.end(spec)) {
			s.fail("job %s is done with digest %x, and can only have %x", spec.name, j.Digest, c.end(spec))
		}
		if j.State != fsm.Running && j.State != fsm.Stopping {
			continue
		}
		if len(s.jobs) == 1 {
			continue
		}
		if runs == nil {
			runs = map[string]string{}
		}
		for _, p := range j.Placement {
			if other := runs[p.Worker]; other != "" && other != spec.name {
				s.fail("worker %s has cells of %s and of %s", p.Worker, other, spec.name)
			}
			runs[p.Worker] = spec.name
		}
	}
}

// end is the only digest a job can end with.
func (c *checker) end(spec jobSpec) []byte {
	h := sha256.New()
	for i := range spec.cells() {
		h.Write(c.digest(spec, i, spec.steps))
	}
	return h.Sum(nil)
}

// account keeps up with what is good: a checkpoint is from the file that completes it until it is found bad, dropped by
// retention, or behind the step an operator resumes from.
func (c *checker) account(cmd *commandpb.Command, after fsm.View) {
	switch k := cmd.Kind.(type) {
	case *commandpb.Command_CheckpointWritten:
		c.written(k.CheckpointWritten, after)
	case *commandpb.Command_MarkCheckpointBad:
		c.checkBad(k.MarkCheckpointBad.Job, k.MarkCheckpointBad.Step, after.Jobs[k.MarkCheckpointBad.Job])
		delete(c.good[k.MarkCheckpointBad.Job], k.MarkCheckpointBad.Step)
	case *commandpb.Command_VetoStep:
		c.checkVeto(k.VetoStep, after.Jobs[k.VetoStep.Job])
	case *commandpb.Command_DropCheckpoints:
		d := k.DropCheckpoints
		had := len(c.good[d.Job])
		for _, step := range d.Steps {
			c.checkDrop(d.Job, step)
			delete(c.good[d.Job], step)
		}
		if had > 0 && len(c.good[d.Job]) == 0 {
			c.s.fail("retention has dropped the last good checkpoint of %s", d.Job)
		}
	case *commandpb.Command_ResumeJob:
		delete(c.asked, k.ResumeJob.Job)
		delete(c.rests, k.ResumeJob.Job)
		for step := range c.good[k.ResumeJob.Job] {
			if k.ResumeJob.FromStep && step > k.ResumeJob.Step {
				delete(c.good[k.ResumeJob.Job], step)
			}
		}
	case *commandpb.Command_ReleaseJob:
		if r := k.ReleaseJob; r.Memory {
			c.could[r.Job] = r.Generation
		}
	case *commandpb.Command_RequestStop:
		c.asks(k.RequestStop, after.Jobs[k.RequestStop.Job])
	case *commandpb.Command_SubmitJob:
		c.submitted(k.SubmitJob, after)
	case *commandpb.Command_DeleteJob:
		c.deletesJob(k.DeleteJob.Job)
	case *commandpb.Command_AssignJob:
		a := k.AssignJob
		c.checkOwed(a, after)
		if c.asked[a.Job] != "" {
			c.s.fail("generation %d of %s begins, which an operator has stopped", a.Generation, a.Job)
		}
		if !a.FromMemory {
			c.history[a.Job], c.done[a.Job] = a.Generation, a.RestoreStep
		}
	case *commandpb.Command_CellStopped:
		x := k.CellStopped
		key := groupKey{x.Job, x.Generation}
		if at, ok := c.stops[key]; ok && at != x.Step {
			c.s.fail("cells of generation %d of %s stop after steps %d and %d", x.Generation, x.Job, at, x.Step)
		}
		c.stops[key] = x.Step
		c.checkStopped(key, x.Cell, after.Jobs[x.Job])
	case *commandpb.Command_CellFinished:
		if c.newest[k.CellFinished.Job] != k.CellFinished.Generation {
			c.s.fail("an end of generation %d was accepted in generation %d", k.CellFinished.Generation,
				c.newest[k.CellFinished.Job])
		}
	}
}

// written notes a checkpoint that a file has completed.
func (c *checker) written(w *commandpb.CheckpointWritten, after fsm.View) {
	if c.newest[w.Job] != w.Generation {
		c.s.fail("a file of generation %d was accepted in generation %d", w.Generation, c.newest[w.Job])
	}
	for _, r := range after.Jobs[w.Job].Checkpoints {
		if r.Step == w.Step && r.Committed && r.Bad == "" {
			if c.good[w.Job] == nil {
				c.good[w.Job] = map[uint64]bool{}
			}
			if !c.good[w.Job][w.Step] {
				c.checkFiles(w.Job, r)
			}
			c.good[w.Job][w.Step] = true
			c.committed++
		}
	}
}

// checkVeto wants a veto to end the generation and a step that is vetoed to be one that nobody has applied.
func (c *checker) checkVeto(v *commandpb.VetoStep, j *commandpb.JobRecord) {
	c.vetoed++
	if j.State == fsm.Running || j.State == fsm.Stopping || v.Step != c.s.spec(v.Job).bad || c.done[v.Job] >= v.Step {
		c.s.fail("step %d of %s is vetoed, of which all cells have done %d, and the job is %s", v.Step, v.Job, c.done[v.Job],
			j.State)
	}
	for step := range c.good[v.Job] {
		if step >= v.Step {
			c.s.fail("step %d of %s is vetoed, and there is a checkpoint of step %d", v.Step, v.Job, step)
		}
	}
}

// checkStopped wants a job to have stopped when all of its cells have, and not before.
func (c *checker) checkStopped(key groupKey, cell *commandpb.Cell, j *commandpb.JobRecord) {
	c.stopped[cellKey{key, int(cell.Replica)<<8 + int(cell.Column)}] = true
	n := 0
	for k := range c.stopped {
		if k.groupKey == key {
			n++
		}
	}
	c.rested[key] = n == c.s.spec(key.job).cells()
	if j.State != fsm.Stopping && n < c.s.spec(key.job).cells() {
		c.s.fail("job %s is %s, and %d of its cells have stopped", key.job, j.State, n)
	}
}

// checkFiles wants a checkpoint that is committed to be on the disks of those who wrote it.
func (c *checker) checkFiles(job string, r *commandpb.CheckpointRecord) {
	if len(r.Files) != c.s.spec(job).cells() {
		c.s.fail("the checkpoint of step %d of %s is committed with %d files", r.Step, job, len(r.Files))
	}
	for i, f := range r.Files {
		for _, w := range c.s.workers {
			if _, ok := w.disk[keyOf(job, r, i)]; w.id == f.Worker && !ok {
				c.s.fail("the checkpoint of step %d of %s is committed, and worker %s has no file of cell %d", r.Step, job, w.id, i)
			}
		}
	}
}

// checkGood wants every good checkpoint in the state, whole, with the only state it can have.
func (c *checker) checkGood(spec jobSpec, j *commandpb.JobRecord) {
	for step := range c.good[spec.name] {
		var r *commandpb.CheckpointRecord
		for _, other := range j.Checkpoints {
			if other.Step == step && other.Committed && other.Bad == "" {
				r = other
			}
		}
		if r == nil || len(r.Files) != spec.cells() {
			c.s.fail("the good checkpoint of step %d of %s is gone", step, spec.name)
			return
		}
		for i, f := range r.Files {
			if !bytes.Equal(f.Digest, c.digest(spec, i, step)) {
				c.s.fail("the checkpoint of step %d of %s has a state of its own in cell %d", step, spec.name, i)
			}
		}
	}
}

// checkGeneration wants generations to go up one by one, and one placement for each for as long as it runs.
func (c *checker) checkGeneration(spec jobSpec, j *commandpb.JobRecord) {
	if old := c.newest[spec.name]; j.Generation != old && j.Generation != old+1 {
		c.s.fail("job %s went from generation %d to %d", spec.name, old, j.Generation)
	}
	c.newest[spec.name] = j.Generation
	if j.State != fsm.Running && j.State != fsm.Stopping {
		return
	}
	key := groupKey{spec.name, j.Generation}
	on := make([]byte, 0, 64)
	for _, p := range j.Placement {
		on = append(append(on, p.Worker...), ' ')
	}
	if old, ok := c.placed[key]; (ok && old != string(on)) || len(j.Placement) != spec.cells() {
		c.s.fail("generation %d of %s is on %q, and was on %q", j.Generation, spec.name, on, old)
	} else if !ok {
		c.placed[key] = string(on)
	}
}

// checkMemory looks at a generation that goes on from memory: every cell goes to a worker that says it holds the step,
// no step that all cells had finished is lost, and a generation that could not is not followed by another try.
func (c *checker) checkMemory(in sched.Input, a sched.Assign) {
	if !a.FromMemory {
		return
	}
	j := in.View.Jobs[a.Job]
	c.remembered++
	for _, p := range a.Placement {
		h := of(in, p.Worker).Answers[a.Job]
		if p.Source != "" {
			h = of(in, p.Source).Answers[a.Job]
		}
		if h.Generation+1 != a.Generation || !slices.ContainsFunc(h.Held, func(held sched.Held) bool {
			return held.Replica == p.Cell.Replica && held.Column == p.Cell.Column && slices.Contains(held.Steps, a.Memory) &&
				(held.Copy || p.Source == "")
		}) {
			c.s.fail("generation %d of %s goes on from step %d in memory, which worker %s does not hold", a.Generation, a.Job,
				a.Memory, p.Worker)
		}
	}
	if done := c.done[a.Job]; j.MaxWorkers == 0 && a.Memory < done && c.reaches(in, a, done) {
		c.s.fail("generation %d of %s goes on from step %d in memory, all cells had finished %d", a.Generation, a.Job,
			a.Memory, done)
	}
	if c.could[a.Job] == j.Generation && j.Generation > 0 {
		c.s.fail("generation %d of %s goes on from memory, which %d could not", a.Generation, a.Job, j.Generation)
	}
	if j.State != fsm.Recovering {
		c.s.fail("job %s, which is %s, goes on from memory", a.Job, j.State)
	}
}

// adopts looks at what a cell goes on from in memory: it is of the job's present history, and the state there can be.
func (c *checker) adopts(a *arena, r *run, i int, value uint64) {
	if value != c.state(r.spec, i, r.memory) {
		c.s.fail("an arena of cell %d of %s holds another state of step %d than there can be", i, r.job, r.memory)
	}
	if since := c.history[r.job]; a.generation < since && r.generation > since {
		c.s.fail("generation %d of %s goes on from memory of generation %d, and generation %d went back behind it",
			r.generation, r.job, a.generation, since)
	}
}

// begins wants every cell of a generation to begin once, at the same step, which is the one that was decided on.
func (c *checker) begins(r *run, i int, x *cell) {
	want := r.memory
	if !r.fromMemory {
		want = r.restore.GetStep()
	}
	if x.step != want {
		c.s.fail("cell %d of generation %d of %s begins at step %d, not %d", i, r.generation, r.job, x.step, want)
	}
	if x.value != c.state(r.spec, i, x.step) {
		c.s.fail("cell %d of generation %d of %s begins with another state of step %d than there can be", i, r.generation,
			r.job, x.step)
	}
	key := cellKey{groupKey{r.job, r.generation}, i}
	if _, twice := c.at[key]; twice {
		c.s.fail("cell %d of generation %d of %s begins twice", i, r.generation, r.job)
	}
	c.at[key] = x.step
}

// applies wants a generation to apply every step to a cell once, in order, to the state there can be, and no cell to be
// ahead of others by more than the one step that can be gone back.
func (c *checker) applies(r *run, i int, x *cell) {
	key := cellKey{groupKey{r.job, r.generation}, i}
	if at, ok := c.at[key]; !ok || x.step != at+1 {
		c.s.fail("generation %d of %s applies step %d to cell %d behind step %d", r.generation, r.job, x.step, i, at)
	}
	c.at[key] = x.step
	if c.rested[key.groupKey] {
		c.s.fail("cell %d of generation %d of %s does step %d, and all of its cells have stopped", i, r.generation, r.job,
			x.step)
	}
	if x.value != c.state(r.spec, i, x.step) {
		c.s.fail("cell %d of %s has another state after step %d than there can be", i, r.job, x.step)
	}
	if x.arena.owner != r {
		c.s.fail("cell %d of generation %d of %s writes an arena that is another's", i, r.generation, r.job)
	}
	for k := range r.on {
		key.cell = k
		if at, ok := c.at[key]; !ok || at+1 < x.step {
			c.s.fail("cell %d of generation %d of %s has done step %d without cell %d, which is at %d", i, r.generation, r.job,
				x.step, k, at)
		}
	}
}

// finished notes how far all cells of the generation that runs are: steps behind that are never done again but from a
// checkpoint. What a worker computes that has been given up counts for nothing.
func (c *checker) finished(r *run) {
	if j := c.s.view.Jobs[r.job]; j.GetGeneration() != r.generation || j.State != fsm.Running && j.State != fsm.Stopping {
		return
	}
	least := ^uint64(0)
	for i := range r.on {
		at, ok := c.at[cellKey{groupKey{r.job, r.generation}, i}]
		if !ok {
			return
		}
		least = min(least, at)
	}
	c.done[r.job] = least
}

// deletes wants no file to go that a good checkpoint needs.
func (c *checker) deletes(k fileKey) {
	if c.good[k.job][k.step] {
		c.s.fail("the file of cell %d of the good checkpoint of step %d of %s is deleted", k.cell, k.step, k.job)
	}
	if heir := c.heir(k.job, k.step); heir != "" {
		c.s.fail("the file of cell %d of the checkpoint of step %d of %s is deleted, with which %s begins", k.cell, k.step,
			k.job, heir)
	}
}
