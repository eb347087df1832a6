package job

import (
	"slices"
	"strings"
	"testing"
)

const settable = "# a comment\njob: j\nnetwork: tiny\ndata: {train: t.pack}\nrecipe: {batch: 4, epochs: 3, rate: 0.1}\n"

func TestSettings(t *testing.T) {
	text, err := Set([]byte(settable), []string{"recipe.batch=8", "recipe.steps=90", "checkpoint.keep=7", "seed=3",
		"recipe.schedule=[{epoch: 2, rate: 0.01}]", "job=other", "augment.flip=true"})
	if err != nil {
		t.Fatal(err)
	}
	j, err := Parse("j.yaml", text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if j.Recipe.Batch != 8 || j.Recipe.Steps != 90 || j.Recipe.Epochs != 0 || j.Checkpoint.Keep != 7 || j.Seed != 3 ||
		len(j.Recipe.Schedule) != 1 || j.Recipe.Schedule[0].Rate != 0.01 || j.Name != "other" || !j.Augment.Flip {
		t.Errorf("the job is %+v", j)
	}
	if same, err := Set([]byte(settable), nil); err != nil || string(same) != settable {
		t.Errorf("without settings: %v, %s", err, same)
	}
}

func TestWrongSettings(t *testing.T) {
	for setting, want := range map[string]string{
		"recipe.batsh=64":      "there is no key \"recipe.batsh\"; the nearest is recipe.batch",
		"batch=64":             "the nearest is recipe.batch",
		"recipie.rate=1":       "the nearest is recipe.rate",
		"xyzzyxyzzy=1":         "see scripts/jobs for the keys",
		"network_text=x":       "there is no key",
		"recipe.batch=many":    "\"many\" is no whole number; give a value",
		"recipe.batch":         "give a key and its value, e.g. --set recipe.batch=64",
		"=4":                   "give a key and its value",
		"recipe.batch=":        "there is no value",
		"recipe.batch.more=1":  "there is no key",
		"augment.flip=perhaps": "\"perhaps\" is no true or false",
		"recipe={bach: 3}":     "unknown key \"bach\"",
		"recipe.rate=[":        "--set recipe.rate=[: ",
	} {
		_, err := Set([]byte(settable), []string{setting})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--set "+setting) ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("--set %s: %v, want %s", setting, err, want)
		}
	}
}

func TestForksAndDifferences(t *testing.T) {
	spec := made(t, sample).Encode()
	before, err := Decode(spec)
	if err != nil {
		t.Fatal(err)
	}
	j, err := Fork(spec, "fork", []string{"recipe.batch=2", "guard.then=skip"})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Fork(spec, "fork", []string{"recipe.batch=2", "guard.then=skip"}); err != nil ||
		!slices.Equal(again.Encode(), j.Encode()) {
		t.Errorf("the same fork is another job: %v", err)
	}
	got := Differences(j, before)
	if !slices.Contains(got, "guard.then: skip") || !slices.ContainsFunc(got, func(s string) bool {
		return strings.HasPrefix(s, "recipe.batch: 2 instead of ")
	}) || len(got) > 3 {
		t.Errorf("differences %q", got)
	}
	if got := Differences(before, before); len(got) > 0 {
		t.Errorf("a job differs from itself: %q", got)
	}
	for _, s := range []string{"columns=4", "network=alexnet", "data.train=x", "replicas=2", "winograd=off"} {
		if _, err := Fork(spec, "fork", []string{s}); err == nil || !strings.Contains(err.Error(), "a fork cannot change") {
			t.Errorf("--set %s: %v", s, err)
		}
	}
	if _, err := Fork(spec, "bad name", nil); err == nil {
		t.Error("a bad name is taken")
	}
}
