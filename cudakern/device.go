package cudakern

import "errors"

// Errors that a caller decides on.
var (
	ErrShape       = errors.New("shape") // operands do not fit the op
	ErrMemory      = errors.New("out of device memory")
	ErrUnsupported = errors.New("not supported by this device")
	ErrLost        = errors.New("device lost")
	ErrClosed      = errors.New("closed")
)

// Layout names how a buffer's elements lie in memory. Layouts are compared for equality only; every name but Plain is
// private to a device.
type Layout string

// Plain is dense row-major: N,C,H,W for maps, N,F for features, O,I,KH,KW or O,I for weights.
const Plain Layout = "plain"

// Shape is a tensor's dimensions, outermost first: {N,C,H,W}, {N,F}, {O,I,KH,KW}, {O,I} or {O}.
type Shape []int

// Len is the number of elements of a tensor of this shape.
func (s Shape) Len() int {
	n := 1
	for _, d := range s {
		n *= d
	}
	return n
}

// Info says what a device is.
type Info struct {
	Name     string // as given to --device: "cpu", "ref", "cuda:0"
	Model    string // "AMD EPYC, AVX2"
	Numerics string // everything the bits depend on, e.g. "cpu/onednn-2.6.3/avx2/direct"
	Memory   int64  // bytes a job can hope to allocate, 0 if not known
}

// Buffer is a tensor in device memory.
type Buffer interface {
	Shape() Shape
	Layout() Layout
	Bytes() int // including a blocked layout's padding
	Free()      // gives the memory back; freeing twice or using it afterwards is a bug that panics
}

// HostBuffer is host memory that a device can copy from and to without staging (pinned memory on a GPU).
type HostBuffer interface {
	Bytes() []byte
	Free()
}

// Event is a point in a stream's work.
type Event interface{ Done() (bool, error) }

// Stream is a queue of work on a device, done in order. It belongs to one goroutine.
type Stream interface {
	Record() (Event, error) // marks the work enqueued so far
	Wait(Event) error       // what is enqueued from now on waits for the event, which may be another stream's
	Sync() error            // blocks the caller until everything enqueued is done, and reports its errors
	Close() error
}

// Device makes buffers, streams and ops. Everything it makes must be given back before Close.
type Device interface {
	Info() Info

	// Alloc returns a zeroed float32 buffer. A layout that cannot hold the shape is ErrShape.
	Alloc(s Shape, l Layout) (Buffer, error)
	// AllocBytes returns a zeroed buffer of n bytes for images (uint8) and labels (int32); its layout is Plain.
	AllocBytes(n int) (Buffer, error)
	AllocHost(n int) (HostBuffer, error)
	NewStream() (Stream, error)

	// Upload copies canonical (Plain, float32) values from the host into dst, converting to its layout. src may be
	// reused when it returns.
	Upload(st Stream, dst Buffer, src []float32) error
	// Download copies src to the host as canonical float32 values and waits for it.
	Download(st Stream, dst []float32, src Buffer) error
	// CopyIn and CopyOut move a buffer's bytes as they lie (layout and padding included). The host side must not be
	// touched before the stream has passed the copy. Lengths must agree.
	CopyIn(st Stream, dst Buffer, src []byte) error
	CopyOut(st Stream, dst []byte, src Buffer) error
	// Copy copies the bytes of src to dst; shapes and layouts must agree.
	Copy(st Stream, dst, src Buffer) error

	NewConv(ConvDesc) (Conv, error)
	NewDense(DenseDesc) (Dense, error)
	NewReLU(ReLUDesc) (ReLU, error)
	NewTanh(TanhDesc) (Tanh, error)
	NewLRN(LRNDesc) (LRN, error)
	NewPool(PoolDesc) (Pool, error)
	NewDropout(DropoutDesc) (Dropout, error)
	NewSoftmax(SoftmaxDesc) (Softmax, error)
	NewSGD(SGDDesc) (SGD, error)
	NewAdd(AddDesc) (Add, error)
	NewReorder(ReorderDesc) (Reorder, error)
	NewInput(InputDesc) (Input, error)
	NewConcat(ConcatDesc) (Concat, error)

	// Live counts buffers, host buffers, streams and ops not yet given back.
	Live() int
	Close() error
}

// HostMapped is implemented by buffers whose memory the host can address (CPU devices). Mapped returns that memory as
// it lies; it is valid until Free, and the same stream rules hold for it as for any op on the buffer.
type HostMapped interface{ Mapped() []byte }

// Guarded is implemented by buffers that notice when something is written past their ends: they lie between canary
// words, which Intact compares. kerntest asks it of every device; on a GPU the words are read back by a copy.
type Guarded interface{ Intact() error }

// Sizer is implemented by devices with memory of their own that is soon used up. Needs says how many bytes of it build
// will take, by running it on a device that computes nothing and only keeps the books; build gives back what it makes.
// Fits is an error that wraps ErrMemory and says what is wanted and what is free, if so much is not to be had now.
type Sizer interface {
	Needs(build func(Device) error) (int64, error)
	Fits(bytes int64) error
}

// Placer is implemented by devices whose buffers can lie in memory of the caller's choice (CPU devices): memory that
// several processes share, say, or that outlives this one.
type Placer interface {
	// Room is how many bytes AllocAt needs for a buffer: more than the buffer's own, for guards and alignment.
	Room(s Shape, l Layout) (int, error)
	// AllocAt makes a buffer of what lies in memory: its contents stay as they are, so that a buffer of the same shape,
	// layout and device kind that lay there before has the values it had. Memory that never held one must be zero. It
	// must be PlaceAlign-aligned and of Room's length, and stay the buffer's until Free, which gives nothing back to the
	// system and changes nothing in it.
	AllocAt(s Shape, l Layout, memory []byte) (Buffer, error)
}

// PlaceAlign is what memory for Placer must be aligned to, in bytes.
const PlaceAlign = 64

// Lander is implemented by devices whose data moves straight from one to another, without a host buffer: between two of
// one process, and between two processes of one host. The receiver makes a landing, the sender puts data into it, the
// receiver takes it from there; that one is done before the other begins is up to them.
type Lander interface {
	// NewLanding reserves n bytes of the device's memory for others to put data into. It outlives the device: it may be
	// closed before Close or after, does not show in Live, and is no part of what Sizer counts.
	NewLanding(n int) (Landing, error)
	// Attach reaches a landing of another process by its handle. ErrUnsupported where there is no such way.
	Attach(handle []byte) (Landing, error)
	// Reach says whether Put works for a landing that another device of this process has made. ErrUnsupported if not.
	Reach(Landing) error
	// Put enqueues a copy of src to byte `at` of a landing, Take one of as many bytes as dst has from there, which is
	// of a landing that a device like this one has made. st is a stream of this device.
	Put(st Stream, to Landing, at int, src Buffer) error
	Take(st Stream, dst Buffer, from Landing, at int) error
}

// Landing is memory of a device that others put data into. Its methods may be called from any goroutine.
type Landing interface {
	Bytes() int
	// Handle is how other processes of this host reach it. ErrUnsupported where the driver has none.
	Handle() ([]byte, error)
	// Close gives it back, behind every copy that is enqueued; whoever made it calls that when all that were attached
	// have closed theirs. Later copies are ErrClosed; to close twice does nothing.
	Close() error
}
