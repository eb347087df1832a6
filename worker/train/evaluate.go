package train

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"colonnade/shard/job"
	"colonnade/shard/score"
	"colonnade/worker/data"
	"colonnade/worker/exchange"
)

// Score is what a batch or a test set came to.
type Score = score.Score

// evaluate runs the whole test set, each replica its slices, and has one cell report what it came to. Nothing of it
// reaches the state, but where the job's course depends on it.
func (c *Cell) evaluate(ctx context.Context) error {
	var total Score
	for i := range c.source.TestBatches() {
		one, err := c.evaluateBatch(ctx, i)
		if err != nil {
			return err
		}
		total.Add(one)
	}
	if c.id.Column == 0 && len(c.replicas) > 1 {
		p := &pass{ctx: ctx, step: c.step}
		err := c.runPhases(p, []phase{{label: same("scores of replicas"), kind: Wait, run: func(p *pass) error {
			return c.addScores(p, &total)
		}}})
		if err != nil {
			return err
		}
	}
	if c.job.Adaptive() {
		p := &pass{ctx: ctx, step: c.step}
		err := c.runPhases(p, []phase{{label: same("score of all"), kind: Wait, run: func(p *pass) error {
			return c.shareScore(p, &total)
		}}})
		if err != nil {
			return err
		}
		c.note(total)
	}
	if c.id.Replica == 0 && c.id.Column == 0 {
		c.report(Evaluated{Step: c.step, Score: total, TrainLoss: c.epochLoss / float64(max(c.epochSteps, 1)),
			Rate: c.job.RateAt(c.step, c.history)})
	}
	c.epochLoss, c.epochSteps = 0, 0
	c.status.start(c.now(), c.step)
	return nil
}

// evaluateBatch runs one batch of the test set, once for every view.
func (c *Cell) evaluateBatch(ctx context.Context, index int) (Score, error) {
	views := max(c.job.Evaluate.Views, 1)
	var out Score
	for v := range views {
		p := &pass{ctx: ctx, step: c.step, half: int(c.step % 2), tag: evalTag | uint32(index*views+v)<<evalShift}
		whole := []phase{{label: same("test data"), kind: Other, run: func(p *pass) error {
			if err := c.b.begin(); err != nil {
				return err
			}
			batch := c.source.Test(index)
			if views > 1 {
				c.see(batch, v)
			}
			return c.b.in.fetch(p, batch)
		}}}
		whole = append(whole, c.b.forward...)
		whole = append(whole, phase{label: same("loss"), kind: Other, run: func(p *pass) (err error) {
			switch {
			case c.b.out == nil:
			case views == 1:
				out, err = c.b.out.score(p.valid)
			default:
				out, err = c.b.out.addView(p.valid, v == views-1)
			}
			return err
		}})
		if err := c.runPhases(p, whole); err != nil {
			return Score{}, err
		}
	}
	return out, nil
}

// see has all images of a batch be seen in one of the ten views.
func (c *Cell) see(batch data.Batch, view int) {
	_, h, w := c.source.Shape()
	in := c.plan.Network.Input
	seen := data.TenViews(h, w, in.Height, in.Width)[view]
	for i := range batch.Views {
		batch.Views[i] = seen
	}
}

// views are what several views of a batch come to: the mean of their probabilities.
type views struct {
	logits []float32
	labels []int32
	means  []*score.Mean // by image
	mean   []float64
}

// addView takes what the last pass came to as one more view of its images. With the last one it gives the score of the
// means (paper, section 4.1; worker.cu:150-177 of the source).
func (s *lossStage) addView(valid int, last bool) (Score, error) {
	b := s.b
	if s.views == nil {
		s.views = &views{logits: make([]float32, b.batch*s.classes), labels: make([]int32, b.batch),
			mean: make([]float64, s.classes)}
		for range b.batch {
			s.views.means = append(s.views.means, score.NewMean(s.classes))
		}
	}
	v := s.views
	if err := b.dev.Download(b.st, v.logits, s.logits); err != nil {
		return Score{}, fmt.Errorf("read logits: %w", err)
	}
	if err := b.dev.CopyOut(b.st, wordBytes(v.labels), b.in.labels); err != nil {
		return Score{}, fmt.Errorf("read labels: %w", err)
	}
	if err := b.st.Sync(); err != nil {
		return Score{}, err
	}
	var out Score
	for i := range valid {
		v.means[i].Add(v.logits[i*s.classes : (i+1)*s.classes])
		if !last {
			continue
		}
		v.means[i].Take(v.mean)
		label := int(v.labels[i])
		above, ties := score.Rank(v.mean, label)
		out.Add(score.Of(score.Loss(v.mean[label]), above, ties))
	}
	return out, nil
}

