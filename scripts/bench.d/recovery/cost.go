package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"colonnade/proto/clusterpb"
	"colonnade/scripts/cluster"
)

// Clusters take turns of this length: so short that nobody takes one that waits for its turn for a worker that has
// stopped, and long enough for ten steps.
const turn = 300 * time.Millisecond

// cost is what a step takes with some of what recovery needs, and what part more that is than without any.
type cost struct {
	Name    string  `json:"name"`
	Step    float64 `json:"step_seconds"`        // the median of all
	More    float64 `json:"more"`                // share of a step: 0.01 is 1 %; the mean over rounds of turns
	Error   float64 `json:"more_standard_error"` // of that mean
	Medians float64 `json:"more_by_medians"`     // of all steps of either cluster
	Steps   int     `json:"steps"`               // that were measured
	Control float64 `json:"coordinators_cores"`  // processor time of all coordinators, in cores
	// The same of the processor time that the workers take for a step: others on the machine hardly change it.
	Work      float64 `json:"work_seconds"`
	WorkMore  float64 `json:"work_more"`
	WorkError float64 `json:"work_more_standard_error"`
}

// costed is a cluster whose steps are measured.
type costed struct {
	way      way
	job      string
	programs string // others than the rest's
}

// costs are the clusters that are compared with the first: those of --costs, by key. Of the last, an earlier build's,
// there is only one if --before says where that is.
func (o *options) costs() (chosen []costed) {
	const plain, alone = "guard: {then: off}\n", "buddy: {every: 0}\n"
	none := []string{"--arenas", "none"}
	all := map[string]costed{
		"none":   {way: way{name: "no guard, no arenas", coordinators: 1, flags: none}, job: alone + plain},
		"arenas": {way: way{name: "arenas", coordinators: 1}, job: alone + plain},
		"guard":  {way: way{name: "guard", coordinators: 1, flags: none}, job: alone},
		"both":   {way: way{name: "guard, arenas", coordinators: 1}, job: alone},
		"copies": {way: way{name: "guard, arenas, copies every ten steps", coordinators: 1}, job: "buddy: {every: 10}\n"},
		"three": {way: way{name: "guard, arenas, copies every ten steps, three coordinators", coordinators: 3},
			job: "buddy: {every: 10}\n"},
	}
	for _, key := range o.chosen {
		chosen = append(chosen, all[key])
	}
	if o.before != "" {
		last := chosen[len(chosen)-1]
		last.way.name, last.programs = "the same of an earlier build", o.before
		chosen = append(chosen, last)
	}
	for i := range chosen {
		chosen[i].way.workers, chosen[i].way.apart = 2, true
		chosen[i].way.flags = append(chosen[i].way.flags, "--log-level", "debug") // it tells every step
		chosen[i].way.saves = 1_000_000                                           // the disk is no part of it
	}
	return chosen
}

// pace is a cluster that takes turns with others.
type pace struct {
	*rig
	turns []oneTurn
}

// oneTurn is from when to when a cluster ran, and the processor time that its workers took meanwhile.
type oneTurn struct {
	from, to time.Time
	work     time.Duration
	steps    []float64 // seconds of those that lie in it as a whole
	ended    int       // steps that ended in it
}

