package job

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRecipeText(t *testing.T) {
	text := func(network, recipe string, h History) string {
		t.Helper()
		j, p := onImageNet(t, network, recipe)
		var out strings.Builder
		if err := j.RecipeText(&out, p, h); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	got := strings.Split(text("alexnet-source", "{preset: source}", nil), "\n")
	want := []string{
		"recipe (preset source): batch 128, momentum 0.9, 950855 steps, 10009 to an epoch",
		"  colour noise ends before epoch 67",
		"",
		"LAYER START RATE DECAY",
		"conv1 weight    N(0, 0.01²)  0.01, from epoch 23 0.001, from epoch 50 0.0001, from epoch 67 1e-05, " +
			"from epoch 74 " +
			"frozen  0.0005",
		"conv1 bias      0            0.02, from epoch 23 0.002, from epoch 74 frozen 0",
	}
	// The table's width is tabwriter's affair.
	squeeze := func(lines []string) (out []string) {
		for _, l := range lines {
			out = append(out, strings.Join(strings.Fields(l), " "))
		}
		return out
	}
	if diff := cmp.Diff(squeeze(want), squeeze(got[:len(want)])); diff != "" {
		t.Error(diff)
	}
	all := strings.Join(squeeze(got), "\n")
	for _, line := range []string{
		"conv3 weight N(0, 0.03²) 0.01, from epoch 23 0.001, from epoch 50 0.0001, from epoch 82 1e-05 0.0005",
		"fc2048 bias 1 0.02, from epoch 23 0.002 0",
	} {
		if !strings.Contains(all, line+"\n") {
			t.Errorf("no line %q in\n%s", line, all)
		}
	}
	// 90 epochs end at a quarter of a step less than a whole one.
	all = strings.Join(squeeze(strings.Split(text("alexnet", "{preset: source-dexp}", nil), "\n")), "\n")
	if line := "conv1 bias 0 0.02, from epoch 46 0.002 0"; !strings.Contains(all, line+"\n") {
		t.Errorf("no line %q in\n%s", line, all)
	}
	all = text("alexnet", "{preset: paper}", History{{Step: 10009, Top1: .9}, {Step: 2 * 10009, Top1: .9},
		{Step: 3 * 10009, Top1: .9}, {Step: 4 * 10009, Top1: .9}, {Step: 5 * 10009, Top1: .9}, {Step: 6 * 10009, Top1: .9}})
	for _, part := range []string{"has not fallen by more than 0.001 for 5 evaluations, 3 times; so far after step 60054",
		"0.01, from epoch 7 0.001  0.0005"} {
		if !strings.Contains(all, part) {
			t.Errorf("no %q in\n%s", part, all)
		}
	}
}
