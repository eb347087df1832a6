package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

// told is a history that writes down what it is told.
type told []string

func (h *told) Begin(job string, _ int64, generation, base uint64) error {
	*h = append(*h, fmt.Sprintf("%s.%d from %d", job, generation, base))
	return nil
}

func (h *told) Add(job string, generation uint64, st *clusterpb.CellStatus) error {
	*h = append(*h, fmt.Sprintf("%s.%d %s at %d", job, generation, fsm.CellName(st.Cell), st.Step))
	return nil
}

// The history hears of cells that are where they should be, of the generation that runs, and of no others.
func TestHistoryIsTold(t *testing.T) {
	inBubble(t, func(r *rig) {
		h := &told{}
		r.cfg.History = h
		a, b := r.running()
		beat := func(w worker, column int32, step, generation uint64) {
			w.Heartbeat(&clusterpb.Heartbeat{Cells: []*clusterpb.CellStatus{{Job: "j", Generation: generation,
				Cell: &clusterpb.Cell{Column: column}, Step: step}}})
		}
		beat(a, 0, 3, 1)
		beat(b, 1, 4, 1)
		beat(b, 0, 9, 1)
		beat(b, 1, 9, 2)
		if want := (told{"j.1 from 0", "j.1 r0c0 at 3", "j.1 from 0", "j.1 r0c1 at 4"}); !slices.Equal(*h, want) {
			t.Errorf("told %q", *h)
		}
	})
}

// A leader that has a name says that it leads, and a rate that changes is an event.
func TestLeadAndRateAreEvents(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		for i, rate := range []float64{0.1, 0.1, 0.01} {
			step := uint64(10 * (i + 1))
			a.report(uint64(i+1), 1, &clusterpb.Evaluation{Step: step, Images: 4, Rate: rate})
			a.report(uint64(i+1), 1, &clusterpb.Evaluation{Step: step, Images: 4, Rate: rate})
		}
		r.node.leadership <- false
		synctest.Wait()
		r.cfg.Name = "me"
		r.node.leadership <- true
		r.beat(time.Second, a, b)
		var texts []string
		for _, e := range r.Events(0) {
			if e.Kind == "rate" || e.Kind == "leader" {
				texts = append(texts, e.Text)
			}
		}
		if got := strings.Join(texts, "; "); got != "job j: learning rate 0.01 instead of 0.1 after step 30; "+
			"coordinator me leads, term 0" {
			t.Errorf("events: %s", got)
		}
		for range 9 {
			r.node.leadership <- false
			synctest.Wait()
			r.node.leadership <- true
			synctest.Wait()
		}
		leads := 0
		for _, e := range r.Events(0) {
			if e.Kind == "leader" {
				leads++
			}
		}
		if leads != 3 {
			t.Errorf("ten leads within a minute are %d events", leads)
		}
		if n := count[*commandpb.Command_RecordEvent](r.node); n != 4 {
			t.Errorf("%d events were written", n)
		}
	})
}

// Lines of workers' logs are there while this node leads, by job and by worker, and no more than it keeps.
func TestLogs(t *testing.T) {
	inBubble(t, func(r *rig) {
		a, b := r.running()
		line := func(job, text string) *clusterpb.LogRecord { return &clusterpb.LogRecord{Job: job, Text: text} }
		a.Heartbeat(&clusterpb.Heartbeat{Logs: []*clusterpb.LogRecord{line("j", "one"), line("", "two")}})
		b.Heartbeat(&clusterpb.Heartbeat{Logs: []*clusterpb.LogRecord{line("j", "three")}})
		ask := func(q *clusterpb.LogsRequest) (texts []string, reply *clusterpb.LogsReply) {
			reply, err := r.Logs(r.ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range reply.Records {
				texts = append(texts, one.WorkerName+" "+one.Text)
			}
			return texts, reply
		}
		for want, q := range map[string]*clusterpb.LogsRequest{
			"name-a one, name-a two, name-b three": {},
			"name-a one, name-b three":             {Job: "j"},
			"name-b three":                         {Worker: "b"},
			"name-a two, name-b three":             {Last: 2},
		} {
			if got, _ := ask(q); strings.Join(got, ", ") != want {
				t.Errorf("%v is answered with %q, want %q", q, got, want)
			}
		}
		_, reply := ask(&clusterpb.LogsRequest{})
		if got, _ := ask(&clusterpb.LogsRequest{After: 2, Source: reply.Source}); len(got) != 1 {
			t.Errorf("behind the second: %q", got)
		}
		if got, _ := ask(&clusterpb.LogsRequest{After: 2, Source: reply.Source + 1}); len(got) != 3 {
			t.Errorf("of another leader: %q", got)
		}
		for range keepLogs {
			a.Heartbeat(&clusterpb.Heartbeat{Logs: []*clusterpb.LogRecord{line("j", "more")}})
		}
		if got, _ := ask(&clusterpb.LogsRequest{}); len(got) != keepLogs || got[0] != "name-a more" {
			t.Errorf("%d lines are kept, the first %s", len(got), got[0])
		}
		r.node.leadership <- false
		synctest.Wait()
		if _, err := r.Logs(r.ctx, &clusterpb.LogsRequest{}); !errors.Is(err, ErrNotLeading) {
			t.Errorf("a follower says %v", err)
		}
	})
}
