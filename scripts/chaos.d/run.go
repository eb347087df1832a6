package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"colonnade/proto/clusterpb"
	"colonnade/scripts/cluster"
)

const jobName = "blobs"

// patience is how long a job may need after the last fault is over, and how long a cluster may need to start: longer
// than any wait of the product by itself, on a machine that is busy with other things.
const patience = 2 * time.Minute

// point is a moment at which a step was there that was never there before.
type point struct {
	at   time.Time
	step uint64
}

// injected is a fault that was done.
type injected struct {
	Kind     string  `json:"kind"`
	What     string  `json:"what"`
	Step     uint64  `json:"step"`      // that all cells had finished
	At       float64 `json:"at"`        // seconds after the job was submitted
	Held     float64 `json:"held"`      // seconds until it was mended
	Stood    float64 `json:"stood"`     // the longest time without a new step from the fault until the next step after it
	AfterEnd float64 `json:"after_end"` // of it, seconds after the fault was mended
	at, end  time.Time
}

// outcome is what a run came to.
type outcome struct {
	Seed        uint64      `json:"seed"`
	Digest      string      `json:"digest"`
	Seconds     float64     `json:"seconds"`
	Faults      []*injected `json:"faults"`
	Generations int         `json:"generations"`
	Began       []string    `json:"generations_by_event"` // what the events say of them, in order
	Lost        uint64      `json:"steps_lost"`           // finished by all cells and done again
	StepsLost   []uint64    `json:"steps_lost_by_generation"`
	Goodput     float64     `json:"goodput"`      // share of the time that steps took that were finished once
	Steps       uint64      `json:"steps"`        // finished
	Step        float64     `json:"step_seconds"` // when nothing is wrong: the mean over Quiet
	Quiet       []stretch   `json:"quiet"`        // in which nothing was done
	Apart       bool        `json:"apart"`
	Ended       []string    `json:"ended_by_themselves"` // processes
	Trouble     string      `json:"trouble,omitempty"`
	Kept        string      `json:"kept,omitempty"` // directory with all logs
}

// action is something to do at a time.
type action struct {
	at time.Time
	do func() error
}

// run is a cluster, a job and what is done to them.
type run struct {
	settings
	plan
	c       *cluster.Cluster
	network *cluster.Network
	log     io.Writer
	began   time.Time
	points  []point
	queue   []action
	moved   time.Time // when there was a new step, or something was done
	done    []*injected
	stopped map[*cluster.Process]bool
	mounted []string
	expects map[*cluster.Process]bool // ended by us
	roomy   map[int]bool              // nodes whose disk was full and has room again
	ended   []string                  // how those ended that again started

	mu     sync.Mutex
	places []place // of cells, oldest first
	job    *clusterpb.Job
	events map[uint64]*clusterpb.LogEvent
}

// disturb runs a plan to its job's end; what is left goes with the directory, unless something is wrong.
func disturb(ctx context.Context, s settings, p plan) (o *outcome) {
	o = &outcome{Seed: p.seed, Apart: p.apart}
	dir := filepath.Join(s.dir, fmt.Sprintf("seed-%d", p.seed))
	r := &run{settings: s, plan: p, stopped: map[*cluster.Process]bool{}, expects: map[*cluster.Process]bool{},
		roomy: map[int]bool{}, events: map[uint64]*clusterpb.LogEvent{}}
	err := r.whole(ctx, dir, o)
	if err != nil && ctx.Err() == nil {
		o.Trouble, o.Kept = err.Error(), dir
	}
	return o
}

func (r *run) whole(ctx context.Context, dir string, o *outcome) (err error) {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "chaos.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	r.log = log
	launcher := cluster.NewLauncher()
	defer launcher.Close()
	if r.namespaces {
		r.network, err = cluster.Namespaced(launcher, nodes)
	} else {
		r.network = cluster.Loopback(launcher, nodes)
	}
	if err != nil {
		return err
	}
	defer r.network.Close()
	if err := r.mount(dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.unmount(err != nil)) }()
	memory, err := r.memory(dir)
	if err != nil {
		return err
	}
	defer os.RemoveAll(memory)
	r.c, err = cluster.New(cluster.Config{Dir: dir, Memory: memory, Coordinator: r.coordinator, Worker: r.worker,
		Coordinators: coordinators, Workers: workers, Apart: r.apart, Flags: []string{"--election-timeout", "300ms"},
		WorkerFlags: []string{"--threads", "1", "--carrier", r.carrier}}, launcher, r.network)
	if err != nil {
		return err
	}
	defer r.c.Close()
	starting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := r.c.Start(starting); err != nil {
		return err
	}
	if err := r.submit(starting); err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { r.watch(watching) })
	err = r.loop(ctx)
	stop()
	wg.Wait()
	r.sum(o)
	if err == nil && r.length == 0 { // else the job is not over
		err = r.after(ctx)
	}
	o.Ended = r.unexpected()
	return errors.Join(err, r.panics(dir))
}

