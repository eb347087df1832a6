package train

import (
	"fmt"

	"colonnade/cudakern"
)

// Memory is where a cell's state lies, if not in memory of the device's own, or is written down now and then: two
// halves that outlive the cell, and perhaps the process, and for each the step whose state it holds.
type Memory interface {
	// Half is the memory of half i, 0 or 1, aligned to a page.
	Half(i int) []byte
	// Begin says that half i is about to be written and holds no step from here on.
	Begin(i int)
	// Finish says that half i holds the whole state after `step` finished steps.
	Finish(i int, step uint64)
	// HalfOf is the half that holds a step; -1: neither. A cell that works in the memory has step s in half s mod 2.
	HalfOf(step uint64) int
}

// MemoryLayout says what lies in each half of a cell's memory.
type MemoryLayout struct {
	Parts []MemoryPart
	Tail  int // where what else belongs to a step begins, behind the parts
	Bytes int // of a half, in whole pages
}

// MemoryPart is one tensor in a half: a parameter's value or momentum, in the device's layout and between its guards.
type MemoryPart struct {
	Name          string
	Shape         []int
	Layout        string
	Offset, Bytes int
}

const memoryPage = 4096

// unwatched stands in for Memory where the device has the state: nobody else sees its steps.
type unwatched struct{}

func (unwatched) Half(int) []byte    { return nil }
func (unwatched) Begin(int)          {}
func (unwatched) Finish(int, uint64) {}
func (unwatched) HalfOf(uint64) int  { return -1 }

// memoryLayout is how the parameters' values and momentum lie in a half, in canonical order.
func (c *Cell) memoryLayout(placer cudakern.Placer) (MemoryLayout, error) {
	var l MemoryLayout
	for _, p := range c.params {
		for _, name := range []string{p.Name, p.Name + momentumSuffix} {
			room, err := placer.Room(p.Shape, p.grad.Layout())
			if err != nil {
				return l, fmt.Errorf("room for %s: %w", name, err)
			}
			l.Parts = append(l.Parts, MemoryPart{Name: name, Shape: p.Shape, Layout: string(p.grad.Layout()), Offset: l.Bytes,
				Bytes: room})
			l.Bytes += room
		}
	}
	l.end(c.watch.past.bytes())
	return l, nil
}

// end adds room for what else belongs to a step behind the parts, up to a whole page.
func (l *MemoryLayout) end(tail int) {
	l.Tail = (l.Bytes + 7) / 8 * 8
	l.Bytes = (l.Tail + tail + memoryPage - 1) / memoryPage * memoryPage
}

// place gives every parameter its two halves: in memory of the host's choice, if there is a choice, else in the
// device's.
func (c *Cell) place(cfg Config) error {
	c.mem = unwatched{}
	choose := cfg.Memory
	placer, ok := c.dev.(cudakern.Placer)
	if choose == nil || !ok { // the state is the device's
		for _, p := range c.params {
			for h := range p.w {
				for _, b := range []*cudakern.Buffer{&p.w[h], &p.v[h]} {
					var err error
					if *b, err = c.b.alloc(p.Shape, p.grad.Layout()); err != nil {
						return fmt.Errorf("allocate %s: %w", p.Name, err)
					}
				}
			}
		}
		if choose == nil || cfg.Copy == nil || cfg.Job.CopyEvery() == 0 {
			return nil
		}
		var err error
		c.mirror, err = c.newMirror(choose)
		return err
	}
	layout, err := c.memoryLayout(placer)
	if err != nil {
		return err
	}
	c.layout = layout
	if c.mem, err = choose(layout); err != nil {
		c.mem = unwatched{}
		return err
	}
	for h := range 2 {
		half := c.mem.Half(h)
		for i, part := range layout.Parts {
			p := c.params[i/2]
			b := &p.w[h]
			if i%2 == 1 {
				b = &p.v[h]
			}
			*b, err = placer.AllocAt(p.Shape, p.grad.Layout(), half[part.Offset:part.Offset+part.Bytes:part.Offset+part.Bytes])
			if err != nil {
				return fmt.Errorf("place %s: %w", part.Name, err)
			}
			c.b.buffers = append(c.b.buffers, *b)
		}
	}
	return nil
}

// tail is where a half keeps the history; empty where nobody else sees the steps.
func (c *Cell) tail(half int) []byte {
	b := c.mem.Half(half)
	return b[min(c.layout.Tail, len(b)):]
}

// Owed is what is still to be done between the step a cell goes on from and the next: with a checkpoint it was done
// before the file was written, with memory it may have been cut off. All cells of the job owe the same.
type Owed struct{ Evaluation, Checkpoint bool }

// Resume goes on from what the cell's memory holds of a step.
func (c *Cell) Resume(step uint64, owed Owed) error {
	if c.mirror != nil {
		if err := c.mirror.read(step); err != nil {
			return fmt.Errorf("cell %s: %w", c.id, err)
		}
	} else if half := int(step % 2); c.mem.HalfOf(step) == half {
		c.watch.past.decode(c.tail(half))
	} else {
		return fmt.Errorf("cell %s: its memory does not hold step %d", c.id, step)
	}
	c.step, c.owed = step, owed
	c.copies.soon = true // no checkpoint has the step
	return c.remember(c.recorded)
}
