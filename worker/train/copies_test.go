package train

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"testing"

	"colonnade/worker/exchange"
)

// copying is one cell's copier, whose copies end as the test says.
type copying struct {
	*copier
	asked chan copyJob
	end   chan bool
	over  chan struct{}
}

func startCopying(t *testing.T, every uint64, soon bool) *copying {
	t.Helper()
	x := &copying{asked: make(chan copyJob), end: make(chan bool), over: make(chan struct{})}
	x.copier = &copier{c: &Cell{id: exchange.Cell{}, log: slog.New(slog.DiscardHandler)}, every: every, soon: soon,
		todo: make(chan copyJob, 1)}
	x.copy = func(ctx context.Context, step, keep uint64) (bool, error) {
		x.asked <- copyJob{step, keep}
		if <-x.end {
			return true, nil
		}
		return false, errors.New("nobody takes it")
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(x.over)
		x.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-x.over
	})
	return x
}

// ends ends the copy that runs and waits until the cell knows.
func (x *copying) ends(t *testing.T, step uint64, whole bool) {
	t.Helper()
	x.end <- whole
	for x.progress().tried != step {
		runtime.Gosched() // a moment
	}
}

// TestCopiesAreOfTheSameSteps steps two cells, of which one's copies are slow or fail: no copy begins before all are
// done with the one before, and only what both have is to be kept.
func TestCopiesAreOfTheSameSteps(t *testing.T) {
	a, b := startCopying(t, 10, false), startCopying(t, 10, false)
	step := uint64(0)
	to := func(last uint64) { // what a guard tells both in each step
		for step < last {
			step++
			all := a.progress()
			all.behind(b.progress())
			for _, x := range []*copying{a, b} {
				if err := x.due(step, all); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	begin := func(step, keep uint64) {
		t.Helper()
		for _, x := range []*copying{a, b} {
			if got := <-x.asked; got != (copyJob{step, keep}) {
				t.Errorf("a copy of step %d, to keep %d; want %d and %d", got.step, got.keep, step, keep)
			}
		}
	}
	to(9)
	if len(a.todo)+len(b.todo) > 0 || a.begun > 0 {
		t.Fatal("a copy begins before it is due")
	}
	to(10)
	begin(10, 0)
	a.ends(t, 10, true)
	to(20) // b's copy of step 10 is under way
	if a.begun != 10 || len(a.todo) > 0 {
		t.Error("a cell begins a copy while another is at the one before")
	}
	b.ends(t, 10, true)
	to(30)
	begin(30, 10)
	a.ends(t, 30, true)
	b.ends(t, 30, false)
	to(40)
	begin(40, 10) // step 30 is a's alone
	a.ends(t, 40, false)
	b.ends(t, 40, true)
	to(50)
	begin(50, 10)
	a.ends(t, 50, true)
	b.ends(t, 50, true)
	to(60)
	begin(60, 50)
	a.ends(t, 60, true)
	b.ends(t, 60, true)
}

// A generation that goes on from memory has nothing on disk: its first copy comes at once.
func TestTheFirstCopyAfterMemory(t *testing.T) {
	x := startCopying(t, 10, true)
	if err := x.due(33, progress{}); err != nil {
		t.Fatal(err)
	}
	if got := <-x.asked; got != (copyJob{33, 0}) {
		t.Errorf("%+v", got)
	}
	x.ends(t, 33, true)
	if err := x.due(34, x.progress()); err != nil {
		t.Fatal(err)
	}
	if len(x.todo) > 0 || x.begun != 33 {
		t.Error("another comes out of turn")
	}
}
