package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sum works out what the run came to.
func (r *run) sum(o *outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := time.Now()
	o.Seconds = end.Sub(r.began).Seconds()
	if r.job != nil {
		o.Digest = fmt.Sprintf("%x", r.job.Digest)
	}
	o.Faults = r.done
	for _, i := range r.done {
		if i.end.IsZero() {
			i.end = end
		}
		i.Held = i.end.Sub(i.at).Seconds()
		i.Stood, i.AfterEnd = r.stood(i)
	}
	for _, index := range slices.Sorted(maps.Keys(r.events)) {
		e := r.events[index]
		if e.Kind == "generation" {
			o.Began = append(o.Began, fmt.Sprintf("%.3f %s", e.At.AsTime().Sub(r.began).Seconds(), e.Text))
		}
		m := fromStep.FindStringSubmatch(e.Text)
		if e.Kind != "generation" || m == nil {
			continue
		}
		o.Generations++
		from, _ := strconv.ParseUint(m[1], 10, 64) // "" is the start
		had := uint64(0)
		for _, p := range r.points {
			if p.at.Before(e.At.AsTime()) {
				had = p.step
			}
		}
		if had > from {
			o.Lost += had - from
		}
		o.StepsLost = append(o.StepsLost, max(had, from)-from)
	}
	if n := len(r.points); n > 1 && r.job.GetSteps() > 0 {
		o.Steps = r.points[n-1].step
		o.Quiet = r.quiet()
		if usual := usual(o.Quiet); usual > 0 {
			o.Step = usual
			o.Goodput = min(1, float64(r.points[n-1].step-r.points[0].step)*usual/r.points[n-1].at.Sub(r.points[0].at).Seconds())
		}
	}
}

var fromStep = regexp.MustCompile(`: generation \d+ from (?:step (\d+)|the start)`)

// stood is the longest time without a new step from a fault until the first step after it was mended, and how much of
// it came after the mending.
func (r *run) stood(i *injected) (longest, after float64) {
	last := i.at
	for _, p := range r.points {
		if p.at.Before(i.at) {
			continue
		}
		longest = max(longest, p.at.Sub(last).Seconds())
		last = p.at
		if p.at.After(i.end) {
			after = p.at.Sub(i.end).Seconds()
			break
		}
	}
	return longest, after
}

// stretch is a time in which nothing was done.
type stretch struct {
	From  float64 `json:"from"` // seconds after the job was submitted
	To    float64 `json:"to"`
	Steps uint64  `json:"steps"`
	Step  float64 `json:"step_seconds"` // the mean
	Where string  `json:"where"`        // cells, at its end
}

// settled is how long after a fault was mended things are taken to be as before.
const settled = 3 * time.Second

// quiet are the stretches between faults, that before the first and that after the last among them.
func (r *run) quiet() (out []stretch) {
	var first, last point
	end := func() {
		if took := last.at.Sub(first.at).Seconds(); last.step > first.step {
			x := stretch{first.at.Sub(r.began).Seconds(), last.at.Sub(r.began).Seconds(), last.step - first.step,
				took / float64(last.step-first.step), ""}
			for _, p := range r.places {
				if p.from.Before(last.at) {
					x.Where = p.text
				}
			}
			out = append(out, x)
		}
		first, last = point{}, point{}
	}
	for _, p := range r.points {
		if slices.ContainsFunc(r.done, func(i *injected) bool {
			return p.at.After(i.at.Add(-200*time.Millisecond)) && p.at.Before(i.end.Add(settled))
		}) {
			end()
			continue
		}
		if first.at.IsZero() {
			first = p
		}
		last = p
	}
	end()
	return out
}

// usual is the seconds that a step takes when nothing is wrong: the mean over all stretches in which nothing was done.
// It has to be the mean: a machine that is shared has steps of many lengths, and what most of them take is less than
// what they take on average, undisturbed too.
func usual(quiet []stretch) float64 {
	took, steps := 0., uint64(0)
	for _, x := range quiet {
		took, steps = took+x.To-x.From, steps+x.Steps
	}
	if steps == 0 {
		return 0
	}
	return took / float64(steps)
}

// row is what all faults of a kind came to.
type row struct {
	Kind   string  `json:"kind"`
	Count  int     `json:"count"`
	Median float64 `json:"stood_median"` // seconds
	P95    float64 `json:"stood_p95"`
	Most   float64 `json:"stood_most"`
	After  float64 `json:"after_mending_median"`
}

// summary is all runs'.
type summary struct {
	Want        string     `json:"want"`
	Undisturbed float64    `json:"undisturbed_seconds"`
	Runs        int        `json:"runs"`
	Same        int        `json:"same_digest"`
	Faults      []row      `json:"faults"`
	All         row        `json:"all"`
	Generations int        `json:"generations"`
	Lost        uint64     `json:"steps_lost"`
	LostMost    uint64     `json:"steps_lost_most"`
	Goodput     float64    `json:"goodput_median"`
	GoodputLow  float64    `json:"goodput_least"`
	Left        []string   `json:"left_out"` // what this machine cannot do
	Outcomes    []*outcome `json:"outcomes"`
}

