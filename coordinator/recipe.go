package main

import (
	"fmt"
	"io"
	"regexp"

	"colonnade/proto/clusterpb"
	"colonnade/shard"
	"colonnade/shard/job"
)

// jobKey tells a job file from a network's.
var jobKey = regexp.MustCompile(`(?m)^job:`)

// isJob says whether a path is that of a job file.
func isJob(path string) bool {
	if _, err := shard.EmbeddedText(path); err == nil {
		return false
	}
	text, err := shard.ReadFile(path)
	return err == nil && jobKey.Match(text)
}

// planJob draws a job's network and says what its recipe comes to. Packs need not be there if images says how many
// there would be in the one to train on.
func planJob(con console, path string, images int) error {
	j, err := plannedJob(path, images)
	if err != nil {
		return err
	}
	plan, err := j.Plan()
	if err != nil {
		return err
	}
	if err := plan.Text(con.out); err != nil {
		return err
	}
	fmt.Fprintln(con.out)
	return j.RecipeText(con.out, plan, nil)
}

// plannedJob is a job with its packs, or with one made up that its network can take.
func plannedJob(path string, images int) (*job.Job, error) {
	if images == 0 {
		return readJob(path)
	}
	j, network, err := readJobFile(path)
	if err != nil {
		return nil, err
	}
	n, err := shard.Parse(j.Network, network)
	if err != nil {
		return nil, err
	}
	in := n.Input
	pack := &job.Pack{Images: images, Channels: in.Channels[len(in.Channels)-1], Height: in.Height, Width: in.Width,
		Classes: n.Classes}
	if j.Classes > 0 {
		pack.Classes = j.Classes
	}
	var test *job.Pack
	if j.Data.Test != "" {
		test = pack
	}
	if err := j.Resolve(string(network), pack, test); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return j, nil
}

// showRecipe prints what a job's recipe comes to.
func showRecipe(out io.Writer, j *clusterpb.Job) error {
	spec, err := job.Decode(j.Spec)
	if err != nil {
		return nil // of a newer program: all else can be shown
	}
	plan, err := spec.Plan()
	if err != nil {
		return err
	}
	var h job.History
	for _, e := range j.Evaluations {
		n := float64(max(e.Images, 1))
		h = h.With(job.Evaluation{Step: e.Step, Top1: e.Top1Errors / n, Top5: e.Top5Errors / n, Loss: e.Loss})
	}
	fmt.Fprintln(out)
	return spec.RecipeText(out, plan, h)
}
