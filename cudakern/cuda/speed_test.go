//go:build cuda && cgo

package cuda

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"syscall"
	"testing"
	"time"

	"colonnade/cudakern"
)

// What BenchmarkEmulatedProducts times: a product of matrices by the kernel of dense layers, and a convolution of about
// half as many multiplications.
var (
	speedDense = cudakern.DenseDesc{N: 256, In: 1152, Out: 256}
	speedConv  = cudakern.ConvDesc{N: 1, In: 48, H: 16, W: 16, Out: 128, OutH: 16, OutW: 16, Kernel: 5, Stride: 1,
		Pad: cudakern.Pad{Top: 2, Left: 2, Bottom: 2, Right: 2}}
)

// BenchmarkEmulatedProducts says how fast one thread of the emulated driver runs the product's own kernels of 128 x 128
// tiles, by check and by image, in GFLOP for each second of processor time: the best of several launches, so that it is
// about the emulator and not about what else the machine does.
//
//	go test -tags cuda ./cudakern/cuda -run '^$' -bench EmulatedProducts -benchtime 1x
func BenchmarkEmulatedProducts(b *testing.B) {
	for _, check := range []string{"bounds", "off", "full"} {
		for _, image := range []struct{ name, capability string }{{"A", "70"}, {"B", "80"}} {
			for _, product := range []string{"dense", "conv"} {
				b.Run(fmt.Sprintf("check=%s/image=%s/%s", check, image.name, product), func(b *testing.B) {
					best := 0.0
					for b.Loop() {
						out, ok := isolated(b, "speed of "+product, "CUDAEMU_CHECK="+check, "CUDAEMU_CC="+image.capability,
							"CUDAEMU_THREADS=1", "CUDAEMU_SEED=0", "CUDAEMU_COUNTS=")
						rate, err := strconv.ParseFloat(out, 64)
						if !ok || err != nil {
							b.Fatalf("%s (%v)", out, err)
						}
						best = max(best, rate)
					}
					b.ReportMetric(best, "GFLOP/s")
					b.ReportMetric(0, "ns/op") // of a process: says nothing
				})
			}
		}
	}
}

func init() {
	cases["speed of dense"] = func() error {
		c := speedDense
		return speed(2*c.N*c.In*c.Out, c.XShape(), c.WShape(), c.YShape(), func(d *Device) (forwarder, error) {
			op, err := d.NewDense(c)
			if o, ok := op.(*dense); ok { // in one part: the product alone, without the sum of parts
				o.forward.parts, o.forward.each = 1, c.In
			}
			return op, err
		})
	}
	cases["speed of conv"] = func() error {
		c := speedConv
		flops := 2 * c.N * c.Out * c.OutH * c.OutW * c.In * c.Kernel * c.Kernel
		return speed(flops, c.XShape(), c.WShape(), c.YShape(), func(d *Device) (forwarder, error) {
			return d.NewConv(c)
		})
	}
}

type forwarder interface {
	Forward(st cudakern.Stream, x, w, b, y cudakern.Buffer) error
	Close()
}

// speed prints the most GFLOP that a second of the process's time yields in a forward pass. It goes on for a second of
// that time and three passes at least.
func speed(flops int, x, w, y cudakern.Shape, open func(*Device) (forwarder, error)) error {
	d, err := openWith("cuda:0")
	if err != nil {
		return err
	}
	d.onlyTile = tile{128, 128}
	best, err := speedOn(d, flops, x, w, y, open)
	if err == nil {
		fmt.Printf("%.2f\n", best)
	}
	return errors.Join(err, d.Close())
}

func speedOn(d *Device, flops int, xs, ws, ys cudakern.Shape, open func(*Device) (forwarder, error)) (float64, error) {
	op, err := open(d)
	if err != nil {
		return 0, err
	}
	defer op.Close()
	st, err := d.NewStream()
	if err != nil {
		return 0, err
	}
	random := rand.New(rand.NewPCG(1, 2))
	var buffers [3]cudakern.Buffer
	for i, shape := range []cudakern.Shape{xs, ws, ys} {
		v := make([]float32, shape.Len())
		for j := range v {
			v[j] = random.Float32() - 0.5
		}
		if buffers[i], err = d.Alloc(shape, cudakern.Plain); err == nil {
			err = d.Upload(st, buffers[i], v)
		}
		if err != nil {
			return 0, errors.Join(err, st.Close())
		}
	}
	least := time.Duration(1<<63 - 1)
	for start, n := processTime(), 0; err == nil && (n < 3 || processTime()-start < time.Second); n++ {
		before := processTime()
		err = errors.Join(op.Forward(st, buffers[0], buffers[1], nil, buffers[2]), st.Sync())
		least = min(least, processTime()-before)
	}
	for _, b := range buffers {
		b.Free()
	}
	return float64(flops) / float64(least.Nanoseconds()), errors.Join(err, st.Close())
}

// processTime is the time that processors have spent on this process: of it, all but little is the emulator's.
func processTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
