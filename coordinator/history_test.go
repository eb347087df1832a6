package main

import (
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What a coordinator saw of a job is there again after a restart, as a table, as CSV and as lines of JSON.
func TestHistoryOfAJob(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	data := t.TempDir()
	c := serveCluster(t, data, loopback(t))
	t.Setenv("COLONNADE_COORDINATOR", c.address)
	if err := c.node.control.Ready(c.ctx); err != nil {
		t.Fatal(err)
	}
	succeeds(t, "job", "submit", writeJob(t, dir, "job.yaml"))
	like(t, succeeds(t, "history", "j"), `nothing is known of j's steps yet; see: coordinator job show j\n`)
	c.attach("train", "a")
	c.attach("train", "b")
	stopWhenHalf(t, c)
	succeeds(t, "job", "watch", "j")
	like(t, succeeds(t, "events", "--job", "j"), `(\S+ \S+  job j[^\n]*\n)+`)
	// Not "joined": on a busy machine it may have been told stopped since.
	like(t, succeeds(t, "events", "-n1", "--worker", "b"), `\S+ \S+  worker b [^\n]*\n`)
	like(t, succeeds(t, "events", "--job", "none"), `no such events are kept; see all with: coordinator events\n`)
	var tables []string
	for range 2 {
		table := succeeds(t, "history", "j")
		like(t, table, `STEPS +UNTIL +LOSS .*\n\d+ .* 0.2500 +0.2500 +0.2500 +100 +1\n.*EPOCH.*\n1 +10 .*`)
		tables = append(tables, table)
		rows, err := csv.NewReader(strings.NewReader(succeeds(t, "history", "j", "--csv", "--cells"))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		for _, row := range rows {
			kinds[row[0]]++
			if row[0] == "phase" && (row[10] != "conv1" || row[11] != "0.5" || row[1] == "") {
				t.Errorf("a phase's line is %q", row)
			}
		}
		if kinds["train"] == 0 || kinds["cell"] == 0 || kinds["phase"] != kinds["cell"] || kinds["test"] != 1 {
			t.Errorf("CSV has %v", kinds)
		}
		for line := range strings.Lines(succeeds(t, "history", "j", "--json", "--to", "10")) {
			var v map[string]any
			if err := json.Unmarshal([]byte(line), &v); err != nil || v["point"] == nil && v["evaluation"] == nil {
				t.Errorf("line %q: %v", line, err)
			}
		}
		if strings.Contains(succeeds(t, "history", "j", "--json", "--from", "11"), "{") {
			t.Error("there is a history of steps that were not done")
		}
		c.stop()
		c = serveCluster(t, data, loopback(t))
		t.Setenv("COLONNADE_COORDINATOR", c.address)
		if err := c.node.control.Ready(c.ctx); err != nil {
			t.Fatal(err)
		}
	}
	if tables[0] != tables[1] {
		t.Errorf("before a restart:\n%s\nand after it:\n%s", tables[0], tables[1])
	}
}

// A follower has what the leader saw, and goes on with it as the leader.
func TestHistoryOutlivesTheLeader(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	r := startTrio(t)
	leader := r.leader()
	succeeds(t, "job", "submit", writeJob(t, dir, "job.yaml"))
	for _, id := range []string{"a", "b"} {
		r.nodes[leader].attach("train", id)
	}
	r.until("the job has begun", func() bool {
		_, step := r.nodes[leader].node.history.Newest("j")
		return step > 0
	})
	for i, n := range r.nodes {
		r.until("all know of its steps", func() bool { _, step := n.node.history.Newest("j"); return step > 0 })
		like(t, succeeds(t, "history", "j", "--coordinator", r.nodes[i].address), `STEPS .*0.2500.*`)
		like(t, succeeds(t, "events", "--coordinator", r.nodes[i].address), `.*  coordinator \w+ leads, term \d+\n.*`)
	}
	r.nodes[leader].stop()
	next := r.leader()
	like(t, succeeds(t, "history", "j", "--coordinator", r.nodes[next].address), `STEPS .*0.2500.*`)
}

// A coordinator whose history is damaged, or cannot be kept, does all else.
func TestHistoryThatCannotBeKept(t *testing.T) {
	for name, ruin := range map[string]func(path string) error{
		"damaged": func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("no database", 1000)), 0o600) },
		"not to be put aside": func(path string) error {
			if err := os.MkdirAll(filepath.Join(path+".damaged", "taken"), 0o700); err != nil {
				return err
			}
			return os.WriteFile(path, []byte(strings.Repeat("no database", 1000)), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, data := t.TempDir(), t.TempDir()
			t.Chdir(dir)
			if err := ruin(filepath.Join(data, historyFile)); err != nil {
				t.Fatal(err)
			}
			c := serveCluster(t, data, loopback(t))
			t.Setenv("COLONNADE_COORDINATOR", c.address)
			if err := c.node.control.Ready(c.ctx); err != nil {
				t.Fatal(err)
			}
			succeeds(t, "job", "submit", writeJob(t, dir, "job.yaml"))
			c.attach("finish", "a")
			c.attach("finish", "b")
			succeeds(t, "job", "watch", "j")
			like(t, succeeds(t, "events", "--job", "j"), `.*job j is done.*`)
			if name == "damaged" {
				succeeds(t, "history", "j")
				return
			}
			says := command("history", "j")
			if like(t, says.err, `coordinator: coordinator \w+ keeps no history: .*; ask another one with `+
				`--coordinator ADDR: coordinator member list\n`); says.status != exitFailure {
				t.Errorf("status %d", says.status)
			}
		})
	}
}

// Events that come while they are followed are shown, through a change of coordinator.
func TestEventsAreFollowed(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	data := t.TempDir()
	l := loopback(t)
	c := serveCluster(t, data, l)
	t.Setenv("COLONNADE_COORDINATOR", c.address)
	var out, errs lockedBuffer
	ended := make(chan int)
	go func() {
		ended <- run(words("events --follow --json --timeout 200ms"), console{out: &out, err: &errs, now: time.Now})
	}()
	if err := c.node.control.Ready(c.ctx); err != nil {
		t.Fatal(err)
	}
	succeeds(t, "job", "submit", writeJob(t, dir, "one.yaml", "job: one"))
	until(t, "the first job's event", func() bool { return strings.Contains(out.String(), "job one submitted") })
	c.stop()
	if status := <-ended; status != exitFailure || !strings.Contains(errs.String(), "no coordinator answers at") {
		t.Errorf("status %d, %s", status, errs.String())
	}
	for line := range strings.Lines(out.String()) {
		if object(t, line, "index").(float64) < 1 {
			t.Errorf("line %q", line)
		}
	}
}

func TestWrongHistoryRequests(t *testing.T) {
	startCluster(t)
	check(t, t.TempDir(), []wrong{
		{"csv and json", words("history j --csv --json"), exitUsage, []string{"--csv and --json; choose one"}},
		{"backwards", words("history j --from 9 --to 3"), exitUsage, []string{"give --from the smaller one"}},
		{"cells in a table", words("history j --cells"), exitUsage, []string{"add --csv or --json"}},
		{"no job", words("history none"), exitFailure, []string{"there is no job none; see: coordinator job list"}},
		{"no worker", words("events --worker none"), exitFailure, []string{"see: coordinator worker list"}},
	})
}
