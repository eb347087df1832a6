package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"colonnade/proto/commandpb"
)

// evaluate asks for job's newest checkpoint to be tested in parts of ten images.
func evaluate(job string, images uint64) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_RequestEvaluation{RequestEvaluation: &commandpb.RequestEvaluation{
		Models: []*commandpb.EvaluatedModel{{Job: job}}, Views: 1, Batch: 5, PartImages: 10, Classes: 4,
		Pack: &commandpb.EvaluatedPack{Path: "/test.pack", Id: "ab", Images: images, Channels: 1, Height: 8, Width: 8,
			Classes: 4}}}}
}

func give(id uint64, part uint32, worker, from string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_GivePart{GivePart: &commandpb.GivePart{Evaluation: id, Part: part,
		Worker: worker, From: from}}}
}

func evaluated(id, generation uint64, sum *commandpb.EvaluationSum) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_PartEvaluated{PartEvaluated: &commandpb.PartEvaluated{
		Evaluation: id, Generation: generation, Sum: sum}}}
}

func partFailed(id, generation uint64, permanent bool) *commandpb.Command {
	c := evaluated(id, generation, nil)
	c.GetPartEvaluated().Failed, c.GetPartEvaluated().Permanent = "peer lost", permanent
	return c
}

func endEvaluation(id uint64, failed bool) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_EndEvaluation{EndEvaluation: &commandpb.EndEvaluation{
		Evaluation: id, Reason: "because", Failed: failed}}}
}

// sumOf is what a part of images comes to: figures that add up otherwise in another order.
func sumOf(part uint32, images uint64) *commandpb.EvaluationSum {
	x := float64(part) + 1
	label := part % 3
	s := &commandpb.EvaluationSum{Images: images, Loss: math.Pow(10, 9-3*float64(part)) / 3, Top1Errors: 1 / x,
		Top5Errors: 1 / (7 * x)}
	s.Classes = []*commandpb.ClassSum{{Label: label, Images: images - 1, Loss: s.Loss / 3, Top1Errors: 1 / (3 * x)},
		{Label: 3, Images: 1, Loss: s.Loss / 7, Top1Errors: 1 / (9 * x), Top5Errors: 1 / (11 * x)}}
	s.Confused = []*commandpb.ConfusedSum{{Label: label, TakenFor: 1, Images: images - 1},
		{Label: 3, TakenFor: label, Images: 1}}
	return s
}

// tested is a cluster with a job that has a checkpoint, workers, and evaluation 1000 of three parts: 10, 10 and 5.
func tested(t *testing.T, more ...*commandpb.Command) (*log, uint64) {
	t.Helper()
	l := newLog(t, after(committed(2, 4), register("w2", "a"), evaluate("j", 25))...)
	id := l.View().Evaluations[0].Id
	for _, c := range more {
		if err := l.apply(t, c); err != nil {
			t.Fatal(err)
		}
	}
	return l, id
}

// Parts are added in their order, whoever computes them, in whatever order they come, and whatever fails on the way.
func TestEvaluationIsOfItsPartsAlone(t *testing.T) {
	var want *commandpb.EvaluationSum
	for part, images := range []uint64{10, 10, 5} {
		want = fold(want, sumOf(uint32(part), images))
	}
	for name, run := range map[string]func(l *log, id uint64) []*commandpb.Command{
		"one worker": func(l *log, id uint64) []*commandpb.Command {
			return []*commandpb.Command{give(id, 0, "w0", ""), evaluated(id, 1, sumOf(0, 10)), give(id, 1, "w0", ""),
				evaluated(id, 2, sumOf(1, 10)), give(id, 2, "w0", ""), evaluated(id, 3, sumOf(2, 5))}
		},
		"backwards": func(l *log, id uint64) []*commandpb.Command {
			return []*commandpb.Command{give(id, 2, "w0", ""), give(id, 1, "w1", ""), give(id, 0, "w2", ""),
				evaluated(id, 1, sumOf(2, 5)), evaluated(id, 2, sumOf(1, 10)), evaluated(id, 3, sumOf(0, 10))}
		},
		"a worker is lost": func(l *log, id uint64) []*commandpb.Command {
			return []*commandpb.Command{give(id, 0, "w2", ""), give(id, 1, "w1", ""), lose("w2", "silent"),
				evaluated(id, 2, sumOf(1, 10)), give(id, 0, "w1", ""), evaluated(id, 3, sumOf(0, 10)), give(id, 2, "w1", ""),
				evaluated(id, 4, sumOf(2, 5))}
		},
		"a part fails, one hangs": func(l *log, id uint64) []*commandpb.Command {
			return []*commandpb.Command{give(id, 0, "w2", ""), partFailed(id, 1, false), give(id, 0, "w2", ""),
				give(id, 0, "w1", "w2"), evaluated(id, 3, sumOf(0, 10)), give(id, 1, "w1", ""), evaluated(id, 4, sumOf(1, 10)),
				give(id, 2, "w1", ""), evaluated(id, 5, sumOf(2, 5))}
		},
	} {
		l, id := tested(t)
		for _, c := range run(l, id) {
			if err := l.apply(t, c); err != nil {
				t.Fatalf("%s: %v: %v", name, c, err)
			}
			l.State = decode(t, encode(t, l.View())) // through a snapshot every time
		}
		r := l.View().Evaluation(id)
		if r.State != Done || !proto.Equal(r.Sum, want) || len(r.Given)+len(r.Ahead)+len(r.Avoid) > 0 || r.EndedUnixNs == 0 {
			t.Errorf("%s: evaluation %v, want %v", name, r, want)
		}
		e := l.View().Events
		if text := e[len(e)-1].Text; !strings.Contains(text, fmt.Sprintf("evaluation %d of step 4: test error 7.33 %%", id)) {
			t.Errorf("%s: event %q", name, text)
		}
	}
	if back := fold(fold(sumOf(2, 5), sumOf(1, 10)), sumOf(0, 10)); back.Loss == want.Loss {
		t.Error("the figures of this test add up to the same in any order")
	}
}

