package simtest

import (
	"flag"
	"strings"
	"testing"
	"time"
)

var (
	seed   = flag.Uint64("sim.seed", 0, "simulate this seed alone, and print all that happens")
	budget = flag.Duration("sim.budget", 8*time.Second, "simulate new seeds for so long")
)

// TestSimulations runs one cluster after another until the budget is spent, always the same ones in the same order. A
// failure prints its seed; -sim.seed prints that one's whole life.
func TestSimulations(t *testing.T) {
	if *seed != 0 {
		trace, err := traced(*seed)
		t.Logf("seed %d:\n%s", *seed, strings.Join(trace, "\n"))
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	began, runs, total := time.Now(), 0, struct{ generations, committed, lost, remembered int }{}
	for n := uint64(1); n <= 50 || time.Since(began) < *budget; n++ {
		s := newSim(n)
		if err := s.run(); err != nil {
			trace, _ := traced(n)
			t.Fatalf("seed %d: %v\nlast of what happened (all of it: go test ./coordinator/simtest -sim.seed %d -v):\n%s", n,
				err, n,
				strings.Join(trace[max(0, len(trace)-25):], "\n"))
		}
		runs++
		total.generations += len(s.check.placed)
		total.committed += s.check.committed
		total.lost += s.check.lost
		total.remembered += s.check.remembered
	}
	t.Logf("%d clusters, %d generations, %d files of committed checkpoints, %d workers given up, in %v", runs,
		total.generations,
		total.committed, total.lost, time.Since(began).Round(time.Millisecond))
	t.Logf("%d generations went on from memory", total.remembered)
	if total.lost == 0 || total.remembered < runs/10 || total.generations < 3*runs {
		t.Error("too little happens: nobody is lost, or jobs run through")
	}
}

// traced simulates a seed and writes down what happens.
func traced(seed uint64) ([]string, error) {
	s := newSim(seed)
	s.traced = true
	err := s.run()
	return s.trace, err
}

// A seed is all there is to a simulation: the same one gives the same life, entry by entry.
func TestSimulationsRepeat(t *testing.T) {
	for n := uint64(1); n <= 10; n++ {
		a, b := newSim(n), newSim(n)
		a.run()
		b.run()
		x, y := a.state.View(), b.state.View()
		p, errA := x.Encode()
		q, errB := y.Encode()
		if errA != nil || errB != nil || string(p) != string(q) {
			t.Fatalf("seed %d: two lives (%v, %v)", n, errA, errB)
		}
	}
}