func (r *run) say(format string, args ...any) {
	fmt.Fprintf(r.log, "%s %8.3f %s\n", time.Now().Format("15:04:05.000"), time.Since(r.began).Seconds(),
		fmt.Sprintf(format, args...))
}

// submit hands the job in.
func (r *run) submit(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, r.coordinator, "job", "submit", r.jobFile, "--coordinator", r.c.Addresses())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("submit: %w: %s", err, bytes.TrimSpace(out))
	}
	r.began = time.Now()
	return nil
}

// watch keeps what coordinators say of the job, through all that happens to them.
func (r *run) watch(ctx context.Context) {
	for ctx.Err() == nil {
		one, cancel := context.WithTimeout(ctx, 5*time.Second) // a stream may be silent because its node is cut off
		stream, err := r.c.Client.WatchJob(one, &clusterpb.GetJobRequest{Name: jobName}, grpc.WaitForReady(true))
		for err == nil {
			var u *clusterpb.JobUpdate
			if u, err = stream.Recv(); err == nil {
				r.saw(u)
			}
		}
		cancel()
		if ended(r.last()) {
			return
		}
		select { // without a leader every answer is an error, at once
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (r *run) saw(u *clusterpb.JobUpdate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range u.Events {
		r.events[e.Index] = e
	}
	r.job = u.Job
	if text := placeOf(u.Job); text != "" && (len(r.places) == 0 || r.places[len(r.places)-1].text != text) {
		r.places = append(r.places, place{time.Now(), text})
	}
}

// place is where cells are from a time on, and over what their messages travel.
type place struct {
	from time.Time
	text string
}

// placeOf is empty until all cells have said it.
func placeOf(j *clusterpb.Job) string {
	var words []string
	for _, p := range j.GetPlacement() {
		i := slices.IndexFunc(j.Cells, func(s *clusterpb.CellStatus) bool {
			return s.Cell.GetReplica() == p.Cell.GetReplica() && s.Cell.GetColumn() == p.Cell.GetColumn() && s.Carrier != ""
		})
		if i < 0 {
			return ""
		}
		words = append(words, fmt.Sprintf("r%dc%d on %s (%s)", p.Cell.GetReplica(), p.Cell.GetColumn(), p.WorkerName,
			j.Cells[i].Carrier))
	}
	return strings.Join(words, ", ")
}

func (r *run) last() *clusterpb.Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.job
}

func ended(j *clusterpb.Job) bool {
	return j != nil && (j.State == "done" || j.State == "failed" || j.State == "stopped" || j.State == "paused")
}

// loop does what is planned, each at its time, until the job has ended.
func (r *run) loop(ctx context.Context) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	next, planned := time.Time{}, 0
	var last *injected // that has to be over, and training gone on, before the next
	r.moved = time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		now := time.Now()
		if step := r.c.InMemory(jobName, 2); step > r.high() {
			r.points = append(r.points, point{now, step})
			r.moved = now
		}
		j := r.last()
		if ended(j) {
			return r.judge(j)
		}
		if err := errors.Join(r.due(now), r.again()); err != nil {
			return err
		}
		if r.length > 0 && len(r.points) > 0 && now.After(r.points[0].at.Add(r.length)) {
			return nil
		}
		switch {
		case r.every > 0:
			// The first comes half of the time between them after the start, the last half of it before the end.
			if planned < len(r.faults) && len(r.points) > 0 &&
				now.After(r.points[0].at.Add(time.Duration(planned)*r.every+r.every/2)) {
				planned++
				if _, err := r.inject(ctx, &r.faults[planned-1]); err != nil {
					return fmt.Errorf("%s: %w", r.faults[planned-1].kind.name, err)
				}
			}
		case r.high() < 5 || planned == len(r.faults): // it has not begun, or all is done
		case next.IsZero():
			if last == nil || !last.end.IsZero() && r.high() > last.Step && r.newest().After(last.end) {
				next = now.Add(r.faults[planned].after)
			}
		case now.After(next):
			f := &r.faults[planned]
			planned++
			next = time.Time{}
			i, err := r.inject(ctx, f)
			if err != nil {
				return fmt.Errorf("%s: %w", f.kind.name, err)
			}
			if last = nil; f.waits {
				last = i
			}
		}
		if since := time.Since(r.moved); since > patience {
			return fmt.Errorf("it hangs at step %d, %v after the last step or the last thing that was done: job %s, %s",
				r.high(), since.Round(time.Second), j.GetState(), j.GetReason())
		}
	}
}

