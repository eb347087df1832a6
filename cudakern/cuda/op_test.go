//go:build cuda && cgo

package cuda

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"gorgonia.org/cu"

	"colonnade/cudakern"
)

// What kerntest cannot ask of every device: that a mask is drawn word for word, what comes of numbers that are none,
// operands that begin anywhere, views from far outside, and memory that is used again.

// bench is a device with a stream, for tests of single ops.
type bench struct {
	t  *testing.T
	d  *Device
	st *stream
}

func newBench(t *testing.T) bench {
	d := openTest(t, "cuda:0")
	return bench{t, d, streamTest(t, d)}
}

func (b bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// floats makes a buffer that holds v; it is freed at the end of the test.
func (b bench) floats(s cudakern.Shape, v ...float32) cudakern.Buffer {
	b.t.Helper()
	buf := must(b.d.Alloc(s, cudakern.Plain))(b.t)
	b.t.Cleanup(buf.Free)
	if v != nil {
		b.must(b.d.Upload(b.st, buf, v))
	}
	return buf
}

func (b bench) bytes(v []byte) cudakern.Buffer {
	b.t.Helper()
	buf := must(b.d.AllocBytes(len(v)))(b.t)
	b.t.Cleanup(buf.Free)
	b.must(b.d.CopyIn(b.st, buf, v))
	return buf
}

func (b bench) values(buf cudakern.Buffer) []float32 {
	b.t.Helper()
	out := make([]float32, buf.Shape().Len())
	b.must(b.d.Download(b.st, out, buf))
	return out
}

func (b bench) ints(buf cudakern.Buffer) []int32 {
	b.t.Helper()
	raw := make([]byte, buf.Bytes())
	b.must(b.d.CopyOut(b.st, raw, buf))
	b.must(b.st.Sync())
	var out []int32
	for ; len(raw) > 0; raw = raw[4:] {
		out = append(out, int32(binary.NativeEndian.Uint32(raw)))
	}
	return out
}

func int32s(v ...int32) (out []byte) {
	for _, x := range v {
		out = binary.NativeEndian.AppendUint32(out, uint32(x))
	}
	return out
}

var nan, inf = float32(math.NaN()), float32(math.Inf(1))

// TestPhiloxKnownAnswers finds all 32 bits of every word that the kernel draws for the vectors of cudakern/philox: a
// unit is kept if its word is below the threshold, so it is dropped by the word itself and kept by the next number.
func TestPhiloxKnownAnswers(t *testing.T) {
	b := newBench(t)
	const all = 0xffffffff
	shape := cudakern.Shape{1, 4}
	x, y := b.floats(shape, 1, 2, 3, 4), b.floats(shape)
	for _, c := range []struct {
		counter [4]uint32
		key     uint64
		want    [4]uint32
	}{
		{[4]uint32{}, 0, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{[4]uint32{all, all, all, all}, math.MaxUint64, [4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
		{[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822,
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
	} {
		step := uint64(c.counter[2]) | uint64(c.counter[3])<<32
		for i, word := range c.want {
			for _, threshold := range []uint64{uint64(word), uint64(word) + 1} {
				op := must(b.d.NewDropout(cudakern.DropoutDesc{Shape: shape, Layout: cudakern.Plain,
					Keep: float64(threshold) / (1 << 32), FirstUnit: 4 * int(c.counter[0]), FirstImage: int(c.counter[1])}))(t)
				b.must(op.Forward(b.st, c.key, step, x, y))
				kept := b.values(y)[i] != 0
				if want := threshold > uint64(word); kept != want {
					t.Errorf("counter %x, key %x: word %d is not %#x: below %#x is %v", c.counter, c.key, i, word, threshold, kept)
				}
				op.Close()
			}
		}
	}
}

// view is a part of a buffer as kernels see it, from the at-th element on.
func view(b cudakern.Buffer, at, n int) *buffer {
	v := *b.(*buffer)
	v.addr += cu.DevicePtr(4 * at)
	v.shape, v.bytes = cudakern.Shape{n}, 4*n
	return &v
}

// TestAnyAlignment runs the kernels that would rather move 16 bytes at once on operands that begin at other places, all
// together and one of them alone, in rows of every length around a block's and the vectors'.
func TestAnyAlignment(t *testing.T) {
	b := newBench(t)
	for _, n := range []int{1, 2, 3, 4, 5, 7, 8, 31, 1021, 1024, 1025, 2053} {
		for _, at := range [][3]int{{0, 0, 0}, {1, 1, 1}, {2, 2, 2}, {3, 3, 3}, {0, 1, 0}, {0, 0, 3}, {2, 0, 0}} {
			room := cudakern.Shape{n + 8}
			v, w, old := make([]float32, n+8), make([]float32, n+8), make([]float32, n+8)
			for i := range v {
				v[i], w[i], old[i] = float32(i%13)-6, float32(i)/8, -77
			}
			x, y, out := b.floats(room, v...), b.floats(room, w...), b.floats(room, old...)
			b.must(b.d.launch(b.st, "relu_backward", row(n), dim{X: threads}, 0, uint64(n), view(x, at[0], n),
				view(y, at[1], n), view(out, at[2], n)))
			got := b.values(out)
			for i, g := range got {
				want := float32(-77)
				if k := i - at[2]; k >= 0 && k < n {
					if want = 0; v[at[0]+k] > 0 {
						want = w[at[1]+k]
					}
				}
				if g != want {
					t.Fatalf("%d elements, operands %v off: element %d is %g, want %g", n, at, i, g, want)
				}
			}
			b.must(b.d.launch(b.st, "sgd_update", row(n), dim{X: threads}, 0, uint64(n), view(x, at[0], n), view(y, at[1], n),
				view(y, at[1], n), view(x, at[0], n), view(out, at[2], n), float32(0.5), float32(0.25), float32(0)))
			gotW, gotV := b.values(x), b.values(out)
			for k := range n {
				wantV := 0.5*w[at[1]+k] - 0.25*w[at[1]+k]
				if gotV[at[2]+k] != wantV || gotW[at[0]+k] != v[at[0]+k]+wantV {
					t.Fatalf("%d elements, operands %v off: update %d is %g, %g", n, at, k, gotW[at[0]+k], gotV[at[2]+k])
				}
			}
		}
	}
}

// TestNoNumbers: what is no number stays in sight, so that training that has gone wrong is stopped.
func TestNoNumbers(t *testing.T) {
	b := newBench(t)
	is := func(what string, v float32, bad bool) {
		t.Helper()
		if (v != v) != bad {
			t.Errorf("%s: %g", what, v)
		}
	}
	shape := cudakern.Shape{1, 3, 2, 2}
	x := b.floats(shape, 1, nan, -inf, 2, 5, -inf, -inf, -inf, -inf, -inf, -inf, -inf)
	y := b.floats(shape)

	r := must(b.d.NewReLU(cudakern.ReLUDesc{Shape: shape, Layout: cudakern.Plain}))(t)
	defer r.Close()
	b.must(r.Forward(b.st, x, y))
	is("relu", b.values(y)[1], true)

	for _, ties := range []bool{false, true} {
		p := must(b.d.NewPool(cudakern.PoolDesc{N: 1, C: 3, H: 2, W: 2, OutH: 1, OutW: 1, Kernel: 2, Stride: 1,
			TiesAll: ties}))(t)
		small := b.floats(cudakern.Shape{1, 3, 1, 1})
		b.must(p.Forward(b.st, x, small))
		got := b.values(small)
		is("pool", got[0], true)
		if got[1] != 5 || got[2] != -inf {
			t.Errorf("pool of infinities: %v", got)
		}
		p.Close()
	}

	for _, beta := range []float64{0.75, 0.6} {
		n := must(b.d.NewLRN(cudakern.LRNDesc{N: 1, C: 3, H: 2, W: 2, Size: 5, K: 2, Alpha: 0.1, Beta: beta}))(t)
		b.must(n.Forward(b.st, x, y))
		got := b.values(y)
		is("lrn beside", got[5], true)
		is("lrn elsewhere", got[0], false)
		n.Close()
	}

	s := must(b.d.NewSoftmax(cudakern.SoftmaxDesc{N: 5, Classes: 3}))(t)
	defer s.Close()
	logits := b.floats(cudakern.Shape{5, 3}, 1, 2, 3, 1, nan, 3, 1, inf, 3, 1, 2, 3, 1e30, -1e30, 0)
	labels := b.bytes(int32s(2, 0, 0, 3, 0)) // 3 is no class
	loss, d := b.floats(cudakern.Shape{5}), b.floats(cudakern.Shape{5, 3})
	rank, equal := b.bytes(make([]byte, 20)), b.bytes(make([]byte, 20))
	b.must(s.Forward(b.st, logits, labels, 5, loss, rank, equal))
	b.must(s.Backward(b.st, logits, labels, 5, d))
	got, gradient := b.values(loss), b.values(d)
	for n, bad := range []bool{false, true, true, true, false} {
		is(fmt.Sprintf("loss of image %d", n), got[n], bad)
	}
	is("gradient of a sound image", gradient[0], false)
	is("gradient of an image with a logit that is no number", gradient[3], true)
	if got[4] != 0 || gradient[12] != 0 || gradient[13] != 0 {
		t.Errorf("a certain image has loss %g and gradient %v", got[4], gradient[12:])
	}
}

// TestSoftmaxTiles: rows of more classes than are summed at a time, with the greatest logit and the label anywhere.
func TestSoftmaxTiles(t *testing.T) {
	b := newBench(t)
	for _, classes := range []int{1, 2, 31, 33, 255, 257, 511, 512, 513, 1000, 1537} {
		s := must(b.d.NewSoftmax(cudakern.SoftmaxDesc{N: 2, Classes: classes, Whole: 7}))(t)
		v := make([]float32, 2*classes)
		for i := range v {
			v[i] = float32(math.Sin(float64(i))) * 4
		}
		top, label := classes*2/3, classes-1
		v[top] = 5
		logits, labels := b.floats(cudakern.Shape{2, classes}, v...), b.bytes(int32s(int32(label), 0))
		loss, d := b.floats(cudakern.Shape{2}), b.floats(cudakern.Shape{2, classes})
		rank, equal := b.bytes(make([]byte, 8)), b.bytes(make([]byte, 8))
		b.must(s.Forward(b.st, logits, labels, 2, loss, rank, equal))
		b.must(s.Backward(b.st, logits, labels, 2, d))
		got, gradient, ranks := b.values(loss), b.values(d), b.ints(rank)
		for n, t0 := range []int{label, 0} {
			z := v[n*classes:][:classes]
			sum, above := 0.0, int32(0)
			for _, x := range z {
				sum += math.Exp(float64(x))
				if x > z[t0] {
					above++
				}
			}
			want := math.Log(sum) - float64(z[t0])
			if math.Abs(float64(got[n])-want) > 1e-6*(1+want) || ranks[n] != above {
				t.Errorf("%d classes, image %d: loss %g and rank %d, want %g and %d", classes, n, got[n], ranks[n], want, above)
			}
			for c, x := range z {
				p := math.Exp(float64(x)) / sum
				if c == t0 {
					p--
				}
				if g := float64(gradient[n*classes+c]); math.Abs(g-p/7) > 1e-7*math.Abs(p/7)+1e-12 {
					t.Fatalf("%d classes, image %d: gradient %d is %g, want %g", classes, n, c, g, p/7)
				}
			}
		}
		s.Close()
	}
}

// TestPowers holds the exponents that are not the paper's to the last bit or the one before: an image of one map, whose
// sum is its own square, from tiny to huge.
func TestPowers(t *testing.T) {
	b := newBench(t)
	const n = 256
	shape := cudakern.Shape{1, 1, n, 1}
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(math.Pow(2, float64(i-n/2)/9))
	}
	x, y := b.floats(shape, v...), b.floats(shape)
	for _, beta := range []float64{0.75, 0.5, 1.1, 0.001, 3, -0.4} {
		for _, size := range []int{5, 1} {
			op := must(b.d.NewLRN(cudakern.LRNDesc{N: 1, C: 1, H: n, W: 1, Size: size, K: 1e-3, Alpha: 0.5, Beta: beta}))(t)
			b.must(op.Forward(b.st, x, y))
			for i, got := range b.values(y) {
				s := float32(1e-3) + 0.5*(v[i]*v[i])
				want := float64(v[i] * float32(math.Pow(float64(s), -float64(float32(beta)))))
				if off := math.Abs(float64(got)-want) / math.Abs(want); off > 3.0/(1<<23) {
					t.Errorf("beta %g, size %d: y of %g is %g, want %g", beta, size, v[i], got, want)
				}
			}
			op.Close()
		}
	}
}

// TestFarViews looks at images from where additions of 32 bits wrap.
func TestFarViews(t *testing.T) {
	b := newBench(t)
	const size, out = 5, 3
	views := []cudakern.View{{}, {Y: math.MaxInt32}, {Y: math.MinInt32}, {X: math.MaxInt32, Flip: true},
		{X: math.MinInt32}, {Y: -1, X: 4, Flip: true}, {Y: 4, X: -2}, {Y: math.MaxInt32, X: math.MaxInt32}}
	n := len(views)
	pixels := make([]byte, n*size*size)
	for i := range pixels {
		pixels[i] = byte(i*11 + 1)
	}
	op := must(b.d.NewInput(cudakern.InputDesc{N: n, C: 1, H: size, W: size, OutH: out, OutW: out}))(t)
	defer op.Close()
	images, mean := b.bytes(pixels), b.floats(cudakern.Shape{1, 1, size, size})
	y := b.floats(cudakern.Shape{n, 1, out, out})
	b.must(op.Forward(b.st, images, views, mean, 0.5, y))
	for i, got := range b.values(y) {
		v := views[i/(out*out)]
		px, py := i%out, i/out%out
		if v.Flip {
			px = out - 1 - px
		}
		at, left := int64(py)+int64(v.Y), int64(px)+int64(v.X)
		want := float32(0)
		if at >= 0 && at < size && left >= 0 && left < size {
			want = float32(pixels[(i/(out*out)*size+int(at))*size+int(left)]) * 0.5
		}
		if got != want {
			t.Errorf("view %+v: element %d is %g, want %g", v, i%(out*out), got, want)
		}
	}
}

// TestViewsAreReused enqueues many more batches than there is room for views without waiting: each must see its own.
func TestViewsAreReused(t *testing.T) {
	b := newBench(t)
	const n, size = 3, 16
	pixels := make([]byte, n*size*size)
	for i := range pixels {
		pixels[i] = byte(i)
	}
	op := must(b.d.NewInput(cudakern.InputDesc{N: n, C: 1, H: size, W: size, OutH: 1, OutW: 1}))(t)
	defer op.Close()
	images, mean := b.bytes(pixels), b.floats(cudakern.Shape{1, 1, size, size})
	var out []cudakern.Buffer
	views := make([]cudakern.View, n)
	look := func(i, image int) cudakern.View {
		return cudakern.View{Y: int32((i + image) % size), X: int32(i * 5 % size)}
	}
	for i := range 40 {
		out = append(out, b.floats(cudakern.Shape{n, 1, 1, 1}))
		for image := range views {
			views[image] = look(i, image)
		}
		b.must(op.Forward(b.st, images, views, mean, 1, out[i]))
		clear(views) // the caller's own again
	}
	for i := range out {
		for image, got := range b.values(out[i]) {
			v := look(i, image)
			if want := float32(pixels[(image*size+int(v.Y))*size+int(v.X)]); got != want {
				t.Fatalf("batch %d, image %d: %g, want %g", i, image, got, want)
			}
		}
	}
}

// TestReorderIsInOrder has reorders between kernels of the same stream, again and again in the same memory.
func TestReorderIsInOrder(t *testing.T) {
	b := newBench(t)
	maps, flat := cudakern.Shape{2, 3, 16, 16}, cudakern.Shape{2, 768}
	there := must(b.d.NewReorder(cudakern.ReorderDesc{FromShape: maps, From: cudakern.Plain, ToShape: flat,
		To: cudakern.Plain}))(t)
	defer there.Close()
	sum := must(b.d.NewAdd(cudakern.AddDesc{Shape: maps, Layout: cudakern.Plain}))(t)
	defer sum.Close()
	one := make([]float32, maps.Len())
	for i := range one {
		one[i] = 1
	}
	x, ones, y := b.floats(maps, one...), b.floats(maps, one...), b.floats(flat)
	for range 10 {
		b.must(sum.Run(b.st, x, ones))
		b.must(there.Run(b.st, y, x))
	}
	for i, v := range b.values(y) {
		if v != 11 {
			t.Fatalf("element %d is %g, want 11", i, v)
		}
	}
}

// TestHostMemoryIsHeld frees pinned memory right behind the call that copies it.
func TestHostMemoryIsHeld(t *testing.T) {
	b := newBench(t)
	const n = 1 << 20
	for range 4 {
		dst := must(b.d.AllocBytes(n))(t)
		host := must(b.d.AllocHost(n))(t)
		copy(host.Bytes(), pattern(n))
		b.must(b.d.CopyIn(b.st, dst, host.Bytes()))
		host.Free() // waits
		got := make([]byte, n)
		b.must(b.d.CopyOut(b.st, got, dst))
		if !bytes.Equal(got, pattern(n)) {
			t.Fatal("the copy is not what was in the memory")
		}
		dst.Free()
	}
}

// TestRefusals: operands that would have a kernel read or write where it must not.
func TestRefusals(t *testing.T) {
	b := newBench(t)
	r := must(b.d.NewReLU(cudakern.ReLUDesc{Shape: cudakern.Shape{8}, Layout: cudakern.Plain}))(t)
	defer r.Close()
	x, small := b.floats(cudakern.Shape{8}), b.bytes(make([]byte, 8)) // the same shape, a quarter of the memory
	if err := r.Forward(b.st, x, small); !errors.Is(err, cudakern.ErrShape) {
		t.Errorf("relu takes bytes for numbers: %v", err)
	}
	other := openTest(t, "cuda:1")
	far := must(other.Alloc(cudakern.Shape{8}, cudakern.Plain))(t)
	defer far.Free()
	if err := r.Forward(b.st, x, far); !errors.Is(err, cudakern.ErrShape) || !strings.Contains(err.Error(), "cuda:1") {
		t.Errorf("relu on cuda:0 takes a buffer of cuda:1: %v", err)
	}
	if err := r.Forward(streamTest(t, other), x, x); err == nil {
		t.Error("relu on cuda:0 takes a stream of cuda:1")
	}
	if err := r.Forward(nil, x, x); err == nil {
		t.Error("relu takes no stream")
	}
	s := must(b.d.NewSoftmax(cudakern.SoftmaxDesc{N: 2, Classes: 3}))(t)
	defer s.Close()
	z, labels := b.floats(cudakern.Shape{2, 3}), b.bytes(int32s(0, 1))
	for _, valid := range []int{-1, 0, 3} {
		if err := s.Backward(b.st, z, labels, valid, z); !errors.Is(err, cudakern.ErrShape) {
			t.Errorf("softmax of %d valid images of 2: %v", valid, err)
		}
	}
	huge := cudakern.PoolDesc{N: 1, C: 1 << 20, H: 64, W: 64, OutH: 64, OutW: 64, Kernel: 1, Stride: 1}
	if _, err := b.d.NewPool(huge); !errors.Is(err, cudakern.ErrUnsupported) {
		t.Errorf("pool of an image of %d elements: %v", huge.XShape().Len(), err)
	}
	c := must(b.d.NewConcat(cudakern.ConcatDesc{N: 2, Parts: []int{1, 2}}))(t)
	defer c.Close()
	for _, at := range []int{-1, 2} {
		if err := c.Cut(b.st, z, at, z); !errors.Is(err, cudakern.ErrShape) {
			t.Errorf("part %d of 2: %v", at, err)
		}
	}
}
