// Package cli is what the command lines of both programs share on top of kong: an example in every command's help,
// mistakes told in one line that names the command's help, what is to be typed next under the name that the program was
// called by, and completion.
package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"
)

// Program is whose command line it is.
type Program struct {
	Name     string
	Called   string            // how it is called in what is to be typed next; empty: by its name
	Examples map[string]string // what --help shows of every command, without the program, by the command's path
}

// Called is how a program that was started by such an argument 0 is to be called: as it was, unless its name alone
// finds it.
func Called(argument0 string) string {
	name := filepath.Base(argument0)
	found, err := exec.LookPath(name)
	if err != nil {
		return argument0
	}
	own, err := os.Executable()
	if err != nil {
		return argument0
	}
	a, errA := os.Stat(found)
	b, errB := os.Stat(own)
	if errA != nil || errB != nil || !os.SameFile(a, b) {
		return argument0
	}
	return name
}

// Exemplify adds its example to the help of every command.
func (p Program) Exemplify(tree *kong.Kong) { p.exemplify(tree.Model.Node, "") }

func (p Program) exemplify(n *kong.Node, path string) {
	for _, child := range n.Children {
		below := path + child.Name
		if text := p.Examples[below]; text != "" {
			child.Detail = "Example: " + cmp.Or(p.Called, p.Name) + " " + text
		}
		p.exemplify(child, below+" ")
	}
}

// Hint has a line's commands of the program name it as it was called.
func (p Program) Hint(line string, tree *kong.Kong) string {
	if p.Called == "" {
		return line
	}
	names := []string{`--help`}
	for _, child := range tree.Model.Children {
		names = append(names, regexp.QuoteMeta(child.Name)+`\b`)
	}
	commands := regexp.MustCompile(`(^|[^/\w.-])` + p.Name + ` (` + strings.Join(names, "|") + `)`)
	return commands.ReplaceAllStringFunc(line, func(found string) string {
		i := strings.Index(found, p.Name+" ")
		return found[:i] + p.Called + found[i+len(p.Name):]
	})
}

// Failure is the line that says why a command failed.
func (p Program) Failure(err error, tree *kong.Kong) string {
	return p.Name + ": " + p.Hint(OneLine(err), tree)
}

// Mistake is the line that says what is wrong with a command line that could not be parsed. It ends with the help of
// the command, as far as that could be understood.
func (p Program) Mistake(err error, tree *kong.Kong) string {
	command := p.Name
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if node := parse.Context.Selected(); node != nil {
			command = node.FullPath()
		}
	}
	return p.Failure(fmt.Errorf("%w; see: %s --help", err, command), tree)
}

// OneLine is an error's text without line ends: several errors, joined, are still one message.
func OneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
