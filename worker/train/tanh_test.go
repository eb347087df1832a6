package train

import (
	"math"
	"strings"
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/cpu"
	"colonnade/cudakern/ref"
)

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
