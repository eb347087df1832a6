package train

import (
	"context"
	"runtime"
	"sync/atomic"
	"syscall"
)

// background runs pieces of work, one at a time, on a thread of the lowest priority: they take what processor time
// training leaves, which waits for its peers now and then. While somebody waits for the result they run on the
// caller's thread, since the lowest priority may be none at all on a machine that others keep busy.
type background struct {
	pieces chan func()
	done   chan struct{}
	hurry  atomic.Bool
}

func newBackground() *background {
	return &background{pieces: make(chan func()), done: make(chan struct{})}
}

// lowest is the priority, as setpriority counts: 1.5 % of a processor that normal threads want all of.
const lowest = 19

// run works until ctx ends. The thread is its own and ends with it, since its priority cannot be raised again.
func (b *background) run(ctx context.Context) {
	runtime.LockOSThread()
	// Of the calling thread: Linux gives every thread a priority. Without it, work is done all the same.
	_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, lowest)
	for {
		select {
		case piece := <-b.pieces:
			piece()
			b.done <- struct{}{}
		case <-ctx.Done():
			return
		}
	}
}

// do has a piece done by run, or does it when there is no time to lose or no run any more.
func (b *background) do(ctx context.Context, piece func()) {
	if !b.hurry.Load() {
		select {
		case b.pieces <- piece:
			<-b.done
			return
		case <-ctx.Done():
		}
	}
	piece()
}
