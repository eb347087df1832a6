package monitoring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"colonnade/proto/clusterpb"
	"colonnade/scripts/browser"
	"colonnade/scripts/cluster"
)

// built is a program that scripts/monitoring has built into .tools, or skips the test.
func built(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../../.tools", path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		t.Skipf("there is no %s here; scripts/monitoring builds it", filepath.Base(path))
	}
	return path
}

// TestGrafana has the dashboard read by the library that Grafana's own schema generates: an unknown key, or one of
// another type, in a panel, its options or its queries, is an error.
func TestGrafana(t *testing.T) {
	program := built(t, "grafana/schema")
	out, err := exec.CommandContext(t.Context(), program, filepath.Join(shipped, "grafana.json")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	text, err := os.ReadFile(filepath.Join(shipped, "grafana.json"))
	if err != nil {
		t.Fatal(err)
	}
	for old, wrong := range map[string]string{`"gridPos"`: `"gridPlace"`, `"expr"`: `"expression"`} {
		path := filepath.Join(t.TempDir(), "wrong.json")
		if err := os.WriteFile(path, bytes.Replace(text, []byte(old), []byte(wrong), 1), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.CommandContext(t.Context(), program, path).CombinedOutput(); err == nil {
			t.Errorf("a dashboard with %s is taken: %s", wrong, out)
		}
	}
}

// TestCollector has OpenTelemetry's own collector take the spans of a cluster: what its workers have written into a
// file, each line as its reader of such files hands it on, and what they send it while they train. The collector writes
// what it was given, and of two jobs that do the same it gets the same.
func TestCollector(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	c := collect(t, built(t, "otelcol/collector"))
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	file := filepath.Join(t.TempDir(), "spans.jsonl")
	r, err := browser.NewRig(ctx, t.TempDir(), 1, 2, "--trace-steps", file)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	train := func(name string) {
		t.Helper()
		if err := r.Submit(ctx, name, 30, 0.01); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Await(ctx, name, "is done", func(j *clusterpb.Job) bool { return j.State == "done" }); err != nil {
			t.Fatal(err)
		}
		for _, p := range r.Workers { // what waits is written before they end
			p.Signal(syscall.SIGTERM)
			<-p.Done()
		}
	}
	train("filed")
	given, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(given) {
		c.post(t, line)
	}
	wrote := spansOf(t, given)
	if len(wrote) < 2*30*10 {
		t.Fatalf("%d spans of two cells' 30 steps", len(wrote))
	}
	if got := c.until(t, len(wrote)); !maps.EqualFunc(got, wrote, span.equal) {
		t.Errorf("the collector has %d spans, it was given %d; one is not what it was", len(got), len(wrote))
	}

	r.WorkerFlags = append(r.WorkerFlags[:len(r.WorkerFlags)-1:len(r.WorkerFlags)-1], "http://"+c.at)
	for i := range r.Workers {
		if err := r.StartWorker(i); err != nil {
			t.Fatal(err)
		}
	}
	train("sent")
	all := c.until(t, 2*len(wrote))
	filed, sent := places(all, "filed"), places(all, "sent")
	if !slices.Equal(filed, sent) {
		t.Errorf("%d spans were filed and %d sent; the first are %.20q and %.20q", len(filed), len(sent), filed, sent)
	}
	t.Logf("the collector took %d spans from a file and %d by HTTP", len(filed), len(sent))
}

// span is one as OTLP writes it, as far as it is looked at.
type span struct {
	TraceID, SpanID, ParentSpanID, Name string
	StartTimeUnixNano, EndTimeUnixNano  string
	Kind                                int
	Attributes                          []attribute
}

type attribute struct {
	Key   string
	Value struct{ StringValue, IntValue string }
}

func (s span) equal(o span) bool { return fmt.Sprint(s) == fmt.Sprint(o) }

// says is an attribute of a span.
func (s span) says(key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.StringValue + a.Value.IntValue
		}
	}
	return ""
}

// spansOf reads lines of OTLP in JSON, by trace and span.
func spansOf(t *testing.T, lines []byte) map[string]span {
	t.Helper()
	out := map[string]span{}
	for line := range bytes.Lines(lines) {
		var b struct {
			ResourceSpans []struct{ ScopeSpans []struct{ Spans []span } }
		}
		if err := json.Unmarshal(line, &b); err != nil {
			t.Fatalf("%v: %.200s", err, line)
		}
		for _, r := range b.ResourceSpans {
			for _, scope := range r.ScopeSpans {
				for _, s := range scope.Spans {
					out[s.TraceID+s.SpanID] = s
				}
			}
		}
	}
	return out
}

// places are what the spans of a job are of, in order, each once.
func places(spans map[string]span, job string) []string {
	is := map[string]bool{}
	for _, s := range spans {
		if s.says("colonnade.job") == job {
			is[fmt.Sprintf("%s of %s, step %s", s.Name, s.says("colonnade.cell"), s.says("colonnade.step"))] = true
		}
	}
	return slices.Sorted(maps.Keys(is))
}

// collector is a running one.
type collector struct {
	at, file string
}

// configuration is the collector's: what comes by HTTP goes into a file, in its own words.
const configuration = `receivers: {otlp: {protocols: {http: {endpoint: %q}}}}
exporters: {file: {path: %q}}
service:
  pipelines: {traces: {receivers: [otlp], exporters: [file]}}
  telemetry: {metrics: {level: none}}
`

// collect starts the collector, and waits until it takes what it is sent.
func collect(t *testing.T, program string) *collector {
	t.Helper()
	port, err := cluster.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &collector{fmt.Sprintf("127.0.0.1:%d", port), filepath.Join(dir, "taken.jsonl")}
	config := filepath.Join(dir, "collector.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, configuration, c.at, c.file), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config", config)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("the collector says:\n%s", said.String())
		}
	})
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(patience); ; {
		if conn, err := net.Dial("tcp", c.at); err == nil {
			conn.Close()
			return c
		}
		select {
		case <-ended:
			t.Fatal("the collector has ended")
		case <-tick.C:
		}
		if time.Now().After(limit) {
			t.Fatal("the collector does not listen")
		}
	}
}

// post hands a batch over.
func (c *collector) post(t *testing.T, line []byte) {
	t.Helper()
	resp, err := http.Post("http://"+c.at+"/v1/traces", "application/json", bytes.NewReader(line))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || strings.Contains(string(said), "rejectedSpans") {
		t.Fatalf("the collector answers %s: %s", resp.Status, said)
	}
}

// until waits until the collector has written so many spans, all in whole lines.
func (c *collector) until(t *testing.T, count int) map[string]span {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(patience); ; <-tick.C {
		text, err := os.ReadFile(c.file)
		if err == nil {
			got := spansOf(t, text[:bytes.LastIndexByte(text, '\n')+1])
			if len(got) >= count || time.Now().After(limit) {
				return got
			}
		} else if time.Now().After(limit) {
			t.Fatal(err)
		}
	}
}
