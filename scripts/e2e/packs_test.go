package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAPackThatOneWorkerHas takes a job's packs from where the job has them to one worker's directory. The other
// fetches them from there, and the digest is as ever.
func TestAPackThatOneWorkerHas(t *testing.T) {
	job := diskJob(t, 40, 20)
	want := undisturbed(t, job)
	c := newCluster(t)
	must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
	own := filepath.Join(c.dir, "worker-1", "packs")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, path := range packsOf(t, job) {
		var about struct{ ID string }
		if err := json.Unmarshal([]byte(must(t, workerProgram, "data", "info", "--json", path)), &about); err != nil {
			t.Fatal(err)
		}
		ids[about.ID] = true
		if err := os.Rename(path, filepath.Join(own, filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
	}
	c.startWorkers(2)
	if got := c.ended("blobs"); got != want {
		t.Errorf("digest %s, undisturbed it is %s", got, want)
	}
	var fetched []string
	c.until("the other worker has both packs", func(context.Context) bool {
		fetched, _ = filepath.Glob(filepath.Join(c.dir, "worker-2", "packs", "*"))
		return len(fetched) == len(ids)
	})
	for _, path := range fetched {
		if !ids[strings.TrimSuffix(filepath.Base(path), ".pack")] {
			t.Errorf("worker 2 has %s, which is none of the packs", path)
		}
	}
}

// packsOf are the packs that a job file names.
func packsOf(t *testing.T, job string) (paths []string) {
	t.Helper()
	text, err := os.ReadFile(job)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range strings.FieldsFunc(string(text), func(r rune) bool { return strings.ContainsRune(" {},\n", r) }) {
		if strings.HasSuffix(word, ".pack") {
			paths = append(paths, word)
		}
	}
	return paths
}
