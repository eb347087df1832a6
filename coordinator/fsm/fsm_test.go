package fsm

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"colonnade/proto/commandpb"
)

// Builders of commands, one a kind.

func initCluster(cluster string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_InitCluster{InitCluster: &commandpb.InitCluster{Cluster: cluster}}}
}

func register(worker, incarnation string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_RegisterWorker{RegisterWorker: &commandpb.RegisterWorker{
		Worker: worker,
		Name:   "name-of-" + worker, Host: "host", Address: "host:" + worker, Incarnation: incarnation,
		Device: &commandpb.Device{Name: "cpu", Model: "a model", Numerics: "n0", MemoryBytes: 1 << 30}, Version: "v",
		Checkpoints: "/data/" + worker}}}
}

func lose(worker, reason string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_LoseWorker{LoseWorker: &commandpb.LoseWorker{Worker: worker,
		Reason: reason}}}
}

func submit(job string, replicas, columns int32, steps, keep uint64) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_SubmitJob{SubmitJob: &commandpb.SubmitJob{Job: job,
		Spec:  []byte("spec of " + job),
		Steps: steps, Replicas: replicas, Columns: columns, Keep: keep}}}
}

// place puts cells on workers in their order.
func place(columns int32, workers ...string) []*commandpb.Placement {
	var out []*commandpb.Placement
	for i, w := range workers {
		out = append(out, &commandpb.Placement{Cell: cell(int32(i)/columns, int32(i)%columns), Worker: w})
	}
	return out
}

func cell(replica, column int32) *commandpb.Cell {
	return &commandpb.Cell{Replica: replica, Column: column}
}

// assign starts a generation; a restore of -1 is none.
func assign(job string, generation uint64, restore int, placement ...*commandpb.Placement) *commandpb.Command {
	a := &commandpb.AssignJob{Job: job, Generation: generation, Placement: placement, Numerics: "n0", Reason: "because"}
	if restore >= 0 {
		a.RestoreStep, a.HasRestore = uint64(restore), true
	}
	return &commandpb.Command{Kind: &commandpb.Command_AssignJob{AssignJob: a}}
}

func release(job string, generation uint64, reason string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_ReleaseJob{ReleaseJob: &commandpb.ReleaseJob{Job: job,
		Generation: generation,
		Reason:     reason}}}
}

func stop(job string, now bool) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_RequestStop{RequestStop: &commandpb.RequestStop{Job: job,
		Now: now}}}
}

func pause(job string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_RequestStop{RequestStop: &commandpb.RequestStop{Job: job,
		Pause: true}}}
}

func pin(job string, step uint64, undo bool) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_PinCheckpoint{PinCheckpoint: &commandpb.PinCheckpoint{Job: job,
		Step: step, Undo: undo}}}
}

func deleteCheckpoint(job string, step uint64) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_DeleteCheckpoint{
		DeleteCheckpoint: &commandpb.DeleteCheckpoint{Job: job, Step: step}}}
}

func deleteJob(job string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_DeleteJob{DeleteJob: &commandpb.DeleteJob{Job: job}}}
}

// forked makes a fork of a submission.
func forked(submit *commandpb.Command, from string, step uint64) *commandpb.Command {
	submit.GetSubmitJob().FromJob, submit.GetSubmitJob().FromStep = from, step
	return submit
}

// resume goes on from the newest checkpoint, or from a step that is not -1.
func resume(job string, step int) *commandpb.Command {
	r := &commandpb.ResumeJob{Job: job}
	if step >= 0 {
		r.Step, r.FromStep = uint64(step), true
	}
	return &commandpb.Command{Kind: &commandpb.Command_ResumeJob{ResumeJob: r}}
}

// stateDigest is the digest of a cell's state: the same in every generation, as replay gives the same bits, and in
// every replica.
func stateDigest(job string, step uint64, c *commandpb.Cell) []byte {
	h := sha256.Sum256(fmt.Appendf(nil, "%s %d %s", job, step, CellName(cell(0, c.GetColumn()))))
	return h[:]
}

