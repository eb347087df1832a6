package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"colonnade/proto/clusterpb"
)

// workerCmd groups the commands about workers.
type workerCmd struct {
	List  workerListCmd  `cmd:"" help:"List the workers: what they run, what they wait for, what is the matter."`
	Drain workerDrainCmd `cmd:"" help:"Have a worker's cells go elsewhere, at a step boundary, and none come to it, so that it can be stopped."`
}

type workerListCmd struct{ clientFlags }

// Run lists the workers.
func (c *workerListCmd) Run(con console) error {
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		reply, err := client.ListWorkers(ctx, &clusterpb.ListWorkersRequest{})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, reply)
		}
		return listWorkers(con.out, reply.Workers)
	})
}

// listWorkers prints a table of workers.
func listWorkers(out io.Writer, workers []*clusterpb.Worker) error {
	if len(workers) == 0 {
		_, err := fmt.Fprintln(out, "no workers; start one with: worker run --coordinator ADDR --data DIR")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "WORKER\tNAME\tSTATE\tCELLS\tLEASE\tHOST\tADDRESS\tDEVICE\tNUMERICS")
	for _, k := range workers {
		lease := "-"
		if k.State == "connected" {
			lease = (time.Duration(k.LeaseLeftMs) * time.Millisecond).Round(100 * time.Millisecond).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.Id, k.Name, stateOf(k), cellsOf(k), lease, k.Host, k.Address,
			k.Device.GetModel(), k.Device.GetNumerics())
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := showBuddies(out, workers); err != nil {
		return err
	}
	return showNotes(out, workers)
}

// showNotes says what is the matter with workers.
func showNotes(out io.Writer, workers []*clusterpb.Worker) error {
	for _, k := range workers {
		if k.Note == "" {
			continue
		}
		note := k.Note
		if !strings.Contains(note, k.Name) {
			note = fmt.Sprintf("worker %s %s", k.Name, note)
		}
		if _, err := fmt.Fprintln(out, note); err != nil {
			return err
		}
	}
	return nil
}

// showBuddies says on which workers copies of cells' states go.
func showBuddies(out io.Writer, workers []*clusterpb.Worker) error {
	names := map[string]string{}
	for _, k := range workers {
		names[k.Id] = k.Name
	}
	for _, k := range workers {
		if len(k.Buddies) == 0 {
			continue
		}
		var on []string
		for _, id := range k.Buddies {
			on = append(on, cmp.Or(names[id], id))
		}
		_, err := fmt.Fprintf(out, "copies of the cells on %s go to %s\n", k.Name, strings.Join(on, ", else "))
		if err != nil {
			return err
		}
	}
	return nil
}

// stateOf is a worker's state, and whether it is drained.
func stateOf(k *clusterpb.Worker) string {
	switch {
	case k.Drained:
		return k.State + ", drained"
	case k.Draining:
		return k.State + ", draining"
	}
	return k.State
}

type workerDrainCmd struct {
	clientFlags
	Worker string `arg:"" name:"WORKER" help:"Name of the worker, its id or the beginning of that."`
	Undo   bool   `help:"Place cells on it again."`
}

// Run drains a worker.
func (c *workerDrainCmd) Run(con console) error {
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		id, err := namedWorker(ctx, client, c.Worker)
		if err != nil {
			return err
		}
		k, err := client.DrainWorker(ctx, &clusterpb.DrainWorkerRequest{Worker: id, Undo: c.Undo})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, k)
		}
		switch {
		case c.Undo:
			_, err = fmt.Fprintf(con.out, "worker %s may be given cells again\n", k.Name)
		case len(k.Cells) > 0:
			_, err = fmt.Fprintf(con.out, "worker %s is drained: %s goes elsewhere at the next step boundary; it may be "+
				"stopped when it is said to be drained: coordinator worker list\n", k.Name, cellsOf(k))
		default:
			_, err = fmt.Fprintf(con.out, "worker %s is drained: no cells are placed on it; it may be stopped when it is said "+
				"to be drained: coordinator worker list\n", k.Name)
		}
		return err
	})
}

// namedWorker asks for the id of the worker that an operator means.
func namedWorker(ctx context.Context, client clusterpb.OperatorClient, name string) (string, error) {
	known, err := client.ListWorkers(ctx, &clusterpb.ListWorkersRequest{})
	if err != nil {
		return "", err
	}
	return workerNamed(known.Workers, name)
}

// workerNamed finds the one worker that an operator can mean. Those that are gone are meant last.
func workerNamed(workers []*clusterpb.Worker, name string) (string, error) {
	for _, k := range workers {
		if k.Id == name {
			return k.Id, nil
		}
	}
	for _, fits := range []func(*clusterpb.Worker) bool{
		func(k *clusterpb.Worker) bool { return k.Name == name && k.State != "gone" },
		func(k *clusterpb.Worker) bool { return k.Name == name },
		func(k *clusterpb.Worker) bool { return name != "" && strings.HasPrefix(k.Id, name) },
	} {
		var found []string
		for _, k := range workers {
			if fits(k) {
				found = append(found, k.Id)
			}
		}
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return "", fmt.Errorf("%q may be %s; give the id", name, strings.Join(found, " or "))
		}
	}
	return "", fmt.Errorf("there is no worker %q; see: coordinator worker list", name)
}
