package e2e

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"colonnade/worker/arena"
)

// BenchmarkRecovery kills a worker of two (SIGKILL) and takes the time until both columns have finished a step that was
// not finished before, by what lies in their arenas: with a spare, with the process started again at once, and with
// none. One iteration is one kill of a job that goes on; the job is the small one of the other tests. It wants a quiet
// machine: bench go test ./scripts/e2e -run '^$' -bench Recovery -benchtime 20x
func BenchmarkRecovery(b *testing.B) {
	for _, kind := range []struct {
		name    string
		workers int
		again   bool
	}{{"spare", 3, true}, {"restart", 2, true}} {
		b.Run(kind.name, func(b *testing.B) {
			c := newCluster(b)
			c.threads = 1
			c.startWorkers(kind.workers)
			job := memoryJob(b, "alexnet-32", 32, 100_000)
			must(b, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
			j := c.watch("blobs", past(5))
			store := arena.Open(arena.Config{Shared: []string{c.arenas}, Log: slog.New(slog.DiscardHandler)})
			cluster := c.status().Cluster
			var took []time.Duration
			lost := uint64(0)
			for n := 0; b.Loop(); n++ {
				i := whereCell(b, j, int32(n%2))
				generation := j.Generation
				at, _ := newestIn(store, cluster)
				began := time.Now()
				c.workers[i].kill()
				killed, _ := newestIn(store, cluster) // nothing goes on without the dead one
				if kind.workers == 2 {
					c.startWorker(i)
				}
				for step := uint64(0); step <= max(at, killed); step, _ = newestIn(store, cluster) {
					<-time.After(time.Millisecond)
				}
				took = append(took, time.Since(began))
				if kind.workers == 3 {
					c.startWorker(i) // the next spare
				}
				events := c.generations()
				if from := fromMemory(b, events[len(events)-1]); from < killed {
					lost += killed - from
				}
				j = c.watch("blobs", past(killed+5))
				if j.Generation == generation {
					b.Fatal("nobody has noticed")
				}
				c.connected(kind.workers)
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2].Seconds()*1000, "ms-median")
			b.ReportMetric(took[len(took)*95/100].Seconds()*1000, "ms-p95")
			b.ReportMetric(float64(lost), "steps-lost")
		})
	}
}
