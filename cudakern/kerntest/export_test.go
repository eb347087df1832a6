package kerntest

// For tests that plant faults: parts of RunAll that report to a testing.TB.
var (
	Gradients = gradients
	Together  = together
	Ownership = ownership
	Refusals  = refusals
	NoNumbers = noNumbers
	Watched   = watched

	NewSeparate = newSeparate
)
