//go:build cuda && cgo

package cuda

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"colonnade/cudakern"
)

// A fault is something that goes wrong with the driver or the GPU, as the emulated driver plays it, and what the
// program must say and do.
type fault struct {
	what string
	run  string   // case
	env  []string // of the emulated driver
	says []string // all of it, in what the case prints
	ok   bool     // the case ends well
}

var faults = []fault{
	{"no GPU", "open", []string{"CUDAEMU_DEVICES=0"}, []string{"cuda:0", "finds no GPU", "unsupported"}, false},
	{"no visible GPU", "open", []string{"CUDA_VISIBLE_DEVICES=-1"},
		[]string{"finds no GPU", "CUDA_VISIBLE_DEVICES"}, false},
	{"a driver that does not start", "open", []string{"CUDAEMU_CHECK=nonsense"},
		[]string{"cuInit", "CUDA_ERROR_SYSTEM_NOT_READY (802)"}, false},
	{"a driver too old", "open", []string{"CUDAEMU_DRIVER=9020"}, []string{"too old", "CUDA 9.2", "need 10.0"}, false},
	{"a GPU too old", "open", []string{"CUDAEMU_CC=60"}, []string{"compute capability 6.0", "7.0"}, false},
	{"a GPU of Volta's", "open", []string{"CUDAEMU_CC=70"}, []string{"image A"}, true},
	{"a GPU of Ampere's", "open", []string{"CUDAEMU_CC=80"}, []string{"image B", "numerics cuda/1/fp32"}, true},
	{"a newer image refused", "open", []string{"CUDAEMU_FAIL=cuModuleLoadDataEx:1:222"}, []string{"image A"}, true},
	{"a newer image not understood", "open", []string{"CUDAEMU_FAIL=cuModuleLoadDataEx:1:218"}, []string{"image A"}, true},
	{"both images refused", "open", []string{"CUDAEMU_FAIL=cuModuleLoadDataEx:1+:222"},
		[]string{"does not take our kernels' PTX", "newer driver", "image A", "UNSUPPORTED_PTX_VERSION (222)", "unsupported"},
		false},
	{"no memory for the kernels", "open", []string{"CUDAEMU_FAIL=cuModuleLoadDataEx:1+:2"},
		[]string{"OUT_OF_MEMORY (2)", "memory"}, false},
	{"a GPU that others hold alone", "open", []string{"CUDAEMU_FAIL=cuDevicePrimaryCtxRetain:1:101"},
		[]string{"cuDevicePrimaryCtxRetain", "101"}, false},
	{"no stream to be had", "open", []string{"CUDAEMU_FAIL=cuStreamCreate:1:2"},
		[]string{"cuStreamCreate", "memory"}, false},
	{"TF32 on a GPU without", "tf32", []string{"CUDAEMU_CC=75"}, []string{"TF32 wants 8.0", "unsupported"}, false},
	{"TF32 with the older image", "tf32", []string{"CUDAEMU_FAIL=cuModuleLoadDataEx:1:222"},
		[]string{"no TF32", "unsupported"}, false},
	{"TF32", "tf32", nil, []string{"numerics cuda/1/tf32"}, true},

	{"memory used up", "alloc", []string{"CUDAEMU_MEMORY=67108864"},
		[]string{"wanted", "of 64.0 MiB", "free", "OUT_OF_MEMORY (2)", "memory"}, false},
	{"an allocation refused", "alloc", []string{"CUDAEMU_FAIL=cuMemAlloc:1+:2"},
		[]string{"OUT_OF_MEMORY", "memory"}, false},
	{"a large slab refused, a small one given", "small", []string{"CUDAEMU_FAIL=cuMemAlloc:1:2"}, []string{"fine"}, true},
	{"memory that cannot be cleared", "small", []string{"CUDAEMU_FAIL=cuMemsetD8Async:1:1"},
		[]string{"cuMemsetD8Async", "INVALID_VALUE (1)"}, false},
	{"no pinned memory", "pinned", []string{"CUDAEMU_FAIL=cuMemHostAlloc:1:2"},
		[]string{"pinned", "cuMemHostAlloc", "4096 bytes", "memory"}, false},
	{"no events", "stream", []string{"CUDAEMU_FAIL=cuEventCreate:3:2"}, []string{"cuEventCreate", "memory"}, false},

	{"a copy refused", "copy", []string{"CUDAEMU_FAIL=cuMemcpyHtoDAsync:1:1"},
		[]string{"cuMemcpyHtoDAsync (1000 bytes): CUDA_ERROR_INVALID_VALUE (1)"}, false},
	{"a copy that finds the GPU gone", "copy", []string{"CUDAEMU_FAIL=cuMemcpyHtoDAsync:1:999"},
		[]string{"cuda:0", "is lost", "cuMemcpyHtoDAsync", "(999)", "then: lost"}, false},
	{"a wait that finds the GPU gone", "copy", []string{"CUDAEMU_FAIL=cuStreamSynchronize:2+:719"},
		[]string{"is lost", "cuStreamSynchronize", "LAUNCH_FAILED (719)", "then: lost"}, false},
	{"an event that finds an uncorrectable error", "event", []string{"CUDAEMU_FAIL=cuEventQuery:1:214"},
		[]string{"is lost", "cuEventQuery", "ECC_UNCORRECTABLE (214)", "then: lost"}, false},
	{"a kernel that there is not", "launch", nil, []string{"the kernels have no no_such_kernel", "unsupported"}, false},
	{"a launch that asks too much", "relu", []string{"CUDAEMU_FAIL=cuLaunchKernel:1:701"},
		[]string{"cuLaunchKernel relu", "grid", "block", "LAUNCH_OUT_OF_RESOURCES (701)", "then: nothing"}, false},
	{"a GPU lost at a launch", "relu", []string{"CUDAEMU_LOST=0:1"}, []string{"cuda:0", "is lost", "then: lost"}, false},
	{"a kernel that reads where nothing is", "illegal", nil,
		[]string{"is lost", "ILLEGAL_ADDRESS (700)", "then: lost"}, false},
}

