package shard

import (
	"fmt"
	"slices"
)

// check says what is wrong with the layers as a whole: order, names, and sizes for every channel count.
func (n *Network) check() error {
	if len(n.Layers) == 0 {
		return &networkError{n.File, 1, "", "no layers; add a list under layers:"}
	}
	seen := map[string]bool{}
	weighted := ""
	for i := range n.Layers {
		l := &n.Layers[i]
		if seen[l.Name] {
			return n.errorAt(l, "another layer has this name; names must differ")
		}
		seen[l.Name] = true
		last := i == len(n.Layers)-1
		switch {
		case (l.Kind == Softmax) != last:
			return n.errorAt(l, "softmax must be the last layer, and the only one")
		case l.On == OnFirst && l.Connect != ConnectAll:
			return n.errorAt(l, "on: first leaves the other columns' maps unread; add connect: all")
		case weighted == "" && l.Connect == ConnectAll:
			return n.errorAt(l, "every column holds the whole input, so there is nothing to exchange; remove connect: all")
		}
		if l.On == OnFirst && i+2 != len(n.Layers) {
			return n.errorAt(l, "on: first is for the last dense layer, right before softmax")
		}
		if l.Kind == Conv || l.Kind == Dense {
			weighted = l.Name
			n.Classes = l.Maps
		}
	}
	if k := n.Layers[max(0, len(n.Layers)-2)].Kind; k != Dense {
		return n.errorAt(&n.Layers[len(n.Layers)-1], "softmax must follow a dense layer, whose maps are the classes")
	}
	for _, c := range n.Input.Channels {
		if _, err := n.shapes(c); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) errorAt(l *Layer, format string, args ...any) error {
	return &networkError{n.File, l.Line, l.Name, fmt.Sprintf(format, args...)}
}

// shapes returns the output of every layer, over all columns, for inputs of c channels.
func (n *Network) shapes(c int) ([]Shape, error) {
	s := Shape{c, n.Input.Height, n.Input.Width}
	out := make([]Shape, len(n.Layers))
	flat := false
	for i := range n.Layers {
		l := &n.Layers[i]
		switch l.Kind {
		case Conv, Pool:
			if flat {
				return nil, n.errorAt(l, "a %s layer needs maps, but a dense layer comes before it; move it up", l.Kind)
			}
			h, err := n.outSize(l, s.H, l.Pad.Top, l.Pad.Bottom)
			if err != nil {
				return nil, err
			}
			w, err := n.outSize(l, s.W, l.Pad.Left, l.Pad.Right)
			if err != nil {
				return nil, err
			}
			s.H, s.W = h, w
			if l.Kind == Conv {
				if err := n.weights(l, s.C); err != nil {
					return nil, err
				}
				s.C = l.Maps
			}
		case LRN:
			if flat {
				return nil, n.errorAt(l, "an lrn layer needs maps, but a dense layer comes before it; move it up")
			}
		case Dense:
			if err := n.weights(l, s.Len()); err != nil {
				return nil, err
			}
			s, flat = Shape{l.Maps, 1, 1}, true
		}
		if float64(s.C)*float64(s.H)*float64(s.W) > maxFloats {
			return nil, n.errorAt(l, "it makes %d maps of %dx%d of one image, more than %d numbers; use fewer", s.C, s.H, s.W,
				maxFloats)
		}
		out[i] = s
	}
	return out, nil
}

// weights says whether a layer's weights on `in` maps of one pixel or of a kernel's are sensibly many.
func (n *Network) weights(l *Layer, in int) error {
	if area := max(1, l.Kernel*l.Kernel); float64(in)*float64(area)*float64(l.Maps) > maxFloats {
		return n.errorAt(l, "%d maps of %d inputs each are more than %d weights; use fewer", l.Maps, in*area, maxFloats)
	}
	return nil
}

// outSize is the output size along one side: 1 + floor or ceil of (padded size - kernel)/stride (layer.py:1004 and
// :1164 of the source round up; the last window then overhangs). With ceil, a last window that would start beyond the
// image and its padding on the near side does not exist.
func (n *Network) outSize(l *Layer, size, before, after int) (int, error) {
	free := size + before + after - l.Kernel
	if free < 0 {
		return 0, n.errorAt(l, "kernel %d does not fit into %d pixels with padding %d and %d; use a smaller kernel "+
			"or more padding", l.Kernel, size, before, after)
	}
	out := 1 + free/l.Stride
	if l.Round == RoundCeil && free%l.Stride != 0 && out*l.Stride < size+before {
		out++
	}
	return out, nil
}

// Resolve returns the network for images of one channel count and, unless classes is 0, with its last dense layer
// giving that many classes.
func (n *Network) Resolve(channels, classes int) (*Network, error) {
	if !slices.Contains(n.Input.Channels, channels) {
		return nil, &networkError{n.File, 0, "", fmt.Sprintf(
			"the network takes images of %v channels, not %d; choose another network or pack", n.Input.Channels, channels)}
	}
	r := *n
	r.Input.Channels = []int{channels}
	r.Layers = slices.Clone(n.Layers)
	if classes > 0 {
		r.Classes = classes
		r.Layers[len(r.Layers)-2].Maps = classes
	}
	return &r, nil
}
