package clitest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"

	"colonnade/checkpoint/cli"
)

// Line is a command line that a page tells its readers to type.
type Line struct {
	At       string // PAGE:LINE
	Args     []string
	sentence bool // that speaks of a command, not necessarily with all that it needs
}

// Wrong says what is wrong with a line: nil if it can be typed, or, where a sentence speaks of a command, if there is
// the command with these flags.
func (l Line) Wrong(tree *kong.Kong) error {
	if !l.sentence {
		_, err := tree.Parse(l.Args)
		return err
	}
	at := tree.Model.Node
	for i, word := range l.Args {
		var below *kong.Node
		for _, child := range at.Children {
			if child.Name == word && child.Type == kong.CommandNode {
				below = child
			}
		}
		switch {
		case below != nil:
			at = below
		case i == 0:
			return nil // speaks of the program, and not to it
		case strings.HasPrefix(word, "--"):
			if name, _, _ := strings.Cut(word[2:], "="); cli.Flag(at, name) == nil {
				return fmt.Errorf("%s has no flag %s", at.FullPath(), word)
			}
		case len(at.Children) > 0:
			return fmt.Errorf("%s has no command %s", at.FullPath(), word)
		}
	}
	return nil
}

var (
	span      = regexp.MustCompile("`([^`]+)`")
	typedLine = regexp.MustCompile(`^(?:[a-z]?\$ )?(?:bin/)?`)
	shellWord = regexp.MustCompile(`'[^']*'|"[^"]*"|\S+`)
	shellEnd  = regexp.MustCompile(`\s+(#|&|&?>|\||;|2>).*$`)
)

// Pages are the lines of all pages (*.md) below a directory that have the program do something: in blocks of code, with
// or without a prompt, and within sentences. Lines that leave something out, or leave a choice, are no command lines.
func Pages(dir string, p cli.Program) (all []Line, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != dir || d.Name() == "node_modules" {
			return filepath.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		all = append(all, page(path, string(text), p)...)
		return nil
	})
	return all, err
}

// page are the lines of one.
func page(path, text string, p cli.Program) (all []Line) {
	add := func(number int, line string, sentence bool) {
		line = typedLine.ReplaceAllString(strings.TrimSpace(line), "")
		rest, ours := strings.CutPrefix(line, p.Name+" ")
		if !ours || strings.ContainsAny(rest, "[…") || strings.Contains(rest, "...") || strings.Contains(rest, "|") {
			return
		}
		rest = shellEnd.ReplaceAllString(rest, "")
		if strings.Contains(rest, "  ") { // a diagram's
			return
		}
		args := shellWord.FindAllString(rest, -1)
		for i, a := range args {
			args[i] = strings.Trim(a, `'"`)
		}
		all = append(all, Line{fmt.Sprintf("%s:%d", path, number), args, sentence})
	}
	block := false
	var sentence strings.Builder // code within sentences may go over two lines
	began := 1
	end := func() {
		for _, m := range span.FindAllStringSubmatch(sentence.String(), -1) {
			add(began, strings.Join(strings.Fields(m[1]), " "), true)
		}
		sentence.Reset()
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		switch {
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			end()
			block = !block
		case block:
			add(number, line, false)
		case strings.TrimSpace(line) == "":
			end()
		default:
			if sentence.Len() == 0 {
				began = number
			}
			sentence.WriteString(line)
		}
	}
	end()
	return all
}
