package sched

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// drawWorld draws a world as a leader may find it, and the time. Times are in tenths of a second so that coincidences
// happen.
func drawWorld(t *rapid.T) (*world, time.Time) {
	now := rapid.IntRange(0, 150).Draw(t, "now")
	past := func(what string) float64 { return float64(rapid.IntRange(min(0, now-40), now).Draw(t, what)) / 10 }
	w := newWorld()
	for i := range rapid.IntRange(0, 6).Draw(t, "workers") {
		id := fmt.Sprintf("w%d", i)
		w.worker(id, rapid.SampledFrom([]string{"n0", "n0", "n0", "n1"}).Draw(t, "numerics"), past("registered"))
		w.direct(id, rapid.SampledFrom([]string{"", "n0", "n1"}).Draw(t, "direct numerics"))
		switch rapid.IntRange(0, 7).Draw(t, "session") {
		case 0:
			w.lost(id, past("lost"))
		case 1:
			w.unheard(id)
		case 2:
			w.broken(id, max(past("broken"), 0))
		case 3:
			w.heard(id, max(past("heard"), 0))
		default:
			w.heard(id, float64(now)/10)
		}
		w.View.Workers[id].Draining = rapid.IntRange(0, 7).Draw(t, "drained") == 0
		w.View.Workers[id].Hung = rapid.IntRange(0, 9).Draw(t, "hangs") == 0
	}
	w.Rules.Spread = time.Second
	if rapid.Bool().Draw(t, "forgets") {
		w.Rules.Forget = 5 * time.Second
	}
	free := slices.Sorted(maps.Keys(w.View.Workers))
	for i := range rapid.IntRange(0, 4).Draw(t, "jobs") {
		drawJob(t, w, fmt.Sprintf("j%d", i), past("since"), &free)
	}
	return w, at(float64(now) / 10)
}

// drawJob adds a job; one that runs takes workers for itself, as the state has it.
func drawJob(t *rapid.T, w *world, name string, since float64, free *[]string) {
	cells := rapid.SampledFrom([]int32{1, 2, 4}).Draw(t, "cells")
	state := rapid.SampledFrom([]string{fsm.Queued, fsm.Queued, fsm.Recovering, fsm.Recovering, fsm.Running,
		fsm.Stopping, fsm.Stopped,
		fsm.Done, fsm.Failed}).Draw(t, "state")
	var on []string
	switch state {
	case fsm.Recovering:
		for range cells {
			on = append(on, fmt.Sprintf("w%d", rapid.IntRange(0, 6).Draw(t, "was on")))
		}
	case fsm.Running, fsm.Stopping:
		there := slices.DeleteFunc(slices.Clone(*free), func(id string) bool {
			r := w.View.Workers[id]
			return r.Lost || r.Registered.Device.Numerics != "n0"
		})
		if len(there) == 0 {
			state = fsm.Queued
			break
		}
		for range cells {
			on = append(on, rapid.SampledFrom(there).Draw(t, "is on"))
		}
		*free = slices.DeleteFunc(*free, func(id string) bool { return slices.Contains(on, id) })
	}
	w.job(name, state, cells, since, on...)
	w.View.Jobs[name].Moving = state == fsm.Stopping && rapid.Bool().Draw(t, "moves")
	w.View.Jobs[name].Submitted.Direct = rapid.IntRange(0, 3).Draw(t, "winograd") == 0
	for s := range rapid.IntRange(0, 3).Draw(t, "checkpoints") {
		w.checkpoints(name, rapid.SampledFrom([]int{1, -1}).Draw(t, "good")*(s+1))
	}
	if state == fsm.Queued {
		w.View.Jobs[name].Generation = rapid.Uint64Range(0, 3).Draw(t, "generation")
	}
	drawMemory(t, w, w.View.Jobs[name], cells)
}

