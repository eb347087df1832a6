package main

import (
	"context"
	"fmt"

	"colonnade/coordinator/raftnode"
	"colonnade/proto/clusterpb"
	"colonnade/shard/job"
)

type jobPauseCmd struct {
	clientFlags
	Name string `arg:"" name:"NAME" help:"Job."`
}

// Run pauses a job.
func (c *jobPauseCmd) Run(con console) error {
	request := raftnode.NewID()
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		j, err := client.PauseJob(ctx, &clusterpb.PauseJobRequest{Name: c.Name, Request: request})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, j)
		}
		words := "is " + j.State
		if j.State == "stopping" {
			words = "pauses after this step and a checkpoint"
		}
		_, err = fmt.Fprintf(con.out, "%s %s; go on with: coordinator job resume %s\n", j.Name, words, j.Name)
		return err
	})
}

type jobDeleteCmd struct {
	clientFlags
	Name string `arg:"" name:"NAME" help:"Job. It must be done, stopped, paused or failed, or have not begun."`
}

// Run deletes a job.
func (c *jobDeleteCmd) Run(con console) error {
	request := raftnode.NewID()
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		reply, err := client.DeleteJob(ctx, &clusterpb.DeleteJobRequest{Name: c.Name, Request: request})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, reply)
		}
		_, err = fmt.Fprintf(con.out, "%s is deleted, and so are its %d checkpoints\n", c.Name,
			len(reply.Checkpoints))
		return err
	})
}

type checkpointNowCmd struct {
	clientFlags
	Job string `arg:"" name:"JOB" help:"Job. It must run: it stops for the checkpoint and goes on in a new generation, from memory."`
}

// Run asks for a checkpoint.
func (c *checkpointNowCmd) Run(con console) error {
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		j, err := client.CheckpointNow(ctx, &clusterpb.CheckpointNowRequest{Name: c.Job})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, j)
		}
		_, err = fmt.Fprintf(con.out, "%s writes a checkpoint after this step and goes on; see: coordinator checkpoint "+
			"list %s\n", j.Name, j.Name)
		return err
	})
}

// stepArgs name a checkpoint.
type stepArgs struct {
	Job  string `arg:"" name:"JOB" help:"Job."`
	Step uint64 `arg:"" name:"STEP" help:"Step of the checkpoint: see coordinator checkpoint list."`
}

type checkpointPinCmd struct {
	clientFlags
	stepArgs
}

// Run pins a checkpoint.
func (c *checkpointPinCmd) Run(con console) error {
	return pinned(con, &c.clientFlags, c.stepArgs, false, "is kept until: coordinator checkpoint unpin")
}

type checkpointUnpinCmd struct {
	clientFlags
	stepArgs
}

// Run unpins a checkpoint.
func (c *checkpointUnpinCmd) Run(con console) error {
	return pinned(con, &c.clientFlags, c.stepArgs, true,
		"is dropped when it is old; keep it with: coordinator checkpoint pin")
}

func pinned(con console, flags *clientFlags, at stepArgs, undo bool, then string) error {
	return flags.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		reply, err := client.PinCheckpoint(ctx, &clusterpb.PinCheckpointRequest{Name: at.Job, Step: at.Step, Undo: undo})
		if err != nil {
			return err
		}
		if flags.JSON {
			return printProto(con.out, reply)
		}
		_, err = fmt.Fprintf(con.out, "the checkpoint of step %d of %s %s %s %d\n", at.Step, at.Job, then, at.Job, at.Step)
		return err
	})
}

type checkpointDeleteCmd struct {
	clientFlags
	stepArgs
}

// Run deletes a checkpoint.
func (c *checkpointDeleteCmd) Run(con console) error {
	request := raftnode.NewID()
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		reply, err := client.DeleteCheckpoint(ctx, &clusterpb.DeleteCheckpointRequest{Name: c.Job, Step: c.Step,
			Request: request})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, reply)
		}
		_, err = fmt.Fprintf(con.out, "the checkpoint of step %d of %s is deleted; %d are left\n", c.Step, c.Job,
			len(reply.Checkpoints))
		return err
	})
}

type checkpointForkCmd struct {
	clientFlags
	stepArgs
	Name string   `name:"job" required:"" placeholder:"NAME" help:"Name of the new job."`
	Set  []string `sep:"none" placeholder:"KEY=VALUE" help:"Change a value of the job, e.g. recipe.rate=0.001; several times for several."`
}

// Run forks a job.
func (c *checkpointForkCmd) Run(con console) error {
	return forkJob(con, &c.clientFlags, c.Job, c.Step, c.Name, c.Set)
}

// forkJob submits a job that goes on from a checkpoint of another one; step 0 is the newest good one.
func forkJob(con console, flags *clientFlags, from string, step uint64, name string, settings []string) error {
	if name == "" {
		return usagef("--from %s without a name for the new job; give one with --job NAME", from)
	}
	request := raftnode.NewID()
	return flags.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		parent, err := client.GetJob(ctx, &clusterpb.GetJobRequest{Name: from})
		if err != nil {
			return err
		}
		j, err := job.Fork(parent.Spec, name, settings)
		if err != nil {
			return fmt.Errorf("fork of %s: %w", from, err)
		}
		reply, err := client.SubmitJob(ctx, &clusterpb.SubmitJobRequest{Spec: j.Encode(), Request: request, FromJob: from,
			FromStep: step})
		if err != nil {
			return err
		}
		if flags.JSON {
			return printProto(con.out, reply)
		}
		fmt.Fprintf(con.out, "submitted %s, a fork of %s from step %d, %d steps in all\n", reply.Name, from,
			reply.Parent.GetStep(), reply.Steps)
		for _, change := range reply.Parent.GetChanges() {
			fmt.Fprintf(con.out, "  %s\n", change)
		}
		_, err = fmt.Fprintf(con.out, "follow it with: coordinator job watch %s\n", reply.Name)
		return err
	})
}
