package train

import (
	"errors"
	"fmt"
	"unsafe"

	"colonnade/cudakern"
	"colonnade/shard"
	"colonnade/shard/score"
)

// lossStage is the softmax over the whole layer's logits. Every column that holds it computes it whole, from the same
// bytes, so that nothing of it has to cross back.
type lossStage struct {
	b      *builder
	op     cudakern.Softmax
	loss   cudakern.Buffer
	rank   cudakern.Buffer
	ties   cudakern.Buffer
	logits cudakern.Buffer
	losses []float32 // with the next two in memory that the device writes without being waited for, unless coarse
	ranks  []int32
	equals []int32
	coarse bool // the device's numbers are not float32, so it has to convert losses

	classes int
	views   *views // nil: none have been asked for
}

// buildLoss gathers the logits and makes the softmax.
func (b *builder) buildLoss(lp *shard.LayerPlan, cur *value) error {
	if cur == nil {
		return nil
	}
	x, err := b.newCrossing(lp, cur)
	if err != nil {
		return err
	}
	if err := x.send(); err != nil {
		return err
	}
	parts := make([]cudakern.Buffer, b.plan.Columns)
	widths := make([]int, b.plan.Columns)
	for c := range parts {
		widths[c] = lp.Columns[c].Own.Count
		if c != b.column && x.remote[c] != nil {
			parts[c] = x.remote[c].buf
			if err := x.wait(c); err != nil {
				return err
			}
		}
	}
	parts[b.column] = cur.buf
	if x.ex == nil { // one column has them all
		parts, widths = parts[b.column:b.column+1], widths[:1]
	}
	return b.buildSoftmax(lp, cur, parts, widths)
}

// hostSlice makes an element for each image, in memory that the device copies to without staging.
func hostSlice[T int32 | float32](b *builder, out *[]T) error {
	h, err := b.dev.AllocHost(4 * b.batch)
	if err != nil {
		return err
	}
	b.hosts = append(b.hosts, h)
	*out = unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(h.Bytes()))), b.batch)
	return nil
}

// buildSoftmax appends join, softmax and its gradient, of which the column takes its own part.
func (b *builder) buildSoftmax(lp *shard.LayerPlan, cur *value, parts []cudakern.Buffer, widths []int) error {
	classes, own := lp.Out.C, 0
	if len(parts) > 1 {
		own = b.column
	}
	concat, err := b.dev.NewConcat(cudakern.ConcatDesc{N: b.batch, Parts: widths})
	if err != nil {
		return err
	}
	b.closers = append(b.closers, concat.Close)
	logits, err := b.newValue(cudakern.Shape{b.batch, classes}, cudakern.Plain)
	if err != nil {
		return err
	}
	s := &lossStage{b: b, logits: logits.buf, classes: classes}
	if err := errors.Join(hostSlice(b, &s.losses), hostSlice(b, &s.ranks), hostSlice(b, &s.equals)); err != nil {
		return err
	}
	if s.op, err = b.dev.NewSoftmax(cudakern.SoftmaxDesc{N: b.batch, Classes: classes, Whole: b.whole}); err != nil {
		return err
	}
	b.closers = append(b.closers, s.op.Close)
	if s.loss, err = b.alloc(cudakern.Shape{b.batch}, cudakern.Plain); err != nil {
		return err
	}
	s.coarse = s.loss.Bytes() != 4*b.batch
	if s.rank, err = b.allocBytes(4 * b.batch); err != nil {
		return err
	}
	if s.ties, err = b.allocBytes(4 * b.batch); err != nil {
		return err
	}
	name := lp.Layer.Name
	b.fwd(same(name), func(p *pass) error {
		if err := concat.Join(b.st, logits.buf, parts); err != nil {
			return err
		}
		valid := max(p.valid, 1) // a slice of a test batch may have none: score counts none
		return s.op.Forward(b.st, logits.buf, b.in.labels, valid, s.loss, s.rank, s.ties)
	})
	b.back(same(name+" gradient"), func(p *pass) error {
		if err := s.op.Backward(b.st, logits.buf, b.in.labels, p.valid, logits.grad); err != nil {
			return err
		}
		return concat.Cut(b.st, cur.grad, own, logits.grad)
	})
	b.out = s
	return nil
}

// score reads what the last pass came to.
func (s *lossStage) score(valid int) (Score, error) {
	b := s.b
	if err := b.dev.CopyOut(b.st, wordBytes(s.ranks), s.rank); err != nil {
		return Score{}, fmt.Errorf("read ranks: %w", err)
	}
	if err := b.dev.CopyOut(b.st, wordBytes(s.equals), s.ties); err != nil {
		return Score{}, fmt.Errorf("read ties: %w", err)
	}
	var err error
	if s.coarse {
		err = b.dev.Download(b.st, s.losses, s.loss)
	} else {
		err = b.dev.CopyOut(b.st, wordBytes(s.losses), s.loss)
	}
	if err != nil {
		return Score{}, fmt.Errorf("read loss: %w", err)
	}
	if err := b.st.Sync(); err != nil {
		return Score{}, err
	}
	var out Score
	for i := range valid {
		out.Add(score.Of(float64(s.losses[i]), int(s.ranks[i]), int(s.equals[i])))
	}
	return out, nil
}
