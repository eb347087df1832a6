package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"colonnade/proto/clusterpb"
	"colonnade/proto/exchangepb"
	"colonnade/worker/arena"
)

// These tests have workers pretend to be on machines of their own and lose one of those: its process, and all that lies
// in its memory. The job goes on from copies on the others, to the undisturbed run's end.

// memoryOf is the directory of memory of worker i's machine.
func (c *cluster) memoryOf(i int) string {
	c.t.Helper()
	if len(c.machines) == 0 {
		return c.arenas
	}
	dir := filepath.Join(c.arenas, c.machines[i-1])
	if err := os.MkdirAll(dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	return dir
}

// loseMachine ends a worker and its machine's memory.
func (c *cluster) loseMachine(i int) {
	c.t.Helper()
	c.workers[i].kill()
	if err := os.RemoveAll(c.memoryOf(i)); err != nil {
		c.t.Fatal(err)
	}
}

// finishedOn is the newest step that a worker's cell of the job has finished, by its arena.
func (c *cluster) finishedOn(i int) (step uint64) {
	store := arena.Open(arena.Config{Shared: []string{c.memoryOf(i)}, Log: slog.New(slog.DiscardHandler)})
	for _, h := range store.Held(c.status().Cluster, "blobs") {
		step = max(step, h.Steps[0])
	}
	return step
}

// safe says whether each of the job's two cells has a copy of a step on two machines.
func (c *cluster) safe(step uint64) bool {
	c.t.Helper()
	s := c.status()
	for column := range int32(2) {
		holders := 0
		for _, w := range s.Workers {
			if w.State == "connected" && hasCopy(c.t, w.Address, &exchangepb.CopyRequest{Cluster: s.Cluster, Job: "blobs",
				Column: column, Step: step}) {
				holders++
			}
		}
		if holders < 2 {
			return false
		}
	}
	return true
}

// heard says whether a word is in the text of some event: on a busy machine a worker may have been silent for too long.
func (c *cluster) heard(word string) bool {
	return slices.ContainsFunc(c.status().Events, func(e *clusterpb.LogEvent) bool {
		return strings.Contains(e.Text, word)
	})
}

// hasCopy asks a worker for a copy.
func hasCopy(t testing.TB, address string, r *exchangepb.CopyRequest) bool {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	stream, err := exchangepb.NewCopiesClient(conn).Get(ctx, r)
	if err != nil {
		return false
	}
	first, err := stream.Recv()
	return err == nil && first.Header.GetStep() == r.Step
}

// newestSafe waits until a step behind one is safe and returns it.
func (c *cluster) newestSafe(behind uint64) (step uint64) {
	c.t.Helper()
	c.until(fmt.Sprintf("a step behind %d is safe", behind), func(context.Context) bool {
		j := c.watch("blobs", past(0))
		for s := j.Step; s > behind && s+30 > j.Step; s-- {
			if s%copiesEvery == 0 && c.safe(s) {
				step = s
				return true
			}
		}
		return false
	})
	return step
}

const copiesEvery = 10 // steps: the default

// machineRuns are ways to lose machines.
var machineRuns = []struct {
	name     string
	machines []string
	losses   int
}{
	{"a spare on another machine takes over", []string{"a", "b", "c"}, 1},
	{"the one that is left takes both", []string{"a", "b"}, 1},
	{"two machines one after the other", []string{"a", "b", "c", "d"}, 2},
}

func TestMachinesAreLost(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("random cells from seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, size := range sizes(2 * tinySteps()) {
		job := memoryJob(t, size.network, size.batch, size.steps)
		clean := newCluster(t)
		clean.startWorkers(1)
		must(t, coordinatorProgram, "job", "submit", job, "--coordinator", clean.address)
		want := clean.ended("blobs")
		clean.killAll()
		for _, r := range first(machineRuns, size.runs) {
			t.Run(size.network+", "+r.name, func(t *testing.T) {
				c := newCluster(t)
				c.machines, c.carrier = r.machines, "grpc"
				c.startWorkers(len(r.machines))
				must(t, coordinatorProgram, "job", "submit", job, "--coordinator", c.address)
				behind := uint64(0)
				for range r.losses {
					safe := c.newestSafe(behind)
					j := c.watch("blobs", past(0))
					i := whereCell(t, j, int32(random.IntN(2)))
					c.loseMachine(i)
					before := j.Generation // more than one a loss, where a busy machine has had a worker silent for too long
					c.watch("blobs", func(j *clusterpb.Job) bool {
						return j.Generation > before && j.State != "recovering"
					})
					began := c.generations()
					from := fromMemory(t, began[len(began)-1])
					if from < safe {
						t.Errorf("step %d was safe on other machines: %v", safe, began)
					}
					t.Logf("step %d was safe; %s", safe, began[len(began)-1])
					behind = from
				}
				if got := c.ended("blobs"); got != want {
					t.Errorf("digest %s, undisturbed it is %s", got, want)
				}
				if n := len(c.generations()) - 1; n < r.losses || n > r.losses && !c.heard("silent") {
					t.Errorf("%d generations after the first: %s", n, strings.Join(c.generations(), "; "))
				}
				c.until("nobody keeps copies", func(context.Context) bool {
					for s := uint64(copiesEvery); s <= uint64(size.steps); s += copiesEvery {
						for _, w := range c.status().Workers {
							for column := range int32(2) {
								if w.State == "connected" && hasCopy(t, w.Address, &exchangepb.CopyRequest{Cluster: c.status().Cluster,
									Job: "blobs", Column: column, Step: s}) {
									return false
								}
							}
						}
					}
					return true
				})
			})
		}
	}
}
