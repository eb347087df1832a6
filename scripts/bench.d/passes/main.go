// Command passes runs one op of a column's training step on a CUDA device, alone, so that the emulated driver counts
// what it executes: passes list prints the ops of a step, passes run N does the Nth. scripts/bench cuda puts them
// together.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"

	"colonnade/cudakern"
	"colonnade/cudakern/cuda"
	"colonnade/shard"
)

func main() {
	if err := command(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "passes:", err)
		os.Exit(1)
	}
}

func command(args []string) error {
	flags := flag.NewFlagSet("passes", flag.ContinueOnError)
	network := flags.String("network", "alexnet", "an embedded network")
	columns := flags.Int("columns", 2, "columns it is split in; the first is looked at")
	batch := flags.Int("batch", 128, "images a step")
	if len(args) == 0 {
		return fmt.Errorf("say list or run")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	n, err := shard.Embedded(*network)
	if err != nil {
		return err
	}
	if n, err = n.Resolve(n.Input.Channels[len(n.Input.Channels)-1], n.Classes); err != nil {
		return err
	}
	plan, err := shard.NewPlan(n, *columns)
	if err != nil {
		return err
	}
	all := (&step{plan: plan, batch: *batch}).passes()
	switch args[0] {
	case "list":
		return json.NewEncoder(os.Stdout).Encode(all)
	case "run":
		i, err := strconv.Atoi(flags.Arg(0))
		if err != nil || i < 0 || i >= len(all) {
			return fmt.Errorf("no pass %q: there are %d", flags.Arg(0), len(all))
		}
		return run(all[i])
	}
	return fmt.Errorf("no command %q: there is list and run", args[0])
}

// run does a pass once, on a device of its own. All is given back: the emulated driver writes the last of its counts
// when the device is closed.
func run(p pass) error {
	dev, err := cuda.New("cuda:0")
	if err != nil {
		return err
	}
	st, err := dev.NewStream()
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	b := &bench{dev: dev, st: st}
	if err = p.run(b); err != nil {
		err = fmt.Errorf("%s %s: %w", p.Layer, p.Pass, err)
	}
	err = errors.Join(err, st.Sync())
	for i := len(b.giveBack) - 1; i >= 0; i-- {
		b.giveBack[i]()
	}
	return errors.Join(err, st.Close(), dev.Close())
}

// bench makes operands.
type bench struct {
	dev      cudakern.Device
	st       cudakern.Stream
	seed     uint32
	giveBack []func()
}

// after has something given back behind the pass.
func (b *bench) after(f func()) { b.giveBack = append(b.giveBack, f) }

// values is a buffer of numbers within [-1, 1) that no two elements nearby share.
func (b *bench) values(s cudakern.Shape) (cudakern.Buffer, error) {
	buf, err := b.dev.Alloc(s, cudakern.Plain)
	if err != nil {
		return nil, err
	}
	b.after(buf.Free)
	v := make([]float32, s.Len())
	for i := range v {
		b.seed = b.seed*1664525 + 1013904223
		v[i] = float32(int32(b.seed)) / (1 << 31)
	}
	return buf, b.dev.Upload(b.st, buf, v)
}

// all makes buffers of several shapes.
func (b *bench) all(shapes ...cudakern.Shape) ([]cudakern.Buffer, error) {
	var out []cudakern.Buffer
	for _, s := range shapes {
		buf, err := b.values(s)
		if err != nil {
			return nil, err
		}
		out = append(out, buf)
	}
	return out, nil
}

// A pass is one op of a step in one direction.
type pass struct {
	Layer string `json:"layer"`
	Pass  string `json:"pass"`
	Times int    `json:"times"` // in a step
	MACs  int64  `json:"macs"`  // multiply-adds by definition
	Bytes int64  `json:"bytes"` // of its operands: what memory moves at least
	With  string `json:"with"`  // another pass of the layer that is done first, and counted: "" if there is none
	Image bool   `json:"image"` // it does the same for each image
	run   func(*bench) error
}
