package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestWinogradOff trains a job with Winograd's algorithm and without it: two digests, and the second is the same on one
// worker, on two, and when the job is gone on with by workers with other threads.
func TestWinogradOff(t *testing.T) {
	train, test := idx(t, "train", 200), idx(t, "test", 50)
	text := `
job: blobs
network: alexnet-32
columns: 2
seed: 5
winograd: on
data: {train: ` + train + `, test: ` + test + `}
recipe: {batch: 20, steps: 200, rate: 0.01}
checkpoint: {every: 40}
`
	dir := t.TempDir()
	on := write(t, filepath.Join(dir, "on.yaml"), []byte(text))
	off := write(t, filepath.Join(dir, "off.yaml"), []byte(strings.Replace(text, "winograd: on", "winograd: off", 1)))
	digests := map[string]string{} // by job file
	for _, r := range []struct {
		name, job string
		workers   int
		resumed   bool
	}{{"on", on, 1, false}, {"off", off, 1, false}, {"off, two workers", off, 2, false}, {"off, resumed", off, 2, true}} {
		t.Run(r.name, func(t *testing.T) {
			c := inTime(t, func(c *cluster) bool {
				c.startWorkers(r.workers)
				must(t, coordinatorProgram, "job", "submit", r.job, "--coordinator", c.address)
				if !r.resumed {
					return true
				}
				if !c.stop(7) {
					return false
				}
				c.killAll()
				c.startCoordinator()
				c.threads = 3
				c.startWorkers(2)
				must(t, coordinatorProgram, "job", "submit", "--resume", r.job, "--coordinator", c.address)
				return true
			})
			digest := c.ended("blobs")
			if all := c.generations(); r.resumed && !strings.Contains(all[len(all)-1], " from step ") {
				t.Errorf("gone on with from the start: %q", all)
			}
			if want, ok := digests[r.job]; ok && digest != want {
				t.Errorf("digest %s, on one worker it is %s", digest, want)
			}
			digests[r.job] = digest
			direct := func(numerics string) bool { return strings.HasSuffix(numerics, "/direct") }
			for _, m := range c.checkpoints() {
				if direct(m.Numerics) != (r.job == off) {
					t.Errorf("checkpoint of step %d is under %s", m.Step, m.Numerics)
				}
			}
			shown := must(t, coordinatorProgram, "job", "show", "blobs", "--coordinator", c.address)
			if strings.Contains(shown, "/direct\n") != (r.job == off) {
				t.Errorf("shown as\n%s", shown)
			}
			if d := c.status().Workers[0].Device; direct(d.Numerics) || !direct(d.DirectNumerics) {
				t.Errorf("a worker has %v", d)
			}
			// The other job of the same name is another one, not to be gone on with.
			other := map[string]string{on: off, off: on}[r.job]
			o := call(t, coordinatorProgram, "job", "submit", "--resume", other, "--coordinator", c.address)
			if o.code == 0 || !strings.Contains(o.stderr, "is another one") {
				t.Errorf("exit status %d: %s", o.code, o.stderr)
			}
		})
	}
	if digests[on] == digests[off] {
		t.Errorf("with and without Winograd's algorithm: %s", digests[on])
	}
}
