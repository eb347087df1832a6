// Command coordinator is the cluster's control plane and its command line: it keeps jobs, assignments and checkpoint
// manifests in a Raft log, places cells on workers, and shows what is going on. No step of training waits for it.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/alecthomas/kong"

	"colonnade/checkpoint/cli"
	"colonnade/coordinator/raftnode"
	"colonnade/coordinator/sched"
	"colonnade/shard/score"
)

// commands is the command line.
type commands struct {
	Dev         devCmd         `cmd:"" help:"Everything on this machine: start a coordinator and workers, train a job, show its progress, end with the digest of its weights."`
	Start       startCmd       `cmd:"" help:"Run a coordinator until stopped."`
	Watch       watchCmd       `cmd:"" help:"Follow a job until it ends: how far it is, how long it takes, its loss, what happens."`
	Completion  completionCmd  `cmd:"" help:"Print what completes this program's command lines in a shell."`
	Complete    completeCmd    `cmd:"" hidden:"" passthrough:"" help:"Print how a command line may go on: what completion's scripts ask."`
	Doctor      doctorCmd      `cmd:"" help:"Look at what a coordinator needs of this machine and network, and say what to mend."`
	Status      statusCmd      `cmd:"" help:"Show the cluster: workers, jobs, last events."`
	Member      memberCmd      `cmd:"" help:"List, add and remove coordinators."`
	Worker      workerCmd      `cmd:"" help:"List and drain workers."`
	Backup      backupCmd      `cmd:"" help:"Write the cluster's state into a file, while it runs."`
	Plan        planCmd        `cmd:"" help:"Draw who computes, owns, sends and receives what when a network is split into columns."`
	Queue       queueCmd       `cmd:"" help:"Show the queue: which job gets workers next, who has them now, and what each waits for."`
	Job         jobCmd         `cmd:"" help:"Submit, list, show, watch, stop and resume jobs."`
	Evaluate    evaluateCmd    `cmd:"" help:"Test a job's checkpoint on a pack, or the mean of several jobs'."`
	Events      eventsCmd      `cmd:"" help:"Show what has happened, and go on with what happens."`
	Logs        logsCmd        `cmd:"" help:"Show what workers put into their logs: a job's, a worker's, or all."`
	History     historyCmd     `cmd:"" help:"Show how a job's training went, step by step: loss and speed, as a table, CSV or lines of JSON."`
	Figures     figuresCmd     `cmd:"" help:"Draw a job as the paper draws its own: its network, the kernels of its first layer, learning curves; PNG and SVG."`
	Tensorboard tensorboardCmd `cmd:"" help:"Write a job's curves, first kernels and weights as events that TensorBoard opens."`
	Checkpoint  checkpointCmd  `cmd:"" help:"List, verify and export a job's checkpoints, print the digest of its weights."`

	Version kong.VersionFlag `help:"Print the revision that the program was built from."`
}

// console is where commands print, and the clock they print by.
type console struct {
	out, err io.Writer
	terminal bool   // out is a terminal
	colours  bool   // and is to show colours
	program  string // how it is called in what is to be typed next; empty: coordinator
	now      func() time.Time
}

// named is the program by the name it was called by.
func (c console) named() cli.Program {
	return cli.Program{Name: "coordinator", Called: c.program, Examples: examples}
}

func main() {
	terminal := isTerminal(os.Stdout)
	os.Exit(run(os.Args[1:], console{out: os.Stdout, err: os.Stderr, terminal: terminal, now: time.Now,
		colours: terminal && os.Getenv("NO_COLOR") == "", program: cli.Called(os.Args[0])}))
}

// Exit statuses.
const (
	exitFailure = 1
	exitUsage   = 2
)

// usageError is a command line that cannot be meant.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// newParser makes the parser of the command line; exit is called when it has printed help.
func newParser(con console, exit func(code int)) (*kong.Kong, error) {
	parser, err := kong.New(&commands{}, kong.Name("coordinator"), kong.Writers(con.out, con.err),
		kong.Vars{"version": cli.Version(), "address": defaultAddress, "web": defaultWeb,
			"workers": strconv.Itoa(defaultWorkers),
			"threads": strconv.Itoa(defaultThreads()), "batch": strconv.Itoa(score.DefaultBatch),
			"election":        raftnode.DefaultElection.String(),
			"snapshotEntries": strconv.Itoa(raftnode.DefaultSnapshotEntries),
			"snapshotEvery":   raftnode.DefaultSnapshotEvery.String(), "trailing": strconv.Itoa(raftnode.DefaultTrailing),
			"spreadAfter": sched.DefaultRules.Spread.String(),
			"forgetAfter": sched.DefaultRules.Forget.String(), "hangGrace": sched.DefaultPatience.Grace.String()},
		kong.Exit(exit),
		kong.Description("Assigns columns of networks to workers and keeps the truth about what is committed."))
	if err == nil {
		con.named().Exemplify(parser)
	}
	return parser, err
}

// run is the program: it parses the command line, runs the command and prints what went wrong in one line.
func run(args []string, con console) int {
	exited := -1
	parser, err := newParser(con, func(code int) { exited = code })
	if err != nil {
		fmt.Fprintln(con.err, "coordinator:", err)
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
	err = command.Run(con, parser)
	if err == nil {
		return 0
	}
	fmt.Fprintln(con.err, con.named().Failure(err, parser))
	if usage := (usageError{}); errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailure
}

// completionCmd is `coordinator completion`.
type completionCmd struct{ cli.Completion }

// Run prints a shell's script.
func (c *completionCmd) Run(con console) error { return c.Print(con.out, con.named()) }

// completeCmd is `coordinator complete`.
type completeCmd struct{ cli.Complete }

// Run prints how a line may go on.
func (c *completeCmd) Run(con console, tree *kong.Kong) error { return c.Print(con.out, tree) }
