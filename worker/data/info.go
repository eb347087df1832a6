package data

import (
	"fmt"
	"math"
)

// Facts are what `worker data info` says of a pack.
type Facts struct {
	Path     string    `json:"path"`
	ID       string    `json:"id"`
	Images   int       `json:"images"`
	Channels int       `json:"channels"`
	Height   int       `json:"height"`
	Width    int       `json:"width"`
	Classes  []Class   `json:"classes"`
	Mean     []float64 `json:"mean"` // by channel, 0..255
	Made     string    `json:"made,omitempty"`
	Files    []string  `json:"files,omitempty"` // of pixels, beside the pack
	Bytes    int64     `json:"bytes"`           // of all files
	Colour   *Colour   `json:"colour,omitempty"`
}

// Colour is the principal components of the pixel values.
type Colour struct {
	Deviations [3]float64    `json:"deviations"` // along the components: roots of the covariance's eigenvalues
	Components [3][3]float64 `json:"components"` // unit vectors over R, G, B
	Covariance [3][3]float64 `json:"covariance"`
}

// Class is one class of a pack.
type Class struct {
	Name   string `json:"name"`
	Images int    `json:"images"`
}

// Info opens a pack, which verifies it, and counts.
func Info(path string) (Facts, error) {
	p, err := Open(path)
	if err != nil {
		return Facts{}, err
	}
	defer p.Close()
	if err := p.VerifyIdentity(); err != nil {
		return Facts{}, err
	}
	f := Facts{Path: path, ID: fmt.Sprintf("%x", p.ID), Images: p.Images, Channels: p.Channels, Height: p.Height,
		Width: p.Width}
	for _, c := range p.Classes {
		f.Classes = append(f.Classes, Class{Name: c})
	}
	for i := range p.Images {
		f.Classes[p.Label(i)].Images++
	}
	area := p.Height * p.Width
	for c := range p.Channels {
		var sum float64
		for _, v := range p.Mean()[c*area : (c+1)*area] {
			sum += float64(v)
		}
		f.Mean = append(f.Mean, sum/float64(area))
	}
	f.Bytes = p.FileBytes()
	if p.Extra != nil {
		f.Made = p.Extra.Made
	}
	for s := range p.Shards() {
		from, to := p.ShardImages(s)
		f.Files, f.Bytes = append(f.Files, p.ShardName(path, s)), f.Bytes+int64(to-from)*int64(p.ImageBytes())
	}
	if c, ok := p.Header.Colour(); ok {
		f.Colour = &Colour{Components: c.Vectors, Covariance: c.Covariance}
		for i, v := range c.Values {
			f.Colour.Deviations[i] = math.Sqrt(v)
		}
	}
	return f, nil
}
