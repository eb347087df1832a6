package model

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	"colonnade/checkpoint/tensors"
	"colonnade/shard"
)

// MeanName is the tensor of the mean image: channels x height x width of the network's input, 0 to 255.
const MeanName = "input_mean"

// About is what a model needs besides its weights: what the network is, and how images become its input. The network
// computes on (pixel - mean) * scale, pixels from 0 to 255.
type About struct {
	Text     string // of the network's file
	Name     string // of the network
	Columns  int
	Channels int
	Height   int // of stored images, of whose centre the network's input is cut; 0: not known
	Width    int
	Scale    float64
	Mean     []float32 // channels x height x width of the input; 0 where the image does not reach; nil: none
	Classes  []string  // names, by label; as many as the network has
	// CentreMean says that Mean is subtracted from every crop of an image, as `mean: centre` in a job has it; else a crop
	// beside the centre sees the mean image at its own place, which Mean does not hold.
	CentreMean bool
}

// Plan splits the network.
func (a *About) Plan() (*shard.Plan, error) {
	n, err := shard.Parse(a.Name, []byte(a.Text))
	if err != nil {
		return nil, err
	}
	if n, err = n.Resolve(a.Channels, len(a.Classes)); err != nil {
		return nil, err
	}
	return shard.NewPlan(n, a.Columns)
}

// Keys of a safetensors file's metadata. Whoever exports, where and when is not among them: equal models are equal
// files.
const (
	keyVersion  = "colonnade"
	keyFormat   = "format" // "pt": what PyTorch's tools look for
	keyNetwork  = "network"
	keyText     = "network_text"
	keyColumns  = "columns"
	keyChannels = "channels"
	keyHeight   = "image_height"
	keyWidth    = "image_width"
	keyScale    = "scale"
	keyClasses  = "classes"
	keyMean     = "mean" // meanCentre, or not there

	metadataVersion = "1"
	meanCentre      = "centre"
)

// Metadata is a for a safetensors file.
func (a *About) Metadata() (map[string]string, error) {
	classes, err := json.Marshal(a.Classes)
	if err != nil {
		return nil, err
	}
	m := map[string]string{keyVersion: metadataVersion, keyFormat: "pt", keyNetwork: a.Name, keyText: a.Text,
		keyHeight: strconv.Itoa(a.Height), keyWidth: strconv.Itoa(a.Width),
		keyColumns: strconv.Itoa(a.Columns), keyChannels: strconv.Itoa(a.Channels),
		keyScale: strconv.FormatFloat(a.Scale, 'g', -1, 64), keyClasses: string(classes)}
	if a.CentreMean {
		m[keyMean] = meanCentre
	}
	return m, nil
}

// AboutOf reads what a file says of itself; nil if it does not.
func AboutOf(f *tensors.File) (*About, error) {
	m := f.Metadata
	if m[keyVersion] == "" {
		return nil, nil
	}
	if m[keyVersion] != metadataVersion {
		return nil, fmt.Errorf("%w: its metadata is of version %.20q, this program reads %s", ErrModel, m[keyVersion],
			metadataVersion)
	}
	a := &About{Text: m[keyText], Name: m[keyNetwork], CentreMean: m[keyMean] == meanCentre}
	var err error
	bad := func(key string) (*About, error) {
		return nil, fmt.Errorf("%w: its metadata has %s: %.40q", ErrModel, key, m[key])
	}
	if m[keyMean] != "" && !a.CentreMean {
		return bad(keyMean)
	}
	for key, into := range map[string]*int{keyColumns: &a.Columns, keyChannels: &a.Channels, keyHeight: &a.Height,
		keyWidth: &a.Width} {
		if *into, err = strconv.Atoi(m[key]); err != nil || *into < 0 {
			return bad(key)
		}
	}
	if a.Channels > maxStored || a.Height > maxStored || a.Width > maxStored {
		return bad(keyHeight)
	}
	if a.Scale, err = strconv.ParseFloat(m[keyScale], 64); err != nil || !(a.Scale > 0) || math.IsInf(a.Scale, 0) {
		return bad(keyScale)
	}
	if err := json.Unmarshal([]byte(m[keyClasses]), &a.Classes); err != nil || len(a.Classes) == 0 {
		return bad(keyClasses)
	}
	// The name goes into the text of programs: it is the network's own, which is one.
	n, err := shard.Parse("its network", []byte(a.Text))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrModel, err)
	}
	if a.Name != n.Name {
		return bad(keyNetwork)
	}
	a.Mean, err = MeanOf(f)
	return a, err
}

// What a file may claim of its images: the values of a mean, and the side of a stored image.
const (
	maxMean   = 1 << 24
	maxStored = 1 << 13
)

// MeanOf is the mean image that a file has with it; nil if it has none.
func MeanOf(f *tensors.File) ([]float32, error) {
	for i, e := range f.Entries {
		if e.Name != MeanName {
			continue
		}
		if e.Len() > maxMean {
			return nil, fmt.Errorf("%w: its mean image has the shape %v, which no network takes", ErrModel, e.Shape)
		}
		mean, err := f.Load(i)
		for k, x := range mean {
			if x != x || math.IsInf(float64(x), 0) {
				return nil, fmt.Errorf("%w: value %d of the mean image is %v; leave %s out of the file, or mend it", ErrModel, k, x,
					MeanName)
			}
		}
		return mean, err
	}
	return nil, nil
}

// Frame is a mean image of c x h x w pixels as a frame of outH x outW sees its centre: 0 where it does not reach, since
// there the input is 0 too.
func Frame(mean []float32, c, h, w, outH, outW int) []float32 {
	out := make([]float32, c*outH*outW)
	top, left := (h-outH)>>1, (w-outW)>>1 // rounded down, also below 0: worker/data.CentreView
	for k := range c {
		for y := range outH {
			for x := range outW {
				if sy, sx := y+top, x+left; sy >= 0 && sy < h && sx >= 0 && sx < w {
					out[(k*outH+y)*outW+x] = mean[(k*h+sy)*w+sx]
				}
			}
		}
	}
	return out
}
