package ref_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"colonnade/cudakern"
	"colonnade/cudakern/ref"
)

// fixture is one op as PyTorch computed it, in float64; scripts/fixtures/ops.py wrote it.
type fixture struct {
	Op   string            `json:"op"`
	Desc json.RawMessage   `json:"desc"`
	In   map[string]tensor `json:"in"`
	Want map[string]tensor `json:"want"`
}

type tensor struct {
	Shape []int     `json:"shape"`
	Data  []float64 `json:"data"`
}

// bench runs one fixture on a reference device.
type bench struct {
	*testing.T
	dev  cudakern.Device
	st   cudakern.Stream
	f    fixture
	bufs map[string]cudakern.Buffer // outputs, by the name they are wanted under
	all  []cudakern.Buffer
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func (b *bench) desc(into any) {
	b.Helper()
	b.must(json.Unmarshal(b.f.Desc, into))
}

// in uploads an input; nil if the fixture has none of that name.
func (b *bench) in(name string) cudakern.Buffer {
	b.Helper()
	t, ok := b.f.In[name]
	if !ok {
		return nil
	}
	v := make([]float32, len(t.Data))
	for i, x := range t.Data {
		if v[i] = float32(x); float64(v[i]) != x {
			b.Fatalf("%s: %v is no float32", name, x)
		}
	}
	buf, err := b.dev.Alloc(t.Shape, cudakern.Plain)
	b.must(err)
	b.all = append(b.all, buf)
	b.must(b.dev.Upload(b.st, buf, v))
	return buf
}

// out makes an output; nil if the fixture wants none of that name.
func (b *bench) out(name string) cudakern.Buffer {
	b.Helper()
	t, ok := b.f.Want[name]
	if !ok {
		return nil
	}
	buf, err := b.dev.Alloc(t.Shape, cudakern.Plain)
	b.must(err)
	b.all = append(b.all, buf)
	b.bufs[name] = buf
	return buf
}

// bytes makes a byte buffer.
func (b *bench) bytes(v []byte) cudakern.Buffer {
	b.Helper()
	buf, err := b.dev.AllocBytes(len(v))
	b.must(err)
	b.all = append(b.all, buf)
	b.must(b.dev.CopyIn(b.st, buf, v))
	return buf
}

func int32s(v []float64) (out []byte) {
	for _, x := range v {
		out = binary.NativeEndian.AppendUint32(out, uint32(int32(x)))
	}
	return out
}

// bytesAre compares a buffer of int32 with what is wanted under a name, if anything is.
func (b *bench) bytesAre(name string, buf cudakern.Buffer) {
	b.Helper()
	t, ok := b.f.Want[name]
	if !ok {
		return
	}
	delete(b.f.Want, name)
	got := make([]byte, buf.Bytes())
	b.must(b.dev.CopyOut(b.st, got, buf))
	if want := int32s(t.Data); !bytes.Equal(got, want) {
		b.Errorf("%s is %v, PyTorch has %v", name, got, want)
	}
}

// tolerance: results leave the device as float32.
const tolerance = 1.0 / (1 << 23)

func (b *bench) compare() {
	for _, name := range slices.Sorted(maps.Keys(b.f.Want)) {
		buf, ok := b.bufs[name]
		if !ok {
			b.Fatalf("nothing has made %s", name)
		}
		got := make([]float32, buf.Shape().Len())
		b.must(b.dev.Download(b.st, got, buf))
		for i, want := range b.f.Want[name].Data {
			if math.Abs(float64(got[i])-want) > tolerance*max(1, math.Abs(want)) {
				b.Errorf("%s: element %d is %v, PyTorch has %v", name, i, got[i], want)
				break
			}
		}
	}
}

// runs are how an op's fixture is run.
var runs = map[string]func(b *bench){
	"conv": func(b *bench) {
		var d cudakern.ConvDesc
		b.desc(&d)
		p, err := b.dev.NewConv(d)
		b.must(err)
		defer p.Close()
		b.product(p)
	},
	"dense": func(b *bench) {
		var d cudakern.DenseDesc
		b.desc(&d)
		p, err := b.dev.NewDense(d)
		b.must(err)
		defer p.Close()
		b.product(p)
	},
	"relu": func(b *bench) {
		d := cudakern.ReLUDesc{Layout: cudakern.Plain}
		b.desc(&d)
		p, err := b.dev.NewReLU(d)
		b.must(err)
		defer p.Close()
		y := b.out("y")
		b.must(p.Forward(b.st, b.in("x"), y))
		b.must(p.Backward(b.st, y, b.in("dy"), b.out("dx")))
	},
	"tanh": func(b *bench) {
		d := cudakern.TanhDesc{Layout: cudakern.Plain}
		b.desc(&d)
		p, err := b.dev.NewTanh(d)
		b.must(err)
		defer p.Close()
		y := b.out("y")
		b.must(p.Forward(b.st, b.in("x"), y))
		b.must(p.Backward(b.st, y, b.in("dy"), b.out("dx")))
	},
	"lrn": func(b *bench) {
		var d cudakern.LRNDesc
		b.desc(&d)
		p, err := b.dev.NewLRN(d)
		b.must(err)
		defer p.Close()
		x, y := b.in("x"), b.out("y")
		b.must(p.Forward(b.st, x, y))
		b.must(p.Backward(b.st, x, y, b.in("dy"), b.out("dx")))
	},
	"pool": func(b *bench) {
		var d cudakern.PoolDesc
		b.desc(&d)
		p, err := b.dev.NewPool(d)
		b.must(err)
		defer p.Close()
		x, y := b.in("x"), b.out("y")
		b.must(p.Forward(b.st, x, y))
		b.must(p.Backward(b.st, x, y, b.in("dy"), b.out("dx")))
	},
	"softmax": func(b *bench) {
		d := struct {
			cudakern.SoftmaxDesc
			Valid int
		}{}
		b.desc(&d)
		valid := d.Valid
		if valid == 0 {
			valid = d.N
		}
		p, err := b.dev.NewSoftmax(d.SoftmaxDesc)
		b.must(err)
		defer p.Close()
		logits, l := b.in("logits"), b.bytes(int32s(b.f.In["labels"].Data))
		rank, ties := b.bytes(make([]byte, 4*d.N)), b.bytes(make([]byte, 4*d.N))
		b.must(p.Forward(b.st, logits, l, valid, b.out("loss"), rank, ties))
		b.must(p.Backward(b.st, logits, l, valid, b.out("dlogits")))
		b.bytesAre("rank", rank)
		b.bytesAre("ties", ties)
	},
	"dropout": func(b *bench) {
		d := struct {
			cudakern.DropoutDesc
			Key, Step uint64
		}{DropoutDesc: cudakern.DropoutDesc{Layout: cudakern.Plain}}
		b.desc(&d)
		p, err := b.dev.NewDropout(d.DropoutDesc)
		b.must(err)
		defer p.Close()
		x := b.in("x")
		b.must(p.Forward(b.st, d.Key, d.Step, x, b.out("y")))
		b.must(p.Backward(b.st, d.Key, d.Step, b.in("dy"), b.out("dx")))
		b.must(p.Infer(b.st, x, b.out("infer")))
	},
	"add": func(b *bench) {
		d := cudakern.AddDesc{Layout: cudakern.Plain}
		b.desc(&d)
		p, err := b.dev.NewAdd(d)
		b.must(err)
		defer p.Close()
		sum := b.out("sum")
		b.must(b.dev.Copy(b.st, sum, b.in("dst")))
		b.must(p.Run(b.st, sum, b.in("src")))
	},
	"reorder": func(b *bench) {
		d := cudakern.ReorderDesc{From: cudakern.Plain, To: cudakern.Plain}
		b.desc(&d)
		p, err := b.dev.NewReorder(d)
		b.must(err)
		defer p.Close()
		b.must(p.Run(b.st, b.out("dst"), b.in("src")))
	},
	"concat": func(b *bench) {
		var d cudakern.ConcatDesc
		b.desc(&d)
		p, err := b.dev.NewConcat(d)
		b.must(err)
		defer p.Close()
		whole := b.in("whole")
		var parts []cudakern.Buffer
		for i := range d.Parts {
			parts = append(parts, b.in(fmt.Sprintf("part%d", i)))
			b.must(p.Cut(b.st, b.out(fmt.Sprintf("cut%d", i)), i, whole))
		}
		b.must(p.Join(b.st, b.out("join"), parts))
	},
	"input": func(b *bench) {
		d := struct {
			cudakern.InputDesc
			Views []cudakern.View
		}{}
		b.desc(&d)
		p, err := b.dev.NewInput(d.InputDesc)
		b.must(err)
		defer p.Close()
		var pixels []byte
		for _, v := range b.f.In["pixels"].Data {
			pixels = append(pixels, byte(v))
		}
		b.must(p.Forward(b.st, b.bytes(pixels), d.Views, b.in("mean"), 1.0/64, b.out("y")))
	},
	"sgd": func(b *bench) {
		d := struct {
			Shape                 cudakern.Shape
			Momentum, Rate, Decay float32
		}{}
		b.desc(&d)
		p, err := b.dev.NewSGD(cudakern.SGDDesc{Shape: d.Shape, Layout: cudakern.Plain})
		b.must(err)
		defer p.Close()
		b.must(p.Update(b.st, b.in("w"), b.in("v"), b.in("g"), b.out("w1"), b.out("v1"), d.Momentum, d.Rate, d.Decay))
	},
}

// product runs a conv or dense fixture.
func (b *bench) product(p interface {
	Forward(st cudakern.Stream, x, w, b, y cudakern.Buffer) error
	BackwardData(st cudakern.Stream, dy, w, dx cudakern.Buffer) error
	BackwardWeights(st cudakern.Stream, x, dy, dw, db cudakern.Buffer) error
}) {
	b.Helper()
	x, w, dy, y := b.in("x"), b.in("w"), b.in("dy"), b.out("y")
	if y0 := b.in("y0"); y0 != nil {
		b.must(b.dev.Copy(b.st, y, y0))
	}
	b.must(p.Forward(b.st, x, w, b.in("b"), y))
	b.must(p.BackwardData(b.st, dy, w, b.out("dx")))
	b.must(p.BackwardWeights(b.st, x, dy, b.out("dw"), b.out("db")))
}

func TestPyTorchAgrees(t *testing.T) {
	raw, err := os.ReadFile("testdata/torch.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []fixture `json:"cases"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, f := range file.Cases {
		seen[f.Op] = true
		t.Run(fmt.Sprintf("%s %d", f.Op, i), func(t *testing.T) {
			b := &bench{T: t, dev: ref.New(), f: f, bufs: map[string]cudakern.Buffer{}}
			var err error
			b.st, err = b.dev.NewStream()
			b.must(err)
			runs[f.Op](b)
			b.compare()
			for _, buf := range b.all {
				buf.Free()
			}
			b.must(b.st.Close())
			b.must(b.dev.Close())
		})
	}
	// Every op a device makes (its methods New...) must be among the fixtures.
	device := reflect.TypeFor[cudakern.Device]()
	for i := range device.NumMethod() {
		name, ok := strings.CutPrefix(device.Method(i).Name, "New")
		if op := strings.ToLower(name); ok && op != "stream" && !seen[op] {
			t.Errorf("no fixture of %s: PyTorch must hold every op of the reference", op)
		}
	}
}
