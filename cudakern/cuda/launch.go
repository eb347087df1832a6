//go:build cuda && cgo

package cuda

import (
	"errors"
	"fmt"
	"unsafe"

	"colonnade/cudakern"
)

// dim is the size of a grid in blocks or of a block in threads; zero means 1.
type dim struct{ X, Y, Z int }

func (m dim) full() dim { return dim{max(m.X, 1), max(m.Y, 1), max(m.Z, 1)} }

func (m dim) String() string { return fmt.Sprintf("%dx%dx%d", m.X, m.Y, m.Z) }

// most is how large a grid may be, and the threads of a block: of every GPU that the kernels run on.
var most = dim{1<<31 - 1, 65535, 65535}

const mostThreads = 1024

// launching is one launch, on its way to the device's thread.
type launching struct {
	kernel      string
	grid, block dim
	shared      int
	n           int
	cells       [mostArguments]uint64 // an argument each
}

// launch enqueues a kernel. Arguments are *buffer (its device address; nil is 0), int (which must fit 32 bits), int32,
// uint32, uint64, float32 and float64; the kernel's parameters are pointers, int, unsigned, unsigned long long, float
// and double accordingly. shared is dynamic shared memory in bytes. The driver's errors come out at the stream's Sync.
func (d *Device) launch(st *stream, kernel string, grid, block dim, shared int, args ...any) error {
	l := &launching{kernel: kernel, grid: grid.full(), block: block.full(), shared: shared, n: len(args)}
	if err := l.fill(d, args); err != nil {
		return fmt.Errorf("launch %s: %w", kernel, err)
	}
	if st.d != d {
		return fmt.Errorf("launch %s: the stream is of %s, not of %s: %w", kernel, st.d.name, d.name,
			cudakern.ErrUnsupported)
	}
	return st.enqueue(func() error { return d.start(l, st) })
}

// fill checks the launch's sizes and puts the arguments into their cells.
func (l *launching) fill(d *Device, args []any) error {
	g, b := l.grid, l.block
	if g.X > most.X || g.Y > most.Y || g.Z > most.Z || b.X*b.Y*b.Z > mostThreads || b.Z > 64 ||
		l.shared > d.props.sharedMost {
		return fmt.Errorf("grid %v, block %v, %d bytes of shared memory: more than a GPU takes: %w", g, b, l.shared,
			cudakern.ErrShape)
	}
	if len(args) > mostArguments {
		return fmt.Errorf("%d arguments, at most %d: %w", len(args), mostArguments, cudakern.ErrShape)
	}
	for i, a := range args {
		p := unsafe.Pointer(&l.cells[i])
		switch v := a.(type) {
		case *buffer:
			if v == nil {
				continue
			}
			if v.d != d || v.freed {
				panic(fmt.Sprintf("cuda: launch %s: argument %d is a buffer of another device, or freed", l.kernel, i))
			}
			*(*uint64)(p) = uint64(v.addr)
		case int:
			if v != int(int32(v)) {
				return fmt.Errorf("argument %d is %d and does not fit 32 bits: %w", i, v, cudakern.ErrShape)
			}
			*(*int32)(p) = int32(v)
		case int32:
			*(*int32)(p) = v
		case uint32:
			*(*uint32)(p) = v
		case uint64:
			*(*uint64)(p) = v
		case float32:
			*(*float32)(p) = v
		case float64:
			*(*float64)(p) = v
		default:
			panic(fmt.Sprintf("cuda: launch %s: argument %d is a %T", l.kernel, i, a))
		}
	}
	return nil
}

// sharedAsIs is how much dynamic shared memory every kernel may have.
const sharedAsIs = 48 << 10

// start calls the driver; on the device's thread.
func (d *Device) start(l *launching, st *stream) error {
	f, err := d.kernel(l.kernel)
	if err != nil {
		return err
	}
	if l.shared > sharedAsIs && l.shared > f.shared {
		if err := allowShared(f.f, l.shared); err != nil {
			return fmt.Errorf("kernel %s, %d bytes of shared memory: %w", l.kernel, l.shared, err)
		}
		f.shared = l.shared
	}
	err = startKernel(f.f, l.grid, l.block, l.shared, st.s, l.cells[:l.n])
	if e, ok := errors.AsType[*Error](err); ok {
		e.Kernel = l.kernel
		e.Detail = fmt.Sprintf("grid %v, block %v, shared %d, stream of %s", l.grid, l.block, l.shared, d.name)
	}
	return err
}
