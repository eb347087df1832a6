package model

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"colonnade/checkpoint/tensors"
	"colonnade/shard"
)

// Import reads a file's tensors into the state. Every tensor of the network must be in the file, in its shape, but for
// those of the fresh layers, which stay as they are; the file may hold nothing else but a mean image and what belonged
// to fresh layers. Names and shapes are checked before any value is read; every value must be a finite number. After an
// error the state holds anything.
func (s *State) Import(f *tensors.File, fresh []string) error {
	form, at, err := match(s.Plan, f, fresh)
	if err != nil {
		return err
	}
	for _, t := range form {
		if slices.Contains(fresh, t.Layer) {
			continue
		}
		if err := s.fill(f, at[t.Name], t); err != nil {
			return err
		}
	}
	return nil
}

// LoadFile is Import into a new state of a plan, for which no memory is asked before names and shapes are right: a file
// that says itself what network it is of may say anything.
func LoadFile(plan *shard.Plan, f *tensors.File, fresh []string) (*State, error) {
	if _, _, err := match(plan, f, fresh); err != nil {
		return nil, err
	}
	s := NewState(plan)
	return s, s.Import(f, fresh)
}

// match compares a file's names and shapes with those that a plan wants, and says where each tensor is.
func match(plan *shard.Plan, f *tensors.File, fresh []string) (form []Tensor, at map[string]int, err error) {
	if form, err = Form(plan); err != nil {
		return nil, nil, err
	}
	for _, l := range fresh {
		if !slices.ContainsFunc(form, func(t Tensor) bool { return t.Layer == l }) {
			return nil, nil, fmt.Errorf("%w: layer %q is to begin anew, but network %s has no such layer with weights",
				ErrModel, l, plan.Network.Name)
		}
	}
	foreign, err := torchvisionNames(f, form)
	if err != nil {
		return nil, nil, err
	}
	at = map[string]int{}
	for i, e := range f.Entries {
		name := e.Name
		if foreign != nil {
			name = foreign[name]
		}
		at[name] = i
	}
	return form, at, check(plan, f, form, fresh, at)
}

// check compares names and shapes.
func check(plan *shard.Plan, f *tensors.File, form []Tensor, fresh []string, at map[string]int) error {
	known := map[string]bool{MeanName: true}
	for _, t := range form {
		known[t.Name] = true
		if slices.Contains(fresh, t.Layer) {
			continue
		}
		i, ok := at[t.Name]
		if !ok {
			return fmt.Errorf("%w: tensor %s of network %s, of shape %v, is missing; if layer %s is to begin anew, name it "+
				"under start.fresh in the job", ErrModel, t.Name, plan.Network.Name, t.Shape, t.Layer)
		}
		if got := f.Entries[i].Shape; !slices.Equal(got, t.Shape) {
			return fmt.Errorf("%w: tensor %s has the shape %v, network %s wants %v; if layer %s is to begin anew, name it "+
				"under start.fresh in the job", ErrModel, t.Name, got, plan.Network.Name, t.Shape, t.Layer)
		}
	}
	for _, e := range f.Entries {
		if f.Format == "onnx" && !strings.HasSuffix(e.Name, ".weight") && !strings.HasSuffix(e.Name, ".bias") {
			continue // a graph's constants
		}
		if i, ok := at[e.Name]; ok && f.Entries[i].Name == e.Name && !known[e.Name] {
			return fmt.Errorf("%w: tensor %s of shape %v is not of network %s; leave it out, or name its network",
				ErrModel, e.Name, e.Shape, plan.Network.Name)
		}
	}
	return nil
}

// fill reads one tensor into its places.
func (s *State) fill(f *tensors.File, i int, t Tensor) error {
	var places [][]float32 // what is left to be filled, in order
	err := t.each(func(r run) error {
		places = append(places, s.Values[r.column][r.param][r.offset:r.offset+r.n])
		return nil
	})
	if err != nil {
		return err
	}
	seen := 0
	return f.Values(i, func(v []float32) error {
		for k, x := range v {
			if x != x || math.IsInf(float64(x), 0) {
				return fmt.Errorf("%w: value %d of tensor %s is %v; a model that has diverged cannot be gone on from", ErrModel,
					seen+k, t.Name, x)
			}
		}
		seen += len(v)
		for len(v) > 0 {
			n := copy(places[0], v)
			v = v[n:]
			if places[0] = places[0][n:]; len(places[0]) == 0 {
				places = places[1:]
			}
		}
		return nil
	})
}

