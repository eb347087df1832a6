package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"colonnade/checkpoint/bearer"
	"colonnade/coordinator/fsm"
	"colonnade/coordinator/raftnode"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
	"colonnade/shard/job"
)

// devCmd is `coordinator dev`.
type devCmd struct {
	File    string `arg:"" name:"JOB.yaml" help:"Job file."`
	Workers int    `default:"${workers}" help:"Worker processes to start."`
	Threads int    `default:"${threads}" help:"Threads of all workers together, shared out among them; the result is the same with any number. Default: all cores this process may use."`
	Device  string `default:"cpu" help:"Device of every worker: see worker devices."`
	Data    string `default:"colonnade-data" placeholder:"DIR" help:"Directory of everything: the coordinator's state, the workers', checkpoints, logs."`
	HTTP    string `name:"http" default:"${web}" placeholder:"ADDR" help:"Loopback address of the dashboard; another port if that one is in use; none: no dashboard."`
	Resume  bool   `help:"Go on with the job if DIR knows it already."`

	SkipBatch   bool `xor:"batch" help:"With --resume: do without the batch that the job has paused for."`
	AcceptBatch bool `xor:"batch" help:"With --resume: train on the batch that the job has paused for, however high its loss."`

	Carrier string `default:"auto" enum:"auto,shm,grpc" help:"Carrier of the exchange: auto takes the fastest for each pair of cells; shm (shared memory of one host) and grpc are used even within one worker, or not at all."`
	JSON    bool   `help:"Print every update as a line of JSON, in the words of proto/clusterpb/cluster.proto."`
	Program string `placeholder:"FILE" help:"Worker program. Default: worker, beside this program."`
}

// defaultWorkers is how many workers dev starts.
const defaultWorkers = 2

// defaultThreads is how many threads can run at once: the cores this process is bound to, and no more than what a
// container's limit amounts to, which GOMAXPROCS knows.
func defaultThreads() int { return min(runtime.NumCPU(), runtime.GOMAXPROCS(0)) }

// maxThreads is more than any machine has.
const maxThreads = 4096

// errInterrupted ends a run that was stopped on request.
var errInterrupted = errors.New("stopped")

// Run trains a job with everything on this machine.
func (c *devCmd) Run(con console) error {
	if c.Workers < 1 || c.Workers > 64 {
		return usagef("--workers %d; start between 1 and 64", c.Workers)
	}
	if c.Threads < 1 || c.Threads > maxThreads {
		return usagef("--threads %d; give between 1 and %d, or leave it out to use all %d cores", c.Threads, maxThreads,
			defaultThreads())
	}
	j, err := readJob(c.File)
	if err != nil {
		return err
	}
	program, err := c.program()
	if err != nil {
		return err
	}
	d := &dev{devCmd: *c, con: con, view: &view{con: con, json: c.JSON}, job: j, workers: program}
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupts)
	return d.run(interrupts)
}

// program finds the worker program.
func (c *devCmd) program() (string, error) {
	path := c.Program
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find the worker program: %w; name it with --program", err)
		}
		path = filepath.Join(filepath.Dir(self), "worker")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("find the worker program: %w; name it with --program", err)
	}
	if _, err := exec.LookPath(path); err != nil {
		return "", fmt.Errorf("no worker program: %w; build it with: go build -o %s ./worker, or name it with --program",
			err, filepath.Dir(path))
	}
	return path, nil
}

// dev is one run of everything on one machine.
type dev struct {
	devCmd
	con     console
	view    *view
	job     *job.Job
	workers string // program
	node    *node
	log     *os.File
}

// run starts the coordinator, and all else under it, and waits for the end of both.
func (d *dev) run(interrupts <-chan os.Signal) error {
	if err := os.MkdirAll(filepath.Join(d.Data, "logs"), 0o755); err != nil {
		return fmt.Errorf("data directory: %w; choose another --data", err)
	}
	var err error
	if d.log, err = d.openLog("coordinator"); err != nil {
		return err
	}
	defer d.log.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen on loopback: %w", err)
	}
	defer l.Close()
	cfg := nodeConfig{directory: d.Data, listener: l, log: slog.New(slog.NewTextHandler(d.log, nil))}
	if d.HTTP != noAddress {
		if cfg.http, err = d.page(); err != nil {
			return err
		}
		defer cfg.http.Close()
	}
	if d.node, err = newNode(cfg); err != nil {
		return err
	}
	if cfg.http != nil {
		d.view.note("dashboard: http://%s", cfg.http.Addr())
	}
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		d.onInterrupt(ctx, interrupts, stop)
	}()
	g, running := errgroup.WithContext(ctx)
	g.Go(func() error { return d.node.Run(running) })
	var last *clusterpb.Job
	g.Go(func() (err error) {
		defer stop(nil)
		last, err = d.train(running, l.Addr().String())
		return err
	})
	err = g.Wait()
	<-watched
	if cause := context.Cause(ctx); errors.Is(cause, errInterrupted) {
		return cause
	}
	if err != nil {
		return err
	}
	return d.end(last)
}

// page opens the dashboard's port, or any if that one is in use: several runs on one machine are nothing special.
func (d *dev) page() (net.Listener, error) {
	if err := checkAddress("--http", d.HTTP); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", d.HTTP)
	if errors.Is(err, syscall.EADDRINUSE) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, fmt.Errorf("--http %s: %w; choose another --http, or none", d.HTTP, err)
	}
	if !bearer.Loopback(l.Addr()) {
		return nil, errors.Join(usagef("--http %s is open to the network; dev serves its dashboard on loopback only, e.g. %s",
			d.HTTP, defaultWeb), l.Close())
	}
	return l, nil
}

