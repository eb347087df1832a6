package main

import (
	"context"
	"fmt"
	"slices"

	"colonnade/proto/clusterpb"
)

// logsCmd is `coordinator logs`.
type logsCmd struct {
	clientFlags
	Of     string `arg:"" optional:"" name:"JOB|WORKER" help:"Only what is about this job, or of this worker: its name, its id or the beginning of that. Default: all."`
	Last   uint32 `short:"n" default:"100" placeholder:"N" help:"At most so many of those that there are, the newest; 0: all that the leader has. Default: 100."`
	Follow bool   `short:"f" help:"Go on with what comes, until interrupted."`
}

// Run shows workers' logs, oldest first.
func (c *logsCmd) Run(con console) error {
	ctx, stop := interruptible()
	defer stop()
	r := &clusterpb.LogsRequest{Last: c.Last, Follow: c.Follow}
	if c.Of != "" {
		err := c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
			jobs, err := client.ListJobs(ctx, &clusterpb.ListJobsRequest{})
			if err != nil {
				return err
			}
			if slices.ContainsFunc(jobs.Jobs, func(j *clusterpb.Job) bool { return j.Name == c.Of }) {
				r.Job = c.Of
				return nil
			}
			if r.Worker, err = namedWorker(ctx, client, c.Of); err != nil {
				return fmt.Errorf("there is no job %q, and %w, or: coordinator job list", c.Of, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	shown := 0
	return c.tail(ctx, con, c.Follow, func(ctx context.Context, client clusterpb.OperatorClient) error {
		stream, err := client.Logs(ctx, r)
		if err != nil {
			return err
		}
		return received(stream, func(reply *clusterpb.LogsReply) error {
			for _, one := range reply.Records {
				if err := c.print(con, one); err != nil {
					return err
				}
				r.After, r.Last = one.Sequence, 0 // where to go on
				shown++
			}
			r.Source = reply.Source
			if shown == 0 && !c.Follow && !c.JSON {
				_, err := fmt.Fprintln(con.out, "the leader has no such lines; wait for them with: coordinator logs --follow")
				return err
			}
			return nil
		})
	})
}

func (c *logsCmd) print(con console, r *clusterpb.LogRecord) error {
	if c.JSON {
		return printLine(con.out, r)
	}
	if r.LeftOut > 0 {
		fmt.Fprintf(con.out, "(%d lines of %s were too many)\n", r.LeftOut, r.WorkerName)
	}
	_, err := fmt.Fprintf(con.out, "%s  %s %s  %s\n", r.At.AsTime().Local().Format(dayAndTime), r.WorkerName, r.Level,
		r.Text)
	return err
}
