package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
)

// watchCmd is `coordinator watch`: on a terminal, a page that is drawn again as the job goes on.
type watchCmd struct {
	jobWatchCmd
	Lines bool `help:"Print lines, as: job watch. Always so where there is no terminal."`
}

// Run follows a job until it ends; Ctrl-C ends the watching, not the job.
func (c *watchCmd) Run(con console) error {
	if !con.terminal || c.Lines || c.JSON || os.Getenv("TERM") == "dumb" {
		return c.jobWatchCmd.Run(con)
	}
	return c.follow(con, &page{con: con})
}

// pageLosses is how many points of a job's loss are kept: more than a terminal has columns.
const pageLosses = 512

// seen is the loss of a step.
type seen struct {
	step uint64
	loss float64
}

// page shows a job on a terminal's other screen, which is left as the page ends.
type page struct {
	con console

	mu     sync.Mutex
	open   bool
	losses []seen
	every  uint64 // steps that a point of losses stands for; 0: all
	events []*clusterpb.LogEvent
	notice string // what is to be said beside the job
	last   *clusterpb.Job
}

// begin takes in how the job went so far; where that cannot be had, the curve begins now.
func (p *page) begin(ctx context.Context, client clusterpb.OperatorClient, job string) {
	reply, err := client.History(ctx, &clusterpb.HistoryRequest{Job: job, Points: pageLosses / 2})
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(reply.Series) > 0 && p.losses == nil {
		for _, at := range reply.Series[0].Points {
			if at.Losses > 0 {
				p.losses = append(p.losses, seen{at.LastStep, at.Loss})
			}
		}
		p.every = reply.Series[0].Width
	}
}

// update draws the page.
func (p *page) update(u *clusterpb.JobUpdate) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range u.Events {
		if n := len(p.events); e.Kind != "checkpoint" && (n == 0 || e.Index > p.events[n-1].Index) {
			p.events = append(p.events[max(0, n-100):], e)
		}
	}
	j := u.Job
	p.last, p.notice = j, ""
	p.add(seen{j.Step, j.Loss})
	return p.draw()
}

// add takes in a loss. A job that has gone back to an older step has done none behind it.
func (p *page) add(s seen) {
	p.losses = slices.DeleteFunc(p.losses, func(old seen) bool { return old.step > s.step })
	n := len(p.losses)
	if s.loss <= 0 || n > 0 && s.step < p.losses[n-1].step+max(p.every, 1) {
		return
	}
	if p.losses = append(p.losses, s); n >= pageLosses {
		p.losses, p.every = halved(p.losses), 2*max(p.every, 1)
	}
}

// halved is every second of them.
func halved(all []seen) (half []seen) {
	for i := 1; i < len(all); i += 2 {
		half = append(half, all[i])
	}
	return half
}

// note says something beside the job; on standard error, if there is no page.
func (p *page) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.open {
		fmt.Fprintf(p.con.err, format+"\n", args...)
		return
	}
	p.notice = fmt.Sprintf(format, args...)
	_ = p.draw() // the next update tells
}

// clear leaves the terminal as it was, but for a line with what was seen last.
func (p *page) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open {
		fmt.Fprintf(p.con.out, "\x1b[?25h\x1b[?1049l%s: %s  %s\n", p.last.Name, p.last.State, progress(p.last))
		p.open = false
	}
}

// draw writes the page's lines over those before. p.mu is held.
func (p *page) draw() error {
	width, height := p.con.size()
	var b strings.Builder
	if !p.open {
		b.WriteString("\x1b[?1049h\x1b[?25l\x1b[2J")
		p.open = true
	}
	b.WriteString("\x1b[H")
	for i, line := range p.lines(width, height) {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line + "\x1b[K")
	}
	b.WriteString("\x1b[J")
	_, err := io.WriteString(p.con.out, b.String())
	return err
}

// size is the terminal's, in columns and lines.
func (c console) size() (width, height int) {
	if file, ok := c.out.(*os.File); ok {
		if w, h, err := term.GetSize(int(file.Fd())); err == nil && w > 1 && h > 1 {
			return w, h
		}
	}
	return 80, 24
}

// Colours of what a job is about, as a terminal's escape sequences.
var stateColours = map[string]string{"running": "32", "done": "32", "recovering": "33", "stopping": "33",
	"queued": "33", "placing": "33", fsm.Paused: "33", "failed": "31"}

