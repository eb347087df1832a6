package job

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// extended is the sample with a line more, which comes back the same from its bytes.
func extended(t *testing.T, line string) *Job {
	t.Helper()
	j := made(t, strings.Replace(sample, "seed: 3\n", "seed: 3\n"+line, 1))
	back, err := Decode(j.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(j, back); diff != "" {
		t.Errorf("%q comes back another (-want +got):\n%s", line, diff)
	}
	return j
}

// TestGuard wants what a guard leaves out to be filled in, and a job without one to have the bytes it always had.
func TestGuard(t *testing.T) {
	plain := made(t, sample)
	floor := math.Log(8)
	for text, want := range map[string]Guard{
		"":                       {GuardPause, 3, 50, floor, 10},
		"guard: {then: skip}\n":  {GuardSkip, 3, 50, floor, 10},
		"guard: {spike: .inf}\n": {GuardPause, math.Inf(1), 50, floor, 10},
		"guard: {then: off}\n":   {GuardOff, math.Inf(1), 0, floor, 10},
		"guard: {then: pause, spike: 1.5, window: 7, floor: 0.25, skips: 2}\n": {GuardPause, 1.5, 7, 0.25, 2},
	} {
		j := extended(t, text)
		if diff := cmp.Diff(want, j.GuardRules()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
		same := string(j.Encode()) == string(plain.Encode())
		if same != (text == "") || same != (j.Identity() == plain.Identity()) {
			t.Errorf("%q: the same bytes: %v", text, same)
		}
	}
}

func TestGuardRefusals(t *testing.T) {
	for guard, want := range map[string]string{
		"{then: fail}":    `guard.then: "fail"; use pause, skip or off`,
		"{spike: 1}":      "guard.spike: 1; give how many times",
		"{spike: -2}":     "guard.spike: -2; give how many times",
		"{spike: .nan}":   "guard.spike: NaN; give how many times",
		"{window: -1}":    "guard.window: -1; give steps, at most 4096",
		"{window: 5000}":  "guard.window: 5000",
		"{floor: -1}":     "guard.floor: -1; give a loss",
		"{floor: .inf}":   "guard.floor: +Inf; give a loss",
		"{skips: 1001}":   "guard.skips: 1001; give how many",
		"{before: 3}":     `unknown key "before"`,
		"{then: [pause]}": "job.yaml:5: ",
	} {
		_, err := Parse("job.yaml", []byte(strings.Replace(sample, "seed: 3\n", "seed: 3\nguard: "+guard+"\n", 1)))
		if !errors.Is(err, ErrJob) || !strings.Contains(err.Error(), want) || strings.ContainsRune(err.Error(), '\n') {
			t.Errorf("guard: %s: %v, want one line with %q", guard, err, want)
		}
	}
}
