package sched

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// Patience is the times by which workers that do not get on are told apart.
type Patience struct {
	Silence time.Duration // a worker not heard of for so long has stopped, or is cut off
	// A cell is stuck that has been in a phase for Factor times as long as the phase usually takes, and at least for
	// Floor; where it is not known what is usual, for Unknown.
	Floor   time.Duration
	Factor  int
	Unknown time.Duration
	// A cell is slow that works on a step for Slow times as long as the others do, or as it has done before, and Least
	// longer; no longer when that falls below half of Slow.
	Slow  float64
	Least time.Duration
	Grace time.Duration // how long a stuck cell may stay stuck before its worker is replaced as a dead one is
}

// DefaultPatience suits heartbeats twice a second: what stops or gets stuck is named within two seconds.
var DefaultPatience = Patience{Silence: 1200 * time.Millisecond, Floor: time.Second, Factor: 4,
	Unknown: 30 * time.Second, Slow: 3, Least: 50 * time.Millisecond, Grace: 10 * time.Second}

// Place is a cell of a job.
type Place struct{ Replica, Column int32 }

// String gives the cell's short name, "r0c1".
func (p Place) String() string { return fmt.Sprintf("r%dc%d", p.Replica, p.Column) }

// Progress is what a worker last said of a cell of the newest generation.
type Progress struct {
	Cell     Place
	Worker   string
	Step     uint64 // finished steps
	Phase    string
	Train    bool // the cell runs; else it is being prepared, and has only a name for what it does
	InPhase  time.Duration
	Usual    time.Duration // of the phase; 0: not known
	WaitsFor []Place
	Busy     time.Duration // of a step, smoothed, without waiting; 0: not known
	Best     time.Duration // the least that Busy has been in this generation
	Heard    time.Time     // when this was said
}

// Watched is all that judging depends on.
type Watched struct {
	View     fsm.View
	Sessions Sessions
	Cells    map[string][]Progress // by job
	Named    map[string]bool       // keys of the troubles that were found the last time
	Patience Patience
}

// The kinds of trouble.
const (
	Halted = "stopped" // the process is stopped, or cut off: nothing is heard of it
	Stuck  = "stuck"   // it is there, but a cell does not get out of a phase
	Locked = "locked"  // cells wait for each other
	Slow   = "slow"    // it gets on, more slowly than others or than before
)

// Trouble is a worker that holds a job up.
type Trouble struct {
	Key        string // the same as long as it is the same trouble
	Kind       string
	Worker     string // empty: nobody's
	Job        string // empty: it has no cell
	Generation uint64
	Text       string // one line
	Replace    bool   // the grace is over
}

// Judge says who does not get on, in the order of workers, and when time alone will change that. It is pure.
func Judge(now time.Time, in Watched) (found []Trouble, next time.Time) {
	j := &watcher{now: now, in: in, tables: map[string]*table{}}
	silent := j.roll()
	for _, job := range in.View.Jobs { // in any order: what is found is put in order
		if underWay(job) {
			j.stuck(job)
			j.slow(job)
		}
	}
	if len(silent) > 0 {
		on := map[string]string{}
		for name, job := range in.View.Jobs {
			for _, p := range job.Placement {
				if was := on[p.Worker]; underWay(job) && (was == "" || name < was) {
					on[p.Worker] = name
				}
			}
		}
		j.found = slices.Grow(j.found, len(silent))
		for _, s := range silent {
			j.found = append(j.found, j.halt(s, on[s.Worker]))
		}
	}
	slices.SortStableFunc(j.found, func(a, b Trouble) int {
		return cmp.Or(cmp.Compare(a.Worker, b.Worker), cmp.Compare(a.Key, b.Key))
	})
	return j.found, j.next
}

// underWay says whether a job has cells that somebody may wait for. One whose generation has just ended is among them:
// who has ended it is told by others than the one who is to blame.
func underWay(j *commandpb.JobRecord) bool {
	return j.State == fsm.Running || j.State == fsm.Stopping || j.State == fsm.Recovering
}

type watcher struct {
	now    time.Time
	in     Watched
	tables map[string]*table // by job

	enrolled []fsm.Enrolled
	seats    []int32          // of the same: the place of a session that is connected, from 1; 0: there is none
	places   map[string]int32 // in the same; made when it is needed

	found []Trouble
	next  time.Time
}

