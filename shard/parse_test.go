package shard

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// small is a network that is right; refusals are made from it by replacing one thing.
const small = `network: small
input: {channels: [1], height: 8, width: 8}
layers:
  - {name: conv1, kind: conv, maps: 4, kernel: 3, pad: 1, init: {std: 0.1}}
  - {name: lrn1, kind: lrn, size: 3, alpha: 0.1, beta: 0.75, k: 2}
  - {name: pool1, kind: pool, kernel: 2, stride: 2}
  - {name: conv2, kind: conv, maps: 4, kernel: 3, connect: all, init: {std: 0.1}}
  - {name: drop, kind: dropout, keep: 0.5}
  - {name: fc, kind: dense, maps: 4, connect: all, init: {std: 0.1}}
  - {name: softmax, kind: softmax}
`

// between are the lines from conv2's maps to fc's.
const between = "kernel: 3, connect: all, init: {std: 0.1}}\n  - {name: drop, kind: dropout, keep: 0.5}\n" +
	"  - {name: fc, kind: dense, maps: "

// TestRefusals wants one line with file, line, layer and reason for whatever is wrong with a file.
func TestRefusals(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"network: small", "network: [", "small.yaml:3: "},
		{"network: small", "netwrok: small", "small.yaml:1: "},
		{"network: small", "# none", "begin the file with: network"},
		{"height: 8", "hight: 8", "small.yaml:2: "},
		{"height: 8", "height: 0", "small.yaml:2: input.height is 0; it must be between 1 and"},
		{"channels: [1]", "channels: []", "small.yaml:2: input.channels must be a list of numbers"},
		{"channels: [1]", "channels: [3, 1]", "ascending"},
		{"{name: conv1, kind: conv,", "{kind: conv,", "small.yaml:4: a layer without a name"},
		{"kind: lrn", "kind: lnr", `small.yaml:5: layer "lrn1": kind "lnr" is unknown; use conv`},
		{"maps: 4, kernel: 3, pad", "maps: 4, pad", `small.yaml:4: layer "conv1": a conv layer needs the key "kernel"`},
		{"stride: 2}", "stride: 2, keep: 0.5}", `small.yaml:6: layer "pool1": a pool layer has no key "keep"`},
		{"maps: 4, kernel: 3, pad", "maps: 0, kernel: 3, pad", `small.yaml:4: layer "conv1": maps is 0`},
		{"maps: 4, kernel: 3, pad", "maps: four, kernel: 3, pad", `small.yaml:4: layer "conv1": `},
		{"maps: 4, kernel: 3, pad", "maps: 4, maps: 4, kernel: 3, pad", "small.yaml:4: "},
		{"kernel: 3, pad: 1", "kernel: 3, pad: 3", `layer "conv1": pad is 3; it must be between 0 and 2`},
		{"kernel: 3, pad: 1", "kernel: 3, pad: [1, 2]",
			`layer "conv1": pad must be a number or [top, left, bottom, right]`},
		{"kernel: 3, connect", "kernel: 9, connect", `small.yaml:7: layer "conv2": `},
		{"keep: 0.5", "keep: 0", `small.yaml:8: layer "drop": keep is 0`},
		{"keep: 0.5", "keep: .nan", `small.yaml:8: layer "drop": keep is NaN`},
		{"std: 0.1}}\n  - {name: lrn1", "std: -1}}\n  - {name: lrn1", `layer "conv1": init.std is -1`},
		{"name: lrn1", "name: conv1", `small.yaml:5: layer "conv1": another layer has this name`},
		{"  - {name: softmax, kind: softmax}\n", "", "softmax must be the last layer"},
		{"  - {name: drop, kind: dropout", "  - {name: s2, kind: softmax}\n  - {name: drop, kind: dropout",
			"softmax must be the last layer"},
		{"pad: 1, init", "pad: 1, connect: all, init", `layer "conv1": every column holds the whole input`},
		{"kernel: 3, connect: all", "kernel: 3, connect: some", `connect "some" is unknown`},
		{"kernel: 3, connect: all", "kernel: 3, on: first, connect: all",
			`layer "conv2": on: first is for the last dense layer`},
		{"maps: 4, connect: all", "maps: 4, on: first", `layer "fc": on: first leaves`},
		{"maps: 4, kernel: 3, connect", "maps: 99999999999999999999, kernel: 3, connect", `layer "conv2": `},
		{"  - {name: drop, kind: dropout, keep: 0.5}", "  - drop", "small.yaml:8: a layer must be a mapping"},
		{"layers:", "layers: 3\nlayers:", "small.yaml:"},
		{"network: small", "title: none", "small.yaml:1: no name; begin the file with: network"},
		{"network: small", "network: small net", `small.yaml:1: network "small net" is no name`},
		{"network: small", "network: [a]", "small.yaml:1: network must be one word"},
		{"channels: [1]", "channels: 1", "small.yaml:2: input.channels must be a list of numbers"},
		{"channels: [1]", "channels: [1, 1]", "small.yaml:2: channels must be in ascending order, each once"},
		{"channels: [1]", "channels: [99999999999]",
			"input.channels must be a list of numbers; e.g. channels: [1, 3]; one is 99999999999"},
		{"channels: [1], ", "", `small.yaml:2: input needs the key "channels"; add it`},
		{"input: {channels: [1], height: 8, width: 8}", "input: 8", "small.yaml:2: input must be a mapping; e.g. input: {"},
		{"height: 8", "height: 99999999999", "input.height is 99999999999; it must be between 1 and 16384"},
		{"layers:\n", "layers: []\nmore:\n",
			`small.yaml:4: a network has no key "more"; it may have network, input, layers, title`},
		{"layers:\n", "title:\nlayers:\n", `small.yaml:3: key "title" has no value`},
		{"init: {std: 0.1}}\n  - {name: lrn1", "init: {std: 0.1, bais: 3}}\n  - {name: lrn1",
			`small.yaml:4: layer "conv1": init has no key "bais"; it may have std, bias`},
		{"init: {std: 0.1}}\n  - {name: lrn1", "init: {bias: 3}}\n  - {name: lrn1",
			`small.yaml:4: layer "conv1": init needs the key "std"`},
		{"init: {std: 0.1}}\n  - {name: lrn1", "init: 0.1}\n  - {name: lrn1",
			`small.yaml:4: layer "conv1": init must be a mapping; e.g. init: {std: 0.01`},
		{"pad: 1, init", "pad: 1, factors: {bias_rat: 2}, init",
			`small.yaml:4: layer "conv1": factors has no key "bias_rat"; it may have rate, bias_rate`},
		{"pad: 1, init", "pad: 1, factors: {rate: x}, init",
			`small.yaml:4: layer "conv1": factors.rate is "x"; it must be a number between 0 and`},
		{"pad: 1, init", "pad: 1, stride: 0, init",
			`small.yaml:4: layer "conv1": stride is 0; it must be between 1 and 1024`},
		{"pad: 1, init", "pad: {top: 1}, init", `layer "conv1": pad must be a number or [top, left, bottom, right]`},
		{"pad: 1, init", "pad: [0, 0, 0, 1.5], init",
			`layer "conv1": pad must be a number or [top, left, bottom, right]; one is "1.5"`},
		{"pad: 1, init", "pad: , init", `small.yaml:4: layer "conv1": key "pad" has no value`},
		{"pad: 1, init", "round: up, init", `small.yaml:4: layer "conv1": round "up" is unknown; use floor or ceil`},
		{"stride: 2}", "stride: 2, ties: some}", `small.yaml:6: layer "pool1": ties "some" is unknown; use first or all`},
		{"k: 2}", "k: 2, across: map}", `layer "lrn1": across "map" is unknown; use maps or space`},
		{"k: 2}", "k: 2, alpha_over_size: 5}", `layer "lrn1": alpha_over_size is "5"; it must be true or false`},
		{"k: 2}", "k: 2, across: space, scope: layer}", `layer "lrn1": across: space stays within a map`},
		{"keep: 0.5", "keep: 0.5, scaling: both", `layer "drop": scaling "both" is unknown; use test or train`},
		{"name: conv1", "name: 'a/b'", `small.yaml:4: layer "a/b": name "a/b" is no name; use letters`},
		{"kind: conv, maps: 4, kernel: 3, pad", "Kind: conv, maps: 4, kernel: 3, pad",
			`small.yaml:4: layer "conv1": a layer without a kind; add kind:`},
		{"{name: drop, kind: dropout, keep: 0.5}", "name: drop\n    kind: dropout\n    keep: 7",
			`small.yaml:10: layer "drop": keep is 7`},
		{"  - {name: drop", "  - &x {name: a, kind: relu}\n  - *x\n  - {name: drop",
			"small.yaml:9: a layer must be a mapping"},
		{"  - {name: drop", "  - {name: a, <<: {kind: relu}}\n  - {name: drop",
			`small.yaml:8: layer "a": anchors, aliases and merged keys`},
		{"  - {name: drop", "\t- {name: drop", "small.yaml:8: not YAML: "},
		{"  - {name: fc,", "  - {name: f0, kind: dense, maps: 4, init: {std: 1}}\n" +
			"  - {name: late, kind: pool, kernel: 1, stride: 1}\n  - {name: fc,",
			`small.yaml:10: layer "late": a pool layer needs maps, but a dense layer comes before it; move it up`},
		{"8}\nlayers:\n  - {name: conv1, kind: conv, maps: 4", "8000}\nlayers:\n  - {name: conv1, kind: conv, maps: 16777216",
			`small.yaml:4: layer "conv1": it makes 16777216 maps of 8x8000 of one image, more than`},
		{"maps: 4, " + between + "4",
			"maps: 16777216, " + between + "1000",
			`small.yaml:9: layer "fc": 1000 maps of 67108864 inputs each are more than`},
		{"softmax}\n", "softmax}\n---\nnetwork: two\n", "more than one YAML document"},
	} {
		text := strings.Replace(small, c.old, c.new, 1)
		if text == small {
			t.Fatalf("%q is not in the file", c.old)
		}
		_, err := Parse("small.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsRune(err.Error(), '\n') ||
			!errors.Is(err, ErrNetwork) || !strings.HasPrefix(err.Error(), "small.yaml") {
			t.Errorf("%s instead of %s: error %v, want one line with %q", c.new, c.old, err, c.want)
		}
	}
}

