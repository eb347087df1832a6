package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
)

type statusCmd struct {
	clientFlags
	Local bool `help:"What the first coordinator that answers knows by itself, leader or not: it may be behind."`
}

// Run shows the cluster.
func (c *statusCmd) Run(con console) error {
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		s, err := client.Status(ctx, &clusterpb.StatusRequest{Local: c.Local})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, s)
		}
		return con.clipped(func(out io.Writer) error { return showStatus(out, s) })
	})
}

// clipped has f print lines no wider than the terminal, if there is one: what comes last in a line is what can be done
// without, and job show and worker list say it in full.
func (c console) clipped(f func(io.Writer) error) error {
	if !c.terminal {
		return f(c.out)
	}
	var text bytes.Buffer
	if err := f(&text); err != nil {
		return err
	}
	width, _ := c.size()
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(c.out, cut(strings.TrimSuffix(line, "\n"), width)); err != nil {
			return err
		}
	}
	return nil
}

// shownEvents is how many of the last events status prints.
const shownEvents = 10

func showStatus(out io.Writer, s *clusterpb.StatusReply) error {
	leader := "leader " + s.Leader
	if s.Leader == "" {
		leader = "no leader yet: what follows may be out of date"
	}
	fmt.Fprintf(out, "%s, node %s, %s\n", cmp.Or(s.Cluster, "new cluster"), s.Node, leader)
	for _, l := range s.Lineage {
		fmt.Fprintf(out, "restored %s from a backup of %s\n", l.Restored.AsTime().Local().Format(time.DateTime), l.Cluster)
	}
	fmt.Fprintln(out)
	if len(s.Members) > 1 {
		if err := showMembers(out, s.Members, s.Node == s.Leader); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "WORKER\tNAME\tSTATE\tCELLS\tTHREADS\tDEVICE")
	for _, k := range s.Workers {
		threads := "-"
		if n := k.Device.GetThreads(); n > 0 {
			threads = strconv.Itoa(int(n))
		}
		fmt.Fprintf(w, "%.8s\t%s\t%s\t%s\t%s\t%s\n", k.Id, k.Name, stateOf(k), cellsOf(k), threads, k.Device.GetModel())
	}
	if len(s.Workers) == 0 {
		fmt.Fprintln(w, "none; start one with: worker run --coordinator ADDR --data DIR")
	}
	if err := showBuddies(w, s.Workers); err != nil {
		return err
	}
	if err := showNotes(w, s.Workers); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nJOB\tSTATE\tPRIORITY\tSTEP\tCHECKPOINT\tREASON")
	for _, j := range s.Jobs {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d/%d\t%d\t%s\n", j.Name, j.State, j.Priority, j.Step, j.Steps, j.CommittedStep,
			placed(j))
	}
	if len(s.Jobs) == 0 {
		fmt.Fprintln(w, "none; submit one with: coordinator job submit JOB.yaml")
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(s.Events) > 0 {
		fmt.Fprintln(out, "\nlast events")
	}
	for _, e := range s.Events[max(0, len(s.Events)-shownEvents):] {
		fmt.Fprintf(out, "  %s  %s\n", e.At.AsTime().Local().Format(time.TimeOnly), e.Text)
	}
	return nil
}

// cellsOf is what a worker hosts.
func cellsOf(k *clusterpb.Worker) string {
	var cells []string
	for _, c := range k.Cells {
		cells = append(cells, c.Job+"/"+fsm.CellName(c.Cell))
	}
	if len(cells) == 0 && k.State == "gone" {
		return "-"
	}
	return cmp.Or(strings.Join(cells, " "), "spare")
}

// showJob prints all about one job.
func showJob(out io.Writer, j *clusterpb.Job) error {
	fmt.Fprintf(out, "%s: %s, step %d of %d, generation %d\n", j.Name, j.State, j.Step, j.Steps, j.Generation)
	if j.Reason != "" {
		fmt.Fprintf(out, "  %s\n", j.Reason)
	}
	showQueued(out, j)
	fmt.Fprintf(out, "  newest checkpoint: step %d\n", j.CommittedStep)
	if j.Numerics != "" {
		fmt.Fprintf(out, "  numerics: %s\n", j.Numerics)
	}
	if p := j.Parent; p != nil {
		gone := ""
		if p.Deleted {
			gone = ", which is deleted"
		}
		fmt.Fprintf(out, "  forked from: %s, step %d, digest %.6x%s\n", p.Job, p.Step, p.Digest, gone)
		for _, change := range p.Changes {
			fmt.Fprintf(out, "    %s\n", change)
		}
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	if len(j.Placement) > 0 {
		fmt.Fprintln(w, "\nCELL\tWORKER\tSTEP\tPHASE\tIMAGES/S\tCARRIER")
	}
	for _, p := range j.Placement {
		s := statusOf(j.Cells, p.Cell)
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%.0f\t%s\n", fsm.CellName(p.Cell), p.WorkerName, s.GetStep(), s.GetPhase(),
			s.GetImagesPerSecond(), cmp.Or(s.GetCarrier(), "-"))
	}
	if len(j.Evaluations) > 0 {
		fmt.Fprintln(w, "\nEPOCH\tSTEP\tTRAIN LOSS\tTEST LOSS\tTOP-1 ERROR\tTOP-5 ERROR\tRATE")
	}
	for _, e := range j.Evaluations {
		fmt.Fprintln(w, evaluationRow(e))
	}
	if len(j.Vetoes) > 0 {
		fmt.Fprintln(w, "\nVETOED STEP\tCELL\tCAUSE\tLOSS\tLIMIT\tOUTCOME")
	}
	for _, v := range j.Vetoes {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", v.Step, fsm.CellName(v.Cell), v.Cause, known(v.Loss), known(v.Limit),
			v.Outcome)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := showRecipe(out, j); err != nil {
		return err
	}
	if len(j.Digest) > 0 {
		fmt.Fprintf(out, "\ndigest %x\n", j.Digest)
	}
	return nil
}

// evaluationRow is an evaluation as a row of a table.
func evaluationRow(e *clusterpb.Evaluation) string {
	n := float64(max(e.Images, 1))
	return fmt.Sprintf("%d\t%d\t%.4f\t%.4f\t%.2f %%\t%.2f %%\t%s", e.Epoch, e.Step, e.TrainLoss, e.Loss,
		100*e.Top1Errors/n, 100*e.Top5Errors/n, rateOf(e))
}

// rateOf is the rate of the steps behind an evaluation; records of old do not have it.
func rateOf(e *clusterpb.Evaluation) string {
	if e.Rate == 0 {
		return "-"
	}
	return fmt.Sprintf("%.5g", e.Rate)
}

// known is a number, if there is one.
func known(v float64) string {
	if v == 0 {
		return "-"
	}
	return strconv.FormatFloat(v, 'g', 6, 64)
}

func statusOf(cells []*clusterpb.CellStatus, c *clusterpb.Cell) *clusterpb.CellStatus {
	for _, s := range cells {
		if s.Cell.GetReplica() == c.GetReplica() && s.Cell.GetColumn() == c.GetColumn() {
			return s
		}
	}
	return nil
}
