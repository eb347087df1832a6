package tidy

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// matches says whether a pattern of the table covers a package.
func matches(pattern, dir string) bool {
	if stem, ok := strings.CutSuffix(pattern, "/..."); ok {
		return dir == stem || strings.HasPrefix(dir, stem+"/")
	}
	return dir == pattern
}

// ruleOf gives the line of the table for a package, the longest that matches; nil if there is none.
func ruleOf(dir string) *importRule {
	var best *importRule
	for i, r := range importTable {
		if matches(r.path, dir) && (best == nil || specific(r.path) > specific(best.path)) {
			best = &importTable[i]
		}
	}
	return best
}

// specific orders patterns: a longer path is more specific, and a package alone more than a tree of that name.
func specific(pattern string) int {
	if stem, ok := strings.CutSuffix(pattern, "/..."); ok {
		return 2 * len(stem)
	}
	return 2*len(pattern) + 1
}

// standard tells the standard library's packages from others: their first element has no dot.
func standard(p string) bool { return !strings.Contains(strings.SplitN(p, "/", 2)[0], ".") }

// under says whether p is prefix or a package below it.
func under(p, prefix string) bool { return p == prefix || strings.HasPrefix(p, prefix+"/") }

// may says whether a file of the package dir may import p.
func (r *importRule) may(t *tree, f *file, p string) bool {
	if p == t.module || under(p, t.module) {
		dir := strings.TrimPrefix(strings.TrimPrefix(p, t.module), "/")
		allowed := slices.Clone(r.ours)
		if f.test() {
			allowed = append(append(allowed, r.tests...), f.dir())
		}
		return slices.ContainsFunc(allowed, func(pattern string) bool { return matches(pattern, dir) })
	}
	allowed := slices.Clone(r.third)
	if f.test() {
		allowed = slices.Concat(allowed, r.tests, testLibraries)
	}
	return slices.ContainsFunc(allowed, func(prefix string) bool { return under(p, prefix) })
}

func checkImports(t *tree) (out []breach) {
	for _, f := range t.goFiles() {
		r := ruleOf(f.dir())
		if r == nil {
			continue // reported once a package
		}
		all := imports(f)
		for _, p := range slices.Sorted(maps.Keys(all)) {
			if s := all[p]; s.Name != nil && s.Name.Name == "." {
				out = append(out, t.at(f, s, "imports %s into its own names: nobody can tell whose a name is; name the package", p))
			}
			ours := p == t.module || under(p, t.module)
			if p == "C" || standard(p) && !ours || r.may(t, f, p) {
				continue
			}
			out = append(out, t.at(f, all[p], "%s may not import %s: %s; see scripts/tidy/table.go", f.dir(), p, r.why))
		}
	}
	return out
}

func checkCovered(t *tree) (out []breach) {
	for _, dir := range t.packages() {
		if ruleOf(dir) == nil {
			out = append(out, breach{path.Join(dir, "."), 0,
				"no line of importTable in scripts/tidy/table.go covers this package; add one with its reason"})
		}
	}
	return out
}

// checkComments wants a package comment in every build that has the package.
func checkComments(t *tree) (out []breach) {
	builds := t.builds()
	for _, dir := range t.packages() {
		for _, b := range builds {
			if what := commentOf(t, b, dir); what != "" {
				out = append(out, breach{path.Join(dir, "."), 0, fmt.Sprintf("%s in the build %s", what, b.name)})
				break
			}
		}
	}
	return out
}

// commentOf says what is wrong with a package's comment in a build, "" if nothing is.
func commentOf(t *tree, b buildOf, dir string) string {
	name, found := "", false
	for _, f := range t.goFiles() {
		if f.dir() != dir || !b.in(f) {
			continue
		}
		n := f.ast.Name.Name
		if f.test() {
			n = strings.TrimSuffix(n, "_test")
		}
		if !f.test() || name == "" {
			name = n
		}
		if f.ast.Doc == nil {
			continue
		}
		found = true
		if text := f.ast.Doc.Text(); n != "main" && !strings.HasPrefix(text, "Package "+n+" ") {
			return fmt.Sprintf("the package comment in %s must begin with %q", path.Base(f.path), "Package "+n+" ")
		}
	}
	if name == "" || found {
		return ""
	}
	return "package " + name + " has no package comment"
}

func checkNames(t *tree) (out []breach) {
	for _, f := range t.goFiles() {
		for _, name := range []string{strings.TrimSuffix(f.ast.Name.Name, "_test"), path.Base(f.dir())} {
			if slices.Contains(vagueNames, name) {
				out = append(out, t.at(f, f.ast.Name, "%q says nothing of what the package is for; name it after that", name))
				break
			}
		}
	}
	return out
}
