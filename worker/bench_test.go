package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"colonnade/checkpoint/cli"
	"colonnade/cudakern"
	"colonnade/cudakern/ref"
	"colonnade/shard"
	"colonnade/worker/train"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// tick is what a ticking clock goes on by whenever somebody looks at it.
const tick = time.Millisecond

// ticking makes clocks that go on by a tick a look: the times of a bench are then known.
func ticking() func() time.Time {
	t := time.Unix(0, 0)
	return func() time.Time {
		t = t.Add(tick)
		return t
	}
}

// bench runs the command under clocks of the test's.
func bench(ctx context.Context, clock func() func() time.Time, args ...string) (string, error) {
	var c benchCmd
	parser, err := kong.New(&c, kong.Vars{"threads": "2"})
	if err == nil {
		_, err = parser.Parse(args)
	}
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = c.run(ctx, console{out: &out}, clock)
	return out.String(), err
}

// TestBenchReports wants of every way to run it all that a reader of its JSON relies on: the work that the plan of tiny
// has (see shard's golden files), forward and twice backward less conv1's gradient by the image, and times that add up.
func TestBenchReports(t *testing.T) {
	const batch, steps = 4, 3
	const macs, conv1 = 82_432, 31_104 // of both columns
	for name, c := range map[string]struct {
		args     string
		cells    int
		threads  int
		carriers string
		numerics string
		flops    int64 // of both columns, as above, or those of one
	}{
		"as it comes": {"", 2, 2, "local", "winograd", 2 * batch * (3*macs - conv1)},
		"ref":         {"--device ref", 2, 2, "local", ref.Numerics, 2 * batch * (3*macs - conv1)},
		"direct":      {"--winograd off", 2, 2, "local", "direct", 2 * batch * (3*macs - conv1)},
		"grpc":        {"--carrier grpc --threads 1", 2, 2, "grpc", "", 2 * batch * (3*macs - conv1)},
		"shm":         {"--carrier shm --threads 3", 2, 3, "shm", "", 2 * batch * (3*macs - conv1)},
		"no warm-up":  {"--warmup 0", 2, 2, "local", "", 2 * batch * (3*macs - conv1)},
		"alone":       {"--alone", 1, 2, "", "", batch * (3*macs - conv1)},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"--network", "tiny", "--batch", fmt.Sprint(batch), "--steps", fmt.Sprint(steps), "--json"},
				strings.Fields(c.args)...)
			out, err := bench(context.Background(), ticking, args...)
			if err != nil {
				t.Fatal(err)
			}
			var r benchReport
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatal(err)
			}
			if r.Network != "tiny" || r.Columns != 2 || r.Batch != batch || r.Threads != c.threads || len(r.Cells) != c.cells ||
				r.Alone != (c.cells == 1) || r.Carriers != c.carriers || len(r.Steps) != steps || r.FLOPs != c.flops ||
				!strings.Contains(r.Device.Numerics, c.numerics) || r.Commit == "" || r.Device.Model == "" {
				t.Errorf("report %+v", r)
			}
			checkTimes(t, &r)
		})
	}
}

// checkTimes holds the times of a bench under ticking clocks against each other.
func checkTimes(t *testing.T, r *benchReport) {
	t.Helper()
	near := func(what string, got, want float64) {
		if math.Abs(got-want) > 1e-9*math.Abs(want) {
			t.Errorf("%s: %g, want %g", what, got, want)
		}
	}
	var flops int64
	var waits, whole float64
	for _, c := range r.Cells {
		rest := c.MS
		var own int64
		seen := map[string]bool{}
		for _, ph := range c.Phases {
			rest -= ph.MS
			own += ph.FLOPs
			near(ph.Name+" share", ph.Share, ph.MS/c.MS)
			near(ph.Name+" GFLOP/s", ph.GFLOPS, float64(ph.FLOPs)/ph.MS/1e6)
			if ph.Kind == train.Wait {
				waits += ph.MS
			}
			if seen[ph.Name] || ph.MS <= 0 {
				t.Errorf("cell %s: phase %q for %g ms, listed before: %v", c.Cell, ph.Name, ph.MS, seen[ph.Name])
			}
			seen[ph.Name] = true
		}
		// The clock is looked at when a step begins and before its first phase, behind its last, and when it ends.
		near("rest of "+c.Cell, rest, 3*milliseconds(tick))
		near("rest_ms of "+c.Cell, c.RestMS, 3*milliseconds(tick))
		if own != c.FLOPs {
			t.Errorf("cell %s: %d FLOPs in phases, %d in all", c.Cell, own, c.FLOPs)
		}
		flops, whole = flops+own, whole+c.MS
		for _, name := range []string{"data", "input", "conv1", "conv1/w weights", "conv2/w0 weights", "guard", "update"} {
			if !seen[name] {
				t.Errorf("cell %s: no phase %q", c.Cell, name)
			}
		}
	}
	sorted := slices.Sorted(slices.Values(r.Steps))
	near("median", r.StepMS.Median, 1000*sorted[1])
	near("least", r.StepMS.Min, 1000*sorted[0])
	near("most", r.StepMS.Max, 1000*sorted[2])
	near("images/s", r.ImagesPerSecond, float64(r.Batch)/sorted[1])
	near("GFLOP/s", r.GFLOPS, float64(r.FLOPs)/sorted[1]/1e9)
	near("waiting", r.WaitShare, waits/whole)
	if flops != r.FLOPs {
		t.Errorf("%d FLOPs in cells, %d in all", flops, r.FLOPs)
	}
}

