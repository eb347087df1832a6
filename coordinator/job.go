package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"colonnade/checkpoint/model"
	"colonnade/coordinator/raftnode"
	"colonnade/proto/clusterpb"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/shard/pack"
)

// jobCmd groups the commands about jobs.
type jobCmd struct {
	Submit   jobSubmitCmd   `cmd:"" help:"Submit a job file."`
	List     jobListCmd     `cmd:"" help:"List jobs."`
	Pause    jobPauseCmd    `cmd:"" help:"Pause a job at a step boundary, after a checkpoint."`
	Delete   jobDeleteCmd   `cmd:"" help:"Forget a job that does not run, and delete its checkpoints."`
	Show     jobShowCmd     `cmd:"" help:"Show one job."`
	Watch    jobWatchCmd    `cmd:"" help:"Follow a job until it ends."`
	Stop     jobStopCmd     `cmd:"" help:"Stop a job at a step boundary, after a checkpoint."`
	Priority jobPriorityCmd `cmd:"" help:"Change a job's priority in the queue for workers, and how many workers it may have and must have."`
	Resume   jobResumeCmd   `cmd:"" help:"Go on with a job that was stopped, has paused or has failed."`
}

type jobSubmitCmd struct {
	clientFlags
	File   string   `arg:"" optional:"" name:"JOB.yaml" help:"Job file. None with --from."`
	Resume bool     `help:"If the same job is there already, go on with it."`
	Set    []string `sep:"none" placeholder:"KEY=VALUE" help:"Change a value of the job, e.g. recipe.batch=64; several times for several."`
	From   string   `placeholder:"JOB[@STEP]" help:"Fork: go on from a checkpoint of this job, the newest good one unless a step is given, under another name and, with --set, another recipe."`
	Name   string   `name:"job" placeholder:"NAME" help:"With --from: name of the new job."`
	queueFlags
}

// Run submits a job.
func (c *jobSubmitCmd) Run(con console) error {
	switch {
	case c.From != "" && c.File != "":
		return usagef("%s and --from %s; a fork has the job file of %s, change it with --set", c.File, c.From, c.From)
	case c.From != "" && c.Resume:
		return usagef("--from and --resume; resume a fork with: coordinator job resume NAME")
	case c.From == "" && c.File == "":
		return usagef("there is no job file; give one: coordinator job submit JOB.yaml, or see scripts/jobs for examples")
	case c.From == "" && c.Name != "":
		return usagef("--job goes with --from; name the job in its file, or: --set job=%s", c.Name)
	}
	if c.From != "" {
		job, at, has := strings.Cut(c.From, "@")
		step, err := strconv.ParseUint(at, 10, 64)
		if has && (err != nil || step == 0) {
			return usagef("--from %s: %q is no step; give JOB@STEP, and see: coordinator checkpoint list %s", c.From, at, job)
		}
		return forkJob(con, &c.clientFlags, job, step, c.Name, c.settings(c.Set))
	}
	j, err := readJob(c.File, c.settings(c.Set)...)
	if err != nil {
		return err
	}
	request := raftnode.NewID() // the same however often it has to be asked
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		reply, err := client.SubmitJob(ctx, &clusterpb.SubmitJobRequest{Spec: j.Encode(), Resume: c.Resume,
			Request: request})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, reply)
		}
		if !c.Resume || reply.State == "queued" && reply.Generation == 0 {
			fmt.Fprintf(con.out, "submitted %s, %d steps; follow it with: coordinator job watch %s\n", reply.Name, reply.Steps,
				reply.Name)
			return nil
		}
		return printResumed(con.out, reply)
	})
}

