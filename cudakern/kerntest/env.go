package kerntest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"colonnade/cudakern"
)

// env is one run of a case on one device. Its methods note the first error; operands made after one are nil and must
// not be used: check err before running an op.
type env struct {
	dev  cudakern.Device
	st   cudakern.Stream
	seed uint64
	err  error

	operands []*operand
	closers  []func()
}

// operand is a buffer and what it must hold.
type operand struct {
	name    string
	buf     cudakern.Buffer
	given   []float32 // of an input: what was uploaded
	raw     []byte    // of an input of bytes
	out     bool      // to be compared
	scratch bool      // of bytes: may change
	terms   int
	slack   float64
}

// loosen has the last operand compared with a multiple of the usual tolerance.
func (e *env) loosen(slack float64) {
	if e.err == nil {
		e.operands[len(e.operands)-1].slack = slack
	}
}

// closing has an op closed at the end of the run.
func (e *env) closing(close func()) { e.closers = append(e.closers, close) }

func (e *env) alloc(name string, s cudakern.Shape, l cudakern.Layout) *operand {
	o := &operand{name: name, slack: 1}
	if e.err != nil {
		return o
	}
	var err error
	if o.buf, err = e.dev.Alloc(s, l); err != nil {
		e.err = fmt.Errorf("%s: %w", name, err)
		return o
	}
	e.operands = append(e.operands, o)
	return o
}

func (e *env) upload(o *operand, v []float32) {
	if e.err == nil {
		if err := e.dev.Upload(e.st, o.buf, v); err != nil {
			e.err = fmt.Errorf("upload %s: %w", o.name, err)
		}
	}
}

// in makes an input of random numbers in [-1, 1).
func (e *env) in(name string, s cudakern.Shape, l cudakern.Layout) cudakern.Buffer {
	e.seed += 0x9e3779b97f4a7c15
	return e.with(name, s, l, draw(e.seed, s.Len()))
}

// with makes an input of given numbers.
func (e *env) with(name string, s cudakern.Shape, l cudakern.Layout, v []float32) cudakern.Buffer {
	o := e.alloc(name, s, l)
	o.given = v
	e.upload(o, v)
	return o.buf
}

// out makes an output, poisoned so that what is not written shows. terms is how many products each element sums.
func (e *env) out(name string, s cudakern.Shape, l cudakern.Layout, terms int) cudakern.Buffer {
	o := e.alloc(name, s, l)
	o.out, o.terms = true, terms
	poison := make([]float32, s.Len())
	for i := range poison {
		poison[i] = float32(math.NaN())
	}
	e.upload(o, poison)
	return o.buf
}

// inout makes an operand that is read and written.
func (e *env) inout(name string, s cudakern.Shape, l cudakern.Layout, terms int) cudakern.Buffer {
	b := e.in(name, s, l)
	if e.err == nil {
		o := e.operands[len(e.operands)-1]
		o.given, o.out, o.terms = nil, true, terms
	}
	return b
}

// bytes makes an input of bytes, which must not change.
func (e *env) bytes(name string, v []byte) cudakern.Buffer { return e.byteOperand(name, v, false) }

// bytesOut makes an output of n bytes, poisoned.
func (e *env) bytesOut(name string, n int) cudakern.Buffer {
	return e.byteOperand(name, bytes.Repeat([]byte{0xa5}, n), true)
}

// scratch makes a buffer of n bytes that an op may write as it likes, but not beyond.
func (e *env) scratch(name string, n int) cudakern.Buffer {
	b := e.byteOperand(name, bytes.Repeat([]byte{0xa5}, n), true)
	if e.err == nil {
		o := e.operands[len(e.operands)-1]
		o.out, o.scratch = false, true
	}
	return b
}

func (e *env) byteOperand(name string, v []byte, out bool) cudakern.Buffer {
	o := &operand{name: name, slack: 1, raw: v, out: out}
	if e.err != nil {
		return nil
	}
	if o.buf, e.err = e.dev.AllocBytes(len(v)); e.err != nil {
		return nil
	}
	e.operands = append(e.operands, o)
	e.err = e.dev.CopyIn(e.st, o.buf, v)
	return o.buf
}

func int32s(v ...int32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.NativeEndian.AppendUint32(b, uint32(x))
	}
	return b
}

// collect waits for the run and reads everything back: outputs are returned, inputs must be as they were.
func (e *env) collect() (out []result, err error) {
	if err := e.st.Sync(); err != nil {
		return nil, err
	}
	for _, o := range e.operands {
		g, ok := o.buf.(cudakern.Guarded)
		if !ok {
			return nil, fmt.Errorf("%s: buffers have no canary words (cudakern.Guarded), writes past their ends go unseen",
				o.name)
		}
		if err := g.Intact(); err != nil {
			return nil, fmt.Errorf("%s: %w", o.name, err)
		}
		r := result{name: o.name, terms: o.terms, slack: o.slack}
		if o.raw != nil {
			r.raw = make([]byte, len(o.raw))
			if err := e.dev.CopyOut(e.st, r.raw, o.buf); err != nil {
				return nil, err
			}
			if err := e.st.Sync(); err != nil {
				return nil, err
			}
			if !o.out && !o.scratch && !slices.Equal(r.raw, o.raw) {
				return nil, fmt.Errorf("input %s was changed", o.name)
			}
		} else {
			r.v = make([]float32, o.buf.Shape().Len())
			if err := e.dev.Download(e.st, r.v, o.buf); err != nil {
				return nil, err
			}
			if o.given != nil && !slices.Equal(r.v, o.given) {
				return nil, fmt.Errorf("input %s was changed", o.name)
			}
		}
		if o.out {
			if err := e.padding(o); err != nil {
				return nil, err
			}
			out = append(out, r)
		}
	}
	return out, nil
}

// padding wants the padding inside a device's own layout to be zero still: ops count on it. Which bytes are padding
// shows in a buffer of the same layout that is filled with a number of which no byte is zero.
func (e *env) padding(o *operand) error {
	if o.raw != nil || o.buf.Layout() == cudakern.Plain || o.buf.Bytes() == 4*o.buf.Shape().Len() {
		return nil
	}
	full, err := e.dev.Alloc(o.buf.Shape(), o.buf.Layout())
	if err != nil {
		return err
	}
	defer full.Free()
	filler := make([]float32, o.buf.Shape().Len())
	for i := range filler {
		filler[i] = math.Float32frombits(0x3f8f8f8f)
	}
	is, got := make([]byte, full.Bytes()), make([]byte, o.buf.Bytes())
	err = errors.Join(e.dev.Upload(e.st, full, filler), e.dev.CopyOut(e.st, is, full),
		e.dev.CopyOut(e.st, got, o.buf), e.st.Sync())
	if err != nil {
		return err
	}
	for i := range is {
		if is[i] == 0 && got[i] != 0 {
			return fmt.Errorf("%s: byte %d of the layout %s is padding and no longer zero", o.name, i, o.buf.Layout())
		}
	}
	return nil
}

// free gives everything back.
func (e *env) free() {
	for _, c := range slices.Backward(e.closers) {
		c()
	}
	for _, o := range e.operands {
		o.buf.Free()
	}
}
