//go:build cuda && cgo

package cuda

import (
	"fmt"
	"sync"
	"sync/atomic"

	"gorgonia.org/cu"

	"colonnade/cudakern"
)

// marks is how many events a stream records into in turn. An event whose mark has been taken over by a later one stands
// for that later point: what waits for it waits a little longer than it must, never less, and never in a circle, since
// everything it could wait for was enqueued before.
const marks = 16

// stream is a queue of the driver's. All but waiting is done on the device's thread.
type stream struct {
	d *Device
	s cu.Stream

	recorded uint64 // events so far; of the stream's own goroutine
	events   [marks]cu.Event
	passed   atomic.Uint64 // the newest that is known to be done
	busy     atomic.Bool   // something was enqueued since the last Sync
	in, out  *staging      // for host memory that is not pinned, once it is needed

	life   sync.RWMutex // closing against others' waiting
	closed atomic.Bool

	mu  sync.Mutex
	err error // the first of what was enqueued; everything after it is void
}

func (d *Device) NewStream() (cudakern.Stream, error) {
	st := &stream{d: d}
	err := d.do(func() (err error) {
		if st.s, err = cu.MakeStream(cu.NonBlocking); err != nil {
			return failed(err, "cuStreamCreate", "")
		}
		for i := range st.events {
			if st.events[i], err = cu.MakeEvent(cu.DisableTiming | cu.BlockingSyncEvent); err != nil {
				st.destroy()
				return failed(err, "cuEventCreate", "")
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("new stream on %s: %w", d.name, err)
	}
	d.mu.Lock()
	d.streams[st] = struct{}{}
	d.mu.Unlock()
	d.opened()
	return st, nil
}

// destroy gives the driver's objects back, on the device's thread.
func (st *stream) destroy() error {
	var err error
	for i := range st.events {
		if st.events[i] != (cu.Event{}) {
			err = first(err, failed(cu.DestroyEvent(&st.events[i]), "cuEventDestroy", ""))
		}
	}
	return first(err, failed(st.s.Destroy(), "cuStreamDestroy", ""))
}

// fail keeps the first error.
func (st *stream) fail(err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err == nil {
		st.err = err
	}
}

func (st *stream) failure() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.err
}

// enqueue has f called on the device's thread, in the stream's order.
func (st *stream) enqueue(f func() error) error {
	if st.closed.Load() {
		return fmt.Errorf("stream of %s: %w", st.d.name, cudakern.ErrClosed)
	}
	if err := st.failure(); err != nil {
		return err
	}
	st.busy.Store(true)
	return st.d.post(st, f)
}

// event is the stream's nth mark.
type event struct {
	st *stream
	n  uint64
}

func (e event) mark() cu.Event { return e.st.events[e.n%marks] }

func (st *stream) Record() (cudakern.Event, error) { return st.record() }

func (st *stream) record() (event, error) {
	st.recorded++
	e := event{st, st.recorded}
	return e, st.enqueue(func() error { return failed(e.mark().Record(st.s), "cuEventRecord", "") })
}

func (st *stream) Wait(e cudakern.Event) error {
	ev, ok := e.(event)
	if !ok {
		return fmt.Errorf("wait on %s: the event is not of a CUDA device: %w", st.d.name, cudakern.ErrUnsupported)
	}
	if st.d.dry || ev.st.closed.Load() || ev.st.passed.Load() >= ev.n {
		return nil
	}
	if ev.st.d != st.d { // another thread's queue: its Record must have been called before our wait is
		if err := ev.st.d.flush(); err != nil {
			return err
		}
	}
	return st.enqueue(func() error { return failed(st.s.Wait(ev.mark(), 0), "cuStreamWaitEvent", "") })
}

// Done asks the driver.
func (e event) Done() (bool, error) {
	if e.st.d.dry || e.st.closed.Load() || e.st.passed.Load() >= e.n {
		return true, e.st.failure()
	}
	done := false
	err := e.st.d.do(func() error {
		err := e.mark().Query()
		if codeOf(err) == codeNotReady {
			return nil
		}
		done = err == nil
		return failed(err, "cuEventQuery", "")
	})
	if done {
		e.passed()
	}
	return done, first(err, e.st.failure())
}

// passed remembers that the event is done.
func (e event) passed() {
	for {
		if was := e.st.passed.Load(); was >= e.n || e.st.passed.CompareAndSwap(was, e.n) {
			return
		}
	}
}

// wait blocks the caller until the event is done.
func (e event) wait() error {
	if e.st.d.dry || e.st.passed.Load() >= e.n {
		return nil
	}
	if err := e.st.d.flush(); err != nil {
		return err
	}
	if err := e.st.failure(); err != nil {
		return err
	}
	if err := e.st.d.noticed(waitEvent(e.st.d.ctx, e.mark())); err != nil {
		return err
	}
	e.passed()
	return nil
}

func (st *stream) Sync() error {
	if st.closed.Load() {
		return fmt.Errorf("stream of %s: %w", st.d.name, cudakern.ErrClosed)
	}
	last := st.recorded
	err := st.settle()
	if err == nil {
		event{st, last}.passed()
	}
	return err
}

// settle waits for what is enqueued. Unlike Sync it may be called by others than the stream's goroutine.
func (st *stream) settle() error {
	st.life.RLock()
	defer st.life.RUnlock()
	if st.closed.Load() { // and so settled
		return nil
	}
	st.busy.Store(false)
	if st.d.dry {
		return nil
	}
	err := st.d.flush()
	if err == nil {
		err = st.d.noticed(waitStream(st.d.ctx, st.s))
	}
	if err != nil {
		st.fail(err)
	}
	return st.failure()
}

func (st *stream) Close() error {
	if st.closed.Load() {
		panic("cuda: stream closed twice")
	}
	err := st.settle()
	st.life.Lock()
	st.closed.Store(true)
	st.life.Unlock()
	st.in.free()
	st.out.free()
	st.d.mu.Lock()
	delete(st.d.streams, st)
	st.d.mu.Unlock()
	destroyed := st.d.do(st.destroy)
	st.d.closed()
	if err == nil { // what is wrong with the stream explains more than that it cannot be given back either
		err = destroyed
	}
	return err
}
