package shard

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// ErrNetwork is wrapped by everything that is wrong with a network file or with a way to split it.
var ErrNetwork = errors.New("network")

// networkError is one line: file, line, layer, reason and what to do.
type networkError struct {
	file   string
	line   int
	layer  string
	reason string
}

func (e *networkError) Error() string {
	s := e.file
	if e.line > 0 {
		s = fmt.Sprintf("%s:%d", e.file, e.line)
	}
	if e.layer != "" {
		s += fmt.Sprintf(": layer %q", e.layer)
	}
	return s + ": " + e.reason
}

func (e *networkError) Unwrap() error { return ErrNetwork }

// Bounds that no sensible network reaches; they keep arithmetic within int64 and memory within reason.
const (
	maxFile   = 1 << 20 // bytes
	maxMaps   = 1 << 24
	maxKernel = 1024
	maxSide   = 1 << 14
	maxFloats = 1 << 32 // of a layer's output an image, or of its weights
)

// Parse reads a network from YAML. What is wrong is one line with file, line, layer, reason and next step.
func Parse(file string, text []byte) (*Network, error) {
	if len(text) > maxFile {
		return nil, &networkError{file, 0, "", fmt.Sprintf("larger than %d bytes: not a network file", maxFile)}
	}
	root, err := document(file, text)
	if err != nil {
		return nil, err
	}
	f := newFields(file, "", "not a network; begin the file with: network: NAME", root)
	f.layer = "" // a name: here would be a mistake, not a layer
	if f.err == nil && f.value["network"] == nil {
		f.only("a network", nil, []string{"network", "title", "input", "layers"})
		f.fail(1, "no name; begin the file with: network: NAME")
	}
	f.only("a network", []string{"network", "input", "layers"}, []string{"title"})
	n := &Network{File: file, Name: f.text("network", ""), Title: f.text("title", ""), Input: parseInput(f)}
	if f.err == nil && !layerName.MatchString(n.Name) {
		f.fail(f.value["network"].Line, "network %q is no name; use %s", n.Name, nameRule)
	}
	if layers := f.value["layers"]; f.err == nil && layers.Kind != yaml.SequenceNode {
		f.fail(layers.Line, "layers must be a list; e.g. - {name: relu1, kind: relu}")
	}
	if f.err != nil {
		return nil, f.err
	}
	for _, node := range f.value["layers"].Content {
		l, err := parseLayer(file, node)
		if err != nil {
			return nil, err
		}
		n.Layers = append(n.Layers, *l)
	}
	if err := n.check(); err != nil {
		return nil, err
	}
	return n, nil
}

// document is the root of a file's only YAML document.
func document(file string, text []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 0 {
		return nil, &networkError{file, 0, "", "the file is empty; begin it with: network: NAME"}
	} else if err != nil {
		return nil, yamlError(file, err)
	}
	if err := d.Decode(&more); err == nil {
		return nil, &networkError{file, more.Line, "", "more than one YAML document; keep one"}
	} else if !errors.Is(err, io.EOF) {
		return nil, yamlError(file, err)
	}
	return doc.Content[0], nil
}

var yamlLine = regexp.MustCompile(`line (\d+)(?:, column \d+)?: ?`)

// yamlError makes one line of what the YAML decoder says.
func yamlError(file string, err error) error {
	text, line := err.Error(), 0
	if m := yamlLine.FindStringSubmatchIndex(text); m != nil {
		fmt.Sscan(text[m[2]:m[3]], &line)
		text = text[m[1]:]
	}
	text, _, _ = strings.Cut(text, "\n")
	return &networkError{file, line, "", "not YAML: " + text + "; look at this line and the one before"}
}

// parseInput reads what the network takes.
func parseInput(f *fields) Input {
	const example = "input: {channels: [3], height: 224, width: 224}"
	in := f.sub("input", example)
	if in.value == nil {
		return Input{}
	}
	in.layer = ""
	in.only("input", []string{"channels", "height", "width"}, nil)
	out := Input{Channels: in.list("channels", "a list of numbers; e.g. channels: [1, 3]", 1, maxKernel),
		Height: in.whole("height", 0, 1, maxSide), Width: in.whole("width", 0, 1, maxSide)}
	for i := 1; in.err == nil && i < len(out.Channels); i++ {
		if out.Channels[i] <= out.Channels[i-1] {
			in.fail(in.value["channels"].Line, "channels must be in ascending order, each once; e.g. channels: [1, 3]")
		}
	}
	if f.err == nil {
		f.err = in.err
	}
	return out
}

