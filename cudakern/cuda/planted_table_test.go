//go:build cuda && cgo

package cuda

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// caught collects which check found which mistake. At the end of its test it is a table, which -v shows;
// kernels/PLANTED.md keeps the one of all lists.
type caught struct {
	mu   sync.Mutex
	rows []string
}

// catches makes the table of a list, to be printed behind the last of its mistakes.
func catches(t *testing.T) *caught {
	t.Helper()
	c := &caught{}
	t.Cleanup(func() {
		if slices.Sort(c.rows); len(c.rows) > 0 {
			t.Logf("what found the %d mistakes planted:\n| planted in | mistake | found by | as |\n|---|---|---|---|\n%s",
				len(c.rows), strings.Join(c.rows, "\n"))
		}
	})
	return c
}

// add notes what found a mistake, and says whether that is a finding at all.
func (c *caught) add(t *testing.T, b bug, how string) {
	t.Helper()
	if how == "" {
		t.Errorf("%s: %q instead of %q goes unseen", b.file, b.bad, b.is)
		return
	}
	check := checkOf(how)
	if check == "" {
		t.Errorf("%s, %s: no check found it, the program ended otherwise: %s", b.file, b.what, how)
		return
	}
	how = strings.Join(strings.Fields(how), " ")
	if i := strings.Index(how, " [stream"); i > 0 { // numbers of the run
		how = how[:i]
	}
	row := fmt.Sprintf("| %s | %s | %s | %s |", b.file, b.what, check, strings.ReplaceAll(how, "|", "\\|"))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rows = append(c.rows, row)
	t.Log(row)
}

// checks are the kinds of checks, by a word of what they say; the first that fits counts.
var checks = []struct{ word, kind string }{
	{"the kernels have no", ""}, // a kernel that is not there is no mistake of ours
	{"race in shared memory", "emulator: shared-memory race"},
	{"race in global memory", "emulator: race between blocks"},
	{"race between streams", "emulator: race between streams"},
	{"shared memory that nothing has written", "emulator: uninitialised shared memory"},
	{"that nothing has written", "emulator: uninitialised memory"},
	{"which is not a multiple of", "emulator: alignment"},
	{"barrier", "emulator: barrier divergence"},
	{"the block has", "emulator: bounds of shared memory"},
	{" freed it", "emulator: use after free"},
	{"freed", "emulator: lifetime"},
	{"has not waited for it", "emulator: host memory in use by a copy"},
	{"that the host changed after", "emulator: host memory in use by a copy"},
	{"nothing orders the two", "emulator: order of allocation and use"},
	{"allocation", "emulator: bounds"},
	{"no allocation", "emulator: bounds"},
	{"cudaemu", "emulator: another rule of the driver"},
	{"something has written", "device: guard words"},
	{"panic: cuda:", "device: guard words"},
	{"error: ", "conformance suite against ref"},
	{"_test.go:", "a test of the package"},
}

// checkOf names the check that said a line, "" if none did.
func checkOf(how string) string {
	for _, c := range checks {
		if strings.Contains(how, c.word) {
			return c.kind
		}
	}
	return ""
}

// sound wants what hunts the mistakes of a list to find nothing where nothing is planted. It takes as long as a few
// mistakes, so it is for when all are.
func sound(t *testing.T, list []bug, without string, exact bool) {
	t.Helper()
	if os.Getenv(plantedVariable) == "" {
		return
	}
	t.Run("nothing", func(t *testing.T) {
		none := bug{what: "nothing", file: list[0].file}
		var ops, tests []string
		for _, b := range list {
			ops, tests = append(ops, b.ops), append(tests, b.test)
		}
		none.ops = strings.Join(distinct(ops), ",")
		ptx := none.compile(t, without)
		hunt := none.hunt
		if exact {
			hunt = none.huntExactly
		}
		if how := hunt(t, ptx); how != "" {
			t.Fatalf("finds something where nothing is planted: %s", how)
		}
		if tests = distinct(tests); len(tests) > 0 {
			none.test = strings.Join(tests, "$|^")
			if how := none.hunt(t, ptx); how != "" {
				t.Fatalf("finds something where nothing is planted: %s", how)
			}
		}
	})
}

// distinct is a list of lists between commas without repetitions and empty ones.
func distinct(lists []string) []string {
	var out []string
	seen := map[string]bool{"": true}
	for _, l := range lists {
		for _, s := range strings.Split(l, ",") {
			if !seen[s] {
				seen[s] = true
				out = append(out, s)
			}
		}
	}
	return out
}

// crashed says whether a program ended in a way that no check of ours ends it: a signal in C code, or the Go runtime's.
func crashed(err error, text string) bool {
	exit, ok := err.(*exec.ExitError)
	return !ok || exit.ExitCode() < 0 || strings.Contains(text, "signal arrived during cgo execution") ||
		strings.Contains(text, "fatal error: ")
}
