package train

import (
	"sync/atomic"
	"time"

	"colonnade/worker/exchange"
)

// Tracer is told what the steps of a cell are made of. It is called by several goroutines and must not wait; nothing of
// it reaches a weight.
type Tracer interface {
	// Wants says whether a step, counted from 1, is to be traced.
	Wants(step uint64) bool
	// Span tells of something that has ended.
	Span(Span)
}

// Span is a step, one of its phases, or one crossing within.
type Span struct {
	Step  uint64         // counted from 1: the one that is done
	What  SpanKind       //
	Name  string         // of a phase
	Kind  Kind           // of a phase
	Peer  *exchange.Cell // of a crossing: the other cell
	Bytes int            // that crossed
	Began time.Time
	Ended time.Time
}

// SpanKind is what a span is of.
type SpanKind int

// The kinds of spans.
const (
	StepSpan SpanKind = iota
	PhaseSpan
	SendSpan
	ReceiveSpan
)

// tracer hands spans on. A nil tracer costs a comparison.
type tracer struct {
	to  Tracer
	now clock
	at  atomic.Uint64 // the traced step that is being done; 0: none is, as in evaluations
}

// newTracer is nil if nobody wants spans.
func newTracer(to Tracer, now clock) *tracer {
	if to == nil {
		return nil
	}
	return &tracer{to: to, now: now}
}

// step traces a step, counted from 1, until what it returns is called, which says whether it was done.
func (t *tracer) step(step uint64) (ended func(done bool)) {
	if t == nil || !t.to.Wants(step) {
		return func(bool) {}
	}
	t.at.Store(step)
	began := t.now()
	return func(done bool) {
		t.at.Store(0)
		if done {
			t.to.Span(Span{Step: step, What: StepSpan, Began: began, Ended: t.now()})
		}
	}
}

// phase tells of a phase of the step that is traced, if one is.
func (t *tracer) phase(name string, kind Kind, began, ended time.Time) {
	if t == nil {
		return
	}
	if step := t.at.Load(); step != 0 {
		t.to.Span(Span{Step: step, What: PhaseSpan, Name: name, Kind: kind, Began: began, Ended: ended})
	}
}

// crossing traces a crossing until what it returns is called.
func (t *tracer) crossing(what SpanKind, peer exchange.Cell, step uint64, bytes int) (ended func()) {
	if t == nil || t.at.Load() != step {
		return func() {}
	}
	other := peer // else peer itself would be allocated in every step, traced or not
	s := Span{Step: step, What: what, Peer: &other, Bytes: bytes, Began: t.now()}
	return func() {
		s.Ended = t.now()
		t.to.Span(s)
	}
}
