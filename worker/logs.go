package main

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/types/known/timestamppb"

	"colonnade/proto/clusterpb"
)

const (
	waitingLogs = 200     // lines that wait for the next heartbeat; what is more is counted and left out
	longestLog  = 2 << 10 // bytes of a line that are sent
)

// logTap is a log's handler that also keeps lines of level INFO and above for the coordinator. It never waits.
type logTap struct {
	slog.Handler
	lines *tapped
	attrs []slog.Attr // of With
}

// tapped are the lines that wait.
type tapped struct {
	mu      sync.Mutex
	waiting []*clusterpb.LogRecord
	leftOut uint64
}

func newLogTap(h slog.Handler) *logTap { return &logTap{Handler: h, lines: &tapped{}} }

// Handle implements slog.Handler.
func (t *logTap) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelInfo {
		t.lines.put(t.record(r))
	}
	return t.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (t *logTap) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logTap{t.Handler.WithAttrs(attrs), t.lines, append(t.attrs[:len(t.attrs):len(t.attrs)], attrs...)}
}

// WithGroup implements slog.Handler; lines that are sent name no groups.
func (t *logTap) WithGroup(name string) slog.Handler {
	return &logTap{t.Handler.WithGroup(name), t.lines, t.attrs}
}

// record is a line as it is sent: what the coordinator tells lines apart by is taken out of the attributes.
func (t *logTap) record(r slog.Record) *clusterpb.LogRecord {
	out := &clusterpb.LogRecord{At: timestamppb.New(r.Time), Level: r.Level.String()}
	var text strings.Builder
	text.WriteString(r.Message)
	add := func(a slog.Attr) bool {
		value := a.Value.Resolve().String()
		number, err := strconv.ParseUint(value, 10, 64)
		switch {
		case a.Key == "job":
			out.Job = value
		case a.Key == "cell":
			out.Cell = value
		case a.Key == "generation" && err == nil:
			out.Generation = number
		case a.Key == "step" && err == nil:
			out.Step = number
		}
		fmt.Fprintf(&text, " %s=%s", a.Key, value)
		return true
	}
	for _, a := range t.attrs {
		add(a)
	}
	r.Attrs(add)
	line := strings.Join(strings.FieldsFunc(text.String(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	if len(line) > longestLog {
		line = strings.ToValidUTF8(line[:longestLog], "") + "…"
	}
	out.Text = strings.ToValidUTF8(line, "?")
	return out
}

func (l *tapped) put(r *clusterpb.LogRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) >= waitingLogs {
		l.leftOut++
		return
	}
	r.LeftOut, l.leftOut = l.leftOut, 0
	l.waiting = append(l.waiting, r)
}

// take returns what waits.
func (l *tapped) take() []*clusterpb.LogRecord {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.waiting
	l.waiting = nil
	return out
}

// logsOf is what takes a log's lines for the coordinator; nil of a log that keeps none.
func logsOf(log *slog.Logger) func() []*clusterpb.LogRecord {
	if tap, ok := log.Handler().(*logTap); ok {
		return tap.lines.take
	}
	return nil
}
