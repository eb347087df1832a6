package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Completion is a program's command `completion`.
type Completion struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// scripts ask the program itself, PROGRAM, how a line may go on, so they fit every version of it.
var scripts = map[string]string{
	"bash": `_PROGRAM() {
	mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
	[ ${#COMPREPLY[@]} -gt 0 ] || mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")
}
complete -F _PROGRAM PROGRAM
`,
	"zsh": `#compdef PROGRAM
_PROGRAM() {
	local -a found
	found=(${(f)"$("${words[1]}" complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"})
	if (( ${#found} )); then compadd -- $found; else _files; fi
}
compdef _PROGRAM PROGRAM
`,
	"fish": `function __PROGRAM
	set -l words (commandline -opc) (commandline -ct)
	$words[1] complete $words[2..-1] 2>/dev/null
end
complete -c PROGRAM -a '(__PROGRAM)'
`}

// Print prints the shell's script.
func (c *Completion) Print(out io.Writer, p Program) error {
	_, err := fmt.Fprint(out, strings.ReplaceAll(scripts[c.Shell], "PROGRAM", p.Name))
	return err
}

// Complete is a program's hidden command `complete WORD...`: the last word is the one to complete.
type Complete struct {
	Words []string `arg:"" optional:"" help:"Words of the line, without the program; the last one is not finished."`
}

// Print prints how the line may go on, a word a line.
func (c *Complete) Print(out io.Writer, tree *kong.Kong) error {
	for _, w := range next(tree.Model.Node, c.Words) {
		if _, err := fmt.Fprintln(out, w); err != nil {
			return err
		}
	}
	return nil
}

// next are the words that may stand in the place of the last one: commands, flags, or a flag's values. Nothing
// where a name or a file is meant.
func next(at *kong.Node, words []string) []string {
	last := ""
	if len(words) > 0 {
		words, last = words[:len(words)-1], words[len(words)-1]
	}
	var valueOf *kong.Flag
	for _, w := range words {
		if valueOf != nil {
			valueOf = nil
			continue
		}
		if name, ok := strings.CutPrefix(w, "--"); ok {
			if f := Flag(at, name); f != nil && !f.IsBool() {
				valueOf = f
			}
			continue
		}
		for _, child := range at.Children {
			if child.Name == w && child.Type == kong.CommandNode {
				at = child
				break
			}
		}
	}
	var all []string
	switch {
	case valueOf != nil:
		if valueOf.Enum != "" {
			all = strings.Split(valueOf.Enum, ",")
		}
	case strings.HasPrefix(last, "-"):
		for _, group := range at.AllFlags(true) {
			for _, f := range group {
				all = append(all, "--"+f.Name)
			}
		}
	default:
		for _, child := range at.Children {
			if child.Type == kong.CommandNode && !child.Hidden {
				all = append(all, child.Name)
			}
		}
		for _, p := range at.Positional {
			if p.Enum != "" {
				all = append(all, strings.Split(p.Enum, ",")...)
			}
		}
	}
	all = slices.DeleteFunc(all, func(w string) bool { return !strings.HasPrefix(w, last) })
	slices.Sort(all)
	return slices.Compact(all)
}

// Flag is a command's flag of a name, or of the commands above it; nil: there is none.
func Flag(at *kong.Node, name string) *kong.Flag {
	for _, group := range at.AllFlags(false) {
		for _, f := range group {
			if f.Name == name {
				return f
			}
		}
	}
	return nil
}