// drawMemory draws what workers have said of a job, and what its record says of the generations before.
func drawMemory(t *rapid.T, w *world, j *commandpb.JobRecord, cells int32) {
	j.AvoidMemory = rapid.IntRange(0, 5).Draw(t, "avoid memory") == 0
	j.FromMemory = rapid.Bool().Draw(t, "from memory")
	j.MemorySince = rapid.Uint64Range(0, j.Generation).Draw(t, "memory since")
	j.MemoryTries = rapid.Uint64Range(0, 4).Draw(t, "tries")
	for _, id := range slices.Sorted(maps.Keys(w.View.Workers)) {
		s := w.Sessions[id]
		if !s.Connected {
			continue
		}
		if s.Memory = rapid.IntRange(0, 3).Draw(t, "can be asked") > 0; !s.Memory {
			continue
		}
		w.Sessions[id] = s
		if rapid.IntRange(0, 4).Draw(t, "has answered") == 0 {
			continue
		}
		h := Holding{Generation: j.Generation}
		if rapid.IntRange(0, 9).Draw(t, "of old") == 0 {
			h.Generation++
		}
		for cell := range cells {
			if rapid.IntRange(0, 2).Draw(t, "holds") == 0 {
				continue
			}
			newest := rapid.Uint64Range(0, 5).Draw(t, "newest")
			h.Held = append(h.Held, Held{Replica: cell / j.Submitted.Columns, Column: cell % j.Submitted.Columns,
				Generation: j.Generation - min(j.Generation, rapid.Uint64Range(0, 2).Draw(t, "generations ago")),
				Numerics:   rapid.SampledFrom([]string{"n0", "n0", "n0", "n1"}).Draw(t, "under"),
				Steps:      []uint64{newest, max(newest, 1) - 1}})
		}
		if w.Holdings[id] == nil {
			w.Holdings[id] = map[string]Holding{}
		}
		w.Holdings[id][j.Submitted.Job] = h
	}
}

func TestDecideProperties(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		w, now := drawWorld(t)
		before := encode(t, w.View)
		d := Decide(now, w.input())
		if again := Decide(now, w.input()); !reflect.DeepEqual(render(d), render(again)) {
			t.Fatalf("decided twice:\n%s\n%s", render(d), render(again))
		}
		if !bytes.Equal(encode(t, w.View), before) {
			t.Fatal("deciding has changed the input")
		}
		lost := checkLost(t, w.input(), now, d)
		if lost == 0 {
			checkPlaced(t, w.input(), now, d)
		} else if len(d.Actions) != lost {
			t.Fatalf("places before lost workers are out:\n%s", render(d))
		}
		checkNext(t, w.input(), now, d)
		for _, a := range d.Actions {
			seen[fmt.Sprintf("%T", a)]++
		}
		seen["waits"] += len(d.Reasons)
	})
	for _, k := range []string{"sched.Lose", "sched.Assign", "sched.Move", "sched.Forget", "waits"} {
		if seen[k] == 0 {
			t.Errorf("no run has shown %s: worlds are drawn badly", k)
		}
	}
	t.Log(seen)
}

