// Command recovery kills processes of a running cluster and takes the time until training, or the control plane, goes
// on: our side of scripts/bench recovery. It prints JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// result is what one way to lose something came to.
type result struct {
	Kills   []kill    `json:"kills"`
	Digest  string    `json:"digest,omitempty"`
	Step    float64   `json:"step_seconds"` // median of a step when nothing happens
	Quiet   []float64 `json:"quiet"`        // the longest time between two steps in each stretch before a kill, as long as Gap's
	Failed  string    `json:"failed,omitempty"`
	Memory  string    `json:"memory,omitempty"` // where states lay
	Skipped string    `json:"skipped,omitempty"`
	Cost    []cost    `json:"cost,omitempty"`
}

// kill is one SIGKILL.
type kill struct {
	Seconds float64 `json:"seconds"`                // to the next step that was not finished before, or to the next acknowledged write
	Lost    uint64  `json:"lost"`                   // steps that all cells had finished and that are done again
	Gap     float64 `json:"gap"`                    // the longest time between two steps meanwhile; of a leader's death
	Control float64 `json:"control_seconds"`        // of a leader's death: processor time of the other coordinators meanwhile
	Before  float64 `json:"control_seconds_before"` // and in as many steps before
	Workers float64 `json:"workers_seconds"`
	WBefore float64 `json:"workers_seconds_before"`
	Named   bool    `json:"named,omitempty"` // of a hang: worker, device, cell, phase, step, and who waits
	Said    string  `json:"said,omitempty"`  // of a hang: the event
}

type options struct {
	programs, before    string
	dir, network        string
	kills, batch, every int
	limit               time.Duration // for the kills of one kind
	costFor             time.Duration // of what it costs
	only                []string
	chosen              []string // clusters whose cost is measured
}

func main() {
	var o options
	only, chosen := "", ""
	flag.StringVar(&o.programs, "programs", "bin", "directory of coordinator and worker")
	flag.StringVar(&o.before, "before", "", "of cost: directory of programs of an earlier build, to be measured beside")
	flag.DurationVar(&o.costFor, "cost-for", 2*time.Minute, "how long cost is measured")
	flag.StringVar(&o.dir, "dir", "", "an empty directory")
	flag.StringVar(&o.network, "network", "alexnet-32", "an embedded network")
	flag.IntVar(&o.kills, "kills", 50, "of each kind")
	flag.IntVar(&o.batch, "batch", 32, "images a step")
	flag.IntVar(&o.every, "every", 40, "steps between kills")
	flag.DurationVar(&o.limit, "limit", time.Hour, "how long the kills of one kind may take; then there are fewer")
	flag.StringVar(&only, "only", "undisturbed,spare,restart,fewer,machine,leader,stopped,stuck,alexnet,cost",
		"which kinds")
	flag.StringVar(&chosen, "costs", "none,both,three",
		"of cost: which clusters, the first the one that others are compared with: none, arenas, guard, both, copies, three")
	flag.Parse()
	o.only, o.chosen = strings.Split(only, ","), strings.Split(chosen, ",")
	if err := command(o); err != nil {
		fmt.Fprintln(os.Stderr, "recovery:", err)
		os.Exit(1)
	}
}

func command(o options) error {
	if o.dir == "" || o.kills < 1 || flag.NArg() > 0 {
		return errors.New("usage: recovery --dir DIR [flags]; see --help")
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return err
	}
	o.dir = dir
	if o.programs, err = filepath.Abs(o.programs); err != nil {
		return err
	}
	if o.before != "" {
		if o.before, err = filepath.Abs(o.before); err != nil {
			return err
		}
	}
	pack, err := o.pack()
	if err != nil {
		return err
	}
	out := map[string]*result{}
	ended, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop() // what was measured until then is told
	for _, w := range ways {
		if !slices.Contains(o.only, w.name) || ended.Err() != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(ended, time.Duration(o.kills)*20*time.Second+2*time.Minute)
		fmt.Fprintf(os.Stderr, "  ours: %s\n", w.name)
		r := &result{}
		if err := o.measure(ctx, w, pack, r); err != nil {
			r.Failed = err.Error()
			fmt.Fprintf(os.Stderr, "  ours: %s FAILED: %v\n", w.name, err)
		}
		cancel()
		out[w.name] = r
	}
	if slices.Contains(o.only, "cost") && ended.Err() == nil {
		ctx, cancel := context.WithTimeout(ended, o.limit+2*time.Minute)
		fmt.Fprintln(os.Stderr, "  ours: what it costs")
		r := &result{}
		if r.Cost, err = o.cost(ctx, pack); err != nil {
			r.Failed = err.Error()
			fmt.Fprintf(os.Stderr, "  ours: cost FAILED: %v\n", err)
		}
		cancel()
		out["cost"] = r
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", " ")
	return e.Encode(out)
}
