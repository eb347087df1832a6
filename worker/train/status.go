package train

import (
	"context"
	"maps"
	"sync"
	"time"

	"colonnade/worker/exchange"
)

// Status is how far a cell is, for people: it reaches no weight.
type Status struct {
	Step            uint64  // finished steps
	Phase           string  // what it is doing
	Loss            float64 // mean over the whole batch of the last finished step
	ImagesPerSecond float64 // of the last steps, whole batch
	PhaseSeconds    map[string]float64
	Trained         Score // of the cell's part of the last finished step's batch; no images: it does not hold the softmax

	Kind        Kind            // of the phase; empty: it is no part of a step
	InPhase     time.Duration   // how long it has been in the phase
	Usual       time.Duration   // how long the phase usually takes; 0: not known
	WaitsFor    []exchange.Cell // the cell that it waits for now, if any
	BusySeconds float64         // of a step, smoothed, without what it waits for others
}

// tracker keeps a cell's status where other goroutines may read it.
type tracker struct {
	mu   sync.Mutex
	s    Status
	last time.Time // end of the last step
	rate float64   // seconds a step, smoothed
	// What the cell's goroutine waits for among the other columns, and what it or the reducer waits for among the other
	// replicas: never both at once.
	columns, replicas *exchange.Cell
	entered           time.Time // the phase
}

// enter says that a phase begins. usual is in seconds, 0 if that is not known.
func (t *tracker) enter(phase string, kind Kind, now time.Time, usual float64) {
	t.mu.Lock()
	t.s.Phase, t.s.Kind, t.entered = phase, kind, now
	t.s.Usual = time.Duration(usual * float64(time.Second))
	t.mu.Unlock()
}

// worked says how many seconds of a step were not spent waiting.
func (t *tracker) worked(seconds float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.s.BusySeconds == 0 {
		t.s.BusySeconds = seconds
	}
	t.s.BusySeconds += smoothing * (seconds - t.s.BusySeconds)
}

// observed is an exchanger that tells a tracker whom its cell waits for.
type observed struct {
	exchange.Exchanger
	t     *tracker
	own   exchange.Cell
	trace *tracer // nil: nobody wants to know
}

// Send implements exchange.Exchanger: it waits while the peer is far behind.
func (o *observed) Send(ctx context.Context, to exchange.Cell, tag exchange.Tag, data []byte) error {
	defer o.wait(to)()
	defer o.trace.crossing(SendSpan, to, tag.Step+1, len(data))()
	return o.Exchanger.Send(ctx, to, tag, data)
}

// Recv implements exchange.Exchanger.
func (o *observed) Recv(ctx context.Context, from exchange.Cell, tag exchange.Tag, into []byte) error {
	defer o.wait(from)()
	defer o.trace.crossing(ReceiveSpan, from, tag.Step+1, len(into))()
	return o.Exchanger.Recv(ctx, from, tag, into)
}

// wait notes a peer until what it returns is called.
func (o *observed) wait(peer exchange.Cell) func() {
	slot := &o.t.columns
	if peer.Column == o.own.Column {
		slot = &o.t.replicas
	}
	o.t.mu.Lock()
	*slot = &peer
	o.t.mu.Unlock()
	return func() {
		o.t.mu.Lock()
		*slot = nil
		o.t.mu.Unlock()
	}
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
func (t *tracker) finished(now time.Time, step uint64, batch int, loss float64, of Score) (seconds float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seconds = now.Sub(t.last).Seconds()
	if t.rate == 0 {
		t.rate = seconds
	}
	t.rate += smoothing * (seconds - t.rate)
	t.last, t.s.Step, t.s.Loss, t.s.Trained = now, step, loss, of
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

func (t *tracker) loss() float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.s.Loss
}

func (t *tracker) read(now time.Time) Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.s
	if !t.entered.IsZero() {
		s.InPhase = max(now.Sub(t.entered), 0)
	}
	switch {
	case t.columns != nil:
		s.WaitsFor = []exchange.Cell{*t.columns}
	case t.replicas != nil && s.Kind == Wait: // else it is the reducer's, and the cell computes meanwhile
		s.WaitsFor = []exchange.Cell{*t.replicas}
	}
	s.PhaseSeconds = maps.Clone(s.PhaseSeconds)
	return s
}
