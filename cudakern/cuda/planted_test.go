//go:build cuda && cgo

package cuda

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"colonnade/cudakern/kerntest"
)

// bug is a mistake planted in a kernel: what is there, once in the file, becomes what is wrong.
type bug struct {
	what    string
	file    string // of kernels
	is, bad string
	ops     string // of kerntest that use the kernel, between commas
	test    string // instead of ops: a test of this package
}

// bugs are mistakes such as are made: guards off by one, ends forgotten, barriers left out, a flag the wrong way round.
var bugs = []bug{
	{what: "vectors past the end", file: "packs.h", is: "first + 4 <= n", bad: "first < n", ops: "relu,add,sgd"},
	{what: "one element too many", file: "packs.h", is: "i < n && i < first + 4", bad: "i <= n && i < first + 4",
		ops: "add"},
	{what: "vectors where only 8 bytes are aligned", file: "packs.h", is: "& 15) == 0", bad: "& 7) == 0",
		test: "TestAnyAlignment"},
	{what: "rectifier's gradient at 0", file: "elementwise.cu", is: "a.v[j] > 0 ?", bad: "a.v[j] >= 0 ?", ops: "relu"},
	{what: "no number rectified away", file: "elementwise.cu", is: "a.v[j] < 0 ? 0.f : a.v[j]",
		bad: "a.v[j] > 0 ? a.v[j] : 0.f", test: "TestNoNumbers"},
	{what: "half of the logarithm of 2", file: "numbers.h", is: " + k * 2.12194440e-4f", bad: "", ops: "tanh"},
	{what: "the gradient of another curve", file: "elementwise.cu", is: "(1 + a.v[j])", bad: "(1 - a.v[j])", ops: "tanh"},
	{what: "decay without the rate", file: "elementwise.cu", is: "rate, decay * rate}", bad: "rate, decay}", ops: "sgd"},
	{what: "the update by the old momentum", file: "elementwise.cu",
		is:  "w.v[j] = w.v[j] + v.v[j];\n    }\n    store<N>(v1 + i, v);",
		bad: "}\n    store<N>(v1 + i, v);\n    for (int j = 0; j < N; j++) w.v[j] = w.v[j] + v0[i + j];", ops: "sgd"},
	{what: "rows of units at unaligned places", file: "elementwise.cu", is: "units % 4 == 0 && packs", bad: "packs",
		ops: "dropout"},
	{what: "last units of a row forgotten", file: "elementwise.cu", is: "at.i >= (units + 3) / 4",
		bad: "at.i >= units / 4",
		ops: "dropout"},
	{what: "mask of the first image for all", file: "elementwise.cu", is: "first_image + (unsigned)at.image",
		bad: "first_image", ops: "dropout"},
	{what: "threshold included", file: "elementwise.cu", is: "a.v[j] = random.w[j] < threshold",
		bad: "a.v[j] = random.w[j] <= threshold", test: "TestPhiloxKnownAnswers"},
	{what: "nine rounds of Philox", file: "numbers.h", is: "r < 10", bad: "r < 9", ops: "dropout"},
	{what: "a coefficient of the exponential", file: "numbers.h", is: "1.0 / 120.0", bad: "1.0 / 102.0", ops: "lrn"},
	{what: "a logarithm's exponent", file: "numbers.h", is: "m *= 0.5;\n    e++;", bad: "m *= 0.5;", ops: "lrn"},
	{what: "a window's last map missing", file: "maps.cu", is: "ahead = maps::value(in, m + 3, count, area);",
		bad: "ahead = maps::value(in, m + 2, count, area);", ops: "lrn"},
	{what: "a pixel too many", file: "maps.cu",
		is:  "count);\n  if (at.i >= area) return;",
		bad: "count);\n  if (at.i > area) return;",
		ops: "lrn"},
	{what: "a map beyond the last", file: "maps.cu", is: "m >= 0 && m < count", bad: "m >= 0 && m <= count", ops: "lrn"},
	{what: "ratios before a chunk missing", file: "maps.cu", is: "for (int j = first - 2; j < end + 2; j++) {",
		bad: "for (int j = first - 1; j < end + 2; j++) {", ops: "lrn"},
	{what: "a chunk's last map unwritten", file: "maps.cu", is: "j < end + 2; j++", bad: "j < end + 1; j++", ops: "lrn"},
	{what: "a window that is not mirrored", file: "maps.cu", is: "size - 1 - size / 2, space", bad: "size / 2, space",
		ops: "lrn"},
	{what: "a window past the last map", file: "maps.cu", is: "m - before > count - size ? count",
		bad: "m - before > count - size ? count + 1",
		ops: "lrn"},
	{what: "a column beyond the image", file: "maps.cu", is: "x + j < p.width)", bad: "x + j <= p.width)", ops: "pool"},
	{what: "a row above the image", file: "maps.cu", is: "if (y + i >= 0 &&", bad: "if (", ops: "pool"},
	{what: "a maximum that begins at 0", file: "maps.cu", is: "float best = __int_as_float((int)0xff800000u);",
		bad: "float best = 0;", ops: "pool"},
	{what: "the windows before a pixel", file: "maps.cu", is: "images::quotient(reach_y - kernel, over_stride) + 1",
		bad: "images::quotient(reach_y - kernel, over_stride) + 2", ops: "pool"},
	{what: "a window beyond the last", file: "maps.cu", is: "images::quotient(reach_x, over_stride), out_w - 1)",
		bad: "images::quotient(reach_x, over_stride), out_w)", ops: "pool"},
	{what: "the last maximum instead of the first", file: "maps.cu", is: "mine = map[py * width + px] != own;",
		bad: "mine = true;", ops: "pool"},
	{what: "ties the other way round", file: "maps.cu", is: "if (!ties_all) {", bad: "if (ties_all) {", ops: "pool"},
	{what: "no barrier before the sum", file: "softmax.cu", is: "- top);\n    __syncthreads();\n    if (me == 0)",
		bad: "- top);\n    if (me == 0)", ops: "softmax"},
	{what: "no barrier behind the sum", file: "softmax.cu", is: "sum + m.terms[c];\n    __syncthreads();",
		bad:  "sum + m.terms[c];",
		test: "TestSoftmaxTiles"},
	{what: "a total read before it is there", file: "softmax.cu", is: "m.sum = sum;\n  __syncthreads();",
		bad: "m.sum = sum;",
		ops: "softmax"},
	{what: "a barrier that not all reach", file: "softmax.cu", is: "m.tops[me] = top;\n  __syncthreads();",
		bad: "m.tops[me] = top;\n  if (me < classes) __syncthreads();", ops: "softmax"},
	{what: "no barrier in a tree", file: "softmax.cu", is: "m.tops[me + half] : m.tops[me];\n    __syncthreads();",
		bad: "m.tops[me + half] : m.tops[me];", ops: "softmax"},
	{what: "the label's own logit counted as a tie", file: "softmax.cu", is: "m.equal[0] - 1;", bad: "m.equal[0];",
		ops: "softmax"},
	{what: "a last tile as long as the others", file: "softmax.cu", is: "classes - first < tile ? classes - first : tile",
		bad: "tile", ops: "softmax"},
	{what: "padding that counts", file: "softmax.cu", is: "if (n >= valid) {\n    for", bad: "if (n > valid) {\n    for",
		ops: "softmax"},
	{what: "mirrored a pixel off", file: "input.cu", is: "out_w - 1 - to.x", bad: "out_w - to.x", ops: "input"},
	{what: "an image one pixel wider", file: "input.cu", is: "px < (unsigned)width", bad: "px <= (unsigned)width",
		ops: "input"},
	{what: "the view of the image before", file: "input.cu", is: "at.image * view_words",
		bad: "at.image * (view_words - 1)",
		ops: "input"},
	{what: "one mean that begins in the first row", file: "input.cu", is: "mean_y < 0 ? pixel", bad: "mean_y <= 0 ? pixel",
		ops: "input"},
	{what: "one mean mirrored", file: "input.cu", is: "width + to.x + mean_x",
		bad: "width + (view[2] ? out_w - 1 - to.x : to.x) + mean_x", ops: "input"},
	{what: "a part at the beginning of the row", file: "input.cu", is: "(unsigned)(to_first + at.i)",
		bad: "(unsigned)at.i",
		ops: "concat"},
	{what: "an element of the next row", file: "input.cu", is: "if (at.i >= width) return;",
		bad: "if (at.i > width) return;",
		ops: "concat"},
	{what: "a block of the next image", file: "images.h", is: "(int)blockIdx.x - image * blocks", bad: "(int)blockIdx.x",
		ops: "pool"},
}

