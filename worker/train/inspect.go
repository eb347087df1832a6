package train

import (
	"fmt"

	"colonnade/cudakern"
)

// What Inspect calls what it shows, besides a parameter's own name.
const (
	InspectInput    = "input"
	InspectGradient = ".gradient"
	InspectMomentum = momentumSuffix
)

// Inspect shows what the step that has just ended left behind, tensor by tensor in plain layout: the images as the
// network got them (N x C x H x W), and of every parameter, in canonical order, the gradient that it was updated by, of
// the mean loss over the whole batch, and value and momentum behind the update. Values are only borrowed. It may be
// called between steps only, by what Measure calls behind each of them; it changes nothing. A frozen parameter has no
// gradient: what is shown of it is that of some earlier step.
func (c *Cell) Inspect(show func(name string, shape []int, values []float32) error) error {
	var host []float32
	one := func(name string, shape []int, buf cudakern.Buffer) error {
		n := cudakern.Shape(shape).Len()
		if n > len(host) {
			host = make([]float32, n)
		}
		if err := c.dev.Download(c.st, host[:n], buf); err != nil {
			return fmt.Errorf("cell %s: read %s: %w", c.id, name, err)
		}
		return show(name, shape, host[:n])
	}
	if err := one(InspectInput, c.b.in.seen.Shape(), c.b.in.seen); err != nil {
		return err
	}
	half := c.step % 2
	for _, p := range c.params {
		for _, t := range []struct {
			what string
			buf  cudakern.Buffer
		}{{InspectGradient, p.grad}, {"", p.w[half]}, {InspectMomentum, p.v[half]}} {
			if err := one(p.Name+t.what, p.Shape, t.buf); err != nil {
				return err
			}
		}
	}
	return nil
}
