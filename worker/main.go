// Command worker drives one device: it trains the cells a coordinator assigns to it, exchanges activations with its
// peers, and writes their checkpoints. It also prepares datasets and checks devices.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/alecthomas/kong"
)

// cli is the command line.
type cli struct {
	Run      runCmd      `cmd:"" help:"Register with a coordinator and train what it assigns, until stopped."`
	Devices  devicesCmd  `cmd:"" help:"List the devices this worker can drive."`
	Verify   verifyCmd   `cmd:"" help:"Check a device against the reference, op by op."`
	Bench    benchCmd    `cmd:"" help:"Time training steps on this machine and say where the time goes."`
	Predict  predictCmd  `cmd:"" help:"Say what is on pictures, with a trained model."`
	Evaluate evaluateCmd `cmd:"" help:"Test trained models on a pack: loss, errors, by class, and what is taken for what."`
	Data     dataCmd     `cmd:"" help:"Prepare and inspect datasets."`
}

// console is where commands print.
type console struct {
	out, err io.Writer
	in       io.Reader
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], console{out: os.Stdout, err: os.Stderr, in: os.Stdin}))
}

// Exit statuses.
const (
	exitFailure = 1
	exitUsage   = 2
)

// usageError is a mistake in the command line that its grammar does not catch.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// run is the program: it parses the command line, runs the command and prints what went wrong.
func run(ctx context.Context, args []string, con console) int {
	exited := -1
	parser, err := kong.New(&cli{}, kong.Name("worker"), kong.Writers(con.out, con.err),
		kong.Vars{"threads": strconv.Itoa(cores())}, kong.Exit(func(code int) { exited = code }),
		kong.Description("Trains columns of a network for a coordinator, on one device."))
	if err != nil {
		fmt.Fprintln(con.err, "worker:", err)
		return exitFailure
	}
	command, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		fmt.Fprintf(con.err, "worker: %v; see: worker --help\n", err)
		return exitUsage
	}
	command.BindTo(ctx, (*context.Context)(nil))
	err = command.Run(con)
	var usage usageError
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return 0
	case errors.As(err, &usage):
		fmt.Fprintln(con.err, "worker:", err)
		return exitUsage
	}
	fmt.Fprintln(con.err, "worker:", err)
	return exitFailure
}