func TestEvaluationRefusals(t *testing.T) {
	request := func(change func(*commandpb.RequestEvaluation)) *commandpb.Command {
		return with(evaluate("j", 25), (*commandpb.Command).GetRequestEvaluation, change)
	}
	l, id := tested(t, submit("k", 1, 1, 6, 1))
	for _, c := range []*commandpb.Command{give(id, 0, "w0", ""), give(id, 1, "w1", ""), evaluated(id, 2, sumOf(1, 10))} {
		l.must(t, c)
	}
	for _, c := range []struct {
		name string
		c    *commandpb.Command
		why  error
		text string
	}{
		{"unknown job", evaluate("x", 5), ErrNoJob, "coordinator job list"},
		{"no checkpoint", evaluate("k", 5), ErrNoCheckpoint, "coordinator checkpoint list k"},
		{"no such step", request(func(r *commandpb.RequestEvaluation) { r.Models[0].Step, r.Models[0].HasStep = 3, true }),
			ErrNoCheckpoint, "step 3"},
		{"an unknown job beside", request(func(r *commandpb.RequestEvaluation) {
			r.Models = append(r.Models, &commandpb.EvaluatedModel{Job: "x"})
		}), ErrNoJob, "job x"},
		{"no models", request(func(r *commandpb.RequestEvaluation) { r.Models = nil }), ErrInvalid, "0 models"},
		{"no pack", request(func(r *commandpb.RequestEvaluation) { r.Pack = nil }), ErrInvalid, "no images"},
		{"no images", evaluate("j", 0), ErrInvalid, "no images"},
		{"parts that cut batches", request(func(r *commandpb.RequestEvaluation) { r.PartImages = 12 }), ErrInvalid,
			"12 a part"},
		{"no views", request(func(r *commandpb.RequestEvaluation) { r.Views = 0 }), ErrInvalid, "0 views"},
		{"no such evaluation", give(id+99, 2, "w2", ""), ErrNoEvaluation, "evaluate --list"},
		{"a part that is done", give(id, 1, "w2", ""), ErrInvalid, "is done, or none"},
		{"a part that there is not", give(id, 3, "w2", ""), ErrInvalid, "is done, or none"},
		{"a part that another has", give(id, 0, "w2", ""), ErrStale, "part 0"},
		{"a part that another does not have", give(id, 2, "w2", "w1"), ErrStale, "part 2"},
		{"a second part", give(id, 2, "w0", ""), ErrInvalid, "has a part"},
		{"an unknown worker", give(id, 2, "w9", ""), ErrNoWorker, "w9"},
		{"what was done before", evaluated(id, 2, sumOf(1, 10)), ErrStale, "as of 2"},
		{"an end without a reason", with(endEvaluation(id, true), (*commandpb.Command).GetEndEvaluation,
			func(e *commandpb.EndEvaluation) { e.Reason = "" }), ErrInvalid, "reason"},
	} {
		before := l.bytes(t)
		err := l.apply(t, c.c)
		if !errors.Is(err, c.why) || !strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("%s: %v, want %q", c.name, err, c.text)
		}
		if !bytes.Equal(l.bytes(t), before) {
			t.Errorf("%s is refused and changes the state", c.name)
		}
	}
}

