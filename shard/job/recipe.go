package job

import (
	"embed"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// Plateau is the paper's rule (section 5): "divide the learning rate by 10 when the validation error rate stopped
// improving with the current learning rate", at most Drops times. Exactly: an evaluation improves if its figure is
// below the best one since the last drop by more than Improvement; after Patience evaluations in a row that do not,
// the steps that follow have the rate divided by Divide. Figures are those of the evaluations that the job's log has.
type Plateau struct {
	Divide      float64 `yaml:"divide"`
	Patience    int     `yaml:"patience"`    // evaluations
	Improvement float64 `yaml:"improvement"` // share of the images, 0.001 is a tenth of a percent; nats of a loss
	Measure     Measure `yaml:"measure"`
	Drops       int     `yaml:"drops"`
}

// Measure is the figure that a plateau is one of.
type Measure string

// Measures.
const (
	Top1 Measure = "top1"
	Top5 Measure = "top5"
	Loss Measure = "loss"
)

// UnmarshalYAML takes what a file leaves out as the defaults.
func (p *Plateau) UnmarshalYAML(n *yaml.Node) error {
	type plain Plateau
	if *p == (Plateau{}) {
		*p = Plateau{Divide: 10, Patience: 5, Improvement: 0.001, Measure: Top1, Drops: 3}
	}
	return strictly(n, (*plain)(p), "divide", "patience", "improvement", "measure", "drops")
}

// Dexp is the stepped exponential of the later source (lr.cu:99-150): in Steps equal parts of the job the rate is the
// first one divided by Factor^(0/(Steps-1)), Factor^(1/(Steps-1)), ..., Factor.
type Dexp struct {
	Factor float64 `yaml:"factor"`
	Steps  int     `yaml:"steps"`
}

// Biases is how biases differ from weights. What is given takes the place of the network file's factor.
type Biases struct {
	Times    *float64 `yaml:"times,omitempty"` // the weights' rate times this, or:
	Rate     *float64 `yaml:"rate,omitempty"`  // a rate of their own, by
	Schedule []Drop   `yaml:"schedule,omitempty"`
	Dexp     *Dexp    `yaml:"dexp,omitempty"`
	Decay    *float64 `yaml:"decay,omitempty"` // instead of recipe.decay
}

// Layer is what holds for some layers only.
type Layer struct {
	Layer     Names    `yaml:"layer"`
	Std       *float64 `yaml:"std,omitempty"`        // standard deviation that weights start with
	Bias      *float64 `yaml:"bias,omitempty"`       // that biases start at
	Decay     *float64 `yaml:"decay,omitempty"`      // of weights, instead of recipe.decay
	Rates     []Drop   `yaml:"rates,omitempty"`      // of weights, from an epoch or step on; before that the recipe's
	BiasRates []Drop   `yaml:"bias_rates,omitempty"` // likewise
	Freeze    int      `yaml:"freeze,omitempty"`     // from this epoch on nothing changes; 1: ever
}

// Names are layers' names. Every name may be a pattern as of path.Match: "conv*", or "*" for all.
type Names []string

// UnmarshalYAML takes one name or a list.
func (n *Names) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		*n = Names{node.Value}
		return nil
	}
	return node.Decode((*[]string)(n))
}

func (n Names) match(layer string) bool {
	return slices.ContainsFunc(n, func(p string) bool { ok, _ := path.Match(p, layer); return ok })
}

// strictly decodes a mapping that may have these keys only: a type's own UnmarshalYAML is not under the decoder's rule.
func strictly(n *yaml.Node, into any, keys ...string) error {
	for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
		if k := n.Content[i]; !slices.Contains(keys, k.Value) {
			return fmt.Errorf("unknown key %q; it may have %s", k.Value, strings.Join(keys, ", "))
		}
	}
	return n.Decode(into)
}

//go:embed presets/*.yaml
var presets embed.FS

