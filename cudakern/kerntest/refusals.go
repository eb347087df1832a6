package kerntest

import (
	"testing"

	"colonnade/cudakern"
)

// refusals wants buffers of the wrong shape, missing ones and senseless descriptors refused as errors.
func refusals(t testing.TB, dev cudakern.Device) {
	for name, f := range map[string]func() error{
		"buffer without elements": func() error { _, err := dev.Alloc(cudakern.Shape{0}, cudakern.Plain); return err },
		"unknown layout":          func() error { _, err := dev.Alloc(cudakern.Shape{4, 4}, "nonsense"); return err },
		"no bytes":                func() error { _, err := dev.AllocBytes(0); return err },
		"conv of nothing":         func() error { _, err := dev.NewConv(cudakern.ConvDesc{}); return err },
		"window outside": func() error {
			_, err := dev.NewConv(cudakern.ConvDesc{N: 1, In: 1, H: 4, W: 4, Out: 1, OutH: 9, OutW: 4, Kernel: 3, Stride: 1})
			return err
		},
		"dense of nothing": func() error { _, err := dev.NewDense(cudakern.DenseDesc{N: 1}); return err },
		"pool of nothing":  func() error { _, err := dev.NewPool(cudakern.PoolDesc{}); return err },
		"lrn without k":    func() error { _, err := dev.NewLRN(cudakern.LRNDesc{N: 1, C: 1, H: 1, W: 1, Size: 3}); return err },
		"dropout of all":   func() error { _, err := dev.NewDropout(cudakern.DropoutDesc{Shape: cudakern.Shape{1, 4}}); return err },
		"reorder of two": func() error {
			_, err := dev.NewReorder(cudakern.ReorderDesc{FromShape: cudakern.Shape{2}, ToShape: cudakern.Shape{3}})
			return err
		},
	} {
		if err := f(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	run(t, dev, func(s *session) []float32 {
		p, err := dev.NewDense(cudakern.DenseDesc{N: 2, In: 3, Out: 4})
		s.must(err)
		defer p.Close()
		lx, lw, ly := p.Layouts()
		x, w, y := s.buffer(cudakern.Shape{2, 3}, lx, nil), s.buffer(cudakern.Shape{4, 3}, lw, nil), s.buffer(cudakern.Shape{2, 4}, ly, nil)
		if err := p.Forward(s.st, y, w, nil, x); err == nil {
			t.Error("dense takes buffers of the wrong shape")
		}
		if err := p.Forward(s.st, x, w, nil, nil); err == nil {
			t.Error("dense takes a missing buffer")
		}
		if err := dev.Upload(s.st, x, make([]float32, 5)); err == nil {
			t.Error("upload takes too few values")
		}
		if err := dev.Download(s.st, make([]float32, 7), x); err == nil {
			t.Error("download takes too much room")
		}
		return nil
	})
}