// openLog opens the log of one of the processes, behind what it wrote before.
func (d *dev) openLog(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(d.Data, "logs", name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w; choose another --data", err)
	}
	return f, nil
}

// startLimit bounds how long the coordinator and the workers may take to start.
const startLimit = 60 * time.Second

// train starts the workers, submits the job and follows it to its end; the workers have ended when it returns.
func (d *dev) train(ctx context.Context, address string) (*clusterpb.Job, error) {
	starting, started := context.WithTimeoutCause(ctx, startLimit,
		fmt.Errorf("not everything has started within %v; see %s", startLimit, filepath.Join(d.Data, "logs")))
	defer started()
	if err := d.node.control.Ready(starting); err != nil {
		return nil, err
	}
	if err := d.mayBegin(starting); err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	ctx, stopWorkers := context.WithCancel(ctx)
	starting, cancel := context.WithCancelCause(starting)
	defer cancel(nil)
	for i := range d.Workers {
		g.Go(func() error {
			err := d.keepWorker(ctx, i+1, address)
			if err != nil {
				cancel(err)
			}
			return err
		})
	}
	var last *clusterpb.Job
	g.Go(func() (err error) {
		defer stopWorkers()
		if err := d.node.control.WaitWorkers(starting, d.Workers); err != nil {
			return err
		}
		last, err = d.follow(ctx, address)
		return err
	})
	err := g.Wait()
	stopWorkers()
	return last, err
}

// mayBegin refuses to touch a job that is there already unless it was asked to go on with it.
func (d *dev) mayBegin(ctx context.Context) error {
	old, err := d.node.control.Job(ctx, d.job.Name)
	if errors.Is(err, fsm.ErrNoJob) || err == nil && d.Resume {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("job %s is in %s already (%s, step %d of %d); go on with it by adding --resume, or choose another "+
		"--data or job name", old.Name, d.Data, old.State, old.CommittedStep, old.Steps)
}

// follow submits the job and shows its progress.
func (d *dev) follow(ctx context.Context, address string) (last *clusterpb.Job, err error) {
	if d.SkipBatch || d.AcceptBatch {
		err := d.node.control.Resume(ctx, &commandpb.ResumeJob{Job: d.job.Name, Request: raftnode.NewID(),
			SkipBatch: d.SkipBatch, AcceptBatch: d.AcceptBatch})
		if err != nil {
			return nil, err
		}
	}
	name, err := d.node.control.Submit(ctx, d.job.Encode(), d.Resume, raftnode.NewID())
	if err != nil {
		return nil, err
	}
	client := clientFlags{Coordinator: []string{address}, Timeout: startLimit}
	err = client.call(ctx, func(ctx context.Context, client clusterpb.OperatorClient) error {
		stream, err := client.WatchJob(ctx, &clusterpb.GetJobRequest{Name: name})
		if err != nil {
			return err
		}
		last, err = d.view.follow(stream)
		return err
	})
	return last, err
}

// onInterrupt stops the job after a checkpoint at the first interrupt and everything at the second, or at the first one
// if there is no job yet.
func (d *dev) onInterrupt(ctx context.Context, interrupts <-chan os.Signal, stop context.CancelCauseFunc) {
	select {
	case <-ctx.Done():
		return
	case <-interrupts:
	}
	if j, err := d.node.control.Job(ctx, d.job.Name); err != nil || ended(j) {
		stop(fmt.Errorf("%w before the job began; start again with: %s", errInterrupted, d.again()))
		return
	}
	d.view.note("stopping after this step and a checkpoint; interrupt again to stop at once")
	if err := d.node.control.Stop(ctx, d.job.Name, false, ""); err != nil && ctx.Err() == nil {
		stop(fmt.Errorf("%w, and the job could not be: %w; go on with: %s", errInterrupted, err, d.again()))
		return
	}
	select {
	case <-ctx.Done():
	case <-interrupts:
		stop(fmt.Errorf("%w at once; go on from the newest checkpoint with: %s", errInterrupted, d.again()))
	}
}

// again is the command that goes on with this run.
func (d *dev) again() string {
	c := "coordinator dev --resume --data " + d.Data
	if d.Workers != defaultWorkers {
		c += fmt.Sprintf(" --workers %d", d.Workers)
	}
	if d.Threads != defaultThreads() {
		c += fmt.Sprintf(" --threads %d", d.Threads)
	}
	return c + " " + d.File
}

// end prints what the job came to.
func (d *dev) end(last *clusterpb.Job) error {
	if last.State == "stopped" {
		return fmt.Errorf("%w after step %d of %d; go on with: %s", errInterrupted, last.CommittedStep, last.Steps, d.again())
	}
	out := d.con.out
	if d.JSON {
		out = io.Discard // the last update has said it
	}
	if err := printEnd(out, last, d.again()); err != nil || d.JSON || last.State != fsm.Done {
		return err
	}
	program := cmp.Or(d.con.program, "coordinator")
	d.view.note("its weights, for other programs: %s checkpoint export %s --dir %s", program, last.Name,
		filepath.Join(d.Data, "checkpoints"))
	d.view.note("its page and curves again: %s start --data %s", program, d.Data)
	return nil
}
