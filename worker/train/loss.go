package train

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"colonnade/cudakern"
	"colonnade/shard"
	"colonnade/worker/exchange"
)

// lossStage is the softmax over the whole layer's logits. Every column that holds it computes it whole, from the same
// bytes, so that nothing of it has to cross back.
type lossStage struct {
	b      *builder
	op     cudakern.Softmax
	loss   cudakern.Buffer
	rank   cudakern.Buffer
	ties   cudakern.Buffer
	losses []float32
	ranks  []int32 // in memory that the device writes without being waited for
	equals []int32
}

// Score is what a batch or a test set came to.
type Score struct {
	Images uint64
	Loss   float64 // sum of the images' cross-entropies, in image order within a replica
	Top1   float64 // errors; logits equal to the label's share the credit (layer_kernels.cu:96-118 of the source)
	Top5   float64
}

// Add adds another score.
func (s *Score) Add(o Score) {
	s.Images += o.Images
	s.Loss += o.Loss
	s.Top1 += o.Top1
	s.Top5 += o.Top5
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
	s := &lossStage{b: b, losses: make([]float32, b.batch)}
	for _, v := range []*[]int32{&s.ranks, &s.equals} {
		h, err := b.dev.AllocHost(4 * b.batch)
		if err != nil {
			return err
		}
		b.hosts = append(b.hosts, h)
		*v = unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(h.Bytes()))), b.batch)
	}
	if s.op, err = b.dev.NewSoftmax(cudakern.SoftmaxDesc{N: b.batch, Classes: classes, Whole: b.whole}); err != nil {
		return err
	}
	b.closers = append(b.closers, s.op.Close)
	if s.loss, err = b.alloc(cudakern.Shape{b.batch}, cudakern.Plain); err != nil {
		return err
	}
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
	if err := b.dev.CopyOut(b.st, int32Bytes(s.ranks), s.rank); err != nil {
		return Score{}, fmt.Errorf("read ranks: %w", err)
	}
	if err := b.dev.CopyOut(b.st, int32Bytes(s.equals), s.ties); err != nil {
		return Score{}, fmt.Errorf("read ties: %w", err)
	}
	if err := b.dev.Download(b.st, s.losses, s.loss); err != nil {
		return Score{}, fmt.Errorf("read loss: %w", err)
	}
	if err := b.st.Sync(); err != nil {
		return Score{}, err
	}
	out := Score{Images: uint64(valid)}
	for i := range valid {
		out.Loss += float64(s.losses[i])
		out.Top1 += 1 - credit(1, s.ranks[i], s.equals[i])
		out.Top5 += 1 - credit(5, s.ranks[i], s.equals[i])
	}
	return out, nil
}

const scoreBytes = 32

// addScores tells cell r0c0 what this replica's part of the test set came to; there it adds the others', in replica
// order.
func (c *Cell) addScores(p *pass, total *Score) error {
	tag := exchange.Tag{Step: p.step, Exchange: scoreTag}
	var buf [scoreBytes]byte
	le := binary.LittleEndian
	if c.id.Replica > 0 {
		le.PutUint64(buf[0:], total.Images)
		le.PutUint64(buf[8:], math.Float64bits(total.Loss))
		le.PutUint64(buf[16:], math.Float64bits(total.Top1))
		le.PutUint64(buf[24:], math.Float64bits(total.Top5))
		return c.ex.Send(p.ctx, c.replicas[0], tag, buf[:])
	}
	for _, other := range c.replicas[1:] {
		if err := c.ex.Recv(p.ctx, other, tag, buf[:]); err != nil {
			return err
		}
		total.Add(Score{Images: le.Uint64(buf[0:]), Loss: math.Float64frombits(le.Uint64(buf[8:])),
			Top1: math.Float64frombits(le.Uint64(buf[16:])), Top5: math.Float64frombits(le.Uint64(buf[24:]))})
	}
	return nil
}

// credit is the share of a top-k success: with `above` logits greater than the label's and `ties` others equal to it,
// the k - above places left are shared by ties + 1 classes.
func credit(k, above, ties int32) float64 {
	left := k - above
	if left <= 0 {
		return 0
	}
	return min(1, float64(left)/float64(ties+1))
}
