package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"

	"colonnade/checkpoint/tensors"
	"colonnade/coordinator/figures"
)

// report prints a table of all runs, draws figure 1 if there is something of it, and keeps what is to be kept.
func (o options) report() error {
	all := map[string]*record{}
	fmt.Printf("%-22s %-12s %9s\n", "run", "state", "error")
	for _, w := range runs() {
		r, err := o.best(w)
		if err != nil {
			return err
		}
		if all[w.name] = r; r.Of == 0 {
			fmt.Printf("%-22s not begun\n", w.name)
			continue
		}
		state, score := fmt.Sprintf("%d/%d", r.Steps, r.Of), "-"
		if r.Done {
			state = "done"
		} else if r.Diverged {
			state = "diverged"
		}
		if e, ok := r.last(); ok {
			score = fmt.Sprintf("%.2f %%", e)
		}
		fmt.Printf("%-22s %-12s %9s  %.0f s %.12s", w.name, state, score, r.Seconds, r.Digest)
		if e := r.reached(); w.until && e > 0 {
			fmt.Printf("  a quarter wrong after %d epochs", e)
		}
		fmt.Println()
	}
	d, err := figure1(all)
	if err == nil && d != nil {
		err = errors.Join(os.MkdirAll(o.data, 0o755), tensors.Create(filepath.Join(o.data, "figure1.svg"), d.SVG),
			tensors.Create(filepath.Join(o.data, "figure1.png"), d.PNG))
	}
	if err != nil || !o.keep {
		return err
	}
	if d != nil {
		err = tensors.Create(filepath.Join(o.kept, "figure1.png"), d.PNG)
	}
	if err = errors.Join(err, o.keepAll()); err != nil {
		return err
	}
	text, err := table(all, o.jobs)
	if err != nil {
		return err
	}
	return splice(filepath.Join(o.kept, "PAPER.md"), text)
}

// figure1 draws what there is of it; nil: nothing.
func figure1(all map[string]*record) (*figures.Drawing, error) {
	var lines []figures.Series
	for _, w := range runs() {
		r := all[w.name]
		if !w.until || len(r.Evaluations) == 0 || w.name != fastest(all, w.job).name {
			continue
		}
		s := figures.Series{Name: strings.TrimPrefix(w.job, "figure1-"), Dashed: w.job == "figure1-tanh"}
		for _, e := range r.Evaluations {
			s.Points = append(s.Points, figures.Point{X: float64(e.Epoch), Y: 100 * e.error1()})
		}
		lines = append(lines, s)
	}
	if len(lines) == 0 {
		return nil, nil
	}
	return figures.Curves(figures.Chart{Title: "figure 1", X: "epochs", Y: "training error (%)", Level: 25, Zero: true},
		lines...)
}

// Where PAPER.md has the table: whatever lies between these lines is the program's.
const (
	tableBegins = "<!-- Written by scripts/paper --keep from results/: -->\n"
	tableEnds   = "<!-- So far. -->\n"
)

// splice puts the table into a page that has a place for it.
func splice(path, table string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), tableBegins)
	_, after, ok2 := strings.Cut(rest, tableEnds)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q, between which the table goes; put them in", path,
			strings.TrimSpace(tableBegins), strings.TrimSpace(tableEnds))
	}
	return tensors.Create(path, func(w io.Writer) error {
		_, err := io.WriteString(w, before+tableBegins+table+tableEnds+after)
		return err
	})
}

