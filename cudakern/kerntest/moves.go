package kerntest

import (
	"errors"
	"fmt"

	"colonnade/cudakern"
)

// dataTests are the cases of ops that move data: copies, reorder, concat and input.
func dataTests() []test {
	var out []test
	for _, s := range []cudakern.Shape{{2, 3, 5, 7}, {3, 16, 4, 4}, {1, 48, 6, 6}, {2, 8, 1, 1}} {
		out = append(out, reorderTest(s), copyTest(s))
	}
	for _, d := range []cudakern.ConcatDesc{{N: 1, Parts: []int{1}}, {N: 5, Parts: []int{3, 7}},
		{N: 128, Parts: []int{5, 5}},
		{N: 2, Parts: []int{1, 2, 3, 4}}} {
		out = append(out, concatTest(d))
	}
	for _, d := range []cudakern.InputDesc{{N: 2, C: 1, H: 28, W: 28, OutH: 32, OutW: 32},
		{N: 3, C: 3, H: 32, W: 32, OutH: 32, OutW: 32},
		{N: 2, C: 3, H: 17, W: 13, OutH: 11, OutW: 7}, {N: 1, C: 3, H: 64, W: 64, OutH: 57, OutW: 57},
		{N: 4, C: 3, H: 17, W: 13, OutH: 11, OutW: 7, CentreMean: true},
		{N: 3, C: 1, H: 9, W: 70, OutH: 9, OutW: 65, CentreMean: true}} {
		out = append(out, inputTest(d))
	}
	return out
}

// copyTest moves a tensor every way there is, behind an event, and wants new memory to be zero where the old was not.
func copyTest(s cudakern.Shape) test {
	return test{"copy", fmt.Sprint(s), func(e *env) error {
		l := e.layoutOf(s)
		x, y, z := e.in("x", s, l), e.out("copied", s, l, 0), e.out("through the host", s, l, 0)
		if e.err != nil {
			return e.err
		}
		used := e.out("used before", s, l, 0) // poisoned
		if e.err != nil {
			return e.err
		}
		e.operands = e.operands[:len(e.operands)-1]
		used.Free()
		e.alloc("new", s, l).out = true
		if e.err != nil {
			return e.err
		}
		if err := e.dev.Copy(e.st, y, x); err != nil {
			return fmt.Errorf("copy: %w", err)
		}
		host, err := e.dev.AllocHost(x.Bytes())
		if err != nil {
			return err
		}
		e.closing(host.Free)
		if len(host.Bytes()) != x.Bytes() {
			return fmt.Errorf("host memory of %d bytes instead of %d", len(host.Bytes()), x.Bytes())
		}
		if err := e.dev.CopyOut(e.st, host.Bytes(), x); err != nil {
			return fmt.Errorf("copy out: %w", err)
		}
		ev, err := e.st.Record()
		if err != nil {
			return err
		}
		if err := errors.Join(e.st.Wait(ev), e.st.Sync()); err != nil {
			return err
		}
		if done, err := ev.Done(); err != nil || !done {
			return fmt.Errorf("an event before Sync is not done after it: %w", err)
		}
		return e.dev.CopyIn(e.st, z, host.Bytes())
	}}
}

// reorderTest flattens maps out of the layout a convolution likes, and back.
func reorderTest(s cudakern.Shape) test {
	return test{"reorder", fmt.Sprint(s), func(e *env) error {
		conv, err := e.dev.NewConv(cudakern.ConvDesc{N: s[0], In: s[1], H: s[2], W: s[3], Out: 16, OutH: s[2], OutW: s[3],
			Kernel: 1, Stride: 1})
		if err != nil {
			return err
		}
		e.closing(conv.Close)
		maps, _, _ := conv.Layouts()
		flat := cudakern.Shape{s[0], s[1:].Len()}
		there, err := e.dev.NewReorder(cudakern.ReorderDesc{FromShape: s, From: maps, ToShape: flat, To: cudakern.Plain})
		if err != nil {
			return err
		}
		e.closing(there.Close)
		back, err := e.dev.NewReorder(cudakern.ReorderDesc{FromShape: flat, From: cudakern.Plain, ToShape: s, To: maps})
		if err != nil {
			return err
		}
		e.closing(back.Close)
		x, y, z := e.in("x", s, maps), e.out("flat", flat, cudakern.Plain, 0), e.out("back", s, maps, 0)
		if e.err != nil {
			return e.err
		}
		if err := there.Run(e.st, y, x); err != nil {
			return err
		}
		return back.Run(e.st, z, y)
	}}
}

func concatTest(d cudakern.ConcatDesc) test {
	return test{"concat", fmt.Sprintf("%d of %v", d.N, d.Parts), func(e *env) error {
		p, err := e.dev.NewConcat(d)
		if err != nil {
			return err
		}
		e.closing(p.Close)
		var parts, cuts []cudakern.Buffer
		for i, n := range d.Parts {
			parts = append(parts, e.in(fmt.Sprintf("part %d", i), cudakern.Shape{d.N, n}, cudakern.Plain))
			cuts = append(cuts, e.out(fmt.Sprintf("cut %d", i), cudakern.Shape{d.N, n}, cudakern.Plain, 0))
		}
		whole := e.out("whole", cudakern.Shape{d.N, d.Total()}, cudakern.Plain, 0)
		if e.err != nil {
			return e.err
		}
		if err := p.Join(e.st, whole, parts); err != nil {
			return err
		}
		for i := range cuts {
			if err := p.Cut(e.st, cuts[i], i, whole); err != nil {
				return err
			}
		}
		return nil
	}}
}

// inputTest sees images from every side: inside, over each edge, mirrored, with a colour shift.
func inputTest(d cudakern.InputDesc) test {
	return test{"input", fmt.Sprintf("%dx%dx%dx%d to %dx%d%s", d.N, d.C, d.H, d.W, d.OutH, d.OutW,
		map[bool]string{true: ", one mean"}[d.CentreMean]), func(e *env) error {
		p, err := e.dev.NewInput(d)
		if err != nil {
			return err
		}
		e.closing(p.Close)
		pixels := make([]byte, d.N*d.C*d.H*d.W)
		for i, v := range draw(e.seed, len(pixels)) {
			pixels[i] = byte(int(v*128) + 128)
		}
		mean := make([]float32, d.C*d.H*d.W)
		for i, v := range draw(e.seed+1, len(mean)) {
			mean[i] = 100 + 50*v
		}
		var views []cudakern.View
		for n := range d.N {
			views = append(views, cudakern.View{Y: int32(n*3 - 2), X: int32(1 - n*2), Flip: n%2 == 0,
				Shift: [3]float32{float32(n), -2, 0.5}})
		}
		images := e.bytes("images", pixels)
		m := e.with("mean", cudakern.Shape{1, d.C, d.H, d.W}, cudakern.Plain, mean)
		y := e.out("y", d.YShape(), p.Layouts(), 0)
		if e.err != nil {
			return e.err
		}
		return p.Forward(e.st, images, views, m, 1.0/64, y)
	}}
}
