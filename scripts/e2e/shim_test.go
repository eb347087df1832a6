package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestShim links a program of C against the driver shim and has it call a driver that has four functions, and none.
func TestShim(t *testing.T) {
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "gcc"
	}
	dir := t.TempDir()
	shell := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	include := "-I../../cudakern/cuda/include"
	program, driver := filepath.Join(dir, "program"), filepath.Join(dir, "driver.so")
	shell("../../cudakern/cuda/shim/build.sh", dir)
	shell(cc, "-O2", include, "testdata/shim/program.c", "-L"+dir, "-lcuda", "-o", program)
	shell(cc, "-O2", "-w", "-shared", "-fPIC", include, "testdata/shim/driver.c", "-o", driver)

	none := "has launch 0, alloc 0\n"
	for range 2 {
		none += "launch 100 0, clamp 100 0, open 100 7\nmissing 100, address 7\n"
	}
	some := "has launch 1, alloc 0\n"
	for range 2 {
		some += "launch 0 1234567890, clamp 0 15.25, open 0 421705\nmissing 500, address 7\n"
	}
	for _, c := range []struct{ name, driver, want string }{
		{"a driver", driver, "cuInit 0, really 802, path known, reason none\n" + some},
		{"no file", filepath.Join(dir, "nothing.so"), "cuInit 0, really 100, path none, reason known\n" + none},
		{"no library", "/dev/null", "cuInit 0, really 100, path none, reason known\n" + none},
		{"another library", "libm.so.6", "cuInit 0, really 100, path none, reason known\n" + none},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(program)
			cmd.Env = append(cmd.Environ(), "COLONNADE_LIBCUDA="+c.driver)
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != c.want {
				t.Errorf("%v\n%s\nwant\n%s", err, out, c.want)
			}
		})
	}
}
