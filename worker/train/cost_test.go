package train

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"colonnade/cudakern/cpu"
	"colonnade/shard/job"
	"colonnade/worker/arena"
	"colonnade/worker/exchange"
)

// turns is a set of cells that does steps when it is its turn, so that sets that differ in one thing can be compared on
// a machine whose speed changes from second to second.
type turns struct {
	name  string
	setup setup
	go1   []chan int // by cell: so many steps
	done  chan error
	ended chan struct{}
	took  []float64 // seconds a step, by turn
}

// errOver ends a set's run.
var errOver = errors.New("the benchmark is over")

// start builds the set's cells, which then wait for turns.
func (s *turns) start(b *testing.B) {
	cells := s.setup.job.Columns * s.setup.job.Replicas
	s.done, s.ended = make(chan error, cells), make(chan struct{})
	for range cells {
		s.go1 = append(s.go1, make(chan int))
	}
	var mu sync.Mutex
	free := slices.Clone(s.go1)
	s.setup.steps = func(ctx context.Context, c *Cell) error {
		mu.Lock()
		mine := free[0]
		free = free[1:]
		mu.Unlock()
		err := c.inRun(ctx, func(ctx context.Context) error {
			for n := range mine {
				for range n {
					if _, err := c.oneStep(ctx); err != nil {
						s.done <- err
						return err
					}
				}
				s.done <- nil
			}
			return errOver
		})
		if errors.Is(err, errOver) {
			return nil
		}
		return err
	}
	go func() {
		defer close(s.ended)
		s.setup.run(b)
	}()
}

// turn does n steps.
func (s *turns) turn(b *testing.B, n int) time.Duration {
	began := time.Now()
	for _, c := range s.go1 {
		c <- n
	}
	for range s.go1 {
		if err := <-s.done; err != nil {
			b.Fatalf("%s: %v", s.name, err)
		}
	}
	return time.Since(began)
}

func (s *turns) end() {
	for _, c := range s.go1 {
		close(c)
	}
	<-s.ended
}

// BenchmarkUndisturbed takes turns between sets of two cells of alexnet-32, batch 32, that have none, one or both of
// what keeps a state safe, and tells for each what part of a step it takes more than the set without: the mean over
// turns of the ratio of neighbours, with its standard error, and the ratio of the medians. An op is a round of turns.
func BenchmarkUndisturbed(b *testing.B) {
	for _, carrier := range []string{"grpc", "shm"} {
		b.Run(carrier, func(b *testing.B) { undisturbed(b, carrier) })
	}
}

func undisturbed(b *testing.B, carrier string) {
	const steps = 8
	store := arena.Open(arena.Config{Shared: []string{b.TempDir()}, Log: slog.New(slog.DiscardHandler)})
	if dir, err := os.MkdirTemp("/dev/shm", "colonnade-cost-"); err == nil {
		defer os.RemoveAll(dir)
		store = arena.Open(arena.Config{Shared: []string{dir}, Log: slog.New(slog.DiscardHandler)})
	}
	f := torchJob{Images: 512, Size: 32, Classes: 10, Channels: 1}
	path := formulaPack(b, f)
	var sets []*turns
	for i, name := range []string{"none", "arenas", "guard", "both"} {
		dev, err := cpu.New()
		if err != nil {
			b.Fatal(err)
		}
		defer dev.Close()
		s := &turns{name: name, setup: setup{dev: dev, root: b.TempDir(), carrier: carrier,
			job: makeJob(b, "alexnet-32", 2, path, "", func(j *job.Job) {
				j.Recipe.Batch, j.Recipe.Epochs, j.Recipe.Rate, j.Checkpoint.Every = 32, 1_000_000, 1e-6, 1_000_000
				if i&2 == 0 {
					j.Guard = &job.Guard{Then: job.GuardOff}
				}
			})}}
		if i&1 == 1 {
			s.setup.memory = func(id exchange.Cell, l MemoryLayout) (Memory, error) {
				return store.Make(arena.Key{Cluster: "cost", Job: name, Column: id.Column, HalfBytes: l.Bytes}, 1)
			}
		}
		s.start(b)
		defer s.end()
		s.turn(b, 2*steps)
		sets = append(sets, s)
	}
	for round := 0; b.Loop(); round++ {
		for i := range sets {
			s := sets[(i+round)%len(sets)] // nobody always comes behind the same
			s.turn(b, 2)
			s.took = append(s.took, s.turn(b, steps).Seconds()/steps)
		}
	}
	for _, s := range sets {
		s.report(b, sets[0])
	}
}

// report tells what a step takes, and how much more than another set's.
func (s *turns) report(b *testing.B, o *turns) {
	var mean, sure float64
	var all []float64
	for i := range s.took {
		all = append(all, s.took[i]/o.took[i]-1)
		mean += all[i] / float64(len(s.took))
	}
	for _, x := range all {
		sure += (x - mean) * (x - mean)
	}
	n := float64(len(all))
	b.Logf("%-8s %7.3f ms a step, the median of %d turns; %+.2f ± %.2f %% more, by the medians %+.2f %%", s.name,
		1e3*median(s.took), len(all), 1e2*mean, 1e2*math.Sqrt(sure/(n-1)/n), 1e2*(median(s.took)/median(o.took)-1))
}

func median(values []float64) float64 { return slices.Sorted(slices.Values(values))[len(values)/2] }
