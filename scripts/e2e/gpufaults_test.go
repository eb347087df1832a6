package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"colonnade/cudakern/cudaemu/emulator"
)

// TestGPULost: a GPU that dies on the way takes its worker with it, in one line that says how, and the job goes on
// elsewhere to the digest of a run that nothing disturbed.
func TestGPULost(t *testing.T) {
	pack := smallImages(t, 64, 12, 8)
	want := ""
	for _, c := range []struct {
		what    string
		env     string // of the second worker's driver
		control string // what happens to its board after step 8
		says    []string
		long    bool // for scripts/test --long
	}{
		// Of these two an Xid may be seen before the driver's error, or after it.
		{what: "it does not answer any more", control: "1 lost 1", long: true},
		{what: "an uncorrectable error of memory", env: "CUDAEMU_FAIL=cuStreamSynchronize:60:214", long: true},
		{what: "Xid: fallen off the bus", control: "1 xid 79", says: []string{"with Xid 79", "reset it"}},
		{what: "an error that sticks", env: "CUDAEMU_FAIL=cuLaunchKernel:900:700",
			says: []string{"cuLaunchKernel", "ILLEGAL_ADDRESS (700)"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			if c.long && testing.Short() {
				t.Skip("scripts/test --long has it")
			}
			control := filepath.Join(t.TempDir(), "control")
			write(t, control, nil)
			emulated(t, emulator.Settings{Check: "off", Control: control})
			job := gpuJob(t, "tiny", pack, 2, 16, 24)
			if want == "" {
				whole := newCluster(t)
				whole.on(job, "cuda:0")
				want, _ = whole.finish()
			}
			two := newCluster(t)
			two.devices = []string{"cuda:0", "cuda:1"}
			two.startWorker(1)
			if name, value, ok := strings.Cut(c.env, "="); ok {
				t.Setenv(name, value)
			}
			two.startWorker(2)
			two.connected(2)
			must(t, coordinatorProgram, "job", "submit", job, "--coordinator", two.address)
			if c.control != "" {
				two.watch("blobs", past(8))
				happen(t, control, c.control)
			}
			p := two.workers[2]
			<-p.done
			lines := strings.Split(strings.TrimSpace(string(read(t, p.log))), "\n")
			last := lines[len(lines)-1]
			for _, word := range append(c.says, "worker: the device is lost", "cuda:1", "start this worker again") {
				if !strings.Contains(last, word) {
					t.Errorf("the worker does not say %q: %s", word, last)
				}
			}
			if code := p.cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("the worker ends with status %d, want 1", code)
			}
			if got, _ := two.finish(); got != want {
				t.Errorf("digest %s, undisturbed it is %s", got, want)
			}
		})
	}
}

// happen adds a line to the control file of the emulated boards.
func happen(t *testing.T, control, line string) {
	t.Helper()
	f, err := os.OpenFile(control, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = fmt.Fprintln(f, line)
	}
	if err != nil || f.Close() != nil {
		t.Fatal(err)
	}
}

// TestXidThatIsNone: an error that a reset need not cure is logged, and training goes on.
func TestXidThatIsNone(t *testing.T) {
	control := filepath.Join(t.TempDir(), "control")
	write(t, control, nil)
	emulated(t, emulator.Settings{Check: "off", Control: control})
	c := newCluster(t)
	c.on(gpuJob(t, "tiny", smallImages(t, 64, 12, 8), 1, 16, 60), "cuda:0")
	c.watch("blobs", past(4))
	happen(t, control, "0 xid 31")
	c.finish()
	if log := string(read(t, c.workers[1].log)); !strings.Contains(log, "xid=31") {
		t.Errorf("the log does not tell of Xid 31:\n%s", log)
	}
}

// TestUnusableGPUs: what keeps a worker from a GPU is said in one line, with what to do about it.
func TestUnusableGPUs(t *testing.T) {
	for _, c := range []struct {
		what     string
		settings emulator.Settings
		env      string
		says     []string
	}{
		{"a driver too old", emulator.Settings{Driver: 9020}, "",
			[]string{"the CUDA driver is too old", "CUDA 9.2", "need 10.0", "install a newer driver"}},
		{"a GPU too old", emulator.Settings{Capabilities: "60"}, "", []string{"compute capability 6.0", "7.0"}},
		{"no GPU", emulator.Settings{}, "CUDA_VISIBLE_DEVICES=-1", []string{"finds no GPU", "CUDA_VISIBLE_DEVICES"}},
		{"PTX refused", emulator.Settings{Fail: "cuModuleLoadDataEx:1+:222"}, "",
			[]string{"does not take our kernels' PTX", "UNSUPPORTED_PTX_VERSION (222)", "newer driver"}},
		{"PTX not understood", emulator.Settings{Fail: "cuModuleLoadDataEx:1+:218"}, "",
			[]string{"does not take our kernels' PTX", "INVALID_PTX (218)", "newer driver"}},
		{"memory that others have", emulator.Settings{Memory: 1 << 20}, "",
			[]string{"wanted", "of 1.0 MiB", "free", "OUT_OF_MEMORY"}},
		{"a GPU that dies", emulator.Settings{Lost: "0:3"}, "", []string{"cuda:0 (", "is lost"}},
		{"a GPU that another process has alone", emulator.Settings{Fail: "cuDevicePrimaryCtxRetain:1:101"}, "",
			[]string{"cuDevicePrimaryCtxRetain", "101"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			emulated(t, c.settings)
			cmd := exec.Command(workerProgram, "verify", "--device", "cuda:0", "--op", "add", "--batch", "0")
			if c.env != "" {
				cmd.Env = append(cmd.Environ(), c.env)
			}
			out, err := cmd.CombinedOutput()
			text := strings.TrimSpace(cudaemuSays.ReplaceAllString(string(out), ""))
			if err == nil || strings.Contains(text, "\n") || !strings.HasPrefix(text, "worker: ") {
				t.Errorf("%v, want a line that says why not:\n%s", err, text)
			}
			for _, word := range c.says {
				if !strings.Contains(text, word) {
					t.Errorf("does not say %q: %s", word, text)
				}
			}
		})
	}
}

// cudaemuSays is a line of the emulated driver's own.
var cudaemuSays = regexp.MustCompile(`(?m)^cudaemu: .*\n`)

// TestDevicesOfSeveralKinds: GPUs that differ are named as such, within the width of a terminal.
func TestDevicesOfSeveralKinds(t *testing.T) {
	emulated(t, emulator.Settings{Capabilities: "80,70"})
	out := must(t, workerProgram, "devices")
	for _, word := range []string{"compute capability 8.0", "compute capability 7.0", "of several kinds"} {
		if !strings.Contains(strings.ReplaceAll(out, "\n        ", " "), word) {
			t.Errorf("does not say %q:\n%s", word, out)
		}
	}
	for line := range strings.Lines(out) {
		// A numerics id is one word, which whoever copies it wants in one piece.
		if len([]rune(line)) > 101 && len(strings.Fields(line)) > 1 {
			t.Errorf("%d columns: %s", len([]rune(line)), line)
		}
	}
}
