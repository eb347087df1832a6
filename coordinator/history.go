package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/proto"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/plainjson"
	"colonnade/proto/clusterpb"
)

// historyCmd is `coordinator history`.
type historyCmd struct {
	clientFlags
	Job    string `arg:"" name:"JOB" help:"Job."`
	CSV    bool   `name:"csv" help:"Print as CSV, with a line of headings: points of training, then evaluations."`
	From   uint64 `placeholder:"STEP" help:"First step. Default: the first that is known."`
	To     uint64 `placeholder:"STEP" help:"Last step. Default: the newest."`
	Points uint32 `placeholder:"N" help:"At most so many points; where there are more steps, a point is the mean of several. Default: 20, or 2048 as CSV or JSON."`
	Cells  bool   `help:"Also every cell's images/s, and the times of its phases; in a JSON or CSV line each."`
}

// Default numbers of points: to look at, and to go on with.
const (
	shownPoints    = 20
	exportedPoints = 2048
)

// Run shows or exports how a job's training went.
func (c *historyCmd) Run(con console) error {
	switch {
	case c.CSV && c.JSON:
		return usagef("--csv and --json; choose one")
	case c.To > 0 && c.To < c.From:
		return usagef("--from %d --to %d; give --from the smaller one", c.From, c.To)
	case c.Cells && !c.CSV && !c.JSON:
		return usagef("--cells has no table; add --csv or --json")
	}
	points := c.Points
	if points == 0 {
		points = shownPoints
		if c.CSV || c.JSON {
			points = exportedPoints
		}
	}
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		reply, err := client.History(ctx, &clusterpb.HistoryRequest{Job: c.Job, FromStep: c.From, ToStep: c.To,
			Points: points, Cells: c.Cells})
		if err != nil {
			return err
		}
		switch {
		case c.JSON:
			return historyLines(con.out, reply)
		case c.CSV:
			return historyCSV(con.out, reply)
		}
		return historyTable(con.out, reply)
	})
}

