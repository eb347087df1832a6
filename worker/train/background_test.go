package train

import (
	"context"
	"sync"
	"syscall"
	"testing"
)

// priority is the calling thread's, as the system call gives it: 20 less the nice value.
func priority(t *testing.T) int {
	t.Helper()
	p, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
	if err != nil {
		t.Error(err)
	}
	return 20 - p
}

// TestBackground: work is done at the lowest priority, at the caller's own while somebody waits for it, and after the
// end of the run too.
func TestBackground(t *testing.T) {
	own := priority(t)
	if own >= lowest {
		t.Skipf("the tests run at priority %d", own)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b := newBackground()
	var run sync.WaitGroup
	run.Go(func() { b.run(ctx) })
	for _, c := range []struct {
		name  string
		hurry bool
		end   bool
		want  int
	}{
		{"while training goes on", false, false, lowest},
		{"while somebody waits", true, false, own},
		{"again while training goes on", false, false, lowest},
		{"after the run", false, true, own},
	} {
		b.hurry.Store(c.hurry)
		if c.end {
			cancel()
			run.Wait()
		}
		got := -1
		b.do(ctx, func() { got = priority(t) })
		if got != c.want {
			t.Errorf("%s: priority %d, want %d", c.name, got, c.want)
		}
	}
}