// table is what is looked up in a job's cells again and again, made when it is first needed: most jobs get on.
type table struct {
	cells   []Progress
	of      map[string][]int // cells by worker
	waiting map[Place][]int  // cells that wait for a cell
	busy    []time.Duration  // of all cells that say it, ascending
}

func (j *watcher) table(job string) *table {
	t := j.tables[job]
	if t == nil {
		t = &table{cells: j.in.Cells[job]}
		j.tables[job] = t
	}
	return t
}

// by are the cells of a worker.
func (t *table) by(worker string) []int {
	if t.of == nil {
		t.of = map[string][]int{}
		for i, c := range t.cells {
			t.of[c.Worker] = append(t.of[c.Worker], i)
		}
	}
	return t.of[worker]
}

// waiters are the cells that wait for another one.
func (t *table) waiters(cell Place) []int {
	if t.waiting == nil {
		t.waiting = map[Place][]int{}
		for i, c := range t.cells {
			for k, p := range c.WaitsFor {
				if p != c.Cell && !slices.Contains(c.WaitsFor[:k], p) {
					t.waiting[p] = append(t.waiting[p], i)
				}
			}
		}
	}
	return t.waiting[cell]
}

// othersBusy is the median of what the other cells work on a step; 0: none says it.
func (t *table) othersBusy(c Progress) time.Duration {
	if t.busy == nil {
		for _, x := range t.cells {
			if x.Busy > 0 {
				t.busy = append(t.busy, x.Busy)
			}
		}
		slices.Sort(t.busy)
	}
	if len(t.busy) < 2 {
		return 0
	}
	// Taking one out that is not above the middle moves what is above down by one.
	middle := (len(t.busy) - 1) / 2
	if own, _ := slices.BinarySearch(t.busy, c.Busy); own <= middle {
		middle++
	}
	return t.busy[middle]
}

// uneven says whether some cell works on a step for longer than it may, measured by the least that any other does, or
// that it has done itself: if none does, none is slow, and nothing has to be put in order to see it.
func (t *table) uneven(p Patience) bool {
	least := time.Duration(math.MaxInt64)
	for i := range t.cells {
		if busy := t.cells[i].Busy; busy > 0 {
			least = min(least, busy)
		}
	}
	for i := range t.cells {
		c := &t.cells[i]
		against := least
		if c.Best > 0 {
			against = min(against, c.Best)
		}
		if c.Busy > 0 && c.Busy-against >= p.Least && c.Busy.Seconds() >= p.Slow/2*against.Seconds() {
			return true
		}
	}
	return false
}

// heard says whether a worker is connected and has been heard of of late.
func (j *watcher) heard(id string) bool {
	if j.places == nil {
		j.places = placesOf(j.enrolled)
	}
	at, there := j.places[id]
	return there && j.seats[at] > 0 && !j.quiet(&j.in.Sessions[j.seats[at]-1])
}

func (j *watcher) wakeAt(t time.Time) {
	if j.next.IsZero() || t.Before(j.next) {
		j.next = t
	}
}

// who names a worker and its device.
func (j *watcher) who(id string) string {
	w := j.in.View.Workers[id]
	if w == nil {
		return "worker " + id
	}
	return fmt.Sprintf("worker %s (%s)", w.Registered.GetName(), cmp.Or(w.Registered.GetDevice().GetName(), "device"))
}

// silent says whether nothing has been heard of a worker for too long, though it is connected.
func (j *watcher) silent(id string) bool {
	s := j.in.Sessions.Of(id)
	return s != nil && s.Connected && j.quiet(s)
}

func (j *watcher) quiet(s *Session) bool { return j.now.Sub(s.Heard) >= j.in.Patience.Silence }

