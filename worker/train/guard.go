package train

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"colonnade/cudakern"
	"colonnade/shard/job"
	"colonnade/worker/exchange"
)

// StepVersion is of what cells say to each other in a step: which exchanges there are, in which order, and what is in
// them. Cells of two versions would wait for what never comes, or take one thing for another: they refuse each other
// when they meet. Raise it with every change of that. 1: the update's verdict has an exchange of its own, at the end of
// its step; 2: it comes with the next step's guard.
const StepVersion = 2

// ErrDiverged means that a step has gone wrong: see Veto. Trying again gives the same bits.
var ErrDiverged = errors.New("training has diverged")

// Cause is why a step was vetoed.
type Cause uint8

// The causes, the worst first: that of the step before comes before those of a step that went on from it.
const (
	WeightsNotFinite Cause = iota + 1 // the update would leave a weight that is NaN or infinite
	LossNotFinite                     // a loss is NaN or infinite
	LossSpike                         // a loss is far above those before
)

var causes = [...]string{LossNotFinite: "loss-not-finite", LossSpike: "loss-spike",
	WeightsNotFinite: "weights-not-finite"}

// String is the cause as it is recorded.
func (c Cause) String() string { return causes[c] }

// Veto is the error of a step that the guard of some cell found wrong. All cells have the same one, and the step counts
// in none: their state is that before it.
type Veto struct {
	Cell  exchange.Cell // the first, by replica and column, of those with the worst cause
	Step  uint64        // counted from 1: the one that would have been finished next
	Cause Cause
	Loss  float64 // mean over the cell's part of the batch; 0 if it is not finite
	Limit float64 // of a spike: what the loss is above
	Skip  bool    // the job wants to go on without the step's batch
}

// Error says what is wrong and what may help.
func (v *Veto) Error() string {
	switch v.Cause {
	case LossSpike:
		return fmt.Sprintf("loss %.6g of cell %s in step %d is a spike, above %.6g", v.Loss, v.Cell, v.Step, v.Limit)
	case WeightsNotFinite:
		return fmt.Sprintf("step %d leads to weights that are not finite numbers in cell %s; lower recipe.rate", v.Step,
			v.Cell)
	}
	return fmt.Sprintf("loss is not a finite number in step %d, in cell %s; lower recipe.rate", v.Step, v.Cell)
}

// Unwrap gives ErrDiverged.
func (v *Veto) Unwrap() error { return ErrDiverged }

// trouble is what a cell finds wrong with a step, or the worst of what several do.
type trouble struct {
	cause Cause // 0: nothing
	cell  exchange.Cell
	loss  float64
}

// worse says whether t counts before o: by cause, then by replica and column, so that all cells name the same one.
func (t trouble) worse(o trouble) bool {
	switch {
	case t.cause == 0 || o.cause == 0:
		return t.cause != 0
	case t.cause != o.cause:
		return t.cause < o.cause
	case t.cell.Replica != o.cell.Replica:
		return t.cell.Replica < o.cell.Replica
	}
	return t.cell.Column < o.cell.Column
}

// verdict is what one cell tells every other once it knows its loss, before anyone goes back. All cells
// combine all verdicts, so all decide the same.
type verdict struct {
	trouble trouble
	stop    bool    // this cell was asked to stop after this step
	loss    float64 // sum over the images of the step, in cells that hold the softmax
	copies  progress
}

const verdictBytes = 56

func (v verdict) encode(dst []byte) {
	le := binary.LittleEndian
	bits := uint64(v.trouble.cause) << 8
	if v.stop {
		bits |= 1
	}
	le.PutUint64(dst, bits)
	le.PutUint64(dst[8:], math.Float64bits(v.loss))
	le.PutUint64(dst[16:], v.copies.tried)
	le.PutUint64(dst[24:], v.copies.whole)
	le.PutUint64(dst[32:], uint64(v.trouble.cell.Replica))
	le.PutUint64(dst[40:], uint64(v.trouble.cell.Column))
	le.PutUint64(dst[48:], math.Float64bits(v.trouble.loss))
}

func decodeVerdict(src []byte) (verdict, error) {
	le := binary.LittleEndian
	bits := le.Uint64(src)
	if bits&^0xff01 != 0 || bits>>8 >= uint64(len(causes)) {
		return verdict{}, fmt.Errorf("verdict with unknown bits %#x", bits)
	}
	return verdict{stop: bits&1 != 0, loss: math.Float64frombits(le.Uint64(src[8:])),
		copies: progress{le.Uint64(src[16:]), le.Uint64(src[24:])},
		trouble: trouble{cause: Cause(bits >> 8), loss: math.Float64frombits(le.Uint64(src[48:])),
			cell: exchange.Cell{Replica: int(le.Uint64(src[32:])), Column: int(le.Uint64(src[40:]))}}}, nil
}

// with combines verdicts, but for the loss.
func (v *verdict) with(o verdict) {
	if o.trouble.worse(v.trouble) {
		v.trouble = o.trouble
	}
	v.stop = v.stop || o.stop
	v.copies.behind(o.copies)
}

