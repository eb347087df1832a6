//go:build cuda && cgo

package train

import (
	"context"
	"log/slog"
	"math"
	"os"
	"sync"
	"testing"
	"time"

	"colonnade/cudakern"
	"colonnade/cudakern/cuda"
	"colonnade/cudakern/ref"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/data"
	"colonnade/worker/exchange"
)

// stepOf is what one step of a job came to: the loss, and every column's gradients by name.
type stepOf struct {
	loss      float64
	gradients []map[string][]float32
}

// onDevices is the exchange of columns on devices.
func onDevices(j *job.Job, plan *shard.Plan, ids []exchange.Cell, devs []cudakern.Device) exchange.Group {
	g := exchange.Group{Job: j.Name, Generation: 1, Local: ids, Devices: map[exchange.Cell]cudakern.Device{}}
	for _, x := range plan.Exchanges {
		for _, m := range x.Moves {
			g.Largest = max(g.Largest, uint64(4*m.Shape.Len()*j.Recipe.Batch))
		}
	}
	for k, id := range ids {
		g.Devices[id] = devs[k%len(devs)]
	}
	return g
}

// firstStep trains one step with all columns in this process, column k on the k-th of the devices in turn.
func firstStep(t *testing.T, j *job.Job, path string, devs ...cudakern.Device) stepOf {
	t.Helper()
	plan, err := j.Plan()
	if err != nil {
		t.Fatal(err)
	}
	mesh := exchange.New(exchange.Config{Worker: "w", Log: slog.New(slog.DiscardHandler)})
	defer mesh.Close()
	var ids []exchange.Cell
	for k := range j.Columns {
		ids = append(ids, exchange.Cell{Column: k})
	}
	members, err := mesh.Join(context.Background(), onDevices(j, plan, ids, devs))
	if err != nil {
		t.Fatal(err)
	}
	defer members.Close()
	images, err := data.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	out := stepOf{gradients: make([]map[string][]float32, len(ids))}
	cells := make([]*Cell, len(ids))
	for k, id := range ids {
		in := plan.Network.Input
		cells[k], err = New(Config{Job: j, Plan: plan, Cell: id, Cells: ids, Generation: 1, Device: devs[k%len(devs)],
			Exchanger: members.Exchanger(id), Source: data.NewLoader(j, id.Replica, images, nil, in.Height, in.Width),
			Directory: t.TempDir(), Report: func(Event) {}, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer cells[k].Close()
		if err := cells[k].Initialise(); err != nil {
			t.Fatal(err)
		}
		if err := cells[k].spread(); err != nil {
			t.Fatal(err)
		}
	}
	var wait sync.WaitGroup
	for k, c := range cells {
		wait.Go(func() {
			_, err := c.oneStep(context.Background())
			out.gradients[k] = map[string][]float32{}
			for _, p := range c.params {
				if err == nil {
					g := make([]float32, p.Len())
					out.gradients[k][p.Name] = g
					err = c.dev.Download(c.st, g, p.grad)
				}
			}
			if err != nil {
				t.Error(err)
				members.Abort(err.Error())
			}
		})
	}
	wait.Wait()
	if t.Failed() {
		t.FailNow()
	}
	out.loss = cells[0].Status().Loss
	return out
}

// spread makes the first weights four times as large, about what keeps the maps of every layer as large as those of the
// one before. With the paper's own, conv2's outputs are its biases of 1 and next to nothing else: where pooling finds
// its maxima is then a matter of rounding, and gradients before it differ by percents between any two devices.
func (c *Cell) spread() error {
	for _, p := range c.params {
		if len(p.Shape) == 1 {
			continue
		}
		w := make([]float32, p.Len())
		if err := c.dev.Download(c.st, w, p.w[0]); err != nil {
			return err
		}
		for i := range w {
			w[i] *= 4
		}
		if err := c.dev.Upload(c.st, p.w[0], w); err != nil {
			return err
		}
	}
	return c.st.Sync()
}

// apart is how far a tensor is off another: the norm of the difference, and its largest element, as parts of the
// other's.
func apart(got, want []float32) (norm, largest float64) {
	var off, all, worst, top float64
	for i, w := range want {
		d := float64(got[i]) - float64(w)
		off, all = off+d*d, all+float64(w)*float64(w)
		if !(math.Abs(d) <= worst) { // what is no number shows
			worst = math.Abs(d)
		}
		top = math.Max(top, math.Abs(float64(w)))
	}
	return math.Sqrt(off / all), worst / top
}

// TestCUDAFullSize trains one step of the paper's network at its own size, each column on a GPU of its own, and wants
// the loss and every gradient of the reference in float64: 62 million numbers.
func TestCUDAFullSize(t *testing.T) {
	if os.Getenv("COLONNADE_LIBCUDA") == "" {
		t.Skip("wants a driver: scripts/test runs it on the emulated one")
	}
	path := formulaPack(t, torchJob{Channels: 3, Images: 4, Size: 256, Classes: 1000})
	j := makeJob(t, "alexnet", 2, path, "", func(j *job.Job) {
		j.Classes, j.Recipe.Batch = 1000, 2
		j.Augment.Pad, j.Augment.Flip = 0, true
	})
	started := time.Now()
	want := firstStep(t, j, path, ref.New())
	t.Logf("reference: loss %.9g, %.1f s", want.loss, time.Since(started).Seconds())

	var devs []cudakern.Device
	for _, name := range []string{"cuda:0", "cuda:1"} {
		d, err := cuda.New(name)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}()
		devs = append(devs, d)
	}
	started = time.Now()
	got := firstStep(t, j, path, devs...)
	t.Logf("%s: loss %.9g, %.1f s", devs[0].Info().Model, got.loss, time.Since(started).Seconds())
	if off := math.Abs(got.loss-want.loss) / want.loss; !(off < 1e-6) {
		t.Errorf("loss %.9g, want %.9g", got.loss, want.loss)
	}
	for k, gradients := range want.gradients {
		for name, w := range gradients {
			norm, largest := apart(got.gradients[k][name], w)
			t.Logf("column %d, %-12s %9d numbers: %.2g off, largest %.2g", k, name, len(w), norm, largest)
			if !(norm < 1e-4 && largest < 1e-3) {
				t.Errorf("column %d: gradient of %s is %.2g off, its largest %.2g", k, name, norm, largest)
			}
		}
	}
}
