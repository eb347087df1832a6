package train

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"colonnade/checkpoint"
	"colonnade/cudakern"
	"colonnade/cudakern/philox"
	"colonnade/cudakern/ref"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/shard/pack"
	"colonnade/worker/data"
	"colonnade/worker/exchange"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// makePack writes a pack of blurred blobs whose place says their class, so that there is something to learn.
func makePack(t testing.TB, images, channels, size, classes int, seed uint64) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "src")
	w, h := size, size
	idx := []byte{0, 0, 8, 3, byte(images >> 24), byte(images >> 16), byte(images >> 8), byte(images),
		0, 0, 0, byte(h), 0, 0, 0, byte(w)}
	labels := []byte{0, 0, 8, 1, byte(images >> 24), byte(images >> 16), byte(images >> 8), byte(images)}
	for i := range images {
		c := i % classes
		labels = append(labels, byte(c))
		for p := range h * w {
			y, x := p/w, p%w
			noise := philox.Block([4]uint32{uint32(i), uint32(p)}, philox.Split(seed))[0] >> 26
			cy, cx := (c%4)*h/4+h/8, (c/4)*w/2+w/4
			d := float64((y-cy)*(y-cy) + (x-cx)*(x-cx))
			idx = append(idx, byte(180*math.Exp(-d/6))+byte(noise))
		}
	}
	return packIDX(t, dir, idx, labels)
}

// packIDX writes an IDX dataset and packs it.
func packIDX(t testing.TB, dir string, images, labels []byte) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": labels} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(t.TempDir(), "test.pack")
	if _, err := data.MakePack(context.Background(), data.PackOptions{From: dir, Split: "train", Out: out}); err != nil {
		t.Fatal(err)
	}
	return out
}

// makeJob resolves a job on packs.
func makeJob(t testing.TB, network string, columns int, trainPack, testPack string, change func(*job.Job)) *job.Job {
	t.Helper()
	j, err := job.Parse("job.yaml", []byte(fmt.Sprintf(`
job: test
network: %s
columns: %d
seed: 7
data: {train: %s, test: %s}
recipe: {batch: 8, epochs: 2, rate: 0.02}
augment: {crop: random, pad: 1, flip: false}
checkpoint: {every: 3}
`, network, columns, trainPack, testPack)))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(j)
	}
	text, err := shard.EmbeddedText(network)
	if err != nil {
		t.Fatal(err)
	}
	known := func(path string) *job.Pack {
		h, err := pack.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return &job.Pack{Path: path, ID: fmt.Sprintf("%x", h.ID), Images: h.Images, Channels: h.Channels, Height: h.Height,
			Width: h.Width, Classes: len(h.Classes)}
	}
	if err := j.Resolve(text, known(trainPack), known(testPack)); err != nil {
		t.Fatal(err)
	}
	return j
}

// outcome is what a run of all cells came to.
type outcome struct {
	mu     sync.Mutex
	events []Event
	digest map[exchange.Cell][32]byte
	evals  []Evaluated
	saved  map[uint64]map[exchange.Cell]checkpoint.Info
	stop   uint64
}

func (o *outcome) report(e Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.events = append(o.events, e)
	switch e := e.(type) {
	case Finished:
		o.digest[e.Cell] = e.Digest
	case Evaluated:
		o.evals = append(o.evals, e)
	case Saved:
		if o.saved[e.Step] == nil {
			o.saved[e.Step] = map[exchange.Cell]checkpoint.Info{}
		}
		o.saved[e.Step][e.Cell] = e.Info
	case Stopped:
		o.stop = e.Step
	}
}

// runLocal trains all columns of a job in this process, over the local carrier, from a step whose files are in root.
func runLocal(t testing.TB, dev cudakern.Device, j *job.Job, root string, from uint64, started func([]*Cell)) *outcome {
	t.Helper()
	plan, err := j.Plan()
	if err != nil {
		t.Fatal(err)
	}
	var cells []exchange.Cell
	for k := range j.Columns {
		cells = append(cells, exchange.Cell{Column: k})
	}
	mesh := exchange.New(exchange.Config{Worker: "w", Log: slog.New(slog.DiscardHandler)})
	defer mesh.Close()
	members, err := mesh.Join(context.Background(), exchange.Group{Job: j.Name, Generation: 1, Local: cells})
	if err != nil {
		t.Fatal(err)
	}
	defer members.Close()
	open := func(path string) *data.Pack {
		p, err := data.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	training, test := open(j.Train.Path), open(j.Test.Path)
	defer training.Close()
	defer test.Close()
	out := &outcome{digest: map[exchange.Cell][32]byte{}, saved: map[uint64]map[exchange.Cell]checkpoint.Info{}}
	var built []*Cell
	for _, id := range cells {
		in := plan.Network.Input
		c, err := New(Config{Job: j, Plan: plan, Cell: id, Cells: cells, Generation: 1, Device: dev,
			Exchanger: members.Exchanger(id), Source: data.NewLoader(j, training, test, in.Height, in.Width),
			Directory: root, Report: out.report, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if from == 0 {
			err = c.Initialise()
		} else {
			name, _ := checkpoint.Path(checkpoint.Meta{Job: j.Name, Generation: 1, Step: from, Column: id.Column})
			err = c.Restore(context.Background(), filepath.Join(root, name), checkpoint.Want{Meta: checkpoint.Meta{Job: j.Name,
				Step: from, Column: id.Column, PlanDigest: plan.Digest(), Numerics: dev.Info().Numerics}})
		}
		if err != nil {
			t.Fatal(err)
		}
		built = append(built, c)
	}
	if started != nil {
		started(built)
	}
	var wait sync.WaitGroup
	for _, c := range built {
		wait.Go(func() {
			if err := c.Run(context.Background()); err != nil {
				t.Error(err)
				members.Abort(err.Error())
			}
		})
	}
	wait.Wait()
	for _, c := range built {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	return out
}

func TestTinyLearnsAndResumes(t *testing.T) {
	trainPack, testPack := makePack(t, 64, 1, 12, 8, 1), makePack(t, 21, 1, 12, 8, 2)
	for _, split := range []struct{ columns, classes int }{{1, 8}, {2, 8}, {4, 8}, {4, 11}} {
		columns := split.columns
		t.Run(fmt.Sprintf("%d columns, %d classes", columns, split.classes), func(t *testing.T) {
			dev := ref.New()
			j := makeJob(t, "tiny", columns, trainPack, testPack, func(j *job.Job) {
				j.Recipe.Epochs, j.Classes = 4, split.classes
			})
			root := t.TempDir()
			whole := runLocal(t, dev, j, root, 0, nil)
			if len(whole.digest) != columns || len(whole.evals) != 4 {
				t.Fatalf("%d digests and %d evaluations", len(whole.digest), len(whole.evals))
			}
			first, last := whole.evals[0], whole.evals[len(whole.evals)-1]
			if !(last.Score.Loss < first.Score.Loss) || last.Score.Images != 21 {
				t.Errorf("test loss went from %g to %g over %d images", first.Score.Loss, last.Score.Loss, last.Score.Images)
			}
			again := runLocal(t, dev, j, t.TempDir(), 0, nil)
			resumed := runLocal(t, dev, j, root, 9, nil)
			for c, d := range whole.digest {
				if again.digest[c] != d {
					t.Errorf("cell %s: a second run ends elsewhere", c)
				}
				if resumed.digest[c] != d {
					t.Errorf("cell %s: resumed from step 9, it ends elsewhere", c)
				}
			}
			if n := dev.Live(); n != 0 {
				t.Errorf("%d things are still alive on the device", n)
			}
		})
	}
}
