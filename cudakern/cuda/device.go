//go:build cuda && cgo

// Package cuda is the CUDA device: float32 on a GPU of NVIDIA's, through gorgonia.org/cu and a small supplement of our
// own. The kernels are PTX that the driver compiles for the GPU at hand; see kernels. All maps, features and weights
// are Plain. See DESIGN.md.
package cuda

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"gorgonia.org/cu"

	"colonnade/cudakern"
)

// kernels is the version of this package's arithmetic: part of the numerics id.
const kernelsVersion = 1

// Device is one GPU, opened. It implements cudakern.Device.
type Device struct {
	config
	name   string // "cuda:0"
	props  props
	image  byte // 'A': PTX for sm_70, 'B': for sm_80
	dev    cu.Device
	ctx    cu.CUContext // the GPU's primary context: shared by all who open the GPU in this process
	thread *thread
	module cu.Module
	zeroes cu.Stream // that new memory is cleared on
	live   atomic.Int64
	lost   atomic.Pointer[lostError]
	dry    bool // no GPU is asked anything: see Needs

	onlyTile tile // of tests: what products are made of where there is such a kernel

	heapMu sync.Mutex
	heap   heap

	// Of the device's thread.
	reaches map[cu.Device]bool // whether we reach a GPU's memory, of those that it was asked of

	mu        sync.Mutex
	streams   map[*stream]struct{}
	functions map[string]*function
	shut      bool
}

// props are what kernels and their launches are chosen by, and what people are told. No result depends on them.
type props struct {
	model              string
	major, minor       int // compute capability
	processors         int // SMs
	shared, sharedMost int // bytes of shared memory a block may have: as it is, and when asked for
	memory             int64
	clock, memoryClock int // kHz
	bus                int // bits
}

// capability is the compute capability as one number: 80 for 8.0.
func (p props) capability() int { return 10*p.major + p.minor }

var _ cudakern.Device = (*Device)(nil)

// lostError is why a device is of no use any more.
type lostError struct{ error }

// New opens a GPU: "cuda:N", N as the driver counts (CUDA_VISIBLE_DEVICES choose and order), or by its UUID,
// "GPU-..." or the first letters of it that are its own.
func New(name string, options ...Option) (cudakern.Device, error) {
	d, err := openWith(name, options...)
	if err != nil {
		return nil, err // and no Device that is a nil *Device
	}
	return d, nil
}

func openWith(name string, options ...Option) (*Device, error) {
	c := config{slab: 32 << 20}
	for _, o := range options {
		o(&c)
	}
	if err := driverWorks(); err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	dev, err := find(name)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	d := &Device{config: c, name: fmt.Sprintf("cuda:%d", int(dev)), dev: dev,
		reaches: map[cu.Device]bool{}, streams: map[*stream]struct{}{}, functions: map[string]*function{}}
	d.heap.slabBytes = c.slab
	d.thread, err = startThread(d.begin)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", d.name, err)
	}
	return d, nil
}

// oldestCapability is that of image A.
const oldestCapability = 70

// begin makes the device's thread one that drives the GPU.
func (d *Device) begin() (err error) {
	if d.props, err = properties(d.dev); err != nil {
		return err
	}
	if d.props.capability() < oldestCapability {
		return cannot("%s has compute capability %d.%d, and our kernels run from 7.0 on (Volta, Turing and newer)",
			d.props.model, d.props.major, d.props.minor)
	}
	if d.tf32 && d.props.capability() < 80 {
		return cannot("%s has compute capability %d.%d, and TF32 wants 8.0; leave --tf32 out", d.props.model,
			d.props.major, d.props.minor)
	}
	// A thread that waits sleeps: the processor has images to decode. Refused when the context is there already.
	_ = d.dev.SetPrimaryCtxFlags(cu.SchedBlockingSync)
	if d.ctx, err = d.dev.RetainPrimaryCtx(); err != nil {
		return failed(err, "cuDevicePrimaryCtxRetain", d.props.model)
	}
	defer func() {
		if err != nil {
			_ = d.dev.ReleasePrimaryCtx()
		}
	}()
	if err = failed(cu.SetCurrentContext(d.ctx), "cuCtxSetCurrent", ""); err != nil {
		return err
	}
	if d.module, d.image, err = loadKernels(d.props.capability()); err != nil {
		return err
	}
	if d.tf32 && d.image == 'A' {
		err = cannot("the driver takes only the older image of our kernels, which has no TF32; install a newer driver, " +
			"or leave --tf32 out")
		return first(err, failed(d.module.Unload(), "cuModuleUnload", ""))
	}
	if d.zeroes, err = cu.MakeStream(cu.NonBlocking); err != nil {
		return first(failed(err, "cuStreamCreate", ""), failed(d.module.Unload(), "cuModuleUnload", ""))
	}
	return nil
}

// end gives all back that begin took.
func (d *Device) end() error {
	return errors.Join(failed(d.zeroes.Destroy(), "cuStreamDestroy", ""), d.freeSlabs(),
		failed(d.module.Unload(), "cuModuleUnload", ""), failed(d.dev.ReleasePrimaryCtx(), "cuDevicePrimaryCtxRelease", ""))
}

// do calls f on the device's thread and waits for it. A lost device is asked nothing any more.
func (d *Device) do(f func() error) error {
	if d.dry {
		return nil
	}
	return d.thread.do(d.guarded(f))
}

