package job

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// Set changes a job's text by settings, "path=value" each: the path names a key by the keys above it, with dots, the
// value is YAML. Of keys that exclude each other, steps and epochs, the one that is set takes the other's place. Errors
// name the setting, and the key that is nearest to one that is not known.
func Set(text []byte, settings []string) ([]byte, error) {
	if len(settings) == 0 {
		return text, nil
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return text, nil // who reads it says what is wrong
	}
	for _, s := range settings {
		if err := set(doc.Content[0], s); err != nil {
			return nil, err
		}
	}
	return yaml.Marshal(&doc)
}

func set(at *yaml.Node, setting string) error {
	path, text, ok := strings.Cut(setting, "=")
	if !ok || path == "" {
		return errorf("--set %s: give a key and its value, e.g. --set recipe.batch=64", setting)
	}
	kind, err := typeOf(path)
	if err != nil {
		return errorf("--set %s: %v", setting, err)
	}
	into := reflect.New(kind)
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	var value yaml.Node
	err = d.Decode(into.Interface())
	if err == nil {
		err = yaml.Unmarshal([]byte(text), &value)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		what := err.Error()
		if m := yamlLine.FindStringIndex(what); m != nil {
			what = what[m[1]:]
		}
		what, _, _ = strings.Cut(what, "\n")
		return errorf("--set %s: %s; give a value like that of a job file: see scripts/jobs", setting, plain(what))
	}
	if len(value.Content) != 1 {
		return errorf("--set %s: there is no value; give one, e.g. --set recipe.batch=64", setting)
	}
	keys := strings.Split(path, ".")
	for _, k := range keys[:len(keys)-1] {
		next := child(at, k)
		if next == nil || next.Kind != yaml.MappingNode {
			next = &yaml.Node{Kind: yaml.MappingNode}
			put(at, k, next)
		}
		at = next
	}
	last := keys[len(keys)-1]
	put(at, last, value.Content[0])
	if other := map[string]string{"recipe.steps": "epochs", "recipe.epochs": "steps"}[path]; other != "" {
		put(at, other, nil)
	}
	return nil
}

// child is the value of a mapping's key, nil if there is none.
func child(m *yaml.Node, k string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == k {
			return m.Content[i+1]
		}
	}
	return nil
}

// put gives a mapping's key a value; nil takes it out.
func put(m *yaml.Node, k string, v *yaml.Node) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value != k {
			continue
		}
		if v == nil {
			m.Content = slices.Delete(m.Content, i, i+2)
		} else {
			m.Content[i+1] = v
		}
		return
	}
	if v != nil {
		m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: k}, v)
	}
}

// filledIn are the keys that submitting fills in.
var filledIn = []string{"network_text", "train_pack", "test_pack"}

// typeOf is the type of the value of a path.
func typeOf(path string) (reflect.Type, error) {
	at := reflect.TypeFor[Job]()
	for _, k := range strings.Split(path, ".") {
		for at.Kind() == reflect.Pointer {
			at = at.Elem()
		}
		f := fieldsOf(at)
		if _, ok := f[k]; !ok || slices.Contains(filledIn, k) {
			if near := nearest(path); near != "" {
				return nil, fmt.Errorf("there is no key %q; the nearest is %s", path, near)
			}
			return nil, fmt.Errorf("there is no key %q; see scripts/jobs for the keys", path)
		}
		at = f[k]
	}
	return at, nil
}

// fieldsOf are the keys of a mapping, and the types of their values; nil: it is none.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if t.Kind() != reflect.Struct {
		return nil
	}
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			maps.Copy(out, fieldsOf(t.Field(i).Type))
		case name != "" && name != "-":
			out[name] = t.Field(i).Type
		}
	}
	return out
}

// paths are all keys of a mapping, with those above them.
func paths(t reflect.Type, above string) (out []string) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for k, f := range fieldsOf(t) {
		if !slices.Contains(filledIn, k) {
			out = append(append(out, above+k), paths(f, above+k+".")...)
		}
	}
	return out
}

// nearest is the key that takes the fewest changes of a letter to be what was asked for; empty: none is near. A path is
// near too if only what is above its key is missing or wrong.
func nearest(path string) string {
	best, least := "", len(path)/2+1
	for _, p := range slices.Sorted(slices.Values(paths(reflect.TypeFor[Job](), ""))) {
		d := distance(path, p)
		if p[strings.LastIndex(p, ".")+1:] == path[strings.LastIndex(path, ".")+1:] {
			d /= 4
		}
		if d < least {
			best, least = p, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diagonal
			if a[i] != b[j] {
				d++
			}
			diagonal = row[j+1]
			row[j+1] = min(d, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// forkable are the keys that a fork may change: neither the layout of the state nor its numerics depend on them.
var forkable = []string{"recipe", "augment", "evaluate", "checkpoint", "buddy", "guard", "queue", "seed"}

// Fork returns the job that another one, canonical, is under another name and with settings.
func Fork(spec []byte, name string, settings []string) (*Job, error) {
	for _, s := range settings {
		key, _, _ := strings.Cut(s, "=")
		key, _, _ = strings.Cut(key, ".")
		if fieldsOf(reflect.TypeFor[Job]())[key] != nil && !slices.Contains(forkable, key) {
			return nil, errorf("--set %s: a fork cannot change %s; submit a job of its own, or change one of: %s", s, key,
				strings.Join(forkable, ", "))
		}
	}
	text, err := Set(spec, append(slices.Clone(settings), "job="+name))
	if err != nil {
		return nil, err
	}
	return Decode(append([]byte(header), text...))
}

// Differences says, a line for each key in order, what a job says otherwise than another: "recipe.batch: 64 instead of
// 128". Names and what submitting fills in do not count.
func Differences(now, before *Job) []string {
	a, b := map[string]string{}, map[string]string{}
	flatten(now, a)
	flatten(before, b)
	keys := maps.Clone(a)
	maps.Copy(keys, b)
	var out []string
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		is, was := a[k], b[k]
		switch {
		case is == was:
		case was == "":
			out = append(out, fmt.Sprintf("%s: %s", k, is))
		case is == "":
			out = append(out, fmt.Sprintf("%s: no longer %s", k, was))
		default:
			out = append(out, fmt.Sprintf("%s: %s instead of %s", k, is, was))
		}
	}
	return out
}

// flatten puts down every value of a job by its path.
func flatten(j *Job, into map[string]string) {
	c := *j
	c.Name, c.NetworkText, c.Train, c.Test = "", "", nil, nil
	var doc yaml.Node
	if b, err := yaml.Marshal(&c); err != nil || yaml.Unmarshal(b, &doc) != nil || len(doc.Content) != 1 {
		panic(fmt.Sprintf("job: encode: %v", err)) // plain fields: cannot fail
	}
	var walk func(n *yaml.Node, path string)
	walk = func(n *yaml.Node, path string) {
		switch {
		case n.Kind == yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				walk(n.Content[i+1], strings.TrimPrefix(path+"."+n.Content[i].Value, "."))
			}
		case n.Kind == yaml.SequenceNode && len(n.Content) > 0:
			n.Style = yaml.FlowStyle
			b, _ := yaml.Marshal(n)
			into[path] = strings.Join(strings.Fields(string(b)), " ")
		case n.Kind == yaml.ScalarNode && n.Value != "" && n.Tag != "!!null":
			into[path] = n.Value
		}
	}
	walk(doc.Content[0], "")
}
