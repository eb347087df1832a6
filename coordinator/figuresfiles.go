package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"os"
	"strings"

	"colonnade/coordinator/figures"
)

// exampleFile is what `worker examples` writes.
type exampleFile struct {
	Among       int           `json:"among"`
	Predictions []exampleJSON `json:"predictions"`
	Similar     []struct {
		Of      exampleJSON   `json:"of"`
		Nearest []exampleJSON `json:"nearest"`
	} `json:"similar"`
}

type exampleJSON struct {
	Label int    `json:"label"`
	Name  string `json:"name"`
	PNG   []byte `json:"png"`
	Best  []struct {
		Class       int     `json:"class"`
		Name        string  `json:"name"`
		Probability float64 `json:"probability"`
	} `json:"best"`
}

// mostFile bounds a file that figures are drawn from.
const mostFile = 1 << 30

// readJSON reads a file that `command` has written.
func readJSON(path, command string, into any) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("figures: %w; write it with: %s", err, command)
	}
	if info.Size() > mostFile {
		return fmt.Errorf("figures: %s is larger than %d bytes: it is not of: %s; write it again with that", path,
			mostFile, command)
	}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		return fmt.Errorf("figures: %s: %w; write it with: %s", path, err, command)
	}
	return nil
}

// example is an example as it is drawn.
func (e exampleJSON) example() (figures.Example, error) {
	m, err := png.Decode(bytes.NewReader(e.PNG))
	if err != nil {
		return figures.Example{}, fmt.Errorf("image of class %s: %w", e.Name, err)
	}
	return figures.Example{Image: m, Name: e.Name}, nil
}

// drawExamples adds figure 4, as far as the file has it.
func drawExamples(path string, drawings map[string]*figures.Drawing) error {
	var f exampleFile
	if err := readJSON(path, "worker examples", &f); err != nil {
		return err
	}
	fail := func(err error) error {
		return fmt.Errorf("figures: %s: %w; write it again with: worker examples", path, err)
	}
	var said []figures.Prediction
	for _, p := range f.Predictions {
		e, err := p.example()
		if err != nil {
			return fail(err)
		}
		drawn := figures.Prediction{Example: e}
		for _, g := range p.Best {
			drawn.Best = append(drawn.Best, figures.Guess{Name: g.Name, Probability: g.Probability, Right: g.Class == p.Label})
		}
		said = append(said, drawn)
	}
	var near []figures.Neighbours
	for _, s := range f.Similar {
		var n figures.Neighbours
		var err error
		if n.Of, err = s.Of.example(); err != nil {
			return fail(err)
		}
		for _, e := range s.Nearest {
			one, err := e.example()
			if err != nil {
				return fail(err)
			}
			n.Nearest = append(n.Nearest, one)
		}
		if len(n.Nearest) > 0 {
			near = append(near, n)
		}
	}
	if len(said) == 0 && len(near) == 0 {
		return fail(fmt.Errorf("there is nothing to draw; write it again with --images 8 --queries 5"))
	}
	var err error
	if len(said) > 0 {
		if drawings["predictions"], err = figures.Predictions(said); err != nil {
			return fail(err)
		}
	}
	if len(near) > 0 {
		if drawings["nearest"], err = figures.Nearest(near); err != nil {
			return fail(err)
		}
	}
	return nil
}

// phaseFile is what `worker bench --json` prints.
type phaseFile struct {
	Network string `json:"network"`
	Batch   int    `json:"batch"`
	Step    struct {
		Median float64 `json:"median"`
	} `json:"ms_per_step"`
	Device struct {
		Model string `json:"model"`
	} `json:"device"`
	Cells []struct {
		Cell    string  `json:"cell"`
		Threads int     `json:"threads"`
		RestMS  float64 `json:"rest_ms"`
		Phases  []struct {
			Name string  `json:"name"`
			Kind string  `json:"kind"`
			MS   float64 `json:"ms"`
		} `json:"phases"`
	} `json:"cells"`
}

// kindsOfPhases are drawn in this order, under names that say what is meant.
var kindsOfPhases = [][2]string{{"forward", "forward"}, {"data", "gradient of maps"},
	{"weights", "gradient of weights"}, {"wait", "waiting"}, {"other", "other"}}

// drawPhases adds where a step's time goes: a bar for each layer of each cell, by kinds of phases.
func drawPhases(path string, drawings map[string]*figures.Drawing) error {
	const command = "worker bench --json"
	var f phaseFile
	if err := readJSON(path, command, &f); err != nil {
		return err
	}
	var layers []string
	ms := map[[3]string]float64{} // by cell, layer, kind
	for _, c := range f.Cells {
		for _, p := range c.Phases {
			layer, _, _ := strings.Cut(p.Name, " ")
			layer, _, _ = strings.Cut(layer, "/")
			if _, ok := ms[[3]string{"", layer, ""}]; !ok {
				ms[[3]string{"", layer, ""}] = 0
				layers = append(layers, layer)
			}
			ms[[3]string{c.Cell, layer, p.Kind}] += p.MS
		}
	}
	var bars []figures.Bar
	for _, layer := range layers {
		for i, c := range f.Cells {
			b := figures.Bar{Name: layer}
			if i > 0 {
				b.Name = "" // below the first cell's
			}
			for _, kind := range kindsOfPhases {
				b.Parts = append(b.Parts, figures.Part{Name: kind[1], Value: ms[[3]string{c.Cell, layer, kind[0]}]})
			}
			bars = append(bars, b)
		}
	}
	title := fmt.Sprintf("a step of %s, batch %d", f.Network, f.Batch)
	if f.Step.Median > 0 {
		title += fmt.Sprintf(": %.4g ms", f.Step.Median)
	}
	if len(f.Cells) > 1 {
		title += fmt.Sprintf("; a bar for each of %d columns", len(f.Cells))
	}
	var names []string
	for _, kind := range kindsOfPhases {
		names = append(names, kind[1])
	}
	d, err := figures.Bars(title, "ms", names, bars)
	if err != nil {
		return fmt.Errorf("figures: %s: %w; write it with: %s", path, err, command)
	}
	drawings["phases"] = d
	return nil
}
