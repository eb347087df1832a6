package train

import (
	"errors"
	"fmt"
	"testing"

	"colonnade/cudakern/cpu"
	"colonnade/shard/job"
	"colonnade/worker/data"
)

// BenchmarkInput takes 256x256 colour images from a pack to what alexnet's first layer reads: shuffled, cropped at
// random, mirrored, less the mean image, scaled, in the device's layout. Cores are those Go may use: -cpu 1 for one.
func BenchmarkInput(b *testing.B) {
	dev, err := cpu.New()
	if err != nil {
		b.Fatal(err)
	}
	defer dev.Close()
	f := torchJob{Images: 512, Size: 256, Classes: 1000, Channels: 3}
	path := formulaPack(b, f)
	j := makeJob(b, "alexnet", 2, path, "", func(j *job.Job) {
		j.Recipe.Batch, j.Augment.Flip, j.Augment.Pad = 128, true, 0
	})
	plan, err := j.Plan()
	if err != nil {
		b.Fatal(err)
	}
	pack, err := data.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer pack.Close()
	st, err := dev.NewStream()
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	in := plan.Network.Input
	source := data.NewLoader(j, 0, pack, nil, in.Height, in.Width)
	stage := &inputStage{source: source, scale: float32(j.Augment.Scale)}
	bd := &builder{dev: dev, st: st, plan: plan, batch: j.Recipe.Batch, params: map[int]*param{}, in: stage}
	bd.backward = append(bd.backward, nil)
	defer bd.close()
	if err := bd.openStreams(); err != nil {
		b.Fatal(err)
	}
	if _, err := bd.buildInput(); err != nil {
		b.Fatal(err)
	}
	for step := uint64(0); b.Loop(); step++ {
		p := &pass{ctx: b.Context(), train: true, step: step}
		if err := errors.Join(bd.begin(), stage.train(p)); err != nil {
			b.Fatal(err)
		}
		for _, ph := range bd.forward {
			if err := ph.run(p); err != nil {
				b.Fatal(fmt.Errorf("%s: %w", ph.name, err))
			}
		}
	}
	b.ReportMetric(float64(b.N*j.Recipe.Batch)/b.Elapsed().Seconds(), "images/s")
}
