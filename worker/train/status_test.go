package train

import (
	"context"
	"slices"
	"testing"
	"time"

	"colonnade/worker/exchange"
)

// blocked is an exchanger whose calls return when they are let go.
type blocked struct {
	exchange.Exchanger
	entered, release chan struct{}
}

func (b *blocked) Recv(context.Context, exchange.Cell, exchange.Tag, []byte) error {
	b.entered <- struct{}{}
	<-b.release
	return nil
}

func (b *blocked) Send(ctx context.Context, to exchange.Cell, tag exchange.Tag, _ []byte) error {
	return b.Recv(ctx, to, tag, nil)
}

// A status says for how long a cell is in its phase, how long that usually takes, and for whom it waits, as long as it
// does. What the reducer waits for among the replicas is not what a cell waits for that computes meanwhile.
func TestStatusOfPhases(t *testing.T) {
	var status tracker
	began := time.Unix(100, 0)
	own, column, replica := exchange.Cell{}, exchange.Cell{Column: 1}, exchange.Cell{Replica: 1}
	b := &blocked{entered: make(chan struct{}), release: make(chan struct{})}
	ex := &observed{b, &status, own, nil}
	status.enter("conv3 wait for column 1", Wait, began, 0.25)
	want := func(what string, waits ...exchange.Cell) {
		t.Helper()
		s := status.read(began.Add(3 * time.Second))
		if s.InPhase != 3*time.Second || s.Usual != 250*time.Millisecond || !slices.Equal(s.WaitsFor, waits) {
			t.Errorf("%s: %+v", what, s)
		}
	}
	within := func(call func(), inside func()) {
		done := make(chan struct{})
		go func() { defer close(done); call() }()
		<-b.entered
		inside()
		b.release <- struct{}{}
		<-done
	}
	want("waits for nobody")
	within(func() { _ = ex.Recv(t.Context(), column, exchange.Tag{}, nil) }, func() { want("receives", column) })
	within(func() { _ = ex.Send(t.Context(), column, exchange.Tag{}, nil) }, func() { want("sends", column) })
	within(func() { _ = ex.Recv(t.Context(), replica, exchange.Tag{}, nil) }, func() {
		want("waits for a replica", replica)
		status.enter("conv1 gradient", Data, began, 0.25)
		want("computes while the reducer waits")
	})
	want("waits for nobody any more")
}

// What is usual is near the median, whatever stands out, and follows when it changes.
func TestUsualTimes(t *testing.T) {
	u := usual{}
	u.add("a", 3*time.Second) // the first step's
	for n := range 200 {
		d := 10 * time.Millisecond
		if n%10 == 0 {
			d = time.Second
		}
		u.add("a", d)
	}
	if got := u["a"]; got < 0.008 || got > 0.0125 {
		t.Errorf("usual is %v", got)
	}
	for range 100 {
		u.add("a", 100*time.Millisecond)
	}
	if got := u["a"]; got < 0.08 || got > 0.125 {
		t.Errorf("after a change usual is %v", got)
	}
	u.add("none", 0)
	if u["none"] <= 0 {
		t.Error("a phase too short for the clock is not known")
	}
}

// BenchmarkObserving is what hang reports cost a phase.
func BenchmarkObserving(b *testing.B) {
	var status tracker
	u := usual{}
	names := []string{"conv1", "conv2", "conv3 block 0", "conv3 wait for column 1", "fc6 gradient", "fc6/w weights"}
	now := time.Unix(100, 0)
	for n := 0; b.Loop(); n++ {
		name := names[n%len(names)]
		status.enter(name, Forward, now, u[name])
		u.add(name, time.Millisecond)
	}
}
