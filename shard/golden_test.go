package shard

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// resolved is an embedded network for an input of so many channels.
func resolved(t testing.TB, name string, channels int) *Network {
	t.Helper()
	n, err := Embedded(name)
	if err != nil {
		t.Fatal(err)
	}
	if n, err = n.Resolve(channels, 0); err != nil {
		t.Fatal(err)
	}
	return n
}

func plan(t testing.TB, name string, channels, columns int) *Plan {
	t.Helper()
	p, err := NewPlan(resolved(t, name, channels), columns)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestCounts holds the embedded networks against counts made by hand from the paper (sections 3.2, 3.5) and the source.
func TestCounts(t *testing.T) {
	for _, c := range []struct {
		network           string
		channels, columns int
		params, macs      []int64
		crossing          [][2]int64 // from 0 to 1 and back: activations; activations and logits
	}{
		{"alexnet", 3, 2, []int64{30_482_612, 30_482_612}, []int64{362_203_408, 362_203_408},
			[][2]int64{{30_336, 30_336}, {30_836, 30_836}}},
		{"alexnet", 3, 1, []int64{62_378_344}, []int64{1_135_256_096}, nil},
		{"alexnet-source", 3, 2, []int64{32_531_112, 28_434_112}, []int64{364_251_408, 360_155_408},
			[][2]int64{{28_288, 30_336}, {28_288, 30_336}}},
		{"alexnet-owt", 3, 1, []int64{61_100_840}, []int64{714_188_480}, nil}, // as torchvision publishes
		{"alexnet-source", 3, 1, []int64{62_378_344}, []int64{1_135_256_096}, nil},
		// Four columns: conv2, conv4 and conv5 see a quarter of the maps; a column sends a quarter to each of the others.
		{"alexnet", 3, 4, []int64{15_064_666, 15_064_666, 15_064_666, 15_064_666},
			[]int64{129_745_544, 129_745_544, 129_745_544, 129_745_544}, [][2]int64{{15_168, 15_168}, {15_418, 15_418}}},
		{"alexnet-source", 3, 4, []int64{18_137_416, 14_040_416, 14_040_416, 14_040_416},
			[]int64{132_817_544, 128_721_544, 128_721_544, 128_721_544}, [][2]int64{{14_144, 15_168}, {14_144, 15_168}}},
	} {
		p := plan(t, c.network, c.channels, c.columns)
		for k := range c.columns {
			if got := p.Parameters(k); got != c.params[k] {
				t.Errorf("%s in %d columns: column %d has %d parameters, want %d", c.network, c.columns, k, got, c.params[k])
			}
			if got := p.MACs(k); got != c.macs[k] {
				t.Errorf("%s in %d columns: column %d has %d multiply-adds, want %d", c.network, c.columns, k, got, c.macs[k])
			}
		}
		for i, want := range c.crossing {
			if got := [2]int64{p.Crossing(0, 1, i == 1), p.Crossing(1, 0, i == 1)}; got != want {
				t.Errorf("%s: %v floats cross (logits: %v), want %v", c.network, got, i == 1, want)
			}
		}
	}
	p := plan(t, "alexnet", 3, 2)
	if got := p.Parameters(0) + p.Parameters(1); got != 60_965_224 {
		t.Errorf("alexnet has %d parameters", got)
	}
	if got := p.MACs(0) + p.MACs(1); got != 724_406_816 {
		t.Errorf("alexnet has %d multiply-adds", got)
	}
	s := plan(t, "alexnet-source", 3, 2)
	if got := s.Crossing(0, 1, false) + s.Crossing(1, 0, false); got != 58_624 {
		t.Errorf("%d floats an image cross in alexnet-source", got)
	}
}

// TestLayerShapes is AlexNet layer by layer: 55, 27, 13, 13, 13, 6.
func TestLayerShapes(t *testing.T) {
	want := map[string]Shape{"conv1": {96, 55, 55}, "pool1": {96, 27, 27}, "conv2": {256, 27, 27}, "pool2": {256, 13, 13},
		"conv3": {384, 13, 13}, "conv4": {384, 13, 13}, "conv5": {256, 13, 13}, "pool5": {256, 6, 6}, "fc6": {4096, 1, 1},
		"fc7": {4096, 1, 1}, "fc8": {1000, 1, 1}}
	params := map[string]int{"conv1": 34_944, "conv2": 307_456, "conv3": 885_120, "conv4": 663_936, "conv5": 442_624,
		"fc6": 37_752_832, "fc7": 16_781_312, "fc8": 4_097_000}
	p := plan(t, "alexnet", 3, 2)
	for _, l := range p.Layers {
		if w, ok := want[l.Layer.Name]; ok && l.Out != w {
			t.Errorf("%s is %v, want %v", l.Layer.Name, l.Out, w)
		}
		delete(want, l.Layer.Name)
	}
	if len(want) > 0 {
		t.Errorf("alexnet lacks %v", want)
	}
	got := map[string]int{}
	for _, column := range p.Params {
		for _, q := range column {
			got[q.Layer] += q.Len()
		}
	}
	if diff := cmp.Diff(params, got); diff != "" {
		t.Errorf("parameters by layer (-want +got):\n%s", diff)
	}
}

// TestSourceShapes is net 145 layer by layer (layers-145.cfg): the same sizes with every output size rounded up,
// conv1's last window overhanging by three pixels, and the conventions of layer-params-145.cfg and layer.py.
func TestSourceShapes(t *testing.T) {
	p := plan(t, "alexnet-source", 3, 2)
	var order []string
	for _, l := range p.Layers {
		order = append(order, fmt.Sprintf("%s %s %v", l.Layer.Name, l.Layer.Kind, l.Out))
		switch l.Layer.Kind {
		case Conv, Pool:
			if l.Layer.Round != RoundCeil || l.Layer.Kind == Pool && l.Layer.Ties != TiesAll {
				t.Errorf("%s: round %s, ties %s", l.Layer.Name, l.Layer.Round, l.Layer.Ties)
			}
		case LRN:
			if !l.Layer.AlphaOverSize || l.Layer.Scope != ScopeColumn {
				t.Errorf("%s: alpha over size %v, scope %s", l.Layer.Name, l.Layer.AlphaOverSize, l.Layer.Scope)
			}
		case Dropout:
			if l.Layer.Keep != 0.5 || l.Layer.Scaling != ScaleTest {
				t.Errorf("%s: keep %g, scaling %s", l.Layer.Name, l.Layer.Keep, l.Layer.Scaling)
			}
		}
	}
	want := []string{"conv1 conv {96 55 55}", "rnorm1 lrn {96 55 55}", "pool1 pool {96 27 27}", "relu1 relu {96 27 27}",
		"conv2 conv {256 27 27}", "relu2 relu {256 27 27}", "rnorm2 lrn {256 27 27}", "cnorm2 lrn {256 27 27}",
		"pool2 pool {256 13 13}", "conv3 conv {384 13 13}", "relu3 relu {384 13 13}", "conv4 conv {384 13 13}",
		"relu4 relu {384 13 13}", "conv5 conv {256 13 13}", "pool3 pool {256 6 6}", "relu5 relu {256 6 6}",
		"fc2048 dense {4096 1 1}", "relu6 relu {4096 1 1}", "hs1 dropout {4096 1 1}", "fc2048b dense {4096 1 1}",
		"relu7 relu {4096 1 1}", "hs2 dropout {4096 1 1}", "fc1000 dense {1000 1 1}", "softmax softmax {1000 1 1}"}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Errorf("layers (-want +got):\n%s", diff)
	}
	conv1 := p.Layers[0].Layer
	if over := (p.Layers[0].Out.H-1)*conv1.Stride + conv1.Kernel - p.Network.Input.Height; over != 3 {
		t.Errorf("conv1's last window overhangs by %d pixels, want 3", over)
	}
	if fc := p.Layers[len(p.Layers)-2]; fc.Columns[0].Own.Count != 1000 || fc.Columns[1].Own.Count != 0 {
		t.Errorf("fc1000 lies on %+v", fc.Columns)
	}
}