// roll goes through workers and sessions side by side. It returns the sessions of those that have been silent for too
// long, and notes where the sessions of all are that are connected, and when the next will have been silent for too
// long.
func (j *watcher) roll() (silent []*Session) {
	next := 0
	j.enrolled = j.in.View.Enrolled()
	j.seats = make([]int32, len(j.enrolled))
	for i := range j.enrolled {
		w := &j.enrolled[i]
		for next < len(j.in.Sessions) && j.in.Sessions[next].Worker != w.ID && j.in.Sessions[next].Worker < w.ID {
			next++
		}
		if next == len(j.in.Sessions) || j.in.Sessions[next].Worker != w.ID || !j.in.Sessions[next].Connected {
			continue
		}
		j.seats[i] = int32(next + 1)
		switch s := &j.in.Sessions[next]; {
		case w.Lost:
		case j.quiet(s):
			silent = append(silent, s)
		default:
			j.wakeAt(s.Heard.Add(j.in.Patience.Silence))
		}
	}
	return silent
}

// halt names a worker that has been silent for too long, and what it was at.
func (j *watcher) halt(s *Session, job string) Trouble {
	id, heard := s.Worker, s.Heard
	t := Trouble{Key: fmt.Sprintf("%s %s %d", Halted, id, heard.UnixNano()), Kind: Halted, Worker: id, Job: job}
	t.Text = fmt.Sprintf("%s has stopped: not heard of for %s", j.who(id), seconds(j.now.Sub(heard)))
	if r := j.in.View.Jobs[job]; r != nil {
		t.Generation = r.Generation
		if c, ok := j.table(job).culprit(id); ok {
			t.Text = fmt.Sprintf("%s has stopped: %s", j.who(id), j.where(c, j.table(job)))
		}
	}
	return t
}

// culprit is the cell of a worker that others wait for, else its first that waits for nobody.
func (t *table) culprit(worker string) (Progress, bool) {
	best, rank := Progress{}, -1
	for _, i := range t.by(worker) {
		c, r := t.cells[i], 0
		switch waited := len(t.waiters(c.Cell)) > 0; {
		case waited && len(c.WaitsFor) == 0:
			r = 3
		case waited:
			r = 2
		case len(c.WaitsFor) == 0:
			r = 1
		}
		if r > rank {
			best, rank = c, r
		}
	}
	return best, rank >= 0
}

// where says in words where a cell is, for how long, and who waits for it. A cell that others have seen get further
// than it could still say itself is where they wait for it.
func (j *watcher) where(c Progress, t *table) string {
	waiting := t.waiters(c.Cell)
	at := fmt.Sprintf("%s in %s of step %d for %s", c.Cell, c.Phase, c.Step+1,
		seconds(c.InPhase+j.now.Sub(c.Heard)))
	if !c.Train {
		at = fmt.Sprintf("%s in %s for %s", c.Cell, c.Phase, seconds(c.InPhase+j.now.Sub(c.Heard)))
	}
	ahead := c
	for _, i := range waiting {
		if w := t.cells[i]; w.Train && w.Step > ahead.Step {
			ahead = w
		}
	}
	if ahead.Step > c.Step {
		at = fmt.Sprintf("%s before \"%s\" of step %d for %s (it was last heard of in %s of step %d)", c.Cell, ahead.Phase,
			ahead.Step+1, seconds(ahead.InPhase+j.now.Sub(ahead.Heard)), c.Phase, c.Step+1)
	}
	switch {
	case len(waiting) == 1:
		at += fmt.Sprintf("; %s waits for it", t.cells[waiting[0]].Cell)
	case len(waiting) > 1:
		at += fmt.Sprintf("; %s wait for it", some(waiting, func(i int) string { return t.cells[i].Cell.String() }))
	}
	return at
}

// most is how many cells a line names.
const most = 8

// some lists things in words: the first ones, and how many more there are.
func some[T any](all []T, word func(T) string) string {
	var words []string
	for _, x := range all[:min(len(all), most)] {
		words = append(words, word(x))
	}
	list := strings.Join(words, ", ")
	if more := len(all) - most; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return list
}

// limit is how long a cell may be in its phase.
func (j *watcher) limit(c Progress) time.Duration {
	if c.Usual == 0 {
		return j.in.Patience.Unknown
	}
	return max(j.in.Patience.Floor, time.Duration(j.in.Patience.Factor)*c.Usual)
}