func encode(t *rapid.T, v fsm.View) []byte {
	b, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// render is a decision with all of its reasons, to compare.
func render(d Decision) string {
	var b strings.Builder
	b.WriteString(text(d))
	for _, name := range slices.Sorted(maps.Keys(d.Reasons)) {
		fmt.Fprintf(&b, "  %s waits: %s\n", name, d.Reasons[name])
	}
	return b.String()
}

// checkLost holds the lost workers against the rules, written here anew, and returns how many there are.
func checkLost(t *rapid.T, in Input, now time.Time, d Decision) int {
	lost := map[string]bool{}
	for _, a := range d.Actions {
		if l, ok := a.(Lose); ok {
			if l.Reason == "" || lost[l.Worker] {
				t.Fatalf("worker %s is lost twice or without a reason", l.Worker)
			}
			lost[l.Worker] = true
		}
	}
	for id, w := range in.View.Workers {
		s, known := in.Sessions.of(id), in.Sessions.Of(id) != nil
		alive := now.Sub(in.Leader) < in.Rules.Lease || // the leader is new
			(known && s.Connected && now.Sub(s.Heard) < in.Rules.Lease) ||
			(known && !s.Connected && now.Sub(s.Broken) < in.Rules.Grace)
		if want := !w.Lost && !alive; want != lost[id] {
			t.Fatalf("worker %s (%+v, lost before %v) given up: %v, want %v", id, s, w.Lost, lost[id], want)
		}
		delete(lost, id)
	}
	if len(lost) > 0 {
		t.Fatalf("unknown workers are lost: %v", lost)
	}
	n := 0
	for _, a := range d.Actions {
		if _, ok := a.(Lose); ok {
			n++
		}
	}
	return n
}

// checkPlaced holds placements and reasons against the rules.
func checkPlaced(t *rapid.T, in Input, now time.Time, d Decision) {
	assigned := map[string]Assign{}
	moved := map[string]bool{}
	for _, a := range d.Actions {
		if m, ok := a.(Move); ok {
			if m.Reason == "" || moved[m.Job] || m.Generation != in.View.Jobs[m.Job].Generation {
				t.Fatalf("moves badly: %+v", m)
			}
			moved[m.Job] = true
			continue
		}
		if f, ok := a.(Forget); ok {
			if w := in.View.Workers[f.Worker]; !w.Lost || now.Sub(time.Unix(0, w.LostUnixNs)) < in.Rules.Forget ||
				in.Rules.Forget == 0 || fsm.NeededWorkers(in.View)[f.Worker] {
				t.Fatalf("forgets worker %s: %v", f.Worker, w)
			}
			continue
		}
		x := a.(Assign)
		if _, twice := assigned[x.Job]; twice {
			t.Fatalf("job %s is assigned twice", x.Job)
		}
		assigned[x.Job] = x
	}
	taken := map[string]string{}
	for name, j := range in.View.Jobs {
		for _, p := range j.Placement {
			if j.State == fsm.Running || j.State == fsm.Stopping {
				taken[p.Worker] = name
			}
		}
	}
	names := in.View.JobNames()
	slices.SortStableFunc(names, func(a, b string) int { return spreads(in, a) - spreads(in, b) })
	for _, name := range names {
		j := in.View.Jobs[name]
		a, ok := assigned[name]
		waits := j.State == fsm.Queued || j.State == fsm.Recovering
		if j.State == fsm.Running || j.Moving {
			checkMoves(t, in, now, j, moved[name], d.Reasons[name], taken)
			continue
		}
		if moved[name] {
			t.Fatalf("job %s is %s and moves", name, j.State)
		}
		if (ok && !waits) || (waits && ok == (d.Reasons[name] != "")) || (!waits && d.Reasons[name] != "") ||
			strings.Contains(d.Reasons[name], "\n") {
			t.Fatalf("job %s is %s; assigned %v, reason %q", name, j.State, ok, d.Reasons[name])
		}
		if ok {
			checkAssign(t, in, j, a, taken)
		} else if waits {
			checkWaits(t, in, now, j, taken)
		}
	}
}

// spreads is 1 for a job that runs and can do no more than spread out: it has its choice when the others have had
// theirs.
func spreads(in Input, name string) int {
	j := in.View.Jobs[name]
	if j.State != fsm.Running || slices.ContainsFunc(j.Placement, func(p *commandpb.Placement) bool {
		return in.View.Workers[p.Worker].Draining
	}) {
		return 0
	}
	return 1
}

// may says whether a worker may have cells.
func may(in Input, id string) bool {
	w := in.View.Workers[id]
	return w != nil && !w.Lost && !w.Draining && !w.Hung && in.Sessions.of(id).Connected
}

// checkMoves wants a job that runs to move when one of its workers is drained and another can take its cells, or when
// its cells share workers though others have been free for long enough; and not for anything else.
func checkMoves(t *rapid.T, in Input, now time.Time, j *commandpb.JobRecord, moved bool, why string,
	taken map[string]string) {
	cells := int(j.Submitted.Replicas * j.Submitted.Columns)
	load, drained, kept := map[string]int{}, false, 0
	for _, p := range j.Placement {
		load[p.Worker]++
		drained = drained || in.View.Workers[p.Worker].Draining
	}
	most := 0
	for id, n := range load {
		if may(in, id) {
			kept, most = kept+1, max(most, n)
		}
	}
	long := func(ns int64) bool {
		return ns > now.UnixNano() || now.Sub(time.Unix(0, ns)) >= in.Rules.Spread
	}
	var free, ready []string
	for _, id := range candidatesOf(in, j, j.Numerics, taken) {
		if free = append(free, id); long(in.View.Workers[id].RegisteredUnixNs) {
			ready = append(ready, id)
		}
	}
	left := max(cells-kept, 0)
	free, ready = free[:min(len(free), left)], ready[:min(len(ready), left)]
	most2 := func(workers int) int { n := max(min(workers, cells), 1); return (cells + n - 1) / n }
	var want []string
	reason := false
	switch {
	case j.Moving:
		want = free
		if moved {
			t.Fatal("what moves is to move again")
		}
	case drained:
		reason = kept+len(free) == 0
		if moved == reason {
			t.Fatalf("a worker of job %s is drained, %d others could have its cells; moved %v", j.Submitted.Job,
				kept+len(free), moved)
		}
		want = free
	default:
		should := kept == len(load) && long(j.StateUnixNs) && now.Sub(in.Leader) >= in.Rules.Spread &&
			most2(kept+len(ready)) < most
		if moved != should {
			t.Fatalf("job %s has %d cells on its fullest worker, %d workers free long enough; moved %v", j.Submitted.Job, most,
				len(ready), moved)
		}
		if moved {
			want = ready
		}
	}
	if reason != (why != "") {
		t.Fatalf("job %s runs; the reason is %q", j.Submitted.Job, why)
	}
	if moved || j.Moving {
		take(taken, want, j)
	}
}

// under is what a job would run under on a worker.
func under(in Input, j *commandpb.JobRecord, worker string) string {
	d := in.View.Workers[worker].Registered.Device
	return map[bool]string{false: d.Numerics, true: d.DirectNumerics}[j.Submitted.Direct]
}

// candidatesOf are the workers that could take a job: there, of no other job, and able to run it at all.
func candidatesOf(in Input, j *commandpb.JobRecord, numerics string, taken map[string]string) (out []string) {
	for _, id := range slices.Sorted(maps.Keys(in.View.Workers)) {
		if may(in, id) && taken[id] == "" && under(in, j, id) != "" && (numerics == "" ||
			under(in, j, id) == numerics) {
			out = append(out, id)
		}
	}
	return out
}

func checkAssign(t *rapid.T, in Input, j *commandpb.JobRecord, a Assign, taken map[string]string) {
	if a.Generation != j.Generation+1 || a.Reason == "" || (j.Numerics != "" && a.Numerics != j.Numerics) {
		t.Fatalf("job at generation %d under %q assigned %+v", j.Generation, j.Numerics, a)
	}
	could := candidatesOf(in, j, a.Numerics, taken)
	n := int(j.Submitted.Replicas * j.Submitted.Columns)
	full := (n + len(could) - 1) / max(len(could), 1)
	load, was := map[string]int{}, map[string]int{}
	for i, p := range a.Placement {
		if !slices.Contains(could, p.Worker) {
			t.Fatalf("cell on worker %s, which is not there, runs another job or has other numerics; could be on %v", p.Worker,
				could)
		}
		if p.Cell.Replica != int32(i)/j.Submitted.Columns || p.Cell.Column != int32(i)%j.Submitted.Columns {
			t.Fatalf("place %d is of cell %v", i, p.Cell)
		}
		load[p.Worker]++
	}
	if len(a.Placement) != n {
		t.Fatalf("%d cells of %d are placed", len(a.Placement), n)
	}
	most := 0
	for _, l := range load {
		most = max(most, l)
	}
	for i, p := range j.Placement { // sticky, in the order of cells, until the worker is full
		if was[p.Worker]++; slices.Contains(could, p.Worker) && was[p.Worker] <= full &&
			a.Placement[i].Worker != p.Worker && !a.FromMemory {
			t.Fatalf("cell %d was on worker %s, which is there, and is now on %s", i, p.Worker, a.Placement[i].Worker)
		}
	}
	var best uint64
	for _, r := range j.Checkpoints {
		if r.Committed && r.Bad == "" {
			best = max(best, r.Step)
		}
	}
	if a.Restore != best || a.HasRestore != (best > 0) {
		t.Fatalf("restores step %d (%v), the newest good one is %d", a.Restore, a.HasRestore, best)
	}
	if most > full && (a.Memory <= best || seats(in, j, a, a.Memory, could, most-1)) {
		t.Fatalf("%d cells on one worker, %d workers for %d: from step %d in memory, checkpoint %d", most, len(could), n,
			a.Memory, best)
	}
	checkMemory(t, in, j, a, best, could)
	for id := range load {
		taken[id] = j.Submitted.Job
	}
}

// checkWaits wants a job that waits to have no worker, or too few and not to have waited for long.
func checkWaits(t *rapid.T, in Input, now time.Time, j *commandpb.JobRecord, taken map[string]string) {
	could := candidatesOf(in, j, j.Numerics, taken)
	if len(could) == 0 {
		return
	}
	if j.Numerics == "" { // the ones most have
		by := map[string][]string{}
		for _, id := range could {
			n := under(in, j, id)
			by[n] = append(by[n], id)
		}
		could = by["n0"]
		if len(by["n1"]) > len(by["n0"]) {
			could = by["n1"]
		}
	}
	settle := in.Rules.Settle
	if j.State == fsm.Recovering {
		settle = in.Rules.Regroup
		if now.Sub(in.Leader) < in.Rules.Lease || asking(in, now, j, could) {
			take(taken, could, j)
			return
		}
	}
	newest, first := max(j.StateUnixNs, in.Leader.UnixNano()), now.UnixNano()
	for _, w := range in.View.Workers {
		newest = max(newest, w.RegisteredUnixNs, w.LostUnixNs)
	}
	for _, id := range could {
		first = min(first, in.View.Workers[id].RegisteredUnixNs)
	}
	first = max(first, j.StateUnixNs, in.Leader.UnixNano())
	quiet, all := now.Sub(time.Unix(0, newest)), now.Sub(time.Unix(0, first))
	if n := int(j.Submitted.Replicas * j.Submitted.Columns); len(could) >= n || quiet >= settle ||
		all >= 5*in.Rules.Settle {
		t.Fatalf("job %s of %d cells waits %v after the last change, %v in all, though workers %v are there",
			j.Submitted.Job, n, quiet, all, could)
	}
	take(taken, could, j)
}

func take(taken map[string]string, workers []string, j *commandpb.JobRecord) {
	for _, id := range workers {
		taken[id] = j.Submitted.Job
	}
}

// asking says whether a worker's answer may still come that a job can be placed by.
func asking(in Input, now time.Time, j *commandpb.JobRecord, could []string) bool {
	since := max(j.StateUnixNs, in.Leader.UnixNano())
	if j.StateUnixNs > now.UnixNano() {
		since = in.Leader.UnixNano()
	}
	if j.AvoidMemory || j.FromMemory && j.MemoryTries >= 3 || now.Sub(time.Unix(0, since)) >= in.Rules.Ask {
		return false
	}
	return slices.ContainsFunc(could, func(id string) bool {
		h, ok := in.Sessions.of(id).Answers[j.Submitted.Job]
		return in.Sessions.of(id).Memory && (!ok || h.Generation != j.Generation)
	})
}

// reaches says whether a worker can go on from a step of a cell.
func reaches(in Input, j *commandpb.JobRecord, numerics, worker string, cell int, step uint64) bool {
	h := in.Sessions.of(worker).Answers[j.Submitted.Job]
	return h.Generation == j.Generation && slices.ContainsFunc(h.Held, func(x Held) bool {
		ofThis := x.Generation >= j.MemorySince && j.FromMemory || x.Generation == j.Generation
		return ofThis && int(x.Replica*j.Submitted.Columns+x.Column) == cell && x.Numerics == numerics &&
			slices.Contains(x.Steps, step)
	})
}

// seats says whether cells can be placed where each reaches a step, at most so many on one worker: all ways are tried.
func seats(in Input, j *commandpb.JobRecord, a Assign, step uint64, workers []string, most int) bool {
	load := map[string]int{}
	var place func(cell int) bool
	place = func(cell int) bool {
		if cell == len(a.Placement) {
			return true
		}
		for _, id := range workers {
			if load[id] == most || !reaches(in, j, a.Numerics, id, cell, step) {
				continue
			}
			load[id]++
			if place(cell + 1) {
				return true
			}
			load[id]--
		}
		return false
	}
	return place(0)
}

// checkMemory holds a generation's step against what its workers hold, and wants no newer one to be had: however the
// cells could have been placed, but for that of the checkpoint, which is worth no more than the cells as they are.
func checkMemory(t *rapid.T, in Input, j *commandpb.JobRecord, a Assign, best uint64, could []string) {
	all := func(step uint64) bool {
		for i, p := range a.Placement {
			if !reaches(in, j, a.Numerics, p.Worker, i, step) {
				return false
			}
		}
		return true
	}
	may := j.State == fsm.Recovering && !j.AvoidMemory && !(j.FromMemory && j.MemoryTries >= 3)
	if a.FromMemory && (!may || a.Memory == 0 || a.Memory < best || !all(a.Memory) ||
		!strings.Contains(a.Reason, fmt.Sprintf("from step %d in memory", a.Memory))) {
		t.Fatalf("goes on from step %d in memory for the reason %q; checkpoint %d, record %v", a.Memory, a.Reason, best, j)
	}
	for step := max(best, a.Memory+1, 1); may && step < 10; step++ {
		if all(step) || step > best && seats(in, j, a, step, could, len(a.Placement)) {
			t.Fatalf("goes on from step %d in memory (%v), and all cells could from %d", a.Memory, a.FromMemory, step)
		}
	}
}

// checkNext wants the decision to stay the same until Next, and time to get on at Next.
func checkNext(t *rapid.T, in Input, now time.Time, d Decision) {
	if len(d.Actions) > 0 {
		return // the input is about to change
	}
	horizon := now.Add(time.Minute)
	if !d.Next.IsZero() {
		if !d.Next.After(now) {
			t.Fatalf("next is %v, now is %v: the loop would spin", d.Next, now)
		}
		horizon = d.Next
		if then := Decide(d.Next, in); len(then.Actions) == 0 && !then.Next.IsZero() && !then.Next.After(d.Next) {
			t.Fatalf("at next, nothing is decided and next stays %v", then.Next)
		}
	}
	for _, part := range []time.Duration{2, 10, 100} {
		mid := now.Add(horizon.Sub(now) * (part - 1) / part)
		if then := Decide(mid, in); render(then) != render(d) {
			t.Fatalf("before next the decision has changed from\n%s to\n%s", render(d), render(then))
		}
	}
}

// TestDecisionsHold has the state apply what is decided until nothing is: none is refused, and it ends soon.
func TestDecisionsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, now := drawWorld(t)
		holds(t, w, now)
	})
}

