package tidy

import (
	"go/ast"
	"slices"
)

// What of the driver's binding must not be used, with what is wrong with it. cudakern/cuda/DESIGN.md has the evidence.
var (
	binding         = "gorgonia.org/cu"
	bindingName     = "cu"
	bindingOutcasts = map[string]string{
		"Ctx":                       "its methods lose errors and block for ever after Close",
		"NewContext":                "it leaves the context current on the caller's thread too, and Ctx loses errors",
		"NewManuallyManagedContext": "it makes a Ctx, whose methods lose errors",
		"BatchedContext":            "its queue hangs",
		"NewBatchedContext":         "its queue hangs",
		"Context":                   "it is what Ctx and BatchedContext implement; calls go to a device's own thread instead",
	}
	emulator = "cudakern/cudaemu"
)

// checkDriver keeps to the part of the driver's binding that works, and the emulated driver out of the product.
func checkDriver(t *tree) (out []breach) {
	for _, f := range t.goFiles() {
		all := imports(f)
		for p, s := range all {
			if p != binding && under(p, binding) {
				out = append(out, t.at(f, s, "imports %s: it links libraries that are not there, so that the program would not "+
					"start without them", p))
			}
			if under(p, t.module+"/"+emulator) && !f.test() && !under(f.dir(), emulator) {
				out = append(out, t.at(f, s, "imports %s, which is for tests: the product drives GPUs, not imitations", p))
			}
		}
		s := all[binding]
		if s == nil {
			continue
		}
		name := bindingName
		if s.Name != nil {
			name = s.Name.Name
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			selector, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := selector.X.(*ast.Ident)
			if why := bindingOutcasts[selector.Sel.Name]; ok && why != "" && x.Name == name {
				out = append(out, t.at(f, n, "uses %s.%s: %s; use the package's functions on the device's thread", binding,
					selector.Sel.Name, why))
			}
			return true
		})
	}
	slices.SortFunc(out, func(a, b breach) int { return a.line - b.line })
	return out
}
