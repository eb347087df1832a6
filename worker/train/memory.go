package train

import (
	"fmt"

	"colonnade/cudakern"
)

// Memory is where a cell's state lies, if not in memory of the device's own: two halves that outlive the cell, and
// perhaps the process, and for each the step whose state it holds.
type Memory interface {
	// Half is the memory of half i, 0 or 1, aligned to a page.
	Half(i int) []byte
	// Begin says that half i is about to be written and holds no step from here on.
	Begin(i int)
	// Finish says that half i holds the whole state after `step` finished steps; that is half step mod 2.
	Finish(i int, step uint64)
	// Holds says whether a half holds a step.
	Holds(step uint64) bool
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
func (unwatched) Holds(uint64) bool  { return false }

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
	l.Bytes = (l.Bytes + 7) / 8 * 8
	l.Tail = l.Bytes
	l.Bytes += c.watch.past.bytes()
	l.Bytes = (l.Bytes + memoryPage - 1) / memoryPage * memoryPage
	return l, nil
}

// place gives every parameter its two halves: in memory of the host's choice, if there is a choice, else in the
// device's.
func (c *Cell) place(choose func(MemoryLayout) (Memory, error)) error {
	c.mem = unwatched{}
	placer, ok := c.dev.(cudakern.Placer)
	if choose == nil || !ok {
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
		return nil
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
	if !c.mem.Holds(step) {
		return fmt.Errorf("cell %s: its memory does not hold step %d", c.id, step)
	}
	c.step, c.owed = step, owed
	c.watch.past.decode(c.tail(int(step % 2)))
	c.copies.soon = true // no checkpoint has the step
	return c.remember(c.recorded)
}