func holds(t *rapid.T, w *world, now time.Time) {
	state, err := fsm.Decode(bytes.NewReader(encode(t, w.View)))
	if err != nil {
		t.Fatal(err)
	}
	for round := 0; ; round++ {
		in := w.input()
		in.View = state.View()
		d := Decide(now, in)
		if len(d.Actions) == 0 {
			break
		}
		if round == 3 { // lost workers, then placements, then those whom nobody needs any more
			t.Fatalf("still deciding in round %d:\n%s", round, render(d))
		}
		for i, a := range d.Actions {
			r, err := state.Apply(in.View.Index+uint64(i)+1, command(a, now))
			if err != nil || r.Refused != nil {
				t.Fatalf("%+v: %v, %v", a, r.Refused, err)
			}
		}
	}
	runs := map[string]string{}
	for name, j := range state.View().Jobs {
		for _, p := range j.Placement {
			if j.State != fsm.Running && j.State != fsm.Stopping {
				continue
			}
			if other := runs[p.Worker]; other != "" && other != name {
				t.Fatalf("jobs %s and %s both run on worker %s", name, other, p.Worker)
			}
			runs[p.Worker] = name
		}
	}
}

func command(a Action, now time.Time) *commandpb.Command {
	c := &commandpb.Command{Version: fsm.Version, DecidedUnixNs: now.UnixNano()}
	switch a := a.(type) {
	case Lose:
		c.Kind = &commandpb.Command_LoseWorker{LoseWorker: &commandpb.LoseWorker{Worker: a.Worker, Reason: a.Reason}}
	case Assign:
		c.Kind = &commandpb.Command_AssignJob{AssignJob: &commandpb.AssignJob{Job: a.Job, Generation: a.Generation,
			Placement: a.Placement, RestoreStep: a.Restore, HasRestore: a.HasRestore, FromMemory: a.FromMemory,
			MemoryStep: a.Memory, Numerics: a.Numerics, Reason: a.Reason}}
	case Give:
		c.Kind = &commandpb.Command_GivePart{GivePart: &commandpb.GivePart{Evaluation: a.Evaluation, Part: a.Part,
			Worker: a.Worker, From: a.From}}
	case EndEvaluation:
		c.Kind = &commandpb.Command_EndEvaluation{EndEvaluation: &commandpb.EndEvaluation{Evaluation: a.Evaluation,
			Reason: a.Reason, Failed: true}}
	case Forget:
		c.Kind = &commandpb.Command_ForgetWorker{ForgetWorker: &commandpb.ForgetWorker{Worker: a.Worker}}
	case Preempt:
		c.Kind = &commandpb.Command_PreemptJob{PreemptJob: &commandpb.PreemptJob{Job: a.Job, Generation: a.Generation,
			By: a.By}}
	case Move:
		c.Kind = &commandpb.Command_MoveJob{MoveJob: &commandpb.MoveJob{Job: a.Job, Generation: a.Generation,
			Reason: a.Reason}}
	}
	return proto.CloneOf(c)
}