// kinds are the errors that a caller decides on, by what the cases call them.
func kindsOf(err error) string {
	var out []string
	for _, k := range []struct {
		is   error
		name string
	}{{cudakern.ErrMemory, "memory"}, {cudakern.ErrUnsupported, "unsupported"}, {cudakern.ErrLost, "lost"},
		{cudakern.ErrShape, "shape"}} {
		if errors.Is(err, k.is) {
			out = append(out, k.name)
		}
	}
	if err == nil || len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, ", ")
}

// withKind has an error say what kind it is, for the test that reads the case's output.
func withKind(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w [%s]", err, kindsOf(err))
}

// onDevice runs f on an open device and a stream of it, and then asks for memory: a device that is lost says so.
// Nothing may stay alive, whatever went wrong.
func onDevice(f func(d *Device, st cudakern.Stream) error) func() error {
	return func() error {
		d, err := openWith("cuda:0")
		if err != nil {
			return withKind(err)
		}
		st, err := d.NewStream()
		if err == nil {
			err = f(d, st)
			_ = st.Close() // it says the same again
		}
		if err != nil {
			b, after := d.AllocBytes(1)
			fmt.Println("then:", kindsOf(after))
			if after == nil {
				b.Free()
			}
		}
		if d.Live() != 0 {
			return fmt.Errorf("%d things are left, behind: %w", d.Live(), err)
		}
		return withKind(errors.Join(err, d.Close()))
	}
}

// withBuffer gives f a buffer of n bytes.
func withBuffer(n int, f func(d *Device, st cudakern.Stream, b cudakern.Buffer) error) func() error {
	return onDevice(func(d *Device, st cudakern.Stream) error {
		b, err := d.Alloc(cudakern.Shape{n / 4}, cudakern.Plain)
		if err != nil {
			return err
		}
		defer b.Free()
		return f(d, st, b)
	})
}