// Presets are the names of the recipes that come with the program.
func Presets() []string {
	entries, err := presets.ReadDir("presets")
	if err != nil {
		panic(err) // they are in the program
	}
	var out []string
	for _, e := range entries {
		out = append(out, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	slices.Sort(out)
	return out
}

// fillPreset reads the file once more over the preset it names, recipe and augmentation. What the file says of the
// rate's course takes the place of all that the preset says of it, and so with epochs and steps.
func (j *Job) fillPreset(file string, text []byte) error {
	own := j.Recipe
	if own.Preset == "" {
		return nil
	}
	body, err := presets.ReadFile("presets/" + own.Preset + ".yaml")
	if err != nil {
		return errorf("%s: recipe.preset: %q is none; use %s", file, own.Preset, strings.Join(Presets(), ", "))
	}
	full := defaults()
	if err := decode("preset "+own.Preset, body, full); err != nil {
		return err
	}
	r := &full.Recipe
	if own.Schedule != nil || own.Plateau != nil || own.Dexp != nil {
		r.Schedule, r.Plateau, r.Dexp = nil, nil, nil
	}
	if own.Epochs != 0 || own.Steps != 0 {
		r.Epochs, r.Steps = 0, 0
	}
	if b := own.Biases; b != nil && r.Biases != nil && (b.Times != nil || b.Rate != nil || b.Schedule != nil ||
		b.Dexp != nil) {
		r.Biases = &Biases{Decay: r.Biases.Decay}
	}
	if err := decode(file, text, full); err != nil {
		return err
	}
	*j = *full
	return nil
}

// limits of rates, factors and such; finite and far from what overflows float32.
const maxNumber = 1e6

func between(v, lo, hi float64) bool { return v >= lo && v <= hi } // false for what is no number

// checkRecipe says what is wrong with the recipe's keys by themselves.
func (j *Job) checkRecipe() error {
	r := j.Recipe
	kinds := 0
	for _, given := range []bool{len(r.Schedule) > 0, r.Plateau != nil, r.Dexp != nil} {
		if given {
			kinds++
		}
	}
	if kinds > 1 {
		return errorf("recipe: schedule, plateau and dexp each say what becomes of the rate; keep one")
	}
	if err := checkDrops("recipe.schedule", r.Schedule, false); err != nil {
		return err
	}
	if p := r.Plateau; p != nil {
		switch {
		case !between(p.Divide, 1, maxNumber) || p.Divide == 1:
			return errorf("recipe.plateau.divide: %g; it must be greater than 1, e.g. 10", p.Divide)
		case p.Patience < 1 || p.Patience > maxSteps:
			return errorf("recipe.plateau.patience: %d; give the evaluations without improvement, at least 1", p.Patience)
		case !between(p.Improvement, 0, maxNumber):
			return errorf("recipe.plateau.improvement: %g; it must not be negative, e.g. 0.001", p.Improvement)
		case p.Measure != Top1 && p.Measure != Top5 && p.Measure != Loss:
			return errorf("recipe.plateau.measure: %q; use top1, top5 or loss", p.Measure)
		case p.Drops < 1 || p.Drops > 100:
			return errorf("recipe.plateau.drops: %d; it must be between 1 and 100", p.Drops)
		case j.Data.Test == "" || j.Evaluate.Every < 1:
			return errorf("recipe.plateau: it goes by the test set's error; give data.test, and evaluate.every in epochs")
		}
	}
	if err := checkDexp("recipe.dexp", r.Dexp); err != nil {
		return err
	}
	if err := checkBiases(r.Biases); err != nil {
		return err
	}
	for i, l := range r.Layers {
		if err := checkLayer(fmt.Sprintf("recipe.layers: entry %d", i+1), l); err != nil {
			return err
		}
	}
	if r.ColourOff < 0 || r.ColourOff > maxSteps {
		return errorf("recipe.colour_off: %d; give the epoch from which on colours are left alone", r.ColourOff)
	}
	return nil
}

// checkDrops looks at a course in steps. Where anything is set, `free`, it may begin at once and come to nothing.
func checkDrops(key string, drops []Drop, free bool) error {
	for i, d := range drops {
		switch {
		case (d.Epoch > 0) == (d.Step > 0) || d.Epoch < 0 || d.Step < 0:
			return errorf("%s: entry %d: give either epoch or step, positive", key, i+1)
		case d.Epoch > maxSteps || d.Step > maxSteps:
			return errorf("%s: entry %d: no job is that long", key, i+1)
		case d.Epoch == 1 && !free:
			return errorf("%s: entry %d: epoch 1 is the first; use recipe.rate for it", key, i+1)
		case !free && !(d.Rate > 0) || math.IsInf(d.Rate, 0):
			return errorf("%s: entry %d: rate %g; it must be positive", key, i+1, d.Rate)
		case free && !between(d.Rate, 0, maxNumber):
			return errorf("%s: entry %d: rate %g; it must be positive, or 0 to leave them as they are", key, i+1, d.Rate)
		case i > 0 && (d.Epoch > 0) != (drops[i-1].Epoch > 0):
			return errorf("%s: entry %d: use epochs throughout, or steps throughout", key, i+1)
		case i > 0 && d.Epoch+d.Step <= drops[i-1].Epoch+drops[i-1].Step:
			return errorf("%s: entry %d is not behind entry %d; put them in order", key, i+1, i)
		}
	}
	return nil
}

func checkDexp(key string, d *Dexp) error {
	switch {
	case d == nil:
	case !between(d.Factor, 1, 1e12) || d.Factor == 1:
		return errorf("%s.factor: %g; the last rate is the first divided by it: greater than 1, e.g. 250", key, d.Factor)
	case d.Steps < 2 || d.Steps > 1000:
		return errorf("%s.steps: %d; it must be between 2 and 1000", key, d.Steps)
	}
	return nil
}

func checkBiases(b *Biases) error {
	switch {
	case b == nil:
		return nil
	case b.Times != nil && b.Rate != nil:
		return errorf("recipe.biases: times follows the weights' rate, rate does not; keep one")
	case b.Times != nil && !between(*b.Times, 0, maxNumber):
		return errorf("recipe.biases.times: %g; it must not be negative, e.g. 2", *b.Times)
	case b.Rate != nil && !between(*b.Rate, 0, maxNumber):
		return errorf("recipe.biases.rate: %g; it must not be negative, e.g. 0.02", *b.Rate)
	case b.Rate == nil && (len(b.Schedule) > 0 || b.Dexp != nil):
		return errorf("recipe.biases: a schedule or dexp goes with a rate of their own; add biases.rate")
	case len(b.Schedule) > 0 && b.Dexp != nil:
		return errorf("recipe.biases: schedule and dexp each say what becomes of the rate; keep one")
	case b.Decay != nil && !between(*b.Decay, 0, maxNumber):
		return errorf("recipe.biases.decay: %g; it must not be negative, e.g. 0", *b.Decay)
	}
	if err := checkDrops("recipe.biases.schedule", b.Schedule, true); err != nil {
		return err
	}
	return checkDexp("recipe.biases.dexp", b.Dexp)
}

func checkLayer(key string, l Layer) error {
	if len(l.Layer) == 0 {
		return errorf("%s: layer: missing; name the layers, e.g. layer: conv1, or layer: [conv1, conv2]", key)
	}
	for _, p := range l.Layer {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			return errorf("%s: layer: %q is no name and no pattern; use e.g. conv1, or conv*", key, p)
		}
	}
	switch {
	case l.Std != nil && !between(*l.Std, 0, 1e3):
		return errorf("%s: std: %g; it must be between 0 and 1000, e.g. 0.01", key, *l.Std)
	case l.Bias != nil && !between(*l.Bias, -maxNumber, maxNumber):
		return errorf("%s: bias: %g; it must be a number, e.g. 0 or 1", key, *l.Bias)
	case l.Decay != nil && !between(*l.Decay, 0, maxNumber):
		return errorf("%s: decay: %g; it must not be negative", key, *l.Decay)
	case l.Freeze < 0 || l.Freeze > maxSteps:
		return errorf("%s: freeze: %d; give the epoch from which on the layer stays as it is, 1 for all", key, l.Freeze)
	}
	if err := checkDrops(key+": rates", l.Rates, true); err != nil {
		return err
	}
	return checkDrops(key+": bias_rates", l.BiasRates, true)
}
