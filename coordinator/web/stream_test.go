package web

import (
	"bytes"
	"context"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"colonnade/proto/clusterpb"
)

// counting is a Store that counts how often streams read it.
type counting struct {
	*Memory
	reads int
}

func (c *counting) Since(job string, ms int64) []Series {
	c.reads++
	return c.Memory.Since(job, ms)
}

// TestFramesAreShared: streams that look at the same job are sent the same bytes, worked out once a look; one that has
// missed a look, or looks at another job, is sent what is new to it.
func TestFramesAreShared(t *testing.T) {
	at := time.Unix(1_700_000_000, 0)
	store := &counting{Memory: NewMemory()}
	var events []*clusterpb.LogEvent
	s := New(Config{Store: store, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return at },
		Events: func(after uint64) []*clusterpb.LogEvent { return events[min(after, uint64(len(events))):] },
		Local:  func(context.Context) (*clusterpb.StatusReply, error) { return nil, nil }})
	look := func(number uint64, text string) *snapshot {
		at = at.Add(time.Second)
		store.Add("a", at, Measured{Step: number, Values: map[string]float64{"loss": float64(number)}})
		events = append(events, &clusterpb.LogEvent{Index: number, Text: text})
		return &snapshot{number: number, at: at, jobs: []byte("jobs " + text), cluster: []byte("the cluster"),
			detail: map[string][]byte{"a": []byte("a " + text), "b": []byte("b")}, frames: &frames{}}
	}
	feeds, outs := make([]*feed, 20), make([]*httptest.ResponseRecorder, 20)
	for i := range feeds {
		outs[i] = httptest.NewRecorder()
		feeds[i] = &feed{s: s, w: outs[i], jobs: []string{"a"}, told: &snapshot{}, at: s.cursorNow()}
	}
	tell := func(f *feed, seen *snapshot) {
		t.Helper()
		f.tell(seen)
		if f.flush(); f.err != nil {
			t.Fatal(f.err)
		}
	}
	for n := uint64(1); n <= 2; n++ {
		seen := look(n, "look "+string('0'+rune(n)))
		for _, f := range feeds {
			tell(f, seen)
		}
		if store.reads != int(n) {
			t.Errorf("after %d looks the series were read %d times", n, store.reads)
		}
	}
	text := outs[0].Body.String()
	for _, want := range []string{"event: jobs\ndata: jobs look 1\n\n", "event: jobs\ndata: jobs look 2\n\n",
		"event: job\ndata: a look 2\n\n", `"step":[1]`, `"step":[2]`, `"text":"look 2"`} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%d times %q in\n%s", strings.Count(text, want), want, text)
		}
	}
	if n := strings.Count(text, "event: cluster"); n != 1 {
		t.Errorf("%d times the cluster, which has not changed", n)
	}
	for _, o := range outs {
		if !bytes.Equal(o.Body.Bytes(), outs[0].Body.Bytes()) {
			t.Fatalf("a stream was sent\n%s\nanother\n%s", o.Body, outs[0].Body)
		}
	}

	late, other := feeds[0], feeds[1]
	other.jobs, other.told, other.at = []string{"b"}, &snapshot{}, s.cursorNow()
	outs[0].Body.Reset()
	outs[1].Body.Reset()
	look(3, "look 3") // which the first misses
	seen := look(4, "look 4")
	tell(late, seen)
	tell(other, seen)
	if got := outs[0].Body.String(); !strings.Contains(got, `"step":[3,4]`) || !strings.Contains(got, "look 3") {
		t.Errorf("who missed a look is sent\n%s", got)
	}
	if got := outs[1].Body.String(); strings.Contains(got, "samples") || !strings.Contains(got, "data: b\n") ||
		!strings.Contains(got, "event: cluster") {
		t.Errorf("who looks at another job is sent\n%s", got)
	}
}
