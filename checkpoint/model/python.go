package model

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"colonnade/shard"
)

// Python is a PyTorch module of the merged network: the text of a file that loads an export in any of the formats that
// hold tensors and gives the same logits.
func Python(a *About, plan *shard.Plan) ([]byte, error) {
	all, err := layers(plan)
	if err != nil {
		return nil, err
	}
	var table bytes.Buffer
	for _, l := range all {
		if l.Kind == shard.Softmax {
			continue // the module gives logits
		}
		fmt.Fprintf(&table, "    (%q, %q, %s),\n", l.name, l.Kind, settings(&l))
	}
	in := plan.Network.Input
	var names bytes.Buffer
	line := "CLASSES = ["
	for i, c := range a.Classes {
		item := strconv.QuoteToASCII(c)
		if i < len(a.Classes)-1 {
			item += ","
		}
		if len(line)+1+len(item) > 118 {
			names.WriteString(line + "\n")
			line = "   "
		}
		if line != "CLASSES = [" {
			line += " "
		}
		line += item
	}
	names.WriteString(line + "]")
	persist := ""
	if a.Mean == nil { // it is not in the file
		persist = ", persistent=False"
	}
	part := "the centre of an image, whose mean input_mean is"
	if a.CentreMean {
		part = "a crop of an image: input_mean is taken from each, wherever it is"
	}
	r := strings.NewReplacer("@PART@", part,
		"@PERSIST@", persist, "@NAME@", a.Name, "@COLUMNS@", strconv.Itoa(plan.Columns), "@TABLE@",
		table.String(),
		"@SCALE@", float(a.Scale), "@C@", strconv.Itoa(in.Channels[0]), "@H@", strconv.Itoa(in.Height), "@W@",
		strconv.Itoa(in.Width), "@CLASSES@", names.String())
	return []byte(r.Replace(pythonText)), nil
}

func float(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }

// settings are a layer's numbers as a Python dictionary.
func settings(l *layer) string {
	pad := fmt.Sprintf("(%d, %d, %d, %d)", l.pad.Left, l.pad.Right, l.pad.Top, l.pad.Bottom)
	switch l.Kind {
	case shard.Conv:
		return fmt.Sprintf("dict(ins=%d, outs=%d, kernel=%d, stride=%d, pad=%s, groups=%d)", l.inputs*l.groups, l.Maps,
			l.Kernel, l.Stride, pad, l.groups)
	case shard.Dense:
		return fmt.Sprintf("dict(ins=%d, outs=%d, groups=%d)", l.inputs*l.groups, l.Maps, l.groups)
	case shard.Pool:
		return fmt.Sprintf("dict(kernel=%d, stride=%d, pad=%s)", l.Kernel, l.Stride, pad)
	case shard.LRN:
		return fmt.Sprintf("dict(across=%q, size=%d, alpha=%s, beta=%s, k=%s, parts=%d)", l.Across, l.Size, float(l.alpha),
			float(l.Beta), float(l.K), l.parts)
	case shard.Dropout:
		return fmt.Sprintf("dict(keep=%s, scaling=%q)", float(l.Keep), l.Scaling)
	}
	return "{}"
}

const pythonText = `"""@NAME@, trained in @COLUMNS@ columns, merged here. Written by: coordinator checkpoint export

    net = load("FILE")      # .safetensors, .pt or .npz of the same export
    logits = net(pixels)    # float32, N x @C@ x @H@ x @W@, 0 to 255, RGB or grey,
                            # @PART@
"""
import torch
from torch import nn
from torch.nn import functional as F

SCALE = @SCALE@  # of pixels less their mean
@CLASSES@
LAYERS = [  # pad is left, right, top, bottom; alpha is of each term of the sum of squares
@TABLE@]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("input_mean", torch.zeros(@C@, @H@, @W@)@PERSIST@)
        for name, kind, s in LAYERS:
            if kind == "conv":
                self.add_module(name, nn.Conv2d(s["ins"], s["outs"], s["kernel"], s["stride"], groups=s["groups"]))
            elif kind == "dense":
                self.add_module(name, nn.Linear(s["ins"] // s["groups"], s["outs"]))

    def forward(self, x):
        x = (x - self.input_mean) * SCALE
        for name, kind, s in LAYERS:
            x = getattr(self, "do_" + kind)(x, s, self._modules.get(name))
        return x

    def do_conv(self, x, s, layer):
        return layer(F.pad(x, s["pad"]))

    def do_dense(self, x, s, layer):  # in groups: each part of the outputs sees its part of the inputs
        parts = zip(x.flatten(1).chunk(s["groups"], 1), layer.weight.chunk(s["groups"]), layer.bias.chunk(s["groups"]))
        return torch.cat([F.linear(*p) for p in parts], 1)

    def do_relu(self, x, s, layer):
        return F.relu(x)

    def do_tanh(self, x, s, layer):
        return torch.tanh(x)

    def do_pool(self, x, s, layer):
        return F.max_pool2d(F.pad(x, s["pad"], value=float("-inf")), s["kernel"], s["stride"])

    def do_lrn(self, x, s, layer):  # x * (k + alpha * sum of squares)^-beta; F's divides alpha by size
        size, low, high = s["size"], s["size"] // 2, (s["size"] - 1) // 2
        if s["across"] == "space":
            mean = F.avg_pool2d(F.pad(x * x, (low, high, low, high)), size, 1)
            return x * (s["k"] + s["alpha"] * size**2 * mean) ** -s["beta"]
        parts = x.reshape(-1, x.shape[1] // s["parts"], *x.shape[2:])
        return F.local_response_norm(parts, size, s["alpha"] * size, s["beta"], s["k"]).reshape(x.shape)

    def do_dropout(self, x, s, layer):  # scaled while training, as PyTorch does, or at the test, as the paper does
        if s["scaling"] == "train":
            return F.dropout(x, 1 - s["keep"], self.training)
        return x * torch.empty_like(x).bernoulli_(s["keep"]) if self.training else x * s["keep"]


def load(path, strict=True):
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file
        state = load_file(path)
    elif str(path).endswith(".npz"):
        import numpy
        state = {k: torch.from_numpy(v) for k, v in numpy.load(path).items()}
    else:
        state = torch.load(path, weights_only=True)
    net = Network()
    net.load_state_dict(state, strict)
    return net.eval()
`