// TestBenchKeepsItsKeys pins the names that scripts read.
func TestBenchKeepsItsKeys(t *testing.T) {
	out, err := bench(context.Background(), ticking, "--network", "tiny", "--batch", "2", "--device", "ref", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var r map[string]any
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	cell := r["cells"].([]any)[0].(map[string]any)
	for what, want := range map[string]struct {
		of   any
		keys string
	}{
		"report": {r, "alone batch carrier carriers cells columns commit device exchange_wait_share flops gflops " +
			"images_per_second ms_per_step network steps threads winograd"},
		"device":      {r["device"], "model name numerics"},
		"ms_per_step": {r["ms_per_step"], "max median min"},
		"cell":        {cell, "cell flops ms phases rest_ms threads"},
		"phase":       {cell["phases"].([]any)[0], "flops gflops kind ms name share"},
	} {
		var keys []string
		for k := range want.of.(map[string]any) {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		if got := strings.Join(keys, " "); got != want.keys {
			t.Errorf("%s has %s, want %s", what, got, want.keys)
		}
	}
	if cell["cell"] != "r0c0" || r["winograd"] != "on" || r["carrier"] != "auto" {
		t.Errorf("cell %v, winograd %v, carrier %v", cell["cell"], r["winograd"], r["carrier"])
	}
}

// TestBenchTable pins what a user sees, under clocks that make all times known.
func TestBenchTable(t *testing.T) {
	for _, c := range []struct{ golden, args string }{
		{"bench-tiny", "--network tiny --columns 2"},
		{"bench-tiny-4col", "--network tiny --columns 4 --steps 1 --warmup 0"},
		{"bench-tiny-alone", "--network tiny --columns 2 --alone"},
		{"bench-tiny-1col", "--network tiny --columns 1"},
		{"bench-alexnet-32", "--network alexnet-32 --steps 1 --warmup 0"},
	} {
		args := append(strings.Fields(c.args), "--device", "ref", "--batch", "1")
		out, err := bench(context.Background(), ticking, args...)
		if err != nil {
			t.Fatal(err)
		}
		out = strings.Replace(out, "commit "+cli.Version(), "commit 0123456789abcdef0123456789abcdef01234567", 1)
		out = regexp.MustCompile(`(?m)^the load is .*\n`).ReplaceAllString(out, "") // of others, and different by now
		for line := range strings.Lines(out) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
				t.Errorf("%s: a line of %d signs does not fit into a terminal: %s", c.golden, n, line)
			}
		}
		path := filepath.Join("testdata", c.golden+".golden")
		if *update {
			if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), out); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.golden, diff)
		}
	}
}

// TestBenchEndsWhenAsked cancels it in the middle of a step, as a signal does.
func TestBenchEndsWhenAsked(t *testing.T) {
	for _, carrier := range []string{"auto", "shm", "grpc"} {
		ctx, cancel := context.WithCancelCause(context.Background())
		looks := 0
		clock := func() func() time.Time {
			now := ticking()
			if looks++; looks > 1 { // one of the cells
				return now
			}
			n := 0
			return func() time.Time {
				if n++; n == 100 {
					cancel(fmt.Errorf("interrupted: %w", context.Canceled))
				}
				return now()
			}
		}
		out, err := bench(ctx, clock, "--network", "tiny", "--batch", "2", "--steps", "1000000", "--device", "ref", "--json",
			"--carrier", carrier)
		if !errors.Is(err, context.Canceled) || out != "" {
			t.Errorf("%s: %v, printed %q", carrier, err, out)
		}
	}
}

// full is a device without memory.
type full struct{ cudakern.Device }

func (full) Alloc(cudakern.Shape, cudakern.Layout) (cudakern.Buffer, error) {
	return nil, cudakern.ErrMemory
}

// TestBenchFailures wants one line of devices that fail, and everything given back.
func TestBenchFailures(t *testing.T) {
	kinds := deviceKinds
	defer func() { deviceKinds = kinds }()
	var opened []cudakern.Device
	failing := func(name string, wrap func(cudakern.Device) cudakern.Device) deviceKind {
		return deviceKind{name, "fails", func(string, cudakern.Settings) (cudakern.Device, error) {
			opened = append(opened, ref.New())
			return wrap(opened[len(opened)-1]), nil
		}, nil}
	}
	deviceKinds = append(slices.Clip(deviceKinds),
		failing("lame", func(d cudakern.Device) cudakern.Device { return noUpdates{d} }),
		failing("full", func(d cudakern.Device) cudakern.Device { return full{d} }))
	for device, says := range map[string]string{"lame": "update", "full": "smaller --batch"} {
		p := command(context.Background(), "bench", "--network", "tiny", "--device", device, "--json")
		if p.code != exitFailure || strings.Count(p.err, "\n") != 1 || !strings.Contains(p.err, says) || p.out != "" {
			t.Errorf("%s: %+v", device, p)
		}
	}
	for _, d := range opened {
		if n := d.Live(); n != 0 {
			t.Errorf("%d things are still alive on a device", n)
		}
	}
}