// cost trains the same job on clusters that take turns, one with nothing that recovery needs, and compares their steps.
// What a step took, its workers' logs say.
func (o *options) cost(ctx context.Context, pack string) (out []cost, err error) {
	big := *o
	big.kills = 1_000_000 // so many steps that the job does not end
	var all []*pace
	costs := o.costs()
	for i, c := range costs {
		w := c.way
		w.name = fmt.Sprint("cost-", i)
		with := big
		with.programs = cmp.Or(c.programs, big.programs)
		r, end, err := with.start(ctx, w, pack, c.job)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.way.name, err)
		}
		p := &pace{rig: r}
		defer end()
		defer p.signal(syscall.SIGCONT)
		if _, err := r.until(ctx, func(j *clusterpb.Job) bool { return j.Step > 20 }); err != nil {
			return nil, fmt.Errorf("%s: %w", c.way.name, err)
		}
		p.signal(syscall.SIGSTOP)
		// A cell that waits for long is no worry before the turns begin: a second later all are on.
		all = append(all, p)
	}
	control := make([]time.Duration, len(all))
	for i, p := range all {
		control[i] = -spent(p.c.Coordinators)
	}
	began := time.Now()
	length := min(o.limit, o.costFor)
	for n := 0; time.Since(began) < length || n%len(all) > 0; n++ {
		if err := all[n%len(all)].go1(ctx, n >= 3*len(all)); err != nil {
			return nil, err
		}
	}
	took := time.Since(began).Seconds()
	for i, p := range all {
		control[i] += spent(p.c.Coordinators)
		if err := p.read(); err != nil {
			return nil, fmt.Errorf("%s: %w", costs[i].way.name, err)
		}
		c := cost{Name: costs[i].way.name, Control: control[i].Seconds() / took}
		if err := p.against(all[0], &c); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func (p *pace) signal(s syscall.Signal) {
	for _, w := range p.c.Workers {
		w.Signal(s)
	}
}

// go1 is a turn.
func (p *pace) go1(ctx context.Context, counts bool) error {
	t := oneTurn{from: time.Now(), work: -spent(p.c.Workers)}
	p.signal(syscall.SIGCONT)
	select {
	case <-time.After(turn):
	case <-ctx.Done():
		return ctx.Err()
	}
	p.signal(syscall.SIGSTOP)
	if t.to = time.Now(); counts {
		t.work += spent(p.c.Workers)
		p.turns = append(p.turns, t)
	}
	return nil
}

// stepLine is how a worker's log tells of a step.
var stepLine = regexp.MustCompile(`^time=(\S+) level=DEBUG msg=step cell=r0c0 step=\d+ seconds=(\S+) `)

// read finds the steps of every turn in the workers' logs.
func (p *pace) read() error {
	for _, w := range p.c.Workers {
		b, err := os.ReadFile(w.Log)
		if err != nil {
			return err
		}
		next := 0
		for line := range strings.Lines(string(b)) {
			m := stepLine.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			at, err := time.Parse(time.RFC3339Nano, m[1])
			seconds, err2 := strconv.ParseFloat(m[2], 64)
			if err := errors.Join(err, err2); err != nil {
				return fmt.Errorf("%s: %w", w.Log, err)
			}
			for next < len(p.turns) && p.turns[next].to.Before(at) {
				next++
			}
			if next == len(p.turns) || at.Before(p.turns[next].from) {
				continue
			}
			t := &p.turns[next]
			if t.ended++; at.Add(-time.Duration(seconds * float64(time.Second))).After(t.from) {
				t.steps = append(t.steps, seconds)
			}
		}
	}
	return nil
}

// spent is the processor time of processes so far.
func spent(all []*cluster.Process) (total time.Duration) {
	for _, p := range all {
		total += processor(p)
	}
	return total
}

// processor is the processor time that a process has had, of threads that have ended too (proc(5): ticks of 10 ms).
func processor(p *cluster.Process) time.Duration {
	const tick = 10 * time.Millisecond
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	const user, system = 11, 12 // behind the name
	if err != nil || len(fields) <= system {
		return 0 // it has ended
	}
	var ticks [2]int64
	for i, f := range []int{user, system} {
		ticks[i], _ = strconv.ParseInt(fields[f], 10, 64) // the kernel writes numbers
	}
	return time.Duration(ticks[0]+ticks[1]) * tick
}

// rounds is how many turns are added up for a ratio: the kernel counts processor time in hundredths of a second.
const rounds = 4

// against compares with another cluster, some rounds of turns at a time.
func (p *pace) against(o *pace, c *cost) error {
	var more, work, mine, theirs []float64
	c.Work = perStep(p.turns)
	for i := 0; i+rounds <= min(len(p.turns), len(o.turns)); i += rounds {
		a, b := steps(p.turns[i:i+rounds]), steps(o.turns[i:i+rounds])
		if len(a) == 0 || len(b) == 0 {
			return errors.New("turns without a step: no other work may run on this machine")
		}
		mine, theirs = append(mine, a...), append(theirs, b...)
		mean, _ := meanOf(a)
		other, _ := meanOf(b)
		more = append(more, mean/other-1)
		work = append(work, perStep(p.turns[i:i+rounds])/perStep(o.turns[i:i+rounds])-1)
	}
	if len(more) < 2 {
		return errors.New("too short: give it a minute")
	}
	slices.Sort(mine)
	slices.Sort(theirs)
	c.Step, c.Steps = mine[len(mine)/2], len(mine)
	c.Medians = c.Step/theirs[len(theirs)/2] - 1
	c.More, c.Error = meanOf(more)
	c.WorkMore, c.WorkError = meanOf(work)
	return nil
}

// steps are the seconds of all whole steps in turns.
func steps(turns []oneTurn) (all []float64) {
	for _, t := range turns {
		all = append(all, t.steps...)
	}
	return all
}

// perStep is the processor time of a step in turns.
func perStep(turns []oneTurn) float64 {
	work, ended := 0., 0
	for _, t := range turns {
		work += t.work.Seconds()
		ended += t.ended
	}
	return work / float64(max(ended, 1))
}

// meanOf is the mean of values and its standard error.
func meanOf(values []float64) (mean, sure float64) {
	n := float64(len(values))
	for _, v := range values {
		mean += v / n
	}
	for _, v := range values {
		sure += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(sure / (n - 1) / n)
}
