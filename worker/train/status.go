package train

import (
	"maps"
	"sync"
	"time"
)

// Status is how far a cell is, for people: it reaches no weight.
type Status struct {
	Step            uint64  // finished steps
	Phase           string  // what it is doing
	Loss            float64 // mean over the whole batch of the last finished step
	ImagesPerSecond float64 // of the last steps, whole batch
	PhaseSeconds    map[string]float64
}

// tracker keeps a cell's status where other goroutines may read it.
type tracker struct {
	mu   sync.Mutex
	s    Status
	last time.Time // end of the last step
	rate float64   // seconds a step, smoothed
}

func (t *tracker) enter(phase string) {
	t.mu.Lock()
	t.s.Phase = phase
	t.mu.Unlock()
}

// smoothing is the weight of the newest step in the smoothed time of a step.
const smoothing = 0.1

// start says that stepping begins, or goes on after something that is no step.
func (t *tracker) start(now time.Time, step uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last, t.s.Step = now, step
}

// finished says that a step is done, and returns the seconds since the end of the one before.
func (t *tracker) finished(now time.Time, step uint64, batch int, loss float64) (seconds float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seconds = now.Sub(t.last).Seconds()
	if t.rate == 0 {
		t.rate = seconds
	}
	t.rate += smoothing * (seconds - t.rate)
	t.last, t.s.Step, t.s.Loss = now, step, loss
	if t.rate > 0 {
		t.s.ImagesPerSecond = float64(batch) / t.rate
	}
	return seconds
}

func (t *tracker) phases(seconds map[string]float64) {
	t.mu.Lock()
	t.s.PhaseSeconds = seconds
	t.mu.Unlock()
}

func (t *tracker) read() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.s
	s.PhaseSeconds = maps.Clone(s.PhaseSeconds)
	return s
}
