package main

import (
	"testing"
)

// An operator pauses a job, keeps a checkpoint, forks it with another recipe, and clears away.
func TestOperatingAJob(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c := startCluster(t)
	file := writeJob(t, dir, "job.yaml")
	like(t, succeeds(t, "job", "submit", file, "--set", "job=k", "--set", "seed=7"), `submitted k, 20 steps; .*`)
	like(t, succeeds(t, "job", "pause", "k"), `k is paused; go on with: coordinator job resume k\n`)
	like(t, succeeds(t, "job", "delete", "k"), `k is deleted, and so are its 0 checkpoints\n`)
	succeeds(t, "job", "submit", file)
	c.attach("train", "a")
	c.attach("train", "b")
	until(t, "a checkpoint", func() bool {
		j, err := c.node.control.Job(c.ctx, "j")
		return err == nil && j.CommittedStep == testSteps/2
	})
	like(t, succeeds(t, "job", "pause", "j"),
		`j pauses after this step and a checkpoint; go on with: coordinator job resume j\n`)
	like(t, succeeds(t, "job", "watch", "j"), `.*paused after step 10 of 20; go on with: coordinator job resume j\n`)
	like(t, succeeds(t, "checkpoint", "pin", "j", "10"),
		`the checkpoint of step 10 of j is kept until: coordinator checkpoint unpin j 10\n`)
	like(t, succeeds(t, "checkpoint", "list", "j"), `STEP .*\n10 .* good, pinned\n`)
	like(t, succeeds(t, "job", "submit", "--from", "j@10", "--job", "fork", "--set", "recipe.rate=0.5"),
		`submitted fork, a fork of j from step 10, 20 steps in all\n  recipe.rate: 0.5 instead of [0-9.]+\n`+
			`follow it with: coordinator job watch fork\n`)
	like(t, succeeds(t, "job", "show", "fork"), `fork: .*forked from: j, step 10, digest \w+\n    recipe.rate: 0.5 .*`)
	like(t, succeeds(t, "checkpoint", "list", "fork"), `STEP .*\n10 .* good, of j\n`)
	like(t, succeeds(t, "checkpoint", "verify", "fork"), `STEP .*\n10 +r0c0 +ok .*10 +r0c1 +ok .*`)
	until(t, "the fork begins with the checkpoint", func() bool {
		j, err := c.node.control.Job(c.ctx, "fork")
		return err == nil && j.State == "running"
	})
	like(t, succeeds(t, "checkpoint", "now", "fork"),
		`fork writes a checkpoint after this step and goes on; see: coordinator checkpoint list fork\n`)
	check(t, dir, []wrong{
		{"delete a running job", words("job delete fork"), exitFailure, []string{"stop it first: coordinator job stop fork"}},
		{"delete a parent", words("job delete j"), exitFailure, []string{"coordinator job delete fork"}},
		{"delete a pinned one", words("checkpoint delete j 10"), exitFailure, []string{"coordinator checkpoint unpin j 10"}},
		{"pin nothing", words("checkpoint pin j 11"), exitFailure, []string{"coordinator checkpoint list j"}},
		{"now of a paused job", words("checkpoint now j"), exitFailure, []string{"only one that runs",
			"coordinator checkpoint"}},
		{"fork of a name", words("checkpoint fork j 10 --job fork"), exitFailure, []string{"another name with --job"}},
		{"fork of nothing", words("checkpoint fork j 3 --job g"), exitFailure, []string{"coordinator checkpoint list j"}},
		{"fork of nobody", words("checkpoint fork none 3 --job g"), exitFailure, []string{"coordinator job list"}},
		{"fork into another network", words("checkpoint fork j 10 --job g --set columns=1"), exitFailure,
			[]string{"a fork cannot change columns"}},
		{"a wrong key", words("checkpoint fork j 10 --job g --set recipe.bach=1"), exitFailure,
			[]string{"the nearest is recipe.batch"}},
		{"a wrong key of a file", words("job submit " + file + " --set recipe.bach=1"), exitFailure,
			[]string{"the nearest is recipe.batch"}},
		{"no file", words("job submit"), exitUsage, []string{"coordinator job submit JOB.yaml"}},
		{"file and from", words("job submit " + file + " --from j"), exitUsage, []string{"change it with --set"}},
		{"from and resume", words("job submit --from j --resume"), exitUsage, []string{"coordinator job resume NAME"}},
		{"from without a name", words("job submit --from j"), exitUsage, []string{"give one with --job NAME"}},
		{"from no step", words("job submit --from j@x --job g"), exitUsage, []string{"coordinator checkpoint list j"}},
		{"a name without from", words("job submit " + file + " --job g"), exitUsage, []string{"--set job=g"}},
	})
	succeeds(t, "job", "stop", "fork", "--now")
	like(t, succeeds(t, "job", "delete", "fork"), `fork is deleted, .*`)
	like(t, succeeds(t, "checkpoint", "unpin", "j", "10"), `the checkpoint of step 10 of j is dropped when .*`)
	like(t, succeeds(t, "job", "delete", "j"), `j is deleted, and so are its 1 checkpoints\n`)
	like(t, succeeds(t, "job", "list"), `no jobs; .*`)
	until(t, "the history is gone", func() bool { _, step := c.node.history.Newest("j"); return step == 0 })
}