// guard tells every other cell this cell's verdict and returns all of them combined, with the loss over the whole
// batch: the replicas' in replica order. It goes in two rounds, over the replicas of the column and then, with what
// came of it, over the columns of the replica: R + K - 2 messages of a cell instead of R K - 1, and all know the same.
func (c *Cell) guard(p *pass, id uint32, own verdict) (verdict, error) {
	replicas, err := c.tell(p, c.replicas, id, own)
	if err != nil {
		return verdict{}, err
	}
	column := verdict{copies: replicas[0].copies}
	for _, v := range replicas {
		column.with(v)
		column.loss += v.loss
	}
	columns, err := c.tell(p, c.columns, id+1, column)
	if err != nil {
		return verdict{}, err
	}
	// Every column that has the loss has the same.
	all := verdict{loss: columns[0].loss, copies: columns[0].copies}
	for _, v := range columns {
		all.with(v)
	}
	return all, nil
}

// tell exchanges verdicts within a group that this cell belongs to, and returns all of them in its order.
func (c *Cell) tell(p *pass, group []exchange.Cell, id uint32, own verdict) ([]verdict, error) {
	tag := exchange.Tag{Step: p.step, Exchange: id}
	var buf [verdictBytes]byte
	own.encode(buf[:])
	for _, other := range group {
		if other == c.id {
			continue
		}
		if err := c.ex.Send(p.ctx, other, tag, buf[:]); err != nil {
			return nil, fmt.Errorf("guard: %w", err)
		}
	}
	all := make([]verdict, len(group))
	for i, other := range group {
		if other == c.id {
			all[i] = own
			continue
		}
		if err := c.ex.Recv(p.ctx, other, tag, buf[:]); err != nil {
			return nil, fmt.Errorf("guard: %w", err)
		}
		v, err := decodeVerdict(buf[:])
		if err != nil {
			return nil, fmt.Errorf("guard: from cell %s: %w", other, err)
		}
		all[i] = v
	}
	return all, nil
}

// watch is a cell's guard: the job's rules, and what they judge by.
type watch struct {
	rules   job.Guard
	past    history
	skip    map[uint64]bool // steps, counted from 1, that change nothing
	accept  map[uint64]bool // steps that are no spike, whatever their loss
	skipped int             // how many batches the job does without
	mapped  bool            // the host can look at the weights
	number  int             // bytes of a number in them
	open    bool            // the other columns have not yet said whether the update of the last step is sound
	unsound bool            // this cell's is not: its memory does not hold the last step
}

// newWatch makes the guard of a cell whose buffers lie where they stay.
func (c *Cell) newWatch(cfg Config) error {
	w := &c.watch
	w.rules = cfg.Job.GuardRules()
	w.past.window = w.rules.Window
	w.skip, w.accept, w.skipped = set(cfg.Skipped), set(cfg.Accepted), len(cfg.Skipped)
	if w.rules.Then == job.GuardOff {
		return nil
	}
	const probe = 64
	buf, err := c.dev.Alloc(cudakern.Shape{probe}, cudakern.Plain)
	if err != nil {
		return err
	}
	w.number = buf.Bytes() / probe
	buf.Free()
	w.mapped = !slices.ContainsFunc(c.params, func(p *param) bool {
		_, a := p.w[0].(cudakern.HostMapped)
		_, b := p.w[1].(cudakern.HostMapped)
		return !a || !b
	})
	return nil
}

func set(steps []uint64) map[uint64]bool {
	out := make(map[uint64]bool, len(steps))
	for _, s := range steps {
		out[s] = true
	}
	return out
}

// judge is what this cell has to say in the guard of a step, whose images it has summed its loss over: of the update
// that the step goes on from, then of the loss.
func (c *Cell) judge(p *pass, sum float64) trouble {
	if t := c.judgeUpdate(); t.cause != 0 {
		return t
	}
	mean := sum / float64(max(p.valid, 1))
	switch limit := c.limit(p); {
	case !finite(sum):
		return trouble{cause: LossNotFinite, cell: c.id}
	case mean > limit:
		return trouble{cause: LossSpike, cell: c.id, loss: mean}
	}
	return trouble{}
}

// limit is what the mean loss over a cell's part of the batch may be in a step. It depends on the job and on the losses
// of the steps before, which are the same bits in all cells and whatever has happened in between.
func (c *Cell) limit(p *pass) float64 {
	w := &c.watch
	usual, ok := w.past.usual()
	if !ok || w.accept[p.step+1] {
		return math.Inf(1)
	}
	return w.rules.Spike * max(usual, w.rules.Floor)
}