// TestRounding is the output size where paper and source differ: floor drops what does not fill a window, ceil lets the
// last window overhang, as net 147's pools of 2 x 2 do (55 to 28), unless it would see nothing of the image.
func TestRounding(t *testing.T) {
	for _, c := range []struct{ size, kernel, stride, pad, floor, ceil int }{
		{224, 11, 4, 0, 54, 55}, {55, 2, 2, 0, 27, 28}, {55, 3, 2, 0, 27, 27}, {32, 3, 2, 0, 15, 16}, {8, 3, 2, 1, 4, 5},
		{7, 2, 3, 0, 2, 3}, {6, 2, 3, 0, 2, 2}, {7, 3, 4, 1, 2, 2}, {8, 3, 4, 1, 2, 3}, {6, 3, 7, 2, 2, 2},
	} {
		for round, want := range map[Rounding]int{RoundFloor: c.floor, RoundCeil: c.ceil} {
			l := &Layer{Kernel: c.kernel, Stride: c.stride, Round: round}
			if got, err := (&Network{}).outSize(l, c.size, c.pad, c.pad); err != nil || got != want {
				t.Errorf("%d pixels, windows of %d, stride %d, padding %d, %s: %d places (%v), want %d", c.size, c.kernel, c.stride,
					c.pad, round, got, err, want)
			}
		}
	}
}

