package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc"

	"colonnade/coordinator/raftnode"
	"colonnade/proto/clusterpb"
	"colonnade/scripts/cluster"
)

// way is one way to lose something.
type way struct {
	name                  string
	coordinators, workers int
	apart                 bool // a machine each
	back                  back
	lost                  string   // what is killed, stopped or stuck; "": nothing
	flags                 []string // of workers, besides
	saves                 int      // steps between checkpoints; 0: ten
	full                  *options // of the full-size network: batch, steps between kills and kills are others
}

// back is when a killed worker is started again.
type back int

const (
	atOnce back = iota
	afterwards
)

var ways = []way{
	{name: "undisturbed", coordinators: 1, workers: 2},
	{name: "spare", coordinators: 1, workers: 3, back: afterwards, lost: "worker"},
	{name: "restart", coordinators: 1, workers: 2, lost: "worker"},
	{name: "fewer", coordinators: 1, workers: 2, back: afterwards, lost: "worker"},
	{name: "machine", coordinators: 1, workers: 3, apart: true, back: afterwards, lost: "machine"},
	{name: "leader", coordinators: 3, workers: 2, lost: "leader"},
	{name: "stopped", coordinators: 1, workers: 2, lost: "stopped"},
	{name: "stuck", coordinators: 1, workers: 2, lost: "stuck"},
	{name: "alexnet", coordinators: 1, workers: 3, back: afterwards, lost: "worker",
		full: &options{network: "alexnet", batch: 32, every: 8, kills: 10}},
}

const jobName = "blobs"

// rig is a cluster with a job that trains.
type rig struct {
	options
	way
	c       *cluster.Cluster
	pack    string
	more    string // of the job
	toggled bool
}

// start starts a cluster and hands in its job; what it returns ends it.
func (o *options) start(ctx context.Context, w way, pack, job string) (r *rig, end func(), err error) {
	launcher := cluster.NewLauncher()
	network := cluster.Loopback(launcher, w.coordinators+w.workers)
	ends := []func(){launcher.Close, network.Close}
	end = func() {
		for _, f := range slices.Backward(ends) {
			f()
		}
	}
	defer func() {
		if err != nil {
			end()
		}
	}()
	memory, err := os.MkdirTemp("/dev/shm", "colonnade-recovery-")
	if err != nil {
		return nil, nil, err
	}
	ends = append(ends, func() { os.RemoveAll(memory) })
	dir := filepath.Join(o.dir, w.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, err
	}
	flags := []string{"--threads", "1"}
	if w.apart {
		flags = append(flags, "--carrier", "grpc")
	}
	r = &rig{options: *o, way: w, pack: pack, more: job}
	if f := w.full; f != nil {
		r.network, r.batch, r.every, r.options.kills = f.network, f.batch, f.every, min(f.kills, o.kills)
		if r.pack, err = o.pictures(); err != nil {
			return nil, nil, err
		}
	}
	r.c, err = cluster.New(cluster.Config{Dir: dir, Memory: memory, Coordinator: filepath.Join(o.programs, "coordinator"),
		Worker: filepath.Join(o.programs, "worker"), Coordinators: w.coordinators, Workers: w.workers, Apart: w.apart,
		WorkerFlags: append(flags, w.flags...)}, launcher, network)
	if err != nil {
		return nil, nil, err
	}
	ends = append(ends, r.c.Close)
	if err := r.c.Start(ctx); err != nil {
		return nil, nil, err
	}
	return r, end, r.submit(ctx, jobName)
}

// measure starts a cluster, disturbs it as the way says, and lets the job come to its end.
func (o *options) measure(ctx context.Context, w way, pack string, out *result) error {
	r, end, err := o.start(ctx, w, pack, "")
	if err != nil {
		return err
	}
	defer end()
	if w.lost == "leader" {
		if err := r.submit(ctx, "filler"); err != nil {
			return err
		}
	}
	if err := r.kills(ctx, out); err != nil || out.Skipped != "" {
		return err
	}
	j, err := r.until(ctx, func(j *clusterpb.Job) bool { return j.State == "done" })
	out.Digest = hex.EncodeToString(j.GetDigest())
	return err
}

// saves is how many steps lie between checkpoints: those of the full-size network are half a gigabyte each.
func (r *rig) saves() int {
	if r.full != nil {
		return 1000
	}
	return cmp.Or(r.way.saves, 10)
}

// length is how many steps the job has: enough for all kills. Around a leader's, three stretches are looked at.
func (r *rig) length() int {
	n := (r.options.kills + 2) * r.every
	if r.lost == "leader" {
		n *= 2
	}
	return n
}

