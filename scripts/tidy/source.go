package tidy

import (
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/token"
	"maps"
	"slices"
	"strings"
)

// checkCgo wants C++ only where the table allows it, and behind its tag.
func checkCgo(t *tree) (out []breach) {
	for _, f := range t.goFiles() {
		s := imports(f)["C"]
		if s == nil {
			continue
		}
		i := slices.IndexFunc(cgoTable, func(r cgoRule) bool { return r.path == f.dir() })
		if i < 0 {
			out = append(out, t.at(f, s, "cgo is for %s only: builds, races and crashes of the rest stay plain Go's",
				cgoPlaces()))
			continue
		}
		if r := cgoTable[i]; !asksFor(f, r.tag) {
			out = append(out, t.at(f, s, "cgo without //go:build %s: %s", r.tag, r.why))
		}
	}
	return out
}

func cgoPlaces() string {
	var places []string
	for _, r := range cgoTable {
		places = append(places, r.path)
	}
	return strings.Join(places, ", ")
}

// asksFor says whether a file is left out of every build without the tag.
func asksFor(f *file, tag string) bool {
	e := constraintOf(f)
	return e != nil && !e.Eval(func(t string) bool { return t != tag })
}

// checkTags knows every build tag: a misspelt one hides a file from all builds, and from all tests.
func checkTags(t *tree) (out []breach) {
	for _, f := range t.goFiles() {
		for _, tag := range tagsOf(constraintOf(f)) {
			if _, own := ownTags[tag]; !own && !slices.Contains(givenTags, tag) {
				out = append(out, breach{f.path, 0, fmt.Sprintf("unknown build tag %q; name it in scripts/tidy/table.go", tag)})
			}
		}
	}
	return out
}

func tagsOf(e constraint.Expr) []string {
	switch e := e.(type) {
	case *constraint.TagExpr:
		return []string{e.Tag}
	case *constraint.NotExpr:
		return tagsOf(e.X)
	case *constraint.AndExpr:
		return append(tagsOf(e.X), tagsOf(e.Y)...)
	case *constraint.OrExpr:
		return append(tagsOf(e.X), tagsOf(e.Y)...)
	}
	return nil
}

// impurePackages are random or bring concurrency with them.
var impurePackages = map[string]string{
	"math/rand": "randomness", "math/rand/v2": "randomness", "crypto/rand": "randomness", "hash/maphash": "randomness",
	"os/signal": "goroutine",
}

// impureFunctions read the clock or start something, by package.
var impureFunctions = map[string]map[string]string{
	"time": {"Now": "clock", "Since": "clock", "Until": "clock", "Sleep": "clock", "After": "clock", "AfterFunc": "clock",
		"NewTimer": "clock", "NewTicker": "clock", "Tick": "clock"},
	"context": {"WithTimeout": "clock", "WithTimeoutCause": "clock", "WithDeadline": "clock", "WithDeadlineCause": "clock",
		"AfterFunc": "goroutine"},
}

// checkPure finds clock, randomness and goroutines where there must be none. Tests of these packages may use them.
func checkPure(t *tree) (out []breach) {
	for _, f := range t.goFiles() {
		i := slices.IndexFunc(pureTable, func(r pureRule) bool { return under(f.dir(), r.path) })
		if i < 0 || f.test() {
			continue
		}
		add := func(n ast.Node, kind, what string) {
			out = append(out, t.at(f, n, "%s is %s, and %s has none: %s", what, kind, pureTable[i].path, pureTable[i].why))
		}
		all := imports(f)
		for _, p := range slices.Sorted(maps.Keys(all)) {
			if kind := impurePackages[p]; kind != "" {
				add(all[p], kind, "import of "+p)
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if kind, what := impure(f, n); kind != "" {
				add(n, kind, what)
			}
			return true
		})
	}
	return out
}

