package train

import (
	"math"
	"strings"
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/cpu"
	"colonnade/cudakern/ref"
)

// TestTanh holds values to the definition and gradients to central differences.
func TestTanh(t *testing.T) {
	dev := ref.New()
	st, err := dev.NewStream()
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	xs := []float32{0, 1e-6, -1e-3, 0.5, -0.75, 2, -9, 40, float32(math.NaN())}
	shape := cudakern.Shape{1, len(xs)}
	buffer := func(v []float32) cudakern.Buffer {
		b, err := dev.Alloc(shape, cudakern.Plain)
		if err == nil && v != nil {
			err = dev.Upload(st, b, v)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Free)
		return b
	}
	read := func(b cudakern.Buffer) []float32 {
		out := make([]float32, len(xs))
		if err := dev.Download(st, out, b); err != nil {
			t.Fatal(err)
		}
		return out
	}
	dys := []float32{1, 2, 3, -1, 2, 1, 1, 1, 1}
	x, y, dy, dx := buffer(xs), buffer(nil), buffer(dys), buffer(nil)
	op := newTanh(dev, st, shape)
	if err := op.forward(x, y); err != nil {
		t.Fatal(err)
	}
	if err := op.backward(y, dy, dx); err != nil {
		t.Fatal(err)
	}
	ys, gradients := read(y), read(dx)
	last := len(xs) - 1
	for i, v := range xs[:last] {
		if want := math.Tanh(float64(v)); math.Abs(float64(ys[i])-want) > 1e-7*math.Abs(want) {
			t.Errorf("tanh %g is %g, want %g", v, ys[i], want)
		}
		const h = 1e-5
		want := float64(dys[i]) * (math.Tanh(float64(v)+h) - math.Tanh(float64(v)-h)) / (2 * h)
		if math.Abs(float64(gradients[i])-want) > 1e-6 {
			t.Errorf("gradient at %g is %g, want %g", v, gradients[i], want)
		}
	}
	if ys[last] == ys[last] || gradients[last] == gradients[last] {
		t.Errorf("of what is no number becomes %g, its gradient %g", ys[last], gradients[last])
	}
}

// TestTanhTrains trains tiny with tanh for every relu on both devices: it learns, alike, and resumes.
func TestTanhTrains(t *testing.T) {
	trainPack, testPack := makePack(t, 64, 1, 12, 8, 1), makePack(t, 21, 1, 12, 8, 2)
	native, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	defer native.Close()
	var losses []float64
	for _, dev := range []cudakern.Device{native, ref.New()} {
		j := makeJob(t, "tiny", 2, trainPack, testPack, nil)
		j.NetworkText = strings.ReplaceAll(j.NetworkText, "kind: relu", "kind: tanh")
		root := t.TempDir()
		whole := setup{dev: dev, job: j, root: root}.mustRun(t)
		first, last := whole.evals[0].Score, whole.evals[len(whole.evals)-1].Score
		if !(last.Loss < first.Loss) {
			t.Errorf("test loss went from %g to %g", first.Loss, last.Loss)
		}
		losses = append(losses, last.Loss)
		if dev != native {
			continue
		}
		resumed := setup{dev: dev, job: j, root: root, from: 9}.mustRun(t)
		for c, d := range whole.digest {
			if resumed.digest[c] != d {
				t.Errorf("cell %s: resumed from step 9, it ends elsewhere", c)
			}
		}
	}
	if math.Abs(losses[0]-losses[1]) > 1e-3*losses[1] {
		t.Errorf("test losses %v on two devices", losses)
	}
}
