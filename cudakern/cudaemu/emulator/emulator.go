// Package emulator builds the emulated CUDA driver of cudakern/cudaemu and says with which environment a program finds
// it. It is for tests and scripts; the product never imports it.
package emulator

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
)

// Emulator is a directory that holds a built libcuda.so.1 and libnvidia-ml.so.1.
type Emulator struct{ Dir string }

// Build brings the emulator in dir up to date; "" is .tools/cudaemu of the repository, which scripts/setup.sh fills
// too. Builds of several processes in one directory wait for each other, and one that finds all done takes moments.
func Build(dir string) (Emulator, error) {
	source, err := sources()
	if err != nil {
		return Emulator{}, err
	}
	if dir == "" {
		dir = filepath.Join(source, "..", "..", ".tools", "cudaemu")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return Emulator{}, fmt.Errorf("build the emulated CUDA driver: %w", err)
	}
	out, err := exec.Command(filepath.Join(source, "build.sh"), dir).CombinedOutput()
	if err != nil {
		return Emulator{}, fmt.Errorf("build the emulated CUDA driver in %s: %w; g++ says:\n%s", dir, err, out)
	}
	return Emulator{dir}, nil
}

// Found is the emulator that COLONNADE_LIBCUDA names, as in a script that has built one, else that of Build("").
func Found() (Emulator, error) {
	library := os.Getenv("COLONNADE_LIBCUDA")
	if library == "" {
		return Build("")
	}
	dir, err := filepath.Abs(filepath.Dir(library))
	if err != nil {
		return Emulator{}, fmt.Errorf("COLONNADE_LIBCUDA=%s: %w", library, err)
	}
	e := Emulator{dir}
	for _, path := range []string{e.Library(), e.Management()} {
		if _, err := os.Stat(path); err != nil {
			return Emulator{}, fmt.Errorf("COLONNADE_LIBCUDA=%s is no emulated driver: %w", library, err)
		}
	}
	return e, nil
}

// sources is where the emulator's C++ lies: beside this file.
func sources() (string, error) {
	_, here, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(here) {
		return "", errors.New("the sources of the emulated CUDA driver are not at hand: build without -trimpath")
	}
	return filepath.Dir(filepath.Dir(here)), nil
}

// Library is the path of the emulated libcuda.so.1, Management of libnvidia-ml.so.1.
func (e Emulator) Library() string    { return filepath.Join(e.Dir, "libcuda.so.1") }
func (e Emulator) Management() string { return filepath.Join(e.Dir, "libnvidia-ml.so.1") }

// Settings are what the emulator reads from its environment; a zero value leaves the emulator's own default.
// cudakern/cudaemu/DESIGN.md describes each.
type Settings struct {
	Devices      int
	Memory       int64  // bytes a device
	Check        string // off, bounds (the default) or full
	Seed         uint64 // shuffles blocks, warps and streams where it is not 0
	Fail         string // "cuMemAlloc:3:2,...": the third call returns 2; 3+ for all from the third on
	Lost         string // "1:20": board 1 is lost at its 20th launch
	Capabilities string // "80" or "80,70"
	Driver       int    // 12000
	Counts       string // path of the counts of instructions
	Control      string // path of the control file
	NoPeer       bool   // devices cannot access each other's memory
	Threads      int    // host threads a kernel
}

// Env is the environment in which a program meets the emulator: what is to be added to os.Environ().
func (e Emulator) Env(s Settings) []string {
	env := []string{
		"COLONNADE_LIBCUDA=" + e.Library(), "COLONNADE_LIBNVML=" + e.Management(),
		"LD_LIBRARY_PATH=" + e.Dir + withColon(os.Getenv("LD_LIBRARY_PATH")),
	}
	add := func(name, value string) {
		if value != "" && value != "0" {
			env = append(env, "CUDAEMU_"+name+"="+value)
		}
	}
	add("DEVICES", strconv.Itoa(s.Devices))
	add("MEMORY", strconv.FormatInt(s.Memory, 10))
	add("CHECK", s.Check)
	add("SEED", strconv.FormatUint(s.Seed, 10))
	add("FAIL", s.Fail)
	add("LOST", s.Lost)
	add("CC", s.Capabilities)
	add("DRIVER", strconv.Itoa(s.Driver))
	add("COUNTS", s.Counts)
	add("CONTROL", s.Control)
	add("THREADS", strconv.Itoa(s.Threads))
	if s.NoPeer {
		env = append(env, "CUDAEMU_PEER=0")
	}
	return env
}

func withColon(path string) string {
	if path == "" {
		return ""
	}
	return ":" + path
}
