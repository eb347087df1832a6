package train

import (
	"sync"
	"testing"

	"colonnade/cudakern/ref"
	"colonnade/shard/job"
)

// odd takes the spans of odd steps.
type odd struct {
	mu    sync.Mutex
	spans []Span
}

func (o *odd) Wants(step uint64) bool { return step%2 == 1 }

func (o *odd) Span(s Span) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.spans = append(o.spans, s)
}

// Tracing reaches no bit, tells of the steps that are wanted and of no others, and a step's phases fill it.
func TestTracedStepsAreTheSame(t *testing.T) {
	dev := ref.New()
	j := twoColumns(t, func(j *job.Job) { j.Recipe.Steps = 6 })
	plain := setup{dev: dev, job: j, root: t.TempDir()}.mustRun(t)
	o := &odd{}
	traced := setup{dev: dev, job: j, root: t.TempDir(), trace: o}.mustRun(t)
	for id, want := range plain.digest {
		if traced.digest[id] != want {
			t.Errorf("cell %s has another digest", id)
		}
	}
	kinds := map[SpanKind]int{}
	for _, s := range o.spans {
		kinds[s.What]++
		if s.Step%2 != 1 || s.Step > 6 || s.Ended.Before(s.Began) {
			t.Errorf("a span %+v", s)
		}
		if crossing := s.What == SendSpan || s.What == ReceiveSpan; crossing != (s.Peer != nil) || crossing && s.Bytes == 0 {
			t.Errorf("a span %+v", s)
		}
	}
	if kinds[StepSpan] != 3*2 { // of three steps, by two cells
		t.Errorf("%d steps", kinds[StepSpan])
	}
	if kinds[PhaseSpan] < 3*2*10 || kinds[SendSpan] < 3*2 || kinds[ReceiveSpan] != kinds[SendSpan] {
		t.Errorf("%v spans by kind", kinds)
	}
}
