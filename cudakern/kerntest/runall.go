package kerntest

import (
	"testing"

	"colonnade/cudakern"
)

// RunAll holds a device against the whole suite: Check, finite-difference gradients, several streams at once,
// ownership, memory of the caller's, values that are no numbers, and refusals. open must return a fresh device; RunAll
// closes it.
func RunAll(t *testing.T, open func(testing.TB) cudakern.Device) {
	dev := open(t)
	for _, r := range Check(dev, Options{}) {
		t.Run(r.Op, func(t *testing.T) {
			if !r.Pass {
				t.Error(r.Failure)
			}
			t.Logf("%d cases, largest error %.2g of what is tolerated", r.Cases, r.MaxError)
		})
	}
	t.Run("gradients", func(t *testing.T) { gradients(t, dev) })
	t.Run("together", func(t *testing.T) { together(t, dev) })
	t.Run("ownership", func(t *testing.T) { ownership(t, open) })
	t.Run("placed", func(t *testing.T) { placed(t, dev) })
	t.Run("no numbers", func(t *testing.T) { noNumbers(t, dev) })
	t.Run("watched", func(t *testing.T) { watched(t, dev) })
	t.Run("refusals", func(t *testing.T) { refusals(t, dev) })
	if n := dev.Live(); n != 0 {
		t.Errorf("%d things are still alive on the device", n)
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
}
