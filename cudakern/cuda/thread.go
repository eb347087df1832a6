//go:build cuda && cgo

package cuda

import (
	"fmt"
	"runtime"
	"sync"

	"colonnade/cudakern"
)

// thread is the one OS thread that a device's driver calls are made on: the driver keeps what is current by thread, and
// a goroutine that moved to another would lose it. Calls go through a channel in the order they are made. Most are
// enqueued and not waited for; their errors come out at Sync of their stream.
type thread struct {
	mu     sync.RWMutex // closing against calling
	closed bool
	calls  chan request
	ended  chan struct{}
}

// request is one thing to do. Its error goes to reply, or else to the stream.
type request struct {
	run   func() error
	st    *stream
	reply chan error
}

// queued is how many calls may wait: enough for the launches of a step, so that who enqueues is ahead of the driver.
const queued = 256

// startThread starts a thread and has it run begin; where that fails the thread ends.
func startThread(begin func() error) (*thread, error) {
	t := &thread{calls: make(chan request, queued), ended: make(chan struct{})}
	began := make(chan error)
	go func() {
		defer close(t.ended)
		runtime.LockOSThread() // for good: the thread ends with the goroutine, and what is current on it too
		err := begin()
		began <- err
		if err != nil {
			return
		}
		for r := range t.calls {
			err := r.run()
			switch {
			case r.reply != nil:
				r.reply <- err
			case err != nil:
				r.st.fail(err)
			}
		}
	}()
	if err := <-began; err != nil {
		<-t.ended
		return nil, err
	}
	return t, nil
}

var errThreadClosed = fmt.Errorf("cuda device: %w", cudakern.ErrClosed)

func (t *thread) send(r request) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.closed {
		return errThreadClosed
	}
	t.calls <- r
	return nil
}

var replies = sync.Pool{New: func() any { return make(chan error, 1) }}

// do runs f on the thread, after all that was posted before, and returns its error.
func (t *thread) do(f func() error) error {
	reply := replies.Get().(chan error)
	if err := t.send(request{run: f, reply: reply}); err != nil {
		return err
	}
	err := <-reply
	replies.Put(reply)
	return err
}

// post has f run on the thread and does not wait; its error is the stream's.
func (t *thread) post(st *stream, f func() error) error { return t.send(request{run: f, st: st}) }

// close ends the thread when it has done what it was given.
func (t *thread) close() {
	t.mu.Lock()
	already := t.closed
	t.closed = true
	if !already {
		close(t.calls)
	}
	t.mu.Unlock()
	<-t.ended
}
