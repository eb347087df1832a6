package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"colonnade/proto/commandpb"
)

// begin is a cluster of two workers with job j, two columns and ten steps, that keeps two checkpoints.
func begin() []*commandpb.Command {
	return []*commandpb.Command{initCluster("c"), register("w0", "a"), register("w1", "a"), submit("j", 1, 2, 10, 2)}
}

// running is begin with j's first generation at work.
func running() []*commandpb.Command {
	return append(begin(), assign("j", 1, -1, place(2, "w0", "w1")...))
}

// committed is running with checkpoints committed.
func committed(steps ...uint64) []*commandpb.Command {
	out := running()
	for _, s := range steps {
		out = append(out, written("j", 1, s, cell(0, 0)), written("j", 1, s, cell(0, 1)))
	}
	return out
}

func after(history []*commandpb.Command, more ...*commandpb.Command) []*commandpb.Command {
	return append(history, more...)
}

// done is a job that has ended.
func done() []*commandpb.Command {
	return after(committed(10), finished("j", 1, 10, cell(0, 0)), finished("j", 1, 10, cell(0, 1)))
}

func TestRefusals(t *testing.T) {
	written2 := func(change func(*commandpb.CheckpointWritten)) *commandpb.Command {
		return with(written("j", 1, 4, cell(0, 0)), (*commandpb.Command).GetCheckpointWritten, change)
	}
	assign2 := func(change func(*commandpb.AssignJob)) *commandpb.Command {
		return with(assign("j", 1, -1, place(2, "w0", "w1")...), (*commandpb.Command).GetAssignJob, change)
	}
	register2 := func(change func(*commandpb.RegisterWorker)) *commandpb.Command {
		return with(register("w9", "a"), (*commandpb.Command).GetRegisterWorker, change)
	}
	for _, tt := range []struct {
		name    string
		history []*commandpb.Command
		command *commandpb.Command
		want    error
		text    string // within the error
	}{
		{"cluster again", begin(), initCluster("d"), ErrCluster, "cluster d: of another cluster (c)"},
		{"worker without id", begin(), register2(func(r *commandpb.RegisterWorker) { r.Worker = "" }),
			ErrInvalid, "without id"},
		{"worker without device", begin(), register2(func(r *commandpb.RegisterWorker) { r.Device = nil }),
			ErrInvalid, "device"},
		{"lose nobody", begin(), lose("w9", "x"), ErrNoWorker, "worker w9"},

		{"submit again", begin(), submit("j", 1, 2, 10, 2), ErrJobExists, "coordinator job resume j"},
		{"submit without name", begin(), submit("", 1, 2, 10, 2), ErrInvalid, `job ""`},
		{"submit without steps", begin(), submit("k", 1, 2, 0, 2), ErrInvalid, "of 0 steps"},
		{"submit without replicas", begin(), submit("k", 0, 2, 1, 2), ErrInvalid, "0 replicas"},
		{"submit without columns", begin(), submit("k", 1, -1, 1, 2), ErrInvalid, "-1 columns"},
		{"submit too many cells", begin(), submit("k", 1<<30, 1<<30, 1, 2), ErrInvalid, "1073741824 columns"},

		{"assign no job", begin(), assign("k", 1, -1), ErrNoJob, "coordinator job list"},
		{"assign a running job", running(), assign("j", 2, -1, place(2, "w0", "w1")...), ErrJobState, "job j is running"},
		{"assign a done job", done(), assign("j", 2, 10, place(2, "w0", "w1")...), ErrJobState, "job j is done"},
		{"assign the same generation", after(running(), release("j", 1, "x")), assign("j", 1, -1, place(2, "w0", "w1")...),
			ErrStale, "generation 1 does not follow 1"},
		{"assign a later generation", begin(), assign("j", 2, -1, place(2, "w0", "w1")...),
			ErrStale, "generation 2 does not follow 0"},
		{"assign other numerics", after(running(), release("j", 1, "x")),
			assign2(func(a *commandpb.AssignJob) { a.Generation, a.Numerics = 2, "n1" }), ErrNumerics, "began under n0, not n1"},
		{"assign from nothing", begin(), assign("j", 1, 5, place(2, "w0", "w1")...), ErrNoCheckpoint, "step 5"},
		{"assign from half a checkpoint", after(running(), written("j", 1, 5, cell(0, 0)), release("j", 1, "x")),
			assign("j", 2, 5, place(2, "w0", "w1")...), ErrNoCheckpoint, "step 5"},
		{"assign from a bad checkpoint", after(committed(5), bad("j", 5, "x"), release("j", 1, "x")),
			assign("j", 2, 5, place(2, "w0", "w1")...), ErrNoCheckpoint, "step 5"},
		{"assign a cell twice", begin(), assign2(func(a *commandpb.AssignJob) { a.Placement[1].Cell.Column = 0 }),
			ErrInvalid,
			"cell r0c0 placed twice"},
		{"assign a cell too many", begin(), assign("j", 1, -1, place(2, "w0", "w1", "w1")...), ErrInvalid, "cell r1c0"},
		{"assign a cell too few", begin(), assign("j", 1, -1, place(2, "w0")...), ErrInvalid, "not every cell"},
		{"assign to nobody", begin(), assign("j", 1, -1, place(2, "w0", "w9")...), ErrNoWorker, "worker w9"},
		{"assign to the lost", after(begin(), lose("w1", "x")), assign("j", 1, -1, place(2, "w0", "w1")...),
			ErrNoWorker, "worker w1"},

		{"release no job", begin(), release("k", 1, "x"), ErrNoJob, "job k"},
		{"release another generation", running(), release("j", 2, "x"), ErrStale, "at generation 1, not 2"},
		{"release a queued job", begin(), release("j", 0, "x"), ErrJobState, "job j is queued"},
		{"release twice", after(running(), release("j", 1, "x")), release("j", 1, "x"), ErrJobState, "recovering"},
		{"fail no job", begin(), failJob("k", 1, "x"), ErrNoJob, "job k"},
		{"fail another generation", running(), failJob("j", 0, "x"), ErrStale, "not 0"},
		{"fail a done job", done(), failJob("j", 1, "x"), ErrJobState, "job j is done"},

		{"stop no job", begin(), stop("k", false), ErrNoJob, "job k"},
		{"stop a stopped job", after(begin(), stop("j", false)), stop("j", false), ErrJobState, "job j is stopped"},
		{"stop a done job", done(), stop("j", true), ErrJobState, "job j is done"},
		{"stop a failed job", after(running(), failJob("j", 1, "x")), stop("j", true), ErrJobState, "job j is failed"},

		{"pause a paused job", after(begin(), pause("j")), pause("j"), ErrJobState, "job j is paused"},
		{"pin nothing", committed(4), pin("j", 5, false), ErrNoCheckpoint, "coordinator checkpoint list j"},
		{"drop a pinned one", after(committed(1, 2, 3), pin("j", 1, false)), drop("j", 1), ErrInvalid, "is pinned"},
		{"delete a pinned one", after(committed(1, 2), pin("j", 1, false)), deleteCheckpoint("j", 1), ErrJobState,
			"coordinator checkpoint unpin j 1"},
		{"delete no checkpoint", committed(1), deleteCheckpoint("j", 9), ErrNoCheckpoint, "coordinator checkpoint list j"},
		{"delete the newest of a job that goes on", committed(1, 2), deleteCheckpoint("j", 2), ErrJobState,
			"goes on from its checkpoint of step 2"},
		{"delete what a generation begins with", after(committed(1), release("j", 1, "x"), assign("j", 2, 1, place(2, "w0",
			"w1")...), written("j", 2, 2, cell(0, 0)), written("j", 2, 2, cell(0, 1))), deleteCheckpoint("j", 1), ErrJobState,
			"when there is a newer one"},
		{"delete no job", begin(), deleteJob("k"), ErrNoJob, "job k"},
		{"delete a running job", running(), deleteJob("j"), ErrJobState, "coordinator job stop j"},
		{"delete a forked job", after(done(), forked(submit("k", 1, 2, 20, 2), "j", 10)), deleteJob("j"), ErrJobState,
			"job k was forked from step 10 of j; delete that one first: coordinator job delete k"},
		{"delete a forked checkpoint", after(committed(1, 2), forked(submit("k", 1, 2, 20, 2), "j", 1)),
			deleteCheckpoint("j", 1), ErrJobState, "job k was forked from step 1"},
		{"fork no job", begin(), forked(submit("k", 1, 2, 20, 2), "x", 1), ErrNoJob, "job x"},
		{"fork nothing", committed(1), forked(submit("k", 1, 2, 20, 2), "j", 2), ErrNoCheckpoint,
			"coordinator checkpoint list"},
		{"fork into other columns", committed(1), forked(submit("k", 1, 1, 20, 2), "j", 1), ErrInvalid, "1 of 1"},
		{"fork beyond the end", committed(4), forked(submit("k", 1, 2, 4, 2), "j", 4), ErrInvalid, "recipe.steps=N"},
		{"fork again", after(committed(1), forked(submit("k", 1, 2, 20, 2), "j", 1)), forked(submit("k", 1, 2, 20, 2), "j",
			1), ErrJobExists, "job k"},
		{"a fork begins with nothing", after(committed(1), forked(submit("k", 1, 2, 20, 2), "j", 1)), assign("k", 1, -1,
			place(2, "w0", "w1")...), ErrNoCheckpoint, "begins with step 1 of j"},
		{"resume a fork from nothing", after(committed(1), forked(submit("k", 1, 2, 20, 2), "j", 1), stop("k", true)),
			resume("k", 0), ErrNoCheckpoint, "step 0"},

		{"resume no job", begin(), resume("k", -1), ErrNoJob, "job k"},
		{"resume a queued job", begin(), resume("j", -1), ErrJobState, "only stopped, paused and failed jobs"},
		{"resume a running job", running(), resume("j", -1), ErrJobState, "job j is running"},
		{"resume a done job", done(), resume("j", 10), ErrJobState, "job j is done"},
		{"resume from nothing", after(committed(4), stop("j", true)), resume("j", 5),
			ErrNoCheckpoint, "coordinator checkpoint list j"},
		{"resume from a bad one", after(committed(4), bad("j", 4, "x"), stop("j", true)), resume("j", 4),
			ErrNoCheckpoint, "step 4"},

		{"checkpoint of no job", begin(), written("k", 1, 4, cell(0, 0)), ErrNoJob, "job k"},
		{"checkpoint of another generation", running(), written("j", 2, 4, cell(0, 0)), ErrStale, "not 2"},
		{"checkpoint of an older generation", after(running(), release("j", 1, "x"), assign("j", 2, -1, place(2, "w0",
			"w1")...)),
			written("j", 1, 4, cell(0, 0)), ErrStale, "not 1"},
		{"checkpoint after the generation", after(running(), release("j", 1, "x")), written("j", 1, 4, cell(0, 0)),
			ErrJobState, "recovering"},
		{"checkpoint without file", running(), written2(func(c *commandpb.CheckpointWritten) { c.File = nil }),
			ErrInvalid, "step 4"},
		{"checkpoint of another's cell", running(), written("j", 1, 4, cell(0, 2)), ErrInvalid, "step 4"},
		{"checkpoint of a negative cell", running(), written("j", 1, 4, cell(-1, 0)), ErrInvalid, "step 4"},
		{"checkpoint beyond the end", running(), written("j", 1, 11, cell(0, 0)), ErrInvalid, "step 11"},
		{"checkpoint without SHA-256", running(),
			written2(func(c *commandpb.CheckpointWritten) { c.File.Sha256 = []byte{1} }),
			ErrInvalid, "step 4"},
		{"checkpoint with half a checksum", running(),
			written2(func(c *commandpb.CheckpointWritten) { c.File.Sha256, c.File.Xxh3 = nil, []byte{1} }),
			ErrInvalid, "step 4"},
		{"checkpoint without digest", running(), written2(func(c *commandpb.CheckpointWritten) { c.File.Digest = nil }),
			ErrInvalid, "step 4"},
		{"checkpoint of other numerics", running(), written2(func(c *commandpb.CheckpointWritten) { c.Numerics = "n1" }),
			ErrNumerics, "n1"},
		{"checkpoint of another plan", after(running(), written("j", 1, 4, cell(0, 1))),
			written2(func(c *commandpb.CheckpointWritten) { c.PlanDigest = []byte("other") }),
			ErrInvalid, "plans of its cells differ"},
		{"another state under a committed checkpoint", committed(4),
			written2(func(c *commandpb.CheckpointWritten) { c.File.Digest = slices.Repeat([]byte{7}, 32) }), ErrInvalid,
			"cell r0c0 has another state than the committed one"},

		{"mark no job", begin(), bad("k", 4, "x"), ErrNoJob, "job k"},
		{"mark no checkpoint", committed(4), bad("j", 5, "x"), ErrNoCheckpoint, "step 5"},
		{"mark half a checkpoint", after(running(), written("j", 1, 4, cell(0, 0))), bad("j", 4, "x"),
			ErrNoCheckpoint, "step 4"},
		{"mark by a generation before the one that has written it anew",
			after(committed(4), release("j", 1, "x"), assign("j", 2, 4, place(2, "w0", "w1")...),
				written("j", 2, 4, cell(0, 0))), badSince("j", 4, 1), ErrStale, "generation 1 found it bad, 2 has written"},
		{"forget nobody", begin(), forgotten("w9"), ErrNoWorker, "worker w9"},
		{"forget one that is there", begin(), forgotten("w1"), ErrInvalid, "is not lost"},
		{"forget one that a job was on", after(running(), lose("w1", "x")), forgotten("w1"), ErrInvalid, "cells or files"},
		{"forget one that has a file", after(committed(4), release("j", 1, "x"), register("w7", "a"), register("w8", "a"),
			assign("j", 2, 4, place(2, "w7", "w8")...), lose("w0", "x")), forgotten("w0"), ErrInvalid, "cells or files"},
		{"mark without reason", committed(4), bad("j", 4, ""), ErrInvalid, "without a reason"},
		{"drop of no job", begin(), drop("k", 1), ErrNoJob, "job k"},
		{"drop what is to be kept", committed(2, 4, 6), drop("j", 2, 4), ErrInvalid, "step 4 is one of the 2 to keep"},
		{"drop what a bad one leaves", after(committed(2, 4, 6), bad("j", 6, "x")), drop("j", 2),
			ErrInvalid, "step 2 is one of the 2"},

		{"evaluation of no job", begin(), evaluation("k", 1, 4, 9), ErrNoJob, "job k"},
		{"evaluation of another generation", running(), evaluation("j", 0, 4, 9), ErrStale, "not 0"},
		{"evaluation of a done job", done(), evaluation("j", 1, 10, 9), ErrJobState, "job j is done"},
		{"evaluation beyond the end", running(), evaluation("j", 1, 11, 9), ErrInvalid, "step 11"},

		{"end of no job", begin(), finished("k", 1, 10, cell(0, 0)), ErrNoJob, "job k"},
		{"end of another generation", running(), finished("j", 3, 10, cell(0, 0)), ErrStale, "not 3"},
		{"end before the end", running(), finished("j", 1, 9, cell(0, 0)), ErrInvalid, "cell r0c0 at step 9"},
		{"end of another's cell", running(), finished("j", 1, 10, cell(1, 0)), ErrInvalid, "cell r1c0"},
		{"end without digest", running(), with(finished("j", 1, 10, cell(0, 0)), (*commandpb.Command).GetCellFinished,
			func(c *commandpb.CellFinished) { c.Digest = nil }), ErrInvalid, "cell r0c0"},
		{"end of a done job", done(), finished("j", 1, 10, cell(0, 0)), ErrJobState, "job j is done"},
		{"stop of no job's cell", begin(), stopped("k", 1, 4, cell(0, 0)), ErrNoJob, "job k"},
		{"stop of another generation", running(), stopped("j", 0, 4, cell(0, 0)), ErrStale, "not 0"},
		{"stop of another's cell", running(), stopped("j", 1, 4, cell(0, -1)), ErrInvalid, "cell r0c-1"},
		{"stop beyond the end", running(), stopped("j", 1, 11, cell(0, 0)), ErrInvalid, "step 11"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLog(t, tt.history...)
			before := l.bytes(t)
			err := l.apply(t, tt.command)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), "\n") {
				t.Errorf("refused with %v, want one line, %v, with %q", err, tt.want, tt.text)
			}
			if !bytes.Equal(l.bytes(t), before) {
				t.Error("a refused command has changed the state")
			}
		})
	}
}