// high is the newest step that all cells have ever had.
func (r *run) high() uint64 {
	if len(r.points) == 0 {
		return 0
	}
	return r.points[len(r.points)-1].step
}

// newest is when there last was a new step.
func (r *run) newest() time.Time {
	if len(r.points) == 0 {
		return time.Time{}
	}
	return r.points[len(r.points)-1].at
}

// due does what is due.
func (r *run) due(now time.Time) error {
	for i := 0; i < len(r.queue); {
		if a := r.queue[i]; !a.at.After(now) {
			r.queue = slices.Delete(r.queue, i, i+1)
			r.moved = now
			if err := a.do(); err != nil {
				return err
			}
			i = 0
			continue
		}
		i++
	}
	return nil
}

// again does what a coordinator asks for that ends because its disk is full: it is started again when there is room.
// Two of them would be a majority that never comes back.
func (r *run) again() error {
	for n := range coordinators {
		p := r.c.Coordinators[n]
		if !r.roomy[n] || p.Ended() == "" || r.expects[p] {
			continue
		}
		r.say("start node %d, which had ended by itself", n+1)
		r.ended = append(r.ended, howEnded(p))
		r.moved = time.Now()
		if err := r.c.StartCoordinator(n); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) in(d time.Duration, do func() error) {
	r.queue = append(r.queue, action{time.Now().Add(d), do})
}

// judge wants the undisturbed end.
func (r *run) judge(j *clusterpb.Job) error {
	switch got := hex.EncodeToString(j.Digest); {
	case j.State != "done":
		return fmt.Errorf("the job is %s: %s", j.State, j.Reason)
	case r.want != "" && got != r.want:
		return fmt.Errorf("digest %s, undisturbed it is %s", got, r.want)
	}
	return nil
}

// after mends all that is left, and wants a cluster that is whole and has forgotten the job's memory.
func (r *run) after(ctx context.Context) error {
	for _, a := range r.queue {
		if err := a.do(); err != nil {
			return err
		}
	}
	r.queue = nil
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := r.c.Until(ctx, "all workers are connected again", func(ctx context.Context) bool {
		for i := range coordinators {
			_ = r.c.StartCoordinator(i) // what ended by itself, on a full disk; it is counted
		}
		for i := range workers {
			_ = r.c.StartWorker(i)
		}
		s, err := r.c.Client.Status(ctx, &clusterpb.StatusRequest{})
		n := 0
		for _, w := range s.GetWorkers() {
			if w.State == "connected" {
				n++
			}
		}
		return err == nil && n == workers
	}); err != nil {
		return err
	}
	return r.c.Until(ctx, "no cell's state is left in memory", func(context.Context) bool {
		return len(r.c.Arenas()) == 0
	})
}

// unexpected are processes that ended without our doing.
func (r *run) unexpected() []string {
	out := r.ended
	for _, p := range slices.Concat(r.c.Coordinators, r.c.Workers) {
		if p != nil && p.Ended() != "" && !r.expects[p] {
			out = append(out, howEnded(p))
		}
	}
	return out
}

func howEnded(p *cluster.Process) string {
	return fmt.Sprintf("%s: %s", filepath.Base(p.Log), p.Ended())
}

// panics looks for what a program must never print.
func (r *run) panics(dir string) error {
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return err
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, bad := range []string{"panic: ", "fatal error: ", "SIGSEGV", "SIGBUS", "DATA RACE"} {
			if at := bytes.Index(b, []byte(bad)); at >= 0 {
				line, _, _ := strings.Cut(string(b[at:]), "\n")
				return fmt.Errorf("%s has: %s", filepath.Base(path), line)
			}
		}
	}
	return nil
}