const scoreBytes = 32

func encodeScore(dst []byte, s Score) {
	le := binary.LittleEndian
	le.PutUint64(dst[0:], s.Images)
	le.PutUint64(dst[8:], math.Float64bits(s.Loss))
	le.PutUint64(dst[16:], math.Float64bits(s.Top1))
	le.PutUint64(dst[24:], math.Float64bits(s.Top5))
}

func decodeScore(src []byte) Score {
	le := binary.LittleEndian
	return Score{Images: le.Uint64(src[0:]), Loss: math.Float64frombits(le.Uint64(src[8:])),
		Top1: math.Float64frombits(le.Uint64(src[16:])), Top5: math.Float64frombits(le.Uint64(src[24:]))}
}

// addScores tells cell r0c0 what this replica's part of the test set came to; there it adds the others', in replica
// order.
func (c *Cell) addScores(p *pass, total *Score) error {
	tag := exchange.Tag{Step: p.step, Exchange: scoreTag}
	var buf [scoreBytes]byte
	if c.id.Replica > 0 {
		encodeScore(buf[:], *total)
		return c.ex.Send(p.ctx, c.replicas[0], tag, buf[:])
	}
	for _, other := range c.replicas[1:] {
		if err := c.ex.Recv(p.ctx, other, tag, buf[:]); err != nil {
			return err
		}
		total.Add(decodeScore(buf[:]))
	}
	return nil
}

// shareScore has every cell know what cell r0c0 has: all decide by the same bits. It goes from column 0 of each replica
// to its columns, as the logits did, so no two cells speak that have no link.
func (c *Cell) shareScore(p *pass, total *Score) error {
	tag := exchange.Tag{Step: p.step, Exchange: scoreTag + 1}
	var buf [scoreBytes]byte
	send := func(to []exchange.Cell) error {
		encodeScore(buf[:], *total)
		for _, other := range to {
			if err := c.ex.Send(p.ctx, other, tag, buf[:]); err != nil {
				return err
			}
		}
		return nil
	}
	receive := func(from exchange.Cell) error {
		err := c.ex.Recv(p.ctx, from, tag, buf[:])
		if err == nil {
			*total = decodeScore(buf[:])
		}
		return err
	}
	if c.id.Column > 0 {
		return receive(c.columns[0])
	}
	if c.id.Replica > 0 {
		if err := receive(c.replicas[0]); err != nil {
			return err
		}
	} else if err := send(c.replicas[1:]); err != nil {
		return err
	}
	return send(c.columns[1:])
}

// note has the cell know an evaluation after its last step.
func (c *Cell) note(s Score) {
	n := float64(max(s.Images, 1))
	before := c.job.RateAt(c.step, c.history)
	c.history = c.history.With(job.Evaluation{Step: c.step, Top1: s.Top1 / n, Top5: s.Top5 / n, Loss: s.Loss / n})
	if now := c.job.RateAt(c.step, c.history); now != before {
		c.log.Info("the test error has stopped improving", "cell", c.id, "step", c.step, "rate", now)
	}
}

// remember takes what the job's log has of evaluations: what the cell's state was trained by.
func (c *Cell) remember(h job.History) error {
	if !c.job.Adaptive() {
		return nil
	}
	known, missing, ok := c.job.Until(c.step, h)
	if !ok {
		return fmt.Errorf("cell %s: to go on from step %d by recipe.plateau it must know the evaluation after step "+
			"%d, which "+
			"the log does not have; go on from a checkpoint: coordinator job resume --step", c.id, c.step, missing)
	}
	c.history = known
	if n := len(known); c.job.EvaluateAfter(c.step) && (n == 0 || known[n-1].Step != c.step) {
		c.owed.Evaluation = true
	}
	return nil
}