// impure says what a node brings in, and how it is called.
func impure(f *file, n ast.Node) (kind, what string) {
	switch n := n.(type) {
	case *ast.GoStmt:
		return "a goroutine", "go"
	case *ast.SelectStmt:
		if len(n.Body.List) > 1 {
			return "randomness", "select among several"
		}
	case *ast.CallExpr:
		if s, ok := n.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Go" {
			return "a goroutine", "a call of Go"
		}
	case *ast.SelectorExpr:
		for p, functions := range impureFunctions {
			if kind := functions[n.Sel.Name]; kind != "" && calledBy(f, n, p) {
				return "the " + kind, p + "." + n.Sel.Name
			}
		}
	}
	return "", ""
}

// calledBy says whether a selector is one of the package p as the file imports it.
func calledBy(f *file, s *ast.SelectorExpr, p string) bool {
	x, ok := s.X.(*ast.Ident)
	return ok && x.Name == importedAs(f, p)
}

// checkFunctions bounds what must be understood at once. A table of cases in a test is data and does not count.
func checkFunctions(t *tree) (out []breach) {
	for _, f := range t.goFiles() {
		if t.generated(f) {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			var what string
			switch n := n.(type) {
			case *ast.FuncDecl:
				what = n.Name.Name
			case *ast.FuncLit:
				what = "a function literal"
			default:
				return true
			}
			lines := t.last(n) - t.line(n) + 1
			if f.test() {
				lines -= t.tableLines(n)
			}
			if lines > maxFunction {
				out = append(out, t.at(f, n, "%s has %d lines, at most %d: give its parts names", what, lines, maxFunction))
			}
			return true
		})
	}
	return out
}

// tableLines counts the lines inside a function's tables: composite literals, without their first and last line.
func (t *tree) tableLines(function ast.Node) (lines int) {
	ast.Inspect(function, func(n ast.Node) bool {
		if _, ok := n.(*ast.CompositeLit); !ok {
			return true
		}
		lines += max(0, t.last(n)-t.line(n)-1)
		return false
	})
	return lines
}

// checkUsage wants errors of a command line to say what to type next, after a semicolon.
func checkUsage(t *tree) (out []breach) {
	for _, f := range t.goFiles() {
		if f.test() {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			text, ok := usageText(n)
			if ok && !strings.Contains(text, ";") {
				out = append(out, t.at(f, n, "a mistake on the command line is told without what to type next: "+
					"REASON; NEXT STEP"))
			}
			return true
		})
	}
	return out
}

// usageText is the text of usagef(TEXT, ...) or usageError{errors.New(TEXT)}.
func usageText(n ast.Node) (string, bool) {
	var call *ast.CallExpr
	switch n := n.(type) {
	case *ast.CallExpr:
		if name, ok := n.Fun.(*ast.Ident); ok && name.Name == "usagef" {
			call = n
		}
	case *ast.CompositeLit:
		if name, ok := n.Type.(*ast.Ident); ok && name.Name == "usageError" && len(n.Elts) == 1 {
			call, _ = n.Elts[0].(*ast.CallExpr)
		}
	}
	if call == nil || len(call.Args) == 0 {
		return "", false
	}
	text, constant := "", true
	ast.Inspect(call.Args[0], func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			text += n.Value
		case *ast.Ident, *ast.CallExpr:
			constant = false
		}
		return true
	})
	return text, constant
}

// checkSleep finds tests that sleep. A file that runs under testing/synctest may: its clock is a fake one.
func checkSleep(t *tree) (out []breach) {
	for _, f := range t.goFiles() {
		if !f.test() || importedAs(f, "testing/synctest") != "" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Sleep" && calledBy(f, s, "time") {
				out = append(out, t.at(f, n,
					"a test that sleeps is slow or wrong; wait for what it waits for, or use testing/synctest"))
			}
			return true
		})
	}
	return out
}

// tagLines gives the lines of a Go file that hold a struct tag: reflect reads none that is broken in two.
func tagLines(fset *token.FileSet, f *ast.File) map[int]bool {
	lines := map[int]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		if field, ok := n.(*ast.Field); ok && field.Tag != nil {
			lines[fset.Position(field.Tag.Pos()).Line] = true
		}
		return true
	})
	return lines
}
