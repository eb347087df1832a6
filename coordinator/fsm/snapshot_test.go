package fsm

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"colonnade/proto/commandpb"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// history is a cluster's life with every kind of command in it, some of them refused.
func history() []*commandpb.Command {
	c0, c1 := cell(0, 0), cell(0, 1)
	return []*commandpb.Command{
		initCluster("cluster-1"), initCluster("cluster-2"),
		register("w0", "a"), register("w1", "a"), register("w2", "a"),
		submit("first", 1, 2, 10, 2), submit("second", 1, 1, 4, 0), submit("third", 2, 2, 6, 1), submit("first", 1, 2, 10, 2),
		assign("first", 1, -1, place(2, "w0", "w1")...), assign("second", 1, -1, place(1, "w2")...),
		written("first", 1, 2, c0), written("first", 1, 2, c1), evaluation("first", 1, 2, 50.5),
		written("first", 1, 4, c1), written("first", 1, 4, c0), evaluation("first", 1, 4, 25),
		written("first", 1, 6, c0), lose("w1", "its session broke"), written("first", 1, 6, c1),
		assign("first", 2, 4, place(2, "w0", "w0")...), bad("first", 4, "chunk 7 is damaged"), release("first", 2,
			"cannot restore"),
		assign("first", 3, 2, place(2, "w0", "w0")...), register("w1", "b"),
		written("first", 3, 4, c0), written("first", 3, 4, c1), written("first", 3, 6, c0), written("first", 3, 6, c1),
		drop("first", 4), drop("first", 2), stop("first", false), stopped("first", 3, 7, c0), stopped("first", 3, 7, c1),
		resume("first", 4), resume("first", -1), assign("first", 4, 4, place(2, "w1", "w0")...),
		written("first", 4, 10, c0), written("first", 4, 10, c1), finished("first", 4, 10, c1), finished("first", 4, 10, c0),
		failJob("second", 1, "pack of another identity"), resume("second", -1), stop("second", false),
		event("checkpoint of step 3 was not written"),
		assign("third", 1, -1, place(2, "w0", "w1", "w2", "w0")...), stop("third", false), finished("third", 1, 6, cell(1,
			1)),
		written("third", 1, 3, cell(1, 0)), stopped("third", 1, 3, cell(1, 0)), lose("w2", "silent for 3s"),
	}
}

// The bytes of a snapshot are on users' disks: what this program once wrote, it reads, and writes again alike.
func TestGoldenSnapshot(t *testing.T) {
	l := newLog(t)
	var lines strings.Builder
	for _, c := range history() {
		err := l.apply(t, c)
		fmt.Fprintf(&lines, "%d %s", l.index, strings.TrimPrefix(fmt.Sprintf("%T", c.Kind), "*commandpb.Command_"))
		if err != nil {
			fmt.Fprintf(&lines, ": refused: %v", err)
		}
		fmt.Fprintln(&lines)
	}
	fmt.Fprintln(&lines)
	for _, e := range l.View().Events {
		fmt.Fprintf(&lines, "%d %s: %s\n", e.Index, e.Kind, e.Text)
	}
	got := encode(t, l.View())
	golden(t, "history.txt", lines.String())
	golden(t, "history.snapshot", hex.Dump(got))
	if again := encode(t, decode(t, got).View()); !bytes.Equal(again, got) {
		t.Error("decoded and encoded again, the snapshot is another")
	}
}

// golden compares with a file of testdata, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Fatalf("%s, line %d:\n got %s\nwant %s", path, i+1, g[i], w[i])
		}
	}
	t.Fatalf("%s: %d lines instead of %d", path, len(g), len(w))
}

