package simtest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/commandpb"
)

// worker models a worker: a process that may be killed, a disk that outlives it, and the network between.
type worker struct {
	*sim
	id          string
	host        int // whose memory it shares with others
	incarnation int
	alive, off  bool // off: cut off from everybody
	session     *session
	connecting  bool
	disk        map[fileKey]file

	// Of this process.
	runs    map[string]*run
	ended   map[string]uint64 // newest generation that has ended, by job
	pending []report
	next    uint64
	copies  map[copyKey][]heldCopy
	fences  map[string]uint64 // by job: copies of older generations are refused
	buddies map[string]told   // by job
}

type fileKey struct {
	job        string
	step       uint64
	cell       int
	generation uint64 // that wrote it: none writes over another's
}

// keyOf is where a file of a job's checkpoint lies.
func keyOf(job string, r *commandpb.CheckpointRecord, i int) fileKey {
	generation, _ := strconv.ParseUint(r.Files[i].Path, 10, 64)
	return fileKey{cmp.Or(r.OfJob, job), r.Step, i, generation}
}

// file is a cell's checkpoint file. Its bytes name the generation that wrote it; the state in it does not.
type file struct {
	value, generation uint64
	rotten            bool
}

func (f file) sha256() []byte {
	if f.rotten {
		return fold(f.value, f.generation, 1)
	}
	return fold(f.value, f.generation, 0)
}

func digest(value uint64) []byte { return fold(value, 0, 2) }

// fold stands for a cryptographic sum: 32 bytes that differ where what they are of does.
func fold(a, b, c uint64) []byte {
	out := make([]byte, 0, sha256.Size)
	for i := range uint64(4) {
		x := a + (b+1)*0x9e3779b97f4a7c15 + (c*4+i)*0xd1342543de82ef95
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		out = binary.LittleEndian.AppendUint64(out, x^x>>31)
	}
	return out
}

// initial and next are training: the only state a cell can have after some steps. They keep the replicas of a
// column in the same state.
func (j jobSpec) initial(cell int) uint64 {
	return j.seed ^ uint64(cell%int(j.columns))*0x9e3779b97f4a7c15
}

func (j jobSpec) next(value, step uint64) uint64 {
	return (value^(step*0xbf58476d1ce4e5b9)^j.turn)*0x94d049bb133111eb + 1
}

// vetoed says whether a generation's cells must not apply the step behind the given one: the guard of one of them has
// found it wrong, and all hear of that before they apply it.
func (r *run) vetoed(i int, step uint64) bool {
	return r.spec.bad == step+1 && !slices.Contains(r.skipped, step+1)
}

// provisional is the update of a step that is found wrong in one column: its cells do not hold the step, others do
// until they hear of it in the next guard.
func (r *run) provisional(i int, c *cell) {
	c.open = true
	if columns := int(r.spec.columns); i%columns != r.spec.sees%columns {
		c.arena.advance(r.spec.bad, ^r.spec.next(c.value, c.step))
	}
}

// vetoes ends a run whose step is vetoed.
func (w *worker) vetoes(r *run) {
	w.logf("worker %s: generation %d of %s: step %d is vetoed", w.id, r.generation, r.job, r.spec.bad)
	r.group.vetoed = true
	for _, c := range r.cells {
		if c != nil && c.open {
			c.arena.takeBack(r.spec.bad)
		}
	}
	w.over(r.job)
	w.queue(r.job, &commandpb.Command{Kind: &commandpb.Command_VetoStep{VetoStep: &commandpb.VetoStep{Job: r.job,
		Generation: r.generation, Cell: r.cell(r.spec.sees), Step: r.spec.bad, Cause: fsm.Spike, Reason: "a spike",
		Skip: r.spec.skips}}})
}

// report is something to be written down, sent again until it is acknowledged.
type report struct {
	sequence uint64
	job      string
	command  *commandpb.Command
}

// assignment is what a worker is told of a generation.
type assignment struct {
	spec       jobSpec
	job        string
	generation uint64
	on         []string // by cell
	restore    *commandpb.CheckpointRecord
	fromMemory bool
	memory     uint64   // step
	from       []string // by cell: who hands over a copy
	since      uint64   // generation
	skipped    []uint64 // steps that change nothing
}