// submit hands in a job; one that fills the queue while no worker is free for it.
func (r *rig) submit(ctx context.Context, name string) error {
	path := filepath.Join(r.c.Dir, name+".yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, `
job: %s
network: %s
columns: 2
seed: 5
data: {train: %s}
recipe: {batch: %d, steps: %d, rate: 0.01}
checkpoint: {every: %d, keep: 3}
%s`, name, r.network, r.pack, r.batch, r.length(), r.saves(), r.more), 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(r.programs, "coordinator"), "job", "submit", path, "--coordinator",
		r.c.Addresses())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("submit: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// until follows the job until when says so.
func (r *rig) until(ctx context.Context, when func(*clusterpb.Job) bool) (last *clusterpb.Job, err error) {
	for ctx.Err() == nil {
		stream, err := r.c.Client.WatchJob(ctx, &clusterpb.GetJobRequest{Name: jobName}, grpc.WaitForReady(true))
		for err == nil {
			var u *clusterpb.JobUpdate
			if u, err = stream.Recv(); err != nil {
				break
			}
			if last = u.Job; when(last) {
				return last, nil
			}
			if last.State == "failed" || last.State == "paused" {
				return last, fmt.Errorf("the job failed: %s", last.Reason)
			}
		}
	}
	return last, fmt.Errorf("waited in vain; the job is %s at step %d: %s", last.GetState(), last.GetStep(),
		last.GetReason())
}

// steps reads the newest step in memory, every millisecond, until it is beyond one; it tells when each came.
func (r *rig) steps(ctx context.Context, beyond uint64, saw func(step uint64, at time.Time)) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for last := uint64(0); ; {
		if step := r.c.InMemory(jobName, 2); step > last {
			saw(step, time.Now())
			if last = step; step > beyond {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("no step after %d: %w", beyond, ctx.Err())
		}
	}
}

func (r *rig) kills(ctx context.Context, out *result) error {
	var took []float64
	end := time.Now().Add(r.limit)
	for n := range r.options.kills {
		if time.Now().After(end) {
			out.Skipped = fmt.Sprintf("time was up after %d of %d", n, r.options.kills)
			break
		}
		var last time.Time
		var from uint64
		longest := 0.
		if err := r.steps(ctx, r.c.InMemory(jobName, 2)+uint64(r.every)/2, func(step uint64, at time.Time) {
			if from > 0 && step == from+1 {
				took = append(took, at.Sub(last).Seconds())
			}
			if from > 0 {
				longest = max(longest, at.Sub(last).Seconds())
			}
			last, from = at, step
		}); err != nil {
			return err
		}
		out.Quiet = append(out.Quiet, longest)
		switch r.lost {
		case "":
			continue
		case "leader":
			if err := r.leader(ctx, out); err != nil {
				return err
			}
		case "stopped", "stuck":
			if err := r.hang(ctx, n, out); err != nil {
				return err
			}
		default:
			if err := r.worker(ctx, n, out); err != nil {
				return fmt.Errorf("kill %d: %w", n+1, err)
			}
		}
	}
	slices.Sort(took)
	if len(took) > 0 {
		out.Step = took[len(took)/2]
	}
	return nil
}

// victim is a worker that has a column, the columns' in turn, once each has a worker of its own, so that what is lost
// is a column, and whoever is to help is there.
func (r *rig) victim(ctx context.Context, n int) (j *clusterpb.Job, w int, err error) {
	waiting, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	j, err = r.until(waiting, func(j *clusterpb.Job) bool {
		return j.State == "running" && len(j.Placement) == 2 && j.Placement[0].WorkerName != j.Placement[1].WorkerName
	})
	if err != nil {
		return nil, 0, fmt.Errorf("both columns on workers of their own: %w", err)
	}
	if err := r.connected(ctx); err != nil {
		return nil, 0, err
	}
	if _, err := fmt.Sscanf(j.Placement[n%2].WorkerName, "worker-%d", &w); err != nil {
		return nil, 0, err
	}
	return j, w - 1, nil
}

// worker kills one that has a column.
func (r *rig) worker(ctx context.Context, n int, out *result) error {
	j, w, err := r.victim(ctx, n)
	if err != nil {
		return err
	}
	if len(j.Cells) > 0 {
		out.Memory = j.Cells[0].Memory
	}
	generation := j.Generation
	began := time.Now()
	r.c.Workers[w].Kill()
	had := r.c.InMemory(jobName, 2) // nothing goes on without the dead one
	if r.lost == "machine" {
		if err := os.RemoveAll(r.c.MemoryOf(w)); err != nil {
			return err
		}
	}
	if r.back == atOnce {
		if err := r.c.StartWorker(w); err != nil {
			return err
		}
	}
	var at time.Time
	if err := r.steps(ctx, had, func(_ uint64, when time.Time) { at = when }); err != nil {
		return err
	}
	k := kill{Seconds: at.Sub(began).Seconds()}
	if r.back == afterwards {
		if r.lost == "machine" {
			if err := os.MkdirAll(r.c.MemoryOf(w), 0o755); err != nil {
				return err
			}
		}
		if err := r.c.StartWorker(w); err != nil {
			return err
		}
	}
	from, err := r.from(ctx, generation)
	if err != nil {
		return err
	}
	if from < had {
		k.Lost = had - from
	}
	out.Kills = append(out.Kills, k)
	if r.back == afterwards && r.workers == 2 {
		return r.apartAgain(ctx)
	}
	return nil
}

// apartAgain stops the job and resumes it, on both workers: by itself it would spread some ten seconds later.
func (r *rig) apartAgain(ctx context.Context) error {
	if err := r.connected(ctx); err != nil {
		return err
	}
	if _, err := r.c.Client.StopJob(ctx, &clusterpb.StopJobRequest{Name: jobName, Request: raftnode.NewID()}); err != nil {
		return err
	}
	if _, err := r.until(ctx, func(j *clusterpb.Job) bool { return j.State == "stopped" }); err != nil {
		return err
	}
	_, err := r.c.Client.ResumeJob(ctx, &clusterpb.ResumeJobRequest{Name: jobName, Request: raftnode.NewID()})
	return err
}

func (r *rig) connected(ctx context.Context) error {
	return r.c.Until(ctx, "all workers are connected", func(ctx context.Context) bool {
		s, err := r.c.Client.Status(ctx, &clusterpb.StatusRequest{})
		n := 0
		for _, w := range s.GetWorkers() {
			if w.State == "connected" {
				n++
			}
		}
		return err == nil && n == r.workers
	})
}

var fromStep = regexp.MustCompile(`: generation (\d+) from (?:step (\d+)|the start)`)

// from is the step that the first generation after one went on from.
func (r *rig) from(ctx context.Context, generation uint64) (uint64, error) {
	s, err := r.c.Client.Status(ctx, &clusterpb.StatusRequest{})
	if err != nil {
		return 0, err
	}
	for _, e := range s.Events {
		if m := fromStep.FindStringSubmatch(e.Text); m != nil && e.Kind == "generation" && e.Job == jobName {
			if g, _ := strconv.ParseUint(m[1], 10, 64); g > generation {
				step, _ := strconv.ParseUint(m[2], 10, 64) // "" is the start
				return step, nil
			}
		}
	}
	return 0, fmt.Errorf("no generation after %d, and yet there are new steps", generation)
}

// write has the control plane acknowledge a change: a queued job is stopped, or goes back to the queue.
func (r *rig) write(ctx context.Context) (err error) {
	if r.toggled = !r.toggled; r.toggled {
		_, err = r.c.Client.StopJob(ctx, &clusterpb.StopJobRequest{Name: "filler", Request: raftnode.NewID()})
	} else {
		_, err = r.c.Client.ResumeJob(ctx, &clusterpb.ResumeJobRequest{Name: "filler", Request: raftnode.NewID()})
	}
	return err
}

// leader kills the coordinator that leads, and looks at steps and writes meanwhile.
func (r *rig) leader(ctx context.Context, out *result) error {
	lead := r.c.Leader(ctx)
	if lead < 0 {
		return errors.New("nobody leads")
	}
	for range 5 { // everyone is up and has a connection
		if err := r.write(ctx); err != nil {
			return err
		}
	}
	spent := func() (control, workers float64) {
		for i, p := range r.c.Coordinators {
			if i != lead {
				control += processor(p).Seconds()
			}
		}
		for _, p := range r.c.Workers {
			workers += processor(p).Seconds()
		}
		return control, workers
	}
	stretch := func(saw func(uint64, time.Time)) (control, workers float64, err error) {
		c0, w0 := spent()
		err = r.steps(ctx, r.c.InMemory(jobName, 2)+uint64(r.every)/2, saw)
		c1, w1 := spent()
		return c1 - c0, w1 - w0, err
	}
	k := kill{}
	var err error
	if k.Before, k.WBefore, err = stretch(func(uint64, time.Time) {}); err != nil {
		return err
	}
	began := time.Now()
	var at time.Time
	wrote := make(chan error, 1)
	r.c.Coordinators[lead].Kill()
	go func() {
		err := r.write(ctx)
		at = time.Now()
		wrote <- err
	}()
	var last time.Time
	if k.Control, k.Workers, err = stretch(func(_ uint64, when time.Time) {
		if !last.IsZero() {
			k.Gap = max(k.Gap, when.Sub(last).Seconds())
		}
		last = when
	}); err != nil {
		return err
	}
	if err := <-wrote; err != nil {
		return err
	}
	k.Seconds = at.Sub(began).Seconds()
	out.Kills = append(out.Kills, k)
	return r.c.StartCoordinator(lead)
}