func TestEvaluationEnds(t *testing.T) {
	for name, c := range map[string]struct {
		run   func(id uint64) []*commandpb.Command
		state string
	}{
		"permanent": {func(id uint64) []*commandpb.Command {
			return []*commandpb.Command{give(id, 0, "w0", ""), partFailed(id, 1, true)}
		}, Failed},
		"again and again": {func(id uint64) (out []*commandpb.Command) {
			for i := range uint64(maxFailures) {
				out = append(out, give(id, 0, "w0", ""), partFailed(id, i+1, false))
			}
			return out
		}, Failed},
		"not so often": {func(id uint64) (out []*commandpb.Command) {
			for i := range uint64(maxFailures - 1) {
				out = append(out, give(id, 0, "w0", ""), partFailed(id, i+1, false))
			}
			return append(out, give(id, 0, "w0", ""), evaluated(id, maxFailures, sumOf(0, 10)), give(id, 1, "w0", ""),
				partFailed(id, maxFailures+1, false))
		}, Running},
		"what cannot be": {func(id uint64) (out []*commandpb.Command) {
			for i := range uint64(maxFailures) {
				out = append(out, give(id, 0, "w0", ""), evaluated(id, i+1, sumOf(0, 9)))
			}
			return out
		}, Failed},
		"cancelled": {func(id uint64) []*commandpb.Command {
			return []*commandpb.Command{give(id, 0, "w0", ""), endEvaluation(id, false), endEvaluation(id, false)}
		}, Cancelled},
		"the job is gone": {func(id uint64) []*commandpb.Command {
			return []*commandpb.Command{endEvaluation(id, true)}
		}, Failed},
	} {
		l, id := tested(t)
		for _, cmd := range c.run(id) {
			if err := l.apply(t, cmd); err != nil {
				t.Fatalf("%s: %v: %v", name, cmd, err)
			}
		}
		r := l.View().Evaluation(id)
		if r.State != c.state || (c.state != Running) != (r.EndedUnixNs > 0 && r.Sum == nil && len(r.Given) == 0) {
			t.Errorf("%s: %v", name, r)
		}
	}
}

// Cells that are placed on a worker take its part back, unless the operator wants both.
func TestPartsMakeRoomForCells(t *testing.T) {
	for _, busy := range []bool{false, true} {
		l := newLog(t, after(committed(2, 4), register("w2", "a"), submit("k", 1, 1, 6, 1),
			with(evaluate("j", 25), (*commandpb.Command).GetRequestEvaluation,
				func(r *commandpb.RequestEvaluation) { r.Busy = busy }))...)
		id := l.View().Evaluations[0].Id
		for _, c := range []*commandpb.Command{give(id, 0, "w2", ""), assign("k", 1, -1, place(1, "w2")...)} {
			if err := l.apply(t, c); err != nil {
				t.Fatal(err)
			}
		}
		if got := len(l.View().Evaluations[0].Given); (got == 1) != busy {
			t.Errorf("busy %v: %d parts under way", busy, got)
		}
	}
}

// A checkpoint that is tested is kept as long, and what is kept of evaluations is bounded.
func TestEvaluationsAreBounded(t *testing.T) {
	l := newLog(t, after(committed(1, 2, 3, 4), evaluate("j", 25))...)
	first := l.View().Evaluations[0].Id
	old := with(evaluate("j", 5), (*commandpb.Command).GetRequestEvaluation, func(r *commandpb.RequestEvaluation) {
		r.Models[0].Step, r.Models[0].HasStep, r.Request = 1, true, "q"
	})
	for range 2 { // asked again, it is no other
		if err := l.apply(t, old); err != nil || len(l.View().Evaluations) != 2 {
			t.Fatalf("%v, %d evaluations", err, len(l.View().Evaluations))
		}
	}
	second := l.View().Evaluations[1].Id
	if err := l.apply(t, drop("j", 1, 2)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a checkpoint that is tested was dropped: %v", err)
	}
	for _, c := range []*commandpb.Command{give(second, 0, "w0", ""), evaluated(second, 1, sumOf(0, 5)), drop("j", 1, 2)} {
		if err := l.apply(t, c); err != nil {
			t.Fatal(err)
		}
	}
	for range keepEvaluations + 5 {
		if err := l.apply(t, evaluate("j", 5)); err != nil {
			t.Fatal(err)
		}
		if err := l.apply(t, endEvaluation(l.View().Evaluations[len(l.View().Evaluations)-1].Id, false)); err != nil {
			t.Fatal(err)
		}
	}
	all := l.View().Evaluations
	if len(all) != keepEvaluations+1 || all[0].Id != first || all[0].State != Running {
		t.Errorf("%d evaluations, the first %d %s", len(all), all[0].Id, all[0].State)
	}
	var err error
	for range activeEvaluations {
		err = l.apply(t, evaluate("j", 5))
	}
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "coordinator evaluate --cancel") {
		t.Errorf("more and more at a time: %v", err)
	}
}

// drawn is a random history of one evaluation beside a model of it.
type drawn struct {
	*tlog
	id, images  uint64
	parts       uint32
	has         map[uint32]string // who has a part
	generations map[uint64]uint32 // under which parts were given
	given       uint64
	finished    map[uint32]bool
}

