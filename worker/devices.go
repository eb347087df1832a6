package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"colonnade/cudakern"
	"colonnade/cudakern/cpu"
	"colonnade/cudakern/kerntest"
	"colonnade/cudakern/ref"
)

// deviceKind is one kind of device this program was built with.
type deviceKind struct {
	name string
	what string
	open func(cudakern.Settings) (cudakern.Device, error)
}

var deviceKinds = []deviceKind{
	{"cpu", "this machine's processor, float32", openCPU},
	{"ref", "reference in float64, for tests: slow", func(cudakern.Settings) (cudakern.Device, error) {
		return ref.New(), nil
	}},
}

func openCPU(s cudakern.Settings) (cudakern.Device, error) {
	options := []cpu.Option{cpu.Threads(max(s.Threads, 1))}
	if s.Direct {
		options = append(options, cpu.Direct())
	}
	return cpu.New(options...)
}

// findDevice returns what opens the device that --device names.
func findDevice(name string) (func(cudakern.Settings) (cudakern.Device, error), error) {
	for _, k := range deviceKinds {
		if k.name != name {
			continue
		}
		return func(s cudakern.Settings) (cudakern.Device, error) {
			d, err := k.open(s)
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
	Name     string `json:"name"`
	What     string `json:"what"`
	Model    string `json:"model,omitempty"`
	Numerics string `json:"numerics,omitempty"`
	Memory   int64  `json:"memory_bytes,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Run lists the devices.
func (c *devicesCmd) Run(con console) error {
	var facts []deviceFact
	for _, k := range deviceKinds {
		f := deviceFact{Name: k.name, What: k.what}
		d, err := k.open(cudakern.Settings{Threads: cores()})
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
	w := tabwriter.NewWriter(con.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "DEVICE\tMODEL\tNUMERICS\tWHAT")
	for _, f := range facts {
		if f.Error != "" {
			fmt.Fprintf(w, "%s\t-\t-\tnot usable: %s\n", f.Name, f.Error)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.Name, f.Model, f.Numerics, f.What)
	}
	return w.Flush()
}

// verifyCmd is `worker verify`.
type verifyCmd struct {
	Device string   `required:"" help:"Device to check: see worker devices."`
	Op     []string `sep:"," placeholder:"NAME,..." help:"Only these ops. Default: all."`
	JSON   bool     `help:"Print as JSON."`
}

// Run checks every op of a device against the reference.
func (c *verifyCmd) Run(ctx context.Context, con console) error {
	d, err := openDevice(c.Device, cudakern.Settings{Threads: cores()})
	if err != nil {
		return err
	}
	defer d.Close()
	results := kerntest.Check(d, kerntest.Options{Ops: c.Op})
	for _, op := range c.Op {
		if !slices.ContainsFunc(results, func(r kerntest.Result) bool { return r.Op == op }) {
			return usageError{fmt.Errorf("--op %s: there is no such op; leave --op out to check all", op)}
		}
	}
	if c.JSON {
		if err := printJSON(con.out, results); err != nil {
			return err
		}
	} else if err := printResults(con.out, d.Info(), results); err != nil {
		return err
	}
	for _, r := range results {
		if !r.Pass {
			return fmt.Errorf("device %s gives wrong results; do not train on it", c.Device)
		}
	}
	return nil
}

func printResults(out io.Writer, info cudakern.Info, results []kerntest.Result) error {
	what := "ops against the reference in float64, every run twice:"
	if info.Name == ref.New().Info().Name {
		what = "this is the reference itself: all this shows is that it repeats"
	}
	fmt.Fprintf(out, "%s: %s, numerics %s\n%s\n", info.Name, info.Model, info.Numerics, what)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "OP\tCASES\tERROR OF TOLERATED\tRESULT")
	for _, r := range results {
		verdict := "ok"
		if !r.Pass {
			verdict = "WRONG: " + r.Failure
		}
		fmt.Fprintf(w, "%s\t%d\t%.2g %%\t%s\n", r.Op, r.Cases, 100*r.MaxError, verdict)
	}
	return w.Flush()
}

// printJSON prints a value as indented JSON.
func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