// TestSameTopology holds alexnet-32 against alexnet: the same layers with weights, and exchanges before the same ones.
func TestSameTopology(t *testing.T) {
	outline := func(p *Plan) (out []string) {
		for _, l := range p.Layers {
			if l.Layer.Kind == Conv || l.Layer.Kind == Dense || l.Layer.Kind == Softmax {
				out = append(out, fmt.Sprint(l.Layer.Name, l.Layer.Kind, l.Exchange >= 0))
			}
		}
		return out
	}
	want := outline(plan(t, "alexnet", 3, 2))
	for _, channels := range []int{1, 3} {
		if diff := cmp.Diff(want, outline(plan(t, "alexnet-32", channels, 2))); diff != "" {
			t.Errorf("alexnet-32 with %d channels (-alexnet +got):\n%s", channels, diff)
		}
	}
}

// digests pin what a plan means. One that changes makes checkpoints of before unusable: raise planVersion with it.
var digests = map[string]string{
	"alexnet-32-1ch-1col":         "7c2f7b40acb13beb",
	"alexnet-32-1ch-2col":         "0de4e00bc3f4511f",
	"alexnet-32-1ch-4col":         "883c6046f1b6b685",
	"alexnet-32-3ch-1col":         "bd77e9a2741237d2",
	"alexnet-32-3ch-2col":         "885456eab3c4eedc",
	"alexnet-32-3ch-4col":         "09940263290a0966",
	"alexnet-3ch-1col":            "ee53e48fb4c4cc86",
	"alexnet-3ch-2col":            "14766af0c985389c",
	"alexnet-3ch-4col":            "405b4893171533db",
	"alexnet-apart-3ch-1col":      "9cc32b508ba4840f",
	"alexnet-apart-3ch-2col":      "43bbfb62d3c58022",
	"alexnet-apart-3ch-4col":      "e6cb325af4f0ba00",
	"alexnet-half-3ch-1col":       "4f763cfd1d2676fd",
	"alexnet-half-3ch-2col":       "670a6171f992a455",
	"alexnet-half-3ch-4col":       "81eb925cb5e33acb",
	"alexnet-no-lrn-3ch-1col":     "c4271140f5687093",
	"alexnet-no-lrn-3ch-2col":     "3018fdc593f263d1",
	"alexnet-no-lrn-3ch-4col":     "986eae7c88db9c4f",
	"alexnet-owt-3ch-1col":        "770a4cba514f0c23",
	"alexnet-owt-3ch-2col":        "e77456af9cedcade",
	"alexnet-owt-3ch-4col":        "6e9a515e5b0b26ef",
	"alexnet-pool2-3ch-1col":      "9a90bfed77c36baa",
	"alexnet-pool2-3ch-2col":      "1b425565108ce2dd",
	"alexnet-pool2-3ch-4col":      "e8ccdec374619256",
	"alexnet-source-3ch-1col":     "a37d342720389fde",
	"alexnet-source-3ch-2col":     "8acee733ac7b0b8f",
	"alexnet-source-3ch-4col":     "e9a4e391558c6d24",
	"alexnet-tanh-3ch-1col":       "a5cde77ab965231f",
	"alexnet-tanh-3ch-2col":       "8e6d5c7b0508ba0f",
	"alexnet-tanh-3ch-4col":       "225e6ea4d887822e",
	"cifar10-4-3ch-1col":          "c9f9da93b7913861",
	"cifar10-4-3ch-2col":          "dd356b19f30c35d1",
	"cifar10-4-3ch-4col":          "79c8f131622cc418",
	"cifar10-4-lrn-3ch-1col":      "10eadfae4737c668",
	"cifar10-4-lrn-3ch-2col":      "a7e14988cfb678e1",
	"cifar10-4-lrn-3ch-4col":      "953d3c49c64959ed",
	"cifar10-4-lrn-tanh-3ch-1col": "e17213523d1e955a",
	"cifar10-4-lrn-tanh-3ch-2col": "8a868b4d746df123",
	"cifar10-4-lrn-tanh-3ch-4col": "c4924960ab56f561",
	"cifar10-4-tanh-3ch-1col":     "12a5190dc58026b7",
	"cifar10-4-tanh-3ch-2col":     "f9a14b4d2df79c64",
	"cifar10-4-tanh-3ch-4col":     "3b563a1dfda8fa97",
	"tiny-1ch-1col":               "ded868efff25f4d5",
	"tiny-1ch-2col":               "473f31b046f0deaa",
	"tiny-1ch-4col":               "c579cdeba325260b",
	"tiny-3ch-1col":               "7a754712a18544ac",
	"tiny-3ch-2col":               "f347292596c2d66f",
	"tiny-3ch-4col":               "e24d66374c7b1277",
}

