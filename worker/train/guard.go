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

// verdict is what one cell tells every other at the end of a step's backward pass, before anyone updates. All cells
// combine all verdicts, so all decide the same.
type verdict struct {
	finite bool // the loss is a number
	stop   bool // this cell was asked to stop after this step
}

const verdictBytes = 8

func (v verdict) encode(dst []byte) {
	var bits uint64
	if v.finite {
		bits |= 1
	}
	if v.stop {
		bits |= 2
	}
	binary.LittleEndian.PutUint64(dst, bits)
}

func decodeVerdict(src []byte) (verdict, error) {
	bits := binary.LittleEndian.Uint64(src)
	if bits > 3 {
		return verdict{}, fmt.Errorf("verdict with unknown bits %#x", bits)
	}
	return verdict{finite: bits&1 != 0, stop: bits&2 != 0}, nil
}

// guard tells every other cell this cell's verdict and returns all of them combined.
func (c *Cell) guard(p *pass, own verdict) (verdict, error) {
	tag := exchange.Tag{Step: p.step, Exchange: guardTag}
	var buf [verdictBytes]byte
	own.encode(buf[:])
	for _, other := range c.others {
		if err := c.ex.Send(p.ctx, other, tag, buf[:]); err != nil {
			return verdict{}, fmt.Errorf("guard: %w", err)
		}
	}
	all := own
	for _, other := range c.others {
		if err := c.ex.Recv(p.ctx, other, tag, buf[:]); err != nil {
			return verdict{}, fmt.Errorf("guard: %w", err)
		}
		v, err := decodeVerdict(buf[:])
		if err != nil {
			return verdict{}, fmt.Errorf("guard: from cell %s: %w", other, err)
		}
		all.finite = all.finite && v.finite
		all.stop = all.stop || v.stop
	}
	return all, nil
}

// finite says whether a loss is a number.
func finite(loss float64) bool { return !math.IsNaN(loss) && !math.IsInf(loss, 0) }