// table is what all runs came to, beside the paper's figures, as Markdown.
func table(all map[string]*record, jobs string) (string, error) {
	var b strings.Builder
	b.WriteString("\n| | the paper | here |\n|---|---|---|\n")
	line := func(what, paper, here string) { fmt.Fprintf(&b, "| %s | %s | %s |\n", what, paper, here) }
	line("(a) CIFAR-10, four layers, test error", "13 %", seeds(all, "cifar10-4"))
	line("(a) the same with local response normalisation", "11 %", seeds(all, "cifar10-4-lrn"))
	line("(b) figure 1, epochs to 25 % training error: ReLU", "about 6", epochs(all, "figure1-relu"))
	line("(b) tanh", "about 36", epochs(all, "figure1-tanh"))
	line("(c) full size, two columns, CIFAR-10's photographs at 256", "", full(all, "fullsize"))
	line("(c) full size, two columns, patches of photographs", "", full(all, "patches"))
	line("(d) `alexnet-32`, CIFAR-10, test error", "", last(all["cifar10"]))
	line("(d) `alexnet-32`, Fashion-MNIST, test error", "", last(all["fashion"]))
	b.WriteString("\n| run | epochs, of the job's | steps | error | processor time a step | machine, commit | digest |\n" +
		"|---|---|---|---|---|---|---|\n")
	for _, w := range runs() {
		r := all[w.name]
		if r.Of == 0 {
			fmt.Fprintf(&b, "| %s | | not begun | | | | |\n", w.name)
			continue
		}
		sample, err := os.ReadFile(filepath.Join(jobs, w.job+".yaml"))
		if err != nil {
			return "", err
		}
		length, score, took, digest := "", "", "", "not at its end"
		if m := epochsLine.FindStringSubmatch(string(sample)); m != nil {
			length = m[1]
			if w.epochs > 0 {
				length = fmt.Sprintf("%d of %s", w.epochs, m[1])
			}
		}
		if e, ok := r.last(); ok {
			score = fmt.Sprintf("%.2f %%", e)
		}
		if r.Processing > 0 {
			took = fmt.Sprintf("%.3g s", r.Processor/float64(r.Processing))
		}
		if r.Done {
			digest = fmt.Sprintf("%.12s", r.Digest)
		} else if w.finished(r) {
			digest = "stopped there"
		}
		fmt.Fprintf(&b, "| %s | %s | %d of %d | %s | %s | %s | %s |\n", w.name, length, r.Steps, r.Of, score, took,
			strings.Trim(r.Machine+", "+r.Commit, ", "), digest)
	}
	b.WriteString("\n")
	return b.String(), nil
}

// seeds is the mean of a job's runs that are done, and each.
func seeds(all map[string]*record, job string) string {
	var each []string
	sum := 0.0
	for seed := 1; seed <= 3; seed++ {
		r := all[fmt.Sprintf("%s-seed%d", job, seed)]
		if e, ok := r.last(); ok && r.Done {
			each, sum = append(each, fmt.Sprintf("%.2f", e)), sum+e
		}
	}
	if len(each) == 0 {
		return "not run"
	}
	return fmt.Sprintf("%.2f %% (%s)", sum/float64(len(each)), strings.Join(each, ", "))
}

// fastest is the run of a job of figure 1 that came to a quarter of the images first; where none has, one
// of them.
func fastest(all map[string]*record, job string) (best run) {
	least := uint64(math.MaxUint64)
	for _, w := range runs() {
		if w.job != job {
			continue
		}
		e := all[w.name].reached()
		if e == 0 {
			e = math.MaxUint64
		}
		if best.name == "" || e < least {
			best, least = w, e
		}
	}
	return best
}

// epochs is how long the fastest run of a job of figure 1 took to a quarter of the images, and at which rate.
func epochs(all map[string]*record, job string) string {
	best := fastest(all, job)
	var others []string
	for _, w := range runs() {
		if w.job == job && w.name != best.name {
			others = append(others, fmt.Sprintf("%s: %s", w.rate, reached(all[w.name])))
		}
	}
	return fmt.Sprintf("%s, at a rate of %s (%s)", reached(all[best.name]), best.rate, strings.Join(others, ", "))
}

// reached is how long a run of figure 1 took to a quarter of the images.
func reached(r *record) string {
	if e := r.reached(); e > 0 {
		return fmt.Sprint(e)
	}
	e, ok := r.last()
	switch {
	case r.Diverged:
		return "diverged"
	case !ok:
		return "not run"
	}
	return fmt.Sprintf("not in %d: %.1f %%", r.Evaluations[len(r.Evaluations)-1].Epoch, e)
}

// full is how the loss of a full-size run fell, and whether the run that was killed came to the same.
func full(all map[string]*record, job string) string {
	r, killed := all[job], all[job+"-killed"]
	first, end := r.fall()
	if first == 0 {
		return "not run"
	}
	out := fmt.Sprintf("loss %.2f to %.2f in %d steps", first, end, r.Steps)
	if e, ok := r.last(); ok {
		out += fmt.Sprintf(", error %.1f %%", e)
	}
	switch {
	case !r.Done || !killed.Done:
		return out + "; killed and resumed: not done"
	case killed.Digest == r.Digest:
		return out + fmt.Sprintf("; killed %d time and resumed: same digest", killed.Kills)
	}
	return out + "; killed and resumed: ANOTHER DIGEST"
}

// last is a run's error at its end, or how far it is.
func last(r *record) string {
	e, ok := r.last()
	switch {
	case !ok:
		return "not run"
	case r.Done:
		return fmt.Sprintf("%.2f %%", e)
	}
	return fmt.Sprintf("%.2f %% after %d of %d steps", e, r.Steps, r.Of)
}
