package otlp

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

var at = time.Unix(1_700_000_000, 5)

func one(id byte) Span {
	return Span{Trace: [16]byte{1}, ID: [8]byte{id}, Parent: [8]byte{9}, Name: "conv1", Began: at, Ended: at.Add(7),
		Attributes: []Attribute{{"colonnade.cell", "r0c1"}, {"colonnade.step", int64(12)}}}
}

const want = `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"w"}}]},` +
	`"scopeSpans":[{"scope":{"name":"colonnade/worker/train"},"spans":[{` +
	`"traceId":"01000000000000000000000000000000","spanId":"0200000000000000","parentSpanId":"0900000000000000",` +
	`"name":"conv1","kind":1,"startTimeUnixNano":"1700000000000000005","endTimeUnixNano":"1700000000000000012",` +
	`"attributes":[{"key":"colonnade.cell","value":{"stringValue":"r0c1"}},` +
	`{"key":"colonnade.step","value":{"intValue":"12"}}]}]}]}]}`

// runUntilEnd has an exporter send what it has been given.
func runUntilEnd(t *testing.T, e *Exporter) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func exporter(t *testing.T, to string) *Exporter {
	t.Helper()
	e, err := New(to, []Attribute{{"service.name", "w"}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// A collector gets what its specification says, under the path it says.
func TestToACollector(t *testing.T) {
	var mu sync.Mutex
	var got []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		got = append(got, r.Method+" "+r.URL.Path+" "+r.Header.Get("Content-Type")+" "+string(b))
	}))
	defer s.Close()
	e := exporter(t, s.URL)
	e.Add(one(2))
	runUntilEnd(t, e)
	if len(got) != 1 || got[0] != "POST /v1/traces application/json "+want {
		t.Errorf("the collector got %q", got)
	}
}

// A file has a line a batch, behind what it had; all spans are in it that there was room for.
func TestToAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spans.jsonl")
	for range 2 {
		e := exporter(t, path)
		e.Add(one(2))
		runUntilEnd(t, e)
	}
	e := exporter(t, path)
	for range waiting + 10 {
		e.Add(one(3))
	}
	runUntilEnd(t, e)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<22)
	n := 0
	for i := 0; lines.Scan(); i++ {
		if i < 2 && lines.Text() != want {
			t.Errorf("line %d is %s", i, lines.Text())
		}
		var batch exportJSON
		if err := json.Unmarshal(lines.Bytes(), &batch); err != nil {
			t.Fatal(err)
		}
		n += len(batch.ResourceSpans[0].ScopeSpans[0].Spans)
	}
	if n != 2+waiting {
		t.Errorf("%d spans are in the file", n)
	}
}

// Nobody waits for a collector that is not there, and it is said once.
func TestNobodyThere(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	var said strings.Builder
	e, err := New(s.URL, nil, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * batch {
		e.Add(one(1))
	}
	runUntilEnd(t, e)
	if strings.Count(said.String(), "are lost") != 1 {
		t.Errorf("it says %q", said.String())
	}
	if _, err := New(filepath.Join(t.TempDir(), "none", "spans"), nil, slog.Default()); err == nil ||
		!strings.Contains(err.Error(), "give another file") {
		t.Errorf("a file that cannot be made: %v", err)
	}
}
