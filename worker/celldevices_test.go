package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"colonnade/cudakern"
	"colonnade/proto/clusterpb"
	"colonnade/shard/job"
	"colonnade/worker/exchange"
)

// TestShare: shares differ by one at most, add up where there is one for each, and are never none.
func TestShare(t *testing.T) {
	for _, c := range []struct {
		threads int
		want    []int
	}{{1, []int{1}}, {4, []int{4}}, {4, []int{2, 2}}, {3, []int{1, 2}}, {8, []int{2, 3, 3}}, {2, []int{1, 1, 1}},
		{1, []int{1, 1, 1, 1}}, {maxThreads, []int{2048, 2048}}} {
		var got []int
		for i := range c.want {
			got = append(got, share(c.threads, i, len(c.want)))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d threads for %d cells: %v, want %v", c.threads, len(c.want), got, c.want)
		}
	}
	for threads := 1; threads < 40; threads++ {
		for n := 1; n <= threads; n++ {
			sum, least, most := 0, threads, 0
			for i := range n {
				s := share(threads, i, n)
				sum, least, most = sum+s, min(least, s), max(most, s)
			}
			if sum != threads || most-least > 1 {
				t.Errorf("%d threads for %d cells: %d in all, between %d and %d", threads, n, sum, least, most)
			}
		}
	}
}

func TestCores(t *testing.T) {
	if n := cores(); n < 1 || checkThreads(n) != nil {
		t.Errorf("%d cores", n)
	}
}

// TestEachCellHasADevice gives a worker of three threads two cells, in an order of the coordinator's choice.
func TestEachCellHasADevice(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	h := startHost(t, "h")
	h.threads = 3
	a := assign(j, 1, h, h, h)
	slices.Reverse(a.Cells)
	h.Assign(a)
	h.next(finished)
	h.next(finished)
	h.idle()
	if n := len(h.opened()); n != 2 {
		t.Errorf("%d devices were opened for 2 cells", n)
	}
	for _, d := range h.opened() {
		if !d.closed.Load() || d.with.Direct {
			t.Errorf("device opened with %+v, closed: %v", d.with, d.closed.Load())
		}
	}
	if slices.ContainsFunc(h.seen, failed) {
		t.Errorf("reports %v", h.seen)
	}

	devices, err := h.openDevices(a, false)
	if err != nil {
		t.Fatal(err)
	}
	for column, want := range []int{1, 2} { // r0c0 is the first, though it came last
		d := devices[exchange.Cell{Column: column}].(*openedDevice)
		if d.with.Threads != want || d.closed.Load() {
			t.Errorf("cell of column %d has %d threads, want %d; closed: %v", column, d.with.Threads, want, d.closed.Load())
		}
	}
	if err := devices.close(); err != nil {
		t.Error(err)
	}
}

// TestAJobWithoutWinograd opens devices as the job wants them, and everything says under which numerics it runs.
func TestAJobWithoutWinograd(t *testing.T) {
	j := makeJob(t, makePack(t, 16), func(j *job.Job) { j.Winograd = job.WinogradOff })
	const numerics = "ref/1/float64/direct"
	a, b := trained(t, j)
	m := manifest(j, 3, true, a, b)
	m.Numerics = numerics
	for _, h := range []*testHost{a, b} {
		for _, r := range h.seen {
			if w := r.GetCheckpoint(); w != nil && w.Numerics != numerics {
				t.Errorf("worker %s reports a checkpoint under %s", h.worker, w.Numerics)
			}
		}
		for _, d := range h.opened() {
			if !d.with.Direct {
				t.Errorf("worker %s opened a device with %+v", h.worker, d.with)
			}
		}
	}
	one := startHost(t, "one") // goes on from the middle, where the files say what they were computed with
	as := assign(j, 2, one, one, one)
	as.Restore = []*clusterpb.Manifest{m}
	one.Assign(as)
	one.next(finished)
	one.next(finished)
	if got, want := digests(one), digests(a, b); len(want) != 2 || !maps.Equal(got, want) {
		t.Errorf("resumed on one worker: %v, on two: %v", got, want)
	}

	// One that was told another job of the same name and generation does not train with this one.
	on := makeJob(t, j.Train.Path, nil)
	c, d := startHost(t, "c"), startHost(t, "d")
	c.Assign(assign(j, 1, c, c, d))
	d.Assign(assign(on, 1, d, c, d))
	var first *clusterpb.Report // from the one that is refused first; the other waits until the coordinator knows better
	select {
	case first = <-c.reports:
	case first = <-d.reports:
	case <-time.After(time.Minute):
	}
	if f := first.GetFailed(); !strings.Contains(f.GetReason(), "numerics differ") {
		t.Errorf("reported %v", first)
	}
}

// leaky is a device that finds something alive in the end.
type leaky struct{ cudakern.Device }

