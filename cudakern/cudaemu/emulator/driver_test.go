package emulator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The tests are cases of a C++ program (testdata/*.cc) that is linked with the emulated libraries: each runs in a
// process of its own, with its own settings. A Go program would meet them only through the shim.
var (
	emulator Emulator
	program  string
)

func TestMain(m *testing.M) {
	code, err := prepare(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

// prepare builds emulator and program, and runs the tests.
func prepare(run func() int) (int, error) {
	var err error
	if emulator, err = Found(); err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "driver")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "driver")
	sources, err := filepath.Glob("testdata/*.cc")
	if err != nil {
		return 0, err
	}
	args := append([]string{"-std=c++20", "-O0", "-Wall", "-Wextra", "-o", program}, sources...)
	args = append(args, "-L"+emulator.Dir, "-l:libcuda.so.1", "-l:libnvidia-ml.so.1", "-lpthread")
	if out, err := exec.Command("g++", args...).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the cases: %w\n%s", err, out)
	}
	return run(), nil
}

// outcome is how a case ended.
type outcome struct {
	stdout, stderr string
	err            error
}

// run runs a case. One that does not end in a minute is killed, and its test fails.
func run(t *testing.T, name string, s Settings, more ...string) outcome {
	t.Helper()
	kernels, err := filepath.Abs("testdata/kernels.ptx")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, kernels, name)
	cmd.Env = append(os.Environ(), emulator.Env(s)...)
	cmd.Env = append(append(cmd.Env, "KERNELS="+kernels), more...)
	cmd.WaitDelay = time.Second
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("%s does not end\n%s%s", name, stdout.String(), stderr.String())
	}
	return outcome{stdout.String(), stderr.String(), err}
}

// good wants a case to end well.
func good(t *testing.T, name string, s Settings, more ...string) outcome {
	t.Helper()
	o := run(t, name, s, more...)
	if o.err != nil || !strings.HasSuffix(o.stdout, "done\n") {
		t.Fatalf("%s: %v\n%s%s", name, o.err, o.stdout, o.stderr)
	}
	return o
}

// has wants a report that holds all of the words.
func has(t *testing.T, o outcome, words ...string) {
	t.Helper()
	for _, w := range words {
		either := func(w string) bool { return strings.Contains(o.stderr, w) }
		if !slices.ContainsFunc(strings.Split(w, " | "), either) {
			t.Errorf("the report lacks %q:\n%s", w, o.stderr)
		}
	}
}

// TestOrder: the same results in whatever order streams, blocks and warps run, and no complaint of the checks.
func TestOrder(t *testing.T) {
	for _, name := range []string{"streamIsQueue", "eventsOrderStreams", "waitTakesTheRecordOfItsTime", "defaultStream",
		"hostFunctions", "destroyedStreamFinishes", "timing", "captured", "copies"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			good(t, name, Settings{Check: "off"})
			for seed := range uint64(4) {
				o := good(t, name, Settings{Check: "full", Seed: seed})
				if name != "copies" && o.stderr != "" {
					t.Errorf("seed %d: a complaint without a cause:\n%s", seed, o.stderr)
				}
			}
		})
	}
}

func TestPeers(t *testing.T) {
	good(t, "peers", Settings{})
	good(t, "noPeers", Settings{NoPeer: true})
}

// races are the cases that full checks must catch, with words of the report: both sides are named.
var races = map[string][]string{
	"kernelKernelWrong":         {"fill", "move", "on stream", "no event orders"},
	"writersWrong":              {"launch of fill on stream"},
	"readThenWriteWrong":        {"move", "fill", "on stream"},
	"eventTooEarlyWrong":        {"fill", "move", "on stream"},
	"eventOfOtherStreamWrong":   {"fill", "move", "on stream"},
	"kernelCopyWrong":           {"fill", "cuMemcpyDtoHAsync", "on stream"},
	"memsetKernelWrong":         {"cuMemsetD32Async", "increase", "on stream"},
	"plainMemsetWrong":          {"cuMemsetD32", "increase", "on stream"},
	"pageableCopyWrong":         {"cuMemcpyHtoD", "increase", "on stream"},
	"sourceReusedWrong":         {"the host writes pinned memory", "cuMemcpyHtoDAsync on stream"},
	"smallSourceReusedWrong":    {"cuMemcpyHtoDAsync on stream", "the host changed"},
	"resultReadEarlyWrong":      {"the host reads pinned memory", "cuMemcpyDtoHAsync on stream"},
	"smallResultReadEarlyWrong": {"the host reads pinned memory", "cuMemcpyDtoHAsync on stream"},
	"resultOtherEventWrong":     {"the host reads pinned memory", "cuMemcpyDtoHAsync on stream"},
	"bufferSharedWrong":         {"cuMemcpyDtoHAsync on stream", "cuMemcpyHtoDAsync on stream"},
	"hostFunctionWrong":         {"the host", "cuMemcpyDtoHAsync on stream"},
	"freedInUseWrong":           {"cuMemFree frees", "launch of fill on stream"},
	"pinnedFreedInUseWrong":     {"cuMemFreeHost frees", "cuMemcpyHtoDAsync on stream"},
	"useAfterFreeWrong":         {"fill", "freed"},
	// Where the other stream is so much faster that the memory is gone before the kernel begins, its access is the fault.
	"freeAsyncWrong":           {"cuMemFreeAsync on stream | that was freed", "launch of fill on stream | kernel fill"},
	"useAfterFreeAsyncWrong":   {"launch of fill on stream", "cuMemFreeAsync on stream"},
	"allocAsyncElsewhereWrong": {"launch of fill on stream", "cuMemAllocAsync on stream"},
	"peerCopyWrong":            {"fill", "cuMemcpyPeerAsync", "on stream"},
	"unwrittenCopyWrong":       {"cuMemcpyDtoHAsync on stream", "nothing has written"},
}

// rights are beside them what would have been right.
var rights = []string{"kernelKernelRight", "readersRight", "disjointRight", "transitiveRight", "hostWaitRight",
	"kernelCopyRight", "plainMemsetRight", "pageableCopyRight", "sourceReusedRight", "smallResultAmongOthers",
	"resultReadRight", "neighbourRight",
	"bufferSharedRight", "hostFunctionRight", "freedInUseRight", "freeAsyncRight", "peerCopyRight", "mappedRight"}

func TestMisuseIsFound(t *testing.T) {
	for name, words := range races {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(3) {
				has(t, good(t, name, Settings{Check: "full", Seed: seed}), words...)
			}
		})
	}
}

func TestRightUseIsSilent(t *testing.T) {
	for _, name := range rights {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(3) {
				if o := good(t, name, Settings{Check: "full", Seed: seed}); o.stderr != "" {
					t.Errorf("seed %d: a complaint without a cause:\n%s", seed, o.stderr)
				}
			}
		})
	}
}

func TestMemory(t *testing.T) {
	good(t, "memoryLimit", Settings{Memory: 1 << 20})
	good(t, "kindsOfMemory", Settings{})
	good(t, "kindsOfMemory", Settings{Check: "full"})
	o := run(t, "hostReadsDeviceMemory", Settings{})
	var exit *exec.ExitError
	if !errors.As(o.err, &exit) || !strings.Contains(exit.String(), "segmentation fault") {
		t.Errorf("a host that dereferences a device address ends with %v", o.err)
	}
	has(t, o, "the host reads device memory", "allocation of 64 bytes")
}

func TestContextsAndModules(t *testing.T) {
	good(t, "contexts", Settings{})
	good(t, "modules", Settings{})
	good(t, "threeDevices", Settings{Devices: 3, Threads: 2})
	good(t, "launchLimits", Settings{})
	good(t, "notEmulated", Settings{})
	good(t, "errorNames", Settings{})
	has(t, good(t, "mixedCapabilities", Settings{Capabilities: "80,70"}), "sm_80", "sm_70")
	has(t, good(t, "oldDriver", Settings{Driver: 10020}), ".version 7.0", "10020")
}

func TestErrors(t *testing.T) {
	o := good(t, "sticky", Settings{})
	has(t, o, "fill", "device 0")
	if n := strings.Count(o.stderr, "\n"); n != 1 {
		t.Errorf("one fault gives %d lines:\n%s", n, o.stderr)
	}
	has(t, good(t, "misaligned", Settings{}), "fill")
	for seed := range uint64(3) {
		good(t, "behindAFault", Settings{Seed: seed})
	}
	good(t, "injected", Settings{Fail: "cuMemAlloc:3:2,cuStreamSynchronize:2+:999"})
	has(t, good(t, "lostAtLaunch", Settings{Lost: "1:3"}), "device 1", "Xid 79")
	good(t, "lostByControl", Settings{Control: filepath.Join(t.TempDir(), "control")})
	good(t, "visible", Settings{}, "CUDA_VISIBLE_DEVICES=1")
	good(t, "visible", Settings{}, "CUDA_VISIBLE_DEVICES=1,7,0")
	good(t, "visible", Settings{}, "CUDA_VISIBLE_DEVICES=GPU-e1")
	good(t, "noDevice", Settings{}, "CUDAEMU_DEVICES=0")
	good(t, "noDevice", Settings{}, "CUDA_VISIBLE_DEVICES=")
	has(t, good(t, "senseless", Settings{Check: "everything"}), "CUDAEMU_CHECK=everything", "off, bounds or full")
	has(t, good(t, "senseless", Settings{Fail: "cuMemAlloc"}), "CUDAEMU_FAIL=cuMemAlloc")
}

func TestTwoProcesses(t *testing.T) {
	for seed := range uint64(3) {
		good(t, "ipc", Settings{Check: "full", Seed: seed})
	}
	good(t, "ipcStale", Settings{})
	has(t, good(t, "ipcPeerDies", Settings{}), "cuEventSynchronize", "is gone")
}

func TestHealth(t *testing.T) {
	good(t, "health", Settings{Control: filepath.Join(t.TempDir(), "control")})
	good(t, "xids", Settings{Control: filepath.Join(t.TempDir(), "control")})
}

func TestCounts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "counts.json")
	good(t, "counts", Settings{Counts: path})
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var counts map[string]map[string]struct{ Launches, Blocks, Threads int }
	if err := json.Unmarshal(b, &counts); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	if len(counts) != 1 || len(counts["increase"]) != 1 {
		t.Fatalf("three launches of one kernel in one shape are counted as\n%s", b)
	}
	for shape, c := range counts["increase"] {
		if c.Launches != 3 || c.Blocks != 30 || c.Threads != 1920 {
			t.Errorf("%s: %+v, want 3 launches of 10 blocks of 64 threads", shape, c)
		}
	}
}

// TestBuildAgain: a second build finds nothing to do.
func TestBuildAgain(t *testing.T) {
	if os.Getenv("COLONNADE_LIBCUDA") != "" {
		t.Skip("COLONNADE_LIBCUDA says which emulator to test: it is not built here")
	}
	before, err := os.Stat(filepath.Join(emulator.Dir, "objects", "stream.o"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Build(emulator.Dir); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(filepath.Join(emulator.Dir, "objects", "stream.o"))
	if err != nil {
		t.Fatal(err)
	}
	if after.ModTime() != before.ModTime() {
		t.Error("a build without a change compiled stream.cc again")
	}
}
