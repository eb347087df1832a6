package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"colonnade/proto/clusterpb"
	"colonnade/scripts/cluster"
)

// Clusters take turns of this length: so short that nobody takes one that waits for its turn for a worker that has
// stopped, and long enough for ten steps.
const turn = 400 * time.Millisecond

// parts is in how many parts a measurement is cut, to know how sure it is.
const parts = 8

// cost is what a step takes with some of what recovery needs, and what part more that is than without any.
type cost struct {
	Name    string  `json:"name"`
	Step    float64 `json:"step_seconds"`
	More    float64 `json:"more"`                // share of a step: 0.01 is 1 %; the mean over parts of the measurement
	Error   float64 `json:"more_standard_error"` // of that mean
	Control float64 `json:"coordinators_cores"`  // processor time of all coordinators, in cores
}

var costs = []struct {
	way way
	job string
}{
	{way{name: "nothing", coordinators: 1, workers: 2, apart: true, flags: []string{"--arenas", "none"}},
		"buddy: {every: 0}\n"},
	{way{name: "arenas", coordinators: 1, workers: 2, apart: true}, "buddy: {every: 0}\n"},
	{way{name: "arenas, copies every ten steps, three coordinators", coordinators: 3, workers: 2, apart: true},
		"buddy: {every: 10}\n"},
}

// pace is a cluster that takes turns with others.
type pace struct {
	*rig
	mu     sync.Mutex
	active time.Duration // of all turns that are over
	since  time.Time     // of this turn; zero: it is another's
	began  bool          // its steps count
	at     []float64     // seconds of its own turns at which it was told of a new step
	steps  []float64
}

// cost trains the same job on clusters that take turns, one with nothing that recovery needs, and compares their steps.
// How far a cluster is, its workers say with every heartbeat.
func (o *options) cost(ctx context.Context, pack string) (out []cost, err error) {
	big := *o
	big.kills = 1_000_000 // so many steps that the job does not end
	var all []*pace
	var wg sync.WaitGroup
	watching, stop := context.WithCancel(ctx)
	defer wg.Wait()
	defer stop()
	for i, c := range costs {
		w := c.way
		w.name = fmt.Sprint("cost-", i)
		r, end, err := big.start(ctx, w, pack, c.job)
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
		wg.Go(func() { p.watch(watching) })
		control[i] = -p.control()
	}
	began := time.Now()
	length := min(o.limit, 90*time.Second)
	for n := 0; time.Since(began) < length || n%len(all) > 0; n++ {
		if err := all[n%len(all)].go1(ctx, n >= 3*len(all)); err != nil {
			return nil, err
		}
	}
	took := time.Since(began).Seconds()
	for i, p := range all {
		control[i] += p.control()
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
	p.mu.Lock()
	p.since, p.began = time.Now(), counts
	p.mu.Unlock()
	p.signal(syscall.SIGCONT)
	select {
	case <-time.After(turn):
	case <-ctx.Done():
		return ctx.Err()
	}
	p.signal(syscall.SIGSTOP)
	p.mu.Lock()
	p.active += time.Since(p.since)
	p.since = time.Time{}
	p.mu.Unlock()
	return nil
}

// watch notes how far the job is whenever that is told.
func (p *pace) watch(ctx context.Context) {
	last := uint64(0)
	_, _ = p.until(ctx, func(j *clusterpb.Job) bool { // it ends with ctx
		p.mu.Lock()
		defer p.mu.Unlock()
		if j.Step > last && !p.since.IsZero() && p.began {
			p.at = append(p.at, (p.active + time.Since(p.since)).Seconds())
			p.steps = append(p.steps, float64(j.Step))
		}
		last = max(last, j.Step)
		return false
	})
}

// control is the processor time of all coordinators so far.
func (p *pace) control() (total time.Duration) {
	for _, c := range p.c.Coordinators {
		total += processor(c)
	}
	return total
}

// processor is the processor time of all threads of a process that live (/proc/PID/task/TID/schedstat).
func processor(p *cluster.Process) (total time.Duration) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.Pid())) // the pattern is sound
	for _, path := range threads {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		var ns int64
		if _, err := fmt.Sscan(string(b), &ns); err == nil {
			total += time.Duration(ns)
		}
	}
	return total
}

// against compares with another cluster, part by part.
func (p *pace) against(o *pace, c *cost) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p != o {
		o.mu.Lock()
		defer o.mu.Unlock()
	}
	c.Step = slope(p.steps, p.at, 0, math.Inf(1))
	end := min(p.active, o.active).Seconds()
	begin := end
	for _, x := range []*pace{p, o} {
		if len(x.at) == 0 {
			return errors.New("nothing was heard of it")
		}
		begin = min(begin, x.at[0])
	}
	var more []float64
	for i := range parts {
		from, to := begin+(end-begin)*float64(i)/parts, begin+(end-begin)*float64(i+1)/parts
		mine, theirs := slope(p.steps, p.at, from, to), slope(o.steps, o.at, from, to)
		if mine > 0 && theirs > 0 {
			more = append(more, mine/theirs-1)
		}
	}
	if len(more) < 2 {
		return errors.New("too short: give it a minute")
	}
	for _, m := range more {
		c.More += m / float64(len(more))
	}
	for _, m := range more {
		c.Error += (m - c.More) * (m - c.More)
	}
	c.Error = math.Sqrt(c.Error / float64(len(more)-1) / float64(len(more)))
	return nil
}

// slope is how much y grows with x, by least squares, over the points whose y is from one number to another; 0 if there
// are too few.
func slope(x, y []float64, from, to float64) float64 {
	n, sx, sy, sxx, sxy := 0., 0., 0., 0., 0.
	for i := range x {
		if y[i] >= from && y[i] < to {
			u, v := x[i]-x[0], y[i]-y[0]
			n, sx, sy, sxx, sxy = n+1, sx+u, sy+v, sxx+u*u, sxy+u*v
		}
	}
	if d := n*sxx - sx*sx; n >= 3 && d > 0 {
		return (n*sxy - sx*sy) / d
	}
	return 0
}
