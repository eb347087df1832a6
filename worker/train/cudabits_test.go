//go:build cuda && cgo

package train

import (
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/cpu"
	"colonnade/cudakern/cuda"
)

// TestCUDABitsOfTheCPU: ops whose every rounding is defined give the bits that the CPU device gives, however their maps
// lie there and however many threads cut them.
func TestCUDABitsOfTheCPU(t *testing.T) {
	if os.Getenv("COLONNADE_LIBCUDA") == "" {
		t.Skip("wants a driver: scripts/test runs it on the emulated one")
	}
	host, err := cpu.New()
	if err != nil {
		t.Fatal(err)
	}
	gpu, err := cuda.New("cuda:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(host.Close(), gpu.Close()); err != nil {
			t.Error(err)
		}
	}()
	for name, run := range map[string]func(*side) error{"lrn": bitsOfLRN, "pool": bitsOfPool, "rows": bitsOfRows,
		"tanh": bitsOfTanh} {
		var got, want side
		for s, d := range map[*side]cudakern.Device{&got: gpu, &want: host} {
			if err := s.on(d, run); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		for i, w := range want.out {
			for j := range w {
				if math.Float32bits(got.out[i][j]) != math.Float32bits(w[j]) {
					t.Fatalf("%s, result %d: element %d is %g, on the CPU %g", name, i, j, got.out[i][j], w[j])
				}
			}
		}
	}
}

// side runs ops on one of the two devices; out is what they came to.
type side struct {
	cudakern.Device
	st  cudakern.Stream
	r   *rand.Rand
	err error
	all []cudakern.Buffer
	out [][]float32
}

func (s *side) on(d cudakern.Device, run func(*side) error) (err error) {
	s.Device, s.r = d, rand.New(rand.NewPCG(1, 2))
	if s.st, err = d.NewStream(); err != nil {
		return err
	}
	err = run(s)
	for _, b := range s.all {
		b.Free()
	}
	return errors.Join(err, s.err, s.st.Close())
}

// in makes an operand of numbers in [-2, 2], many of them equal.
func (s *side) in(shape cudakern.Shape, l cudakern.Layout) cudakern.Buffer {
	v := make([]float32, shape.Len())
	for i := range v {
		v[i] = float32(s.r.IntN(401)-200) / 100
	}
	b, err := s.Alloc(shape, l)
	if err != nil {
		s.err = errors.Join(s.err, err)
		return nil
	}
	s.all = append(s.all, b)
	s.err = errors.Join(s.err, s.Upload(s.st, b, v))
	return b
}

// take reads results, behind the ops that errs are of.
func (s *side) take(errs error, results ...cudakern.Buffer) error {
	if err := errors.Join(s.err, errs); err != nil {
		return err
	}
	for _, b := range results {
		v := make([]float32, b.Shape().Len())
		s.out = append(s.out, v)
		if err := s.Download(s.st, v, b); err != nil {
			return err
		}
	}
	return nil
}

func bitsOfLRN(s *side) error {
	for _, c := range []int{1, 3, 13, 16, 48} {
		d := cudakern.LRNDesc{N: 2, C: c, H: 5, W: 7, Size: 5, K: 2, Alpha: 0.3, Beta: 0.75}
		op, err := s.NewLRN(d)
		if err != nil {
			return err
		}
		defer op.Close()
		l := op.Layouts()
		x, y, dy, dx := s.in(d.Shape(), l), s.in(d.Shape(), l), s.in(d.Shape(), l), s.in(d.Shape(), l)
		if err := s.take(errors.Join(op.Forward(s.st, x, y), op.Backward(s.st, x, y, dy, dx)), y, dx); err != nil {
			return err
		}
	}
	return nil
}

func bitsOfPool(s *side) error {
	for _, ties := range []bool{false, true} {
		for _, c := range []int{3, 16} {
			d := cudakern.PoolDesc{N: 2, C: c, H: 9, W: 8, OutH: 5, OutW: 4, Kernel: 3, Stride: 2, TiesAll: ties,
				Pad: cudakern.Pad{Top: 1}}
			op, err := s.NewPool(d)
			if err != nil {
				return err
			}
			defer op.Close()
			lx, ly := op.Layouts()
			x, y, dy, dx := s.in(d.XShape(), lx), s.in(d.YShape(), ly), s.in(d.YShape(), ly), s.in(d.XShape(), lx)
			if err := s.take(errors.Join(op.Forward(s.st, x, y), op.Backward(s.st, x, y, dy, dx)), y, dx); err != nil {
				return err
			}
		}
	}
	return nil
}

// bitsOfRows are of ops element by element.
func bitsOfRows(s *side) error {
	shape := cudakern.Shape{3, 1021}
	sgd, err := s.NewSGD(cudakern.SGDDesc{Shape: shape, Layout: cudakern.Plain})
	if err != nil {
		return err
	}
	defer sgd.Close()
	drop, err := s.NewDropout(cudakern.DropoutDesc{Shape: shape, Layout: cudakern.Plain, Keep: 0.7, ScaleTrain: true})
	if err != nil {
		return err
	}
	defer drop.Close()
	add, err := s.NewAdd(cudakern.AddDesc{Shape: shape, Layout: cudakern.Plain})
	if err != nil {
		return err
	}
	defer add.Close()
	const plain = cudakern.Plain
	w, v, g, w1, v1, y := s.in(shape, plain), s.in(shape, plain), s.in(shape, plain), s.in(shape, plain),
		s.in(shape, plain), s.in(shape, plain)
	return s.take(errors.Join(s.err, sgd.Update(s.st, w, v, g, w1, v1, 0.9, 0.013, 0.0005), drop.Forward(s.st, 7, 8, g, y),
		add.Run(s.st, g, w)), w1, v1, y, g)
}

// TestCUDAMirror: a cell on a GPU goes on from what was written to the host's memory.
func TestCUDAMirror(t *testing.T) {
	if os.Getenv("COLONNADE_LIBCUDA") == "" {
		t.Skip("wants a driver: scripts/test runs it on the emulated one")
	}
	gpu, err := cuda.New("cuda:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := gpu.Close(); err != nil {
			t.Error(err)
		}
	}()
	testMirror(t, gpu)
}

// bitsOfTanh go over all of the curve, and over sizes from the least number to the largest.
func bitsOfTanh(s *side) error {
	shape := cudakern.Shape{1, 20001}
	op, err := s.NewTanh(cudakern.TanhDesc{Shape: shape, Layout: cudakern.Plain})
	if err != nil {
		return err
	}
	defer op.Close()
	x, y, dy, dx := s.in(shape, cudakern.Plain), s.in(shape, cudakern.Plain), s.in(shape, cudakern.Plain),
		s.in(shape, cudakern.Plain)
	v := make([]float32, shape.Len())
	for i := range v {
		if v[i] = float32(i-10000) / 1000; i%4 == 0 {
			v[i] = math.Float32frombits(s.r.Uint32() &^ (1 << 30)) // below 2, either sign
		}
	}
	v[0], v[1], v[2] = float32(math.Inf(1)), -math.MaxFloat32, float32(math.Copysign(0, -1))
	return s.take(errors.Join(s.err, s.Upload(s.st, x, v), op.Forward(s.st, x, y), op.Backward(s.st, y, dy, dx)), y, dx)
}
