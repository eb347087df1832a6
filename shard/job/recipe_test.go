package job

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"colonnade/shard"
)

// onImageNet resolves a recipe on a network of the embedded ones with ImageNet's number of images.
func onImageNet(t testing.TB, network, recipe string) (*Job, *shard.Plan) {
	t.Helper()
	j, err := Parse("job.yaml", []byte("job: x\nnetwork: "+network+"\ndata: {train: a, test: b}\nrecipe: "+recipe+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := shard.EmbeddedText(network)
	if err != nil {
		t.Fatal(err)
	}
	pack := func(n int) *Pack {
		return &Pack{Path: "/p", ID: strings.Repeat("ab", 32), Images: n, Channels: 3, Height: 256,
			Width: 256, Classes: 1000}
	}
	if err := j.Resolve(text, pack(1281167), pack(50000)); err != nil {
		t.Fatal(err)
	}
	p, err := j.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return j, p
}

func param(t testing.TB, p *shard.Plan, name string) shard.Param {
	t.Helper()
	for _, q := range p.Params[0] {
		if q.Name == name {
			return q
		}
	}
	t.Fatalf("no parameter %s", name)
	return shard.Param{}
}

// TestSourceIsTheSourcesTable holds preset source to the table of run4.sh and layer-params-120-4gpu*.cfg, epoch by
// epoch and at both ends of each.
func TestSourceIsTheSourcesTable(t *testing.T) {
	for _, network := range []string{"alexnet-source", "alexnet"} { // the recipe's biases go before the file's factors
		j, plan := onImageNet(t, network, "{preset: source}")
		if j.Epochs() != 95 || j.StepsPerEpoch() != 10009 || j.Recipe.Momentum != 0.9 {
			t.Fatalf("%d epochs of %d steps, momentum %g", j.Epochs(), j.StepsPerEpoch(), j.Recipe.Momentum)
		}
		frozen := Update{Frozen: true}
		for _, row := range []struct {
			first, last uint64 // epochs, from 1
			low, w, b   Update // conv1's weights, conv3's, conv3's biases
			colour      bool
		}{
			{1, 22, Update{Rate: 1e-2, Decay: 5e-4}, Update{Rate: 1e-2, Decay: 5e-4}, Update{Rate: 0.02}, true},
			{23, 49, Update{Rate: 1e-3, Decay: 5e-4}, Update{Rate: 1e-3, Decay: 5e-4}, Update{Rate: 0.002}, true},
			{50, 66, Update{Rate: 1e-4, Decay: 5e-4}, Update{Rate: 1e-4, Decay: 5e-4}, Update{Rate: 0.002}, true},
			{67, 73, Update{Rate: 1e-5, Decay: 5e-4}, Update{Rate: 1e-4, Decay: 5e-4}, Update{Rate: 0.002}, false},
			{74, 81, frozen, Update{Rate: 1e-4, Decay: 5e-4}, Update{Rate: 0.002}, false},
			{82, 95, frozen, Update{Rate: 1e-5, Decay: 5e-4}, Update{Rate: 0.002}, false},
		} {
			for _, step := range []uint64{(row.first - 1) * 10009, row.last*10009 - 1} {
				lowB := row.b
				if row.low.Frozen {
					lowB = frozen
				}
				for name, want := range map[string]Update{"conv1/w": row.low, "conv2/w": row.low,
					"conv1/b": lowB, "conv2/b": lowB,
					"conv3/w0": row.w, "conv5/w": row.w, "conv3/b": row.b} {
					if got := j.UpdateAt(step, param(t, plan, name), nil); got != want {
						t.Errorf("%s of %s after %d steps, epochs %d to %d: %+v, want %+v", name, network, step, row.first,
							row.last, got, want)
					}
				}
			}
			if got := !j.ColourOff(row.first - 1); got != row.colour || !j.ColourOff(row.last-1) != row.colour {
				t.Errorf("colour noise in epochs %d to %d: %v", row.first, row.last, got)
			}
		}
	}
}

// The rates are those of the facts' lr.cu: 0.01, 0.0015874, 0.00025198, 0.00004, changing at 25, 50 and 75 percent.
func TestDexpIsTheSources(t *testing.T) {
	j, plan := onImageNet(t, "alexnet-source", "{preset: source-dexp}")
	w, b, total := param(t, plan, "conv3/w0"), param(t, plan, "conv3/b"), j.Steps()
	if total != 90*10009 {
		t.Fatalf("%d steps", total)
	}
	for _, c := range []struct {
		step uint64
		w, b float64
	}{
		{0, 0.01, 0.02}, {total/4 - 1, 0.01, 0.02}, {(total + 3) / 4, 0.0015874, 0.02}, {total/2 - 1, 0.0015874, 0.02},
		{total / 2, 0.00025198, 0.002}, {3*total/4 - 1, 0.00025198, 0.002}, {(3*total + 3) / 4, 0.00004, 0.002},
		{total - 1, 0.00004, 0.002},
	} {
		gotW, gotB := j.UpdateAt(c.step, w, nil), j.UpdateAt(c.step, b, nil)
		if math.Abs(gotW.Rate-c.w) > 5e-5*c.w || gotW.Decay != 5e-4 || math.Abs(gotB.Rate-c.b) > 1e-9 || gotB.Decay != 0 {
			t.Errorf("after %d steps: weights %+v, want rate %g; biases %+v, want rate %g", c.step, gotW, c.w, gotB, c.b)
		}
	}
}

func TestPaperIsOneRateForAll(t *testing.T) {
	j, plan := onImageNet(t, "alexnet", "{preset: paper}")
	if p := j.Recipe.Plateau; j.Recipe.Batch != 128 || j.Epochs() != 90 || p == nil || p.Divide != 10 || p.Drops != 3 {
		t.Fatalf("recipe %+v", j.Recipe)
	}
	for _, name := range []string{"conv1/w", "conv1/b", "fc8/w0", "fc8/b"} {
		if got := j.UpdateAt(0, param(t, plan, name), nil); got != (Update{Rate: 0.01, Decay: 0.0005}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestPlateau goes through histories by hand.
func TestPlateau(t *testing.T) {
	figures := func(all ...float64) (h History) {
		for i, v := range all {
			h = append(h, Evaluation{Step: uint64(10 * (i + 1)), Top1: v, Top5: 1 - v, Loss: 100 * v})
		}
		return h
	}
	nan := math.NaN()
	for _, c := range []struct {
		name string
		p    Plateau
		h    History
		want []uint64
	}{
		{"none", Plateau{Patience: 2, Drops: 3}, nil, nil},
		{"always better", Plateau{Patience: 2, Drops: 3}, figures(0.9, 0.8, 0.7, 0.6), nil},
		{"two without", Plateau{Patience: 2, Drops: 3}, figures(0.9, 0.9, 0.9, 0.9, 0.9), []uint64{30}},
		{"one between", Plateau{Patience: 2, Drops: 3}, figures(0.9, 0.9, 0.8, 0.8, 0.8), []uint64{50}},
		{"again", Plateau{Patience: 1, Drops: 3}, figures(0.9, 0.9, 0.5, 0.5, 0.5, 0.6, 0.2), []uint64{20, 40, 60}},
		{"no more than drops", Plateau{Patience: 1, Drops: 1}, figures(0.9, 0.9, 0.5, 0.5), []uint64{20}},
		{"too little", Plateau{Patience: 2, Drops: 3, Improvement: 0.25}, figures(1, 0.75, 0.75), []uint64{30}},
		{"enough together", Plateau{Patience: 2, Drops: 3, Improvement: 0.25}, figures(1, 0.875, 0.625, 0.5), nil},
		{"top 5", Plateau{Patience: 1, Drops: 3, Measure: Top5}, figures(0.9, 0.8), []uint64{20}},
		{"loss", Plateau{Patience: 1, Drops: 3, Measure: Loss, Improvement: 15}, figures(0.9, 0.8), []uint64{20}},
		{"no number", Plateau{Patience: 2, Drops: 3}, figures(nan, nan, 0.5), []uint64{20}},
	} {
		got := c.p.dropped(math.MaxUint64, c.h)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: dropped behind %v, want %v", c.name, got, c.want)
		}
		for i := range c.h { // what is to come changes nothing
			var early []uint64
			for _, s := range c.want {
				if s <= c.h[i].Step {
					early = append(early, s)
				}
			}
			if got := c.p.dropped(c.h[i].Step, c.h); !slices.Equal(got, early) {
				t.Errorf("%s: known up to step %d, dropped behind %v, want %v", c.name, c.h[i].Step, got, early)
			}
			if got := c.p.dropped(math.MaxUint64, c.h[:i+1]); !slices.Equal(got, early) {
				t.Errorf("%s: with %d evaluations, dropped behind %v, want %v", c.name, i+1, got, early)
			}
		}
	}
	j := made(t, strings.Replace(sample,
		"rate: 0.1\n  schedule:\n    - {epoch: 2, rate: 0.05}\n    - {epoch: 4, rate: 0.01}\n",
		"rate: 0.1\n  plateau: {patience: 1, drops: 2}\n", 1))
	h := figures(0.5, 0.5, 0.5, 0.5) // after 10, 20, ...
	for step, want := range map[uint64]float64{0: 0.1, 19: 0.1, 20: 0.01, 39: 0.01, 40: 0.001, 41: 0.001} {
		if got := j.RateAt(step, h); math.Abs(got-want) > 1e-15 {
			t.Errorf("rate after %d steps is %g, want %g", step, got, want)
		}
	}
}

// TestUntil: evaluations of sample come every two epochs of ten steps.
func TestUntil(t *testing.T) {
	j := made(t, sample)
	all := History{{Step: 20}, {Step: 40}}
	for _, c := range []struct {
		step    uint64
		h       History
		known   int
		missing uint64
	}{
		{0, nil, 0, 0}, {20, nil, 0, 0}, {21, nil, 0, 20}, {21, all, 1, 0}, {20, all, 1, 0},
		{40, all, 2, 0}, {40, all[:1], 1, 0},
		{40, all[1:], 1, 20}, {10, all, 0, 0},
	} {
		known, missing, ok := j.Until(c.step, c.h)
		if len(known) != c.known || missing != c.missing || ok != (c.missing == 0) {
			t.Errorf("%v up to step %d: %v, missing %d, %v", c.h, c.step, known, missing, ok)
		}
	}
	h := History{}.With(Evaluation{Step: 40}).With(Evaluation{Step: 20}).With(Evaluation{Step: 40, Loss: 1})
	if diff := cmp.Diff(History{{Step: 20}, {Step: 40, Loss: 1}}, h); diff != "" {
		t.Error(diff)
	}
}

func TestLayersOfARecipe(t *testing.T) {
	j := made(t, strings.Replace(sample, "rate: 0.1\n", `rate: 0.1
  biases: {times: 2, decay: 0}
  layers:
    - {layer: "conv*", std: 0.5, bias: 1}
    - {layer: [conv2, fc4], std: 0.25, decay: 0.125, rates: [{epoch: 1, rate: 3}, {epoch: 3, rate: 0}]}
    - {layer: fc5, freeze: 2, bias_rates: [{step: 5, rate: 7}]}
`, 1))
	plan, err := j.Plan()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]shard.Init{"conv1/w": {Std: 0.5, Bias: 1}, "conv2/w0": {Std: 0.25, Bias: 1},
		"conv2/b": {Std: 0.25, Bias: 1}, "fc4/w0": {Std: 0.25, Bias: 0.1}, "fc5/w0": {Std: 0.3}} {
		if got := param(t, plan, name).Init; got != want {
			t.Errorf("%s starts with %+v, want %+v", name, got, want)
		}
	}
	frozen := Update{Frozen: true}
	for _, c := range []struct {
		step uint64
		name string
		want Update
	}{
		{0, "conv1/w", Update{Rate: 0.1, Decay: 0.0005}}, {0, "conv1/b", Update{Rate: 0.2}},
		{10, "conv1/b", Update{Rate: 0.1}},
		{0, "conv2/w0", Update{Rate: 3, Decay: 0.125}}, {19, "fc4/w0", Update{Rate: 3, Decay: 0.125}},
		{20, "fc4/w0", frozen},
		{20, "fc4/b", Update{Rate: 0.1}}, {4, "fc5/b", Update{Rate: 0.2}}, {5, "fc5/b", Update{Rate: 7}},
		{9, "fc5/w0", Update{Rate: 0.1, Decay: 0.0005}}, {10, "fc5/w0", frozen}, {10, "fc5/b", frozen},
	} {
		if got := j.UpdateAt(c.step, param(t, plan, c.name), nil); got != c.want {
			t.Errorf("%s after %d steps: %+v, want %+v", c.name, c.step, got, c.want)
		}
	}
}

// TestPresetsAugment: presets have the images' variation too, key by key behind what the file says.
func TestPresetsAugment(t *testing.T) {
	source := Augment{Crop: "random", Flip: true, Scale: 1, Share: 32, Mean: MeanCentre,
		Colour: &Colour{By: ByStddev, Noise: 0.1, Rescale: true}}
	own, grey := source, source
	own.Scale, own.Share, own.Colour = 0.5, 8, &Colour{By: ByStddev, Noise: 0.2, Rescale: true}
	grey.Colour = nil
	for _, c := range []struct {
		file string
		want Augment
	}{
		{"recipe: {preset: paper}", Augment{Crop: "random", Flip: true, Scale: 1,
			Colour: &Colour{By: ByEigenvalue, Noise: 0.1}}},
		{"recipe: {preset: source}", source},
		{"recipe: {preset: source-dexp}", source},
		{"recipe: {preset: source}\naugment: {scale: 0.5, share: 8, colour: {noise: 0.2}}", own},
		{"recipe: {preset: source}\naugment: {colour: null}", grey},
		{"recipe: {batch: 1, epochs: 1, rate: 1}", Augment{Crop: "centre", Scale: defaultScale}},
	} {
		j, err := Parse("f", []byte("job: x\nnetwork: tiny\ndata: {train: a, test: b}\n"+c.file+"\n"))
		if err != nil {
			t.Errorf("%s: %v", c.file, err)
			continue
		}
		if diff := cmp.Diff(c.want, j.Augment); diff != "" {
			t.Errorf("%s:\n%s", c.file, diff)
		}
	}
}

// TestPresets: what a file says goes before what its preset does, and is all that stays of the same thing.
func TestPresets(t *testing.T) {
	if got := Presets(); !slices.Equal(got, []string{"paper", "source", "source-dexp"}) {
		t.Fatalf("presets %v", got)
	}
	parse := func(recipe string) Recipe {
		t.Helper()
		j, err := Parse("f", []byte("job: x\nnetwork: tiny\ndata: {train: a, test: b}\nrecipe: "+recipe+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse("f", []byte("job: x\nnetwork: tiny\ndata: {train: a, test: b}\nrecipe: "+recipe+"\n"))
		if diff := cmp.Diff(j, back); err != nil || diff != "" {
			t.Errorf("read twice: %v\n%s", err, diff)
		}
		return j.Recipe
	}
	r := parse("{preset: source, steps: 50, batch: 4, layers: [{layer: fc4, freeze: 1}], biases: {decay: 0.5}}")
	if r.Steps != 50 || r.Epochs != 0 || r.Batch != 4 || len(r.Schedule) != 3 || len(r.Layers) != 1 ||
		*r.Biases.Rate != 0.02 ||
		*r.Biases.Decay != 0.5 || len(r.Biases.Schedule) != 1 || r.ColourOff != 67 {
		t.Errorf("source with keys of its own: %+v", r)
	}
	r = parse("{preset: paper, schedule: [{epoch: 3, rate: 0.5}], biases: {times: 2}}")
	if r.Plateau != nil || len(r.Schedule) != 1 || r.Epochs != 90 || *r.Biases.Times != 2 {
		t.Errorf("paper with a schedule of its own: %+v", r)
	}
	r = parse("{preset: source-dexp, biases: {times: 2}, plateau: {patience: 9}}")
	if r.Dexp != nil || *r.Plateau != (Plateau{10, 9, 0.001, Top1, 3}) || r.Biases.Rate != nil || r.Biases.Dexp != nil ||
		*r.Biases.Decay != 0 {
		t.Errorf("source-dexp with a plateau of its own: %+v, biases %+v", r, r.Biases)
	}
	r = parse("{preset: paper, plateau: {patience: 9}}")
	if *r.Plateau != (Plateau{10, 9, 0.001, Top1, 3}) {
		t.Errorf("paper with another patience: %+v", r.Plateau)
	}
	for recipe, want := range map[string]string{
		"{preset: papers}":                                          `"papers" is none; use paper, source, source-dexp`,
		"{preset: paper, rates: 3}":                                 `unknown key "rates"`,
		"{preset: paper, plateau: {patients: 3}}":                   `unknown key "patients"`,
		"{preset: paper, plateau: {patience: 0}}":                   "recipe.plateau.patience: 0",
		"{preset: paper, plateau: {divide: 1}}":                     "recipe.plateau.divide: 1",
		"{preset: paper, plateau: {improvement: .nan}}":             "recipe.plateau.improvement: NaN",
		"{preset: paper, plateau: {measure: top2}}":                 `measure: "top2"; use top1, top5 or loss`,
		"{preset: paper, plateau: {drops: 0}}":                      "recipe.plateau.drops: 0",
		"{preset: paper, dexp: {factor: 5, steps: 3}, plateau: {}}": "keep one",
		"{preset: paper, dexp: {factor: 1, steps: 3}}":              "recipe.dexp.factor: 1",
		"{preset: paper, dexp: {factor: 9, steps: 1}}":              "recipe.dexp.steps: 1",
		"{preset: paper, biases: {rate: 1, times: 1}}":              "keep one",
		"{preset: paper, biases: {schedule: [{epoch: 2}]}}":         "add biases.rate",
		"{preset: paper, biases: {rate: -1}}":                       "recipe.biases.rate: -1",
		"{preset: paper, layers: [{std: 1}]}":                       "entry 1: layer: missing",
		"{preset: paper, layers: [{layer: 'a[', std: 1}]}":          "no pattern",
		"{preset: paper, layers: [{layer: a, std: -1}]}":            "std: -1",
		"{preset: paper, layers: [{layer: a, freeze: -1}]}":         "freeze: -1",
		"{preset: paper, layers: [{layer: a, rates: [{rate: 1}]}]}": "give either epoch or step",
		"{preset: paper, colour_off: -1}":                           "recipe.colour_off: -1",
	} {
		_, err := Parse("f", []byte("job: x\nnetwork: tiny\ndata: {train: a, test: b}\nrecipe: "+recipe+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || strings.ContainsRune(err.Error(), '\n') {
			t.Errorf("recipe %s: error %v, want one line with %q", recipe, err, want)
		}
	}
	if _, err := Parse("f", []byte("job: x\nnetwork: tiny\ndata: {train: a}\nrecipe: {preset: paper}\n")); err == nil ||
		!strings.Contains(err.Error(), "give data.test") {
		t.Errorf("a plateau without a test set: %v", err)
	}
	if _, err := Parse("f", []byte(sample+"evaluate: {every: 1, views: 3}\n")); err == nil {
		t.Error("three views are taken")
	}
	j, err := Parse("f", []byte(strings.Replace(sample, "rate: 0.1\n",
		"rate: 0.1\n  layers: [{layer: pool1, freeze: 1}]\n", 1)))
	if err != nil {
		t.Fatal(err)
	}
	network, _ := shard.EmbeddedText("tiny")
	train, test := packs()
	if err := j.Resolve(network, train, test); err == nil || !strings.Contains(err.Error(),
		`no layer "pool1" with weights; it has conv1, conv2, conv3, fc4, fc5`) {
		t.Errorf("a recipe for a layer without weights: %v", err)
	}
}

// TestRecipeEncoding pins the bytes of a job that uses every key, and that it comes back the same job, whose identity
// does not hang on where its values came from.
func TestRecipeEncoding(t *testing.T) {
	j := made(t, strings.Replace(strings.Replace(sample,
		sample[strings.Index(sample, "recipe:"):strings.Index(sample, "augment")],
		"recipe: {preset: source, batch: 10, layers: "+
			"[{layer: conv1, freeze: 2, std: 0.5}, {layer: [fc4, fc5], decay: 0}]}\n", 1),
		"flip: true}\nevaluate: {every: 2}", "flip: true, share: 0, mean: '', colour: null, scale: 0.015625}\n"+
			"evaluate: {every: 2, views: 10}", 1))
	pinned(t, "recipe.job", j)
	id := j.Identity()
	j.Recipe.Preset = ""
	if j.Identity() != id {
		t.Error("the name of a preset is part of what a job is")
	}
	j.Recipe.Layers[0].Freeze++
	if j.Identity() == id {
		t.Error("another epoch to freeze in, the same identity")
	}
}
