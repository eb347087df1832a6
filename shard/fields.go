package shard

import (
	"fmt"
	"math"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// fields is one mapping of a network file while it is read. Every getter takes a key's value if it is given and else
// the default; the first thing that is wrong is kept, with the line of the key it is under.
type fields struct {
	file  string
	layer string // for messages; empty outside of layers
	under string // for messages: "init." of the keys below init
	line  int    // of the mapping
	value map[string]*yaml.Node
	err   error
}

// newFields takes a mapping apart. what names it in messages.
func newFields(file, layer, what string, node *yaml.Node) *fields {
	f := &fields{file: file, layer: layer, line: node.Line, value: map[string]*yaml.Node{}}
	if node.Kind != yaml.MappingNode {
		f.fail(node.Line, "%s", what)
		return f
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Value == "name" && layer == "" && value.Kind == yaml.ScalarNode {
			f.layer = value.Value
		}
		switch _, twice := f.value[key.Value]; {
		case key.Kind != yaml.ScalarNode || key.Value == "<<" || value.Kind == yaml.AliasNode:
			f.fail(key.Line, "anchors, aliases and merged keys are not read here; write the keys out")
		case twice:
			f.fail(key.Line, "key %q is given twice; keep one", key.Value)
		case value.Tag == "!!null":
			f.fail(key.Line, "key %q has no value; give one, or remove the key", key.Value)
		default:
			value.Line = key.Line
			f.value[key.Value] = value
		}
	}
	return f
}

func (f *fields) fail(line int, format string, args ...any) {
	if f.err == nil {
		f.err = &networkError{f.file, line, f.layer, fmt.Sprintf(format, args...)}
	}
}

// only refuses keys that are not known and misses those that are needed. of says whose keys they are: "a conv layer".
func (f *fields) only(of string, needed, optional []string) {
	known := slices.Concat(needed, optional)
	var given []string
	for k := range f.value {
		given = append(given, k)
	}
	slices.Sort(given)
	for _, k := range given {
		if !slices.Contains(known, k) {
			f.fail(f.value[k].Line, "%s has no key %q; it may have %s", of, k, strings.Join(known, ", "))
		}
	}
	for _, k := range needed {
		if f.value[k] == nil {
			f.fail(f.line, "%s needs the key %q; add it", of, k)
		}
	}
}

// sub is the mapping under a key.
func (f *fields) sub(key, example string) *fields {
	node := f.value[key]
	if node == nil {
		return &fields{file: f.file, layer: f.layer, line: f.line, err: f.err}
	}
	s := newFields(f.file, f.layer, fmt.Sprintf("%s must be a mapping; e.g. %s", key, example), node)
	if s.under = key + "."; f.err != nil {
		s.err = f.err
	}
	return s
}

// scalar is a value that must be no list and no mapping.
func (f *fields) scalar(key, wanted string) *yaml.Node {
	node := f.value[key]
	if node != nil && node.Kind != yaml.ScalarNode {
		f.fail(node.Line, "%s must be %s", f.under+key, wanted)
		return nil
	}
	return node
}

func (f *fields) text(key, otherwise string, allowed ...string) string {
	node := f.scalar(key, "one word")
	if node == nil {
		return otherwise
	}
	if len(allowed) > 0 && !slices.Contains(allowed, node.Value) {
		f.fail(node.Line, "%s %q is unknown; use %s", f.under+key, node.Value, anyOf(allowed))
	}
	return node.Value
}

// anyOf lists words for a choice.
func anyOf(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func (f *fields) flag(key string) bool {
	var v bool
	if node := f.scalar(key, "true or false"); node != nil && node.Decode(&v) != nil {
		f.fail(node.Line, "%s is %q; it must be true or false", f.under+key, node.Value)
	}
	return v
}

// whole is a whole number between lo and hi. A default need not be.
func (f *fields) whole(key string, otherwise, lo, hi int) int {
	node := f.scalar(key, "a whole number")
	if node == nil {
		return otherwise
	}
	v, err := wholeNumber(node, lo, hi)
	if err != nil {
		f.fail(node.Line, "%s %v", f.under+key, err)
	}
	return v
}

func wholeNumber(node *yaml.Node, lo, hi int) (int, error) {
	var v int
	if node.Kind != yaml.ScalarNode || node.Decode(&v) != nil {
		return 0, fmt.Errorf("is %q; it must be a whole number between %d and %d", node.Value, lo, hi)
	}
	if v < lo || v > hi {
		return 0, fmt.Errorf("is %d; it must be between %d and %d", v, lo, hi)
	}
	return v, nil
}

// number is a number between lo and hi.
func (f *fields) number(key string, otherwise, lo, hi float64) float64 {
	node := f.scalar(key, "a number")
	if node == nil {
		return otherwise
	}
	var v float64
	if node.Decode(&v) != nil {
		f.fail(node.Line, "%s is %q; it must be a number between %g and %g", f.under+key, node.Value, lo, hi)
	} else if !(v >= lo && v <= hi) || math.IsNaN(v) {
		f.fail(node.Line, "%s is %g; it must be between %g and %g", f.under+key, v, lo, hi)
	}
	return v
}

// list is a list of whole numbers between lo and hi.
func (f *fields) list(key, wanted string, lo, hi int) []int {
	node := f.value[key]
	if node == nil {
		return nil
	}
	if node.Kind != yaml.SequenceNode || len(node.Content) == 0 {
		f.fail(node.Line, "%s must be %s", f.under+key, wanted)
		return nil
	}
	var out []int
	for _, n := range node.Content {
		v, err := wholeNumber(n, lo, hi)
		if err != nil {
			f.fail(node.Line, "%s must be %s; one %v", f.under+key, wanted, err)
		}
		out = append(out, v)
	}
	return out
}

// pad is one number for all sides or [top, left, bottom, right], each less than the kernel: a window must meet the
// image.
func (f *fields) pad(kernel int) Pad {
	node := f.value["pad"]
	if node == nil {
		return Pad{}
	}
	const wanted = "a number or [top, left, bottom, right]"
	hi := max(0, min(kernel, maxKernel)-1)
	if node.Kind == yaml.SequenceNode {
		v := f.list("pad", wanted, 0, hi)
		if len(v) != 4 {
			f.fail(node.Line, "pad must be %s", wanted)
			return Pad{}
		}
		return Pad{v[0], v[1], v[2], v[3]}
	}
	if node.Kind != yaml.ScalarNode {
		f.fail(node.Line, "pad must be %s", wanted)
		return Pad{}
	}
	v := f.whole("pad", 0, 0, hi)
	return Pad{v, v, v, v}
}
