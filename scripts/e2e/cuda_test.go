package e2e

import (
	"debug/elf"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestOneProgram: the worker that drives GPUs is the one that runs where there is no driver.
func TestOneProgram(t *testing.T) {
	f, err := elf.Open(workerProgram)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !hasSymbol(t, f, "colonnadeDriverInit") {
		t.Skip("built without the tag cuda; scripts/setup.sh's use_cuda sets what the build needs")
	}
	// Linked against nothing of NVIDIA's: go-nvml has the linker leave anything undefined, so that a function the shim
	// lacks would otherwise be found out by a crash at run time.
	symbols, err := f.ImportedSymbols()
	if err != nil {
		t.Fatal(err)
	}
	driver := regexp.MustCompile(`^cu[A-Z]`)
	for _, s := range symbols {
		if driver.MatchString(s.Name) {
			t.Errorf("%s is left undefined; cudakern/cuda/include/cuda.h has to declare it for the shim", s.Name)
		}
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range libraries {
		if strings.HasPrefix(l, "libcuda") || strings.HasPrefix(l, "libnvidia") {
			t.Errorf("needs %s to start", l)
		}
	}
	// Symbols of go-nvml are bound when they are called; a linker that binds all at once would end the program here.
	for _, e := range f.Progs {
		if e.Type == elf.PT_DYNAMIC {
			flags, _ := f.DynValue(elf.DT_FLAGS)
			flags1, _ := f.DynValue(elf.DT_FLAGS_1)
			if len(flags) > 0 && elf.DynFlag(flags[0])&elf.DF_BIND_NOW != 0 ||
				len(flags1) > 0 && elf.DynFlag1(flags1[0])&elf.DF_1_NOW != 0 {
				t.Error("linked with -z now: without NVIDIA's management library it does not start")
			}
		}
	}
}

func hasSymbol(t *testing.T, f *elf.File, name string) bool {
	t.Helper()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if s.Name == name {
			return true
		}
	}
	return false
}

// TestWithoutDriver: where there is no driver, or a broken one, every command runs, and the one that asks for a GPU
// says what is missing in a line.
func TestWithoutDriver(t *testing.T) {
	for _, driver := range []string{"/nonexistent/libcuda.so.1", "/dev/null"} {
		cmd := exec.Command(workerProgram, "--help")
		cmd.Env = append(cmd.Environ(), "COLONNADE_LIBCUDA="+driver)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("worker --help with the driver %s: %v\n%s", driver, err, out)
		}
		cmd = exec.Command(workerProgram, "verify", "--device", "cuda:0")
		cmd.Env = append(cmd.Environ(), "COLONNADE_LIBCUDA="+driver)
		out, err := cmd.CombinedOutput()
		text := strings.TrimSpace(string(out))
		if err == nil || strings.Contains(text, "\n") || !strings.HasPrefix(text, "worker: ") {
			t.Errorf("worker verify --device cuda:0 with the driver %s: %v, want a line that says why not:\n%s", driver, err,
				out)
		}
	}
}