// run is a generation at work on one worker.
type run struct {
	assignment
	w     *worker
	group *group
	cells map[int]*cell
}

type cell struct {
	step, value uint64
	over        bool
	arena       *arena
	begun       uint64 // step of the newest copy
	open        bool   // it has done the update that is to be vetoed, and waits for what the others say of it
}

type groupKey struct {
	job        string
	generation uint64
}

// group is the exchange between a generation's cells: how far each is, and whether one has gone.
type group struct {
	at      map[int]uint64
	aborted bool
	vetoed  bool // and that is why it has been aborted
	stopAt  uint64

	copies   map[int]progress    // by cell
	verdicts map[uint64]progress // by step: what all cells have been told in it
	deaths   map[uint64]int      // by step that is copied: processes that had died before
}

// ---- the process

func (w *worker) start() {
	if w.alive {
		return
	}
	w.alive = true
	w.incarnation++
	w.runs, w.ended, w.pending, w.next = map[string]*run{}, map[string]uint64{}, nil, 0
	w.copies, w.fences, w.buddies = map[copyKey][]heldCopy{}, map[string]uint64{}, map[string]told{}
	w.logf("worker %s starts, incarnation %d", w.id, w.incarnation)
	w.connect()
	w.beat(w.incarnation)
}

func (w *worker) kill() {
	if !w.alive {
		return
	}
	w.logf("worker %s is killed", w.id)
	w.alive = false
	w.copies = map[copyKey][]heldCopy{}
	w.check.deaths++
	for _, j := range w.jobs {
		r := w.runs[j.name]
		if r == nil {
			continue
		}
		r.group.aborted = true
		for i := range r.on {
			if c := r.cells[i]; c != nil && c.step > 0 && w.r.IntN(2) == 0 {
				c.arena.tear(c.step)
			}
		}
	}
	w.runs = map[string]*run{}
	if w.session != nil {
		w.session.close()
	}
}

// cutOff takes a worker off the network; its peers notice, the leader at once or only by its silence.
func (w *worker) cutOff(silently bool) {
	w.logf("worker %s is cut off, silently: %v", w.id, silently)
	w.off = true
	for _, r := range w.runs {
		if len(r.group.at) > len(r.cells) {
			r.group.aborted = true
		}
	}
	if w.session == nil {
		return
	}
	if silently {
		w.session.open = false
		w.session = nil
	} else {
		w.session.close()
	}
}

func (w *worker) rejoin() {
	if w.off {
		w.logf("worker %s is on the network again", w.id)
	}
	w.off = false
	if w.alive {
		w.connect()
	}
}

// rot damages one file.
func (w *worker) rot() {
	keys := make([]fileKey, 0, len(w.disk))
	for k := range w.disk {
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return
	}
	slices.SortFunc(keys, func(a, b fileKey) int {
		return cmp.Or(cmp.Compare(a.job, b.job), cmp.Compare(a.step, b.step), cmp.Compare(a.cell, b.cell),
			cmp.Compare(a.generation, b.generation))
	})
	k := keys[w.r.IntN(len(keys))]
	f := w.disk[k]
	if !f.rotten {
		f.rotten, f.value = true, f.value+1
	}
	w.disk[k] = f
	w.logf("on worker %s, file %v rots", w.id, k)
}

// ---- sessions

// session is a worker's stream; what is sent on it arrives in order, or not at all once it is broken.
type session struct {
	w              *worker
	incarnation    int
	open           bool
	heard          time.Time
	told, stopped  map[string]uint64
	asked          map[string]uint64
	answers        map[string]sched.Holding
	lastUp, lastDn time.Time
	sent           uint64
	holds          map[string]bool // jobs of which the worker may have copies
	buddies        map[string]told
}

func (w *worker) connect() {
	if w.connecting || w.session != nil || !w.alive {
		return
	}
	w.connecting = true
	w.after(w.between(10*time.Millisecond, 500*time.Millisecond), func() {
		w.connecting = false
		if !w.alive || w.session != nil {
			return
		}
		if w.off || !w.up {
			w.connect()
			return
		}
		w.attach()
	})
}

