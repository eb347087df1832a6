package model

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"colonnade/checkpoint/tensors"
	"colonnade/shard"
)

// network is an embedded network in so many columns, and what a model of it says of itself.
func network(t testing.TB, name string, columns, classes int) (*About, *State) {
	t.Helper()
	text, err := shard.EmbeddedText(name)
	if err != nil {
		t.Fatal(err)
	}
	a := &About{Text: text, Name: name, Columns: columns, Channels: 3, Height: 36, Width: 36, Scale: 1.0 / 64,
		CentreMean: columns == 1}
	for i := range classes {
		a.Classes = append(a.Classes, strconv.Itoa(i))
	}
	plan, err := a.Plan()
	if err != nil {
		t.Fatal(err)
	}
	s := NewState(plan)
	for c := range s.Values {
		for p, v := range s.Values[c] {
			for i := range v {
				v[i] = float32(c*1000+p) + float32(i)/float32(1<<20)
			}
		}
	}
	in := plan.Network.Input
	for i := range a.Channels * in.Height * in.Width {
		a.Mean = append(a.Mean, float32(i%251))
	}
	return a, s
}

func exported(t testing.TB, a *About, s *State, format string, column *int) []byte {
	t.Helper()
	_, write, err := Export(a, s, format, column)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(t testing.TB, raw []byte) *tensors.File {
	t.Helper()
	f, err := tensors.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestRoundTrip exports every small network in every number of columns and format, imports it and exports it again.
func TestRoundTrip(t *testing.T) {
	for _, name := range shard.EmbeddedNames() {
		for _, columns := range []int{1, 2, 4} {
			n, err := shard.Embedded(name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := shard.NewPlan(resolve(t, n), columns); n.Input.Height > 64 || err != nil {
				continue // too large to be quick, or not to be split so
			}
			a, s := network(t, name, columns, 8)
			want := exported(t, a, s, "safetensors", nil)
			for _, format := range []string{"safetensors", "pytorch", "npz", "onnx"} {
				f := read(t, exported(t, a, s, format, nil))
				again := NewState(s.Plan)
				if err := again.Import(f, nil); err != nil {
					t.Errorf("%s in %d columns, %s: %v", name, columns, format, err)
					continue
				}
				if !slices.EqualFunc(s.Values, again.Values, func(a, b [][]float32) bool {
					return slices.EqualFunc(a, b, slices.Equal[[]float32])
				}) {
					t.Errorf("%s in %d columns, %s: other values", name, columns, format)
				}
				if !bytes.Equal(exported(t, a, again, "safetensors", nil), want) {
					t.Errorf("%s in %d columns, %s: imported and exported again, other bytes", name, columns, format)
				}
			}
			about, err := AboutOf(read(t, want))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(about.Mean, a.Mean) {
				t.Errorf("%s: another mean", name)
			}
			about.Mean = a.Mean
			if diff := cmp.Diff(a, about); diff != "" {
				t.Errorf("%s says of itself (-want +got):\n%s", name, diff)
			}
		}
	}
}

func resolve(t *testing.T, n *shard.Network) *shard.Network {
	t.Helper()
	r, err := n.Resolve(3, 8)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestEveryNetworkTravels wants a PyTorch module of every network that is built in, however it is split.
func TestEveryNetworkTravels(t *testing.T) {
	for _, name := range shard.EmbeddedNames() {
		n, err := shard.Embedded(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, columns := range []int{1, 2, 4} {
			plan, err := shard.NewPlan(resolve(t, n), columns)
			if err != nil {
				continue
			}
			if _, err := Python(&About{Name: name, Columns: columns, Scale: 1, Classes: make([]string, 8)}, plan); err != nil {
				t.Errorf("%s in %d columns: %v", name, columns, err)
			}
		}
	}
}

// TestMerged looks single weights up in the merged tensors of tiny in two columns: conv2 sees all maps, conv3 its own
// column's, fc4 all of 4 x 2 x 2 places of either.
func TestMerged(t *testing.T) {
	_, s := network(t, "tiny", 2, 8)
	all, err := s.Whole()
	if err != nil {
		t.Fatal(err)
	}
	value := func(column int, name string, i int) float32 {
		p := slices.IndexFunc(s.Plan.Params[column], func(p shard.Param) bool { return p.Name == name })
		if p < 0 {
			t.Fatalf("no parameter %s in column %d", name, column)
		}
		return s.Values[column][p][i]
	}
	for _, c := range []struct {
		name  string
		shape []int
		at    []int
		want  float32
	}{
		{"conv1.weight", []int{8, 3, 3, 3}, []int{5, 2, 1, 1}, value(1, "conv1/w", (1*3+2)*9+4)},
		{"conv2.weight", []int{16, 8, 3, 3}, []int{3, 6, 0, 2}, value(0, "conv2/w1", (3*4+2)*9+2)},
		{"conv2.weight", []int{16, 8, 3, 3}, []int{9, 1, 2, 2}, value(1, "conv2/w0", (1*4+1)*9+8)},
		{"conv2.bias", []int{16}, []int{9}, value(1, "conv2/b", 1)},
		{"conv3.weight", []int{8, 8, 3, 3}, []int{7, 3, 0, 0}, value(1, "conv3/w", (3*8+3)*9)},
		{"fc4.weight", []int{16, 32}, []int{12, 20}, value(1, "fc4/w1", 4*16+4)},
		{"fc5.weight", []int{8, 16}, []int{0, 9}, value(0, "fc5/w1", 1)},
	} {
		i := slices.IndexFunc(all, func(s tensors.Source) bool { return s.Name == c.name })
		if i < 0 || !slices.Equal(all[i].Shape, c.shape) {
			t.Errorf("%s is not there, or has another shape than %v", c.name, c.shape)
			continue
		}
		var whole []float32
		_ = all[i].Each(func(v []float32) error { whole = append(whole, v...); return nil })
		at := 0
		for d, n := range c.shape {
			at = at*n + c.at[d]
		}
		if whole[at] != c.want {
			t.Errorf("%s at %v is %v, want %v", c.name, c.at, whole[at], c.want)
		}
	}
}

// TestGroups holds the paper's network against what a grouped convolution is: facts of section 3.2.
func TestGroups(t *testing.T) {
	for name, want := range map[string]string{
		"alexnet":        "conv1 1, conv2 2, conv3 1, conv4 2, conv5 2, fc6 1, fc7 1, fc8 1",
		"alexnet-source": "conv1 1, conv2 2, conv3 1, conv4 2, conv5 2, fc2048 1, fc2048b 1, fc1000 1",
	} {
		n, err := shard.Embedded(name)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := shard.NewPlan(n, 2)
		if err != nil {
			t.Fatal(err)
		}
		all, err := layers(plan)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range all {
			if l.Kind == shard.Conv || l.Kind == shard.Dense {
				got = append(got, fmt.Sprintf("%s %d", l.name, l.groups))
			}
			if l.name == "conv1" && l.pad != (shard.Pad{Bottom: 3, Right: 3}) {
				t.Errorf("%s: conv1 is padded by %v, its last window overhangs by 3", name, l.pad)
			}
			if l.name == "lrn1" && (l.parts != 2 || l.alpha != 1e-4) || l.name == "cnorm2" && (l.parts != 1 || l.alpha != 4e-5) {
				t.Errorf("%s: %s in %d parts with alpha %g", name, l.name, l.parts, l.alpha)
			}
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("%s has the groups %s, want %s", name, s, want)
		}
	}
}

// change is a model's tensors with one of them changed.
func change(t *testing.T, a *About, s *State, f func([]tensors.Source) []tensors.Source) []byte {
	t.Helper()
	all, _, err := Export(a, s, "safetensors", nil)
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := a.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := tensors.Write(&b, "safetensors", metadata, f(all)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImportRefuses(t *testing.T) {
	a, s := network(t, "tiny", 2, 8)
	nan := make([]float32, 9*8*16)
	nan[77] = float32(math.NaN())
	for name, c := range map[string]struct {
		f     func([]tensors.Source) []tensors.Source
		fresh []string
		want  string
	}{
		"missing": {func(s []tensors.Source) []tensors.Source { return s[1:] }, nil,
			"tensor conv1.weight of network tiny, of shape [8 3 3 3], is missing; if layer conv1 is to begin anew, name it"},
		"extra": {func(s []tensors.Source) []tensors.Source {
			return append(s, tensors.Of("conv9.bias", []int{1}, []float32{1}))
		}, nil, "tensor conv9.bias of shape [1] is not of network tiny"},
		"misshaped": {func(s []tensors.Source) []tensors.Source { s[1].Shape = []int{2, 4}; return s }, nil,
			"tensor conv1.bias has the shape [2 4], network tiny wants [8]"},
		"NaN": {func(s []tensors.Source) []tensors.Source {
			s[2] = tensors.Of("conv2.weight", []int{16, 8, 3, 3}, nan)
			return s
		}, nil, "value 77 of tensor conv2.weight is NaN"},
		"no such layer": {func(s []tensors.Source) []tensors.Source { return s }, []string{"fc9"},
			`layer "fc9" is to begin anew, but network tiny has no such layer`},
		"torchvision's": {func(s []tensors.Source) []tensors.Source { s[0].Name = "features.0.weight"; return s }, nil,
			"torchvision's AlexNet of eight layers with weights, the network has 5; import it into network alexnet-owt"},
	} {
		err := NewState(s.Plan).Import(read(t, change(t, a, s, c.f)), c.fresh)
		if !errors.Is(err, ErrModel) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v\nwant one line with: %s", name, err, c.want)
		}
	}
}

// TestAnAbsurdNetwork: a file that says that it is of a network of terabytes is refused before any memory is asked for.
func TestAnAbsurdNetwork(t *testing.T) {
	a, s := network(t, "tiny", 2, 8)
	a.Text = strings.ReplaceAll(a.Text, "maps: 16, connect: all", "maps: 16000000, connect: all")
	plan, err := a.Plan()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LoadFile(plan, read(t, exported(t, a, s, "npz", nil)), nil); !errors.Is(err, ErrModel) {
		t.Errorf("it is read: %v", err)
	}
}

// TestFresh leaves the layers that begin anew as they are, whatever the file has of them.
func TestFresh(t *testing.T) {
	a, s := network(t, "tiny", 2, 8)
	for _, f := range []func(s []tensors.Source) []tensors.Source{
		func(s []tensors.Source) []tensors.Source { return s },
		func(all []tensors.Source) []tensors.Source { // 3 classes
			all[8], all[9] = tensors.Of("fc5.weight", []int{3, 16}, make([]float32, 48)), tensors.Of("fc5.bias", []int{3},
				make([]float32, 3))
			return all
		},
		func(all []tensors.Source) []tensors.Source { return all[:8] },
	} {
		got := NewState(s.Plan)
		if err := got.Import(read(t, change(t, a, s, f)), []string{"fc5"}); err != nil {
			t.Fatal(err)
		}
		for c, params := range s.Plan.Params {
			for i, p := range params {
				want := s.Values[c][i]
				if p.Layer == "fc5" {
					want = make([]float32, p.Len())
				}
				if !slices.Equal(got.Values[c][i], want) {
					t.Errorf("column %d: %s is something else", c, p.Name)
				}
			}
		}
	}
}

// TestTorchvision reads a file with torchvision's names into alexnet-owt with small layers.
func TestTorchvision(t *testing.T) {
	text, err := shard.EmbeddedText("alexnet-owt")
	if err != nil {
		t.Fatal(err)
	}
	text = strings.ReplaceAll(strings.ReplaceAll(text, "maps: 4096", "maps: 8"), "height: 224, width: 224",
		"height: 63, width: 63")
	a := &About{Text: text, Name: "small", Columns: 1, Channels: 3, Scale: 0.0174, Classes: make([]string, 10)}
	plan, err := a.Plan()
	if err != nil {
		t.Fatal(err)
	}
	s := NewState(plan)
	form, err := Form(plan)
	if err != nil {
		t.Fatal(err)
	}
	var all []tensors.Source
	for i, f := range form {
		n := 1
		for _, d := range f.Shape {
			n *= d
		}
		v := make([]float32, n)
		for k := range v {
			v[k] = float32(i + 1)
		}
		all = append(all, tensors.Of(torchvision[i/2]+[]string{".weight", ".bias"}[i%2], f.Shape, v))
	}
	var b bytes.Buffer
	if err := tensors.Write(&b, "pytorch", nil, all); err != nil {
		t.Fatal(err)
	}
	f := read(t, b.Bytes())
	if err := s.Import(f, nil); err != nil || !IsTorchvision(f) {
		t.Fatal(err)
	}
	for i, v := range s.Values[0] {
		if v[0] != float32(i+1) {
			t.Errorf("%s has the values of tensor %v", plan.Params[0][i].Name, v[0])
		}
	}
	mean, err := s.FromTorchvision(a.Scale)
	if err != nil {
		t.Fatal(err)
	}
	// (pixel - mean) * scale * w' must be (pixel / 255 - m) / std * w.
	for c, std := range imageNetStd {
		pixel := 200.0
		want := (pixel/255 - imageNetMean[c]) / std * 1
		got := (pixel - float64(mean[c*63*63])) * a.Scale * float64(s.Values[0][0][c*121])
		if math.Abs(got-want) > 1e-5 {
			t.Errorf("channel %d gives %g, want %g", c, got, want)
		}
	}
}

// TestColumn exports one column as it is.
func TestColumn(t *testing.T) {
	a, s := network(t, "tiny", 2, 8)
	one := 1
	f := read(t, exported(t, a, s, "npz", &one))
	var names []string
	for i, e := range f.Entries {
		names = append(names, e.Name)
		v, err := f.Load(i)
		if err != nil || !slices.Equal(v, s.Values[1][i]) {
			t.Errorf("%s has other values, %v", e.Name, err)
		}
	}
	want := "conv1.weight conv1.bias conv2.weight.from0 conv2.weight.from1 conv2.bias conv3.weight conv3.bias " +
		"fc4.weight.from0 fc4.weight.from1 fc4.bias fc5.weight.from0 fc5.weight.from1 fc5.bias"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("tensors %s, want %s", got, want)
	}
}

// TestNames refuses layers whose names would meet.
func TestNames(t *testing.T) {
	text := "network: n\ninput: {channels: [1], height: 4, width: 4}\nlayers:\n" +
		"  - {name: a.b, kind: dense, maps: 4, init: {std: 1}}\n  - {name: %s, kind: relu}\n" +
		"  - {name: c, kind: dense, maps: 2, init: {std: 1}}\n  - {name: s, kind: softmax}\n"
	for name, want := range map[string]string{"a_b": "layer a_b and layer a.b would both be called a_b",
		MeanName: "the input"} {
		n, err := shard.Parse("n", fmt.Appendf(nil, text, name))
		if err != nil {
			t.Fatal(err)
		}
		plan, err := shard.NewPlan(n, 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Form(plan); !errors.Is(err, ErrModel) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFrame cuts and pads as worker/data.CentreView does.
func TestFrame(t *testing.T) {
	mean := []float32{1, 2, 3, 4, 5, 6, 7, 8, 9}
	for _, c := range []struct {
		out  int
		want []float32
	}{
		{1, []float32{5}}, {2, []float32{1, 2, 4, 5}}, {3, mean},
		{4, []float32{0, 0, 0, 0, 0, 1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9}},
	} {
		if got := Frame(mean, 1, 3, 3, c.out, c.out); !slices.Equal(got, c.want) {
			t.Errorf("3x3 in %dx%d is %v, want %v", c.out, c.out, got, c.want)
		}
	}
}

// TestSpoiltMetadata never gives a model of something else.
func TestSpoiltMetadata(t *testing.T) {
	a, s := network(t, "tiny", 2, 8)
	good, err := a.Metadata()
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.Whole()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{{keyVersion, "2"}, {keyColumns, "x"}, {keyChannels, "-1"}, {keyScale, ""},
		{keyScale, "NaN"}, {keyScale, "+Inf"}, {keyScale, "-1"}, {keyClasses, "[]"}, {keyHeight, "1e9"},
		{keyHeight, "1000000000000"}, {keyWidth, "8193"}, {keyMean, "corner"}, {keyText, "network: tiny"},
		{keyNetwork, "\"\"\"\nimport os; os.system('true')\n\"\"\""}} {
		key, bad := c[0], c[1]
		m := maps.Clone(good)
		m[key] = bad
		var b bytes.Buffer
		if err := tensors.Write(&b, "safetensors", m, all); err != nil {
			t.Fatal(err)
		}
		if _, err := AboutOf(read(t, b.Bytes())); !errors.Is(err, ErrModel) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s %q: %v", key, bad, err)
		}
	}
}

// TestPython looks at the module's text: it must be ASCII, and Python of plain lines.
func TestPython(t *testing.T) {
	a, s := network(t, "alexnet-32", 2, 100)
	a.Classes[0] = "quote \" and é\n"
	text, err := Python(a, s.Plan)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if len(line) > 121 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	for _, want := range []string{`"conv2", "conv", dict(ins=32, outs=64, kernel=5, stride=1, pad=(2, 2, 2, 2), groups=2)`,
		`"lrn1", "lrn", dict(across="maps", size=5, alpha=0.0001, beta=0.75, k=2, parts=2)`, `"quote \" and \u00e9\n"`,
		"SCALE = 0.015625", "# the centre of an image, whose mean input_mean is\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the module does not have %s", want)
		}
	}
	a.CentreMean = true
	text, err = Python(a, s.Plan)
	if err != nil || !strings.Contains(string(text), "# a crop of an image: input_mean is") {
		t.Errorf("the module does not say that it takes any crop: %v", err)
	}
	if bytes.ContainsFunc(text, func(r rune) bool { return r > 126 }) || bytes.Contains(text, []byte("@")) {
		t.Error("the module is not ASCII, or has holes")
	}
}

// TestClasses looks at the last layer of a file, whose name may have a dot.
func TestClasses(t *testing.T) {
	n, err := shard.Parse("n", []byte("network: n\ninput: {channels: [1], height: 4, width: 4}\nlayers:\n"+
		"  - {name: c.d, kind: dense, maps: 2, init: {std: 1}}\n  - {name: s, kind: softmax}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for want, e := range map[int]tensors.Entry{7: {Name: "c_d.bias", Shape: []int{7}}, 2: {Name: "c_d.bias",
		Shape: []int{1 << 40}}} {
		if got := Classes(&tensors.File{Entries: []tensors.Entry{e}}, n); got != want {
			t.Errorf("a file with %v has %d classes, want %d", e, got, want)
		}
	}
}
