package train

import (
	"context"
	"fmt"
	"time"
)

// phase is one named piece of a step.
type phase struct {
	label
	run  func(*pass) error
	kind Kind
	macs int64 // multiply-adds by the definition, over the slice of the batch; 0 but for products
}

// label names a phase.
type label struct {
	name string // as the cell has it, "conv3 block 1"; not always unique in a step
	op   string // as every column has it, "conv3 other blocks"
}

// same is the label of a phase that has one name in all columns.
func same(name string) label { return label{name, name} }

// with adds words to both names.
func (l label) with(words string) label { return label{l.name + words, l.op + words} }

// Kind is what a phase does.
type Kind string

// The kinds of phase.
const (
	Forward Kind = "forward" // computes a layer's output
	Data    Kind = "data"    // computes the gradient of the loss by a layer's input
	Weights Kind = "weights" // computes the gradient by a layer's weights
	Wait    Kind = "wait"    // waits for other cells
	Other   Kind = "other"   // input, sends, the loss's value, update
)

// pass is what the phases of one run through the network need to know.
type pass struct {
	ctx   context.Context
	train bool
	step  uint64 // steps finished before this one
	half  int    // half of the state that holds the weights
	valid int    // images of the batch that count
	tag   uint32 // base of the exchange ids of this pass
}

// clock is the only time the trainer knows; it reaches reports, never a weight.
type clock func() time.Time

// timing adds up how long phases took since it was last read.
type timing struct {
	names   []string
	seconds []float64
	index   map[string]int
	steps   int
}

func newTiming() *timing { return &timing{index: map[string]int{}} }

func (t *timing) add(name string, d time.Duration) {
	i, ok := t.index[name]
	if !ok {
		i = len(t.names)
		t.index[name] = i
		t.names = append(t.names, name)
		t.seconds = append(t.seconds, 0)
	}
	t.seconds[i] += d.Seconds()
}

// usual keeps how long each phase usually takes: an estimate of the median that one number carries. It goes a tenth
// up or down with every time that is above or below it, so that one that stands out hardly moves it.
type usual map[string]float64

const usualStep = 1.1

// add takes one more time into account.
func (u usual) add(name string, d time.Duration) {
	now, ok := u[name]
	switch s := d.Seconds(); {
	case !ok:
		u[name] = max(s, 1e-9) // a phase may be too short for the clock
	case s > now:
		u[name] = now * usualStep
	default:
		u[name] = max(now/usualStep, 1e-9)
	}
}

// mean returns the mean seconds of every phase over the steps counted, and starts again.
func (t *timing) mean() map[string]float64 {
	out := make(map[string]float64, len(t.names))
	for i, n := range t.names {
		out[n] = t.seconds[i] / float64(max(t.steps, 1))
		t.seconds[i] = 0
	}
	t.steps = 0
	return out
}

// runPhases runs phases in order; what goes wrong is named by its phase. A phase's time begins where the one before
// ends, so that no time between two is lost.
func (c *Cell) runPhases(p *pass, phases []phase) error {
	start := c.now()
	busy := 0.0
	for i := range phases {
		ph := &phases[i]
		if err := p.ctx.Err(); err != nil {
			return context.Cause(p.ctx)
		}
		name := ph.name
		if !p.train {
			name = "evaluate: " + name
		}
		c.status.enter(name, ph.kind, start, c.usual[name])
		if err := ph.run(p); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		end := c.now()
		c.usual.add(name, end.Sub(start))
		if ph.kind != Wait {
			busy += end.Sub(start).Seconds()
		}
		if p.train { // the means are those of a step
			c.timing.add(name, end.Sub(start))
			if c.timed != nil {
				c.timed(ph, end.Sub(start))
			}
			c.trace.phase(name, ph.kind, start, end)
		}
		start = end
	}
	if p.train {
		c.status.worked(busy)
	}
	return nil
}
