// Command coordinator is the cluster's control plane and its command line: it keeps jobs, assignments and checkpoint
// manifests in a Raft log, places cells on workers, and shows what is going on. No step of training waits for it.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"colonnade/coordinator/raftnode"
	"colonnade/coordinator/sched"
)

// cli is the command line.
type cli struct {
	Dev        devCmd        `cmd:"" help:"Everything on this machine: start a coordinator and workers, train a job, show its progress, end with the digest of its weights."`
	Start      startCmd      `cmd:"" help:"Run a coordinator until stopped."`
	Status     statusCmd     `cmd:"" help:"Show the cluster: workers, jobs, last events."`
	Member     memberCmd     `cmd:"" help:"List, add and remove coordinators."`
	Worker     workerCmd     `cmd:"" help:"List and drain workers."`
	Backup     backupCmd     `cmd:"" help:"Write the cluster's state into a file, while it runs."`
	Plan       planCmd       `cmd:"" help:"Draw who computes, owns, sends and receives what when a network is split into columns."`
	Job        jobCmd        `cmd:"" help:"Submit, list, show, watch, stop and resume jobs."`
	Evaluate   evaluateCmd   `cmd:"" help:"Test a job's checkpoint on a pack, or the mean of several jobs'."`
	Checkpoint checkpointCmd `cmd:"" help:"List, verify and export a job's checkpoints, print the digest of its weights."`
}

// console is where commands print, and the clock they print by.
type console struct {
	out, err io.Writer
	terminal bool // out is a terminal
	now      func() time.Time
}

func main() {
	os.Exit(run(os.Args[1:], console{out: os.Stdout, err: os.Stderr, terminal: isTerminal(os.Stdout), now: time.Now}))
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

// run is the program: it parses the command line, runs the command and prints what went wrong in one line.
func run(args []string, con console) int {
	exited := -1
	parser, err := kong.New(&cli{}, kong.Name("coordinator"), kong.Writers(con.out, con.err),
		kong.Vars{"address": defaultAddress, "workers": strconv.Itoa(defaultWorkers),
			"threads": strconv.Itoa(defaultThreads()), "election": raftnode.DefaultElection.String(),
			"snapshotEntries": strconv.Itoa(raftnode.DefaultSnapshotEntries),
			"snapshotEvery":   raftnode.DefaultSnapshotEvery.String(), "trailing": strconv.Itoa(raftnode.DefaultTrailing),
			"spreadAfter": sched.DefaultRules.Spread.String(),
			"forgetAfter": sched.DefaultRules.Forget.String(), "hangGrace": sched.DefaultPatience.Grace.String()},
		kong.Exit(func(code int) { exited = code }),
		kong.Description("Assigns columns of networks to workers and keeps the truth about what is committed."))
	if err != nil {
		fmt.Fprintln(con.err, "coordinator:", err)
		return exitFailure
	}
	command, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		fmt.Fprintf(con.err, "coordinator: %s; see: %s --help\n", oneLine(err), commandOf(err))
		return exitUsage
	}
	err = command.Run(con)
	if err == nil {
		return 0
	}
	fmt.Fprintln(con.err, "coordinator:", oneLine(err))
	if usage := (usageError{}); errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailure
}

// commandOf is how far a command line could be understood, for a hint at the right help.
func commandOf(err error) string {
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if node := parse.Context.Selected(); node != nil {
			return node.FullPath()
		}
	}
	return "coordinator"
}

// oneLine is an error's text without line ends: several errors, joined, are still one message.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
