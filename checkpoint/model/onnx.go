package model

import (
	"fmt"
	"io"

	"colonnade/checkpoint/tensors"
	"colonnade/shard"
)

// WriteONNX writes the merged network as an ONNX model of standard operators: input `pixels` (batch x channels x height
// x width, 0 to 255), outputs `logits` and `probabilities`.
func WriteONNX(w io.Writer, a *About, s *State) error {
	all, err := layers(s.Plan)
	if err != nil {
		return err
	}
	weights, err := s.Whole()
	if err != nil {
		return err
	}
	in := s.Plan.Network.Input
	g := &grapher{Graph: tensors.Graph{Name: a.Name, Doc: fmt.Sprintf("trained in %d columns, merged", s.Plan.Columns),
		Input:  tensors.Entry{Name: "pixels", Shape: []int{0, in.Channels[0], in.Height, in.Width}},
		Floats: weights, Ints: map[string][]int64{}}, now: "pixels"}
	for _, o := range []string{"logits", "probabilities"} {
		g.Outputs = append(g.Outputs, tensors.Entry{Name: o, Shape: []int{0, s.Plan.Network.Classes}})
	}
	if a.Mean != nil {
		g.Floats = append(g.Floats, tensors.Of(MeanName, []int{in.Channels[0], in.Height, in.Width}, a.Mean))
		g.node("Sub", "input_centred", []string{g.now, MeanName})
	}
	g.node("Mul", "input_scaled", []string{g.now, g.constant("input_scale", a.Scale)})
	for i := range all {
		if err := g.layer(&all[i]); err != nil {
			return err
		}
	}
	return tensors.WriteONNX(w, &g.Graph)
}

// grapher appends nodes; now is the value that the next one reads.
type grapher struct {
	tensors.Graph
	now  string
	flat bool
}

// node appends an operator whose output is what the next one reads.
func (g *grapher) node(op, out string, in []string, values ...tensors.Attribute) {
	g.Nodes = append(g.Nodes, tensors.Node{Op: op, In: in, Out: out, Values: values})
	g.now = out
}

// constant adds a number.
func (g *grapher) constant(name string, v float64) string {
	g.Floats = append(g.Floats, tensors.Of(name, []int{1}, []float32{float32(v)}))
	return name
}

// reshape gives the value another shape; -1 stands for what is left, 0 for what is there.
func (g *grapher) reshape(out string, shape ...int64) {
	g.Ints[out+"_shape"] = shape
	g.IntKeys = append(g.IntKeys, out+"_shape")
	g.node("Reshape", out, []string{g.now, out + "_shape"})
}

func (g *grapher) layer(l *layer) error {
	switch l.Kind {
	case shard.Conv:
		g.node("Conv", l.name, []string{g.now, l.name + ".weight", l.name + ".bias"}, append(window(l),
			tensors.Attribute{Name: "group", Value: l.groups})...)
	case shard.Pool:
		g.node("MaxPool", l.name, []string{g.now}, window(l)...)
	case shard.Dense:
		g.dense(l)
	case shard.ReLU:
		g.node("Relu", l.name, []string{g.now})
	case shard.Tanh:
		g.node("Tanh", l.name, []string{g.now})
	case shard.LRN:
		return g.lrn(l)
	case shard.Dropout:
		if l.Scaling == shard.ScaleTest {
			g.node("Mul", l.name, []string{g.now, g.constant(l.name+"_keep", l.Keep)})
		}
	case shard.Softmax:
		g.node("Identity", "logits", []string{g.now})
		g.node("Softmax", "probabilities", []string{g.now}, tensors.Attribute{Name: "axis", Value: 1})
	}
	return nil
}

// window is the attributes of a convolution or a pool.
func window(l *layer) []tensors.Attribute {
	return []tensors.Attribute{{Name: "kernel_shape", Value: []int{l.Kernel, l.Kernel}},
		{Name: "strides", Value: []int{l.Stride, l.Stride}},
		{Name: "pads", Value: []int{l.pad.Top, l.pad.Left, l.pad.Bottom, l.pad.Right}}}
}

// dense is one product, or, in groups, a convolution over one pixel.
func (g *grapher) dense(l *layer) {
	in := []string{"", l.name + ".weight", l.name + ".bias"}
	if l.groups == 1 {
		if !g.flat {
			g.node("Flatten", l.name+"_flat", []string{g.now}, tensors.Attribute{Name: "axis", Value: 1})
		}
		g.flat = true
		in[0] = g.now
		g.node("Gemm", l.name, in, tensors.Attribute{Name: "transB", Value: 1})
		return
	}
	g.reshape(l.name+"_pixel", 0, int64(l.inputs*l.groups), 1, 1)
	in[0] = g.now
	weight := l.name + ".weight"
	g.Ints[weight+"_shape"] = []int64{int64(l.Maps), int64(l.inputs), 1, 1}
	g.IntKeys = append(g.IntKeys, weight+"_shape")
	pixel := g.now
	g.node("Reshape", weight+"_pixel", []string{weight, weight + "_shape"})
	g.node("Conv", l.name+"_conv", []string{pixel, weight + "_pixel", l.name + ".bias"},
		tensors.Attribute{Name: "group", Value: l.groups})
	g.reshape(l.name, 0, int64(l.Maps))
	g.flat = true
}

// lrn: ONNX divides alpha by size, as Caffe does.
func (g *grapher) lrn(l *layer) error {
	size := float64(l.Size)
	if l.Across == shard.AcrossSpace {
		x, low, high := g.now, l.Size/2, (l.Size-1)/2
		g.node("Mul", l.name+"_squares", []string{x, x})
		g.node("AveragePool", l.name+"_mean", []string{g.now},
			tensors.Attribute{Name: "kernel_shape", Value: []int{l.Size, l.Size}},
			tensors.Attribute{Name: "pads", Value: []int{low, low, high, high}},
			tensors.Attribute{Name: "count_include_pad", Value: 1})
		g.node("Mul", l.name+"_sum", []string{g.now, g.constant(l.name+"_alpha", l.alpha*size*size)})
		g.node("Add", l.name+"_base", []string{g.now, g.constant(l.name+"_k", l.K)})
		g.node("Pow", l.name+"_factor", []string{g.now, g.constant(l.name+"_beta", -l.Beta)})
		g.node("Mul", l.name, []string{x, g.now})
		return nil
	}
	if l.Size%2 == 0 {
		return fmt.Errorf("%w: layer %s sums over %d maps; of an even number ONNX has one more on the other side: this "+
			"network has no ONNX form; use safetensors", ErrModel, l.Name, l.Size)
	}
	s := l.in
	if l.parts > 1 {
		g.reshape(l.name+"_parts", -1, int64(s.C/l.parts), int64(s.H), int64(s.W))
	}
	name := l.name
	if l.parts > 1 {
		name += "_lrn"
	}
	g.node("LRN", name, []string{g.now}, tensors.Attribute{Name: "size", Value: l.Size},
		tensors.Attribute{Name: "alpha", Value: l.alpha * size}, tensors.Attribute{Name: "beta", Value: l.Beta},
		tensors.Attribute{Name: "bias", Value: l.K})
	if l.parts > 1 {
		g.reshape(l.name, -1, int64(s.C), int64(s.H), int64(s.W))
	}
	return nil
}
