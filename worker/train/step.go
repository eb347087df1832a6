package train

import (
	"context"
	"fmt"

	"colonnade/cudakern"
)

// timingSteps is how many steps a report of phase times covers; the first report of a run covers its first step.
const timingSteps = 20

// oneStep does one training step and says whether any cell asked to stop after it. What is due behind the step before,
// and has waited for the other columns' word on its update, is done when that is there.
func (c *Cell) oneStep(ctx context.Context) (stop bool, err error) {
	if c.watch.skip[c.step+1] {
		return false, c.skipStep()
	}
	traced := c.trace.step(c.step + 1)
	defer func() { traced(err == nil) }()
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
			all, err = c.guard(p, guardTag, verdict{trouble: c.judge(p, score.Loss), stop: c.stop.Load(),
				loss: score.Loss, copies: c.copies.progress()})
			if err == nil && all.trouble.cause != 0 {
				err = c.veto(p, knownTag, all)
			}
			if err != nil || !c.watch.open {
				return err
			}
			c.watch.open = false
			return c.copies.due(c.step, all.copies)
		}})
	if c.watch.open && c.saves && c.job.CheckpointAfter(c.step) {
		whole = append(whole, phase{label: same("snapshot"), kind: Other, run: func(p *pass) error {
			return c.saver.save(p.ctx, c.step)
		}})
	}
	whole = append(whole, c.backward...)
	if r := c.b.reducer; r != nil {
		whole = append(whole, phase{label: same("wait for gradients of replicas"), kind: Wait, run: r.wait})
	}
	whole = append(whole, phase{label: same("update"), kind: Other, run: c.update},
		phase{label: same("guard of update"), kind: Wait, run: func(p *pass) error {
			return c.finish(p, all.loss/float64(c.b.whole), all.stop)
		}})
	if err := c.runPhases(p, whole); err != nil {
		return false, err
	}
	if !c.watch.open {
		if err := c.copies.due(c.step, all.copies); err != nil {
			return false, err
		}
	}
	loss := all.loss / float64(c.b.whole)
	c.epochLoss += loss
	c.epochSteps++
	c.timing.steps++
	seconds := c.status.finished(c.now(), c.step, c.b.whole, loss, score)
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

// skipStep is a step whose batch is not trained on: the state after it is that before it. All cells skip it, so none
// has to be asked.
func (c *Cell) skipStep() error {
	half := int(c.step % 2)
	c.enter("skip a step")
	c.mem.Begin(1 - half)
	for _, q := range c.params {
		for _, b := range []*[2]cudakern.Buffer{&q.w, &q.v} {
			if err := c.dev.Copy(c.st, b[1-half], b[half]); err != nil {
				return fmt.Errorf("skip step %d: %s: %w", c.step+1, q.Name, err)
			}
		}
	}
	if err := c.st.Sync(); err != nil {
		return fmt.Errorf("skip step %d: %w", c.step+1, err)
	}
	c.watch.past.encode(c.tail(1 - half))
	c.mem.Finish(1-half, c.step+1)
	c.step++
	c.status.start(c.now(), c.step)
	c.log.Info("skipped a step that was vetoed before", "cell", c.id, "step", c.step)
	return nil
}

// update is the paper's rule (section 5), from this step's half of the state to the other, which finish then makes the
// state. A frozen parameter goes over as it is, without momentum: there may be no gradient of it, so something finite
// stands in.
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
	return c.st.Sync()
}