// torchvision's AlexNet counts its layers: these are those with weights, in order.
var torchvision = []string{"features.0", "features.3", "features.6", "features.8", "features.10", "classifier.1",
	"classifier.4", "classifier.6"}

// torchvisionNames gives our names of a file's tensors if it is torchvision's AlexNet; nil if it is not.
func torchvisionNames(f *tensors.File, form []Tensor) (map[string]string, error) {
	if !slices.ContainsFunc(f.Entries, func(e tensors.Entry) bool { return e.Name == "features.0.weight" }) {
		return nil, nil
	}
	if len(form) != 2*len(torchvision) {
		return nil, fmt.Errorf("%w: the file is torchvision's AlexNet of eight layers with weights, the network has %d; "+
			"import it "+
			"into network alexnet-owt in one column", ErrModel, len(form)/2)
	}
	names := map[string]string{}
	for i, l := range torchvision {
		names[l+".weight"], names[l+".bias"] = form[2*i].Name, form[2*i+1].Name
	}
	for _, e := range f.Entries {
		if names[e.Name] == "" {
			return nil, fmt.Errorf("%w: tensor %s does not belong to torchvision's AlexNet", ErrModel, e.Name)
		}
	}
	return names, nil
}

// What torchvision's models take: (pixel / 255 - mean) / std, by channel.
var (
	imageNetMean = [3]float64{0.485, 0.456, 0.406}
	imageNetStd  = [3]float64{0.229, 0.224, 0.225}
)

// IsTorchvision says whether a file's weights are made for the input that torchvision's models take.
func IsTorchvision(f *tensors.File) bool {
	return slices.ContainsFunc(f.Entries, func(e tensors.Entry) bool { return e.Name == "features.0.weight" })
}

// FromTorchvision makes weights for torchvision's input right for ours, (pixel - mean) * scale: the first layer's are
// multiplied by what the channels are divided by less or more. The mean image must be 255 times torchvision's means by
// channel for the same outputs; that of another dataset, seen at its own place, is what fine-tuning wants.
func (s *State) FromTorchvision(scale float64) (mean []float32, err error) {
	in := s.Plan.Network.Input
	first := s.Plan.Params[0][0]
	if s.Plan.Columns != 1 || in.Channels[0] != 3 || len(first.Shape) != 4 || first.From != shard.InputColumn {
		return nil,
			fmt.Errorf("%w: torchvision's AlexNet goes into a network of one column that begins with a convolution over "+
				"three channels: alexnet-owt", ErrModel)
	}
	w := s.Values[0][0]
	area := first.Shape[2] * first.Shape[3]
	for i := range w {
		w[i] = float32(float64(w[i]) / (255 * imageNetStd[i/area%3] * scale))
	}
	for c := range 3 {
		for range in.Height * in.Width {
			mean = append(mean, float32(255*imageNetMean[c]))
		}
	}
	return mean, nil
}

// Read reads a model that was exported whole as safetensors and says itself what it is.
func Read(path string) (*About, *State, error) {
	f, err := tensors.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	a, err := AboutOf(f)
	if err == nil && a == nil {
		err = fmt.Errorf("%w: it does not say what network it is of, as safetensors written by us does; import it first: "+
			"coordinator checkpoint import", ErrModel)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	plan, err := a.Plan()
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	if n := plan.Network.Input.Height * plan.Network.Input.Width * a.Channels; a.Mean != nil && len(a.Mean) != n {
		return nil, nil, fmt.Errorf("read %s: %w: its mean image has %d values instead of %d", path, ErrModel, len(a.Mean), n)
	}
	s, err := LoadFile(plan, f, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	return a, s, nil
}

// maxClasses bounds what a file may claim, before there is a name for each.
const maxClasses = 1 << 20

// Classes is how many classes the last layer of a file has that is a model of the network; where it has none, as many
// as the network.
func Classes(f *tensors.File, n *shard.Network) int {
	last := portable(n.Layers[len(n.Layers)-2].Name) + ".bias"
	if IsTorchvision(f) {
		last = torchvision[len(torchvision)-1] + ".bias"
	}
	for _, e := range f.Entries {
		if e.Name == last && len(e.Shape) == 1 && e.Shape[0] <= maxClasses {
			return e.Shape[0]
		}
	}
	return n.Classes
}
