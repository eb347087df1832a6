package shard

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
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

// maxFile bounds a network file.
const maxFile = 1 << 20

// Load reads a network file.
func Load(path string) (*Network, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read network: %w", err)
	}
	return Parse(path, text)
}

// fileLayer is a layer as a file has it; which keys a kind allows and needs is in kinds.
type fileLayer struct {
	Name    string    `yaml:"name"`
	Kind    Kind      `yaml:"kind"`
	Maps    int       `yaml:"maps"`
	Connect Connect   `yaml:"connect"`
	On      Placement `yaml:"on"`
	Kernel  int       `yaml:"kernel"`
	Stride  int       `yaml:"stride"`
	Pad     filePad   `yaml:"pad"`
	Round   Rounding  `yaml:"round"`
	Init    Init      `yaml:"init"`
	Factors struct {
		Rate      *float64 `yaml:"rate"`
		BiasRate  *float64 `yaml:"bias_rate"`
		Decay     *float64 `yaml:"decay"`
		BiasDecay *float64 `yaml:"bias_decay"`
	} `yaml:"factors"`
	Ties          Ties    `yaml:"ties"`
	Size          int     `yaml:"size"`
	Alpha         float64 `yaml:"alpha"`
	Beta          float64 `yaml:"beta"`
	K             float64 `yaml:"k"`
	AlphaOverSize bool    `yaml:"alpha_over_size"`
	Across        Across  `yaml:"across"`
	Scope         Scope   `yaml:"scope"`
	Keep          float64 `yaml:"keep"`
	Scaling       Scaling `yaml:"scaling"`
}

// filePad is one number for all sides or [top, left, bottom, right].
type filePad struct{ Pad }

// UnmarshalYAML reads either form.
func (p *filePad) UnmarshalYAML(n *yaml.Node) error {
	var one int
	if n.Kind == yaml.ScalarNode {
		if err := n.Decode(&one); err != nil {
			return err
		}
		p.Pad = Pad{one, one, one, one}
		return nil
	}
	var four []int
	if err := n.Decode(&four); err != nil || len(four) != 4 {
		return errors.New("pad must be a number or [top, left, bottom, right]")
	}
	p.Pad = Pad{four[0], four[1], four[2], four[3]}
	return nil
}

type fileNetwork struct {
	Network string `yaml:"network"`
	Title   string `yaml:"title"`
	Input   struct {
		Channels []int `yaml:"channels"`
		Height   int   `yaml:"height"`
		Width    int   `yaml:"width"`
	} `yaml:"input"`
	Layers []yaml.Node `yaml:"layers"`
}

// keys each kind allows; those it needs have a true.
var kinds = map[Kind]map[string]bool{
	Conv: {"maps": true, "kernel": true, "connect": false, "on": false, "stride": false, "pad": false, "round": false,
		"init": true, "factors": false},
	Dense: {"maps": true, "connect": false, "on": false, "init": true, "factors": false},
	ReLU:  {},
	LRN: {"size": true, "alpha": true, "beta": true, "k": true, "alpha_over_size": false, "across": false,
		"scope": false},
	Pool:    {"kernel": true, "stride": true, "pad": false, "round": false, "ties": false},
	Dropout: {"keep": true, "scaling": false},
	Softmax: {},
}

