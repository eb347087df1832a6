//go:build cgo

package train

import (
	"testing"
	"time"

	"colonnade/cudakern"
	"colonnade/cudakern/cpu"
	"colonnade/shard/job"
)

func openCPU(t testing.TB) cudakern.Device {
	t.Helper()
	dev, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	return dev
}

func TestCPUQuick(t *testing.T) {
	dev := openCPU(t)
	trainPack, testPack := makePack(t, 64, 1, 12, 8, 1), makePack(t, 21, 1, 12, 8, 2)
	j := makeJob(t, "tiny", 2, trainPack, testPack, func(j *job.Job) { j.Recipe.Epochs = 4 })
	o := runLocal(t, dev, j, t.TempDir(), 0, nil)
	for _, e := range o.evals { t.Logf("%+v", e) }
	j = makeJob(t, "alexnet-32", 2, makePack(t, 2048, 1, 28, 8, 1), makePack(t, 21, 1, 28, 8, 2), func(j *job.Job) { j.Recipe.Epochs = 1; j.Recipe.Batch = 128; j.Classes=10; j.Checkpoint.Every=1000 })
	s := time.Now()
	o = runLocal(t, dev, j, t.TempDir(), 0, nil)
	for _, e := range o.evals { t.Logf("%+v", e) }
	t.Log(time.Since(s), 2048/time.Since(s).Seconds())
}
