package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"colonnade/cudakern"
	"colonnade/cudakern/cpu"
	"colonnade/cudakern/cuda"
	"colonnade/cudakern/ref"
)

// deviceKind is one kind of device this program was built with.
type deviceKind struct {
	name string // and of its one device, unless it has several
	what string
	open func(name string, s cudakern.Settings) (cudakern.Device, error)
	owns func(name string) bool // names of its devices; nil: its own name alone
}

var deviceKinds = []deviceKind{
	{"cpu", "this machine's processor, float32", openCPU, nil},
	{"cuda", "a GPU of NVIDIA's, float32", openCUDA, isGPU},
	{"ref", "reference in float64, for tests: slow", openRef, nil},
}

func openCPU(_ string, s cudakern.Settings) (cudakern.Device, error) {
	if s.TF32 {
		return nil, errNoTF32
	}
	options := []cpu.Option{cpu.Threads(max(s.Threads, 1))}
	if s.Direct {
		options = append(options, cpu.Direct())
	}
	return cpu.New(options...)
}

func openRef(_ string, s cudakern.Settings) (cudakern.Device, error) {
	if s.TF32 {
		return nil, errNoTF32
	}
	return ref.New(), nil
}

func openCUDA(name string, s cudakern.Settings) (cudakern.Device, error) {
	var options []cuda.Option
	if s.TF32 {
		options = append(options, cuda.TF32())
	}
	return cuda.New(name, options...)
}

var errNoTF32 = fmt.Errorf("no TF32: %w; leave --tf32 out, or use a GPU", cudakern.ErrUnsupported)

// isGPU says whether a name is one of a GPU: cuda:N, or its UUID with or without cuda: before it.
func isGPU(name string) bool {
	return name == "cuda" || strings.HasPrefix(name, "cuda:") || strings.HasPrefix(name, "GPU-")
}

// findDevice returns what opens the device that --device names.
func findDevice(name string) (func(cudakern.Settings) (cudakern.Device, error), error) {
	for _, k := range deviceKinds {
		if k.name != name && (k.owns == nil || !k.owns(name)) {
			continue
		}
		if name == "cuda" {
			return nil, usageError{fmt.Errorf("device %q: which GPU? The first is cuda:0; see: worker devices", name)}
		}
		return func(s cudakern.Settings) (cudakern.Device, error) {
			d, err := k.open(name, s)
			if err != nil && k.name == "cuda" {
				return nil, err // it says which of several
			}
			if err != nil {
				return nil, fmt.Errorf("open device %s: %w", name, err)
			}
			return d, nil
		}, nil
	}
	return nil, usageError{fmt.Errorf("no device %q; see: worker devices", name)}
}

// openDevice opens the device that --device names.
func openDevice(name string, s cudakern.Settings) (cudakern.Device, error) {
	open, err := findDevice(name)
	if err != nil {
		return nil, err
	}
	return open(s)
}

// devicesCmd is `worker devices`.
type devicesCmd struct {
	JSON bool `help:"Print as JSON."`
}

// deviceFact is a row of `worker devices`.
type deviceFact struct {
	Name     string    `json:"name"`
	What     string    `json:"what"`
	Model    string    `json:"model,omitempty"`
	Numerics string    `json:"numerics,omitempty"`
	Memory   int64     `json:"memory_bytes,omitempty"`
	Error    string    `json:"error,omitempty"`
	GPU      *cuda.GPU `json:"gpu,omitempty"`
}

// Run lists the devices. GPUs are not opened: that takes memory of each.
func (c *devicesCmd) Run(con console) error {
	driver := cuda.List()
	var facts []deviceFact
	for _, k := range deviceKinds {
		if k.name == "cuda" {
			facts = append(facts, gpuFacts(k.what, driver)...)
			continue
		}
		f := deviceFact{Name: k.name, What: k.what}
		d, err := k.open(k.name, cudakern.Settings{Threads: cores()})
		if err != nil {
			f.Error = err.Error()
		} else {
			info := d.Info()
			f.Model, f.Numerics, f.Memory = info.Model, info.Numerics, info.Memory
			if err := d.Close(); err != nil {
				return err
			}
		}
		facts = append(facts, f)
	}
	if c.JSON {
		return printJSON(con.out, facts)
	}
	return printDevices(con.out, facts, driver)
}