// veto is the error of a step that all cells agree to have gone wrong: the one that is under way, or the last one,
// whose update is undone. Whoever leaves breaks links: nobody does before all know why, however far the second round
// gets.
func (c *Cell) veto(p *pass, id uint32, all verdict) error {
	_, _ = c.guard(p, id, all)
	t := all.trouble
	v := &Veto{Cell: t.cell, Step: c.step + 1, Cause: t.cause, Loss: t.loss}
	switch t.cause {
	case WeightsNotFinite:
		v.Step = c.step
		c.takeBack()
	case LossSpike:
		v.Limit = c.limit(p)
	}
	return c.vetoed(v)
}

func (c *Cell) vetoed(v *Veto) error {
	w := &c.watch
	if w.rules.Then == job.GuardOff {
		return fmt.Errorf("%w: %s", ErrDiverged, v.Error())
	}
	v.Skip = w.rules.Then == job.GuardSkip && w.skipped < w.rules.Skips
	return v
}

// finish ends the update. If the weights it leads to are finite the cell's memory holds the step from here on. Whether
// they are in the other columns too need not be known before the next step's guard, in which all say so: until then the
// state before is there as well, and a cell that found them wrong does not hold the step, so that whoever looks for one
// that all hold finds the one before. Only where something is done behind the step at once the columns tell each other
// at once. Replicas need not be asked: those of a column add the same sums to the same weights.
func (c *Cell) finish(p *pass, loss float64, stop bool) error {
	w := &c.watch
	c.step = p.step + 1
	w.open = w.mapped
	if w.unsound = w.mapped && !c.finiteWeights(1-p.half); !w.unsound {
		w.past.add(loss)
		w.past.encode(c.tail(1 - p.half))
		c.mem.Finish(1-p.half, c.step)
	}
	if stop || c.step == c.job.Steps() || c.job.EvaluateAfter(c.step) || w.skip[c.step+1] || len(c.columns) == 1 {
		return c.settle(p)
	}
	return nil
}

// settle has the columns tell each other whether the update of the last step is sound, unless they have.
func (c *Cell) settle(p *pass) error {
	if !c.watch.open {
		return nil
	}
	columns, err := c.tell(p, c.columns, settleTag, verdict{trouble: c.judgeUpdate()})
	if err != nil {
		return err
	}
	all := verdict{}
	for _, v := range columns {
		all.with(v)
	}
	if all.trouble.cause != 0 {
		return c.veto(p, settledTag, all)
	}
	c.watch.open = false
	return nil
}

// judgeUpdate is what this cell has to say of the last step's update.
func (c *Cell) judgeUpdate() trouble {
	if !c.watch.unsound {
		return trouble{}
	}
	return trouble{cause: WeightsNotFinite, cell: exchange.Cell{Column: c.id.Column}}
}

// takeBack undoes the last step, whose update has been found wrong: the half before it is whole.
func (c *Cell) takeBack() {
	c.mem.Begin(int(c.step % 2))
	c.step--
	c.watch.open, c.watch.unsound = false, false
	c.status.start(c.now(), c.step)
}

// finiteWeights says whether all weights of a half, which has just been written, are finite numbers, on devices whose
// memory the host can look at.
func (c *Cell) finiteWeights(half int) bool {
	for _, q := range c.params {
		if u, ok := q.sgd.(cudakern.Watching); ok {
			if !u.Finite() {
				return false
			}
			continue
		}
		if !finiteNumbers(q.w[half].(cudakern.HostMapped).Mapped(), c.watch.number) {
			return false
		}
	}
	return true
}

// soundCopy vetoes the last step where nobody could look at its weights before they were copied to the host as float32:
// what is not finite is never written down. The other cells learn of it when this one leaves.
func (c *Cell) soundCopy(floats []byte, step uint64) error {
	if c.watch.mapped || c.watch.rules.Then == job.GuardOff || finiteNumbers(floats, 4) {
		return nil
	}
	return c.vetoed(&Veto{Cell: c.id, Step: step, Cause: WeightsNotFinite})
}

// finiteNumbers says whether all float32, or float64 of 8 bytes, are finite. One that is not has all bits of its
// exponent set: one more in the exponent's last place carries into the sign's. At the speed of memory.
func finiteNumbers(b []byte, number int) bool {
	mask, one, sign := uint64(0x7f800000_7f800000), uint64(0x00800000_00800000), uint64(0x80000000_80000000)
	if number == 8 {
		mask, one, sign = 0x7ff00000_00000000, 0x00100000_00000000, 0x80000000_00000000
	}
	le, seen := binary.LittleEndian, uint64(0)
	for ; len(b) >= 32; b = b[32:] {
		x := b[:32:32]
		seen |= (le.Uint64(x)&mask + one) | (le.Uint64(x[8:])&mask + one) | (le.Uint64(x[16:])&mask + one) |
			(le.Uint64(x[24:])&mask + one)
	}
	for ; len(b) >= 8; b = b[8:] {
		seen |= le.Uint64(b)&mask + one
	}
	if len(b) == 4 {
		seen |= uint64(le.Uint32(b))&mask + one
	}
	return seen&sign == 0
}

// finite says whether a loss is a number.
func finite(loss float64) bool { return !math.IsNaN(loss) && !math.IsInf(loss, 0) }
