// Package otlp writes spans as OpenTelemetry's collector takes them: OTLP in JSON, to its HTTP receiver or, a line a
// batch, to a file that its otlpjsonfile receiver reads. The format is a page long; OpenTelemetry's own library would
// be a dozen modules for it.
package otlp

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// Span is one span. Ids are as OTLP has them.
type Span struct {
	Trace        [16]byte
	ID, Parent   [8]byte // no parent: zero
	Name         string
	Began, Ended time.Time
	Attributes   []Attribute
}

// Attribute is a fact about a span: a string or a whole number.
type Attribute struct {
	Key   string
	Value any // string, int64
}

// Exporter sends spans. Add never waits: what is too much is counted and left out. Make it with New; Run sends.
type Exporter struct {
	about []Attribute
	log   *slog.Logger
	spans chan Span
	write func(context.Context, []byte) error
	close func() error

	failed bool // the last batch could not be sent
}

const (
	waiting  = 16384 // spans
	batch    = 1024
	sendWait = 5 * time.Second
)

// New makes an exporter to an endpoint, http:// or https://, as OTEL_EXPORTER_OTLP_ENDPOINT has it, or to the end of a
// file. about says where spans come from.
func New(to string, about []Attribute, log *slog.Logger) (*Exporter, error) {
	e := &Exporter{about: about, log: log, spans: make(chan Span, waiting), close: func() error { return nil }}
	if strings.HasPrefix(to, "http://") || strings.HasPrefix(to, "https://") {
		u, err := url.Parse(to)
		if err != nil {
			return nil, fmt.Errorf("send spans to %s: %w; give http://HOST:4318", to, err)
		}
		at := u.JoinPath("v1", "traces").String()
		e.write = func(ctx context.Context, b []byte) error { return post(ctx, at, b) }
		return e, nil
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("write spans: %w; give another file, or http://HOST:4318", err)
	}
	e.close = f.Close
	e.write = func(_ context.Context, b []byte) error {
		_, err := f.Write(append(b, '\n'))
		return err
	}
	return e, nil
}

func post(ctx context.Context, at string, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, sendWait)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, at, bytes.NewReader(b))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<16)); err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return fmt.Errorf("%s answers %s", at, answer.Status)
	}
	return nil
}

// Add takes a span, unless too many wait.
func (e *Exporter) Add(s Span) {
	select {
	case e.spans <- s:
	default:
	}
}

// Run sends spans until ctx ends, and then those that wait.
func (e *Exporter) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var some []Span
	for {
		select {
		case s := <-e.spans:
			if some = append(some, s); len(some) < batch {
				continue
			}
		case <-tick.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendWait)
			defer cancel()
			for len(e.spans) > 0 {
				some = append(some, <-e.spans)
			}
			e.send(last, some)
			return e.close()
		}
		e.send(ctx, some)
		some = some[:0]
	}
}

// send sends a batch. What cannot be sent is lost: training does not wait for those who look on.
func (e *Exporter) send(ctx context.Context, some []Span) {
	if len(some) == 0 {
		return
	}
	if len(some) > batch {
		e.send(ctx, some[:batch])
		e.send(ctx, some[batch:])
		return
	}
	b, err := e.encode(some)
	if err == nil {
		err = e.write(ctx, b)
	}
	if failed := err != nil; failed != e.failed {
		if e.failed = failed; failed {
			e.log.Warn("spans of steps are lost", "err", err)
		} else {
			e.log.Info("spans of steps are taken again")
		}
	}
}

// The messages of OTLP, as far as they are written.
type (
	exportJSON struct {
		ResourceSpans []resourceJSON `json:"resourceSpans"`
	}
	resourceJSON struct {
		Resource struct {
			Attributes []attributeJSON `json:"attributes"`
		} `json:"resource"`
		ScopeSpans []scopeJSON `json:"scopeSpans"`
	}
	scopeJSON struct {
		Scope struct {
			Name string `json:"name"`
		} `json:"scope"`
		Spans []spanJSON `json:"spans"`
	}
	spanJSON struct {
		TraceID    string          `json:"traceId"`
		SpanID     string          `json:"spanId"`
		Parent     string          `json:"parentSpanId,omitempty"`
		Name       string          `json:"name"`
		Kind       int             `json:"kind"`
		Start      string          `json:"startTimeUnixNano"`
		End        string          `json:"endTimeUnixNano"`
		Attributes []attributeJSON `json:"attributes"`
	}
	attributeJSON struct {
		Key   string    `json:"key"`
		Value valueJSON `json:"value"`
	}
	valueJSON struct {
		String *string `json:"stringValue,omitempty"`
		Int    *string `json:"intValue,omitempty"`
	}
)

const internalSpan = 1 // SPAN_KIND_INTERNAL

func attributes(all []Attribute) []attributeJSON {
	out := make([]attributeJSON, 0, len(all))
	for _, a := range all {
		v := attributeJSON{Key: a.Key}
		switch x := a.Value.(type) {
		case string:
			v.Value.String = &x
		case int64:
			text := strconv.FormatInt(x, 10)
			v.Value.Int = &text
		}
		out = append(out, v)
	}
	return out
}

func (e *Exporter) encode(some []Span) ([]byte, error) {
	var r resourceJSON
	r.Resource.Attributes = attributes(e.about)
	var scope scopeJSON
	scope.Scope.Name = "colonnade/worker/train"
	for _, s := range some {
		j := spanJSON{TraceID: hex.EncodeToString(s.Trace[:]), SpanID: hex.EncodeToString(s.ID[:]), Name: s.Name,
			Kind: internalSpan, Start: strconv.FormatInt(s.Began.UnixNano(), 10),
			End: strconv.FormatInt(s.Ended.UnixNano(), 10), Attributes: attributes(s.Attributes)}
		if s.Parent != ([8]byte{}) {
			j.Parent = hex.EncodeToString(s.Parent[:])
		}
		scope.Spans = append(scope.Spans, j)
	}
	r.ScopeSpans = []scopeJSON{scope}
	return json.Marshal(exportJSON{[]resourceJSON{r}})
}
