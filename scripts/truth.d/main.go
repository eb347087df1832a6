// Command truth.d trains some steps of a job on one device, all columns in this process, and writes what each step
// worked on and came to, for another program to compute again. scripts/truth builds and starts it.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

func main() {
	o := options{}
	flag.StringVar(&o.job, "job", "", "job file; its training pack must be small enough to be kept whole")
	flag.StringVar(&o.device, "device", "cpu", "cpu, or ref: the reference, in float64")
	flag.IntVar(&o.threads, "threads", runtime.NumCPU(), "threads of all columns together")
	flag.IntVar(&o.steps, "steps", 10, "steps")
	flag.IntVar(&o.divide, "divide", 1, "divides the maps of every layer but the last: a small network of the same shape")
	flag.IntVar(&o.size, "size", 0, "side of the network's input, if not the network's own")
	flag.IntVar(&o.views, "views", 0, "images to show in ten views behind the last step; at most a batch")
	flag.StringVar(&o.out, "out", ".", "directory to write to")
	flag.BoolVar(&o.wait, "wait", false, "say behind every step which step it was, and wait for a line")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.run(ctx, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "truth:", err)
		os.Exit(1)
	}
}

// options are the command line's.
type options struct {
	job, device, out                    string
	threads, steps, divide, size, views int
	wait                                bool
}

// gate holds all columns behind every step until a line has come in.
type gate struct {
	arrived, open chan struct{}
}

// hold waits until the gate opens.
func (g *gate) hold(ctx context.Context) error {
	if g == nil {
		return nil
	}
	for _, c := range []chan struct{}{g.arrived, g.open} {
		select {
		case c <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// keep opens the gate for so many columns after every step, a line each.
func (g *gate) keep(ctx context.Context, columns, steps int, in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	for step := range steps {
		if err := take(ctx, g.arrived, columns); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, "step", step+1); err != nil {
			return err
		}
		if !lines.Scan() {
			return errors.Join(errors.New("nobody waits for the next step any more"), lines.Err())
		}
		if err := take(ctx, g.open, columns); err != nil {
			return err
		}
	}
	return nil
}

func take(ctx context.Context, from <-chan struct{}, n int) error {
	for range n {
		select {
		case <-from:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
