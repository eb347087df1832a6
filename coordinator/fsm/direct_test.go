package fsm

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"colonnade/proto/commandpb"
)

// TestGoldenSnapshotOfAJobWithoutWinograd pins the bytes of what a job with `winograd: off` adds to the state, beside
// those of states from before there was the choice, which TestGoldenSnapshot has.
func TestGoldenSnapshotOfAJobWithoutWinograd(t *testing.T) {
	c0, c1 := cell(0, 0), cell(0, 1)
	worker := func(id string) *commandpb.Command {
		return with(register(id, "a"), (*commandpb.Command).GetRegisterWorker, func(r *commandpb.RegisterWorker) {
			r.Device.DirectNumerics, r.Device.Threads = "d0", 7
		})
	}
	assigned := func(generation uint64, restore int, numerics string) *commandpb.Command {
		return with(assign("j", generation, restore, place(2, "w0", "w1")...), (*commandpb.Command).GetAssignJob,
			func(a *commandpb.AssignJob) { a.Numerics = numerics })
	}
	direct := func(c *commandpb.Command) *commandpb.Command {
		return with(c, (*commandpb.Command).GetCheckpointWritten, func(w *commandpb.CheckpointWritten) { w.Numerics = "d0" })
	}
	l := newLog(t, worker("w0"), worker("w1"),
		with(submit("j", 1, 2, 10, 2), (*commandpb.Command).GetSubmitJob, func(s *commandpb.SubmitJob) { s.Direct = true }),
		assigned(1, -1, "d0"), direct(written("j", 1, 4, c0)), direct(written("j", 1, 4, c1)))
	if err := l.apply(t, written("j", 1, 6, c0)); !errors.Is(err, ErrNumerics) { // by Winograd's algorithm after all
		t.Errorf("a checkpoint of other numerics: %v", err)
	}
	l.must(t, release("j", 1, "lost"))
	if err := l.apply(t, assigned(2, 4, "n0")); !errors.Is(err, ErrNumerics) {
		t.Errorf("assigned under other numerics: %v", err)
	}
	l.must(t, assigned(2, 4, "d0"))

	got := encode(t, l.View())
	golden(t, "direct.snapshot", hex.Dump(got))
	back := decode(t, got).View()
	if again := encode(t, back); !bytes.Equal(again, got) {
		t.Error("decoded and encoded again, the snapshot is another")
	}
	j, w := back.Jobs["j"], back.Workers["w1"].Registered.Device
	if !j.Submitted.Direct || j.Numerics != "d0" || w.DirectNumerics != "d0" || w.Threads != 7 {
		t.Errorf("job %v, device %v", j, w)
	}
}

// TestStatesFromBeforeTheChoice: a job and a worker whose records do not say are one that does not mind, and one that
// cannot do without.
func TestStatesFromBeforeTheChoice(t *testing.T) {
	v := decode(t, goldenBytes(t)).View()
	for name, j := range v.Jobs {
		if j.Submitted.Direct {
			t.Errorf("job %s is direct", name)
		}
	}
	for id, w := range v.Workers {
		if d := w.Registered.Device; d.DirectNumerics != "" || d.Threads != 0 || d.Numerics == "" {
			t.Errorf("worker %s has %v", id, d)
		}
	}
	if len(v.Jobs) == 0 || len(v.Workers) == 0 || !proto.Equal(v.Jobs["first"].Submitted, submit("first", 1, 2, 10,
		2).GetSubmitJob()) {
		t.Errorf("jobs %v", v.Jobs)
	}
}