// goldenBytes are those of the golden snapshot.
func goldenBytes(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "history.snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for line := range strings.Lines(string(text)) {
		if len(line) < 60 {
			continue // the last one, which is the length
		}
		b, err := hex.DecodeString(strings.ReplaceAll(line[10:58], " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b...)
	}
	return out
}

// What a newer program of the same version has added to a record is not lost by an older one that copies the record.
func TestUnknownFieldsAreKept(t *testing.T) {
	l := newLog(t, running()...)
	v := l.View()
	v.Jobs["j"] = proto.CloneOf(v.Jobs["j"])
	extra := []byte{0xfa, 0x3f, 1, 'x'} // field 1023, bytes "x"
	v.Jobs["j"].ProtoReflect().SetUnknown(extra)
	s := decode(t, encode(t, v))
	if _, err := s.Apply(99, release("j", 1, "x")); err != nil {
		t.Fatal(err)
	}
	if got := s.View().Jobs["j"].ProtoReflect().GetUnknown(); !bytes.Equal(got, extra) {
		t.Errorf("unknown field became %x", got)
	}
}

func TestDecodeRefuses(t *testing.T) {
	job := func(change func(*commandpb.JobRecord)) *commandpb.Snapshot {
		j := proto.CloneOf(newLog(t, committed(4, 8)...).View().Jobs["j"])
		change(j)
		return &commandpb.Snapshot{Version: Version, Jobs: []*commandpb.JobRecord{j}}
	}
	evaluation := func(change func(*commandpb.EvaluationRecord)) *commandpb.Snapshot {
		l, id := tested(t)
		l.must(t, give(id, 0, "w0", ""))
		r := proto.CloneOf(l.View().Evaluation(id))
		r.Id = 1
		change(r)
		return &commandpb.Snapshot{Version: Version, Evaluations: []*commandpb.EvaluationRecord{r}}
	}
	worker := func(id string) *commandpb.WorkerRecord {
		return &commandpb.WorkerRecord{Registered: register(id, "a").GetRegisterWorker()}
	}
	for _, tt := range []struct {
		name string
		s    *commandpb.Snapshot
		text string
	}{
		{"nothing", &commandpb.Snapshot{}, "without a version"},
		{"newer", &commandpb.Snapshot{Version: Version + 1}, "of version 2, this program reads 1; install a newer one"},
		{"worker without registration", &commandpb.Snapshot{Version: 1, Workers: []*commandpb.WorkerRecord{{}}}, `worker ""`},
		{"worker without device", &commandpb.Snapshot{Version: 1, Workers: []*commandpb.WorkerRecord{
			{Registered: &commandpb.RegisterWorker{Worker: "w"}}}}, `worker "w"`},
		{"workers out of order", &commandpb.Snapshot{Version: 1, Workers: []*commandpb.WorkerRecord{worker("b"),
			worker("a")}},
			`worker "a" after "b"`},
		{"worker twice", &commandpb.Snapshot{Version: 1, Workers: []*commandpb.WorkerRecord{worker("a"), worker("a")}},
			"out of order"},
		{"job without submission", job(func(j *commandpb.JobRecord) { j.Submitted = nil }), `job ""`},
		{"job twice", &commandpb.Snapshot{Version: 1, Jobs: []*commandpb.JobRecord{
			{Submitted: submit("j", 1, 1, 1, 1).GetSubmitJob()}, {Submitted: submit("j", 1, 1, 1,
				1).GetSubmitJob()}}}, "out of order"},
		{"job without cells", job(func(j *commandpb.JobRecord) { j.Submitted.Columns = 0 }), "1 replicas of 0 columns"},
		{"job of too many cells", job(func(j *commandpb.JobRecord) { j.Submitted.Columns = 1 << 30 }), "columns"},
		{"placement of no cell", job(func(j *commandpb.JobRecord) { j.Placement[0].Cell.Column = -1 }), "cell r0c-1"},
		{"checkpoints out of order", job(func(j *commandpb.JobRecord) { j.Checkpoints[1].Step = 3 }), "checkpoint of step 3"},
		{"files out of order", job(func(j *commandpb.JobRecord) { j.Checkpoints[1].Files[0].Cell.Column = 1 }),
			"checkpoint of step 8"},
		{"file of no cell", job(func(j *commandpb.JobRecord) { j.Checkpoints[1].Files[1].Cell.Column = 2 }),
			"checkpoint of step 8"},
		{"evaluation twice", job(func(j *commandpb.JobRecord) {
			j.Evaluations = []*commandpb.RecordEvaluation{{Step: 2}, {Step: 2}}
		}), "evaluation after step 2"},
		{"end twice", job(func(j *commandpb.JobRecord) { j.Finished = []*commandpb.CellFinished{{}, {}} }), "ends of cells"},
		{"evaluation without a request", evaluation(func(r *commandpb.EvaluationRecord) { r.Requested = nil }),
			"evaluation 1"},
		{"evaluation of no images a part", evaluation(func(r *commandpb.EvaluationRecord) { r.Requested.PartImages = 0 }),
			"0 a part"},
		{"evaluation without a checkpoint", evaluation(func(r *commandpb.EvaluationRecord) { r.Checkpoints = nil }),
			"0 checkpoints of 1 models"},
		{"evaluation without a sum", evaluation(func(r *commandpb.EvaluationRecord) { r.Sum = nil }), "evaluation 1"},
		{"evaluation's parts out of order", evaluation(func(r *commandpb.EvaluationRecord) { r.Given[0].Part = 3 }),
			"part 3 is out of order"},
		{"evaluation's part is of other images", evaluation(func(r *commandpb.EvaluationRecord) {
			r.Ahead = []*commandpb.PartRecord{{Part: 1, Sum: sumOf(1, 9)}}
		}), "9 images of 10"},
		{"evaluation's part is no number", evaluation(func(r *commandpb.EvaluationRecord) {
			r.Ahead = []*commandpb.PartRecord{{Part: 1, Sum: sumOf(1, 10)}}
			r.Ahead[0].Sum.Loss = math.NaN()
		}), "no numbers"},
		{"evaluation's part is of no class", evaluation(func(r *commandpb.EvaluationRecord) {
			r.Ahead = []*commandpb.PartRecord{{Part: 1, Sum: sumOf(1, 10)}}
			r.Ahead[0].Sum.Classes[1].Label = 9
		}), "class 9"},
		{"evaluation twice", &commandpb.Snapshot{Version: 1, Evaluations: slices.Repeat(evaluation(
			func(*commandpb.EvaluationRecord) {}).Evaluations, 2)}, "out of order"},
		{"stop of no cell", job(func(j *commandpb.JobRecord) {
			j.Stopped = []*commandpb.CellStopped{{Cell: cell(3, 0)}}
		}), "ends of cells"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := proto.Marshal(tt.s)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Decode(bytes.NewReader(b))
			if !errors.Is(err, ErrSnapshot) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("decoded with %v, want %q", err, tt.text)
			}
		})
	}
	if _, err := Decode(failingReader{}); !errors.Is(err, errRead) {
		t.Errorf("a reader's error became %v", err)
	}
}

