package tidy

// A rule is one thing the tree must keep to.
type rule struct {
	name  string
	check func(*tree) []breach
}

var rules = []rule{
	{"imports", checkImports},
	{"covered", checkCovered},
	{"comments", checkComments},
	{"names", checkNames},
	{"cgo", checkCgo},
	{"tags", checkTags},
	{"driver", checkDriver},
	{"pure", checkPure},
	{"functions", checkFunctions},
	{"columns", checkColumns},
	{"sleep", checkSleep},
	{"usage", checkUsage},
	{"merges", checkMerges},
	{"generated", checkGenerated},
	{"hosts", checkHosts},
}
