package train

import (
	"context"
	"fmt"

	"colonnade/worker/data"
)

// SetWeights gives the cell its state before the first step: values, by parameter in canonical order, as weights and
// biases; where there are none (nil) those that Initialise would give; momentum zero. Values are copied.
func (c *Cell) SetWeights(values [][]float32) error {
	if err := c.saver.room(); err != nil {
		return fmt.Errorf("cell %s: %w", c.id, err)
	}
	if len(values) != len(c.params) {
		return fmt.Errorf("cell %s: values of %d parameters, it has %d", c.id, len(values), len(c.params))
	}
	s := c.saver.snap
	c.initial(s)
	for i, v := range values {
		if v == nil {
			continue
		}
		if len(v) != len(s.tensors[2*i].Data) {
			return fmt.Errorf("cell %s: %d values of %s, it has %d", c.id, len(v), s.tensors[2*i].Name, len(s.tensors[2*i].Data))
		}
		copy(s.tensors[2*i].Data, v)
	}
	return c.put(s)
}

// Predict runs one batch through the network as at the test and writes the logits, images x classes, into dst; a column
// that has no part in the softmax writes nothing. All columns must be at it at once, with the same batch; index tells
// one batch from the next and begins at 0. The state stays as it is.
func (c *Cell) Predict(ctx context.Context, index int, batch data.Batch, dst []float32) error {
	return c.inRun(ctx, func(ctx context.Context) error {
		p := &pass{ctx: ctx, step: c.step, half: int(c.step % 2), tag: evalTag | uint32(index)<<evalShift}
		whole := []phase{{label: same("images"), kind: Other, run: func(p *pass) error {
			if err := c.b.begin(); err != nil {
				return err
			}
			return c.b.in.fetch(p, batch)
		}}}
		whole = append(whole, c.b.forward...)
		whole = append(whole, phase{label: same("logits"), kind: Other, run: func(p *pass) error {
			if c.b.out == nil {
				return nil
			}
			if err := c.b.dev.Download(c.b.st, dst, c.b.out.logits); err != nil {
				return fmt.Errorf("read logits: %w", err)
			}
			return c.b.st.Sync()
		}})
		return c.runPhases(p, whole)
	})
}

// HiddenUnits is how many units of the last hidden layer, which the last dense layer works on, are this column's; 0
// where there is none.
func (c *Cell) HiddenUnits() int {
	if c.b.hidden == nil {
		return 0
	}
	return c.b.hidden.buf.Shape().Len() / c.b.batch
}

// Hidden reads the column's part of the last hidden layer, images x HiddenUnits, as the last Predict left it: behind
// its dropout, as at the test. Nothing else may be done with the cell meanwhile.
func (c *Cell) Hidden(dst []float32) error {
	if err := c.b.dev.Download(c.b.st, dst, c.b.hidden.buf); err != nil {
		return fmt.Errorf("cell %s: read the last hidden layer: %w", c.id, err)
	}
	return nil
}