func TestEffects(t *testing.T) {
	type want struct {
		state      string
		reason     string
		generation uint64
		placed     int
		usable     []uint64
		failures   uint64
	}
	for _, tt := range []struct {
		name    string
		history []*commandpb.Command
		want    want
	}{
		{"submitted", begin(), want{state: Queued, reason: "submitted"}},
		{"running", running(), want{Running, "because", 1, 2, nil, 0}},
		{"half a checkpoint", after(running(), written("j", 1, 4, cell(0, 1))), want{Running, "because", 1, 2, nil, 0}},
		{"checkpoints", committed(4, 8), want{Running, "because", 1, 2, []uint64{4, 8}, 0}},
		{"a file twice", after(committed(4), written("j", 1, 4, cell(0, 1))),
			want{Running, "because", 1, 2, []uint64{4}, 0}},
		{"a marked checkpoint", after(committed(4, 8), bad("j", 8, "rot")), want{Running, "because", 1, 2, []uint64{4}, 0}},
		{"a dropped checkpoint", after(committed(2, 4, 6), drop("j", 2)),
			want{Running, "because", 1, 2, []uint64{4, 6}, 0}},
		{"a bad one is dropped with those before it", after(committed(2, 4, 6, 8), bad("j", 4, "rot"), drop("j", 2, 4)),
			want{Running, "because", 1, 2, []uint64{6, 8}, 0}},
		{"failed generation", after(committed(4), release("j", 1, "oops")), want{Recovering, "oops", 1, 2, []uint64{4}, 1}},
		{"half a checkpoint does not outlive its generation", after(committed(4), written("j", 1, 8, cell(0, 0)),
			release("j", 1, "oops"), assign("j", 2, 4, place(2, "w0", "w0")...), written("j", 2, 8, cell(0, 1))),
			want{Running, "because", 2, 2, []uint64{4}, 1}},
		{"a new checkpoint forgives", after(committed(4), release("j", 1, "oops"), assign("j", 2, 4, place(2, "w0", "w0")...),
			written("j", 2, 8, cell(0, 0)), written("j", 2, 8, cell(0, 1))), want{Running, "because", 2, 2, []uint64{4, 8}, 0}},
		{"a bad checkpoint found forgives", after(committed(4, 8), release("j", 1, "oops"), assign("j", 2, 8, place(2, "w0",
			"w0")...),
			bad("j", 8, "rot"), bad("j", 8, "rot"), release("j", 2, "rot")), want{Recovering, "rot", 2, 2, []uint64{4}, 1}},
		{"done over a committed step again", after(committed(4), release("j", 1, "oops"), assign("j", 2, -1, place(2, "w0",
			"w0")...),
			written("j", 2, 4, cell(0, 0))), want{Running, "because", 2, 2, []uint64{4}, 1}},
		{"done over a bad step again", after(committed(4), bad("j", 4, "rot"), release("j", 1, "oops"),
			assign("j", 2, -1, place(2, "w0", "w0")...), written("j", 2, 4, cell(0, 0)), written("j", 2, 4, cell(0, 1))),
			want{Running, "because", 2, 2, []uint64{4}, 0}},
		{"a worker is lost", after(running(), lose("w1", "silent")),
			want{Recovering, "worker name-of-w1 is lost: silent", 1, 2, nil, 0}},
		{"a worker is lost twice", after(running(), lose("w1", "silent"), lose("w1", "still")),
			want{Recovering, "worker name-of-w1 is lost: silent", 1, 2, nil, 0}},
		{"another worker is lost", after(running(), register("w2", "a"), lose("w2", "silent")),
			want{Running, "because", 1, 2, nil, 0}},
		{"a worker starts again", after(running(), register("w1", "b")),
			want{Recovering, "worker name-of-w1 started again", 1, 2, nil, 0}},
		{"a worker comes back", after(running(), register("w1", "a")), want{Running, "because", 1, 2, nil, 0}},
		{"asked to stop", after(running(), stop("j", false)),
			want{Stopping, "asked to stop at a step boundary", 1, 2, nil, 0}},
		{"asked to stop twice", after(running(), stop("j", false), stop("j", false)),
			want{Stopping, "asked to stop at a step boundary", 1, 2, nil, 0}},
		{"stopped at once", after(running(), stop("j", false), stop("j", true)),
			want{Stopped, "stopped by an operator", 1, 0, nil, 0}},
		{"stopped while it waits", after(running(), lose("w1", "x"), stop("j", false)),
			want{Stopped, "stopped by an operator", 1, 0, nil, 0}},
		{"half stopped", after(running(), stop("j", false), stopped("j", 1, 3, cell(0, 1))),
			want{Stopping, "asked to stop at a step boundary", 1, 2, nil, 0}},
		{"stopped", after(running(), stop("j", false), stopped("j", 1, 3, cell(0, 1)), stopped("j", 1, 3, cell(0, 0))),
			want{Stopped, "stopped after step 3", 1, 0, nil, 0}},
		{"lost while stopping", after(committed(4), stop("j", false), lose("w0", "x")),
			want{Stopped, "worker name-of-w0 is lost: x", 1, 0, []uint64{4}, 0}},
		{"failed while stopping", after(committed(4), stop("j", false), release("j", 1, "oops")),
			want{Stopped, "oops", 1, 0, []uint64{4}, 1}},
		{"resumed", after(committed(4, 8), stop("j", true), resume("j", -1)),
			want{Queued, "resumed", 1, 0, []uint64{4, 8}, 0}},
		{"resumed from a step", after(committed(4, 8), stop("j", true), resume("j", 4)),
			want{Queued, "resumed", 1, 0, []uint64{4}, 0}},
		{"resumed from the start", after(committed(4, 8), stop("j", true), resume("j", 0)),
			want{Queued, "resumed", 1, 0, nil, 0}},
		{"failed for good", after(running(), failJob("j", 1, "no such pack")), want{Failed, "no such pack", 1, 0, nil, 0}},
		{"resumed after failure", after(running(), failJob("j", 1, "no such pack"), resume("j", -1)),
			want{Queued, "resumed", 1, 0, nil, 0}},
		{"done", done(), want{Done, "all steps are done", 1, 0, []uint64{10}, 0}},
		{"half done", after(committed(10), finished("j", 1, 10, cell(0, 1)), finished("j", 1, 10, cell(0, 1))),
			want{Running, "because", 1, 2, []uint64{10}, 0}},
		{"done while stopping", after(committed(10), stop("j", false), finished("j", 1, 10, cell(0, 0)), finished("j", 1,
			10, cell(0, 1))),
			want{Done, "all steps are done", 1, 0, []uint64{10}, 0}},
		{"ends of another generation do not count", after(running(), finished("j", 1, 10, cell(0, 0)), release("j", 1,
			"oops"),
			assign("j", 2, -1, place(2, "w0", "w0")...), finished("j", 2, 10, cell(0,
				1))), want{Running, "because", 2, 2, nil, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := newLog(t, tt.history...).View().Jobs["j"]
			got := want{state: j.State, reason: j.Reason, generation: j.Generation, placed: len(j.Placement),
				failures: j.Failures}
			for _, r := range Usable(j) {
				got.usable = append(got.usable, r.Step)
			}
			if got.state != tt.want.state || got.reason != tt.want.reason || got.generation != tt.want.generation ||
				got.placed != tt.want.placed || got.failures != tt.want.failures || !slices.Equal(got.usable, tt.want.usable) {
				t.Errorf("got  %+v\nwant %+v", got, tt.want)
			}
			ended := j.State == Done || j.State == Failed || j.State == Stopped
			if (j.EndedUnixNs != 0) != ended || (len(j.Digest) != 0) != (j.State == Done) {
				t.Errorf("%s: ended at %d, digest %x", j.State, j.EndedUnixNs, j.Digest)
			}
		})
	}
}

