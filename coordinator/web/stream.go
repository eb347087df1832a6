package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
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
	s    *Server
	w    http.ResponseWriter
	jobs []string
	at   cursor
	told *snapshot // last
	buf  []byte    // what is not written yet
	err  error
}

// stream sends what changes, as server-sent events: see API.md.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		s.refuse(w, http.StatusBadRequest, "INVALID", "the query cannot be read")
		return
	}
	f := &feed{s: s, w: w, jobs: r.Form["job"], told: &snapshot{}}
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
		f.write(appendEvent(nil, "gap", []byte(`{}`)))
	}
}

// tell sends what is new in a snapshot.
func (f *feed) tell(seen *snapshot) {
	if seen.at.IsZero() && seen.trouble == "" {
		return // nothing is known yet
	}
	key := frameKey{f.told.number, f.at, strings.Join(f.jobs, "\n")}
	fr, err := seen.frames.of(key, func() (frame, error) { return f.s.frame(f.told, seen, f.jobs, f.at) })
	if err != nil {
		f.err = err
		return
	}
	f.at, f.told = fr.at, seen
	f.write(fr.bytes)
}

// frame is what a stream is sent at a look, and where it is then.
type frame struct {
	bytes []byte
	at    cursor
}

// frameKey is what a frame depends on, besides the look: what a stream was told last, how far it is, its jobs.
type frameKey struct {
	told uint64
	at   cursor
	jobs string
}

// frames are those of one look: streams that look at the same, and have been told the same, are sent the same bytes.
type frames struct {
	mu  sync.Mutex
	all map[frameKey]frame
}

func (f *frames) of(key frameKey, anew func() (frame, error)) (frame, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if known, ok := f.all[key]; ok {
		return known, nil
	}
	made, err := anew()
	if err != nil {
		return frame{}, err
	}
	if f.all == nil {
		f.all = map[frameKey]frame{}
	}
	f.all[key] = made
	return made, nil
}

// frame works out what is new in a snapshot after another.
func (s *Server) frame(told, seen *snapshot, jobs []string, at cursor) (frame, error) {
	var b []byte
	state := func(name string, before, now []byte) {
		if !bytes.Equal(before, now) {
			b = appendEvent(b, name, now)
		}
	}
	if told.number == 0 || told.trouble != seen.trouble {
		trouble, err := json.Marshal(map[string]string{"text": seen.trouble})
		if err != nil {
			return frame{}, err
		}
		b = appendEvent(b, "leader", trouble)
	}
	if seen.at.IsZero() {
		return frame{b, at}, nil
	}
	state("jobs", told.jobs, seen.jobs)
	state("cluster", told.cluster, seen.cluster)
	for _, name := range jobs {
		if d := seen.detail[name]; d != nil {
			state("job", told.detail[name], d)
		}
	}
	var fresh []*clusterpb.LogEvent
	for _, e := range s.cfg.Events(at.event) {
		at.event = max(at.event, e.Index)
		fresh = append(fresh, e)
	}
	for _, name := range jobs {
		if all := s.store.Since(name, at.sample); len(all) > 0 {
			samples, err := json.Marshal(seriesReply{Job: name, Series: all})
			if err != nil {
				return frame{}, err
			}
			b = appendEvent(b, "samples", samples)
		}
	}
	at.sample = max(at.sample, seen.at.UnixMilli())
	if len(fresh) > 0 {
		b = appendEvent(b, "events", eventsJSON(fresh))
	}
	if len(b) > 0 {
		b = fmt.Appendf(b, "id: %s\nevent: at\ndata: {\"time\":%d}\n\n", at, at.sample)
	}
	return frame{b, at}, nil
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

// appendEvent appends one event. Its id is that of the last whole look: what is sent twice does no harm, what is lost
// would.
func appendEvent(b []byte, name string, data []byte) []byte {
	return fmt.Appendf(b, "event: %s\ndata: %s\n\n", name, data)
}

// write has bytes sent with the next flush, all in one piece.
func (f *feed) write(b []byte) { f.buf = append(f.buf, b...) }

// writeLimit is how long a reader may take to take what it is sent.
const writeLimit = 20 * time.Second

func (f *feed) flush() {
	if f.err != nil || len(f.buf) == 0 {
		return
	}
	c := http.NewResponseController(f.w)
	_ = c.SetWriteDeadline(time.Now().Add(writeLimit)) // not every connection has one
	if _, f.err = f.w.Write(f.buf); f.err == nil {
		f.err = c.Flush()
	}
	f.buf = f.buf[:0]
}