// TestSplitRefusals are networks that are right, but not in so many columns.
func TestSplitRefusals(t *testing.T) {
	for _, c := range []struct {
		old, new string
		columns  int
		want     string
	}{
		{"network", "network", 3, `layer "conv1": 4 maps do not divide into 3 columns; use 1, 2 or 4 columns`},
		{"network", "network", 0, "columns is 0"},
		{"network", "network", 65, "columns is 65"},
		{"maps: 4, connect: all", "maps: 3, connect: all", 4,
			`layer "fc": 3 maps do not divide into 4 columns; use 1 or 2`},
		{"k: 2}", "k: 2, scope: layer}", 2, `small.yaml:5: layer "lrn1": scope: layer would need a halo`},
		{"maps: 4, kernel: 3, connect", "maps: 6, kernel: 2, connect", 2,
			`small.yaml:8: layer "drop": column 1's units begin at 27, but ` +
				"units are dropped in groups of four; let the layer before have a multiple of 8 maps"},
		{"channels: [1]", "channels: [1, 3]", 2, "resolve the network for one"},
	} {
		n, err := Parse("small.yaml", []byte(strings.Replace(small, c.old, c.new, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = NewPlan(n, c.columns); err == nil || !strings.Contains(err.Error(), c.want) ||
			!errors.Is(err, ErrNetwork) {
			t.Errorf("%s in %d columns: error %v, want %q", c.new, c.columns, err, c.want)
		}
	}
}

func TestAFileIsReadLikeAnEmbeddedNetwork(t *testing.T) {
	text, err := EmbeddedText("alexnet")
	if err != nil {
		t.Fatal(err)
	}
	n, err := Parse("mine.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if n, err = n.Resolve(3, 0); err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(n, 2)
	if err != nil {
		t.Fatal(err)
	}
	if p.Digest() != plan(t, "alexnet", 3, 2).Digest() {
		t.Error("the same network has another digest as a file")
	}
	if _, err := Parse("mine.yaml", make([]byte, maxFile+1)); !errors.Is(err, ErrNetwork) {
		t.Errorf("a huge file: %v", err)
	}
}

// FuzzParse wants an error or a network that can be split, never a panic.
func FuzzParse(f *testing.F) {
	for _, name := range EmbeddedNames() {
		text, err := EmbeddedText(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, 2)
	}
	f.Add(small, 4)
	f.Add("a: &a [*a]\nnetwork: x", 1)
	f.Fuzz(func(t *testing.T, text string, columns int) { parseAnything(t, text, columns) })
}

func parseAnything(t *testing.T, text string, columns int) {
	n, err := Parse("fuzz.yaml", []byte(text))
	if err != nil {
		if strings.ContainsRune(err.Error(), '\n') {
			t.Errorf("an error of more than a line: %q", err)
		}
		return
	}
	for _, channels := range n.Input.Channels {
		r, err := n.Resolve(channels, 0)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := NewPlan(r, columns); err == nil {
			checkPlan(t, p)
		}
	}
}

// TestMutatedFiles is the fuzz target on files that are nearly right.
func TestMutatedFiles(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const bits = "0123456789-.:,{}[]&*#'\" \nabcdefklmnopstz"
	for i := range 3000 {
		text := []byte(small)
		if i%3 == 0 {
			embedded, err := EmbeddedText("tiny")
			if err != nil {
				t.Fatal(err)
			}
			text = []byte(embedded)
		}
		for range 1 + r.IntN(3) {
			at := r.IntN(len(text))
			switch r.IntN(3) {
			case 0:
				text[at] = bits[r.IntN(len(bits))]
			case 1:
				text = slices.Insert(text, at, bits[r.IntN(len(bits))])
			case 2:
				text = slices.Delete(text, at, min(len(text), at+1+r.IntN(8)))
			}
		}
		parseAnything(t, string(text), 1+r.IntN(4))
	}
}