func opening(options ...Option) func() error {
	return func() error {
		d, err := openWith("cuda:0", options...)
		if err != nil {
			return withKind(err)
		}
		i := d.Info()
		fmt.Printf("%s %s numerics %s\n", i.Name, i.Model, i.Numerics)
		return d.Close()
	}
}

func init() {
	cases["open"], cases["tf32"] = opening(), opening(TF32())
	cases["alloc"] = onDevice(func(d *Device, _ cudakern.Stream) error {
		b, err := d.Alloc(cudakern.Shape{1 << 25}, cudakern.Plain) // 128 MiB
		if err == nil {
			b.Free()
		}
		return err
	})
	cases["small"] = onDevice(func(d *Device, _ cudakern.Stream) error {
		b, err := d.AllocBytes(100)
		if err == nil {
			fmt.Println("fine")
			b.Free()
		}
		return err
	})
	cases["pinned"] = onDevice(func(d *Device, _ cudakern.Stream) error {
		h, err := d.AllocHost(4096)
		if err == nil {
			h.Free()
		}
		return err
	})
	cases["stream"] = onDevice(func(*Device, cudakern.Stream) error { return nil })
	cases["copy"] = withBuffer(1000, func(d *Device, st cudakern.Stream, b cudakern.Buffer) error {
		return first(d.CopyIn(st, b, make([]byte, 1000)), st.Sync())
	})
	cases["event"] = onDevice(func(d *Device, st cudakern.Stream) error {
		e, err := st.Record()
		if err == nil {
			_, err = e.Done()
		}
		return err
	})
	cases["launch"] = onDevice(func(d *Device, st cudakern.Stream) error {
		return first(d.launch(st.(*stream), "no_such_kernel", dim{X: 1}, dim{X: 32}, 0), st.Sync())
	})
	cases["relu"] = withBuffer(4096, func(d *Device, st cudakern.Stream, b cudakern.Buffer) error {
		op, err := d.NewReLU(cudakern.ReLUDesc{Shape: b.Shape(), Layout: cudakern.Plain})
		if err != nil {
			return err
		}
		defer op.Close()
		return first(op.Forward(st, b, b), st.Sync())
	})
	cases["illegal"] = illegal
	cases["uuid"] = func() error {
		gpus := List().GPUs
		fmt.Println(gpus[0].UUID, len(gpus))
		return nil
	}
}

// illegalPTX is a kernel that reads address 16.
const illegalPTX = `.version 6.3
.target sm_70
.address_size 64
.visible .entry illegal()
{
	.reg .b64 %a<2>;
	.reg .f32 %f<2>;
	mov.u64 %a1, 16;
	ld.global.f32 %f1, [%a1];
	st.global.f32 [%a1], %f1;
	ret;
}
`

func illegal() error {
	dir, err := os.MkdirTemp("", "ptx")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "illegal.ptx")
	if err := os.WriteFile(path, []byte(illegalPTX), 0o600); err != nil {
		return err
	}
	os.Setenv(ptxVariable, path)
	return onDevice(func(d *Device, st cudakern.Stream) error {
		return first(d.launch(st.(*stream), "illegal", dim{X: 1}, dim{X: 1}, 0), st.Sync())
	})()
}

// emptyPTX is an image of no kernel worth the name: the emulated driver has read it at once.
const emptyPTX = ".version 6.3\n.target sm_70\n.address_size 64\n.visible .entry nothing()\n{\n\tret;\n}\n"

