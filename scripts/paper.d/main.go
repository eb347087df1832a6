// Command paper.d trains the paper's small experiments one after another, each by `coordinator dev`, and keeps what
// each came to as JSON. What was cut off goes on where it was. scripts/paper builds and starts it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

func main() {
	o := options{}
	flag.StringVar(&o.programs, "programs", "bin", "directory of coordinator and worker")
	flag.StringVar(&o.jobs, "jobs", "scripts/jobs", "directory of the sample jobs")
	flag.StringVar(&o.packs, "packs", ".data/packs", "directory of the packs")
	flag.StringVar(&o.data, "data", ".data/paper", "directory to work in; what is there is gone on with")
	flag.IntVar(&o.threads, "threads", 1, "threads of all workers together")
	flag.DurationVar(&o.limit, "for", 0, "stop after so long, at a step boundary; 0: when all is done")
	flag.StringVar(&o.kept, "kept", "scripts/paper.d", "where results are kept, and PAPER.md has their table")
	flag.BoolVar(&o.keep, "keep", false, "keep the results of what is done there")
	flag.BoolVar(&o.again, "again", false, "do again what is done according to results that are kept")
	flag.BoolVar(&o.only, "report", false, "train nothing")
	flag.StringVar(&o.patches, "patches", "", "cut patches out of the photographs in this directory, and do nothing else")
	flag.StringVar(&o.out, "out", "", "with --patches: directory to write them to")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if o.patches != "" {
		err = patches(o.patches, o.out, trainPatches, testPatches)
	} else {
		err = o.all(ctx, flag.Args())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "paper:", err)
		os.Exit(1)
	}
}

// options are the command line's.
type options struct {
	programs, jobs, packs, data, kept, patches, out string
	threads                                         int
	limit                                           time.Duration
	keep, again, only                               bool
}

// all does what runs are named, or all of them, and draws what they came to.
func (o options) all(ctx context.Context, names []string) error {
	for _, n := range names {
		if !slices.ContainsFunc(runs(), func(r run) bool { return r.name == n }) {
			return fmt.Errorf("no run %q; scripts/paper --help lists them", n)
		}
	}
	packs, err := filepath.Abs(o.packs)
	if err != nil {
		return err
	}
	o.packs = packs
	if o.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.limit)
		defer cancel()
	}
	for _, r := range runs() {
		if o.only || len(names) > 0 && !slices.Contains(names, r.name) || ctx.Err() != nil {
			continue
		}
		if err := o.one(ctx, r); err != nil {
			return fmt.Errorf("run %s: %w; its logs are in %s", r.name, err, filepath.Join(o.data, r.name))
		}
	}
	return o.report()
}