func summarise(want string, all []*outcome) *summary {
	s := &summary{Want: want, Runs: len(all), Outcomes: all}
	by := map[string][]*injected{}
	var every []*injected
	var goodput []float64
	for _, o := range all {
		if o.Digest == want && o.Trouble == "" {
			s.Same++
		}
		s.Generations += o.Generations
		s.Lost += o.Lost
		for _, n := range o.StepsLost {
			s.LostMost = max(s.LostMost, n)
		}
		if o.Goodput > 0 {
			goodput = append(goodput, o.Goodput)
		}
		for _, i := range o.Faults {
			by[i.Kind] = append(by[i.Kind], i)
			every = append(every, i)
		}
	}
	for _, k := range kinds {
		if len(by[k.name]) > 0 {
			s.Faults = append(s.Faults, rowOf(k.name, by[k.name]))
		}
	}
	s.All = rowOf("all", every)
	if len(goodput) > 0 {
		s.Goodput, s.GoodputLow = quantile(goodput, 0.5), quantile(goodput, 0)
	}
	return s
}

// merged is what several summaries, as --json prints them, come to together. Of a seed that is in more than one the
// last counts: it was run again.
func merged(paths []string) (*summary, error) {
	var first summary
	bySeed := map[uint64]*outcome{}
	for i, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var s summary
		if err := json.Unmarshal(b, &s); err != nil {
			return nil, fmt.Errorf("%s is not what scripts/chaos --json prints: %w", path, err)
		}
		if i == 0 {
			first = s
		}
		if s.Want != first.Want {
			return nil, fmt.Errorf("%s is about another job than %s: undisturbed digests %q and %q; merge what was run with "+
				"the same programs and steps", path, paths[0], s.Want, first.Want)
		}
		for _, o := range s.Outcomes {
			bySeed[o.Seed] = o
		}
	}
	var all []*outcome
	for _, seed := range slices.Sorted(maps.Keys(bySeed)) {
		all = append(all, bySeed[seed])
	}
	s := summarise(first.Want, all)
	s.Undisturbed, s.Left = first.Undisturbed, first.Left
	return s, nil
}

func rowOf(kind string, all []*injected) row {
	var stood, after []float64
	for _, i := range all {
		stood, after = append(stood, i.Stood), append(after, i.AfterEnd)
	}
	return row{kind, len(all), quantile(stood, 0.5), quantile(stood, 0.95), quantile(stood, 1), quantile(after, 0.5)}
}

// quantile of values, which it sorts; 0 of none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[max(0, int(math.Ceil(q*float64(len(values))))-1)]
}

// print prints it, as JSON too if wanted, and says how to exit.
func (s *summary) print(asJSON bool) (code int, err error) {
	if asJSON {
		s.table(os.Stderr)
		out := json.NewEncoder(os.Stdout)
		out.SetIndent("", " ")
		err = out.Encode(s)
	} else {
		s.table(os.Stdout)
	}
	if s.Same < s.Runs || s.Runs == 0 {
		code = 1
	}
	return code, err
}

// table prints what a person wants to know.
func (s *summary) table(w io.Writer) {
	fmt.Fprintf(w, "%-30s %6s   training stood still, s: %6s %7s %7s\n", "fault", "times", "median", "p95", "most")
	for _, f := range append(s.Faults, s.All) {
		fmt.Fprintf(w, "%-30s %6d %33.2f %7.2f %7.2f\n", f.Kind, f.Count, f.Median, f.P95, f.Most)
	}
	fmt.Fprintf(w, "%d generations, %d finished steps done again (%d at most at once), goodput %.0f %% (least %.0f %%)\n",
		s.Generations, s.Lost, s.LostMost, 100*s.Goodput, 100*s.GoodputLow)
	for _, l := range s.Left {
		fmt.Fprintln(w, "left out:", l)
	}
	if s.Want == "" {
		for _, o := range s.Outcomes {
			stood := 0.0
			for _, i := range o.Faults {
				stood += i.Stood
			}
			fmt.Fprintf(w, "goodput %.1f %% of %.0f s: %d steps of %.1f ms, %d done again\n", 100*o.Goodput, o.Seconds, o.Steps,
				1000*o.Step, o.Lost)
			fmt.Fprintf(w, "by these, and the %.1f s that training stood still, alone: %.1f %%\n", stood,
				100*(1-(stood+float64(o.Lost)*o.Step)/o.Seconds))
			if len(o.Quiet) > 0 {
				fmt.Fprintf(w, "by the steps before the first fault: %.1f %%\n", 100*o.Goodput*o.Quiet[0].Step/o.Step)
			}
			for _, x := range o.Quiet {
				fmt.Fprintf(w, "undisturbed from %4.0f to %4.0f s: %5d steps of %5.1f ms; %s\n", x.From, x.To, x.Steps, 1000*x.Step,
					x.Where)
			}
		}
	} else {
		fmt.Fprintf(w, "%d of %d runs ended in the undisturbed digest %s\n", s.Same, s.Runs, s.Want)
	}
	for _, o := range s.Outcomes {
		if o.Trouble != "" {
			fmt.Fprintf(w, "seed %d: %s\n  logs: %s\n  again: scripts/chaos --runs 1 --seed %d\n", o.Seed,
				strings.ReplaceAll(o.Trouble, "\n", "; "), o.Kept, o.Seed)
		}
	}
}