// Parse reads a network from YAML. What is wrong is one line with file, line, layer, reason and next step.
func Parse(file string, text []byte) (*Network, error) {
	if len(text) > maxFile {
		return nil, &networkError{file, 0, "", fmt.Sprintf("larger than %d bytes: not a network file", maxFile)}
	}
	var f fileNetwork
	if err := decodeStrict(text, &f); err != nil {
		return nil, yamlError(file, 0, "", err)
	}
	n := &Network{Name: f.Network, Title: f.Title, File: file,
		Input: Input{Channels: f.Input.Channels, Height: f.Input.Height, Width: f.Input.Width}}
	if n.Name == "" {
		return nil, &networkError{file, 1, "", "no name; begin the file with: network: NAME"}
	}
	if len(n.Input.Channels) == 0 || n.Input.Height < 1 || n.Input.Width < 1 ||
		slices.Min(n.Input.Channels) < 1 || !slices.IsSorted(n.Input.Channels) {
		return nil, &networkError{file, 1, "", "input needs channels (a list, ascending), height and width, all positive; " +
			"e.g. input: {channels: [3], height: 224, width: 224}"}
	}
	for i := range f.Layers {
		l, err := parseLayer(file, &f.Layers[i])
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

// decodeStrict decodes one YAML document; keys without a field are errors.
func decodeStrict(text []byte, into any) error {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("the file is empty")
		}
		return err
	}
	var more yaml.Node
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return errors.New("more than one YAML document; keep one")
	}
	return nil
}

var yamlLine = regexp.MustCompile(`line (\d+)(?:, column \d+)?: ?`)

// yamlError makes one line of what the YAML decoder says.
func yamlError(file string, base int, layer string, err error) error {
	text := err.Error()
	line := base
	if m := yamlLine.FindStringSubmatchIndex(text); m != nil {
		fmt.Sscan(text[m[2]:m[3]], &line)
		text = text[m[1]:]
	}
	if i := strings.IndexByte(text, '\n'); i >= 0 {
		text = text[:i]
	}
	return &networkError{file, line, layer, text + "; see the networks under shard/networks for the form"}
}

// parseLayer reads one layer and checks that its kind has the keys it needs and no others.
func parseLayer(file string, node *yaml.Node) (*Layer, error) {
	var name string
	var kind Kind
	if node.Kind != yaml.MappingNode {
		return nil, &networkError{file, node.Line, "", "a layer must be a mapping; e.g. - {name: relu1, kind: relu}"}
	}
	given := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if _, twice := given[key.Value]; twice {
			return nil, &networkError{file, key.Line, name, fmt.Sprintf("key %q is given twice; keep one", key.Value)}
		}
		given[key.Value] = key.Line
		switch key.Value {
		case "name":
			name = value.Value
		case "kind":
			kind = Kind(value.Value)
		}
	}
	if name == "" {
		return nil, &networkError{file, node.Line, "", "a layer without a name; add name: NAME"}
	}
	allowed, ok := kinds[kind]
	if !ok {
		return nil, &networkError{file, node.Line, name, fmt.Sprintf(
			"kind %q is unknown; use conv, dense, relu, lrn, pool, dropout or softmax", kind)}
	}
	if err := checkKeys(file, node.Line, name, kind, given, allowed); err != nil {
		return nil, err
	}
	var f fileLayer
	if err := node.Decode(&f); err != nil {
		return nil, yamlError(file, node.Line, name, err)
	}
	l := f.layer(node.Line)
	if reason := l.problem(); reason != "" {
		return nil, &networkError{file, node.Line, name, reason}
	}
	return l, nil
}