func (w *worker) attach() {
	err := w.apply(&commandpb.Command{Kind: &commandpb.Command_RegisterWorker{RegisterWorker: &commandpb.RegisterWorker{
		Worker: w.id, Name: w.id, Machine: fmt.Sprint("m", w.host), Checkpoints: w.id,
		Incarnation: fmt.Sprint(w.incarnation), Device: &commandpb.Device{Numerics: "n"}}}})
	if err != nil {
		w.fail("worker %s cannot register: %v", w.id, err)
		return
	}
	x := &session{w: w, incarnation: w.incarnation, open: true, heard: w.now, told: map[string]uint64{},
		stopped: map[string]uint64{}, asked: map[string]uint64{}, answers: map[string]sched.Holding{},
		holds: map[string]bool{}, buddies: map[string]told{}}
	for name, r := range w.runs {
		x.told[name] = r.generation
	}
	w.session, w.sessions[w.id] = x, x
	delete(w.broken, w.id)
	w.logf("worker %s is attached, running %v", w.id, x.told)
	x.toLeader(func() { // what there is of all jobs
		for _, j := range w.jobs {
			if len(w.copiesHeld(j)) > 0 {
				x.holds[j.name] = true
			}
		}
		w.kick()
	})
	w.send()
}

// close breaks a session; both ends notice.
func (x *session) close() {
	x.open = false
	w := x.w
	if w.session == x {
		w.session = nil
	}
	w.after(w.between(time.Millisecond, 300*time.Millisecond), func() {
		if w.sessions[w.id] == x {
			delete(w.sessions, w.id)
			w.broken[w.id] = w.now
			w.kick()
		}
		w.connect()
	})
}

// carry delivers in order.
func (x *session) carry(last *time.Time, f func()) {
	t := x.w.now.Add(x.w.between(time.Millisecond, 100*time.Millisecond))
	if t.Before(*last) {
		t = *last
	}
	*last = t
	x.w.at(t, func() {
		if x.open {
			f()
		}
	})
}

func (x *session) toWorker(f func()) { x.carry(&x.lastDn, f) }
func (x *session) toLeader(f func()) { x.carry(&x.lastUp, f) }

// beat keeps the lease.
func (w *worker) beat(incarnation int) {
	if !w.alive || w.incarnation != incarnation {
		return
	}
	if x := w.session; x != nil {
		x.toLeader(func() { x.heard = w.now })
	}
	w.after(500*time.Millisecond, func() { w.beat(incarnation) })
}

func (w *worker) queue(job string, c *commandpb.Command) {
	w.next++
	w.pending = append(w.pending, report{w.next, job, c})
	w.send()
}

// send sends what has not been sent on this session.
func (w *worker) send() {
	x := w.session
	if x == nil {
		return
	}
	for _, r := range w.pending {
		if r.sequence > x.sent {
			x.sent = r.sequence
			x.toLeader(func() { w.report(x, r) })
		}
	}
}

func (w *worker) acknowledge(sequence uint64) {
	for len(w.pending) > 0 && w.pending[0].sequence <= sequence {
		w.pending = w.pending[1:]
	}
}

// ---- training

func (w *worker) assign(a assignment) {
	if old := w.runs[a.job]; (old != nil && old.generation >= a.generation) || w.ended[a.job] >= a.generation {
		return
	}
	w.over(a.job)
	w.passes(a.job, a.generation)
	w.check.began(a, w)
	key := groupKey{a.job, a.generation}
	if w.groups[key] == nil {
		w.groups[key] = &group{at: map[int]uint64{}, copies: map[int]progress{}, verdicts: map[uint64]progress{}}
	}
	r := &run{assignment: a, w: w, group: w.groups[key], cells: map[int]*cell{}}
	w.runs[a.job] = r
	for i, on := range a.on {
		if on != w.id {
			continue
		}
		if a.fromMemory {
			c := w.recall(r, i)
			if c == nil {
				return
			}
			w.check.begins(r, i, c)
			r.cells[i] = c
			r.group.at[i] = c.step
			continue
		}
		c, away, why := w.restore(r, i)
		if away {
			w.fails(r, why)
			return
		}
		if why != "" {
			w.logf("worker %s, generation %d of %s: %s", w.id, a.generation, a.job, why)
			w.queue(a.job,
				&commandpb.Command{Kind: &commandpb.Command_MarkCheckpointBad{MarkCheckpointBad: &commandpb.MarkCheckpointBad{
					Job: a.job, Step: a.restore.Step, Cell: r.cell(i), Reason: why, Generation: a.generation}}})
			w.fails(r, why)
			return
		}
		w.place(r, i, c)
		w.check.begins(r, i, c)
		r.cells[i] = c
		r.group.at[i] = c.step
	}
	w.check.finished(r)
	w.after(w.between(10*time.Millisecond, 300*time.Millisecond), func() { w.step(r) })
}

