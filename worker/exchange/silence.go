package exchange

import (
	"sync"
	"time"
)

// silenceTicks is how many looks a silence watch takes before it calls a peer lost.
const silenceTicks = 4

// silenceWatch says that nothing was heard for a while. It looks several times instead of waiting once: a process that
// was stopped and goes on finds one look overdue, not all of them, and has time to read what arrived meanwhile before
// it blames a peer for its own sleep.
type silenceWatch struct {
	every time.Duration
	lost  func()

	mu      sync.Mutex
	timer   *time.Timer
	missed  int
	held    bool
	stopped bool
}

// watchSilence calls lost once when heard was not called for `silence`, or up to a tick less.
func watchSilence(silence time.Duration, lost func()) *silenceWatch {
	w := &silenceWatch{every: silence / silenceTicks, lost: lost}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(w.every, w.tick)
	return w
}

func (w *silenceWatch) tick() {
	w.mu.Lock()
	if w.stopped {
		w.mu.Unlock()
		return
	}
	if !w.held {
		w.missed++
	}
	if w.missed < silenceTicks {
		w.timer.Reset(w.every)
		w.mu.Unlock()
		return
	}
	w.stopped = true
	w.mu.Unlock()
	w.lost()
}

// heard says that the peer is there.
func (w *silenceWatch) heard() { w.set(false) }

// hold says that the peer is being held back, so that its silence means nothing until it is heard again.
func (w *silenceWatch) hold() { w.set(true) }

func (w *silenceWatch) set(held bool) {
	w.mu.Lock()
	w.missed, w.held = 0, held
	w.mu.Unlock()
}

// stop ends the watch; lost may be running.
func (w *silenceWatch) stop() {
	w.mu.Lock()
	w.stopped = true
	w.timer.Stop()
	w.mu.Unlock()
}