// A step that is done again holds the same state: its files take the place of the old ones one by one, and the
// checkpoint stays committed. The new ones may come with a checksum of today where the old ones have a SHA-256.
func TestStepDoneAgainKeepsItsCheckpoint(t *testing.T) {
	l := newLog(t, after(committed(4), release("j", 1, "oops"), assign("j", 2, -1, place(2, "w0", "w0")...))...)
	old := l.View().Jobs["j"].Checkpoints[0]
	again := written("j", 2, 4, cell(0, 1))
	f := again.GetCheckpointWritten().File
	f.Sha256, f.Xxh3 = nil, []byte("sixteen bytes it")
	l.must(t, again)
	r := l.View().Jobs["j"].Checkpoints[0]
	if !r.Committed || r.CommittedUnixNs != old.CommittedUnixNs || len(r.Files) != 2 {
		t.Fatalf("checkpoint is %v", r)
	}
	if !proto.Equal(r.Files[0], old.Files[0]) || !proto.Equal(r.Files[1], f) {
		t.Errorf("only the second file should be the new one: %v", r.Files)
	}
}

func TestFailuresWithoutProgressFailTheJob(t *testing.T) {
	l := newLog(t, begin()...)
	for g := uint64(1); g <= maxFailures; g++ {
		l.must(t, assign("j", g, -1, place(2, "w0", "w1")...))
		l.must(t, release("j", g, "oops"))
		j := l.View().Jobs["j"]
		if want := g == maxFailures; (j.State == Failed) != want {
			t.Fatalf("after %d failures the job is %s", g, j.State)
		}
	}
	j := l.View().Jobs["j"]
	if j.Reason != "5 generations failed without a new checkpoint; the last: oops" {
		t.Errorf("reason %q", j.Reason)
	}
	l.must(t, resume("j", -1))
	if l.View().Jobs["j"].Failures != 0 {
		t.Error("resuming does not forgive")
	}
}