func checkKeys(file string, line int, name string, kind Kind, given map[string]int, allowed map[string]bool) error {
	var keys []string
	for k := range given {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if _, ok := allowed[k]; !ok && k != "name" && k != "kind" {
			return &networkError{file, given[k], name, fmt.Sprintf("a %s layer has no key %q; remove it", kind, k)}
		}
	}
	var missing []string
	for k, needed := range allowed {
		if _, ok := given[k]; needed && !ok {
			missing = append(missing, k)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		return &networkError{file, line, name, fmt.Sprintf("a %s layer needs the key %q; add it", kind, missing[0])}
	}
	return nil
}

// layer fills in the defaults.
func (f *fileLayer) layer(line int) *Layer {
	l := &Layer{Name: f.Name, Kind: f.Kind, Line: line, Maps: f.Maps, Connect: f.Connect, On: f.On, Kernel: f.Kernel,
		Stride: f.Stride, Pad: f.Pad.Pad, Round: f.Round, Init: f.Init, Ties: f.Ties, Size: f.Size, Alpha: f.Alpha,
		Beta: f.Beta, K: f.K, AlphaOverSize: f.AlphaOverSize, Across: f.Across, Scope: f.Scope, Keep: f.Keep,
		Scaling: f.Scaling}
	switch l.Kind {
	case Conv, Dense:
		l.Connect = or(l.Connect, ConnectColumn)
		l.On = or(l.On, OnEvery)
		one := func(v *float64) float64 {
			if v == nil {
				return 1
			}
			return *v
		}
		l.Factors = Factors{Rate: one(f.Factors.Rate), BiasRate: one(f.Factors.BiasRate),
			Decay: one(f.Factors.Decay), BiasDecay: one(f.Factors.BiasDecay)}
		if l.Kind == Conv {
			l.Stride = or(l.Stride, 1)
			l.Round = or(l.Round, RoundFloor)
		}
	case Pool:
		l.Round = or(l.Round, RoundFloor)
		l.Ties = or(l.Ties, TiesFirst)
	case LRN:
		l.Across = or(l.Across, AcrossMaps)
		l.Scope = or(l.Scope, ScopeColumn)
	case Dropout:
		l.Scaling = or(l.Scaling, ScaleTest)
	}
	return l
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// problem says what is wrong with a layer by itself, or nothing.
func (l *Layer) problem() string {
	const big = 1 << 24
	oneOf := func(what, v string, allowed ...string) string {
		if slices.Contains(allowed, v) {
			return ""
		}
		return fmt.Sprintf("%s %q is unknown; use one of %q", what, v, allowed)
	}
	in := func(what string, v, lo, hi int) string {
		if v >= lo && v <= hi {
			return ""
		}
		return fmt.Sprintf("%s is %d; it must be between %d and %d", what, v, lo, hi)
	}
	number := func(what string, v, lo, hi float64) string {
		if v >= lo && v <= hi && !math.IsNaN(v) {
			return ""
		}
		return fmt.Sprintf("%s is %g; it must be between %g and %g", what, v, lo, hi)
	}
	window := func() []string {
		return []string{in("kernel", l.Kernel, 1, 1024), in("stride", l.Stride, 1, 1024),
			in("pad", min(l.Pad.Top, l.Pad.Left, l.Pad.Bottom, l.Pad.Right), 0, 1024),
			in("pad", max(l.Pad.Top, l.Pad.Left, l.Pad.Bottom, l.Pad.Right), 0, max(0, l.Kernel-1)),
			oneOf("round", string(l.Round), "floor", "ceil")}
	}
	weights := func() []string {
		return []string{in("maps", l.Maps, 1, big), oneOf("connect", string(l.Connect), "column", "all"),
			oneOf("on", string(l.On), "every", "first"), number("init.std", l.Init.Std, 0, 1e3),
			number("init.bias", l.Init.Bias, -1e6, 1e6), number("factors.rate", l.Factors.Rate, 0, 1e6),
			number("factors.bias_rate", l.Factors.BiasRate, 0, 1e6), number("factors.decay", l.Factors.Decay, 0, 1e6),
			number("factors.bias_decay", l.Factors.BiasDecay, 0, 1e6)}
	}
	var found []string
	switch l.Kind {
	case Conv:
		found = append(weights(), window()...)
	case Dense:
		found = weights()
	case Pool:
		found = append(window(), oneOf("ties", string(l.Ties), "first", "all"))
	case LRN:
		found = []string{in("size", l.Size, 1, 1024), number("alpha", l.Alpha, 0, 1e6), number("beta", l.Beta, 0, 100),
			number("k", l.K, 1e-6, 1e6), oneOf("across", string(l.Across), "maps", "space"),
			oneOf("scope", string(l.Scope), "column", "layer")}
	case Dropout:
		found = []string{number("keep", l.Keep, 1e-6, 1), oneOf("scaling", string(l.Scaling), "test", "train")}
	}
	for _, reason := range found {
		if reason != "" {
			return reason
		}
	}
	return ""
}