// plantedVariable, if it is set, has every mistake of the lists planted, which takes many minutes; without it, a few of
// each list are.
const plantedVariable = "COLONNADE_PLANTED"

// sample is every nth mistake of a list, or all of them where they are asked for.
func sample(t *testing.T, list []bug, nth int) []bug {
	t.Helper()
	if os.Getenv(plantedVariable) != "" {
		return list
	}
	var some []bug
	for i := 0; i < len(list); i += nth {
		some = append(some, list[i])
	}
	t.Logf("%d of %d mistakes; %s=1 plants all", len(some), len(list), plantedVariable)
	return some
}

// plantable wants each mistake's place to be in its file once, so that a list keeps up with the sources even where not
// all of it is planted.
func plantable(t *testing.T, list []bug, dir string) {
	t.Helper()
	for _, b := range list {
		text, err := os.ReadFile(filepath.Join(dir, b.file))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), b.is); n != 1 {
			t.Errorf("%s: %q is %d times in %s, want it there once", b.what, b.is, n, b.file)
		}
	}
}

// TestPlantedBugs plants mistakes in kernels, one at a time, compiles them, and wants each to be found: by the suite's
// numbers or by what the emulated driver checks.
func TestPlantedBugs(t *testing.T) {
	t.Parallel()
	plantable(t, bugs, "kernels")
	if _, err := exec.LookPath("clang++-19"); err != nil {
		t.Skip("wants clang 19 to compile kernels")
	}
	const without = `(conv|dense)[a-z_0-9]*` // products take long to compile
	sound(t, bugs, without, false)
	found := catches(t)
	for _, b := range sample(t, bugs, 12) {
		t.Run(b.what, func(t *testing.T) {
			t.Parallel()
			found.add(t, b, b.hunt(t, b.compile(t, without)))
		})
	}
}

