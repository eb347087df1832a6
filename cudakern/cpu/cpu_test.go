//go:build cgo

package cpu

import (
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/kerntest"
)

func open(t testing.TB) cudakern.Device {
	t.Helper()
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConformance(t *testing.T) { kerntest.RunAll(t, open) }

// TestGuards writes past both ends of a buffer, as a wrong kernel would.
func TestGuards(t *testing.T) {
	d := open(t)
	for _, at := range []int{-1, 40} {
		buf, err := d.AllocBytes(40)
		if err != nil {
			t.Fatal(err)
		}
		b := buf.(*buffer)
		before, behind := b.guards()
		cell := &behind[0]
		if at < 0 {
			cell = &before[len(before)-1]
		}
		*cell ^= 1
		if b.Intact() == nil {
			t.Errorf("a write at %d of 40 bytes is not noticed", at)
		}
		*cell ^= 1
		b.Free()
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestCloseCountsWhatIsAlive(t *testing.T) {
	d := open(t)
	b, err := d.AllocBytes(4)
	if err != nil {
		t.Fatal(err)
	}
	if d.Close() == nil {
		t.Error("a device closes although a buffer is in use")
	}
	b.Free()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
