package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"colonnade/checkpoint/cli"
	"colonnade/worker/train"
)

// benchReport is what a bench came to. A FLOP is a floating-point operation of the products by their definition: two
// for each multiply-add, whatever algorithm computes them.
type benchReport struct {
	Network         string            `json:"network"`
	Columns         int               `json:"columns"`
	Batch           int               `json:"batch"`
	Threads         int               `json:"threads"` // in all
	Alone           bool              `json:"alone"`
	Winograd        string            `json:"winograd"`
	Carrier         string            `json:"carrier"` // as asked for
	Carriers        string            `json:"carriers,omitempty"`
	Device          benchDevice       `json:"device"`
	Commit          string            `json:"commit"`
	Steps           []float64         `json:"steps"` // seconds of every timed step, from the end of the one before
	ImagesPerSecond float64           `json:"images_per_second"`
	StepMS          benchStep         `json:"ms_per_step"`
	FLOPs           int64             `json:"flops"` // of a step, all cells
	GFLOPS          float64           `json:"gflops"`
	WaitShare       float64           `json:"exchange_wait_share"`
	Cells           []benchCellReport `json:"cells"`

	warmup int
}

// benchDevice is what the cells ran on.
type benchDevice struct {
	Name     string `json:"name"`
	Model    string `json:"model"`
	Numerics string `json:"numerics"`
}

// benchStep is what steps took, in ms.
type benchStep struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// benchCellReport is what a cell's steps took. Times are means over the timed steps.
type benchCellReport struct {
	Cell    string       `json:"cell"`
	Threads int          `json:"threads"`
	MS      float64      `json:"ms"`      // of a step
	RestMS  float64      `json:"rest_ms"` // of it in no phase
	FLOPs   int64        `json:"flops"`
	Phases  []benchPhase `json:"phases"` // as a step runs
}

// benchPhase is one phase of a cell's step.
type benchPhase struct {
	Name   string     `json:"name"`
	MS     float64    `json:"ms"`
	GFLOPS float64    `json:"gflops"` // 0 where nothing is multiplied
	Share  float64    `json:"share"`  // of the cell's step
	Kind   train.Kind `json:"kind"`
	FLOPs  int64      `json:"flops"`

	op string
}

// report says what is to be measured.
func (c *benchCmd) report(rig *benchRig) *benchReport {
	r := &benchReport{Network: c.Network, Columns: c.Columns, Batch: c.Batch, Alone: c.Alone, Winograd: c.Winograd,
		Carrier: c.Carrier, Carriers: rig.carriers(), Commit: cli.Version(), warmup: c.Warmup,
		Device: benchDevice{rig.info.Name, rig.info.Model, rig.info.Numerics}, Steps: make([]float64, c.Steps)}
	for _, cell := range rig.cells {
		r.Threads += cell.threads
		r.Cells = append(r.Cells, benchCellReport{Cell: cell.id.String(), Threads: cell.threads})
	}
	return r
}

