package train

import (
	"fmt"
	"unsafe"
)

// mirror is memory of the host for a cell whose state lies in a device's own: it is written there whenever copies are
// due, into the halves in turn, so that the one before stays until all cells have the next.
type mirror struct {
	Memory
	c      *Cell
	layout MemoryLayout
	last   int // the half that was written last
}

// hostLayout names the order of floats in a mirror: that of checkpoints.
const hostLayout = "host"

// newMirror finds memory for the state as checkpoints have it, and for the history behind it.
func (c *Cell) newMirror(choose func(MemoryLayout) (Memory, error)) (*mirror, error) {
	const number = 4
	var l MemoryLayout
	for _, p := range c.params {
		for _, name := range []string{p.Name, p.Name + momentumSuffix} {
			l.Parts = append(l.Parts, MemoryPart{Name: name, Shape: p.Shape, Layout: hostLayout, Offset: l.Bytes,
				Bytes: number * p.Len()})
			l.Bytes += number * p.Len()
		}
	}
	l.end(c.watch.past.bytes())
	m, err := choose(l)
	if err != nil {
		return nil, err
	}
	return &mirror{Memory: m, c: c, layout: l, last: 1}, nil
}

// each calls f with the floats of every parameter's value and momentum in a half, in canonical order.
func (m *mirror) each(half int, f func(p *param, momentum bool, floats []float32) error) error {
	memory := m.Half(half)
	for i, part := range m.layout.Parts {
		p := m.c.params[i/2]
		floats := unsafe.Slice((*float32)(unsafe.Pointer(&memory[part.Offset])), p.Len())
		if err := f(p, i%2 == 1, floats); err != nil {
			return fmt.Errorf("%s: %w", part.Name, err)
		}
	}
	return nil
}

// write writes the state after `step` finished steps down. The cell waits for it.
func (m *mirror) write(step uint64) error {
	half, on := 1-m.last, int(step%2)
	m.c.enter("copy to the host")
	m.Begin(half)
	err := m.each(half, func(p *param, momentum bool, floats []float32) error {
		b := p.w[on]
		if momentum {
			b = p.v[on]
		}
		return m.c.dev.Download(m.c.st, floats, b)
	})
	if err != nil {
		return fmt.Errorf("copy the state of step %d to the host: %w", step, err)
	}
	last := m.layout.Parts[len(m.layout.Parts)-1]
	if err := m.c.soundCopy(m.Half(half)[:last.Offset+last.Bytes], step); err != nil {
		return err
	}
	m.c.watch.past.encode(m.Half(half)[m.layout.Tail:])
	m.Finish(half, step)
	m.last = half
	return nil
}

// read makes what the memory holds of a step the cell's state.
func (m *mirror) read(step uint64) error {
	half, on := m.HalfOf(step), int(step%2)
	if half < 0 {
		return fmt.Errorf("the host's memory does not hold step %d", step)
	}
	err := m.each(half, func(p *param, momentum bool, floats []float32) error {
		b := p.w[on]
		if momentum {
			b = p.v[on]
		}
		return m.c.dev.Upload(m.c.st, b, floats)
	})
	if err == nil {
		err = m.c.st.Sync()
	}
	if err != nil {
		return fmt.Errorf("copy the state of step %d to the device: %w", step, err)
	}
	m.c.watch.past.decode(m.Half(half)[m.layout.Tail:])
	m.last = half
	return nil
}
