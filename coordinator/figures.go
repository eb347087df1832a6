package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"colonnade/checkpoint"
	"colonnade/checkpoint/tensors"
	"colonnade/coordinator/figures"
	"colonnade/proto/clusterpb"
	"colonnade/shard/job"
)

// figuresCmd is `coordinator figures`.
type figuresCmd struct {
	clientFlags
	Job      string  `arg:"" name:"JOB" help:"Job."`
	Step     *uint64 `placeholder:"N" help:"Step whose kernels are drawn. Default: the newest good checkpoint."`
	Out      string  `default:"figures" placeholder:"DIR" help:"Directory to write to; it is made if it is not there."`
	Examples string  `placeholder:"FILE" help:"Draw what worker examples has written too: test images with their best classes, and the training images nearest to them."`
	Phases   string  `placeholder:"FILE" help:"Draw what worker bench --json has printed too: where a step's time goes."`
	Dir      string  `placeholder:"DIR" help:"Read the checkpoints in this directory of a worker's, and ask no coordinator: no learning curves then."`
}

// Run draws a job: its network, its first kernels, its learning curves, and what it is given.
func (c *figuresCmd) Run(con console) error {
	export := &checkpointExportCmd{clientFlags: c.clientFlags, Job: c.Job, Step: c.Step, Dir: c.Dir}
	j, state, step, err := export.load()
	switch {
	case errors.Is(err, checkpoint.ErrMissing):
		return fmt.Errorf("%w; figures are drawn where a job's checkpoints lie", err)
	case err != nil:
		return err
	}
	drawings := map[string]*figures.Drawing{"network": figures.Network(state.Plan)}
	if drawings["kernels"], err = figures.Kernels(state.Plan, state.Values); err != nil {
		fmt.Fprintf(con.err, "no kernels: %v\n", err)
		delete(drawings, "kernels")
	}
	if c.Dir == "" {
		if err := c.curves(j, drawings); err != nil {
			return err
		}
	}
	if c.Examples != "" {
		if err := drawExamples(c.Examples, drawings); err != nil {
			return err
		}
	}
	if c.Phases != "" {
		if err := drawPhases(c.Phases, drawings); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return fmt.Errorf("figures: %w; choose another --out", err)
	}
	var files []tensors.New
	var made []string
	for _, name := range []string{"network", "kernels", "loss", "error", "predictions", "nearest", "phases"} {
		if d := drawings[name]; d != nil {
			path := filepath.Join(c.Out, name)
			files = append(files, tensors.New{Path: path + ".svg", Write: d.SVG}, tensors.New{Path: path + ".png",
				Write: d.PNG})
			made = append(made, path+".svg, .png")
		}
	}
	if err := tensors.CreateAll(files...); err != nil {
		return fmt.Errorf("figures: %w", err)
	}
	for _, line := range made {
		fmt.Fprintln(con.out, line)
	}
	fmt.Fprintf(con.out, "job %s, step %d\n", j.Name, step)
	return nil
}

// curvePoints is how many points a curve of losses has at most; what lies between two is in their means.
const curvePoints = 200

// curves adds the learning curves of a job: the loss as its history has it, and its evaluations, as far as there are
// such.
func (c *figuresCmd) curves(j *job.Job, drawings map[string]*figures.Drawing) error {
	var past *clusterpb.HistoryReply
	err := c.ask(func(ctx context.Context, client clusterpb.OperatorClient) (err error) {
		past, err = client.History(ctx, &clusterpb.HistoryRequest{Job: c.Job, Points: curvePoints})
		return err
	})
	if err != nil {
		return err
	}
	return drawCurves(j.Name, float64(j.StepsPerEpoch()), past, drawings)
}

func drawCurves(name string, perEpoch float64, past *clusterpb.HistoryReply,
	drawings map[string]*figures.Drawing) (err error) {
	trained, tested := figures.Series{Name: "training"}, figures.Series{Name: "test"}
	top1, top5 := figures.Series{Name: "top-1"}, figures.Series{Name: "top-5"}
	if len(past.Series) > 0 {
		for _, p := range past.Series[0].Points {
			if p.Losses > 0 {
				middle := float64(p.FirstStep+p.LastStep) / 2
				trained.Points = append(trained.Points, figures.Point{X: middle / perEpoch, Y: p.Loss})
			}
		}
	}
	known := len(trained.Points) > 0
	for _, e := range past.Evaluations {
		epoch, n := float64(e.Step)/perEpoch, float64(max(e.Images, 1))
		if !known && e.TrainLoss > 0 {
			trained.Points = append(trained.Points, figures.Point{X: epoch, Y: e.TrainLoss})
		}
		tested.Points = append(tested.Points, figures.Point{X: epoch, Y: e.Loss})
		top1.Points = append(top1.Points, figures.Point{X: epoch, Y: 100 * e.Top1Errors / n})
		top5.Points = append(top5.Points, figures.Point{X: epoch, Y: 100 * e.Top5Errors / n})
	}
	if len(trained.Points)+len(tested.Points) > 0 {
		if drawings["loss"], err = figures.Curves(figures.Chart{Title: name, X: "epochs", Y: "loss (nats)", Zero: true},
			trained, tested); err != nil {
			return err
		}
	}
	if len(tested.Points) > 0 {
		drawings["error"], err = figures.Curves(figures.Chart{Title: name, X: "epochs", Y: "test error (%)", Zero: true},
			top1, top5)
	}
	return err
}
