package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"colonnade/coordinator/plainjson"
	"colonnade/proto/clusterpb"
)

// cursor is how far a stream is: the log's index of the last event, and the time of the last sample in milliseconds
// since 1970. Both mean the same on every coordinator, so a stream goes on at another one.
type cursor struct {
	event  uint64
	sample int64
}

func (c cursor) String() string { return fmt.Sprintf("%d-%d", c.event, c.sample) }

// parseCursor reads what String wrote.
func parseCursor(text string) (c cursor, ok bool) {
	event, sample, found := strings.Cut(text, "-")
	if !found {
		return c, false
	}
	var err1, err2 error
	c.event, err1 = strconv.ParseUint(event, 10, 64)
	c.sample, err2 = strconv.ParseInt(sample, 10, 64)
	return c, err1 == nil && err2 == nil
}

// beat is how often a stream says something, if only that it is there.
const beat = 2 * time.Second

// feed is one stream.
type feed struct {
	s     *Server
	w     http.ResponseWriter
	jobs  []string
	at    cursor
	last  map[string][]byte // by event: what was said last
	wrote bool              // since the last flush
	err   error
}

// stream sends what changes, as server-sent events: see API.md.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		s.refuse(w, http.StatusBadRequest, "INVALID", "the query cannot be read")
		return
	}
	f := &feed{s: s, w: w, jobs: r.Form["job"], last: map[string][]byte{}}
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = r.FormValue("after")
	}
	if at, ok := parseCursor(text); ok {
		f.at = at
	} else if text != "" {
		s.refuse(w, http.StatusBadRequest, "INVALID", "after is "+strconv.Quote(text)+"; give an id of this stream")
		return
	} else {
		f.at = s.cursorNow()
	}
	defer s.watch(f.jobs)()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // proxies pass it on as it comes
	f.gap()
	alive := time.NewTicker(beat)
	defer alive.Stop()
	for f.err == nil {
		seen, changed := s.now()
		f.tell(seen)
		f.flush()
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		case <-alive.C:
			f.write([]byte(": here\n\n"))
		}
	}
}

// cursorNow is the end of what there is.
func (s *Server) cursorNow() cursor {
	c := cursor{sample: s.cfg.Now().UnixMilli()}
	if all := s.cfg.Events(0); len(all) > 0 {
		c.event = all[len(all)-1].Index
	}
	return c
}

// gap says if what the stream goes on from is forgotten: the page then begins anew.
func (f *feed) gap() {
	all := f.s.cfg.Events(0)
	if f.at.event > 0 && len(all) > 0 && all[0].Index > f.at.event {
		f.event("gap", []byte(`{}`))
	}
}

// tell sends what is new in a snapshot.
func (f *feed) tell(seen *snapshot) {
	if seen.at.IsZero() && seen.trouble == "" {
		return // nothing is known yet
	}
	trouble, err := json.Marshal(map[string]string{"text": seen.trouble})
	if err != nil {
		f.err = err
		return
	}
	f.state("leader", trouble)
	if seen.at.IsZero() {
		return
	}
	f.state("jobs", seen.jobs)
	f.state("cluster", seen.cluster)
	for _, name := range f.jobs {
		if d := seen.detail[name]; d != nil {
			f.named("job", name, d)
		}
	}
	var fresh []*clusterpb.LogEvent
	for _, e := range f.s.cfg.Events(f.at.event) {
		f.at.event = max(f.at.event, e.Index)
		fresh = append(fresh, e)
	}
	for _, name := range f.jobs {
		if all := f.s.store.Since(name, f.at.sample); len(all) > 0 {
			b, err := json.Marshal(seriesReply{Job: name, Series: all})
			if err != nil {
				f.err = err
				return
			}
			f.event("samples", b)
		}
	}
	f.at.sample = max(f.at.sample, seen.at.UnixMilli())
	if len(fresh) > 0 {
		f.event("events", eventsJSON(fresh))
	}
	if f.wrote {
		f.write(fmt.Appendf(nil, "id: %s\nevent: at\ndata: {\"time\":%d}\n\n", f.at, f.at.sample))
	}
}

// eventsJSON is a list of events.
func eventsJSON(events []*clusterpb.LogEvent) []byte {
	b := []byte(`{"events":[`)
	for i, e := range events {
		if i > 0 {
			b = append(b, ',')
		}
		b = plainjson.Append(b, e)
	}
	return append(b, "]}"...)
}

// state sends what is so, if it was not so before.
func (f *feed) state(event string, data []byte) { f.named(event, "", data) }

func (f *feed) named(event, name string, data []byte) {
	if key := event + " " + name; !bytes.Equal(f.last[key], data) {
		f.last[key] = data
		f.event(event, data)
	}
}

// event sends one event. Its id is that of the last whole look: what is sent twice does no harm, what is lost would.
func (f *feed) event(name string, data []byte) {
	f.write(fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, data))
}

func (f *feed) write(b []byte) {
	if f.err != nil {
		return
	}
	if !f.wrote {
		_ = http.NewResponseController(f.w).SetWriteDeadline(time.Now().Add(writeLimit)) // not every connection has one
	}
	_, f.err = f.w.Write(b)
	f.wrote = true
}

// writeLimit is how long a reader may take to take what it is sent.
const writeLimit = 20 * time.Second

func (f *feed) flush() {
	if f.err != nil || !f.wrote {
		return
	}
	f.err = http.NewResponseController(f.w).Flush()
	f.wrote = false
}
