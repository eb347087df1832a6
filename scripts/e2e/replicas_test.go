package e2e

import (
	"fmt"
	"path/filepath"
	"testing"

	"colonnade/proto/clusterpb"
)

// TestReplicas trains two replicas of two columns on one, two and four workers, with one of them killed, and wants one
// digest, and replicas that have ended in the same state.
func TestReplicas(t *testing.T) {
	train, test := idx(t, "train", 200), idx(t, "test", 50)
	job := write(t, filepath.Join(t.TempDir(), "job.yaml"), fmt.Appendf(nil, `
job: blobs
network: alexnet-32
columns: 2
replicas: 2
seed: 5
data: {train: %s, test: %s}
recipe: {batch: 20, steps: 120, rate: 0.01}
augment: {crop: random, flip: true}
checkpoint: {every: 20}
`, train, test))
	want := ""
	for _, r := range []struct {
		name    string
		workers int
		killed  bool
	}{{"one worker", 1, false}, {"two workers", 2, false}, {"four workers", 4, false}, {"four, one killed", 4, true}} {
		t.Run(r.name, func(t *testing.T) {
			c := inTime(t, func(c *cluster) bool {
				c.startWorkers(r.workers)
				must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
				if !r.killed {
					return true
				}
				if !c.sees("blobs", past(7)) {
					return false
				}
				c.workers[3].kill()
				return c.sees("blobs", func(j *clusterpb.Job) bool { return j.Generation > 1 })
			})
			got := c.ended("blobs")
			if want == "" {
				want = got
			}
			if got != want {
				t.Errorf("digest %s, on one worker it is %s", got, want)
			}
			all := c.checkpoints()
			last := all[len(all)-1]
			if last.Step != 120 || len(last.Files) != 4 {
				t.Fatalf("last checkpoint is %v", last)
			}
			states := map[int32]string{} // by column
			for _, f := range last.Files {
				digest := fmt.Sprintf("%x", f.Digest)
				if first, ok := states[f.Cell.Column]; ok && first != digest {
					t.Errorf("column %d has states %s and %s", f.Cell.Column, first, digest)
				}
				states[f.Cell.Column] = digest
			}
			if o := must(t, coordinatorProgram, "job", "show", "blobs", "--coordinator", c.address); r.killed {
				t.Log(o)
			}
			if j := c.status().Jobs[0]; r.killed != (j.Generation > 1) && (r.killed || !c.heard("silent")) {
				t.Errorf("it took %d generations", j.Generation)
			}
		})
	}
}
