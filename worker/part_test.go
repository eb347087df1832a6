package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"colonnade/proto/clusterpb"
	"colonnade/shard/job"
	"colonnade/shard/pack"
	"colonnade/shard/score"
)

// partOf is an assignment of some images of an evaluation of job j.
func partOf(t *testing.T, j *job.Job, m *clusterpb.Manifest, packPath string, generation, first, images uint64) (
	a *clusterpb.Assign) {
	t.Helper()
	h, err := pack.ReadFile(packPath)
	if err != nil {
		t.Fatal(err)
	}
	return &clusterpb.Assign{Job: "evaluation/5", Generation: generation, Part: &clusterpb.EvaluationPart{Evaluation: 5,
		First: first, Images: images, Views: 10, Batch: 4,
		Models: []*clusterpb.EvaluationModel{{Spec: j.Encode(), Checkpoint: m}},
		Pack: &clusterpb.EvaluationPack{Path: packPath, Id: fmt.Sprintf("%x", h.ID), Images: uint64(h.Images),
			Channels: uint32(h.Channels), Height: uint32(h.Height), Width: uint32(h.Width), Classes: uint32(len(h.Classes))}}}
}

// part is what a part came to.
func (h *testHost) part() *clusterpb.PartEvaluated {
	h.t.Helper()
	return h.next(func(r *clusterpb.Report) bool { return r.GetPart() != nil }).GetPart()
}

// TestParts computes an evaluation in two parts, on a worker that has the files and one that fetches them, one part
// after the other, and wants what `worker evaluate` says of the whole. Models are built once for both parts.
func TestParts(t *testing.T) {
	packPath := makePack(t, 27)
	j := makeJob(t, packPath, nil)
	a, b := trained(t, j)
	m := manifest(j, 6, true, a, b)
	m.PlanDigest = nil
	size := uint64(score.PartImages(4)) // of `worker evaluate`: all images
	want := said[score.Report](t, "evaluate", "--checkpoint", filepath.Join(gathered(t, a, b), "test", "000000000006"),
		"--data", packPath, "--device", "ref", "--views", "10", "--batch", "4")
	if want.Images != 27 || size < 27 {
		t.Fatalf("%d images, %d a part", want.Images, size)
	}
	spare := startHost(t, "spare")
	before := len(spare.opened())
	spare.Assign(partOf(t, j, m, packPath, 1, 0, 27))
	whole := spare.part()
	if r := reported(t, whole.Sum); r.Digest != want.Digest {
		t.Errorf("a spare: %+v, want %+v", r, want)
	}
	spare.idle()
	if spare.Part() != nil {
		t.Error("it says that it works on")
	}
	var sums []*clusterpb.EvaluationSum
	for i, first := range []uint64{0, 16} {
		spare.Assign(partOf(t, j, m, packPath, uint64(2+i), first, []uint64{16, 11}[i]))
		sums = append(sums, spare.part().Sum)
		spare.idle()
	}
	if n := len(spare.opened()) - before; n != j.Columns {
		t.Errorf("%d devices were opened for three parts of one evaluation", n)
	}
	a.Assign(partOf(t, j, m, packPath, 1, 0, 16))
	if got := a.part().Sum; !proto.Equal(got, sums[0]) {
		t.Errorf("where the files lie: %v, where they do not: %v", got, sums[0])
	}
	if sums[0].Images != 16 || sums[1].Images != 11 || sums[0].Images+sums[1].Images != whole.Sum.Images {
		t.Errorf("parts %v", sums)
	}
	a.idle()
	a.Assign(assign(j, 9, a, a, a)) // cells come: what is ready is given back first
	a.next(func(r *clusterpb.Report) bool { return r.GetFinished() != nil && r.Generation == 9 })
	a.mu2(func() {
		if a.host.ready != nil {
			t.Error("models are kept beside cells")
		}
	})
}

// mu2 runs f under the host's lock.
func (h *testHost) mu2(f func()) {
	h.host.mu.Lock()
	defer h.host.mu.Unlock()
	f()
}

// gathered is a directory with the files of several workers.
func gathered(t *testing.T, hosts ...*testHost) string {
	t.Helper()
	out := t.TempDir()
	for _, h := range hosts {
		if err := os.CopyFS(out, os.DirFS(h.root)); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
	}
	return out
}

// reported is a sum as `worker evaluate` prints it.
func reported(t *testing.T, s *clusterpb.EvaluationSum) *score.Report {
	t.Helper()
	tally := score.NewTally(8)
	tally.Score = score.Score{Images: s.Images, Loss: s.Loss, Top1: s.Top1Errors, Top5: s.Top5Errors}
	for _, c := range s.Classes {
		tally.ByClass[c.Label] = score.Score{Images: c.Images, Loss: c.Loss, Top1: c.Top1Errors, Top5: c.Top5Errors}
	}
	for _, c := range s.Confused {
		if err := tally.Set(score.Confused{Label: int(c.Label), As: int(c.TakenFor), Images: c.Images}); err != nil {
			t.Fatal(err)
		}
	}
	return score.NewReport(tally, make([]string, 8))
}