// compile makes PTX of the kernels with the bug in them, without those files of kernels whose names match.
func (b bug) compile(t *testing.T, without string) string {
	t.Helper()
	dir := t.TempDir()
	sources, err := filepath.Glob("kernels/*.[ch]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range sources {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(path)
		if name == b.file {
			text = []byte(strings.Replace(string(text), b.is, b.bad, 1))
		}
		if name == "kernels.cu" {
			text = regexp.MustCompile(`#include "`+without+`\.cu"\n`).ReplaceAll(text, nil)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "bug.ptx")
	cmd := exec.CommandContext(t.Context(), "clang++-19", "-x", "cuda", "--cuda-device-only", "-nocudainc", "-nocudalib",
		"--cuda-gpu-arch=sm_70", "--cuda-feature=+ptx63", "-std=c++17", "-O3", "-ffp-contract=off", "-w", "-I"+dir,
		"-S",
		filepath.Join(dir, "kernels.cu"), "-o", out)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return out
}

// hunt runs what should find the bug, in this environment, and returns how it was found, "" if it was not.
func (b bug) hunt(t *testing.T, ptx string, env ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(append(os.Environ(), "COLONNADE_CUDA_PTX="+ptx, "CUDAEMU_CHECK=full"), env...)
	if b.test != "" {
		cmd.Args = append(cmd.Args, "-test.run=^"+b.test+"$")
	} else {
		cmd.Env = append(cmd.Env, caseVariable+"=ops", opsVariable+"="+b.ops)
	}
	text, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	if crashed(err, string(text)) {
		t.Fatalf("%s: the program that hunts it crashed (%v), which is no finding:\n%.2000s", b.what, err, text)
	}
	return foundBy(string(text))
}

// foundBy is the line that says what was wrong: the emulated driver's, if it was that.
func foundBy(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, l := range lines {
		if strings.HasPrefix(l, "cudaemu") {
			return l
		}
	}
	for _, sign := range []string{"panic:", "error:", "_test.go:"} { // a panic is of a guard that was written over
		for _, l := range lines {
			if strings.Contains(l, sign) {
				return strings.TrimSpace(l)
			}
		}
	}
	return lines[len(lines)-1]
}

// opsVariable names the ops of a case of its own process.
const opsVariable = "COLONNADE_CUDA_TEST_OPS"

func init() {
	cases["ops"] = func() error {
		var options []Option
		if os.Getenv(exactVariable) != "" {
			options = append(options, Exact())
		}
		d, err := openWith("cuda:0", options...)
		if err != nil {
			return err
		}
		for _, r := range kerntest.Check(d, kerntest.Options{Ops: strings.Split(os.Getenv(opsVariable), ","), First: true}) {
			if !r.Pass {
				return fmt.Errorf("%s: %s", r.Op, r.Failure)
			}
		}
		return errors.Join(err, d.Close())
	}
}
