package sched

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// tested is a job that is done, and workers that take parts of evaluations.
func tested(heard float64, ids ...string) *world {
	w := newWorld()
	for _, id := range ids {
		w.worker(id, "n0", 1).heard(id, heard).evaluates(id)
	}
	return w.job("j", fsm.Done, 2, 1)
}

func (w *world) evaluates(id string) *world {
	s := w.Sessions[id]
	s.Evaluates = true
	w.Sessions[id] = s
	return w
}

// evaluation adds one of job j, of some parts, of which workers have the first.
func (w *world) evaluation(id uint64, parts int, on ...string) *world {
	r := &commandpb.EvaluationRecord{Id: id, State: fsm.Running, Sum: &commandpb.EvaluationSum{},
		Requested: &commandpb.RequestEvaluation{Models: []*commandpb.EvaluatedModel{{Job: "j"}}, Views: 1, Batch: 10,
			PartImages: 10, Classes: 10, Pack: &commandpb.EvaluatedPack{Id: "p", Images: uint64(10*parts) - 1}},
		Checkpoints: []*commandpb.CheckpointRecord{{Step: 50, Numerics: "n0", Committed: true}}}
	for i, worker := range on {
		r.Generation++
		r.Given = append(r.Given, &commandpb.PartRecord{Part: uint32(i), Generation: r.Generation, Worker: worker,
			GivenUnixNs: at(5).UnixNano()})
	}
	w.View.Evaluations = append(w.View.Evaluations, r)
	return w
}

func (w *world) record(id uint64) *commandpb.EvaluationRecord { return w.View.Evaluation(id) }

func (w *world) busy(id uint64) *world {
	w.record(id).Requested.Busy = true
	return w
}

func (w *world) avoids(id uint64, worker string) *world {
	w.record(id).Avoid = append(w.record(id).Avoid, worker)
	return w
}

func (w *world) testedFiles(id uint64, worker string) *world {
	for _, k := range w.View.Workers {
		k.Registered.Checkpoints = "/" + k.Registered.Worker
	}
	k := w.record(id).Checkpoints[0]
	k.Files = append(k.Files, &commandpb.CheckpointFile{Worker: worker})
	return w
}

// failed says that so many parts have failed one after another, the last then, on a worker.
func (w *world) failed(id, times uint64, when float64, worker string) *world {
	r := w.record(id)
	r.Failures, r.FailedUnixNs, r.FailedWorker = times, at(when).UnixNano(), worker
	r.Reason = "worker " + worker + ": peer lost"
	return w
}

// at has a worker say since a time that it works on the first part it has.
func (w *world) at(worker string, id uint64, since float64, computing bool) *world {
	w.Parts[worker] = PartProgress{Evaluation: id, Generation: 1, Computing: computing, Since: at(since)}
	return w
}

// drawEvaluation adds an evaluation whose parts some of the workers have.
func drawEvaluation(t *rapid.T, w *world, id uint64, free *[]string) {
	var on []string
	for range rapid.IntRange(0, min(2, len(*free))).Draw(t, "parts under way") {
		on, *free = append(on, (*free)[0]), (*free)[1:]
	}
	w.evaluation(id, rapid.IntRange(max(len(on), 1), 5).Draw(t, "parts"), on...)
	r := w.record(id)
	r.Requested.Models[0].Job = rapid.SampledFrom([]string{"j0", "j0", "j1"}).Draw(t, "job")
	r.Requested.Busy = rapid.Bool().Draw(t, "busy")
	if n := rapid.IntRange(0, 3).Draw(t, "failures"); n > 0 {
		w.failed(id, uint64(n), float64(rapid.IntRange(-20, 200).Draw(t, "failed"))/10, "w0")
	}
	if rapid.IntRange(0, 3).Draw(t, "avoids") == 0 {
		w.avoids(id, "w1")
	}
	for _, p := range r.Given {
		if rapid.Bool().Draw(t, "speaks of it") {
			w.Parts[p.Worker] = PartProgress{id, p.Generation, rapid.Bool().Draw(t, "computes"),
				at(float64(rapid.IntRange(-700, 150).Draw(t, "since")) / 10)}
		}
	}
}

// drawTests adds evaluations to a world, and says who takes parts.
func drawTests(t *rapid.T, w *world) {
	w.Rules.Stall = at(rapid.SampledFrom([]float64{1, 60}).Draw(t, "stall")).Sub(t0)
	var there []string
	for _, e := range fsm.RollOf(w.View) {
		if s := w.Sessions[e.ID]; s.Connected {
			s.Evaluates = rapid.IntRange(0, 4).Draw(t, "takes parts") > 0
			w.Sessions[e.ID] = s
		}
		if !e.Record.Lost {
			there = append(there, e.ID)
		}
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "evaluations") {
		drawEvaluation(t, w, uint64(i+1), &there)
	}
}

// TestEvaluateProperties: what is decided of evaluations in random worlds the state accepts, decided again there is
// nothing left to do, nobody who trains is disturbed, and whatever waits has a reason.
func TestEvaluateProperties(t *testing.T) {
	gives, takes, waits := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w, now := drawWorld(t)
		drawTests(t, w)
		in := w.input()
		d := Decide(now, in)
		var busy []string
		for _, j := range in.View.Jobs {
			if j.State == fsm.Running || j.State == fsm.Stopping {
				busy = append(busy, workersOf(j.Placement)...)
			}
		}
		state, err := fsm.Decode(bytes.NewReader(encode(t, in.View)))
		if err != nil {
			t.Fatal(err)
		}
		taken := false // parts were, which others may have then
		for i, a := range d.Actions {
			switch a := a.(type) {
			case Lose, EndEvaluation:
				taken = true
			case Assign:
				taken = true
				for _, p := range a.Placement {
					busy = append(busy, p.Worker)
				}
			case Give:
				gives++
				if x := in.Sessions.Of(a.Worker); x == nil || !x.Connected || !x.Evaluates ||
					slices.Contains(busy, a.Worker) && !in.View.Evaluation(a.Evaluation).Requested.Busy {
					t.Fatalf("%+v: the worker takes no parts, or has cells", a)
				}
				if a.From != "" {
					takes, taken = takes+1, true
				}
			}
			res, err := state.Apply(uint64(1000+i), command(a, now))
			if err != nil || res.Refused != nil {
				t.Fatalf("%+v is refused: %v %v", a, err, res.Refused)
			}
		}
		waits += len(d.Waits)
		if taken {
			return
		}
		in.View = state.View()
		for _, a := range Decide(now, in).Actions {
			if _, more := a.(Give); more {
				t.Fatalf("decided again: %+v, after\n%s", a, text(d))
			}
		}
		for _, r := range in.View.Evaluations {
			if len(r.Given) == 0 && d.Waits[r.Id] == "" {
				t.Fatalf("evaluation %d waits, and nobody knows for what:\n%s", r.Id, text(d))
			}
		}
	})
	if gives == 0 || takes == 0 || waits == 0 {
		t.Errorf("%d parts were given, %d taken from others, %d evaluations waited: the worlds are drawn badly", gives, takes,
			waits)
	}
}