// historyLines prints a line of JSON for every point and evaluation, under the name of what it is.
func historyLines(out io.Writer, r *clusterpb.HistoryReply) error {
	for _, s := range r.Series {
		for _, p := range s.Points {
			line := append([]byte(`{"cell":`), plainjson.Marshal(s.Cell)...)
			line = append(append(append(line, `,"point":`...), plainjson.Marshal(p)...), "}\n"...)
			if _, err := out.Write(line); err != nil {
				return err
			}
		}
	}
	for _, e := range r.Evaluations {
		line := append(append([]byte(`{"evaluation":`), plainjson.Marshal(e)...), "}\n"...)
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	return nil
}

// historyCSV prints all as CSV: kind is train, cell, phase or test. What a kind has not is empty.
func historyCSV(out io.Writer, r *clusterpb.HistoryReply) error {
	w := csv.NewWriter(out)
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	whole := func(v uint64) string { return strconv.FormatUint(v, 10) }
	rows := [][]string{{"kind", "cell", "first_step", "step", "time", "generation", "loss", "loss_min", "loss_max",
		"images_per_second", "phase", "seconds", "epoch", "top1_error", "top5_error", "rate"}}
	for _, s := range r.Series {
		for _, p := range s.Points {
			row := []string{"train", "", whole(p.FirstStep), whole(p.LastStep), p.At.AsTime().UTC().Format(time.RFC3339Nano),
				whole(p.Generation), "", "", "", number(p.ImagesPerSecond), "", "", "", "", "", ""}
			if p.Losses > 0 {
				row[6], row[7], row[8] = number(p.Loss), number(p.LossMin), number(p.LossMax)
			}
			if p.Scores > 0 {
				row[13], row[14] = number(p.Top1Error), number(p.Top5Error)
			}
			if s.Cell != nil {
				row[0], row[1] = "cell", fsm.CellName(s.Cell)
			}
			rows = append(rows, row)
			for _, name := range slices.Sorted(maps.Keys(p.PhaseSeconds)) {
				rows = append(rows, []string{"phase", row[1], row[2], row[3], row[4], row[5], "", "", "", "", name,
					number(p.PhaseSeconds[name]), "", "", "", ""})
			}
		}
	}
	for _, e := range r.Evaluations {
		n := float64(max(e.Images, 1))
		rows = append(rows, []string{"test", "", whole(e.Step), whole(e.Step), "", "", number(e.Loss), "", "", "", "", "",
			whole(e.Epoch), number(e.Top1Errors / n), number(e.Top5Errors / n), number(e.Rate)})
	}
	if err := w.WriteAll(rows); err != nil {
		return fmt.Errorf("print as CSV: %w", err)
	}
	return nil
}

// historyTable prints points and evaluations for people, in 80 columns.
func historyTable(out io.Writer, r *clusterpb.HistoryReply) error {
	if len(r.Series) == 0 || len(r.Series[0].Points) == 0 {
		_, err := fmt.Fprintf(out, "nothing is known of %s's steps yet; see: coordinator job show %s\n", r.Job, r.Job)
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "STEPS\tUNTIL\tLOSS\tLEAST\tMOST\tIMAGES/S\tGENERATION")
	for _, p := range r.Series[0].Points {
		loss, least, most := "-", "-", "-"
		if p.Losses > 0 {
			loss, least, most = fmt.Sprintf("%.4f", p.Loss), fmt.Sprintf("%.4f", p.LossMin), fmt.Sprintf("%.4f", p.LossMax)
		}
		steps := strconv.FormatUint(p.LastStep, 10)
		if p.FirstStep != p.LastStep {
			steps = fmt.Sprintf("%d-%d", p.FirstStep, p.LastStep)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%.0f\t%d\n", steps, p.At.AsTime().Local().Format(time.DateTime), loss, least,
			most, p.ImagesPerSecond, p.Generation)
	}
	if len(r.Evaluations) > 0 {
		fmt.Fprintln(w, "\nEPOCH\tSTEP\tTRAIN LOSS\tTEST LOSS\tTOP-1 ERROR\tTOP-5 ERROR\tRATE")
	}
	for _, e := range r.Evaluations {
		fmt.Fprintln(w, evaluationRow(e))
	}
	return w.Flush()
}

// eventsCmd is `coordinator events`.
type eventsCmd struct {
	clientFlags
	Job    string `placeholder:"JOB" help:"Only what concerns this job."`
	Worker string `placeholder:"WORKER" help:"Only what concerns this worker: its name, its id or the beginning of that."`
	After  uint64 `placeholder:"INDEX" help:"Only what came behind the log entry of this index: that of the last event that is known."`
	Last   uint32 `short:"n" default:"50" placeholder:"N" help:"At most so many of those that have happened, the newest; 0: all that are kept. Default: 50."`
	Follow bool   `short:"f" help:"Go on with what happens, until interrupted."`
}

// Run shows events, oldest first.
func (c *eventsCmd) Run(con console) error {
	ctx, stop := interruptible()
	defer stop()
	request := &clusterpb.EventsRequest{After: c.After, Job: c.Job, Last: c.Last, Follow: c.Follow}
	if c.Worker != "" {
		err := c.ask(func(ctx context.Context, client clusterpb.OperatorClient) (err error) {
			request.Worker, err = namedWorker(ctx, client, c.Worker)
			return err
		})
		if err != nil {
			return err
		}
	}
	shown := 0
	return c.tail(ctx, con, c.Follow, func(ctx context.Context, client clusterpb.OperatorClient) error {
		stream, err := client.Events(ctx, request)
		if err != nil {
			return err
		}
		return received(stream, func(r *clusterpb.EventsReply) error {
			for _, e := range r.Events {
				request.After, request.Last = max(request.After, e.Index), 0 // where to go on
				if err := c.print(con, e); err != nil {
					return err
				}
				shown++
			}
			if shown == 0 && !c.Follow && !c.JSON {
				_, err := fmt.Fprintln(con.out, "no such events are kept; see all with: coordinator events")
				return err
			}
			return nil
		})
	})
}

// dayAndTime is when something happened that may not be of today.
const dayAndTime = "01-02 15:04:05"

func (c *eventsCmd) print(con console, e *clusterpb.LogEvent) error {
	if c.JSON {
		return printLine(con.out, e)
	}
	_, err := fmt.Fprintf(con.out, "%s  %s\n", e.At.AsTime().Local().Format(dayAndTime), e.Text)
	return err
}

// received hands on what a stream brings, to its end.
func received[M proto.Message](stream interface{ Recv() (M, error) }, f func(M) error) error {
	for {
		m, err := stream.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(m); err != nil {
			return err
		}
	}
}