func (r *run) cell(i int) *commandpb.Cell {
	return &commandpb.Cell{Replica: int32(i) / r.spec.columns, Column: int32(i) % r.spec.columns}
}

// restore gives a cell its state: its own file if it is the one of the manifest, else that of the worker that wrote it.
// If that one is away, nothing is known of the file.
func (w *worker) restore(r *run, i int) (c *cell, away bool, why string) {
	m := r.restore
	if m == nil {
		return &cell{value: r.spec.initial(i)}, false, ""
	}
	want := m.Files[i]
	key := keyOf(r.job, m, i)
	f, ok := w.disk[key]
	if ok = ok && bytes.Equal(f.sha256(), want.Sha256); !ok && w.reaches(want.Worker) {
		for _, other := range w.workers {
			if other.id == want.Worker {
				f, ok = other.disk[key]
			}
		}
		if ok && bytes.Equal(f.sha256(), want.Sha256) {
			w.disk[key] = f
		}
	}
	if !ok && !w.reaches(want.Worker) {
		return nil, true, fmt.Sprintf("worker %s, which has the file of step %d, cell %d, is away", want.Worker, m.Step, i)
	}
	if !ok || !bytes.Equal(f.sha256(), want.Sha256) {
		return nil, false, fmt.Sprintf("file of step %d, cell %d is missing or damaged", m.Step, i)
	}
	return &cell{step: m.Step, value: f.value}, false, ""
}

// reaches says whether a worker is there for this one.
func (w *worker) reaches(id string) bool {
	for _, other := range w.workers {
		if other.id == id {
			return other == w || other.alive && !other.off && !w.off
		}
	}
	return false
}

// over ends a run without a word.
func (w *worker) over(job string) {
	if r := w.runs[job]; r != nil {
		r.group.aborted = true
		w.ended[job] = max(w.ended[job], r.generation)
		delete(w.runs, job)
	}
}

// failsMemory reports that a cell cannot go on from memory.
func (w *worker) failsMemory(r *run, i int) {
	w.logf("worker %s has no step %d of cell %d of %s in memory", w.id, r.memory, i, r.job)
	w.over(r.job)
	w.queue(r.job, &commandpb.Command{Kind: &commandpb.Command_ReleaseJob{ReleaseJob: &commandpb.ReleaseJob{Job: r.job,
		Generation: r.generation, Reason: "not in memory", Memory: true}}})
}

func (w *worker) fails(r *run, why string) {
	if w.runs[r.job] != r {
		return
	}
	w.over(r.job)
	w.queue(r.job, &commandpb.Command{Kind: &commandpb.Command_ReleaseJob{ReleaseJob: &commandpb.ReleaseJob{Job: r.job,
		Generation: r.generation, Reason: why}}})
}

func (w *worker) revoke(job string, generation uint64) {
	if r := w.runs[job]; r != nil && r.generation <= generation {
		w.over(job)
	}
}

// stop agrees with the other cells on the step after the one the foremost is at.
func (w *worker) stop(job string, generation uint64) {
	r := w.runs[job]
	if r == nil || r.generation != generation || r.group.stopAt > 0 {
		return
	}
	for _, step := range r.group.at {
		r.group.stopAt = max(r.group.stopAt, step+1)
	}
}