// readJob reads a job file and everything it names that a coordinator must know: the network's text, the packs'
// headers.
func readJob(path string, settings ...string) (*job.Job, error) {
	j, network, err := readJobFile(path, settings...)
	if err != nil {
		return nil, err
	}
	base := filepath.Dir(path)
	train, err := packOf(relative(base, j.Data.Train))
	if err != nil {
		return nil, fmt.Errorf("%s: data.train: %w", path, err)
	}
	var test *job.Pack
	if j.Data.Test != "" {
		if test, err = packOf(relative(base, j.Data.Test)); err != nil {
			return nil, fmt.Errorf("%s: data.test: %w", path, err)
		}
	}
	if j.Start == nil {
		err = j.Resolve(string(network), train, test)
	} else {
		err = resolveStart(j, base, string(network), train, test)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return j, nil
}

// readJobFile reads a job file, and the text of its network.
func readJobFile(path string, settings ...string) (*job.Job, []byte, error) {
	text, err := shard.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("no job file %s; see scripts/jobs for examples", path)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read job file: %w; see scripts/jobs for examples", err)
	}
	if text, err = job.Set(text, settings); err != nil {
		return nil, nil, err
	}
	j, err := job.Parse(path, text)
	if err != nil {
		return nil, nil, err
	}
	if _, err := shard.EmbeddedText(j.Network); err != nil { // else it is a file
		j.Network = relative(filepath.Dir(path), j.Network)
	}
	_, network, err := shard.Load(j.Network)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: network: %w", path, err)
	}
	return j, []byte(network), nil
}

// resolveStart resolves a job that begins with a model, and reads the model: what is wrong with it is said now.
func resolveStart(j *job.Job, base, network string, train, test *job.Pack) error {
	file, err := filepath.Abs(relative(base, j.Start.From))
	if err != nil {
		return err
	}
	sum, err := model.Sum(file)
	if err != nil {
		return fmt.Errorf("start.from: %w; write one with: coordinator checkpoint export, or import", err)
	}
	j.SetStart(file, sum)
	if err := j.Resolve(network, train, test); err != nil {
		return err
	}
	_, err = model.StartOf(j, file)
	return err
}

// relative takes a path of a job file as relative to that file.
func relative(base, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(base, path)
}

// packOf reads what a job must know of a pack.
func packOf(path string) (*job.Pack, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	h, err := pack.ReadFile(abs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no pack at %s; make one with: worker data pack --from SRC --out %s", abs, path)
	}
	if err != nil {
		return nil, err
	}
	return &job.Pack{Path: abs, ID: fmt.Sprintf("%x", h.ID), Images: h.Images, Channels: h.Channels,
		Height: h.Height, Width: h.Width, Classes: len(h.Classes)}, nil
}

type jobListCmd struct{ clientFlags }

// Run lists the jobs.
func (c *jobListCmd) Run(con console) error {
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		reply, err := client.ListJobs(ctx, &clusterpb.ListJobsRequest{})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, reply)
		}
		if len(reply.Jobs) == 0 {
			fmt.Fprintln(con.out, "no jobs; submit one with: coordinator job submit JOB.yaml")
			return nil
		}
		w := tabwriter.NewWriter(con.out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "JOB\tSTATE\tPRIORITY\tSTEP\tCHECKPOINT\tGENERATION\tREASON")
		for _, j := range reply.Jobs {
			fmt.Fprintf(w, "%s\t%s\t%d\t%d/%d\t%d\t%d\t%s\n", j.Name, j.State, j.Priority, j.Step, j.Steps,
				j.CommittedStep, j.Generation, placed(j))
		}
		return w.Flush()
	})
}

type jobShowCmd struct {
	clientFlags
	Name string `arg:"" name:"NAME" help:"Job."`
}

// Run shows one job.
func (c *jobShowCmd) Run(con console) error {
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		j, err := client.GetJob(ctx, &clusterpb.GetJobRequest{Name: c.Name})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, j)
		}
		return showJob(con.out, j)
	})
}

type jobWatchCmd struct {
	clientFlags
	Name string `arg:"" name:"NAME" help:"Job."`
}

// Run follows a job until it ends; Ctrl-C ends the watching, not the job.
func (c *jobWatchCmd) Run(con console) error {
	return c.follow(con, &view{con: con, json: c.JSON})
}

// follow has v show a job until it ends, or the program is interrupted.
func (c *jobWatchCmd) follow(con console, v shower) error {
	ctx, stop := interruptible()
	defer stop()
	return c.call(ctx, func(ctx context.Context, client clusterpb.OperatorClient) error {
		last, err := c.watch(ctx, con, client, v)
		v.clear()
		if ctx.Err() != nil {
			v.note("the job goes on; stop it with: coordinator job stop %s", c.Name)
			return nil
		}
		if err != nil {
			return err
		}
		out := con.out
		if c.JSON {
			out = io.Discard // the last update has said it
		}
		return printEnd(out, last, "coordinator job resume "+c.Name)
	})
}

