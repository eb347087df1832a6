package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/raftnode"
	"colonnade/proto/clusterpb"
)

// queueFlags are how a job is to stand in the queue; what is not given is as the job file has it, or stays.
type queueFlags struct {
	Priority   *int32  `placeholder:"N" help:"Priority in the queue for workers, -1000 to 1000; usual is 0. A higher one goes first, and has lower ones make way, after a checkpoint."`
	MaxWorkers *uint32 `placeholder:"N" help:"Workers that the job has at a time at most; 0: as many as it has cells."`
	MinWorkers *uint32 `placeholder:"N" help:"Workers without which the job does not begin; 0: one is enough, cells share it."`
}

// settings are the flags as settings of a job file, behind others.
func (f queueFlags) settings(before []string) []string {
	all := slices.Clone(before)
	if f.Priority != nil {
		all = append(all, fmt.Sprintf("queue.priority=%d", *f.Priority))
	}
	if f.MaxWorkers != nil {
		all = append(all, fmt.Sprintf("queue.max_workers=%d", *f.MaxWorkers))
	}
	if f.MinWorkers != nil {
		all = append(all, fmt.Sprintf("queue.min_workers=%d", *f.MinWorkers))
	}
	return all
}

type jobPriorityCmd struct {
	clientFlags
	Name       string  `arg:"" name:"NAME" help:"Job."`
	Priority   *int32  `arg:"" optional:"" name:"PRIORITY" help:"The new one, -1000 to 1000; usual is 0. One below 0 goes behind --, as in: -- -5."`
	MaxWorkers *uint32 `placeholder:"N" help:"Workers that the job has at a time at most; 0: as many as it has cells."`
	MinWorkers *uint32 `placeholder:"N" help:"Workers without which the job does not begin; 0: one is enough, cells share it."`
}

// Run changes how a job stands in the queue.
func (c *jobPriorityCmd) Run(con console) error {
	if c.Priority == nil && c.MaxWorkers == nil && c.MinWorkers == nil {
		return usagef("nothing is to change; give a priority, e.g.: coordinator job priority %s 5", c.Name)
	}
	request := raftnode.NewID()
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		j, err := client.SetQueue(ctx, &clusterpb.SetQueueRequest{Name: c.Name, Priority: c.Priority,
			MaxWorkers: c.MaxWorkers, MinWorkers: c.MinWorkers, Request: request})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, j)
		}
		_, err = fmt.Fprintf(con.out, "%s has priority %d, and %s; see: coordinator queue\n", j.Name, j.Priority, quota(j))
		return err
	})
}

// quota is how many workers a job may have and must have, in words.
func quota(j *clusterpb.Job) string {
	most := "as many workers as it has cells"
	if j.MaxWorkers > 0 {
		most = fmt.Sprintf("%d workers at most", j.MaxWorkers)
	}
	if j.MinWorkers > 1 {
		most += fmt.Sprintf(", %d at least", j.MinWorkers)
	}
	return most
}

type queueCmd struct{ clientFlags }

// Run shows the queue.
func (c *queueCmd) Run(con console) error {
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		reply, err := client.ListJobs(ctx, &clusterpb.ListJobsRequest{})
		if err != nil {
			return err
		}
		reply.Jobs = inQueue(reply.Jobs)
		if c.JSON {
			return printProto(con.out, reply)
		}
		return con.clipped(func(out io.Writer) error { return showQueue(out, reply.Jobs) })
	})
}

// inQueue are the jobs that have not ended: those that have workers, then those that wait for some, each in the order
// of the queue.
func inQueue(jobs []*clusterpb.Job) []*clusterpb.Job {
	jobs = slices.DeleteFunc(slices.Clone(jobs), func(j *clusterpb.Job) bool { return fsm.Ended(j.State) })
	slices.SortStableFunc(jobs, func(a, b *clusterpb.Job) int { // they come in the order they were submitted
		return cmp.Or(cmp.Compare(a.Place, b.Place), cmp.Compare(b.Priority, a.Priority))
	})
	return jobs
}

func showQueue(out io.Writer, jobs []*clusterpb.Job) error {
	if len(jobs) == 0 {
		_, err := fmt.Fprintln(out, "no job waits or runs; submit one with: coordinator job submit JOB.yaml")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "PLACE\tJOB\tPRIORITY\tSTATE\tWORKERS\tSTEP\tREASON")
	for _, j := range jobs {
		place := "-"
		if j.Place > 0 {
			place = strconv.Itoa(int(j.Place))
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%d/%d\t%s\n", place, j.Name, j.Priority, j.State, workersHeld(j), j.Step, j.Steps,
			j.Reason)
	}
	return w.Flush()
}

// workersHeld is how many workers a job has, and, if it was said how many it may or must have, that.
func workersHeld(j *clusterpb.Job) string {
	on := map[string]bool{}
	for _, p := range j.Placement {
		on[p.Worker] = j.Place == 0
	}
	held := 0
	for _, has := range on {
		if has {
			held++
		}
	}
	text := strconv.Itoa(held)
	if j.MaxWorkers > 0 {
		text += fmt.Sprintf(" of %d", j.MaxWorkers)
	}
	if j.MinWorkers > 1 {
		text += fmt.Sprintf(", least %d", j.MinWorkers)
	}
	return text
}

// placed is a job's reason, with its place in the queue if it waits there behind others.
func placed(j *clusterpb.Job) string {
	if j.Place <= 1 {
		return j.Reason
	}
	return fmt.Sprintf("place %d in the queue; %s", j.Place, j.Reason)
}

// showQueued says how a job stands in the queue, if anything about that is to be said.
func showQueued(out io.Writer, j *clusterpb.Job) {
	if j.Place > 0 {
		fmt.Fprintf(out, "  place in the queue: %d\n", j.Place)
	}
	if j.Priority != 0 || j.MaxWorkers > 0 || j.MinWorkers > 1 {
		fmt.Fprintf(out, "  priority %d, %s\n", j.Priority, quota(j))
	}
	if j.Preemptions > 0 {
		fmt.Fprintf(out, "  preempted: %d times, last by %s\n", j.Preemptions, j.PreemptedBy)
	}
}