var errRead = errors.New("disk on fire")

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errRead }

// checkDecode wants either one line that says bad snapshot, or a state that can be written, read and gone on with.
func checkDecode(t *testing.T, b []byte) {
	t.Helper()
	s, err := Decode(bytes.NewReader(b))
	if err != nil {
		if !errors.Is(err, ErrSnapshot) || strings.Contains(err.Error(), "\n") {
			t.Fatalf("error is %q", err)
		}
		return
	}
	once := encode(t, s.View())
	if twice := encode(t, decode(t, once).View()); !bytes.Equal(once, twice) {
		t.Fatal("decoded and encoded again, the snapshot is another")
	}
	for i, c := range history() {
		c.Version = Version
		if _, err := s.Apply(uint64(1000+i), c); err != nil {
			t.Fatalf("cannot go on: %v", err)
		}
	}
	encode(t, s.View())
}

func TestDecodeOfDamagedSnapshots(t *testing.T) {
	whole := goldenBytes(t)
	for n := 0; n < len(whole); n += 3 {
		checkDecode(t, whole[:n])
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 1500 {
		b := bytes.Clone(whole)
		for range 1 + r.IntN(3) {
			switch i := r.IntN(len(b)); r.IntN(3) {
			case 0:
				b[i] ^= 1 << r.IntN(8)
			case 1:
				b[i] = byte(r.Uint32())
			case 2:
				n := min(r.IntN(20), len(b)-i-1)
				b = append(b[:i], b[i+n:]...)
			}
		}
		checkDecode(t, b)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(goldenBytes(f))
	f.Add([]byte{})
	f.Fuzz(checkDecode)
}