// gpuFacts are the rows of the GPUs, or the one that says why there are none.
func gpuFacts(what string, d cuda.Driver) (out []deviceFact) {
	if d.Error != "" {
		return []deviceFact{{Name: "cuda", What: what, Error: d.Error}}
	}
	for i := range d.GPUs {
		g := &d.GPUs[i]
		f := deviceFact{Name: g.Name, What: what, Model: g.Model, Numerics: g.Numerics, Memory: g.Memory, GPU: g}
		if g.Free != nil {
			f.Memory = *g.Free
		}
		out = append(out, f)
	}
	return out
}

// printDevices prints a row a device, then what else is known of each, then of the driver.
func printDevices(out io.Writer, facts []deviceFact, driver cuda.Driver) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "DEVICE\tMODEL\tWHAT")
	for _, f := range facts {
		model, what := f.Model, f.What
		if f.Error != "" {
			model, what = "-", "not usable: see below"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Name, model, what)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, f := range facts {
		fmt.Fprintln(out)
		if f.Error != "" {
			paragraph(out, f.Name, "not usable: "+f.Error)
			continue
		}
		if f.GPU == nil {
			paragraph(out, f.Name, "numerics "+f.Numerics)
			continue
		}
		facts := append(gpuWords(f.GPU), "numerics "+f.Numerics)
		for i := range facts {
			facts[i] = strings.ReplaceAll(facts[i], " ", together)
		}
		paragraph(out, f.Name, strings.Join(facts, ", "))
		for _, l := range f.GPU.Links {
			peer := "no access to each other's memory, so by way of the host"
			if l.Peer {
				peer = "access to each other's memory"
			}
			paragraph(out, "", fmt.Sprintf("to %s: %s", l.To, strings.Join(nonEmpty(l.Path, peer), ", ")))
		}
		for _, s := range f.GPU.Warnings {
			paragraph(out, "", "warning: "+s)
		}
	}
	if len(driver.GPUs) > 0 {
		fmt.Fprintln(out)
		paragraph(out, "driver", strings.Join(driverWords(driver), ", "))
	}
	if len(models(driver)) > 1 {
		paragraph(out, "", "warning: "+severalKinds)
	}
	return nil
}

// severalKinds is what an owner of unlike GPUs should know.
const severalKinds = "the GPUs are of several kinds: a job on more than one is as fast as the slowest of them, " +
	"with the same bits"

// together is a space at which paragraph ends no line.
const together = "\u00a0"

// paragraph prints words behind a name, in lines of at most 96 columns.
func paragraph(out io.Writer, name, text string) {
	const indent, width = 8, 96
	line := fmt.Sprintf("%-*s", indent-1, name)
	end := func() { fmt.Fprintln(out, strings.ReplaceAll(line, together, " ")) }
	for _, word := range strings.Split(text, " ") {
		if len(line) > indent && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			end()
			line = strings.Repeat(" ", indent-1)
		}
		line += " " + word
	}
	end()
}

func driverWords(d cuda.Driver) []string {
	words := nonEmpty(d.Release, "CUDA "+d.Version)
	if d.Health != "" {
		words = append(words, "nothing known of health: "+d.Health)
	}
	return words
}

// gpuWords are a GPU's facts, those that are known.
func gpuWords(g *cuda.GPU) []string {
	words := nonEmpty(g.UUID, g.Bus, "compute capability "+g.Capability, fmt.Sprintf("%d multiprocessors", g.Processors))
	memory := gib(g.Memory) + " of memory"
	if g.Free != nil {
		memory = gib(*g.Free) + " free of " + gib(g.Memory)
	}
	words = append(words, memory)
	if g.Temperature != nil {
		words = append(words, fmt.Sprintf("%d °C", *g.Temperature))
	}
	switch {
	case g.Watts != nil && g.WattsLimit != nil:
		words = append(words, fmt.Sprintf("%.0f of %.0f W", *g.Watts, *g.WattsLimit))
	case g.Watts != nil:
		words = append(words, fmt.Sprintf("%.0f W", *g.Watts))
	}
	if g.Busy != nil {
		words = append(words, fmt.Sprintf("%d %% busy", *g.Busy))
	}
	if g.ECC != nil {
		words = append(words, map[bool]string{true: "ECC on", false: "ECC off"}[*g.ECC])
	}
	if len(g.Slowed) > 0 {
		words = append(words, "held back by "+strings.Join(g.Slowed, " and "))
	}
	return words
}

func nonEmpty(words ...string) []string {
	return slices.DeleteFunc(words, func(s string) bool { return s == "" })
}

// printJSON prints a value as indented JSON.
func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
