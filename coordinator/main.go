// Command coordinator is the cluster's control plane and its command line: it keeps jobs, assignments and checkpoint
// manifests in a Raft log, places cells on workers, and shows what is going on. No step of training waits for it.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"
)

// cli is the command line.
type cli struct {
	Dev        devCmd        `cmd:"" help:"Everything on this machine: start a coordinator and workers, train a job, show its progress, end with the digest of its weights."`
	Start      startCmd      `cmd:"" help:"Run a coordinator until stopped."`
	Status     statusCmd     `cmd:"" help:"Show the cluster: workers, jobs, last events."`
	Plan       planCmd       `cmd:"" help:"Draw who computes, owns, sends and receives what when a network is split into columns."`
	Job        jobCmd        `cmd:"" help:"Submit, list, show, watch, stop and resume jobs."`
	Checkpoint checkpointCmd `cmd:"" help:"List and verify a job's checkpoints, print the digest of its weights."`
}

// console is where commands print.
type console struct {
	out, err io.Writer
	terminal bool // out is a terminal
}

func main() {
	os.Exit(run(os.Args[1:], console{out: os.Stdout, err: os.Stderr, terminal: isTerminal(os.Stdout)}))
}

// Exit statuses.
const (
	exitFailure = 1
	exitUsage   = 2
)

// run is the program: it parses the command line, runs the command and prints what went wrong.
func run(args []string, con console) int {
	exited := -1
	parser, err := kong.New(&cli{}, kong.Name("coordinator"), kong.Writers(con.out, con.err),
		kong.Vars{"address": defaultAddress}, kong.Exit(func(code int) { exited = code }),
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
		fmt.Fprintf(con.err, "coordinator: %v; see: coordinator --help\n", err)
		return exitUsage
	}
	if err := command.Run(con); err != nil {
		fmt.Fprintln(con.err, "coordinator:", err)
		return exitFailure
	}
	return 0
}
