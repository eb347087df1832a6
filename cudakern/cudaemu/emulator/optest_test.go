package emulator

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestInstructions runs one test of each instruction and type against an expectation of its own, and of each check
// against a planted mistake, in both builds of the handlers.
func TestInstructions(t *testing.T) {
	e, err := Build("")
	if err != nil {
		t.Fatal(err)
	}
	source, err := sources()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(source, "optest", "build.sh"), e.Dir).CombinedOutput(); err != nil {
		t.Fatalf("build optest: %v\n%s", err, out)
	}
	for _, simd := range []string{"", "portable"} {
		t.Run("simd="+simd, func(t *testing.T) {
			run := exec.Command(filepath.Join(e.Dir, "optest"))
			run.Env = append(os.Environ(), "CUDAEMU_SIMD="+simd)
			out, err := run.CombinedOutput()
			if err != nil {
				t.Fatalf("optest: %v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}
