package tidy

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A file is one file of the tree.
type file struct {
	path string // slash-separated, from the root
	text string
	ast  *ast.File // of Go files
}

// dir is the file's directory from the root; the root itself is the empty string.
func (f *file) dir() string { return strings.TrimPrefix(path.Dir(f.path), ".") }

func (f *file) test() bool { return strings.HasSuffix(f.path, "_test.go") }

// A tree is what the rules look at: every file that belongs to the repository, Go files parsed.
type tree struct {
	module string
	fset   *token.FileSet
	files  []*file
	marks  []string // patterns .gitattributes calls generated
}

// A breach is one place where the tree breaks a rule.
type breach struct {
	path string
	line int // 0: the file or package as a whole
	what string
}

func (b breach) String() string {
	if b.line == 0 {
		return b.path + ": " + b.what
	}
	return fmt.Sprintf("%s:%d: %s", b.path, b.line, b.what)
}

// newTree parses files, given as path and text; go.mod must be among them.
func newTree(files map[string]string) (*tree, error) {
	t := &tree{fset: token.NewFileSet()}
	for _, p := range slices.Sorted(maps.Keys(files)) {
		f := &file{path: p, text: files[p]}
		if strings.HasSuffix(p, ".go") && !inTestdata(p) {
			parsed, err := parser.ParseFile(t.fset, p, f.text, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			f.ast = parsed
		}
		t.files = append(t.files, f)
	}
	m := regexp.MustCompile(`(?m)^module (\S+)$`).FindStringSubmatch(files["go.mod"])
	if m == nil {
		return nil, fmt.Errorf("no go.mod that names a module")
	}
	t.module = m[1]
	for l := range strings.SplitSeq(files[".gitattributes"], "\n") {
		if words := strings.Fields(l); slices.Contains(words, "linguist-generated=true") {
			t.marks = append(t.marks, words[0])
		}
	}
	return t, nil
}

// readTree reads the repository at root: what git tracks or would track, or, in a copy without git, all there is.
func readTree(root string) (*tree, error) {
	paths, err := listed(root)
	if err != nil {
		if paths, err = walked(root); err != nil {
			return nil, err
		}
	}
	files := map[string]string{}
	for _, p := range paths {
		info, err := os.Lstat(filepath.Join(root, p))
		if err != nil || !info.Mode().IsRegular() {
			continue // deleted but not committed yet, or a link
		}
		b, err := os.ReadFile(filepath.Join(root, p))
		if err != nil {
			return nil, err
		}
		files[p] = string(b)
	}
	return newTree(files)
}

func listed(root string) ([]string, error) {
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimRight(string(out), "\x00"), "\x00"), nil
}

func walked(root string) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", ".tools", ".data", "bin", "colonnade-data",
			"coordinator/web/app/node_modules"}, rel) {
			return filepath.SkipDir
		}
		if d.Type().IsRegular() {
			paths = append(paths, filepath.ToSlash(rel))
		}
		return nil
	})
	return paths, err
}

func inTestdata(p string) bool {
	return strings.HasPrefix(p, "testdata/") || strings.Contains(p, "/testdata/")
}

// goFiles gives the Go files, generated ones too.
func (t *tree) goFiles() []*file {
	return slices.DeleteFunc(slices.Clone(t.files), func(f *file) bool { return f.ast == nil })
}

// packages gives the directories that hold Go files, in order.
func (t *tree) packages() []string {
	var dirs []string
	for _, f := range t.goFiles() {
		dirs = append(dirs, f.dir())
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// generated says whether .gitattributes calls a file generated. A pattern without a slash is for every directory.
func (t *tree) generated(f *file) bool {
	return slices.ContainsFunc(t.marks, func(pattern string) bool {
		name := f.path
		if !strings.Contains(pattern, "/") {
			name = path.Base(name)
		}
		ok, _ := path.Match(strings.TrimPrefix(pattern, "/"), name)
		return ok
	})
}

func (t *tree) line(n ast.Node) int { return t.fset.Position(n.Pos()).Line }

func (t *tree) last(n ast.Node) int { return t.fset.Position(n.End()).Line }

// at makes a breach of a node.
func (t *tree) at(f *file, n ast.Node, format string, args ...any) breach {
	return breach{f.path, t.line(n), fmt.Sprintf(format, args...)}
}

// imports gives the paths a file imports, with their places.
func imports(f *file) map[string]*ast.ImportSpec {
	all := map[string]*ast.ImportSpec{}
	for _, s := range f.ast.Imports {
		if p, err := strconv.Unquote(s.Path.Value); err == nil {
			all[p] = s
		}
	}
	return all
}

// importedAs gives the name a file calls a standard package by, or "" if it does not import it.
func importedAs(f *file, p string) string {
	s := imports(f)[p]
	switch {
	case s == nil:
		return ""
	case s.Name != nil:
		return s.Name.Name
	}
	if name := path.Base(p); name != "v2" {
		return name
	}
	return path.Base(path.Dir(p))
}

// A buildOf is one way to build the tree.
type buildOf struct {
	name string
	ctx  build.Context
}

// builds gives the ways the tree is built: plain, without cgo, and with each tag of our own.
func (t *tree) builds() []buildOf {
	texts := map[string]string{}
	for _, f := range t.files {
		texts[f.path] = f.text
	}
	plain := build.Context{GOOS: "linux", GOARCH: "amd64", Compiler: "gc", CgoEnabled: true,
		ReleaseTags: build.Default.ReleaseTags,
		JoinPath:    path.Join,
		OpenFile: func(p string) (io.ReadCloser, error) {
			text, ok := texts[p]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return io.NopCloser(strings.NewReader(text)), nil
		}}
	without := plain
	without.CgoEnabled = false
	all := []buildOf{{"plain", plain}, {"without cgo", without}}
	for _, tag := range slices.Sorted(maps.Keys(ownTags)) {
		with := plain
		with.BuildTags = []string{tag}
		all = append(all, buildOf{"with the tag " + tag, with})
	}
	return all
}

// in says whether a build has a file.
func (b buildOf) in(f *file) bool {
	ok, err := b.ctx.MatchFile(f.dir(), path.Base(f.path))
	return ok && err == nil
}

// constraintOf gives the file's go:build expression, nil if it has none.
func constraintOf(f *file) constraint.Expr {
	for _, group := range f.ast.Comments {
		for _, c := range group.List {
			if c.Pos() < f.ast.Package && constraint.IsGoBuild(c.Text) {
				if e, err := constraint.Parse(c.Text); err == nil {
					return e
				}
			}
		}
	}
	return nil
}
