package history

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/zeebo/xxh3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"colonnade/proto/clusterpb"
)

// The shape of a series: level L sums up 4^L steps a point, and keeps the newest points of it. What a level forgets is
// in the next one; the last reaches back further than any job goes.
const (
	factor    = 4
	levels    = 12
	keepJob   = 2048 // points of a level of a job's series, in widths of a point back from the newest step
	keepCell  = 128  // of a cell's
	mostCells = 32   // of a job that have series of their own: those first in order of replica and column
)

// width is how many steps a point of a level stands for.
func width(level int) uint64 { return 1 << (2 * level) }

// series is which of a job's series: a cell's, or the job's own.
type series struct{ replica, column int32 }

var whole = series{-1, -1}

// keep is how many points of a level a series has at most.
func (s series) keep() uint64 {
	if s == whole {
		return keepJob
	}
	return keepCell
}

func seriesOf(c *clusterpb.Cell) series {
	if c == nil {
		return whole
	}
	return series{c.Replica, c.Column}
}

func (s series) cell() *clusterpb.Cell {
	if s == whole {
		return nil
	}
	return &clusterpb.Cell{Replica: s.replica, Column: s.column}
}

// key is a point's: its series, its level, and its place there, so that points lie in order of step.
type key [17]byte

func keyOf(s series, level int, index uint64) (k key) {
	binary.BigEndian.PutUint32(k[0:], uint32(s.replica))
	binary.BigEndian.PutUint32(k[4:], uint32(s.column))
	k[8] = byte(level)
	binary.BigEndian.PutUint64(k[9:], index)
	return k
}

func (k key) series() series {
	return series{int32(binary.BigEndian.Uint32(k[0:])), int32(binary.BigEndian.Uint32(k[4:]))}
}

func (k key) level() int    { return int(k[8]) }
func (k key) index() uint64 { return binary.BigEndian.Uint64(k[9:]) }

// point is what some steps came to; what is handed out is never changed again. No observations: it is deleted.
type point = clusterpb.HistoryPoint

// observe is one observation as a point of its own.
func observe(st *clusterpb.CellStatus, generation uint64, at *timestamppb.Timestamp, phases bool) *point {
	p := &point{FirstStep: st.Step, LastStep: st.Step, At: at, Generation: generation, Observations: 1}
	if st.Loss != 0 && finite(st.Loss) {
		p.Losses, p.Loss, p.LossMin, p.LossMax = 1, st.Loss, st.Loss, st.Loss
	}
	if n := float64(st.Scored); n > 0 && finite(st.Top1Errors) && finite(st.Top5Errors) {
		p.Scores, p.Top1Error, p.Top5Error = 1, st.Top1Errors/n, st.Top5Errors/n
	}
	if r := st.ImagesPerSecond; finite(r) {
		p.ImagesPerSecond, p.ImagesPerSecondMin, p.ImagesPerSecondMax = r, r, r
	}
	if phases {
		p.PhaseSeconds = map[string]float64{}
		for name, s := range st.PhaseSeconds {
			if finite(s) && len(p.PhaseSeconds) < mostPhases {
				p.PhaseSeconds[name] = s
			}
		}
	}
	return p
}

// mostPhases bounds a cell's phases: more than any network has.
const mostPhases = 256

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// fold puts two points of neighbouring or equal steps together. a may be nil.
func fold(a, b *point) *point {
	if a == nil {
		return b
	}
	first, last := a, b // by step
	if b.LastStep < a.LastStep {
		last = a
	}
	if b.FirstStep < a.FirstStep {
		first = b
	}
	n, losses := a.Observations+b.Observations, a.Losses+b.Losses
	out := &point{FirstStep: first.FirstStep, LastStep: last.LastStep, At: last.At, Generation: last.Generation,
		Observations: n, Losses: losses,
		ImagesPerSecond:    mean(a.ImagesPerSecond, a.Observations, b.ImagesPerSecond, b.Observations),
		ImagesPerSecondMin: min(a.ImagesPerSecondMin, b.ImagesPerSecondMin),
		ImagesPerSecondMax: max(a.ImagesPerSecondMax, b.ImagesPerSecondMax),
		Loss:               mean(a.Loss, a.Losses, b.Loss, b.Losses),
		Scores:             a.Scores + b.Scores,
		Top1Error:          mean(a.Top1Error, a.Scores, b.Top1Error, b.Scores),
		Top5Error:          mean(a.Top5Error, a.Scores, b.Top5Error, b.Scores),
		LossMin:            a.LossMin, LossMax: a.LossMax}
	switch {
	case a.Losses == 0:
		out.LossMin, out.LossMax = b.LossMin, b.LossMax
	case b.Losses > 0:
		out.LossMin, out.LossMax = min(a.LossMin, b.LossMin), max(a.LossMax, b.LossMax)
	}
	if len(a.PhaseSeconds)+len(b.PhaseSeconds) > 0 {
		out.PhaseSeconds = map[string]float64{}
		for name, s := range a.PhaseSeconds {
			out.PhaseSeconds[name] = s
		}
		for name, s := range b.PhaseSeconds {
			if old, ok := out.PhaseSeconds[name]; ok {
				s = mean(old, a.Observations, s, b.Observations)
			} else if len(out.PhaseSeconds) >= mostPhases {
				continue
			}
			out.PhaseSeconds[name] = s
		}
	}
	return out
}

func mean(a float64, na uint64, b float64, nb uint64) float64 {
	if na+nb == 0 {
		return 0
	}
	return a + (b-a)*float64(nb)/float64(na+nb)
}

// sane says whether a point that comes from elsewhere is one of a level.
func sane(p *point, level int) bool {
	w := width(level)
	return p.GetObservations() > 0 && p.FirstStep <= p.LastStep && p.FirstStep/w == p.LastStep/w &&
		p.Losses <= p.Observations && p.Scores <= p.Observations && len(p.PhaseSeconds) <= mostPhases
}

var errSum = errors.New("its checksum does not match")

// seal is a message on the disk: xxh3 of the key and of the rest, little-endian; the message.
func seal(k []byte, m proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(make([]byte, 8), m)
	if err != nil {
		return nil, err
	}
	binary.LittleEndian.PutUint64(b, xxh3.HashSeed(b[8:], xxh3.Hash(k)))
	return b, nil
}

// unseal reads what seal made.
func unseal(k, b []byte, into proto.Message) error {
	if len(b) < 8 || binary.LittleEndian.Uint64(b) != xxh3.HashSeed(b[8:], xxh3.Hash(k)) {
		return fmt.Errorf("%w: record %x: %w", ErrDamaged, k, errSum)
	}
	if err := proto.Unmarshal(b[8:], into); err != nil {
		return fmt.Errorf("%w: record %x: %w", ErrDamaged, k, err)
	}
	return nil
}
