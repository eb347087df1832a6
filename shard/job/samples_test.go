package job

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"colonnade/shard"
)

// TestSampleJobs reads every job under scripts/jobs as submitting one does, with packs of the size its comment tells.
func TestSampleJobs(t *testing.T) {
	packs := map[string][2]Pack{
		"fashion": {{Images: 60000, Channels: 1, Height: 28, Width: 28, Classes: 10},
			{Images: 10000, Channels: 1, Height: 28, Width: 28, Classes: 10}},
		"fashion-quick": {{Images: 60000, Channels: 1, Height: 28, Width: 28, Classes: 10},
			{Images: 10000, Channels: 1, Height: 28, Width: 28, Classes: 10}},
		"cifar10": {{Images: 50000, Channels: 3, Height: 32, Width: 32, Classes: 10},
			{Images: 10000, Channels: 3, Height: 32, Width: 32, Classes: 10}},
		"finetune": {{Images: 5000, Channels: 3, Height: 256, Width: 256, Classes: 20},
			{Images: 1000, Channels: 3, Height: 256, Width: 256, Classes: 20}},
		"imagenet-source": {{Images: 1281167, Channels: 3, Height: 256, Width: 256, Classes: 1000},
			{Images: 50000, Channels: 3, Height: 256, Width: 256, Classes: 1000}},
		"imagenet": {{Images: 1281167, Channels: 3, Height: 256, Width: 256, Classes: 1000},
			{Images: 50000, Channels: 3, Height: 256, Width: 256, Classes: 1000}},
	}
	for _, name := range []string{"cifar10-4", "cifar10-4-lrn", "figure1-relu", "figure1-tanh"} {
		packs[name] = packs["cifar10"]
	}
	some := Pack{Images: 2000, Channels: 3, Height: 256, Width: 256, Classes: 10}
	packs["fullsize"] = [2]Pack{some, some}
	packs["patches"] = [2]Pack{{Images: 1200, Channels: 3, Height: 256, Width: 256, Classes: 12},
		{Images: 240, Channels: 3, Height: 256, Width: 256, Classes: 12}}
	paths, err := filepath.Glob("../../scripts/jobs/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		seen[name] = true
		t.Run(name, func(t *testing.T) {
			pair, ok := packs[name]
			if !ok {
				t.Fatal("what packs are for this job? add them to the test")
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			j, err := Parse(path, text)
			if err != nil {
				t.Fatal(err)
			}
			if j.Name != name {
				t.Errorf("the job in %s is called %s", path, j.Name)
			}
			network, err := shard.EmbeddedText(j.Network)
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range []string{j.Data.Train, j.Data.Test} {
				if filepath.Dir(p) != "../../.data/packs" {
					t.Errorf("pack %s is not where the comment makes it", p)
				}
				pair[i].Path = p
			}
			if j.Start != nil {
				j.SetStart(j.Start.From, [32]byte{1})
			}
			if err := j.Resolve(network, &pair[0], &pair[1]); err != nil {
				t.Fatal(err)
			}
			if last := len(j.Recipe.Schedule); last > 0 && uint64(j.Recipe.Schedule[last-1].Epoch) > j.Epochs() {
				t.Errorf("the rate drops in epoch %d of %d", j.Recipe.Schedule[last-1].Epoch, j.Epochs())
			}
			if _, err := Decode(j.Encode()); err != nil {
				t.Error(err)
			}
			// The comments are half of a sample: every section has some.
			if n := strings.Count(string(text), "#"); n < 10 {
				t.Errorf("%d comments", n)
			}
		})
	}
	for name := range packs {
		if !seen[name] {
			t.Errorf("scripts/jobs/%s.yaml is gone", name)
		}
	}
}
