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

	"colonnade/checkpoint/cli"
)

// commands is the command line.
type commands struct {
	Run      runCmd      `cmd:"" help:"Register with a coordinator and train what it assigns, until stopped."`
	Doctor   doctorCmd   `cmd:"" help:"Look at what a worker needs of this machine and network, and say what to mend."`
	Devices  devicesCmd  `cmd:"" help:"List the devices this worker can drive."`
	Verify   verifyCmd   `cmd:"" help:"Check a device against the reference, op by op."`
	Bench    benchCmd    `cmd:"" help:"Time training steps on this machine and say where the time goes."`
	Predict  predictCmd  `cmd:"" help:"Say what is on pictures, with a trained model."`
	Evaluate evaluateCmd `cmd:"" help:"Test trained models on a pack: loss, errors, by class, and what is taken for what."`
	Examples examplesCmd `cmd:"" help:"Look at some test images, and at the training images nearest to them, for: coordinator figures --examples."`
	Data     dataCmd     `cmd:"" help:"Prepare and inspect datasets."`

	Completion completionCmd `cmd:"" help:"Print what completes this program's command lines in a shell."`
	Complete   completeCmd   `cmd:"" hidden:"" passthrough:"" help:"Print how a command line may go on: what completion's scripts ask."`

	Version kong.VersionFlag `help:"Print the revision that the program was built from."`
}

// console is where commands print.
type console struct {
	out, err io.Writer
	in       io.Reader
	program  string // how it is called in what is to be typed next; empty: worker
}

// named is the program by the name it was called by.
func (c console) named() cli.Program {
	return cli.Program{Name: "worker", Called: c.program, Examples: examples}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], console{out: os.Stdout, err: os.Stderr, in: os.Stdin,
		program: cli.Called(os.Args[0])}))
}

// Exit statuses.
const (
	exitFailure = 1
	exitUsage   = 2
)

// usageError is a mistake in the command line that its grammar does not catch.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// newParser makes the parser of the command line; exit is called when it has printed help.
func newParser(con console, exit func(code int)) (*kong.Kong, error) {
	parser, err := kong.New(&commands{}, kong.Name("worker"), kong.Writers(con.out, con.err),
		kong.Vars{"version": cli.Version(), "threads": strconv.Itoa(cores())}, kong.Exit(exit),
		kong.Description("Trains columns of a network for a coordinator, on one device."))
	if err == nil {
		con.named().Exemplify(parser)
	}
	return parser, err
}

// run is the program: it parses the command line, runs the command and prints what went wrong.
func run(ctx context.Context, args []string, con console) int {
	exited := -1
	parser, err := newParser(con, func(code int) { exited = code })
	if err != nil {
		fmt.Fprintln(con.err, "worker:", err)
		return exitFailure
	}
	command, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		fmt.Fprintln(con.err, con.named().Mistake(err, parser))
		return exitUsage
	}
	command.BindTo(ctx, (*context.Context)(nil))
	err = command.Run(con, parser)
	var usage usageError
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return 0
	case errors.As(err, &usage):
		fmt.Fprintln(con.err, con.named().Failure(err, parser))
		return exitUsage
	}
	fmt.Fprintln(con.err, con.named().Failure(err, parser))
	return exitFailure
}

// completionCmd is `worker completion`.
type completionCmd struct{ cli.Completion }

// Run prints a shell's script.
func (c *completionCmd) Run(con console) error { return c.Print(con.out, con.named()) }

// completeCmd is `worker complete`.
type completeCmd struct{ cli.Complete }

// Run prints how a line may go on.
func (c *completeCmd) Run(con console, tree *kong.Kong) error { return c.Print(con.out, tree) }