// coloured is text in a colour, where there are colours.
func (c console) coloured(text, colour string) string {
	if !c.colours || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// lines are the page, none wider than width columns, not more than height: events are left out first, then cells.
func (p *page) lines(width, height int) []string {
	j := p.last
	head := j.Name + "  " + j.State
	all := []string{
		spread(width, head, fmt.Sprintf("generation %d  step %d/%d", j.Generation, j.Step, j.Steps)),
		bar(width, j), "", cut(p.curve(width), width), cut(tests(width, j), width), cut(facts(j), width), "",
	}
	if rest, whole := strings.CutPrefix(all[0], head); whole {
		all[0] = p.con.coloured(j.Name, "1") + "  " + p.con.coloured(j.State, stateColours[j.State]) + rest
	}
	if j.Reason != "" && j.State != "running" && j.State != "done" {
		all = slices.Insert(all, 2, cut(j.Reason, width))
	}
	cells := cellLines(j, width)
	if most := max(height-len(all)-6, 3); len(cells) > most {
		cells = append(cells[:most-1], fmt.Sprintf("and %d more; see: coordinator job show %s", len(cells)-most+1, j.Name))
	}
	all = append(append(all, cells...), "")
	end := []string{"Ctrl-C ends the watching, not the job."}
	if p.notice != "" {
		end = []string{p.con.coloured(cut(p.notice, width), "33")}
	}
	for _, e := range p.events[max(0, len(p.events)-max(height-len(all)-2, 0)):] {
		all = append(all, cut(e.At.AsTime().Local().Format(time.TimeOnly)+"  "+e.Text, width))
	}
	if len(all) > height-2 {
		all = all[:max(height-2, 0)]
	}
	return append(append(all, ""), cut(end[0], width))
}

// cut is a line no wider than a terminal.
func cut(line string, width int) string {
	if r := []rune(line); len(r) > width {
		return string(r[:width-1]) + "…"
	}
	return line
}

// spread is a line with something at both ends.
func spread(width int, left, right string) string {
	gap := width - len([]rune(left)) - len([]rune(right))
	if gap < 2 {
		return cut(left+"  "+right, width)
	}
	return left + strings.Repeat(" ", gap) + right
}

// bar is how far a job is.
func bar(width int, j *clusterpb.Job) string {
	share := float64(j.Step) / float64(max(j.Steps, 1))
	right := fmt.Sprintf("%3.0f %%", 100*share)
	if j.State == "running" && j.ImagesPerSecond > 0 {
		right += fmt.Sprintf("  %.0f images/s  %s left", j.ImagesPerSecond, left(j))
	}
	cells := max(width-len(right)-2, 10)
	eighths := int(share * float64(8*cells))
	drawn := strings.Repeat("█", eighths/8)
	if part := eighths % 8; part > 0 {
		drawn += string([]rune(" ▏▎▍▌▋▊▉")[part])
	}
	return drawn + strings.Repeat("░", max(cells-len([]rune(drawn)), 0)) + "  " + right
}

// labelled is how wide what stands before a curve is.
const labelled = 24

// curve is the loss, from the job's beginning to now.
func (p *page) curve(width int) string {
	loss := "-"
	if p.last.Loss > 0 {
		loss = fmt.Sprintf("%.4f", p.last.Loss)
	}
	all := make([]float64, len(p.losses))
	for i, s := range p.losses {
		all[i] = s.loss
	}
	return fmt.Sprintf("%-*s%s", labelled, "loss          "+loss, sparkline(fitted(all, width-labelled)))
}

// tests is the error on the test images, epoch by epoch.
func tests(width int, j *clusterpb.Job) string {
	var errors []float64
	for _, e := range j.Evaluations {
		errors = append(errors, 100*e.Top1Errors/float64(max(e.Images, 1)))
	}
	if len(errors) == 0 {
		return "test error    -"
	}
	e := j.Evaluations[len(errors)-1]
	behind := fmt.Sprintf("  epoch %d/%d  top-5 %.2f %%", e.Epoch, j.Epochs, 100*e.Top5Errors/float64(max(e.Images, 1)))
	drawn := sparkline(fitted(errors, width-labelled-len(behind)))
	return fmt.Sprintf("%-*s%s%s", labelled, fmt.Sprintf("test error    %.2f %%", errors[len(errors)-1]), drawn, behind)
}

// fitted is a series in so many points at most, each the mean of its share.
func fitted(all []float64, most int) []float64 {
	if len(all) <= most || most < 1 {
		return all
	}
	out := make([]float64, most)
	for i := range out {
		from, to := i*len(all)/most, (i+1)*len(all)/most
		for _, v := range all[from:to] {
			out[i] += v / float64(to-from)
		}
	}
	return out
}

// facts are what else there is to know of a job.
func facts(j *clusterpb.Job) string {
	text := fmt.Sprintf("batch %d  checkpoint of step %d", j.Batch, j.CommittedStep)
	if n := len(j.Evaluations); n > 0 && j.Evaluations[n-1].Rate > 0 {
		text += "  rate " + rateOf(j.Evaluations[n-1])
	}
	if n := len(j.Vetoes); n > 0 {
		text += fmt.Sprintf("  %d steps vetoed", n)
	}
	if j.Parent != nil {
		text += fmt.Sprintf("  forked from %s@%d", j.Parent.Job, j.Parent.Step)
	}
	return text
}

// cellLines are a table of what every cell does.
func cellLines(j *clusterpb.Job, width int) []string {
	if len(j.Placement) == 0 {
		return []string{"no cell is placed"}
	}
	row := func(cell, worker, step, phase, images, carrier string) string {
		return cut(fmt.Sprintf("%-6s %-22s %9s  %-16s %9s  %s", cell, cut(worker, 22), step, cut(phase, 16), images, carrier),
			width)
	}
	all := []string{row("CELL", "WORKER", "STEP", "PHASE", "IMAGES/S", "CARRIER")}
	for _, p := range j.Placement {
		s := statusOf(j.Cells, p.Cell)
		all = append(all, row(fsm.CellName(p.Cell), p.WorkerName, fmt.Sprint(s.GetStep()), cmp.Or(s.GetPhase(), "-"),
			fmt.Sprintf("%.0f", s.GetImagesPerSecond()), cmp.Or(s.GetCarrier(), "-")))
	}
	return all
}
