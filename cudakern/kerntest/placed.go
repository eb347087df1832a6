package kerntest

import (
	"errors"
	"slices"
	"testing"
	"unsafe"

	"colonnade/cudakern"
)

// placed holds devices that put buffers into the caller's memory (cudakern.Placer) to what they promise: contents stay
// over Free and a second AllocAt, guards lie around them, and memory that does not fit is refused. Others are passed.
func placed(t testing.TB, dev cudakern.Device) {
	p, ok := dev.(cudakern.Placer)
	if !ok {
		return
	}
	st, err := dev.NewStream()
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	conv, err := dev.NewConv(cudakern.ConvDesc{N: 2, In: 16, H: 8, W: 8, Out: 32, OutH: 8, OutW: 8, Kernel: 3, Stride: 1,
		Pad: cudakern.Pad{Top: 1, Left: 1, Bottom: 1, Right: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer conv.Close()
	_, weights, _ := conv.Layouts()
	for _, c := range []struct {
		shape  cudakern.Shape
		layout cudakern.Layout
	}{{cudakern.Shape{7}, cudakern.Plain}, {cudakern.Shape{3, 5}, cudakern.Plain},
		{cudakern.Shape{32, 16, 3, 3}, weights}} {
		if err := placedBuffer(dev, p, st, c.shape, c.layout); err != nil {
			t.Errorf("%v %s: %v", c.shape, c.layout, err)
		}
	}
}

func placedBuffer(dev cudakern.Device, p cudakern.Placer, st cudakern.Stream, s cudakern.Shape,
	l cudakern.Layout) error {
	room, err := p.Room(s, l)
	if err != nil {
		return err
	}
	host, err := dev.AllocHost(room + 2*cudakern.PlaceAlign)
	if err != nil {
		return err
	}
	defer host.Free()
	memory := host.Bytes()
	past := int(uintptr(unsafe.Pointer(unsafe.SliceData(memory))) % cudakern.PlaceAlign)
	memory = memory[(cudakern.PlaceAlign-past)%cudakern.PlaceAlign:]
	if _, err := p.AllocAt(s, l, memory); !errors.Is(err, cudakern.ErrShape) {
		return errors.New("memory of another size is taken")
	}
	if _, err := p.AllocAt(s, l, memory[1:][:room]); !errors.Is(err, cudakern.ErrShape) {
		return errors.New("memory that is not aligned is taken")
	}
	memory = memory[:room:room]
	values := draw(5, s.Len())
	for round := range 2 {
		before := dev.Live()
		b, err := p.AllocAt(s, l, memory)
		if err != nil {
			return err
		}
		if dev.Live() != before+1 || b.Layout() != l || !slices.Equal(b.Shape(), s) || b.Bytes() > room {
			return errors.New("the buffer is not what was asked for")
		}
		got := make([]float32, s.Len())
		if round == 0 {
			err = dev.Upload(st, b, values)
		}
		if err = errors.Join(err, dev.Download(st, got, b), st.Sync()); err != nil {
			return err
		}
		if !slices.Equal(got, values) {
			return errors.New("the values that were there are gone")
		}
		if round == 1 {
			if err := trespass(b, memory); err != nil {
				return err
			}
		}
		b.Free()
		if dev.Live() != before {
			return errors.New("a buffer that was freed still counts")
		}
	}
	return nil
}

// trespass writes on both sides of the buffer and wants that noticed.
func trespass(b cudakern.Buffer, memory []byte) error {
	g, ok := b.(cudakern.Guarded)
	if !ok {
		return errors.New("no guards around it")
	}
	for _, at := range []int{0, len(memory) - 1} {
		for memory[at] == 0 && at > 0 { // alignment behind the guard
			at--
		}
		memory[at]++
		if g.Intact() == nil {
			return errors.New("a write past its ends is not noticed")
		}
		memory[at]--
		if err := g.Intact(); err != nil {
			return err
		}
	}
	return nil
}