func (w *worker) dropped(job string, steps []uint64) {
	for k := range w.disk {
		if k.job == job && slices.Contains(steps, k.step) {
			w.check.deletes(k)
			delete(w.disk, k)
		}
	}
}

// step takes every cell that can one step on: all others must be where it is, or one further.
func (w *worker) step(r *run) {
	if !w.alive || w.runs[r.job] != r {
		return
	}
	if r.group.aborted {
		if r.group.vetoed && w.r.IntN(2) == 0 { // it has heard why, or only that the peer is gone
			w.vetoes(r)
			return
		}
		w.fails(r, "a peer is lost")
		return
	}
	over := 0
	for i := range len(r.on) {
		c := r.cells[i]
		if c == nil {
			continue
		}
		if !c.over && (c.step >= r.spec.steps || w.together(r, c)) {
			if !w.advance(r, i, c) {
				return
			}
		}
		if c.over {
			over++
		}
	}
	if over == len(r.cells) {
		w.ended[r.job] = r.generation
		delete(w.runs, r.job)
		return
	}
	w.after(w.between(20*time.Millisecond, 250*time.Millisecond), func() { w.step(r) })
}

// together says whether all cells of the generation have come as far as c.
func (w *worker) together(r *run, c *cell) bool {
	for k := range r.on {
		if at, ok := r.group.at[k]; !ok || at < c.step {
			return false
		}
	}
	return true
}

// advance takes a cell one step on, writes what is to be written, and says whether the run goes on.
func (w *worker) advance(r *run, i int, c *cell) bool {
	stopping := false
	if c.step < r.spec.steps {
		if r.vetoed(i, c.step) {
			if r.spec.late && !c.open {
				r.provisional(i, c)
				return true
			}
			w.vetoes(r)
			return false
		}
		if !slices.Contains(r.skipped, c.step+1) {
			c.value = r.spec.next(c.value, c.step)
		}
		c.step++
		w.check.applies(r, i, c)
		c.arena.advance(c.step, c.value)
		r.group.at[i] = c.step
		w.check.finished(r)
		w.due(r, i, c)
		last := c.step == r.spec.steps
		stopping = !last && r.group.stopAt > 0 && c.step >= r.group.stopAt
		if last || stopping || c.step%r.spec.every == 0 {
			if !w.save(r, i, c) && (last || stopping) {
				w.fails(r, "disk full")
				return false
			}
		}
	}
	switch {
	case c.step == r.spec.steps:
		c.over = true
		w.queue(r.job,
			&commandpb.Command{Kind: &commandpb.Command_CellFinished{CellFinished: &commandpb.CellFinished{Job: r.job,
				Generation: r.generation, Cell: r.cell(i), Step: c.step, Digest: digest(c.value)}}})
	case stopping:
		c.over = true
		w.queue(r.job, &commandpb.Command{Kind: &commandpb.Command_CellStopped{CellStopped: &commandpb.CellStopped{Job: r.job,
			Generation: r.generation, Cell: r.cell(i), Step: c.step}}})
	}
	return true
}

// save writes a cell's file, if the disk is not full.
func (w *worker) save(r *run, i int, c *cell) bool {
	if w.chance(15) {
		w.queue(r.job, &commandpb.Command{Ignorable: true,
			Kind: &commandpb.Command_RecordEvent{RecordEvent: &commandpb.RecordEvent{
				Kind: "checkpoint-failed", Job: r.job, Worker: w.id, Text: "disk full"}}})
		return false
	}
	f := file{value: c.value, generation: r.generation}
	w.disk[fileKey{r.job, c.step, i, r.generation}] = f
	w.queue(r.job,
		&commandpb.Command{Kind: &commandpb.Command_CheckpointWritten{CheckpointWritten: &commandpb.CheckpointWritten{
			Job: r.job, Generation: r.generation, Step: c.step, PlanDigest: []byte("plan"), Numerics: "n",
			File: &commandpb.CheckpointFile{Cell: r.cell(i), Worker: w.id, Bytes: 16, Sha256: f.sha256(),
				Path: strconv.FormatUint(r.generation, 10), Digest: digest(c.value)}}}})
	return true
}
