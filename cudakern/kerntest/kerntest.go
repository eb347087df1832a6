// Package kerntest is the conformance suite of devices: every op, on shapes chosen to be awkward, against the reference
// in float64. Outputs are poisoned before, inputs, canaries and padding compared after, every run is done twice and
// must give the same bits, and nothing may be left alive. RunAll adds what needs no reference: finite differences,
// several streams at once, refusals, ownership. `worker verify` runs Check on the user's own machine.
package kerntest

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"colonnade/cudakern"
	"colonnade/cudakern/philox"
	"colonnade/cudakern/ref"
)

// Options choose what is checked. The zero value checks everything.
type Options struct {
	Ops   []string                   // names of ops; empty: all
	First bool                       // an op is done with at its first failure
	Skip  func(op, name string) bool // says which cases to leave out, by what Failure calls them; nil: none
}

// Result is what the cases of one op came to.
type Result struct {
	Op       string  `json:"op"`
	Cases    int     `json:"cases"`
	MaxError float64 `json:"max_error"` // largest error as a part of what is tolerated: up to 1 passes
	Pass     bool    `json:"pass"`
	Failure  string  `json:"failure,omitempty"` // the first that failed and why
	Err      error   `json:"-"`                 // the same: one that wraps ErrMemory or ErrLost says nothing of the op
}

// test is one case of an op: run does the whole of it on the device of e, the same way on every device.
type test struct {
	op   string
	name string
	run  func(e *env) error
}

// Check runs the suite on a device and returns a result for each op, sorted by name. The device must have nothing alive
// that changes meanwhile.
func Check(dev cudakern.Device, o Options) []Result {
	results := map[string]*Result{}
	for _, t := range tests() {
		if len(o.Ops) > 0 && !slices.Contains(o.Ops, t.op) {
			continue
		}
		if o.Skip != nil && o.Skip(t.op, t.name) {
			continue
		}
		r := results[t.op]
		if r == nil {
			r = &Result{Op: t.op, Pass: true}
			results[t.op] = r
		}
		if o.First && !r.Pass {
			continue
		}
		r.Cases++
		worst, err := t.check(dev)
		r.MaxError = max(r.MaxError, worst)
		if err != nil && r.Pass {
			r.Err = fmt.Errorf("%s: %w", t.name, err)
			r.Pass, r.Failure = false, r.Err.Error()
		}
	}
	var out []Result
	for _, r := range results {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Result) int { return cmp.Compare(a.Op, b.Op) })
	return out
}

// Same runs the suite's cases on two devices that must give the same bits, and returns the first case where they do
// not.
func Same(a, b cudakern.Device) error {
	for _, t := range tests() {
		ra, err := t.runOn(a)
		if err != nil {
			return fmt.Errorf("%s %s: %w", t.op, t.name, err)
		}
		rb, err := t.runOn(b)
		if err != nil {
			return fmt.Errorf("%s %s: %w", t.op, t.name, err)
		}
		for i, r := range ra {
			if at := r.differs(rb[i]); at >= 0 {
				return fmt.Errorf("%s %s: %s differs at %d", t.op, t.name, r.name, at)
			}
		}
	}
	return nil
}

// Digest is the SHA-256 of all that the suite's cases come to on a device: equal wherever the same bits are computed.
func Digest(dev cudakern.Device) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, t := range tests() {
		out, err := t.runOn(dev)
		if err != nil {
			return sum, fmt.Errorf("%s %s: %w", t.op, t.name, err)
		}
		for _, r := range out {
			var words []byte
			for _, v := range r.v {
				words = binary.LittleEndian.AppendUint32(words, math.Float32bits(v))
			}
			h.Write(words)
			h.Write(r.raw)
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// check runs the case on the reference once and on the device twice.
func (t test) check(dev cudakern.Device) (worst float64, err error) {
	want, err := t.runOn(ref.New())
	if err != nil {
		return 0, fmt.Errorf("reference: %w", err)
	}
	first, err := t.runOn(dev)
	if err != nil {
		return 0, err
	}
	second, err := t.runOn(dev)
	if err != nil {
		return 0, fmt.Errorf("second run: %w", err)
	}
	for i, w := range want {
		e, err := first[i].compare(w)
		worst = max(worst, e)
		if err != nil {
			return worst, err
		}
		if at := first[i].differs(second[i]); at >= 0 {
			return worst, fmt.Errorf("%s: two runs differ at %d", w.name, at)
		}
	}
	return worst, nil
}

// runOn runs the case on one device, which does nothing else, and returns its outputs.
func (t test) runOn(dev cudakern.Device) (out []result, err error) {
	before := dev.Live()
	out, err = t.pass(dev)
	if err == nil && dev.Live() != before {
		err = fmt.Errorf("%d things were not given back", dev.Live()-before)
	}
	return out, err
}

// pass runs the case on a stream of its own.
func (t test) pass(dev cudakern.Device) (out []result, err error) {
	st, err := dev.NewStream()
	if err != nil {
		return nil, err
	}
	e := &env{dev: dev, st: st, seed: uint64(len(t.op)+31*len(t.name)) + 1}
	err = t.run(e)
	if err == nil {
		out, err = e.collect()
	}
	e.free()
	if cerr := st.Close(); err == nil {
		err = cerr
	}
	return out, err
}

// result is what an output held after a run.
type result struct {
	name  string
	terms int     // numbers summed into each element
	slack float64 // of the algorithm: see amplification
	v     []float32
	raw   []byte // of a byte buffer, instead of v
}

// unit is float32's rounding: half of the distance between neighbours near 1.
const unit = 1.0 / (1 << 24)

// tolerance is how far an element may be off that is a sum of `terms` products of numbers within [-1, 1]. Rounding
// errors of a sum in any order add up like a random walk to a quarter of unit*terms; the bound is sixteen times that,
// and 16 units for the functions applied to it.
func tolerance(terms int, want float64) float64 {
	return unit * (4*float64(terms) + 16*math.Max(1, math.Abs(want)))
}

// compare returns the largest error as a part of the tolerance.
func (r result) compare(want result) (worst float64, err error) {
	if r.raw != nil {
		for i := range want.raw {
			if r.raw[i] != want.raw[i] {
				return math.Inf(1), fmt.Errorf("%s: byte %d is %d, want %d", r.name, i, r.raw[i], want.raw[i])
			}
		}
		return 0, nil
	}
	for i, w := range want.v {
		off := math.Abs(float64(r.v[i])-float64(w)) / (r.slack * tolerance(r.terms, float64(w)))
		if !(off <= 1) { // not a number fails too
			return max(worst, off), fmt.Errorf("%s: element %d is %g, want %g", r.name, i, r.v[i], w)
		}
		worst = max(worst, off)
	}
	return worst, nil
}

// differs returns the first element whose bits differ, or -1.
func (r result) differs(s result) int {
	for i := range r.v {
		if math.Float32bits(r.v[i]) != math.Float32bits(s.v[i]) {
			return i
		}
	}
	for i := range r.raw {
		if r.raw[i] != s.raw[i] {
			return i
		}
	}
	return -1
}

// draw fills a tensor with numbers in [-1, 1), a pure function of (seed, index).
func draw(seed uint64, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		w := philox.Block([4]uint32{uint32(i / 4), 0x7e57}, philox.Split(seed))[i%4]
		out[i] = float32(int32(w)>>8) / (1 << 23)
	}
	return out
}