// emptyImage is a file of it, for tests that launch nothing.
func emptyImage(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "empty.ptx")
	if err := os.WriteFile(path, []byte(emptyPTX), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFaults plays each fault in a process of its own.
func TestFaults(t *testing.T) {
	empty := emptyImage(t)
	for _, f := range faults {
		if !slices.Contains([]string{"open", "tf32", "relu", "illegal"}, f.run) {
			f.env = append(slices.Clone(f.env), ptxVariable+"="+empty)
		}
		t.Run(f.what, func(t *testing.T) {
			t.Parallel()
			out, ok := isolated(t, f.run, f.env...)
			if ok != f.ok {
				t.Errorf("ends well: %v\n%s", ok, out)
			}
			for _, s := range f.says {
				if !strings.Contains(out, s) {
					t.Errorf("does not say %q:\n%s", s, out)
				}
			}
		})
	}
}

// TestStart: what cuInit answers is told in a line.
func TestStart(t *testing.T) {
	for _, c := range []struct {
		rc, driver  int
		says        string
		unsupported bool
	}{{100, 12000, "finds no GPU", true}, {803, 12000, "restart the machine", true}, {802, 12000, "cuInit", false},
		{0, 9020, "too old", true}, {0, 10000, "", false}, {0, 13000, "", false}} {
		err := startError(c.rc, c.driver)
		if err == nil && c.says == "" {
			continue
		}
		if err == nil || c.says == "" || !strings.Contains(err.Error(), c.says) ||
			errors.Is(err, cudakern.ErrUnsupported) != c.unsupported {
			t.Errorf("cuInit %d, driver %d: %v", c.rc, c.driver, err)
		}
	}
}

// TestNames opens GPUs by number and by UUID, whole or its beginning, also where not all are visible.
func TestNames(t *testing.T) {
	t.Setenv(ptxVariable, emptyImage(t))
	all := List()
	if len(all.GPUs) != 2 || all.Error != "" {
		t.Fatalf("%+v, want two GPUs", all)
	}
	second := all.GPUs[1].UUID
	for _, name := range []string{"cuda:1", second, "cuda:" + second, second[:7]} {
		d := openTest(t, name)
		if d.name != "cuda:1" {
			t.Errorf("%s is %s", name, d.name)
		}
	}
	for name, says := range map[string]string{"cuda:2": "there are 2 GPUs", "cuda:-1": "", "GPU-zz": "no GPU of that name",
		"GPU-": "no GPU", "GPU-e": "2 GPUs begin so"} {
		if _, err := New(name); !errors.Is(err, cudakern.ErrUnsupported) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, visible := range []string{"1", second} {
		if out, ok := isolated(t, "uuid", "CUDA_VISIBLE_DEVICES="+visible); !ok || out != second+" 1" {
			t.Errorf("CUDA_VISIBLE_DEVICES=%s: cuda:0 is %s, want %s", visible, out, second)
		}
	}
}

// TestNeeds: what a dry run says will be taken is taken.
func TestNeeds(t *testing.T) {
	t.Setenv(ptxVariable, emptyImage(t))
	d := openTest(t, "cuda:0")
	build := func(dev cudakern.Device) error {
		st, err := dev.NewStream()
		if err != nil {
			return err
		}
		var kept []cudakern.Buffer
		for _, n := range []int{1, 1000, 20 << 20, 12 << 20, 70 << 20, 3} {
			b, err := dev.AllocBytes(n)
			if err != nil {
				return err
			}
			kept = append(kept, b)
		}
		h, err := dev.AllocHost(100)
		if err != nil {
			return err
		}
		err = errors.Join(dev.CopyIn(st, kept[1], make([]byte, 1000)), dev.CopyIn(st, kept[0], h.Bytes()[:1]), st.Sync())
		for _, b := range kept {
			b.Free()
		}
		h.Free()
		return errors.Join(err, st.Close())
	}
	need, err := d.Needs(build)
	if err != nil {
		t.Fatal(err)
	}
	if err := build(d); err != nil {
		t.Fatal(err)
	}
	var taken int64
	for _, s := range d.heap.slabs {
		taken += s.bytes
	}
	if need != taken || taken < 100<<20 {
		t.Errorf("%d bytes are needed, it is said, and %d were taken", need, taken)
	}
	if err := d.Fits(1 << 20); err != nil {
		t.Error(err)
	}
	if err := d.Fits(1 << 50); !errors.Is(err, cudakern.ErrMemory) || !strings.Contains(err.Error(), "wanted") {
		t.Errorf("a PiB fits: %v", err)
	}
}
