package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
)

// updates is the receiving end of WatchJob.
type updates interface {
	Recv() (*clusterpb.JobUpdate, error)
}

// Errors of a job that did not get to its end.
var (
	errJobFailed = errors.New("job failed")
	errJobPaused = errors.New("job is paused")
	errNoEnd     = errors.New("the coordinator ended the watch before the job ended")
)

// plainEvery is how often a line of progress is printed where there is no terminal.
const plainEvery = 10 * time.Second

// ended says whether a job has come to rest.
func ended(j *clusterpb.Job) bool {
	return fsm.Ended(j.State)
}

// view is what a watcher sees of a job: a bar on a terminal, plain lines elsewhere, a line for every evaluation and
// event in both; or every update as a line of JSON.
type view struct {
	con  console
	json bool

	mu      sync.Mutex
	bar     *progressbar.ProgressBar
	epochs  int       // evaluations printed
	event   uint64    // index of the last event printed
	waiting string    // the last reason printed for a job that waits
	losses  []float64 // of the last updates that told another one, the oldest first
	printed time.Time
}

// shower shows a job's updates.
type shower interface {
	begin(context.Context, clusterpb.OperatorClient, string) // asks what it wants to know before the first update
	update(*clusterpb.JobUpdate) error
	clear() // the terminal of what is drawn again and again
	note(format string, args ...any)
}

// follow shows a job's updates until it has ended, and returns its last state. It may be called again with another
// stream of the same job.
func (v *view) follow(stream updates) (last *clusterpb.Job, err error) {
	defer v.clear()
	return follow(stream, v)
}

// follow has v show a job's updates until it has ended, and returns its last state.
func follow(stream updates, v shower) (last *clusterpb.Job, err error) {
	for {
		u, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return last, fmt.Errorf("%w; watch it again, or see: coordinator status", errNoEnd)
		case err != nil:
			return last, err
		}
		last = u.Job
		if err := v.update(u); err != nil {
			return last, err
		}
		if ended(last) {
			return last, nil
		}
	}
}

func (v *view) begin(context.Context, clusterpb.OperatorClient, string) {}

// update shows one update.
func (v *view) update(u *clusterpb.JobUpdate) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.json {
		return printLine(v.con.out, u)
	}
	v.history(u)
	j := u.Job
	if waits := waiting(j); waits != v.waiting {
		if v.waiting = waits; waits != "" {
			v.line("%s", waits)
		}
	}
	if v.con.terminal {
		if n := len(v.losses); j.Loss > 0 && (n == 0 || v.losses[n-1] != j.Loss) {
			v.losses = append(v.losses[max(0, n-sparks+1):], j.Loss)
		}
		if !ended(j) {
			v.draw(j)
		}
		return nil
	}
	now := v.con.now()
	if j.State == "running" && j.ImagesPerSecond > 0 && (v.printed.IsZero() || now.Sub(v.printed) >= plainEvery) {
		v.printed = now
		v.line("%s", progress(j))
	}
	return nil
}

// history prints new events and evaluations in the order they came. An evaluation is an event too; those whose events
// are no longer in the log come first.
func (v *view) history(u *clusterpb.JobUpdate) {
	var events []*clusterpb.LogEvent
	scores := 0 // of the events
	for _, e := range u.Events {
		if e.Index > v.event {
			events = append(events, e)
		}
		if e.Index > v.event && e.Kind == "evaluation" {
			scores++
		}
	}
	all := u.Job.Evaluations
	v.epochs = min(v.epochs, len(all)) // going on from an older step takes some back
	evaluations := func(until int) {
		for ; v.epochs < min(until, len(all)); v.epochs++ {
			v.line("%s", evaluationLine(u.Job, all[v.epochs]))
		}
	}
	evaluations(len(all) - scores)
	for _, e := range events {
		v.event = e.Index
		switch e.Kind {
		case "evaluation":
			evaluations(v.epochs + 1)
		case "checkpoint": // the bar moves on, that is enough
		default:
			v.line("%s  %s", e.At.AsTime().Local().Format(time.TimeOnly), e.Text)
		}
	}
	evaluations(len(all))
}

// waiting says what a job waits for; events say the rest.
func waiting(j *clusterpb.Job) string {
	if j.State != "queued" && j.State != "recovering" || j.Reason == "submitted" || j.Reason == "resumed" {
		return ""
	}
	return j.State + ": " + j.Reason
}

