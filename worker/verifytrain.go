package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"time"

	"colonnade/cudakern"
	"colonnade/cudakern/kerntest"
	"colonnade/cudakern/ref"
)

// The training that `worker verify` does: tiny, split into two columns, long enough that it learns. The reference says
// what the losses must be.
const (
	knownSteps = 20
	knownBatch = 32
	knownRate  = "0.02"
)

// Tolerated differences of a loss from the reference's: float32 drifts a little in every step, operands of 10 bits
// more.
const (
	knownError     = 1e-4
	knownErrorTF32 = 2e-2
)

// knownDigests are what the training ends in, by numerics: the same on every GPU. They were computed on the emulated
// driver. There is none of TF32, since nobody says how a tensor core rounds its sums.
var knownDigests = map[string]string{
	"cuda/1/fp32": "e72caca1f8c22d1b1b17e22c703a9d57b6893729c4e9b2976a231c62bd214cf8 " +
		"61e56f1b8d8bbaa1fb5cb7d940d50fcb09a7c0727f34919582f564ce8cf00be6",
}

// knownRun is what a training came to.
type knownRun struct {
	losses []float64
	digest string // of all cells' states
}

// training trains on the device twice, which must give the same bits, and on the reference, which must give about the
// same losses.
func (c *verifyCmd) training(ctx context.Context, info cudakern.Info) kerntest.Result {
	r := kerntest.Result{Op: "training", Cases: knownSteps}
	fail := func(format string, args ...any) kerntest.Result {
		r.Failure = fmt.Sprintf(format, args...)
		return r
	}
	want, err := train20(ctx, ref.New().Info().Name, false)
	if err != nil {
		return fail("reference: %v", err)
	}
	first, err := train20(ctx, c.Device, c.TF32)
	if err != nil {
		return fail("%v", err)
	}
	second, err := train20(ctx, c.Device, c.TF32)
	if err != nil {
		return fail("second run: %v", err)
	}
	tolerated := knownError
	if c.TF32 {
		tolerated = knownErrorTF32
	}
	for i, w := range want.losses {
		e := math.Abs(first.losses[i]-w) / (tolerated * math.Max(math.Abs(w), 1))
		if math.IsNaN(e) {
			e = math.Inf(1)
		}
		r.MaxError = max(r.MaxError, e)
		if e > 1 {
			return fail("loss of step %d is %g, want %g", i+1, first.losses[i], w)
		}
	}
	if first.digest != second.digest {
		return fail("two runs end in different bits")
	}
	if known := knownDigests[info.Numerics]; known != "" && known != first.digest {
		return fail("its bits (%.12s) are not those (%.12s) that %s gives elsewhere", first.digest, known, info.Numerics)
	}
	r.Pass = true
	return r
}

// train20 does the training on one kind of device.
func train20(ctx context.Context, device string, tf32 bool) (knownRun, error) {
	return trainOn(ctx, benchCmd{Network: "tiny", Batch: knownBatch, Steps: knownSteps, Device: device, TF32: tf32})
}

// trainOn trains a network in two columns for so many steps on one kind of device.
func trainOn(ctx context.Context, c benchCmd) (knownRun, error) {
	c.Columns, c.Threads, c.Winograd, c.Carrier = 2, cores(), "on", "auto"
	j, plan, err := c.planAt(knownRate)
	if err != nil {
		return knownRun{}, err
	}
	rig, err := c.open(ctx, j, plan)
	if err == nil {
		rig.digests = true
		err = rig.measure(ctx, func() func() time.Time { return time.Now }, c.Steps)
	}
	if err = also(err, rig.close()); err != nil {
		return knownRun{}, err
	}
	var digests []string
	for _, cell := range rig.cells {
		digests = append(digests, hex.EncodeToString(cell.digest[:]))
	}
	return knownRun{rig.cells[0].losses, strings.Join(digests, " ")}, nil
}