// layerName is what names networks, layers and with them parameters, also in checkpoints.
var layerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`)

const nameRule = "letters, digits, '_', '-' and '.', at most 64, beginning with a letter or digit"

// kinds lists the keys that each kind of layer needs, and those it allows.
var kinds = map[Kind]struct{ needed, optional []string }{
	Conv:    {[]string{"maps", "kernel", "init"}, []string{"connect", "on", "stride", "pad", "round", "factors"}},
	Dense:   {[]string{"maps", "init"}, []string{"connect", "on", "factors"}},
	ReLU:    {},
	Tanh:    {},
	LRN:     {[]string{"size", "alpha", "beta", "k"}, []string{"alpha_over_size", "across", "scope"}},
	Pool:    {[]string{"kernel", "stride"}, []string{"pad", "round", "ties"}},
	Dropout: {[]string{"keep"}, []string{"scaling"}},
	Softmax: {},
}

// parseLayer reads one layer.
func parseLayer(file string, node *yaml.Node) (*Layer, error) {
	f := newFields(file, "", "a layer must be a mapping; e.g. - {name: relu1, kind: relu}", node)
	if f.err != nil {
		return nil, f.err
	}
	l := &Layer{Name: f.text("name", ""), Kind: Kind(f.text("kind", "")), Line: node.Line}
	keys, known := kinds[l.Kind]
	switch {
	case l.Name == "":
		f.fail(node.Line, "a layer without a name; add name: NAME")
	case !layerName.MatchString(l.Name):
		f.fail(node.Line, "name %q is no name; use %s", l.Name, nameRule)
	case l.Kind == "":
		f.fail(node.Line, "a layer without a kind; add kind: conv, dense, relu, tanh, lrn, pool, dropout or softmax")
	case !known:
		f.fail(f.value["kind"].Line, "kind %q is unknown; use conv, dense, relu, tanh, lrn, pool, dropout or softmax", l.Kind)
	}
	f.only(fmt.Sprintf("a %s layer", l.Kind), slices.Concat([]string{"name", "kind"}, keys.needed), keys.optional)
	switch l.Kind {
	case Conv:
		l.weights(f)
		l.window(f)
	case Dense:
		l.weights(f)
	case Pool:
		l.window(f)
		l.Ties = Ties(f.text("ties", string(TiesFirst), string(TiesFirst), string(TiesAll)))
	case LRN:
		l.normalisation(f)
	case Dropout:
		l.Keep = f.number("keep", 0, 1e-6, 1)
		l.Scaling = Scaling(f.text("scaling", string(ScaleTest), string(ScaleTest), string(ScaleTrain)))
	}
	if f.err != nil {
		return nil, f.err
	}
	return l, nil
}

// window reads what conv and pool have in common.
func (l *Layer) window(f *fields) {
	l.Kernel = f.whole("kernel", 0, 1, maxKernel)
	l.Stride = f.whole("stride", 1, 1, maxKernel)
	l.Pad = f.pad(l.Kernel)
	l.Round = Rounding(f.text("round", string(RoundFloor), string(RoundFloor), string(RoundCeil)))
}

// weights reads what conv and dense have in common.
func (l *Layer) weights(f *fields) {
	l.Maps = f.whole("maps", 0, 1, maxMaps)
	l.Connect = Connect(f.text("connect", string(ConnectColumn), string(ConnectColumn), string(ConnectAll)))
	l.On = Placement(f.text("on", string(OnEvery), string(OnEvery), string(OnFirst)))
	init := f.sub("init", "init: {std: 0.01, bias: 0}")
	init.only("init", []string{"std"}, []string{"bias"})
	l.Init = Init{Std: init.number("std", 0, 0, 1e3), Bias: init.number("bias", 0, -1e6, 1e6)}
	factors := f.sub("factors", "factors: {bias_rate: 2, bias_decay: 0}")
	factors.only("factors", nil, []string{"rate", "bias_rate", "decay", "bias_decay"})
	l.Factors = Factors{Rate: factors.number("rate", 1, 0, 1e6), BiasRate: factors.number("bias_rate", 1, 0, 1e6),
		Decay: factors.number("decay", 1, 0, 1e6), BiasDecay: factors.number("bias_decay", 1, 0, 1e6)}
	for _, s := range []*fields{init, factors} {
		if f.err == nil {
			f.err = s.err
		}
	}
}

func (l *Layer) normalisation(f *fields) {
	l.Size = f.whole("size", 0, 1, maxKernel)
	l.Alpha = f.number("alpha", 0, 0, 1e6)
	l.Beta = f.number("beta", 0, 0, 100)
	l.K = f.number("k", 0, 1e-6, 1e6)
	l.AlphaOverSize = f.flag("alpha_over_size")
	l.Across = Across(f.text("across", string(AcrossMaps), string(AcrossMaps), string(AcrossSpace)))
	l.Scope = Scope(f.text("scope", string(ScopeColumn), string(ScopeColumn), string(ScopeLayer)))
	if l.Across == AcrossSpace && l.Scope == ScopeLayer {
		f.fail(f.value["scope"].Line, "across: space stays within a map, so scope: layer means nothing; remove it")
	}
}