// watch follows a job. Training goes on without a coordinator, so a watcher waits for one that is away.
func (c *jobWatchCmd) watch(ctx context.Context, con console, client clusterpb.OperatorClient, v shower) (
	*clusterpb.Job, error) {
	var last *clusterpb.Job
	told := time.Time{} // when it was said that the coordinator is away
	for {
		if err := c.waitForLeader(ctx, client); err != nil {
			return last, err
		}
		v.begin(ctx, client, c.Name)
		stream, err := client.WatchJob(ctx, &clusterpb.GetJobRequest{Name: c.Name})
		if err == nil {
			var now *clusterpb.Job
			if now, err = follow(stream, v); now != nil {
				last = now
			}
		}
		if status.Code(err) != codes.Unavailable {
			return last, err
		}
		if now := con.now(); last != nil && now.Sub(told) > c.Timeout {
			told = now
			v.note("the coordinator is away; training goes on; looking for it for %v", c.Timeout)
		}
		again := time.NewTimer(leaderPoll)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return last, err
		}
	}
}

// waitForLeader returns when a coordinator answers and leads, and knows the job. Streams are of that one then.
func (c *jobWatchCmd) waitForLeader(ctx context.Context, client clusterpb.OperatorClient) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	_, err := client.GetJob(ctx, &clusterpb.GetJobRequest{Name: c.Name})
	return err
}

type jobStopCmd struct {
	clientFlags
	Name string `arg:"" name:"NAME" help:"Job."`
	Now  bool   `help:"At once, without a step boundary and a checkpoint."`
}

// Run stops a job.
func (c *jobStopCmd) Run(con console) error {
	request := raftnode.NewID()
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		j, err := client.StopJob(ctx, &clusterpb.StopJobRequest{Name: c.Name, Now: c.Now, Request: request})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, j)
		}
		switch {
		case j.State == "stopping":
			fmt.Fprintf(con.out, "%s stops after this step and a checkpoint; follow it with: coordinator job watch %s\n",
				j.Name, j.Name)
		case j.State == "stopped" && j.CommittedStep == 0:
			fmt.Fprintf(con.out, "%s is stopped and has no checkpoint; start it again with: coordinator job resume %s\n",
				j.Name, j.Name)
		case j.State == "stopped":
			fmt.Fprintf(con.out, "%s is stopped, its newest checkpoint is of step %d; go on with: coordinator job resume %s\n",
				j.Name, j.CommittedStep, j.Name)
		default:
			fmt.Fprintf(con.out, "%s is %s already; see: coordinator job show %s\n", j.Name, j.State, j.Name)
		}
		return nil
	})
}

type jobResumeCmd struct {
	clientFlags
	Name string  `arg:"" name:"NAME" help:"Job."`
	Step *uint64 `placeholder:"N" help:"Checkpoint to go on from; 0: from the start. Default: the newest good one."`

	SkipBatch   bool `xor:"batch" help:"Do without the batch that the job has paused for: its step changes nothing."`
	AcceptBatch bool `xor:"batch" help:"Train on the batch that the job has paused for, however high its loss."`
}

// Run resumes a job.
func (c *jobResumeCmd) Run(con console) error {
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		req := &clusterpb.ResumeJobRequest{Name: c.Name, Request: raftnode.NewID(), SkipBatch: c.SkipBatch,
			AcceptBatch: c.AcceptBatch}
		if c.Step != nil {
			req.Step, req.FromStep = *c.Step, true
		}
		j, err := client.ResumeJob(ctx, req)
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, j)
		}
		return printResumed(con.out, j)
	})
}

// printResumed says what a job that was resumed does now.
func printResumed(out io.Writer, j *clusterpb.Job) error {
	if j.State == "done" {
		return printEnd(out, j, "")
	}
	_, err := fmt.Fprintf(out, "%s is %s, step %d of %d; follow it with: coordinator job watch %s\n", j.Name, j.State,
		j.CommittedStep, j.Steps, j.Name)
	return err
}