// TestPartsThatFail says whether it is any use to try again, and marks a damaged checkpoint.
func TestPartsThatFail(t *testing.T) {
	packPath := makePack(t, 16)
	j := makeJob(t, packPath, nil)
	a, b := trained(t, j)
	m := manifest(j, 6, true, a, b)
	other := makePack(t, 24)
	h := startHost(t, "spare")
	for i, tt := range []struct {
		name      string
		change    func(*clusterpb.Assign)
		permanent bool
		text      string
	}{
		{"no pack", func(a *clusterpb.Assign) { a.Part.Pack.Path = "/nowhere.pack" }, true, "copy it to either place"},
		{"another pack", func(a *clusterpb.Assign) { a.Part.Pack.Path = other }, true, "has identity"},
		{"no spec", func(a *clusterpb.Assign) { a.Part.Models[0].Spec = nil }, true, "read job"},
		{"a file less", func(a *clusterpb.Assign) { a.Part.Models[0].Checkpoint.Files = nil }, true, "has no file of cell"},
		{"no models", func(a *clusterpb.Assign) { a.Part.Models = nil }, true, "names no models"},
		{"images that there are not", func(a *clusterpb.Assign) { a.Part.First = 12 }, false, "of a pack of 16"},
		{"other numerics", func(a *clusterpb.Assign) { a.Part.Models[0].Checkpoint.Numerics = "x" }, true,
			"test another step"},
		{"whoever has the file is away", func(a *clusterpb.Assign) {
			a.Part.Models[0].Checkpoint.Files[0].Address, a.Part.Models[0].Checkpoint.Files[0].Path = "", "test/x/y.ckpt"
		}, false, "is away; start that one again"},
	} {
		as := partOf(t, j, proto.CloneOf(m), packPath, uint64(i+1), 0, 8)
		tt.change(as)
		h.Assign(as)
		p := h.part()
		if p.Sum != nil || p.Permanent != tt.permanent || !strings.Contains(p.Failed, tt.text) ||
			strings.Contains(p.Failed, "\n") {
			t.Errorf("%s: %v, want %q, permanent: %v", tt.name, p, tt.text, tt.permanent)
		}
		h.idle()
	}
	path := filepath.Join(a.root, filepath.FromSlash(m.Files[0].Path))
	if err := os.WriteFile(path, []byte("no checkpoint"), 0o644); err != nil {
		t.Fatal(err)
	}
	fresh := startHost(t, "fresh")
	fresh.Assign(partOf(t, j, m, packPath, 1, 0, 8))
	bad := fresh.next(func(r *clusterpb.Report) bool { return r.GetBad() != nil })
	if p := fresh.part(); bad.Job != "test" || bad.GetBad().Step != 6 || !p.Permanent ||
		!strings.Contains(p.Failed, "coordinator evaluate test --step N") {
		t.Errorf("a damaged file: %v, %v", bad, p)
	}
}

// TestPartsAreTakenBack: what is revoked, superseded, or gives way to cells, reports nothing.
func TestPartsAreTakenBack(t *testing.T) {
	packPath := makePack(t, 3000)
	j := makeJob(t, packPath, func(j *job.Job) { j.Recipe.Epochs, j.Recipe.Steps = 0, 8 })
	a, b := trained(t, j)
	m := manifest(j, 6, true, a, b)
	h := startHost(t, "spare")
	computing := func(generation uint64) {
		t.Helper()
		h.until("it computes", func([]*clusterpb.CellStatus) bool {
			p := h.Part()
			return p != nil && p.Generation == generation && p.Computing && p.Passes > 0
		})
	}
	h.Assign(partOf(t, j, m, packPath, 1, 0, 3000))
	computing(1)
	if got := h.Running(); len(got) != 1 || got[0].Job != "evaluation/5" || got[0].Generation != 1 {
		t.Errorf("it says that it runs %v", got)
	}
	h.Assign(partOf(t, j, m, packPath, 2, 0, 3000))
	computing(2)
	h.Revoke(&clusterpb.Revoke{Job: "evaluation/5", Generation: 2})
	h.idle()
	h.Assign(partOf(t, j, m, packPath, 2, 0, 3000)) // of the past
	h.idle()
	h.Assign(partOf(t, j, m, packPath, 3, 0, 3000))
	computing(3)
	h.Assign(assign(j, 9, h, h, h))
	h.next(finished)
	h.next(finished)
	h.idle()
	for _, r := range h.seen {
		if r.GetPart() != nil {
			t.Errorf("it reports %v", r)
		}
	}
}