// counting is a device that adds up what is allocated.
type counting struct {
	cudakern.Device
	bytes *atomic.Int64
}

func (c counting) Alloc(s cudakern.Shape, l cudakern.Layout) (cudakern.Buffer, error) {
	b, err := c.Device.Alloc(s, l)
	if err == nil {
		c.bytes.Add(int64(b.Bytes()))
	}
	return b, err
}

// TestBenchMemory holds the estimate of memory against what is allocated on devices and, for state, in snapshots: it
// must not refuse what there is room for, nor be far below.
func TestBenchMemory(t *testing.T) {
	kinds := deviceKinds
	defer func() { deviceKinds = kinds }()
	for _, c := range []benchCmd{
		{Network: "alexnet-32", Columns: 2, Batch: 64}, {Network: "alexnet-32", Columns: 1, Batch: 4},
		{Network: "tiny", Columns: 4, Batch: 100}, {Network: "alexnet-32", Columns: 2, Batch: 16, Alone: true},
	} {
		var bytes atomic.Int64
		deviceKinds = []deviceKind{{"counting", "counts", func(_ string, s cudakern.Settings) (cudakern.Device, error) {
			d, err := openCPU("cpu", s)
			return counting{d, &bytes}, err
		}, nil}}
		c.Device, c.Threads, c.Steps, c.Winograd, c.Carrier = "counting", 2, 1, "on", "auto"
		j, plan, err := c.plan()
		if err != nil {
			t.Fatal(err)
		}
		rig, err := c.open(context.Background(), j, plan)
		if err != nil {
			t.Fatal(err)
		}
		need := rig.memory()
		if err := also(rig.measure(context.Background(), ticking, 1), rig.close()); err != nil {
			t.Fatal(err)
		}
		took := bytes.Load()
		images := min(2*c.Batch, mostImages)
		for _, cell := range rig.cells {
			took += 2 * 4 * plan.Parameters(cell.id.Column)
			images += 2 * c.Batch
		}
		took += int64(images * j.Train.Channels * j.Train.Height * j.Train.Width)
		t.Logf("%s, batch %d: estimated %d bytes, took %d", c.Network, c.Batch, need, took)
		if need > took || float64(need) < 0.7*float64(took) {
			t.Errorf("%+v: estimated %d bytes, took %d", c, need, took)
		}
	}
}

// TestSyntheticImages wants of the synthetic source what a pack's has: batches that are functions of the step, of the
// stored size, with labels of the network's classes and views within reach.
func TestSyntheticImages(t *testing.T) {
	for name, want := range map[string][3]int{"alexnet": {3, 256, 256}, "alexnet-32": {3, 32, 32}, "tiny": {3, 12, 12}} {
		c := benchCmd{Network: name, Columns: 2, Batch: 8, Steps: 1, Winograd: "on"}
		j, plan, err := c.plan()
		if err != nil {
			t.Fatal(err)
		}
		images := newSynthetic(j.Train)
		a, b := images.source(j, plan.Network.Input), images.source(j, plan.Network.Input)
		ch, h, w := a.Shape()
		if got := [3]int{ch, h, w}; got != want || len(a.Mean()) != ch*h*w || a.TestBatches() != 0 {
			t.Errorf("%s: images of %v, want %v; %d test batches", name, got, want, a.TestBatches())
		}
		views := map[cudakern.View]bool{}
		for step := range uint64(4) {
			x := a.Train(step)
			if !reflect.DeepEqual(x, b.Train(step)) {
				t.Errorf("%s: step %d differs from cell to cell", name, step)
			}
			for i, v := range x.Views {
				views[v] = true
				if x.Labels[i] < 0 || int(x.Labels[i]) >= plan.Network.Classes {
					t.Errorf("%s: label %d", name, x.Labels[i])
				}
			}
			if bytes.Equal(x.Images[:ch*h*w], x.Images[ch*h*w:2*ch*h*w]) || x.Valid != 8 {
				t.Errorf("%s: two images are one, or %d are valid", name, x.Valid)
			}
		}
		if len(views) < 2 {
			t.Errorf("%s: all images are seen alike", name)
		}
	}
}

// TestBenchTakesANetworkFile benches a user's own network.
func TestBenchTakesANetworkFile(t *testing.T) {
	text, err := shard.EmbeddedText("tiny")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "own network.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "conv3", "conv9")), 0o644); err != nil {
		t.Fatal(err)
	}
	p := command(context.Background(), "bench", "--network", file, "--batch", "1", "--device", "ref", "--steps", "1")
	if p.code != 0 || !strings.Contains(p.out, "\nconv9 weights ") || !strings.HasPrefix(p.out, file) {
		t.Errorf("%+v", p)
	}
}