// TestReplicasMustAgree has one replica of a column write another state than the other: no checkpoint comes of it, the
// generation ends with a reason that names both, and the next may do better.
func TestReplicasMustAgree(t *testing.T) {
	other := written("j", 1, 4, cell(1, 1))
	other.GetCheckpointWritten().File.Digest = stateDigest("j", 4, cell(0, 0))
	l := newLog(t, register("w0", "a"), register("w1", "a"), submit("j", 2, 2, 6, 2),
		assign("j", 1, -1, place(2, "w0", "w0", "w1", "w1")...),
		written("j", 1, 2, cell(0, 0)), written("j", 1, 2, cell(1, 0)), written("j", 1, 2, cell(1, 1)),
		written("j", 1, 2, cell(0, 1)), written("j", 1, 4, cell(0, 0)), written("j", 1, 4, cell(1, 0)),
		written("j", 1, 4, cell(0, 1)), other)
	j := l.View().Jobs["j"]
	if j.State != Recovering || j.Failures != 1 || len(Usable(j)) != 1 ||
		!strings.Contains(j.Reason, "after step 4 cells r0c1 and r1c1, replicas of one column, have different states") {
		t.Fatalf("job is %s after %d failures, %q, with %v", j.State, j.Failures, j.Reason, Usable(j))
	}
	l.must(t, assign("j", 2, 2, place(2, "w0", "w1", "w1", "w0")...))
	for i := range int32(4) {
		l.must(t, written("j", 2, 4, cell(i/2, i%2)))
	}
	if j := l.View().Jobs["j"]; j.State != Running || j.Failures != 0 || len(Usable(j)) != 2 {
		t.Errorf("job is %s after %d failures, with %v", j.State, j.Failures, Usable(j))
	}
}