func (d *drawn) size(part uint32) uint64 { return min(10, d.images-10*uint64(part)) }

// sum is what a part comes to.
func (d *drawn) sum(part uint32) *commandpb.EvaluationSum {
	if d.size(part) == 1 {
		return &commandpb.EvaluationSum{Images: 1, Loss: 1 / float64(part+3), Classes: []*commandpb.ClassSum{{Images: 1}},
			Confused: []*commandpb.ConfusedSum{{Images: 1}}}
	}
	return sumOf(part, d.size(part))
}

func (d *drawn) holds(worker string) bool {
	return slices.Contains(slices.Collect(maps.Values(d.has)), worker)
}

// give gives a part, or takes it from a worker, and wants it to be refused if the model says so.
func (d *drawn) give(part uint32, worker, from string) {
	owner, taken := d.has[part]
	right := part < d.parts && !d.finished[part] && !d.holds(worker) && (from == "" && !taken || taken && owner == from)
	if err := d.apply(give(d.id, part, worker, from)); (err == nil) != right {
		d.t.Fatalf("part %d to %s from %q: %v; they have %v, done %v", part, worker, from, err, d.has, d.finished)
	}
	if right {
		d.given++
		d.has[part], d.generations[d.given] = worker, part
	}
}

// end has what was given under a generation end.
func (d *drawn) end(generation uint64, failed bool) {
	part, live := d.generations[generation]
	for g, p := range d.generations {
		live = live && (p != part || g <= generation)
	}
	live = live && d.has[part] != ""
	c := evaluated(d.id, generation, d.sum(part))
	if failed {
		c = partFailed(d.id, generation, false)
	}
	if err := d.apply(c); (err == nil) != live {
		d.t.Fatalf("generation %d: %v; they have %v", generation, err, d.has)
	}
	if live {
		delete(d.has, part)
		if !failed {
			d.finished[part] = true
		}
	}
}

// step draws one thing that happens.
func (d *drawn) step() {
	worker := rapid.SampledFrom([]string{"w0", "w1", "w2"})
	part := rapid.Uint32Range(0, d.parts).Draw(d.t, "part")
	switch rapid.SampledFrom([]string{"give", "give", "take", "end", "end", "end", "lose"}).Draw(d.t, "what") {
	case "give":
		d.give(part, worker.Draw(d.t, "to"), "")
	case "take":
		d.give(part, worker.Draw(d.t, "to"), worker.Draw(d.t, "from"))
	case "end":
		few := d.View().Evaluations[0].Failures < maxFailures-1
		d.end(rapid.Uint64Range(0, d.given+1).Draw(d.t, "generation"), few && rarely(d.t, "failed"))
	case "lose":
		id := worker.Draw(d.t, "lost")
		_ = d.apply(lose(id, "silent"))
		_ = d.apply(register(id, "a"))
		maps.DeleteFunc(d.has, func(_ uint32, w string) bool { return w == id })
	}
}

// TestRandomEvaluations holds random histories of one evaluation against a model: which parts are done, and who has
// which.
func TestRandomEvaluations(t *testing.T) {
	done := 0
	rapid.Check(t, func(t *rapid.T) {
		d := &drawn{tlog: &tlog{t: t, State: New()}, images: uint64(rapid.IntRange(1, 60).Draw(t, "images")),
			has: map[uint32]string{}, generations: map[uint64]uint32{}, finished: map[uint32]bool{}}
		for _, c := range after(committed(2, 4), register("w2", "a"), evaluate("j", d.images)) {
			_ = d.apply(c)
		}
		d.id, d.parts = d.View().Evaluations[0].Id, uint32((d.images+9)/10)
		r := d.View().Evaluations[0]
		for range rapid.IntRange(1, 120).Draw(t, "length") {
			d.step()
			if r = d.View().Evaluations[0]; r.State == Done {
				break
			}
			if len(r.Given) != len(d.has) || len(r.Ahead)+int(r.Folded) != len(d.finished) {
				t.Fatalf("evaluation %v; they have %v, done %v", r, d.has, d.finished)
			}
			d.State = decodeT(t, encodeT(t, d.View()))
		}
		if (r.State == Done) != (len(d.finished) == int(d.parts)) {
			t.Fatalf("it is %s after %d of %d parts", r.State, len(d.finished), d.parts)
		}
		if r.State != Done {
			return
		}
		done++
		var want *commandpb.EvaluationSum
		for p := range d.parts {
			want = fold(want, d.sum(p))
		}
		if !proto.Equal(r.Sum, want) {
			t.Fatalf("it came to %v, want %v", r.Sum, want)
		}
	})
	if done == 0 {
		t.Error("no evaluation was ever done: the commands are drawn badly")
	}
}