// post has f called on the device's thread; its error is the stream's.
func (d *Device) post(st *stream, f func() error) error {
	if d.dry {
		return nil
	}
	return d.thread.post(st, d.guarded(f))
}

// flush returns when all that was posted has been called.
func (d *Device) flush() error { return d.do(func() error { return nil }) }

func (d *Device) guarded(f func() error) func() error {
	return func() error {
		if l := d.lost.Load(); l != nil {
			return l
		}
		return d.noticed(f())
	}
}

// noticed remembers an error that the device does not recover from.
func (d *Device) noticed(err error) error {
	if err != nil && errors.Is(err, cudakern.ErrLost) {
		err = fmt.Errorf("%s (%s) is lost: %w", d.name, d.props.model, err)
		d.lost.CompareAndSwap(nil, &lostError{err})
	}
	return err
}

func (l *lostError) Unwrap() error { return l.error }

func (d *Device) Info() cudakern.Info {
	free, _, err := d.memory()
	if err != nil {
		free = d.props.memory
	}
	return cudakern.Info{Name: d.name, Memory: free,
		Model: fmt.Sprintf("%s, compute capability %d.%d, %d SMs, image %c", d.props.model, d.props.major, d.props.minor,
			d.props.processors, d.image),
		Numerics: numerics(d.tf32)}
}

// numerics names what the bits depend on: neither the GPU nor the image does, see kernels.
func numerics(tf32 bool) string {
	kind := "fp32"
	if tf32 {
		kind = "tf32"
	}
	return fmt.Sprintf("cuda/%d/%s", kernelsVersion, kind)
}

// Peak is what the GPU could do at best by its clocks: float32 operations (2 for a multiply-add) and bytes of memory a
// second; 0 where the driver does not say.
func (d *Device) Peak() (flops, bytes float64) { return d.props.flops(), d.props.bandwidth() }

// memory is the GPU's free and whole memory in bytes.
func (d *Device) memory() (free, total int64, err error) {
	err = d.do(func() error {
		var err error
		free, total, err = cu.MemInfo()
		return failed(err, "cuMemGetInfo", "")
	})
	return free, total, err
}

func (d *Device) Live() int { return int(d.live.Load()) }

func (d *Device) opened() { d.live.Add(1) }
func (d *Device) closed() { d.live.Add(-1) }

func (d *Device) Close() error {
	if n := d.Live(); n != 0 {
		return fmt.Errorf("close device %s: %d buffers, streams and ops are still in use", d.name, n)
	}
	d.mu.Lock()
	shut := d.shut
	d.shut = true
	d.mu.Unlock()
	if shut {
		return nil
	}
	err := d.do(d.end)
	d.thread.close()
	if errors.Is(err, cudakern.ErrLost) { // said before, by whatever noticed it first
		return nil
	}
	return err
}

// op is what all ops have in common: they count as alive until closed, and may own workspace.
type op struct {
	d    *Device
	name string // for errors: "conv", with its descriptor
	own  []*buffer
}

// newOp counts an op. Whoever fails to make it whole after that closes it.
func (d *Device) newOp(name string) op {
	d.opened()
	return op{d: d, name: name}
}

// workspace allocates memory of the op's own, given back by close.
func (o *op) workspace(bytes int) (*buffer, error) {
	b, err := o.d.workspace(bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: workspace: %w", o.name, err)
	}
	o.own = append(o.own, b)
	return b, nil
}

// close gives the op and its workspace back.
func (o *op) close() {
	for _, b := range o.own {
		b.release()
	}
	o.own = nil
	o.d.closed()
}

// Close gives the op back.
func (o *op) Close() { o.close() }

// NewConv and its kin: see op_*.go.
func (d *Device) NewConv(c cudakern.ConvDesc) (cudakern.Conv, error)    { return newConv(d, c) }
func (d *Device) NewDense(c cudakern.DenseDesc) (cudakern.Dense, error) { return newDense(d, c) }
func (d *Device) NewReLU(c cudakern.ReLUDesc) (cudakern.ReLU, error)    { return newReLU(d, c) }
func (d *Device) NewTanh(c cudakern.TanhDesc) (cudakern.Tanh, error)    { return newTanh(d, c) }
func (d *Device) NewLRN(c cudakern.LRNDesc) (cudakern.LRN, error)       { return newLRN(d, c) }
func (d *Device) NewPool(c cudakern.PoolDesc) (cudakern.Pool, error)    { return newPool(d, c) }
func (d *Device) NewDropout(c cudakern.DropoutDesc) (cudakern.Dropout, error) {
	return newDropout(d, c)
}
func (d *Device) NewSoftmax(c cudakern.SoftmaxDesc) (cudakern.Softmax, error) {
	return newSoftmax(d, c)
}
func (d *Device) NewSGD(c cudakern.SGDDesc) (cudakern.SGD, error) { return newSGD(d, c) }
func (d *Device) NewAdd(c cudakern.AddDesc) (cudakern.Add, error) { return newAdd(d, c) }
func (d *Device) NewReorder(c cudakern.ReorderDesc) (cudakern.Reorder, error) {
	return newReorder(d, c)
}
func (d *Device) NewInput(c cudakern.InputDesc) (cudakern.Input, error)    { return newInput(d, c) }
func (d *Device) NewConcat(c cudakern.ConcatDesc) (cudakern.Concat, error) { return newConcat(d, c) }