// Losing workers is not the job's fault.
func TestLostWorkersAreNotFailures(t *testing.T) {
	l := newLog(t, begin()...)
	for g := uint64(1); g <= 3*maxFailures; g++ {
		l.must(t, assign("j", g, -1, place(2, "w0", "w1")...))
		l.must(t, lose("w1", "gone"))
		l.must(t, register("w1", "a"))
	}
	if j := l.View().Jobs["j"]; j.State != Recovering || j.Failures != 0 {
		t.Errorf("job is %s with %d failures", j.State, j.Failures)
	}
}

func TestResumeFromStepForgetsWhatCameAfter(t *testing.T) {
	l := newLog(t, after(committed(4, 8), evaluation("j", 1, 4, 20), evaluation("j", 1, 8, 10), stop("j", true),
		resume("j", 4))...)
	j := l.View().Jobs["j"]
	if !j.HasResumeStep || j.ResumeStep != 4 || len(j.Evaluations) != 1 || j.Evaluations[0].Step != 4 {
		t.Errorf("resume step %d, %v; evaluations %v", j.ResumeStep, j.HasResumeStep, j.Evaluations)
	}
	l.must(t, assign("j", 2, 4, place(2, "w0", "w1")...))
	if j := l.View().Jobs["j"]; j.HasResumeStep || !j.HasRestore || j.RestoreStep != 4 {
		t.Errorf("assigned: resume step %v, restore %d", j.HasResumeStep, j.RestoreStep)
	}
}