func (d leaky) Close() error {
	return errors.Join(d.Device.Close(), errors.New("1 thing is still in use"))
}

// TestDevicesThatCannotBeOpenedOrClosed: what was opened is closed, and the reason is told in a line.
func TestDevicesThatCannotBeOpenedOrClosed(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	for name, c := range map[string]struct {
		open      func(open func(cudakern.Settings) (cudakern.Device, error), n int) (cudakern.Device, error)
		opened    int
		permanent bool
		says      []string
	}{
		"one that cannot be opened": {func(open func(cudakern.Settings) (cudakern.Device, error), n int) (cudakern.Device,
			error) {
			if n == 1 {
				return nil, errors.New("the bus is on fire")
			}
			return open(cudakern.Settings{})
		}, 1, false, []string{"cell r0c1", "the bus is on fire"}},
		"one that never can": {func(open func(cudakern.Settings) (cudakern.Device, error), n int) (cudakern.Device, error) {
			return nil, fmt.Errorf("no vectors: %w", cudakern.ErrUnsupported)
		}, 0, true, []string{"cell r0c0", "no vectors"}},
		"two that leak": {func(open func(cudakern.Settings) (cudakern.Device, error), n int) (cudakern.Device, error) {
			d, err := open(cudakern.Settings{})
			return leaky{d}, err
		}, 2, false, []string{"cell r0c0: 1 thing is still in use; and cell r0c1: 1 thing"}},
		"two that leak and fail": {func(open func(cudakern.Settings) (cudakern.Device, error), n int) (cudakern.Device,
			error) {
			d, err := open(cudakern.Settings{})
			return leaky{noUpdates{d}}, err
		}, 2, true, []string{"update", "; and cell r0c0: 1 thing is still in use; and cell r0c1"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := startHost(t, "h")
			open, n := h.open, -1
			h.open = func(cudakern.Settings) (cudakern.Device, error) {
				n++
				return c.open(open, n)
			}
			h.Assign(assign(j, 1, h, h, h))
			f := h.next(failed).GetFailed()
			for _, s := range c.says {
				if !strings.Contains(f.Reason, s) {
					t.Errorf("%q does not say %q", f.Reason, s)
				}
			}
			if f.Permanent != c.permanent || strings.Contains(f.Reason, "\n") {
				t.Errorf("reported %v", f)
			}
			if n := len(h.opened()); n != c.opened {
				t.Errorf("%d devices were opened, want %d", n, c.opened)
			}
		})
	}
}

// TestDescribe closes what it has looked at, and passes errors on.
func TestDescribe(t *testing.T) {
	h := startHost(t, "h")
	d, err := describe(h.open, 5)
	if err != nil || d.Name != "ref" || d.Numerics != "ref/1/float64" || d.DirectNumerics != "ref/1/float64/direct" ||
		d.Threads != 5 {
		t.Errorf("%v, %v", d, err)
	}
	d, err = describe(func(s cudakern.Settings) (cudakern.Device, error) {
		if s.Direct {
			return nil, fmt.Errorf("only by Winograd's: %w", cudakern.ErrUnsupported)
		}
		return h.open(s)
	}, 5)
	if err != nil || d.Numerics != "ref/1/float64" || d.DirectNumerics != "" {
		t.Errorf("%v, %v", d, err)
	}
	for _, o := range h.opened() {
		if !o.closed.Load() || o.with.Threads != 5 {
			t.Errorf("opened with %+v, closed: %v", o.with, o.closed.Load())
		}
	}
	absent := errors.New("no such bus")
	d, err = describe(func(cudakern.Settings) (cudakern.Device, error) { return nil, absent }, 1)
	if !errors.Is(err, absent) {
		t.Errorf("%v, %v", d, err)
	}
	d, err = describe(func(s cudakern.Settings) (cudakern.Device, error) {
		o, err := h.open(s)
		return leaky{o}, err
	}, 1)
	if err == nil || !strings.Contains(err.Error(), "still in use") {
		t.Errorf("%v, %v", d, err)
	}
}

// noUpdates is a device that cannot make what every cell needs.
type noUpdates struct{ cudakern.Device }

func (noUpdates) NewSGD(cudakern.SGDDesc) (cudakern.SGD, error) {
	return nil, fmt.Errorf("update: %w", cudakern.ErrUnsupported)
}

func TestADeviceThatCannotIsAPermanentFailure(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	h := startHost(t, "h")
	open := h.open
	h.open = func(s cudakern.Settings) (cudakern.Device, error) {
		d, err := open(s)
		return noUpdates{d}, err
	}
	h.Assign(assign(j, 1, h, h, h))
	if f := h.next(failed).GetFailed(); !f.Permanent || !strings.Contains(f.Reason, "build") {
		t.Errorf("reported %v", f)
	}
}
