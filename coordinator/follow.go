package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"

	"colonnade/proto/clusterpb"
)

// updates is the receiving end of WatchJob.
type updates interface {
	Recv() (*clusterpb.JobUpdate, error)
}

// Errors of a job that did not get to its end.
var (
	errJobFailed = errors.New("job failed")
	errNoEnd     = errors.New("the coordinator ended the watch before the job ended")
)

// plainEvery is how often a line of progress is printed where there is no terminal.
const plainEvery = 10 * time.Second

// follow prints a job's progress until it has ended, and returns its last state: a bar on a terminal, plain lines
// elsewhere; a line for every evaluation and event in both.
func follow(con console, stream updates) (*clusterpb.Job, error) {
	v := &view{con: con}
	defer v.clear()
	var last *clusterpb.Job
	for {
		u, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if last == nil || !ended(last) {
				return last, errNoEnd
			}
			return last, nil
		}
		if err != nil {
			return last, err
		}
		last = u.Job
		v.update(u)
		if ended(last) {
			return last, nil
		}
	}
}

// ended says whether a job has come to rest.
func ended(j *clusterpb.Job) bool {
	return j.State == "done" || j.State == "failed" || j.State == "stopped"
}

// view is what a watcher sees.
type view struct {
	con     console
	bar     *progressbar.ProgressBar
	epochs  int // evaluations printed
	state   string
	reason  string
	printed time.Time
}

func (v *view) update(u *clusterpb.JobUpdate) {
	j := u.Job
	for _, e := range u.Events {
		if quiet[e.Kind] {
			continue
		}
		v.line("%s  %s", e.At.AsTime().Local().Format(time.TimeOnly), e.Text)
	}
	for ; v.epochs < len(j.Evaluations); v.epochs++ {
		v.line("%s", evaluationLine(j, j.Evaluations[v.epochs]))
	}
	if j.State != v.state || j.Reason != v.reason {
		v.state, v.reason = j.State, j.Reason
		if j.State != "running" && j.Reason != "" {
			v.line("%s: %s", j.State, j.Reason)
		}
	}
	if v.con.terminal {
		v.draw(j)
		return
	}
	if now := time.Now(); j.State == "running" && j.Step > 0 && now.Sub(v.printed) >= plainEvery {
		v.printed = now
		v.line("step %d/%d  loss %.4f  %.0f images/s  %s left", j.Step, j.Steps, j.Loss, j.ImagesPerSecond, left(j))
	}
}

// quiet are kinds of events that evaluations and the bar show already.
var quiet = map[string]bool{"evaluation": true, "checkpoint": true}

// draw moves the bar.
func (v *view) draw(j *clusterpb.Job) {
	if v.bar == nil {
		v.bar = progressbar.NewOptions64(int64(j.Steps), progressbar.OptionSetWriter(v.con.out),
			progressbar.OptionSetWidth(24), progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(false), progressbar.OptionClearOnFinish())
	}
	v.bar.Describe(fmt.Sprintf("%s step %d/%d loss %.4f %.0f images/s %s left",
		j.State, j.Step, j.Steps, j.Loss, j.ImagesPerSecond, left(j)))
	_ = v.bar.Set64(int64(min(j.Step, j.Steps)))
}

// line prints a line above the bar.
func (v *view) line(format string, args ...any) {
	v.clear()
	fmt.Fprintf(v.con.out, format+"\n", args...)
}

func (v *view) clear() {
	if v.bar != nil {
		_ = v.bar.Clear()
	}
}

// left is the time a job still needs at its present speed.
func left(j *clusterpb.Job) string {
	if j.ImagesPerSecond <= 0 {
		return "?"
	}
	seconds := float64(j.Steps-min(j.Step, j.Steps)) * float64(j.Batch) / j.ImagesPerSecond
	return (time.Duration(seconds) * time.Second).String()
}

func evaluationLine(j *clusterpb.Job, e *clusterpb.Evaluation) string {
	n := float64(max(e.Images, 1))
	return fmt.Sprintf("epoch %d/%d  step %d  train loss %.4f  test loss %.4f  test error %.2f %%  top-5 %.2f %%",
		e.Epoch, j.Epochs, e.Step, e.TrainLoss, e.Loss, 100*e.Top1Errors/n, 100*e.Top5Errors/n)
}

// printEnd prints what a job came to.
func printEnd(out io.Writer, j *clusterpb.Job) error {
	switch j.State {
	case "done":
		if n := len(j.Evaluations); n > 0 {
			e := j.Evaluations[n-1]
			fmt.Fprintf(out, "test error %.2f %%\n", 100*e.Top1Errors/float64(max(e.Images, 1)))
		}
		fmt.Fprintf(out, "digest %x\n", j.Digest)
		return nil
	case "stopped":
		fmt.Fprintf(out, "stopped after step %d of %d\n", j.CommittedStep, j.Steps)
		return nil
	}
	return fmt.Errorf("%w: %s: %s; when that is mended: coordinator job resume %s", errJobFailed, j.Name, j.Reason, j.Name)
}