func written(job string, generation, step uint64, c *commandpb.Cell) *commandpb.Command {
	sum := sha256.Sum256(fmt.Appendf(nil, "file of generation %d", generation))
	return &commandpb.Command{Kind: &commandpb.Command_CheckpointWritten{CheckpointWritten: &commandpb.CheckpointWritten{
		Job:        job,
		Generation: generation, Step: step, PlanDigest: []byte("plan"), Numerics: "n0",
		File: &commandpb.CheckpointFile{Cell: c, Worker: "w0", Path: fmt.Sprintf("%s/%d/%s.db", job, step, CellName(c)),
			Bytes:  9,
			Sha256: sum[:], Digest: stateDigest(job, step, c)}}}}
}

func bad(job string, step uint64, reason string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_MarkCheckpointBad{MarkCheckpointBad: &commandpb.MarkCheckpointBad{
		Job:  job,
		Step: step, Cell: cell(0, 0), Reason: reason}}}
}

// badSince is what a generation finds of a checkpoint.
func badSince(job string, step, generation uint64) *commandpb.Command {
	return with(bad(job, step, "x"), (*commandpb.Command).GetMarkCheckpointBad,
		func(m *commandpb.MarkCheckpointBad) { m.Generation = generation })
}

func forgotten(worker string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_ForgetWorker{ForgetWorker: &commandpb.ForgetWorker{
		Worker: worker}}}
}

func drop(job string, steps ...uint64) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_DropCheckpoints{DropCheckpoints: &commandpb.DropCheckpoints{
		Job:   job,
		Steps: steps}}}
}

func evaluation(job string, generation, step uint64, errors float64) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_RecordEvaluation{RecordEvaluation: &commandpb.RecordEvaluation{
		Job:        job,
		Generation: generation, Step: step, Epoch: step / 2, Images: 100, Top1Errors: errors, Loss: 0.5}}}
}

func finished(job string, generation, step uint64, c *commandpb.Cell) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_CellFinished{CellFinished: &commandpb.CellFinished{Job: job,
		Generation: generation, Cell: c, Step: step, Digest: stateDigest(job, step, c)}}}
}

func stopped(job string, generation, step uint64, c *commandpb.Cell) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_CellStopped{CellStopped: &commandpb.CellStopped{Job: job,
		Generation: generation, Cell: c, Step: step}}}
}

func failJob(job string, generation uint64, reason string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_FailJob{FailJob: &commandpb.FailJob{Job: job,
		Generation: generation,
		Reason:     reason}}}
}

func event(text string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_RecordEvent{RecordEvent: &commandpb.RecordEvent{Kind: "note",
		Text: text}},
		Ignorable: true}
}

// with changes a command that a builder made.
func with[K any](c *commandpb.Command, kind func(*commandpb.Command) K, change func(K)) *commandpb.Command {
	change(kind(c))
	return c
}

// log is a state and the index and time of its last command.
type log struct {
	*State
	index uint64
}

func newLog(t testing.TB, commands ...*commandpb.Command) *log {
	l := &log{State: New()}
	for _, c := range commands {
		l.must(t, c)
	}
	return l
}

// apply applies a command as the adapter does: decoded from its bytes.
func (l *log) apply(t testing.TB, c *commandpb.Command) error {
	t.Helper()
	l.index++
	c.Version, c.DecidedUnixNs = Version, int64(l.index)*1e9
	b, err := proto.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var fresh commandpb.Command
	if err := proto.Unmarshal(b, &fresh); err != nil {
		t.Fatal(err)
	}
	r, err := l.Apply(l.index, &fresh)
	if err != nil {
		t.Fatalf("entry %d stops the node: %v", l.index, err)
	}
	if r.Index != l.index || l.View().Index != l.index {
		t.Fatalf("entry %d: result says %d, view says %d", l.index, r.Index, l.View().Index)
	}
	return r.Refused
}

func (l *log) must(t testing.TB, c *commandpb.Command) {
	t.Helper()
	if err := l.apply(t, c); err != nil {
		t.Fatalf("entry %d refused: %v", l.index, err)
	}
}

// bytes is the state but for the applied index, which every entry moves.
func (l *log) bytes(t testing.TB) []byte {
	t.Helper()
	v := l.View()
	v.Index = 0
	return encode(t, v)
}

func encode(t testing.TB, v View) []byte {
	t.Helper()
	b, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode(t testing.TB, b []byte) *State {
	t.Helper()
	s, err := Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return s
}