// stuck looks for cells that others wait for and that are in one phase for far too long by what they said themselves,
// and, if there is none, for cells that all wait for each other.
func (j *watcher) stuck(job *commandpb.JobRecord) {
	if job.State == fsm.Recovering {
		return
	}
	cells := j.table(job.Submitted.GetJob())
	total := int(job.Submitted.GetReplicas() * job.Submitted.GetColumns())
	waiting, since := 0, time.Duration(0)
	for _, c := range cells.cells {
		if len(c.WaitsFor) > 0 {
			if c.Train && c.InPhase >= max(j.in.Patience.Floor, time.Duration(j.in.Patience.Factor)*c.Usual) &&
				j.heard(c.Worker) {
				waiting++
				since = max(since, c.InPhase+j.now.Sub(c.Heard))
			}
			continue
		}
		if c.InPhase < j.limit(c) || total > 1 && len(cells.waiters(c.Cell)) == 0 || !j.heard(c.Worker) {
			continue
		}
		in := c.InPhase + j.now.Sub(c.Heard)
		t := Trouble{Key: fmt.Sprintf("%s %s %s %d %s %d %s", Stuck, c.Worker, job.Submitted.Job, job.Generation, c.Cell,
			c.Step, c.Phase), Kind: Stuck, Worker: c.Worker, Job: job.Submitted.Job, Generation: job.Generation,
			Text: fmt.Sprintf("%s is stuck: %s", j.who(c.Worker), j.where(c, cells))}
		if c.Usual > 0 {
			t.Text += fmt.Sprintf("; usually it takes %s", seconds(c.Usual))
			t.Replace = j.overdue(in - j.limit(c))
		}
		j.found = append(j.found, t)
	}
	if total > 1 && waiting == total {
		who := some(cells.cells, func(c Progress) string {
			return fmt.Sprintf("%s for %s in %s of step %d", c.Cell, c.WaitsFor[0], c.Phase, c.Step+1)
		})
		j.found = append(j.found, Trouble{Key: fmt.Sprintf("%s %s %d", Locked, job.Submitted.Job, job.Generation),
			Kind: Locked, Job: job.Submitted.Job, Generation: job.Generation,
			Text: fmt.Sprintf("job %s does not get on: its cells wait for each other for %s: %s", job.Submitted.Job,
				seconds(since), who),
			Replace: j.overdue(since)})
	}
}

// overdue says whether a cell has been stuck for longer than the grace.
func (j *watcher) overdue(stuck time.Duration) bool {
	left := j.in.Patience.Grace - stuck
	if left > 0 {
		j.wakeAt(j.now.Add(left))
	}
	return left <= 0
}

// slow looks for cells that get on, but take much longer for a step than the others do, or than they did.
func (j *watcher) slow(job *commandpb.JobRecord) {
	if job.State != fsm.Running {
		return
	}
	cells := j.table(job.Submitted.GetJob())
	if !cells.uneven(j.in.Patience) {
		return
	}
	for _, c := range cells.cells {
		if c.Busy == 0 || !c.Train {
			continue
		}
		for _, against := range []struct {
			busy  time.Duration
			words string
		}{{cells.othersBusy(c), "as the others do"}, {c.Best, "as before"}} {
			times := j.in.Patience.Slow / 2
			if against.busy == 0 || c.Busy.Seconds() < times*against.busy.Seconds() ||
				c.Busy-against.busy < j.in.Patience.Least || j.silent(c.Worker) {
				continue
			}
			t := Trouble{Key: fmt.Sprintf("%s %s %s %d %s", Slow, c.Worker, job.Submitted.Job, job.Generation, c.Cell),
				Kind: Slow, Worker: c.Worker, Job: job.Submitted.Job, Generation: job.Generation}
			if !j.in.Named[t.Key] && c.Busy.Seconds() < 2*times*against.busy.Seconds() {
				continue
			}
			t.Text = fmt.Sprintf("%s is slow: %s works on a step for %s, %.1f times as long %s", j.who(c.Worker), c.Cell,
				seconds(c.Busy), c.Busy.Seconds()/against.busy.Seconds(), against.words)
			j.found = append(j.found, t)
			break
		}
	}
}

// seconds is a time span in words, to a tenth of a second, finer if it is shorter.
func seconds(d time.Duration) string {
	switch s := max(d, 0).Seconds(); {
	case s >= 1:
		return fmt.Sprintf("%.1f s", s)
	case s >= 0.01:
		return fmt.Sprintf("%.2f s", s)
	default:
		return fmt.Sprintf("%.4f s", s)
	}
}
