package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"colonnade/coordinator/plainjson"
	"colonnade/proto/clusterpb"
)

// logFilter is which lines of workers' logs a request wants. Job and worker are the leader's to look at.
type logFilter struct {
	ask   *clusterpb.LogsRequest
	least int    // of levels
	text  string // in lower case
}

// levels are those of workers' lines, the least first.
var levels = []string{"DEBUG", "INFO", "WARN", "ERROR"}

// usualLines is how many lines are sent at first unless a request says otherwise, mostLines how many at most.
const (
	usualLines = 500
	mostLines  = 1 << 20
)

// logFilter reads a request's query, or answers why it cannot.
func (s *Server) logFilter(w http.ResponseWriter, r *http.Request) (*logFilter, bool) {
	last, ok := s.number(w, r, "last", usualLines)
	if !ok {
		return nil, false
	}
	f := &logFilter{ask: &clusterpb.LogsRequest{Job: r.FormValue("job"), Worker: r.FormValue("worker"),
		Last: uint32(min(last, mostLines))}, text: strings.ToLower(r.FormValue("text"))}
	if level := strings.ToUpper(r.FormValue("level")); level != "" {
		if f.least = slices.Index(levels, level); f.least < 0 {
			s.refuse(w, http.StatusBadRequest, "INVALID", "level is "+strconv.Quote(level)+"; give info, warn or error")
			return nil, false
		}
	}
	at := r.Header.Get("Last-Event-ID")
	if at == "" {
		at = r.FormValue("after")
	}
	if at != "" {
		source, sequence, found := strings.Cut(at, "-")
		var err1, err2 error
		f.ask.Source, err1 = strconv.ParseInt(source, 10, 64)
		f.ask.After, err2 = strconv.ParseUint(sequence, 10, 64)
		if !found || err1 != nil || err2 != nil {
			s.refuse(w, http.StatusBadRequest, "INVALID", "after is "+strconv.Quote(at)+"; give an id of the logs' stream")
			return nil, false
		}
	}
	if f.least > 0 || f.text != "" { // the last of those that are wanted, not of all
		f.ask.Last = 0
	}
	return f, true
}

// of are the lines of an answer that are wanted.
func (f *logFilter) of(all []*clusterpb.LogRecord) []*clusterpb.LogRecord {
	return slices.DeleteFunc(slices.Clone(all), func(l *clusterpb.LogRecord) bool {
		return slices.Index(levels, l.Level) < f.least || !strings.Contains(strings.ToLower(l.Text), f.text)
	})
}

// newest are at most n of them.
func newest(all []*clusterpb.LogRecord, n uint64) []*clusterpb.LogRecord {
	return all[max(0, len(all)-int(min(n, mostLines))):]
}

// logs answers with what the leader has of workers' logs.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	f, ok := s.logFilter(w, r)
	if !ok {
		return
	}
	ctx, cancel := asked(r)
	defer cancel()
	out := &clusterpb.LogsReply{}
	if err := s.receiveLogs(ctx, f.ask, func(reply *clusterpb.LogsReply) error {
		out.Source = reply.Source
		out.Records = append(out.Records, reply.Records...)
		return nil
	}); err != nil {
		s.fail(w, err)
		return
	}
	last, _ := s.number(w, r, "last", usualLines) // it was one before
	out.Records = newest(f.of(out.Records), last)
	send(w, out)
}

// quoted is a text as JSON.
func quoted(text string) []byte {
	b, _ := json.Marshal(text) // a string always can be
	return b
}

// receiveLogs asks the leader, once more if the first that is asked is none, and hands over what it sends.
func (s *Server) receiveLogs(ctx context.Context, ask *clusterpb.LogsRequest,
	each func(*clusterpb.LogsReply) error) error {
	for again := true; ; again = false {
		stream, err := s.cfg.Operator.Logs(ctx, ask)
		for err == nil {
			var reply *clusterpb.LogsReply
			if reply, err = stream.Recv(); err == nil {
				again = false
				err = each(reply)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if !again || ctx.Err() != nil {
			return err
		}
	}
}

// logStream sends lines as they come, as server-sent events: see API.md.
func (s *Server) logStream(w http.ResponseWriter, r *http.Request) {
	filter, ok := s.logFilter(w, r)
	if !ok {
		return
	}
	last, ok := s.number(w, r, "last", usualLines)
	if !ok {
		return
	}
	filter.ask.Follow = true
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	replies := make(chan *clusterpb.LogsReply)
	ended := make(chan error, 1)
	go func() { // ends with ctx, and the handler waits for it
		ended <- s.receiveLogs(ctx, filter.ask, func(reply *clusterpb.LogsReply) error {
			select {
			case replies <- reply:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // proxies pass it on as it comes
	f := &feed{s: s, w: w}
	f.write([]byte(": here\n\n"))
	alive := time.NewTicker(beat)
	defer alive.Stop()
	at := filter.ask.After
	for f.flush(); f.err == nil; f.flush() {
		select {
		case err := <-ended:
			if r.Context().Err() == nil {
				f.write(appendEvent(nil, "trouble", fmt.Appendf(nil, `{"text":%s}`, quoted(plainError(err)))))
				f.flush()
			}
			return
		case reply := <-replies:
			for _, l := range reply.Records {
				at = max(at, l.Sequence)
			}
			reply.Records = newest(filter.of(reply.Records), last)
			last = mostLines
			f.write(fmt.Appendf(nil, "id: %d-%d\n", reply.Source, at))
			f.write(appendEvent(nil, "logs", plainjson.Marshal(reply)))
		case <-alive.C:
			f.write([]byte(": here\n\n"))
		}
	}
	cancel()
	<-ended
}