// draw moves the bar.
func (v *view) draw(j *clusterpb.Job) {
	text := progress(j)
	if j.State != "running" {
		text = j.State + "  " + text
	}
	if s := sparkline(v.losses); s != "" && j.State == "running" {
		text += "  " + s
	}
	v.move(j.Steps, j.Step, text)
}

// move has the bar say how far something is. v.mu is held.
func (v *view) move(all, at uint64, text string) {
	if v.bar == nil {
		v.bar = progressbar.NewOptions64(int64(max(all, 1)), progressbar.OptionSetWriter(v.con.out),
			progressbar.OptionFullWidth(), progressbar.OptionUseANSICodes(true), progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(false), progressbar.OptionClearOnFinish())
	}
	v.bar.Describe(text)
	_ = v.bar.Set64(int64(min(at, all-min(all, 1)))) // a full bar would be gone
	fmt.Fprint(v.con.out, "\r")                      // so that the terminal's ^C does not wrap the line
}

// note prints a line above the bar, from any goroutine.
func (v *view) note(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bar != nil {
		_ = v.bar.Clear()
	}
	fmt.Fprintf(v.con.err, format+"\n", args...)
}

// line is note for what is asked for, on standard output. v.mu is held.
func (v *view) line(format string, args ...any) {
	if v.bar != nil {
		_ = v.bar.Clear()
	}
	fmt.Fprintf(v.con.out, format+"\n", args...)
}

func (v *view) clear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bar != nil {
		_ = v.bar.Clear()
	}
}

// progress is how far a job is, as far as that is known.
func progress(j *clusterpb.Job) string {
	s := fmt.Sprintf("step %d/%d", j.Step, j.Steps)
	if j.ImagesPerSecond <= 0 || j.State != "running" && j.State != "stopping" {
		return s
	}
	return fmt.Sprintf("%s  loss %.4f  %.0f images/s  %s left", s, j.Loss, j.ImagesPerSecond, left(j))
}

// sparks is how many losses are drawn behind the numbers.
const sparks = 8

// sparkline draws numbers a column each, between the least and the most of them; fewer than two are none.
func sparkline(all []float64) string {
	if len(all) < 2 {
		return ""
	}
	least, most := slices.Min(all), slices.Max(all)
	var b strings.Builder
	for _, v := range all {
		level := 0
		if most > least {
			level = int((v - least) / (most - least) * 7.999)
		}
		b.WriteRune([]rune("▁▂▃▄▅▆▇█")[min(max(level, 0), 7)])
	}
	return b.String()
}

// left is the time a running job still needs at its present speed.
func left(j *clusterpb.Job) string {
	seconds := float64(j.Steps-min(j.Step, j.Steps)) * float64(j.Batch) / j.ImagesPerSecond
	return (time.Duration(seconds) * time.Second).String()
}

// evaluationLine is one evaluation in less than 80 columns. The first loss is the training set's.
func evaluationLine(j *clusterpb.Job, e *clusterpb.Evaluation) string {
	n := float64(max(e.Images, 1))
	return fmt.Sprintf("epoch %d/%d  loss %.4f  test loss %.4f  test error %.2f %%  top-5 %.2f %%",
		e.Epoch, j.Epochs, e.TrainLoss, e.Loss, 100*e.Top1Errors/n, 100*e.Top5Errors/n)
}

// printEnd prints what a job came to; resume is the command that goes on with it.
func printEnd(out io.Writer, j *clusterpb.Job, resume string) error {
	switch j.State {
	case "done":
		if n := len(j.Evaluations); n > 0 {
			e := j.Evaluations[n-1]
			fmt.Fprintf(out, "test error %.2f %%\n", 100*e.Top1Errors/float64(max(e.Images, 1)))
		}
		fmt.Fprintf(out, "digest %x\n", j.Digest)
		return nil
	case "stopped":
		fmt.Fprintf(out, "stopped after step %d of %d; go on with: %s\n", j.CommittedStep, j.Steps, resume)
		return nil
	case fsm.Paused:
		if strings.HasPrefix(j.Reason, fsm.PausedByOperator) {
			fmt.Fprintf(out, "paused after step %d of %d; go on with: %s\n", j.CommittedStep, j.Steps, resume)
			return nil
		}
		return fmt.Errorf("%w: %s: %s; go on without its batch: %s --skip-batch", errJobPaused, j.Name, j.Reason, resume)
	}
	return fmt.Errorf("%w: %s: %s; when that is mended: %s", errJobFailed, j.Name, j.Reason, resume)
}
