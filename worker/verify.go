package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"colonnade/cudakern"
	"colonnade/cudakern/kerntest"
	"colonnade/cudakern/ref"
)

// verifyCmd is `worker verify`.
type verifyCmd struct {
	Device string   `required:"" help:"Device to check: see worker devices."`
	Op     []string `sep:"," placeholder:"NAME,..." help:"Only these ops. Default: all, and a training whose outcome is known."`
	Batch  int      `default:"128" help:"Images that a GPU's ops are timed with, in AlexNet's shapes; 0: they are not timed."`
	TF32   bool     `name:"tf32" help:"Check the arithmetic of tensor cores, which is less exact."`
	JSON   bool     `help:"Print as JSON."`
}

// verified is what the checks of one op came to, and its speed.
type verified struct {
	kerntest.Result
	Timed []timed `json:"timed,omitempty"`
}

// Run checks every op of a device against the reference.
func (c *verifyCmd) Run(ctx context.Context, con console) error {
	if c.Batch < 0 || c.Batch > maxBenchBatch {
		return usageError{fmt.Errorf("--batch %d; it must be between 0 and %d: leave it out to take 128", c.Batch,
			maxBenchBatch)}
	}
	d, err := openDevice(c.Device, cudakern.Settings{Threads: cores(), TF32: c.TF32})
	if err != nil {
		return err
	}
	info := d.Info()
	results, err := c.check(ctx, d)
	if err = also(err, d.Close()); err != nil {
		return err
	}
	if len(c.Op) == 0 {
		results = append(results, verified{Result: c.training(ctx, info)})
	}
	if c.JSON {
		if err := printJSON(con.out, results); err != nil {
			return err
		}
	} else if err := printResults(con.out, info, results); err != nil {
		return err
	}
	for _, r := range results {
		if !r.Pass {
			return fmt.Errorf("device %s gives wrong results; do not train on it", c.Device)
		}
	}
	return nil
}

// check runs the conformance suite and times the ops that pass.
func (c *verifyCmd) check(ctx context.Context, d cudakern.Device) (out []verified, err error) {
	results := kerntest.Check(d, kerntest.Options{Ops: c.Op})
	for _, op := range c.Op {
		if !slices.ContainsFunc(results, func(r kerntest.Result) bool { return r.Op == op }) {
			return nil, usageError{fmt.Errorf("--op %s: there is no such op; leave --op out to check all", op)}
		}
	}
	gpu, _ := d.(peaked)
	for _, r := range results {
		if errors.Is(r.Err, cudakern.ErrMemory) || errors.Is(r.Err, cudakern.ErrLost) {
			return nil, fmt.Errorf("check %s: %w", r.Op, r.Err)
		}
		v := verified{Result: r}
		if gpu != nil && c.Batch > 0 && r.Pass {
			if v.Timed, err = timeOp(ctx, d, gpu, r.Op, c.Batch); err != nil {
				return nil, fmt.Errorf("time %s: %w", r.Op, err)
			}
		}
		out = append(out, v)
	}
	return out, nil
}

func printResults(out io.Writer, info cudakern.Info, results []verified) error {
	what := "ops against the reference in float64, every run twice:"
	if info.Name == ref.New().Info().Name {
		what = "this is the reference itself: all this shows is that it repeats"
	}
	fmt.Fprintf(out, "%s: %s, numerics %s\n%s\n", info.Name, info.Model, info.Numerics, what)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	times := slices.ContainsFunc(results, func(r verified) bool { return len(r.Timed) > 0 })
	fmt.Fprint(w, "OP\tCASES\tERROR OF TOLERATED\t")
	if times {
		fmt.Fprint(w, "TIMED\tMS\tGFLOP/S\tGB/S\tOF ROOFLINE\t")
	}
	fmt.Fprintln(w, "RESULT")
	for _, r := range results {
		verdict := "ok"
		if !r.Pass {
			verdict = "WRONG: " + r.Failure
		}
		fmt.Fprintf(w, "%s\t%d\t%.2g %%\t", r.Op, r.Cases, 100*r.MaxError)
		if !times {
			fmt.Fprintln(w, verdict)
			continue
		}
		if len(r.Timed) == 0 {
			fmt.Fprintf(w, "\t\t\t\t\t%s\n", verdict)
		}
		for i, t := range r.Timed {
			if i > 0 {
				fmt.Fprint(w, "\t\t\t")
				verdict = ""
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", t.Name, t.words(), verdict)
		}
	}
	return w.Flush()
}