func TestEvaluationsAreByStepAndReplaced(t *testing.T) {
	l := newLog(t, after(running(), evaluation("j", 1, 8, 10), evaluation("j", 1, 4, 20), evaluation("j", 1, 8, 9))...)
	e := l.View().Jobs["j"].Evaluations
	if len(e) != 2 || e[0].Step != 4 || e[1].Step != 8 || e[1].Top1Errors != 9 {
		t.Errorf("evaluations %v", e)
	}
}

func TestWorkers(t *testing.T) {
	l := newLog(t, begin()...)
	first := l.View().Workers["w0"].RegisteredUnixNs
	l.must(t, register("w0", "a"))
	if w := l.View().Workers["w0"]; w.RegisteredUnixNs != first {
		t.Error("the same process on a new session counts as a new one")
	}
	l.must(t, lose("w0", "silent"))
	if w := l.View().Workers["w0"]; !w.Lost || w.LostReason != "silent" || w.LostUnixNs == 0 {
		t.Errorf("lost worker is %v", w)
	}
	l.must(t, register("w0", "a"))
	if w := l.View().Workers["w0"]; w.Lost || w.RegisteredUnixNs == first {
		t.Errorf("worker that is back is %v", w)
	}
}

// The order of jobs that one worker takes down with it is that of their submission, not that of a map.
func TestLosingManyJobsIsInOrder(t *testing.T) {
	l := newLog(t, register("w0", "a"))
	const n = 20
	for i := range n {
		l.must(t, submit(fmt.Sprintf("j%d", i), 1, 1, 10, 1))
		l.must(t, assign(fmt.Sprintf("j%d", i), 1, -1, place(1, "w0")...))
	}
	l.must(t, lose("w0", "x"))
	for i, e := range l.View().Events[len(l.View().Events)-n:] {
		if e.Job != fmt.Sprintf("j%d", i) {
			t.Fatalf("generation %d ended is job %s's", i, e.Job)
		}
	}
}

