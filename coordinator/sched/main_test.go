package sched

import (
	"flag"
	"os"
	"testing"
)

// TestMain raises the number of worlds to draw, unless it is asked for: one takes a tenth of a millisecond.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		if err := flag.Set("rapid.checks", "3000"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
