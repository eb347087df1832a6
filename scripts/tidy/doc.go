// Package tidy is the architecture test: what the tree must look like whatever it computes. Who may import whom and
// which third parties stand in table.go with a reason for each line; the other rules (what must stay pure, where C++
// may be, sizes, names, generated files) are one function each. Every rule reads every file whatever its build tags
// are, so a breach cannot hide behind one.
//
// A new package needs a line in the table before the suite is green: that is the moment to say why it exists and what
// it may know of.
package tidy
