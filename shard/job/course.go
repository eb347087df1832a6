package job

import (
	"math"
	"slices"
	"strings"

	"colonnade/shard"
)

// Evaluation is what the job's log has of a pass over the test set.
type Evaluation struct {
	Step uint64  // finished steps
	Top1 float64 // errors, as a share of the images
	Top5 float64
	Loss float64 // mean
}

// History is a job's evaluations by step. Only a plateau goes by it.
type History []Evaluation

// Update is what one parameter is updated with: v := momentum v - decay rate w - rate g; w := w + v. Of a frozen one
// nothing changes: gradient, decay and momentum are skipped (layer.cu:582-592 of the source), and it begins without
// momentum should it be trained again.
type Update struct {
	Rate, Decay float64
	Frozen      bool
}

// UpdateAt is the update of a parameter in the step that follows `step` finished ones. It is a function of the job, of
// the parameter, and of the evaluations up to then.
func (j *Job) UpdateAt(step uint64, p shard.Param, h History) Update {
	r := &j.Recipe
	u := Update{Rate: j.rate(step, h) * p.Rate, Decay: r.Decay * p.Decay}
	bias := p.Kind == shard.Bias
	if b := r.Biases; bias && b != nil {
		switch {
		case b.Times != nil:
			u.Rate = j.rate(step, h) * *b.Times
		case b.Rate != nil:
			u.Rate = j.along(*b.Rate, b.Schedule, b.Dexp, step)
		}
		if b.Decay != nil {
			u.Decay = *b.Decay
		}
	}
	for i := range r.Layers {
		l := &r.Layers[i]
		if !l.Layer.match(p.Layer) {
			continue
		}
		rates := l.Rates
		if bias {
			rates = l.BiasRates
		} else if l.Decay != nil {
			u.Decay = *l.Decay
		}
		for _, d := range rates {
			if step >= j.from(d) {
				u.Rate = d.Rate
			}
		}
		u.Frozen = u.Frozen || l.Freeze > 0 && step >= j.from(Drop{Epoch: l.Freeze})
	}
	if u.Frozen = u.Frozen || u.Rate == 0; u.Frozen {
		u.Rate, u.Decay = 0, 0
	}
	return u
}

// RateAt is the recipe's rate in the step that follows `step` finished ones, before anything that holds for biases or
// single layers.
func (j *Job) RateAt(step uint64, h History) float64 { return j.rate(step, h) }

func (j *Job) rate(step uint64, h History) float64 {
	r := &j.Recipe
	if r.Plateau == nil {
		return j.along(r.Rate, r.Schedule, r.Dexp, step)
	}
	rate := r.Rate
	for range r.Plateau.dropped(step, h) {
		rate /= r.Plateau.Divide
	}
	return rate
}

// along is where a rate is that goes by a schedule or a dexp, or stays.
func (j *Job) along(rate float64, schedule []Drop, dexp *Dexp, step uint64) float64 {
	for _, d := range schedule {
		if step >= j.from(d) {
			rate = d.Rate
		}
	}
	if dexp != nil {
		n := uint64(dexp.Steps)
		k := min(step*n/j.Steps(), n-1)
		rate /= math.Pow(dexp.Factor, float64(k)/float64(n-1))
	}
	return rate
}

// from is the number of finished steps that an entry of a schedule begins behind.
func (j *Job) from(d Drop) uint64 {
	if d.Epoch > 0 {
		return uint64(d.Epoch-1) * uint64(j.StepsPerEpoch())
	}
	return uint64(d.Step)
}

// dropped are the evaluations behind which the rate was divided, by their steps, up to `step` finished ones.
func (p *Plateau) dropped(step uint64, h History) (steps []uint64) {
	best, without := math.Inf(1), 0
	for _, e := range h {
		if e.Step > step || len(steps) == p.Drops {
			break
		}
		now := e.Top1
		switch p.Measure {
		case Top5:
			now = e.Top5
		case Loss:
			now = e.Loss
		}
		if now < best-p.Improvement { // never of what is no number
			best, without = now, 0
			continue
		}
		if without++; without == p.Patience {
			// The next rate has its own best: what the last one reached by luck must not end it before its time.
			steps, best, without = append(steps, e.Step), math.Inf(1), 0
		}
	}
	return steps
}

// Drops are the evaluations behind which a plateau's rate was divided, by their steps; none in jobs without a plateau.
func (j *Job) Drops(h History) []uint64 {
	if j.Recipe.Plateau == nil || len(h) == 0 {
		return nil
	}
	return j.Recipe.Plateau.dropped(h[len(h)-1].Step, h)
}

// Adaptive says whether the job's course depends on its evaluations: all cells must know them.
func (j *Job) Adaptive() bool { return j.Recipe.Plateau != nil }

// Until cuts a history to what is known after `step` finished steps, and says whether an evaluation from before that
// step is missing. That of the step itself may be still to come.
func (j *Job) Until(step uint64, h History) (known History, missing uint64, ok bool) {
	for _, e := range h {
		if e.Step <= step {
			known = append(known, e)
		}
	}
	every := uint64(j.Evaluate.Every) * uint64(j.StepsPerEpoch())
	for s := every; every > 0 && s < step; s += every {
		if _, found := slices.BinarySearchFunc(known, s, byStep); j.EvaluateAfter(s) && !found {
			return known, s, false
		}
	}
	return known, 0, true
}

func byStep(e Evaluation, step uint64) int {
	switch {
	case e.Step < step:
		return -1
	case e.Step > step:
		return 1
	}
	return 0
}

// With is the history with one more evaluation, in its place; one of the same step is replaced.
func (h History) With(e Evaluation) History {
	i, found := slices.BinarySearchFunc(h, e.Step, byStep)
	if found {
		out := slices.Clone(h)
		out[i] = e
		return out
	}
	return slices.Insert(slices.Clone(h), i, e)
}

// ColourOff says whether colours are left alone in an epoch, counted from 0: noise, and what goes with it, is off.
func (j *Job) ColourOff(epoch uint64) bool {
	return j.Recipe.ColourOff > 0 && epoch+1 >= uint64(j.Recipe.ColourOff)
}

// start gives the network's layers the start that the recipe has for them.
func (j *Job) start(n *shard.Network) *shard.Network {
	out := *n
	out.Layers = slices.Clone(n.Layers)
	for i := range out.Layers {
		l := &out.Layers[i]
		if l.Kind != shard.Conv && l.Kind != shard.Dense {
			continue
		}
		for _, o := range j.Recipe.Layers {
			if !o.Layer.match(l.Name) {
				continue
			}
			if o.Std != nil {
				l.Init.Std = *o.Std
			}
			if o.Bias != nil {
				l.Init.Bias = *o.Bias
			}
		}
	}
	return &out
}

// checkCourse wants every layer that the recipe names to be one with weights.
func (j *Job) checkCourse(p *shard.Plan) error {
	var names []string
	for i := range p.Layers {
		if l := p.Layers[i].Layer; l.Kind == shard.Conv || l.Kind == shard.Dense {
			names = append(names, l.Name)
		}
	}
	for i, l := range j.Recipe.Layers {
		for _, pattern := range l.Layer {
			if !slices.ContainsFunc(names, Names{pattern}.match) {
				return errorf("recipe.layers: entry %d: the network has no layer %q with weights; it has %s", i+1, pattern,
					strings.Join(names, ", "))
			}
		}
	}
	return nil
}
