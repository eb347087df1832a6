package train

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"colonnade/cudakern/philox"
	"colonnade/cudakern/ref"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/shard/pack"
	"colonnade/worker/data"
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
	testData := ""
	if testPack != "" {
		testData = ", test: " + testPack
	}
	j, err := job.Parse("job.yaml", []byte(fmt.Sprintf(`
job: test
network: %s
columns: %d
seed: 7
data: {train: %s%s}
recipe: {batch: 8, epochs: 2, rate: 0.02}
augment: {crop: random, pad: 1, flip: false}
checkpoint: {every: 3}
`, network, columns, trainPack, testData)))
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
	var test *job.Pack
	if testPack != "" {
		test = known(testPack)
	}
	if err := j.Resolve(text, known(trainPack), test); err != nil {
		t.Fatal(err)
	}
	return j
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
			whole := setup{dev: dev, job: j, root: root}.mustRun(t)
			if len(whole.digest) != columns || len(whole.evals) != 4 {
				t.Fatalf("%d digests and %d evaluations", len(whole.digest), len(whole.evals))
			}
			first, last := whole.evals[0], whole.evals[len(whole.evals)-1]
			if !(last.Score.Loss < first.Score.Loss) || last.Score.Images != 21 {
				t.Errorf("test loss went from %g to %g over %d images", first.Score.Loss, last.Score.Loss, last.Score.Images)
			}
			again := setup{dev: dev, job: j, root: t.TempDir()}.mustRun(t)
			resumed := setup{dev: dev, job: j, root: root, from: 9}.mustRun(t)
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
