package kerntest

import (
	"fmt"
	"sync"
	"testing"

	"colonnade/cudakern"
)

// ownership wants memory that is given back twice to be noticed, and a device with something alive not to close.
func ownership(t testing.TB, open func(testing.TB) cudakern.Device) {
	dev := open(t)
	b, err := dev.Alloc(cudakern.Shape{3, 5}, cudakern.Plain)
	if err != nil {
		t.Fatal(err)
	}
	if dev.Live() != 1 {
		t.Errorf("one buffer, %d things alive", dev.Live())
	}
	if err := dev.Close(); err == nil {
		t.Error("the device closes although a buffer is in use")
	}
	b.Free()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a buffer is freed twice, and nothing says so")
			}
		}()
		b.Free()
	}()
	if dev.Live() != 0 {
		t.Errorf("nothing is in use, %d things alive", dev.Live())
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
}

// together runs cases on several streams at once: what the device does elsewhere must not reach a result.
func together(t testing.TB, dev cudakern.Device) {
	var cases []test
	taken := map[string]int{}
	for _, c := range tests() {
		if taken[c.op] < 3 {
			taken[c.op]++
			cases = append(cases, c)
		}
	}
	alone := make([][]result, len(cases))
	for i, c := range cases {
		var err error
		if alone[i], err = c.runOn(dev); err != nil {
			t.Errorf("%s: %s: %v", c.op, c.name, err)
			return
		}
	}
	const lanes = 4
	var wait sync.WaitGroup
	wrong := make([]error, lanes)
	for lane := range lanes {
		wait.Go(func() {
			for i := range cases {
				at := (i + lane*len(cases)/lanes) % len(cases) // different ops meet
				if err := cases[at].again(dev, alone[at]); err != nil {
					wrong[lane] = fmt.Errorf("%s: %s: %w", cases[at].op, cases[at].name, err)
					return
				}
			}
		})
	}
	wait.Wait()
	for _, err := range wrong {
		if err != nil {
			t.Errorf("with other streams at work: %v", err)
		}
	}
}

// again runs the case while others may run and wants the same bits.
func (t test) again(dev cudakern.Device, want []result) error {
	got, err := t.pass(dev)
	if err != nil {
		return err
	}
	for i := range want {
		if at := got[i].differs(want[i]); at >= 0 {
			return fmt.Errorf("%s: element %d has other bits than alone", want[i].name, at)
		}
	}
	return nil
}
