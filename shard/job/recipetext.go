package job

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"colonnade/shard"
)

// RecipeText writes what the job's recipe comes to for every layer with weights: what they start with, and rates and
// decay from the first step to the last. h are the evaluations so far, for a plateau.
func (j *Job) RecipeText(out io.Writer, p *shard.Plan, h History) error {
	r, from := j.Recipe, ""
	if r.Preset != "" {
		from = " (preset " + r.Preset + ")"
	}
	fmt.Fprintf(out, "recipe%s: batch %d, momentum %g, %d steps, %d to an epoch\n", from, r.Batch, r.Momentum, j.Steps(),
		j.StepsPerEpoch())
	if pl := r.Plateau; pl != nil {
		fmt.Fprintf(out, "  rate divided by %g when %s of the test set has not fallen by more than %g for %d evaluations, "+
			"%d times", pl.Divide, pl.Measure.words(), pl.Improvement, pl.Patience, pl.Drops)
		if drops := j.Drops(h); len(drops) > 0 {
			fmt.Fprintf(out, "; so far after step %s", strings.Trim(strings.ReplaceAll(fmt.Sprint(drops), " ", ", "), "[]"))
		}
		fmt.Fprintln(out)
	}
	if r.ColourOff > 0 {
		fmt.Fprintf(out, "  colour noise ends before epoch %d\n", r.ColourOff)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nLAYER\tSTART\tRATE\tDECAY")
	steps := j.turns(h)
	for _, name := range layersOf(p) {
		for _, kind := range []shard.ParamKind{shard.Weight, shard.Bias} {
			q := find(p, name, kind)
			start := fmt.Sprintf("N(0, %g²)", q.Init.Std)
			if kind == shard.Bias {
				start = fmt.Sprintf("%g", q.Init.Bias)
			}
			rates := j.runs(steps, func(s uint64) string {
				if u := j.UpdateAt(s, q, h); !u.Frozen {
					return short(u.Rate)
				}
				return "frozen"
			})
			decay := j.runs(steps, func(s uint64) string {
				if u := j.UpdateAt(s, q, h); !u.Frozen {
					return short(u.Decay)
				}
				return "" // said under rate
			})
			fmt.Fprintf(w, "%s %s\t%s\t%s\t%s\n", name, kind, start, rates, decay)
		}
	}
	return w.Flush()
}

func (m Measure) words() string {
	switch m {
	case Top5:
		return "the top-5 error"
	case Loss:
		return "the loss"
	}
	return "the top-1 error"
}

// short writes a rate so that what float64 adds to it does not show.
func short(v float64) string { return fmt.Sprintf("%.5g", v) }

// layersOf are the layers with weights, in order.
func layersOf(p *shard.Plan) (names []string) {
	for i := range p.Layers {
		if l := p.Layers[i].Layer; l.Kind == shard.Conv || l.Kind == shard.Dense {
			names = append(names, l.Name)
		}
	}
	return names
}

// find is the first of a layer's parameters of a kind, of any column: all of them are updated alike.
func find(p *shard.Plan, layer string, kind shard.ParamKind) shard.Param {
	for _, column := range p.Params {
		for _, q := range column {
			if q.Layer == layer && q.Kind == kind {
				return q
			}
		}
	}
	return shard.Param{}
}

// turns are the numbers of finished steps behind which a rate may be another one, ascending, the first 0.
func (j *Job) turns(h History) []uint64 {
	all := []uint64{0}
	add := func(drops []Drop, d *Dexp) {
		for _, d := range drops {
			all = append(all, j.from(d))
		}
		for k := 1; d != nil && k < d.Steps; k++ {
			n := uint64(d.Steps)
			all = append(all, (uint64(k)*j.Steps()+n-1)/n)
		}
	}
	add(j.Recipe.Schedule, j.Recipe.Dexp)
	if b := j.Recipe.Biases; b != nil {
		add(b.Schedule, b.Dexp)
	}
	for _, l := range j.Recipe.Layers {
		add(l.Rates, nil)
		add(l.BiasRates, nil)
		if l.Freeze > 0 {
			add([]Drop{{Epoch: l.Freeze}}, nil)
		}
	}
	all = append(all, j.Drops(h)...)
	all = slices.DeleteFunc(all, func(s uint64) bool { return s >= j.Steps() })
	slices.Sort(all)
	return slices.Compact(all)
}

// runs lists a value's course: "0.01, from epoch 23 0.001".
func (j *Job) runs(steps []uint64, value func(uint64) string) string {
	var out strings.Builder
	last := ""
	for i, s := range steps {
		v := value(s)
		if v == last || v == "" {
			continue
		}
		per := uint64(j.StepsPerEpoch())
		switch {
		case i == 0:
		case s%per == 0:
			fmt.Fprintf(&out, ", from epoch %d ", s/per+1)
		default:
			fmt.Fprintf(&out, ", after step %d ", s)
		}
		out.WriteString(v)
		last = v
	}
	if out.Len() == 0 {
		return "-"
	}
	return out.String()
}
