package kerntest

import (
	"maps"
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
		"lrn without k": func() error {
			_, err := dev.NewLRN(cudakern.LRNDesc{N: 1, C: 1, H: 1, W: 1, Size: 3})
			return err
		},
		"dropout of all": func() error {
			_, err := dev.NewDropout(cudakern.DropoutDesc{Shape: shapes[0]})
			return err
		},
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
		x, w, y := s.buffer(cudakern.Shape{2, 3}, lx, nil), s.buffer(cudakern.Shape{4, 3}, lw, nil),
			s.buffer(cudakern.Shape{2, 4}, ly, nil)
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
	for op, f := range misfits(dev) {
		run(t, dev, func(s *session) []float32 {
			if err := f(s); err == nil {
				t.Errorf("%s takes operands of the wrong shape", op)
			}
			return nil
		})
	}
}

// misfits run each op on an operand that does not fit. A kernel that took it would read or write past its end.
func misfits(dev cudakern.Device) map[string]func(s *session) error {
	out := misfitsOfMaps(dev)
	maps.Copy(out, misfitsOfRows(dev))
	return out
}

const plain = cudakern.Plain

// misfitsOfMaps are of the ops on maps.
func misfitsOfMaps(dev cudakern.Device) map[string]func(s *session) error {
	maps, other := cudakern.Shape{2, 4, 6, 6}, cudakern.Shape{2, 4, 6, 5}
	return map[string]func(s *session) error{
		"conv": func(s *session) error {
			d := cudakern.ConvDesc{N: 2, In: 4, H: 6, W: 6, Out: 4, OutH: 6, OutW: 6, Kernel: 1, Stride: 1}
			p, err := dev.NewConv(d)
			s.must(err)
			defer p.Close()
			lx, lw, ly := p.Layouts()
			return p.Forward(s.st, s.buffer(other, lx, nil), s.buffer(d.WShape(), lw, nil), nil, s.buffer(maps, ly, nil))
		},
		"conv by weights": func(s *session) error {
			d := cudakern.ConvDesc{N: 2, In: 4, H: 6, W: 6, Out: 4, OutH: 6, OutW: 6, Kernel: 1, Stride: 1}
			p, err := dev.NewConv(d)
			s.must(err)
			defer p.Close()
			lx, lw, ly := p.Layouts()
			dw := s.buffer(cudakern.Shape{4, 3, 1, 1}, lw, nil)
			return p.BackwardWeights(s.st, s.buffer(maps, lx, nil), s.buffer(maps, ly, nil), dw, nil)
		},
		"relu": func(s *session) error {
			p, err := dev.NewReLU(cudakern.ReLUDesc{Shape: maps, Layout: plain})
			s.must(err)
			defer p.Close()
			return p.Forward(s.st, s.buffer(maps, plain, nil), s.buffer(other, plain, nil))
		},
		"tanh": func(s *session) error {
			p, err := dev.NewTanh(cudakern.TanhDesc{Shape: maps, Layout: plain})
			s.must(err)
			defer p.Close()
			return p.Backward(s.st, s.buffer(maps, plain, nil), s.buffer(maps, plain, nil), s.buffer(other, plain, nil))
		},
		"lrn": func(s *session) error {
			p, err := dev.NewLRN(cudakern.LRNDesc{N: 2, C: 4, H: 6, W: 6, Size: 3, K: 1, Alpha: 1, Beta: 0.75})
			s.must(err)
			defer p.Close()
			return p.Forward(s.st, s.buffer(maps, p.Layouts(), nil), s.buffer(other, p.Layouts(), nil))
		},
		"pool": func(s *session) error {
			p, err := dev.NewPool(cudakern.PoolDesc{N: 2, C: 4, H: 6, W: 6, OutH: 3, OutW: 3, Kernel: 2, Stride: 2})
			s.must(err)
			defer p.Close()
			lx, ly := p.Layouts()
			return p.Forward(s.st, s.buffer(maps, lx, nil), s.buffer(cudakern.Shape{2, 4, 3, 2}, ly, nil))
		},
		"dropout": func(s *session) error {
			p, err := dev.NewDropout(cudakern.DropoutDesc{Shape: maps, Layout: plain, Keep: 0.5})
			s.must(err)
			defer p.Close()
			return p.Forward(s.st, 1, 1, s.buffer(maps, plain, nil), s.buffer(other, plain, nil))
		},
	}
}

// misfitsOfRows are of ops on anything, or on rows of features.
func misfitsOfRows(dev cudakern.Device) map[string]func(s *session) error {
	maps, other := cudakern.Shape{2, 4, 6, 6}, cudakern.Shape{2, 4, 6, 5}
	return map[string]func(s *session) error{
		"sgd": func(s *session) error {
			p, err := dev.NewSGD(cudakern.SGDDesc{Shape: maps, Layout: plain})
			s.must(err)
			defer p.Close()
			b := s.buffer(maps, plain, nil)
			return p.Update(s.st, b, b, s.buffer(other, plain, nil), b, b, 0, 0, 0)
		},
		"add": func(s *session) error {
			p, err := dev.NewAdd(cudakern.AddDesc{Shape: maps, Layout: plain})
			s.must(err)
			defer p.Close()
			return p.Run(s.st, s.buffer(maps, plain, nil), s.buffer(other, plain, nil))
		},
		"reorder": func(s *session) error {
			p, err := dev.NewReorder(cudakern.ReorderDesc{FromShape: maps, From: plain,
				ToShape: cudakern.Shape{2, 144}, To: plain})
			s.must(err)
			defer p.Close()
			return p.Run(s.st, s.buffer(cudakern.Shape{2, 120}, plain, nil), s.buffer(maps, plain, nil))
		},
		"concat": func(s *session) error {
			p, err := dev.NewConcat(cudakern.ConcatDesc{N: 2, Parts: []int{3, 4}})
			s.must(err)
			defer p.Close()
			part := s.buffer(cudakern.Shape{2, 3}, plain, nil)
			return p.Join(s.st, s.buffer(cudakern.Shape{2, 7}, plain, nil), []cudakern.Buffer{part, part})
		},
		"input": func(s *session) error {
			p, err := dev.NewInput(cudakern.InputDesc{N: 2, C: 1, H: 4, W: 4, OutH: 4, OutW: 4})
			s.must(err)
			defer p.Close()
			images, err := dev.AllocBytes(31)
			s.must(err)
			s.own = append(s.own, images)
			y := s.buffer(cudakern.Shape{2, 1, 4, 4}, p.Layouts(), nil)
			return p.Forward(s.st, images, make([]cudakern.View, 2), s.buffer(cudakern.Shape{1, 1, 4, 4}, plain, nil), 1, y)
		},
		"softmax": func(s *session) error {
			p, err := dev.NewSoftmax(cudakern.SoftmaxDesc{N: 2, Classes: 3})
			s.must(err)
			defer p.Close()
			labels, err := dev.AllocBytes(7)
			s.must(err)
			s.own = append(s.own, labels)
			return p.Backward(s.st, s.buffer(cudakern.Shape{2, 3}, plain, nil), labels, 2,
				s.buffer(cudakern.Shape{2, 3}, plain, nil))
		},
	}
}