// fill adds what was measured.
func (r *benchReport) fill(rig *benchRig) {
	// A step lasts from the moment all cells have ended the one before to the moment all have ended it.
	ended := func(step int) (last time.Time) {
		for _, c := range rig.cells {
			if t := c.steps[step].Ended; t.After(last) {
				last = t
			}
		}
		return last
	}
	first := rig.cells[0].steps[0].Began
	if r.warmup > 0 {
		first = ended(r.warmup - 1)
	}
	for i := range r.Steps {
		last := ended(r.warmup + i)
		r.Steps[i], first = last.Sub(first).Seconds(), last
	}
	whole, waits := 0.0, 0.0
	for i, c := range rig.cells {
		r.Cells[i].fill(c.steps[r.warmup:])
		r.FLOPs += r.Cells[i].FLOPs
		whole += r.Cells[i].MS
		for _, ph := range r.Cells[i].Phases {
			if ph.Kind == train.Wait {
				waits += ph.MS
			}
		}
	}
	sorted := slices.Sorted(slices.Values(r.Steps))
	median := (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
	r.StepMS = benchStep{Median: 1000 * median, Min: 1000 * sorted[0], Max: 1000 * sorted[len(sorted)-1]}
	r.ImagesPerSecond = ratio(float64(r.Batch), median)
	r.GFLOPS = ratio(float64(r.FLOPs)/1e9, median)
	r.WaitShare = ratio(waits, whole)
}

// fill adds up a cell's phases; those of one name count as one.
func (c *benchCellReport) fill(steps []train.StepTimes) {
	at := map[string]int{}
	n := float64(len(steps))
	for i, s := range steps {
		c.MS += milliseconds(s.Ended.Sub(s.Began)) / n
		for _, ph := range s.Phases {
			k, ok := at[ph.Name]
			if !ok {
				k = len(c.Phases)
				at[ph.Name] = k
				c.Phases = append(c.Phases, benchPhase{Name: ph.Name, op: ph.Op, Kind: ph.Kind})
			}
			c.Phases[k].MS += milliseconds(ph.Took) / n
			if i == 0 { // all steps are alike
				c.Phases[k].FLOPs += 2 * ph.MACs
			}
		}
	}
	c.RestMS = c.MS
	for i := range c.Phases {
		ph := &c.Phases[i]
		ph.rate(c.MS)
		c.FLOPs += ph.FLOPs
		c.RestMS -= ph.MS
	}
}

// rate derives speed and share from a phase's time and that of the step.
func (p *benchPhase) rate(step float64) {
	p.GFLOPS = ratio(float64(p.FLOPs)/1e6, p.MS)
	p.Share = ratio(p.MS, step)
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// ratio is a / b, and 0 where b is: JSON has no infinity.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// head prints what is to be measured, before it is.
func (r *benchReport) head(out io.Writer, note string) error {
	what := fmt.Sprintf("%s in %d columns", r.Network, r.Columns)
	switch {
	case r.Alone:
		what = fmt.Sprintf("%s, column 0 of %d alone", r.Network, r.Columns)
	case r.Columns == 1:
		what = r.Network + " in one column"
	}
	lines := []string{
		fmt.Sprintf("%s, batch %d, %s", what, r.Batch, count(r.Threads, "thread")),
		fmt.Sprintf("device %s: %s", r.Device.Name, r.Device.Model),
		"numerics " + r.Device.Numerics,
	}
	if r.Carriers != "" {
		lines = append(lines, "exchange "+r.Carriers)
	}
	lines = append(lines, "commit "+r.Commit)
	if note != "" {
		lines = append(lines, note)
	}
	lines = append(lines, fmt.Sprintf("%s, after %d to warm up ...", count(len(r.Steps), "step"), r.warmup), "")
	_, err := io.WriteString(out, strings.Join(lines, "\n")+"\n")
	return err
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// busy says if others compute on this machine; it has no word for machines that keep no load average.
func busy() string {
	var load float64
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	if _, err := fmt.Sscan(string(b), &load); err != nil || load <= float64(cores())+0.5 {
		return ""
	}
	return fmt.Sprintf("the load is %.1f on %s: others compute here, times will be too long", load, count(cores(), "core"))
}

// ops are the phases by the names that columns have in common, in the order of a step: means over the cells.
func (r *benchReport) ops() (rows []benchPhase, step, rest float64) {
	n := float64(len(r.Cells))
	for _, c := range r.Cells {
		step += c.MS / n
		rest += c.RestMS / n
		at := 0 // where the next row goes if it is new
		for _, ph := range c.Phases {
			i := slices.IndexFunc(rows, func(o benchPhase) bool { return o.op == ph.op })
			if i < 0 {
				i = at
				rows = slices.Insert(rows, i, benchPhase{op: ph.op, Kind: ph.Kind})
			}
			rows[i].MS += ph.MS / n
			rows[i].FLOPs += ph.FLOPs
			at = max(at, i+1) // ops of several blocks take turns
		}
	}
	for i := range rows {
		rows[i].FLOPs /= int64(len(r.Cells))
		rows[i].rate(step)
	}
	return rows, step, rest
}

// kinds are what the totals of a table are called.
var kinds = []struct {
	kind train.Kind
	name string
}{{train.Forward, "forward"}, {train.Data, "gradients by data"}, {train.Weights, "gradients by weights"},
	{train.Wait, "wait for other cells"}, {train.Other, "other"}}

// leastRest is the share of a step in no phase from which it is worth a line.
const leastRest = 0.0005

// table prints where the time went: at most 80 signs wide with the networks that come with the program.
func (r *benchReport) table(out io.Writer) error {
	ops, step, rest := r.ops()
	rows := [][]string{{"PHASE", "MS", "GFLOP/S", "SHARE"}}
	line := func(p benchPhase) {
		p.rate(step)
		speed := ""
		if p.FLOPs > 0 {
			speed = fmt.Sprintf("%.1f", p.GFLOPS)
		}
		rows = append(rows, []string{p.op, fmt.Sprintf("%.3f", p.MS), speed, fmt.Sprintf("%.1f %%", 100*p.Share)})
	}
	totals := map[train.Kind]benchPhase{}
	for _, p := range ops {
		line(p)
		t := totals[p.Kind]
		t.MS += p.MS
		t.FLOPs += p.FLOPs
		totals[p.Kind] = t
	}
	if ratio(rest, step) >= leastRest {
		line(benchPhase{op: "in no phase", MS: rest})
		t := totals[train.Other]
		t.MS += rest
		totals[train.Other] = t
	}
	body := len(rows)
	all := benchPhase{op: "step", MS: step}
	for _, k := range kinds {
		t := totals[k.kind]
		t.op = k.name
		line(t)
		all.FLOPs += t.FLOPs
	}
	line(all)
	_, err := io.WriteString(out, align(rows, 1, body)+r.summary())
	return err
}

// summary is the lines below the table.
func (r *benchReport) summary() string {
	var b strings.Builder
	if n := len(r.Cells); n > 1 {
		fmt.Fprintf(&b, "\nMeans over %d cells and %s.\n", n, count(len(r.Steps), "step"))
	} else {
		fmt.Fprintf(&b, "\nMeans over %s.\n", count(len(r.Steps), "step"))
	}
	fmt.Fprintf(&b, "ms a step  %.1f median, %.1f least, %.1f most\n", r.StepMS.Median, r.StepMS.Min, r.StepMS.Max)
	fmt.Fprintf(&b, "images/s   %.1f\n", r.ImagesPerSecond)
	fmt.Fprintf(&b, "GFLOP/s    %.1f, by the definition of convolution\n", r.GFLOPS)
	if len(r.Cells) > 1 {
		fmt.Fprintf(&b, "waiting    %.1f %% of a cell's time, for other cells\n", 100*r.WaitShare)
	}
	return b.String()
}

// align prints rows with a name to the left and numbers to the right, and a rule before each of those named.
func align(rows [][]string, rules ...int) string {
	width := make([]int, len(rows[0]))
	total := -2
	for i := range width {
		for _, row := range rows {
			width[i] = max(width[i], utf8.RuneCountInString(row[i]))
		}
		total += width[i] + 2
	}
	var b strings.Builder
	for i, row := range rows {
		if slices.Contains(rules, i) {
			b.WriteString(strings.Repeat("─", total) + "\n")
		}
		fmt.Fprintf(&b, "%-*s", width[0], row[0])
		for k, s := range row[1:] {
			fmt.Fprintf(&b, "  %*s", width[k+1], s)
		}
		b.WriteString("\n")
	}
	return b.String()
}
