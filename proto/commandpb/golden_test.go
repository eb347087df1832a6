package commandpb

import (
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

var update = flag.Bool("update", false, "append samples that testdata does not have; never changes one it has")

const goldenFile = "testdata/golden.txt"

// samples are one command of every kind and a snapshot, every field set. A field added to the contract gets a sample of
// its own (submit_job_2) and leaves the old ones as they are: their bytes are in logs, without the field.
func samples() map[string]proto.Message {
	cell := &Cell{Replica: 1, Column: 3}
	register := &RegisterWorker{Worker: "w-1", Name: "host/7", Host: "host", Address: "127.0.0.1:7410",
		Device:  &Device{Name: "cpu", Model: "some model", Numerics: "cpu/1", MemoryBytes: 1 << 33},
		Version: "0.1", Checkpoints: "/data/checkpoints", Incarnation: "i-9"}
	submit := &SubmitJob{Job: "job", Spec: []byte("name: job\n"), Steps: 4690, Replicas: 2, Columns: 4, Keep: 3}
	register2 := proto.CloneOf(register)
	register2.Device.DirectNumerics, register2.Device.Threads = "cpu/1/direct", 48
	registerBuddy := proto.CloneOf(register2)
	registerBuddy.Machine = "boot-1"
	register3 := proto.CloneOf(register2)
	register3.Working = true
	submit2 := proto.CloneOf(submit)
	submit2.Direct = true
	submit3 := proto.CloneOf(submit2)
	submit3.Request = "q-1"
	snapshot2 := &Snapshot{Version: 1, Cluster: "c-2", AppliedIndex: 78,
		Jobs:    []*JobRecord{{Submitted: submit3, State: "queued", Requests: []string{"q-1", "q-2"}}},
		Lineage: []*LineageRecord{{Cluster: "c-1", Index: 77, MadeUnixNs: 21, RestoredUnixNs: 22}}}
	placement := []*Placement{{Cell: cell, Worker: "w-1"}, {Cell: &Cell{Replica: 1, Column: 2}, Worker: "w-2"}}
	file := &CheckpointFile{Cell: cell, Worker: "w-1", Path: "job/000000000400/r1c3.ckpt", Bytes: 1 << 31,
		Sha256: []byte(strings.Repeat("\xa5", 32)), Digest: []byte(strings.Repeat("\x5a", 32))}
	file2 := proto.CloneOf(file)
	file2.Sha256, file2.Xxh3 = nil, []byte(strings.Repeat("\xc3", 16))
	evaluation := &RecordEvaluation{Job: "job", Generation: 2, Step: 469, Epoch: 1, Images: 10000,
		Top1Errors: 1200.5, Top5Errors: 33.25, Loss: 0.4375, TrainLoss: 0.75}
	finished := &CellFinished{Job: "job", Generation: 2, Cell: cell, Step: 4690, Digest: []byte{1, 2, 3}}
	stopped := &CellStopped{Job: "job", Generation: 2, Cell: cell, Step: 470}
	command := func(k isCommand_Kind) *Command {
		return &Command{Version: 1, DecidedUnixNs: 1_700_000_000_123_456_789, Ignorable: true, Kind: k}
	}
	events := []*EventRecord{{Index: 5, AtUnixNs: 18, Kind: "note", Job: "job", Worker: "w-1", Text: "a line"}}
	veto := &VetoStep{Job: "job", Generation: 3, Cell: cell, Step: 408, Cause: "loss-spike", Loss: 91.5, Limit: 6.9,
		Reason: "loss 91.5 is a spike", Skip: true}
	sum := &EvaluationSum{Images: 512, Loss: 12.5, Top1Errors: 40.5, Top5Errors: 3.25,
		Classes:  []*ClassSum{{Label: 3, Images: 512, Loss: 12.5, Top1Errors: 40.5, Top5Errors: 3.25}},
		Confused: []*ConfusedSum{{Label: 3, TakenFor: 7, Images: 512}}}
	request := &RequestEvaluation{Models: []*EvaluatedModel{{Job: "job", Step: 400, HasStep: true}}, Views: 10, Batch: 64,
		PartImages: 512, Classes: 10, Busy: true, Request: "q-5", Pack: &EvaluatedPack{Path: "/data/test.pack", Id: "ab12",
			Images: 10000, Channels: 3, Height: 32, Width: 31, Classes: 9}}
	fork := proto.CloneOf(submit3)
	fork.Job, fork.FromJob, fork.FromStep = "fork", "job", 400
	fork.Changes = []string{"recipe.batch: 64 instead of 128"}
	queued := proto.CloneOf(submit3)
	queued.Priority, queued.MaxWorkers, queued.MinWorkers = -7, 4, 2
	return map[string]proto.Message{
		"submit_job_5": command(&Command_SubmitJob{queued}),
		"set_queue": command(&Command_SetQueue{&SetQueue{Job: "job", Priority: 5, MaxWorkers: 4, MinWorkers: 2,
			Request: "q-8"}}),
		"preempt_job": command(&Command_PreemptJob{&PreemptJob{Job: "job", Generation: 3, By: "other"}}),
		"snapshot_queue": &Snapshot{Version: 1, Cluster: "c-1", AppliedIndex: 94,
			Jobs: []*JobRecord{{Submitted: queued, State: "stopping", Generation: 3, Priority: -7, MaxWorkers: 4, MinWorkers: 2,
				Requeuing: true, Preemptions: 2, PreemptedBy: "other (priority 5)"}}},
		"submit_job_4":   command(&Command_SubmitJob{fork}),
		"request_stop_3": command(&Command_RequestStop{&RequestStop{Job: "job", Pause: true}}),
		"pin_checkpoint": command(&Command_PinCheckpoint{&PinCheckpoint{Job: "job", Step: 400, Undo: true}}),
		"delete_checkpoint": command(&Command_DeleteCheckpoint{&DeleteCheckpoint{Job: "job", Step: 400,
			Request: "q-6"}}),
		"delete_job": command(&Command_DeleteJob{&DeleteJob{Job: "job", Request: "q-7"}}),
		"snapshot_fork": &Snapshot{Version: 1, Cluster: "c-1", AppliedIndex: 93, DeletedGeneration: 9,
			Deleted: []*DeletedRecord{{Job: "old", Generation: 4, Request: "q-7"}},
			Jobs: []*JobRecord{{Submitted: fork, State: "stopping", Pausing: true,
				Checkpoints: []*CheckpointRecord{{Step: 400, Files: []*CheckpointFile{file2}, Committed: true, Pinned: true,
					OfJob: "job"}},
				Parent: &ParentRecord{Job: "job", SubmittedUnixNs: 13, Step: 400, Digest: []byte{4, 5},
					Changes: fork.Changes}}}},
		"request_evaluation": command(&Command_RequestEvaluation{request}),
		"give_part":          command(&Command_GivePart{&GivePart{Evaluation: 91, Part: 3, Worker: "w-2", From: "w-1"}}),
		"part_evaluated":     command(&Command_PartEvaluated{&PartEvaluated{Evaluation: 91, Generation: 4, Sum: sum}}),
		"part_evaluated_2": command(&Command_PartEvaluated{&PartEvaluated{Evaluation: 91, Generation: 4,
			Failed: "wrong pack", Permanent: true}}),
		"end_evaluation": command(&Command_EndEvaluation{&EndEvaluation{Evaluation: 91, Reason: "job is gone",
			Failed: true}}),
		"snapshot_eval": &Snapshot{Version: 1, Cluster: "c-1", AppliedIndex: 92,
			Evaluations: []*EvaluationRecord{{Id: 91, Requested: request, RequestedUnixNs: 21,
				Checkpoints: []*CheckpointRecord{{Step: 400, Generation: 1, Files: []*CheckpointFile{file2}, Committed: true}},
				State:       "running", Reason: "peer lost", EndedUnixNs: 22, Generation: 5, Folded: 1, Sum: sum,
				Given:    []*PartRecord{{Part: 1, Generation: 5, Worker: "w-2", GivenUnixNs: 23}},
				Ahead:    []*PartRecord{{Part: 2, Sum: sum}},
				Failures: 1, FailedUnixNs: 24, Avoid: []string{"w-1"}, FailedWorker: "w-3"}}},
		"init_cluster":      command(&Command_InitCluster{&InitCluster{Cluster: "c-1"}}),
		"register_worker":   command(&Command_RegisterWorker{register}),
		"lose_worker":       command(&Command_LoseWorker{&LoseWorker{Worker: "w-1", Reason: "silent for 5s"}}),
		"register_worker_2": command(&Command_RegisterWorker{register2}),
		"submit_job_2":      command(&Command_SubmitJob{submit2}),
		"submit_job_3":      command(&Command_SubmitJob{submit3}),
		"submit_job":        command(&Command_SubmitJob{submit}),
		"assign_job": command(&Command_AssignJob{&AssignJob{Job: "job", Generation: 2, Placement: placement,
			RestoreStep: 400, HasRestore: true, Numerics: "cpu/1", Reason: "two workers"}}),
		"release_job":    command(&Command_ReleaseJob{&ReleaseJob{Job: "job", Generation: 2, Reason: "w-1 lost"}}),
		"request_stop":   command(&Command_RequestStop{&RequestStop{Job: "job", Now: true}}),
		"resume_job":     command(&Command_ResumeJob{&ResumeJob{Job: "job", Step: 400, FromStep: true}}),
		"resume_job_2":   command(&Command_ResumeJob{&ResumeJob{Job: "job", Step: 400, FromStep: true, Request: "q-2"}}),
		"request_stop_2": command(&Command_RequestStop{&RequestStop{Job: "job", Now: true, Request: "q-3"}}),
		"snapshot_2":     snapshot2,
		"backup":         &Backup{Version: 1, Cluster: "c-1", Index: 77, MadeUnixNs: 21, Snapshot: []byte{1, 2, 3}},
		"assign_job_2": command(&Command_AssignJob{&AssignJob{Job: "job", Generation: 3, Placement: placement,
			RestoreStep: 400, HasRestore: true, Numerics: "cpu/1", Reason: "two workers", FromMemory: true, MemoryStep: 407}}),
		"register_worker_buddy": command(&Command_RegisterWorker{registerBuddy}),
		"assign_job_buddy": command(&Command_AssignJob{&AssignJob{Job: "job", Generation: 3,
			Placement: []*Placement{{Cell: cell, Worker: "w-3", Source: "w-2"}}, Numerics: "cpu/1", Reason: "a copy",
			FromMemory: true, MemoryStep: 400}}),
		"release_job_2": command(&Command_ReleaseJob{&ReleaseJob{Job: "job", Generation: 3, Reason: "damaged",
			Memory: true}}),
		"checkpoint_written": command(&Command_CheckpointWritten{&CheckpointWritten{Job: "job", Generation: 2, Step: 400,
			File: file, PlanDigest: []byte{7, 8}, Numerics: "cpu/1"}}),
		"checkpoint_written_2": command(&Command_CheckpointWritten{&CheckpointWritten{Job: "job", Generation: 2, Step: 400,
			File: file2, PlanDigest: []byte{7, 8}, Numerics: "cpu/1"}}),
		"mark_checkpoint_bad": command(&Command_MarkCheckpointBad{&MarkCheckpointBad{Job: "job", Step: 400, Cell: cell,
			Reason: "chunk 3 is damaged"}}),
		"drop_checkpoints":  command(&Command_DropCheckpoints{&DropCheckpoints{Job: "job", Steps: []uint64{100, 200}}}),
		"record_evaluation": command(&Command_RecordEvaluation{evaluation}),
		"cell_finished":     command(&Command_CellFinished{finished}),
		"cell_stopped":      command(&Command_CellStopped{stopped}),
		"fail_job":          command(&Command_FailJob{&FailJob{Job: "job", Generation: 2, Reason: "loss is NaN"}}),
		"record_event": command(&Command_RecordEvent{&RecordEvent{Kind: "note", Job: "job", Worker: "w-1",
			Text: "a line"}}),
		"snapshot": &Snapshot{Version: 1, Cluster: "c-1", AppliedIndex: 77,
			Workers: []*WorkerRecord{{Registered: register, RegisteredUnixNs: 11, Lost: true, LostReason: "silent",
				LostUnixNs: 12}},
			Jobs: []*JobRecord{{Submitted: submit, SubmittedUnixNs: 13, State: "running", Reason: "two workers", Generation: 2,
				Placement: placement, RestoreStep: 400, HasRestore: true, Numerics: "cpu/1",
				Checkpoints: []*CheckpointRecord{{Step: 400, Generation: 1, Files: []*CheckpointFile{file},
					PlanDigest: []byte{7, 8}, Numerics: "cpu/1", Committed: true, CommittedUnixNs: 14, Bad: "damaged"}},
				Evaluations: []*RecordEvaluation{evaluation}, Finished: []*CellFinished{finished}, Stopped: []*CellStopped{stopped},
				StopNow: true, Digest: []byte{9}, EndedUnixNs: 15, ResumeStep: 400, HasResumeStep: true, StateUnixNs: 16,
				Failures: 17}},
			Events: events},
		"snapshot_3": &Snapshot{Version: 1, Cluster: "c-1", AppliedIndex: 78,
			Jobs: []*JobRecord{{Submitted: submit, State: "recovering", Generation: 3, FromMemory: true, MemoryStep: 407,
				AvoidMemory: true, MemoryTries: 2, MemorySince: 3}}},
		"register_worker_3": command(&Command_RegisterWorker{register3}),
		"lose_worker_2":     command(&Command_LoseWorker{&LoseWorker{Worker: "w-1", Reason: "stuck", Hung: true}}),
		"drain_worker":      command(&Command_DrainWorker{&DrainWorker{Worker: "w-1", Undo: true}}),
		"move_job":          command(&Command_MoveJob{&MoveJob{Job: "job", Generation: 3, Reason: "w-1 is drained"}}),
		"snapshot_4": &Snapshot{Version: 1, Cluster: "c-1", AppliedIndex: 79,
			Workers: []*WorkerRecord{{Registered: register3, RegisteredUnixNs: 11, Hung: true, Draining: true}},
			Jobs:    []*JobRecord{{Submitted: submit, State: "stopping", Generation: 3, Moving: true}}},
		"veto_step": command(&Command_VetoStep{veto}),
		"resume_job_3": command(&Command_ResumeJob{&ResumeJob{Job: "job", Request: "q-4", SkipBatch: true,
			AcceptBatch: true}}),
		"forget_worker": command(&Command_ForgetWorker{&ForgetWorker{Worker: "w-1"}}),
		"mark_checkpoint_bad_2": command(&Command_MarkCheckpointBad{&MarkCheckpointBad{Job: "job", Step: 400, Cell: cell,
			Reason: "chunk 3 is damaged", Generation: 2}}),
		"record_evaluation_2": command(&Command_RecordEvaluation{&RecordEvaluation{Job: "job", Generation: 2, Step: 400,
			Epoch: 4, Images: 100, Rate: 0.01}}),
		"snapshot_6": &Snapshot{Version: 1, Cluster: "c-1", AppliedIndex: 81,
			Jobs: []*JobRecord{{Submitted: submit, State: "running", Generation: 3,
				Checkpoints: []*CheckpointRecord{{Step: 400, Generation: 1, Committed: true, Rewritten: 2}}}}},
		"snapshot_5": &Snapshot{Version: 1, Cluster: "c-1", AppliedIndex: 80,
			Jobs: []*JobRecord{{Submitted: submit, State: "paused", Generation: 3,
				Vetoes: []*VetoRecord{{Vetoed: veto, Outcome: "paused", AtUnixNs: 18}}}}},
	}
}

// golden reads the pinned bytes by name of the sample.
func golden(t *testing.T) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile(goldenFile)
	if err != nil && (!*update || !os.IsNotExist(err)) {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for l := range strings.Lines(string(text)) {
		name, digits, _ := strings.Cut(strings.TrimSpace(l), " ")
		b, err := hex.DecodeString(digits)
		if err != nil || all[name] != nil {
			t.Fatalf("%s: line of %q: twice, or no hexadecimal digits: %v", goldenFile, name, err)
		}
		all[name] = b
	}
	return all
}

// TestGolden: bytes written once decode to what they meant, and the same is written today.
func TestGolden(t *testing.T) {
	pinned, now := golden(t), samples()
	for _, name := range slices.Sorted(maps.Keys(now)) {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(now[name])
		if err != nil {
			t.Fatal(err)
		}
		if pinned[name] == nil && *update {
			appendGolden(t, name, b)
			continue
		}
		if pinned[name] == nil {
			t.Errorf("%s has no bytes of %s; if the sample is right, go test ./proto/commandpb -update", goldenFile, name)
			continue
		}
		if got, want := hex.EncodeToString(b), hex.EncodeToString(pinned[name]); got != want {
			t.Errorf("%s is encoded otherwise than it was:\ngot  %s\nwant %s\nthe contract must not change", name, got, want)
		}
		back := now[name].ProtoReflect().New().Interface()
		if err := proto.Unmarshal(pinned[name], back); err != nil {
			t.Errorf("%s can no longer be read: %v", name, err)
		} else if !proto.Equal(back, now[name]) {
			t.Errorf("%s reads as %v, it was %v", name, back, now[name])
		}
	}
	for name := range pinned {
		if now[name] == nil {
			t.Errorf("the sample of %s is gone; its bytes are still in logs", name)
		}
	}
}

func appendGolden(t *testing.T, name string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(goldenFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(f, "%s %x\n", name, b); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSamplesAreWhole: every kind of command has a sample, and every field of every message is set in one, so that no
// part of the contract is without its pinned bytes.
func TestSamplesAreWhole(t *testing.T) {
	set := map[protoreflect.FullName]bool{}
	for _, m := range samples() {
		note(m.ProtoReflect(), set)
	}
	messages := File_proto_commandpb_command_proto.Messages()
	for i := range messages.Len() {
		fields := messages.Get(i).Fields()
		for j := range fields.Len() {
			if f := fields.Get(j); !set[f.FullName()] {
				t.Errorf("no sample sets %s", f.FullName())
			}
		}
	}
}

// note marks the fields set in a message and in those inside it.
func note(m protoreflect.Message, set map[protoreflect.FullName]bool) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		set[f.FullName()] = true
		if f.Kind() != protoreflect.MessageKind {
			return true
		}
		if !f.IsList() {
			note(v.Message(), set)
			return true
		}
		for i := range v.List().Len() {
			note(v.List().Get(i).Message(), set)
		}
		return true
	})
}
