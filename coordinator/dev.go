package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
	"colonnade/shard/job"
)

// devCmd is `coordinator dev`.
type devCmd struct {
	File    string `arg:"" name:"JOB.yaml" help:"Job file."`
	Workers int    `default:"2" help:"Worker processes to start."`
	Device  string `default:"cpu" help:"Device of every worker: see worker devices."`
	Data    string `default:"colonnade-data" placeholder:"DIR" help:"Directory of everything: the coordinator's state, the workers', checkpoints, logs."`
	Resume  bool   `help:"Go on with the job if DIR knows it already."`
	Carrier string `default:"auto" enum:"auto,grpc" help:"Carrier of the exchange: auto takes the fastest for each pair of cells, grpc is used even within one worker."`
	Program string `placeholder:"FILE" help:"Worker program. Default: worker, beside this program."`
}

// errInterrupted ends a run that was stopped on request.
var errInterrupted = errors.New("stopped")

// Run trains a job with everything on this machine.
func (c *devCmd) Run(con console) error {
	j, err := readJob(c.File)
	if err != nil {
		return err
	}
	program, err := c.program()
	if err != nil {
		return err
	}
	if c.Workers < 1 || c.Workers > 64 {
		return fmt.Errorf("--workers %d; start between 1 and 64", c.Workers)
	}
	d := &dev{devCmd: *c, con: con, job: j, workers: program}
	return d.run()
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
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("no worker program: %w; build it with: go build -o %s ./worker, or name it with --program",
			err, filepath.Dir(path))
	}
	return path, nil
}

// dev is one run of everything on one machine.
type dev struct {
	devCmd
	con     console
	job     *job.Job
	workers string // program
	node    *node
	log     *os.File
}

// run starts the coordinator, and all else under it, and waits for the end of both.
func (d *dev) run() error {
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
	d.node, err = newNode(nodeConfig{directory: d.Data, listener: l, log: slog.New(slog.NewTextHandler(d.log, nil))})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.node.Run(ctx) })
	var last *clusterpb.Job
	g.Go(func() (err error) {
		defer stop()
		last, err = d.train(ctx, l.Addr().String())
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	return d.end(last)
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
	if err := d.mayBegin(); err != nil {
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
func (d *dev) mayBegin() error {
	old, err := d.node.control.Job(d.job.Name)
	if errors.Is(err, fsm.ErrNoJob) || err == nil && d.Resume {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("job %s is in %s already (%s, step %d of %d); go on with it by adding --resume, or choose another "+
		"--data or job name", old.Name, d.Data, old.State, old.CommittedStep, old.Steps)
}

// follow submits the job and shows its progress. The first interrupt stops it after a checkpoint, a second one ends
// everything at once.
func (d *dev) follow(ctx context.Context, address string) (last *clusterpb.Job, err error) {
	name, err := d.node.control.Submit(ctx, d.job.Encode(), d.Resume)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupts)
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.onInterrupt(ctx, interrupts, name, cancel)
	}()
	defer func() { cancel(nil); <-done }()
	client := clientFlags{Coordinator: address}
	err = client.call(ctx, func(ctx context.Context, client clusterpb.OperatorClient) error {
		stream, err := client.WatchJob(ctx, &clusterpb.GetJobRequest{Name: name})
		if err != nil {
			return err
		}
		last, err = follow(d.con, stream)
		return err
	})
	if cause := context.Cause(ctx); errors.Is(cause, errInterrupted) {
		return last, fmt.Errorf("%w at once; go on from the newest checkpoint with: coordinator dev --data %s --resume %s",
			errInterrupted, d.Data, d.File)
	}
	return last, err
}

// onInterrupt stops the job at the first interrupt and everything at the second.
func (d *dev) onInterrupt(ctx context.Context, interrupts <-chan os.Signal, name string,
	cancel context.CancelCauseFunc) {
	select {
	case <-ctx.Done():
		return
	case <-interrupts:
	}
	fmt.Fprintln(d.con.err, "\nstopping after this step and a checkpoint; interrupt again to stop at once")
	if err := d.node.control.Stop(ctx, name, false); err != nil {
		cancel(fmt.Errorf("stop job: %w", err))
		return
	}
	select {
	case <-ctx.Done():
	case <-interrupts:
		cancel(errInterrupted)
	}
}

// end prints what the job came to.
func (d *dev) end(last *clusterpb.Job) error {
	if last.State == "stopped" {
		return fmt.Errorf("%w after step %d of %d; go on with: coordinator dev --data %s --resume %s", errInterrupted,
			last.CommittedStep, last.Steps, d.Data, d.File)
	}
	return printEnd(d.con.out, last)
}
