package train

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"colonnade/worker/exchange"
)

// ErrDiverged means that a loss is not a number any more. Trying again gives the same bits, so it is final.
var ErrDiverged = errors.New("training has diverged")

// verdict is what one cell tells every other once it knows its loss, before anyone goes back. All cells
// combine all verdicts, so all decide the same.
type verdict struct {
	finite bool    // the loss is a number
	stop   bool    // this cell was asked to stop after this step
	loss   float64 // sum over the images of the step, in cells that hold the softmax
	copies progress
}

const verdictBytes = 32

func (v verdict) encode(dst []byte) {
	var bits uint64
	if v.finite {
		bits |= 1
	}
	if v.stop {
		bits |= 2
	}
	binary.LittleEndian.PutUint64(dst, bits)
	binary.LittleEndian.PutUint64(dst[8:], math.Float64bits(v.loss))
	binary.LittleEndian.PutUint64(dst[16:], v.copies.tried)
	binary.LittleEndian.PutUint64(dst[24:], v.copies.whole)
}

func decodeVerdict(src []byte) (verdict, error) {
	bits := binary.LittleEndian.Uint64(src)
	if bits > 3 {
		return verdict{}, fmt.Errorf("verdict with unknown bits %#x", bits)
	}
	return verdict{finite: bits&1 != 0, stop: bits&2 != 0,
		loss:   math.Float64frombits(binary.LittleEndian.Uint64(src[8:])),
		copies: progress{binary.LittleEndian.Uint64(src[16:]), binary.LittleEndian.Uint64(src[24:])}}, nil
}

// guard tells every other cell this cell's verdict and returns all of them combined, with the loss over the whole
// batch: the replicas' in replica order. It goes in two rounds, over the replicas of the column and then, with what
// came of it, over the columns of the replica: R + K - 2 messages of a cell instead of R K - 1, and all know the same.
func (c *Cell) guard(p *pass, id uint32, own verdict) (verdict, error) {
	replicas, err := c.tell(p, c.replicas, id, own)
	if err != nil {
		return verdict{}, err
	}
	column := verdict{finite: true, copies: replicas[0].copies}
	for _, v := range replicas {
		column.finite = column.finite && v.finite
		column.stop = column.stop || v.stop
		column.loss += v.loss
		column.copies.behind(v.copies)
	}
	columns, err := c.tell(p, c.columns, id+1, column)
	if err != nil {
		return verdict{}, err
	}
	// Every column that has the loss has the same.
	all := verdict{finite: true, loss: columns[0].loss, copies: columns[0].copies}
	for _, v := range columns {
		all.finite = all.finite && v.finite
		all.stop = all.stop || v.stop
		all.copies.behind(v.copies)
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

// finite says whether a loss is a number.
func finite(loss float64) bool { return !math.IsNaN(loss) && !math.IsInf(loss, 0) }
