// Package clitest makes command lines that a program has to refuse, from the tree of its commands and their examples.
package clitest

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"colonnade/checkpoint/cli"
)

// mistake is a command line that cannot be understood.
type mistake struct {
	name string
	args []string
	want []string // what the line that refuses it has in it, in order
}

// Commands are all commands that can be run, by their paths.
func Commands(tree *kong.Kong) map[string]*kong.Node {
	all := map[string]*kong.Node{}
	var walk func(n *kong.Node, path string)
	walk = func(n *kong.Node, path string) {
		for _, child := range n.Children {
			if child.Type != kong.CommandNode || child.Hidden {
				continue
			}
			if below := path + child.Name; len(child.Children) == 0 {
				all[below] = child
			} else {
				walk(child, below+" ")
			}
		}
	}
	walk(tree.Model.Node, "")
	return all
}

// Example is a command's example as arguments, without what is the shell's.
func Example(p cli.Program, path string) []string {
	line, _, _ := strings.Cut(p.Examples[path], " > ")
	return strings.Fields(line)
}

// Mistakes gives every command a flag that it does not have, arguments too many and too few, and every flag a value
// that it cannot have, or none. Each must be refused in one line that names what is wrong and the command's help. It
// returns how many flags it gave wrong values. The lines are parsed, not run: what is printed is p.Mistake's.
func Mistakes(t testing.TB, p cli.Program, tree *kong.Kong) (flags int) {
	t.Helper()
	all, flags := mistakes(p, tree)
	for _, m := range all {
		_, err := tree.Parse(m.args)
		if err == nil {
			t.Errorf("%s: %s %s is taken", m.name, p.Name, strings.Join(m.args, " "))
			continue
		}
		line := p.Mistake(err, tree)
		at := 0
		for _, want := range m.want {
			i := strings.Index(line[at:], want)
			if i < 0 {
				t.Errorf("%s: the line lacks %q: %s", m.name, want, line)
				break
			}
			at += i + len(want)
		}
		if strings.Contains(line, "\n") || !strings.HasPrefix(line, p.Name+": ") {
			t.Errorf("%s: not one line of the program's: %q", m.name, line)
		}
	}
	return flags
}

func mistakes(p cli.Program, tree *kong.Kong) (all []mistake, flags int) {
	for path, n := range Commands(tree) {
		add := func(name string, args []string, want ...string) {
			want = append(want, "; see: "+p.Name+" "+path+" --help")
			all = append(all, mistake{path + ": " + name, args, want})
		}
		line := Example(p, path)
		add("unknown flag", append(line, "--no-such-flag"), "--no-such-flag")
		if !slices.ContainsFunc(n.Positional, func(v *kong.Value) bool { return v.IsSlice() }) {
			add("too much", append(slices.Clip(line), "one", "too", "many"))
		}
		if slices.ContainsFunc(n.Positional, func(v *kong.Value) bool { return v.Required }) {
			add("too little", strings.Fields(path))
		}
		for _, f := range n.Flags {
			if f.Name != "help" && typed(f.Value) {
				flags++
				add("--"+f.Name+" of another kind", append(slices.Clip(line), "--"+f.Name+"=what?"), "--"+f.Name)
			}
			if f.Name != "help" && !f.IsBool() {
				add("--"+f.Name+" of nothing", append(slices.Clip(line), "--"+f.Name), "--"+f.Name)
			}
		}
	}
	return all, flags
}

// typed says whether not every text is a value.
func typed(v *kong.Value) bool {
	of := v.Target.Type()
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	return v.Enum != "" || of == reflect.TypeFor[time.Duration]() || slices.Contains([]reflect.Kind{reflect.Bool,
		reflect.Int, reflect.Int64, reflect.Uint, reflect.Uint32, reflect.Uint64, reflect.Float64}, of.Kind())
}
