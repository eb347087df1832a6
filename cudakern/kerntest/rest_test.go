package kerntest_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/kerntest"
	"colonnade/cudakern/ref"
)

// recorder is a testing.TB that keeps what is reported.
type recorder struct {
	testing.TB
	mu     sync.Mutex
	errors []string
}

func (r *recorder) Helper() {}
func (r *recorder) Error(args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors = append(r.errors, fmt.Sprint(args...))
}
func (r *recorder) Errorf(format string, args ...any) { r.Error(fmt.Sprintf(format, args...)) }
func (r *recorder) Fatal(args ...any)                 { r.Error(args...); panic(r) }

// closeless closes whatever is alive.
type closeless struct{ cudakern.Device }

func (closeless) Close() error { return nil }

// shared gives every stream's work the number of the calls so far, as an atomic sum would.
type shared struct {
	cudakern.Device
	calls *atomic.Int64
}

type sharedAdd struct {
	cudakern.Add
	s shared
}

func (s shared) NewAdd(d cudakern.AddDesc) (cudakern.Add, error) {
	op, err := s.Device.NewAdd(d)
	return sharedAdd{op, s}, err
}

func (a sharedAdd) Run(st cudakern.Stream, dst, src cudakern.Buffer) error {
	n := a.s.calls.Add(1)
	return errors.Join(a.Add.Run(st, dst, src), poke(a.s.Device, st, dst, func(v float32) float32 {
		return v + float32(n)
	}))
}

// TestTheRestFindsFaults plants faults for the parts of RunAll that do not ask the reference.
func TestTheRestFindsFaults(t *testing.T) {
	open := func(d cudakern.Device) func(testing.TB) cudakern.Device {
		return func(testing.TB) cudakern.Device { return d }
	}
	gradients := func(f faulty) func(testing.TB) {
		f.Device = ref.New()
		return func(r testing.TB) { kerntest.Gradients(r, f) }
	}
	type (
		dev   = cudakern.Device
		conv  = cudakern.Conv
		dense = cudakern.Dense
	)
	for name, f := range map[string]func(testing.TB){
		"conv by data":     gradients(faulty{convOp: func(d dev, p conv) conv { return spoilData(d, p) }}),
		"conv by weights":  gradients(faulty{convOp: func(d dev, p conv) conv { return spoilWeights(d, p) }}),
		"conv by bias":     gradients(faulty{convOp: func(d dev, p conv) conv { return spoilBias(d, p) }}),
		"dense by data":    gradients(faulty{dense: func(d dev, p dense) dense { return spoilData(d, p) }}),
		"dense by weights": gradients(faulty{dense: func(d dev, p dense) dense { return spoilWeights(d, p) }}),
		"dense by bias":    gradients(faulty{dense: func(d dev, p dense) dense { return spoilBias(d, p) }}),
		"pool":             gradients(faulty{poolOp: func(d dev, p cudakern.Pool) cudakern.Pool { return poolThat{p, d} }}),
		"lrn":              gradients(faulty{lrnOp: func(d dev, p cudakern.LRN) cudakern.LRN { return lrnThat{p, d} }}),
		"relu":             gradients(faulty{relu: func(r cudakern.ReLU) cudakern.ReLU { return reluThrough{r} }}),
		"tanh":             gradients(faulty{tanh: spoilTanh(true)}),
		"dropout": gradients(faulty{dropOp: func(d dev, p cudakern.Dropout) cudakern.Dropout {
			return dropoutThat{p, d, false}
		}}),
		"softmax": gradients(faulty{softmax: func(s cudakern.Softmax) cudakern.Softmax {
			return softmaxOfAll{s, 1}
		}}),
		"streams meet":    func(r testing.TB) { kerntest.Together(r, shared{ref.New(), new(atomic.Int64)}) },
		"closes in use":   func(r testing.TB) { kerntest.Ownership(r, open(closeless{ref.New()})) },
		"takes any shape": func(r testing.TB) { kerntest.Refusals(r, trusting{ref.New()}) },
		"finite": func(r testing.TB) {
			d := ref.New()
			kerntest.NoNumbers(r, faulty{Device: d, softmax: func(s cudakern.Softmax) cudakern.Softmax {
				return softmaxFinite{s, d}
			}})
		},
		"never looks": func(r testing.TB) {
			kerntest.Watched(r, faulty{Device: ref.New(), sgd: func(s cudakern.SGD) cudakern.SGD { return sgdSays{s, true} }})
		},
		"always worried": func(r testing.TB) {
			kerntest.Watched(r, faulty{Device: ref.New(), sgd: func(s cudakern.SGD) cudakern.SGD { return sgdSays{s, false} }})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &recorder{TB: t}
			func() {
				defer func() {
					if p := recover(); p != nil && p != any(r) {
						panic(p)
					}
				}()
				f(r)
			}()
			if len(r.errors) == 0 {
				t.Error("nothing is noticed")
			}
			t.Log(r.errors)
		})
	}
}

// sgdSays has one answer to whether what it writes is finite.
type sgdSays struct {
	cudakern.SGD
	finite bool
}

func (s sgdSays) Finite() bool { return s.finite }

// trusting believes what it is given.
type trusting struct{ cudakern.Device }

type trustingAdd struct{ cudakern.Add }

func (d trusting) NewAdd(c cudakern.AddDesc) (cudakern.Add, error) {
	op, err := d.Device.NewAdd(c)
	return trustingAdd{op}, err
}

func (a trustingAdd) Run(st cudakern.Stream, dst, src cudakern.Buffer) error {
	_ = a.Add.Run(st, dst, src)
	return nil
}