// each calls f for every plan of an embedded network that exists.
func each(t *testing.T, f func(t *testing.T, name string, p *Plan)) {
	for _, network := range EmbeddedNames() {
		n, err := Embedded(network)
		if err != nil {
			t.Fatal(err)
		}
		for _, channels := range n.Input.Channels {
			for _, k := range []int{1, 2, 4} {
				r, err := n.Resolve(channels, 0)
				if err != nil {
					t.Fatal(err)
				}
				p, err := NewPlan(r, k)
				if err != nil {
					t.Errorf("%s in %d columns: %v", network, k, err)
					continue
				}
				f(t, fmt.Sprintf("%s-%dch-%dcol", network, channels, k), p)
			}
		}
	}
}

func TestDigestsArePinned(t *testing.T) {
	got := map[string]string{}
	each(t, func(t *testing.T, name string, p *Plan) { got[name] = fmt.Sprintf("%x", p.Digest())[:16] })
	if diff := cmp.Diff(digests, got); diff != "" {
		t.Errorf("plans mean something else (-want +got):\n%s", diff)
	}
}

func TestText(t *testing.T) {
	each(t, func(t *testing.T, name string, p *Plan) {
		var b bytes.Buffer
		if err := p.Text(&b); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
				t.Errorf("%s: a line of %d signs does not fit into a terminal: %s", name, n, line)
			}
		}
		path := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), b.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	})
}
