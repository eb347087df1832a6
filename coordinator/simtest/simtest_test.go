package simtest

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var (
	seed      = flag.Uint64("sim.seed", 0, "simulate this seed alone, and print all that happens")
	schedules = flag.Uint64("schedules", 0, "simulate so many seeds (0: 1,000)")
	first     = flag.Uint64("sim.first", 1, "the first of them")
)

// suite is how many lives are simulated when nobody asks for more.
const suite = 1_000

func TestMain(m *testing.M) {
	debug.SetGCPercent(800) // lives are short and small
	os.Exit(m.Run())
}

// totals is what has happened in many lives.
type totals struct {
	runs, generations, committed, lost, remembered, moved, copied, machines, forgot, vetoed,
	preempted, paused, forked, deleted, events int
}

func (t *totals) add(s *sim) {
	t.runs++
	t.generations += len(s.check.placed)
	t.committed += s.check.committed
	t.lost += s.check.lost
	t.remembered += s.check.remembered
	t.moved += s.check.moved
	t.copied += s.check.copied
	t.machines += s.check.machines
	t.forgot += s.check.forgot
	t.vetoed += s.check.vetoed
	t.preempted += s.check.preempted
	t.paused += s.check.paused
	t.forked += s.check.forked
	t.deleted += s.check.deleted
	t.events += s.count
}

// violation is a life in which something was wrong.
type violation struct {
	seed uint64
	err  error
}

// simulate lives through seeds on all processors, each life in one goroutine, until one is found in which something is
// wrong: it returns the first of those by seed.
func simulate(from, n uint64) (all totals, found *violation) {
	var next, stop atomic.Uint64
	next.Store(from)
	stop.Store(from + n)
	var mu sync.Mutex
	var tasks sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		tasks.Go(func() {
			var mine totals
			for {
				at := next.Add(1) - 1
				if at >= stop.Load() {
					break
				}
				s := newSim(at)
				err := s.run()
				mine.add(s)
				if err != nil {
					mu.Lock()
					if found == nil || at < found.seed {
						found = &violation{at, err}
						stop.Store(at) // those before it are under way
					}
					mu.Unlock()
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all.runs += mine.runs
			all.generations += mine.generations
			all.committed += mine.committed
			all.lost += mine.lost
			all.remembered += mine.remembered
			all.moved += mine.moved
			all.copied += mine.copied
			all.machines += mine.machines
			all.forgot += mine.forgot
			all.vetoed += mine.vetoed
			all.preempted += mine.preempted
			all.paused += mine.paused
			all.forked += mine.forked
			all.deleted += mine.deleted
			all.events += mine.events
		})
	}
	tasks.Wait()
	return all, found
}

// TestSimulations simulates one cluster after another, always the same ones:
//
//	go test ./coordinator/simtest -run Simulations -schedules 100000 -v
//
// A failure prints its seed and the command that prints that one's whole life.
func TestSimulations(t *testing.T) {
	if *seed != 0 {
		trace, err := traced(*seed)
		t.Logf("seed %d:\n%s", *seed, strings.Join(trace, "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	n := *schedules
	if n == 0 {
		n = suite
	}
	began, used := time.Now(), processTime(t)
	all, found := simulate(*first, n)
	took, used := time.Since(began), processTime(t)-used
	if found != nil {
		trace, _ := traced(found.seed)
		t.Fatalf("seed %d: %v\nlast of what happened (all of it: %s):\n%s", found.seed, found.err, again(found.seed),
			strings.Join(trace[max(0, len(trace)-25):], "\n"))
	}
	t.Logf("%d clusters in %v, %.0f a second, %.0f a second of one processor: %d events, %d generations, of which %d "+
		"went on from memory, %d checkpoints committed, %d workers given up, %d moves, %d machines lost, "+
		"%d cells gone on from copies, %d workers forgotten, %d vetoes, %d jobs preempted, %d paused, %d forked, %d "+
		"deleted", all.runs,
		took.Round(time.Millisecond),
		float64(all.runs)/took.Seconds(), float64(all.runs)/used.Seconds(), all.events, all.generations,
		all.remembered, all.committed, all.lost, all.moved, all.machines, all.copied, all.forgot, all.vetoed,
		all.preempted, all.paused, all.forked, all.deleted)
	if all.lost < all.runs/2 || all.remembered < all.runs/10 || all.moved < all.runs/10 || all.generations < 3*all.runs ||
		all.machines < all.runs/10 || all.copied < all.runs/20 || all.forgot < all.runs/50 ||
		all.vetoed < all.runs/10 || all.preempted < all.runs/20 ||
		all.paused < all.runs/20 || all.forked < all.runs/10 || all.deleted < all.runs/20 {
		t.Error("too little happens: nobody is lost, or jobs run through")
	}
}

// processTime is what this process has had of processors.
func processTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// again is the command that lives a seed's life again.
func again(seed uint64) string {
	return fmt.Sprintf("go test ./coordinator/simtest -run 'Simulations$' -sim.seed %d -v", seed)
}

// traced simulates a seed and writes down what happens.
func traced(seed uint64) ([]string, error) {
	s := newSim(seed)
	s.traced = true
	err := s.run()
	return s.trace, err
}

// A seed is all there is to a simulation: the same one gives the same life, event by event.
func TestSimulationsRepeat(t *testing.T) {
	for n := uint64(1); n <= 50; n++ {
		a, b := newSim(n), newSim(n)
		a.traced, b.traced = true, true
		errA, errB := a.run(), b.run()
		if x, y := strings.Join(a.trace, "\n"), strings.Join(b.trace, "\n"); x != y || (errA == nil) != (errB == nil) {
			t.Fatalf("seed %d: two lives (%v, %v):\n%s\n\n%s", n, errA, errB, x, y)
		}
	}
}
