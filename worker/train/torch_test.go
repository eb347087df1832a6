package train

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"colonnade/cudakern"
	"colonnade/cudakern/cpu"
	"colonnade/cudakern/ref"
	"colonnade/shard/job"
	"colonnade/worker/data"
	"colonnade/worker/exchange"
)

// torchJob is a job that PyTorch has trained; scripts/fixtures/steps.py wrote it.
type torchJob struct {
	Network             string
	Columns, Classes    int
	Channels            int
	Images, Size, Batch int
	Pad                 int
	Rate, Scale         float64
	Seed                uint64
	Flip                bool
	Losses              []float64
}

// formulaPack writes the dataset of the fixtures, which is a closed formula of image and pixel: grey as IDX, colour as
// pictures.
func formulaPack(t testing.TB, f torchJob) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "formula")
	if f.Channels == 3 {
		return colourPack(t, dir, f)
	}
	pixels := binary.BigEndian.AppendUint32([]byte{0, 0, 8, 3}, uint32(f.Images))
	pixels = append(pixels, 0, 0, 0, byte(f.Size), 0, 0, 0, byte(f.Size))
	labels := binary.BigEndian.AppendUint32([]byte{0, 0, 8, 1}, uint32(f.Images))
	for i := range f.Images {
		labels = append(labels, byte(i%f.Classes))
		for p := range f.Size * f.Size {
			pixels = append(pixels, formula(i, p))
		}
	}
	return packIDX(t, dir, pixels, labels)
}

// formula is pixel p, counted over channels, rows and columns, of image i.
func formula(i, p int) byte { return byte((i*7919 + p*104729 + i*p%8191*31) >> 5) }

// colourPack packs a folder of pictures, each a class of its own: the order of names is that of images and of labels.
func colourPack(t testing.TB, dir string, f torchJob) string {
	t.Helper()
	if f.Images > f.Classes {
		t.Fatalf("%d images of as many classes, there are %d", f.Images, f.Classes)
	}
	area := f.Size * f.Size
	for i := range f.Images {
		m := image.NewNRGBA(image.Rect(0, 0, f.Size, f.Size))
		for p := range area {
			copy(m.Pix[4*p:], []byte{formula(i, p), formula(i, area+p), formula(i, 2*area+p), 255})
		}
		var b bytes.Buffer
		if err := (&png.Encoder{CompressionLevel: png.NoCompression}).Encode(&b, m); err != nil {
			t.Fatal(err)
		}
		class := filepath.Join(dir, fmt.Sprintf("%04d", i))
		if err := os.MkdirAll(class, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(class, "image.png"), b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(t.TempDir(), "test.pack")
	if _, err := data.MakePack(context.Background(), data.PackOptions{From: dir, Out: out}); err != nil {
		t.Fatal(err)
	}
	return out
}

// losses trains ten steps with all columns in this process and returns the mean loss of each.
func losses(t *testing.T, dev cudakern.Device, f torchJob) []float64 {
	t.Helper()
	path := formulaPack(t, f)
	j := makeJob(t, f.Network, f.Columns, path, path, func(j *job.Job) {
		j.Seed, j.Classes, j.Recipe.Batch, j.Recipe.Rate = f.Seed, f.Classes, f.Batch, f.Rate
		j.Augment.Pad, j.Augment.Flip, j.Augment.Scale = f.Pad, f.Flip, f.Scale
	})
	plan, err := j.Plan()
	if err != nil {
		t.Fatal(err)
	}
	mesh := exchange.New(exchange.Config{Worker: "w", Log: slog.New(slog.DiscardHandler)})
	defer mesh.Close()
	var ids []exchange.Cell
	for k := range f.Columns {
		ids = append(ids, exchange.Cell{Column: k})
	}
	members, err := mesh.Join(context.Background(), exchange.Group{Job: j.Name, Generation: 1, Local: ids})
	if err != nil {
		t.Fatal(err)
	}
	defer members.Close()
	images, err := data.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	var out []float64
	var wait sync.WaitGroup
	for _, id := range ids {
		in := plan.Network.Input
		c, err := New(Config{Job: j, Plan: plan, Cell: id, Cells: ids, Generation: 1, Device: dev,
			Exchanger: members.Exchanger(id), Source: data.NewLoader(j, id.Replica, images, nil, in.Height, in.Width),
			Directory: t.TempDir(), Report: func(Event) {}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Initialise(); err != nil {
			t.Fatal(err)
		}
		wait.Go(func() {
			for range len(f.Losses) {
				if _, err := c.oneStep(context.Background()); err != nil {
					t.Error(err)
					members.Abort(err.Error())
					return
				}
				if id.Column == 0 {
					out = append(out, c.Status().Loss)
				}
			}
		})
	}
	wait.Wait()
	return out
}

// TestPyTorchAgrees trains ten steps from the same initial weights on the same images as PyTorch did in float64, and
// wants every loss within 1e-5. By Winograd's algorithm, whose rounding is a few times larger, sooner or later a
// rectifier or a maximum of a pool that was all but a tie goes the other way, after which two runs part, each as right
// as the other: there three steps are held to 1e-5 and the rest to 2e-4, which a wrong gradient exceeds at once.
func TestPyTorchAgrees(t *testing.T) {
	raw, err := os.ReadFile("testdata/torch.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Jobs []torchJob }
	if err := json.Unmarshal(raw, &file); err != nil || len(file.Jobs) < 6 {
		t.Fatalf("%d jobs: %v", len(file.Jobs), err)
	}
	direct, err := cpu.New(cpu.Direct())
	if err != nil {
		t.Fatal(err)
	}
	winograd, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	for name, dev := range map[string]cudakern.Device{"ref": ref.New(), "cpu direct": direct, "cpu": winograd} {
		for _, f := range file.Jobs {
			if name == "ref" && f.Network != "tiny" {
				continue // minutes
			}
			t.Run(fmt.Sprintf("%s %s in %d columns", name, f.Network, f.Columns), func(t *testing.T) {
				got := losses(t, dev, f)
				worst := 0.0
				for i, want := range f.Losses {
					off := math.Abs(got[i]-want) / want
					if worst = max(worst, off); off > tolerance(name, i) {
						t.Errorf("step %d: loss %.9g, PyTorch has %.9g: %.1g off", i+1, got[i], want, off)
					}
				}
				t.Logf("largest relative difference of ten losses: %.2g", worst)
			})
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	}
}

// tolerance is for the loss of step i, from 0.
func tolerance(device string, i int) float64 {
	if device == "cpu" && i >= 3 {
		return 2e-4
	}
	return 1e-5
}
