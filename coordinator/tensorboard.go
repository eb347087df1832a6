package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"colonnade/checkpoint"
	"colonnade/checkpoint/model"
	"colonnade/checkpoint/tensors"
	"colonnade/coordinator/figures"
	"colonnade/coordinator/fsm"
	"colonnade/coordinator/tensorboard"
	"colonnade/proto/clusterpb"
)

// tensorboardCmd is `coordinator tensorboard`.
type tensorboardCmd struct {
	clientFlags
	Job    string `arg:"" name:"JOB" help:"Job."`
	Out    string `default:"tensorboard" placeholder:"DIR" help:"Directory to write to, for tensorboard --logdir; every job has one of its own in it."`
	Points uint32 `default:"2048" placeholder:"N" help:"At most so many points of a curve."`
}

// eventsFile is what a job's events are written to: TensorBoard wants tfevents in the name, and reads a file anew that
// has been replaced.
const eventsFile = "events.out.tfevents.0.colonnade"

// Run writes a job's history, and the weights of its newest checkpoint if it lies on this machine.
func (c *tensorboardCmd) Run(con console) error {
	var reply *clusterpb.HistoryReply
	var described *clusterpb.Job
	err := c.ask(func(ctx context.Context, client clusterpb.OperatorClient) (err error) {
		if described, err = client.GetJob(ctx, &clusterpb.GetJobRequest{Name: c.Job}); err != nil {
			return err
		}
		reply, err = client.History(ctx, &clusterpb.HistoryRequest{Job: c.Job, Points: c.Points, Cells: true})
		return err
	})
	if err != nil {
		return err
	}
	var state *model.State
	var step uint64
	if described.CommittedStep > 0 {
		export := &checkpointExportCmd{clientFlags: c.clientFlags, Job: c.Job}
		if _, state, step, err = export.load(); errors.Is(err, checkpoint.ErrMissing) {
			fmt.Fprintf(con.err, "without weights: %v\n", err)
		} else if err != nil {
			return err
		}
	}
	dir := filepath.Join(c.Out, c.Job)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("tensorboard: %w; choose another --out", err)
	}
	err = tensors.Create(filepath.Join(dir, eventsFile), func(f io.Writer) error {
		w := tensorboard.New(f, con.now())
		historyEvents(w, reply)
		if state == nil {
			return w.Err()
		}
		now := con.now()
		for column, params := range state.Plan.Params {
			for i, p := range params {
				w.Histogram(fmt.Sprintf("column %d/%s", column, p.Name), step, now, state.Values[column][i])
			}
		}
		drawing, err := figures.Kernels(state.Plan, state.Values)
		if err != nil {
			fmt.Fprintf(con.err, "no kernels: %v\n", err)
			return w.Err()
		}
		var png bytes.Buffer
		if err := drawing.PNG(&png); err != nil {
			return err
		}
		w.Image("kernels", step, now, drawing.W, drawing.H, png.Bytes())
		return w.Err()
	})
	if err != nil {
		return fmt.Errorf("tensorboard: %w", err)
	}
	fmt.Fprintf(con.out, "%s; look at it with: tensorboard --logdir %s\n", dir, c.Out)
	return nil
}

// historyEvents writes what was observed of a job: loss, images/s, times of phases by cell, and evaluations.
func historyEvents(w *tensorboard.Writer, r *clusterpb.HistoryReply) {
	for _, s := range r.Series {
		where := ""
		if s.Cell != nil {
			where = fsm.CellName(s.Cell)
		}
		for _, p := range s.Points {
			at := p.At.AsTime()
			if s.Cell == nil {
				if p.Losses > 0 {
					w.Scalar("loss/train", p.LastStep, at, p.Loss)
				}
				if p.Scores > 0 {
					w.Scalar("error/train top-1", p.LastStep, at, p.Top1Error)
					w.Scalar("error/train top-5", p.LastStep, at, p.Top5Error)
				}
				w.Scalar("speed/images per second", p.LastStep, at, p.ImagesPerSecond)
				w.Scalar("cluster/generation", p.LastStep, at, float64(p.Generation))
			}
			for _, phase := range slices.Sorted(maps.Keys(p.PhaseSeconds)) {
				w.Scalar("seconds of a step, "+where+"/"+phase, p.LastStep, at, p.PhaseSeconds[phase])
			}
		}
	}
	// An evaluation's time is not kept: that of the last step that was seen before it.
	for _, e := range r.Evaluations {
		at, n := seenAt(r, e.Step), float64(max(e.Images, 1))
		w.Scalar("loss/test", e.Step, at, e.Loss)
		w.Scalar("error/top-1", e.Step, at, e.Top1Errors/n)
		w.Scalar("error/top-5", e.Step, at, e.Top5Errors/n)
		w.Scalar("recipe/rate", e.Step, at, e.Rate)
	}
}

// seenAt is when a job was last seen at a step or before it; when it was submitted if it was not.
func seenAt(r *clusterpb.HistoryReply, step uint64) time.Time {
	at := time.Unix(0, r.SubmittedUnixNs)
	for _, s := range r.Series[:min(1, len(r.Series))] {
		for _, p := range s.Points {
			if p.LastStep <= step {
				at = p.At.AsTime()
			}
		}
	}
	return at
}
