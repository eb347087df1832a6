package train

import (
	"context"
	"fmt"
)

// timingSteps is how many steps a report of phase times covers; the first report of a run covers its first step.
const timingSteps = 20

// oneStep does one training step and says whether any cell asked to stop after it.
func (c *Cell) oneStep(ctx context.Context) (stop bool, err error) {
	p := &pass{ctx: ctx, train: true, step: c.step, half: int(c.step % 2)}
	var score Score
	var all verdict
	whole := []phase{
		{label: same("data"), kind: Other, run: func(p *pass) error {
			if err := c.b.begin(); err != nil {
				return err
			}
			return c.b.in.train(p)
		}},
	}
	whole = append(whole, c.b.forward...)
	// The guard stands here, not before the update: the columns have just waited for each other's logits, so that it
	// costs nothing, and at the end of a step it would be one more place where the faster one waits.
	whole = append(whole, c.lossPhase(&score),
		phase{label: same("guard"), kind: Wait, run: func(p *pass) (err error) {
			all, err = c.guard(p, guardTag, verdict{finite: finite(score.Loss), stop: c.stop.Load(), loss: score.Loss,
				copies: c.copies.progress()})
			if err == nil && !all.finite {
				// Whoever leaves breaks links: nobody does before all know why, however far this gets.
				_, _ = c.guard(p, knownTag, all)
				err = fmt.Errorf("loss is not a finite number in step %d (this cell's: %g): %w; lower recipe.rate",
					p.step+1, score.Loss, ErrDiverged)
			}
			return err
		}})
	whole = append(whole, c.backward...)
	if r := c.b.reducer; r != nil {
		whole = append(whole, phase{label: same("wait for gradients of replicas"), kind: Wait, run: r.wait})
	}
	whole = append(whole, phase{label: same("update"), kind: Other, run: c.update})
	if err := c.runPhases(p, whole); err != nil {
		return false, err
	}
	c.step++
	c.copies.due(c.step, all.copies)
	loss := all.loss / float64(c.b.whole)
	c.epochLoss += loss
	c.epochSteps++
	c.timing.steps++
	seconds := c.status.finished(c.now(), c.step, c.b.whole, loss)
	c.log.Debug("step", "cell", c.id, "step", c.step, "seconds", seconds, "loss", loss)
	if c.timing.steps == timingSteps || !c.reported {
		c.status.phases(c.timing.mean())
		c.reported = true
	}
	return all.stop, nil
}

// lossPhase reads what a pass came to into score.
func (c *Cell) lossPhase(score *Score) phase {
	return phase{label: same("loss"), kind: Other, run: func(p *pass) (err error) { *score, err = c.score(p); return err }}
}

// score reads the pass's losses, in cells that hold the softmax.
func (c *Cell) score(p *pass) (Score, error) {
	if c.b.out == nil {
		return Score{}, nil
	}
	return c.b.out.score(p.valid)
}

// update is the paper's rule (section 5), from this step's half of the state to the other. A frozen parameter goes over
// as it is, without momentum: there may be no gradient of it, so something finite stands in.
func (c *Cell) update(p *pass) error {
	c.mem.Begin(1 - p.half)
	for _, q := range c.params {
		u, momentum, grad := c.job.UpdateAt(p.step, q.Param, c.history), float32(c.job.Recipe.Momentum), q.grad
		if u.Frozen {
			momentum, grad = 0, q.w[p.half]
		}
		err := q.sgd.Update(c.st, q.w[p.half], q.v[p.half], grad, q.w[1-p.half], q.v[1-p.half],
			momentum, float32(u.Rate), float32(u.Decay))
		if err != nil {
			return fmt.Errorf("%s: %w", q.Name, err)
		}
	}
	if p.step+1 < c.job.Steps() {
		if err := c.b.in.prepare(p.step + 1); err != nil {
			return fmt.Errorf("next batch: %w", err)
		}
	}
	if err := c.st.Sync(); err != nil {
		return err
	}
	c.mem.Finish(1-p.half, p.step+1)
	return nil
}
