//go:build cuda && cgo

package cuda

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// caseVariable names the case that a process of its own runs: see isolated.
const caseVariable = "COLONNADE_CUDA_TEST_CASE"

// TestMain runs the tests on the emulated driver. The driver is looked for while the program starts, so one that was
// not told of any is started anew with the one that scripts/setup.sh builds.
func TestMain(m *testing.M) {
	if os.Getenv("COLONNADE_LIBCUDA") == "" {
		dir, err := filepath.Abs("../../.tools/cudaemu")
		if err == nil {
			_, err = os.Stat(filepath.Join(dir, "libcuda.so.1"))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "the tests of cudakern/cuda want the emulated driver: "+
				"run `. scripts/setup.sh; build_emulator` first, or set COLONNADE_LIBCUDA")
			os.Exit(1)
		}
		env := append(os.Environ(), "COLONNADE_LIBCUDA="+filepath.Join(dir, "libcuda.so.1"),
			"COLONNADE_LIBNVML="+filepath.Join(dir, "libnvidia-ml.so.1"))
		self, err := os.Executable()
		if err == nil {
			err = syscall.Exec(self, os.Args, env)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if name := os.Getenv(caseVariable); name != "" {
		if err := cases[name](); err != nil {
			fmt.Println("error:", err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// cases are what isolated runs.
var cases = map[string]func() error{}

// isolated runs a case in a process of its own, with settings of the driver's that are read once, and returns its
// output and whether it ended without an error.
func isolated(t testing.TB, name string, env ...string) (out string, ok bool) {
	t.Helper()
	if cases[name] == nil {
		t.Fatalf("no case %s", name)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(append(os.Environ(), env...), caseVariable+"="+name)
	b, err := cmd.CombinedOutput()
	if exit, bad := err.(*exec.ExitError); err != nil && (!bad || exit.ExitCode() != 3) {
		t.Fatalf("case %s with %v: %v\n%s", name, env, err, b)
	}
	return strings.TrimSpace(string(b)), err == nil
}
