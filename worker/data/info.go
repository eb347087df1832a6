package data

import "fmt"

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
	return f, nil
}
