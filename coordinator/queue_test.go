package main

import (
	"strings"
	"testing"
)

// Who submits, changes and looks at the queue: its order, what each job waits for, and the same as JSON.
func TestQueueCommands(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	startCluster(t)
	like(t, succeeds(t, "queue"), `no job waits or runs; submit one with: coordinator job submit JOB.yaml\n`)
	for _, name := range []string{"a", "b", "c"} {
		file := writeJob(t, dir, name+".yaml", "job: "+name)
		args := []string{"job", "submit", file}
		if name == "b" {
			args = append(args, "--priority", "3", "--min-workers", "2")
		}
		succeeds(t, args...)
	}
	says(t, succeeds(t, "queue"), `PLACE +JOB +PRIORITY +STATE +WORKERS +STEP +REASON\n`+
		`1 +b +3 +queued +0, least 2 +0/20 .*\n2 +a +0 +queued +0 .*\n3 +c +0 +queued +0 .*`)
	like(t, succeeds(t, "job", "priority", "c", "5", "--max-workers", "1"),
		`c has priority 5, and 1 workers at most; see: coordinator queue\n`)
	like(t, succeeds(t, "job", "priority", "a", "--", "-2"),
		`a has priority -2, and as many workers as it has cells; see: coordinator queue\n`)
	like(t, succeeds(t, "job", "priority", "c", "--min-workers", "1"), `c has priority 5, and 1 workers at most.*\n`)
	says(t, succeeds(t, "queue"), `.*\n1 +c +5 .*\n2 +b +3 .*\n3 +a +-2 .*`)
	says(t, succeeds(t, "job", "list"), `JOB .*\na +queued +-2 .* place 3 in the queue; waits for a worker; .*`)
	says(t, succeeds(t, "status"), `.*\nJOB +STATE +PRIORITY.*\nb +queued +3 .*`)
	like(t, succeeds(t, "job", "show", "b"), `b: queued, .*  place in the queue: 2\n`+
		`  priority 3, as many workers as it has cells, 2 at least\n.*`)
	like(t, succeeds(t, "events", "--job", "c"), `.*job c has priority 5, 1 workers at most, it had priority 0\n.*`)
	jobs := object(t, succeeds(t, "queue", "--json"), "jobs").([]any)
	var order []string
	for i, j := range jobs {
		if object(t, succeeds(t, "queue", "--json"), "jobs", i, "place") != float64(i+1) {
			t.Errorf("job %d of the queue is %v", i+1, j)
		}
		order = append(order, j.(map[string]any)["name"].(string))
	}
	if strings.Join(order, " ") != "c b a" {
		t.Errorf("as JSON the queue is %v", order)
	}
	check(t, dir, []wrong{
		{"nothing to change", words("job priority a"), exitUsage,
			[]string{"nothing is to change; give a priority, e.g.: coordinator job priority a 5"}},
		{"too high", words("job priority a 1001"), exitFailure,
			[]string{"job a: queue.priority: 1001; give one between -1000 and 1000"}},
		{"more workers than cells", words("job priority a --min-workers 9"), exitFailure,
			[]string{"job a: queue.min_workers: 9, and the job has only 2 cells", "; give at most 2"}},
		{"no number", words("job priority a high"), exitUsage, []string{"; see: coordinator job priority --help"}},
		{"of no job", words("job priority none 1"), exitFailure, []string{"none", "; see: coordinator job list"}},
	})
}