func TestUnknownCommands(t *testing.T) {
	l := newLog(t, begin()...)
	before := l.bytes(t)
	for _, c := range []*commandpb.Command{{Version: Version}, {Version: Version + 1}, {Version: Version + 1,
		Kind: lose("w0", "x").Kind}} {
		if _, err := l.Apply(99, c); !errors.Is(err, ErrUnknownCommand) || !strings.Contains(err.Error(), "entry 99") {
			t.Errorf("%v: %v", c, err)
		}
		if l.View().Index == 99 || !bytes.Equal(l.bytes(t), before) {
			t.Fatal("an entry that stops the node has changed the state")
		}
	}
	r, err := l.Apply(99, &commandpb.Command{Version: Version, Ignorable: true})
	if err != nil || r.Refused != nil || l.View().Index != 99 || !bytes.Equal(l.bytes(t), before) {
		t.Errorf("ignorable unknown command: %v, %v, index %d", r, err, l.View().Index)
	}
}

func TestEventsAreBounded(t *testing.T) {
	l := newLog(t)
	for range maxEvents + 500 {
		l.must(t, event("something"))
	}
	e := l.View().Events
	if len(e) != maxEvents || e[0].Index != 501 || e[maxEvents-1].Index != maxEvents+500 {
		t.Errorf("%d events from %d to %d", len(e), e[0].Index, e[len(e)-1].Index)
	}
}

func TestJobNamesAreInOrderOfSubmission(t *testing.T) {
	l := newLog(t, submit("b", 1, 1, 1, 1), submit("a", 1, 1, 1, 1))
	v := l.View()
	v.Jobs["c"] = &commandpb.JobRecord{SubmittedUnixNs: v.Jobs["a"].SubmittedUnixNs}
	if got := v.JobNames(); !slices.Equal(got, []string{"b", "a", "c"}) {
		t.Errorf("order %v", got)
	}
}
