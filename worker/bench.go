package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/exchange"
)

// benchCmd is `worker bench`.
type benchCmd struct {
	Network  string `default:"alexnet" help:"Name of an embedded network, or a network file."`
	Columns  int    `default:"2" help:"Columns to split it into; each is a cell in this process."`
	Batch    int    `default:"128" help:"Images a step."`
	Threads  int    `default:"${threads}" help:"Threads in all, shared out among the cells, each of which has at least one. Default: all cores this process may use."`
	Steps    int    `default:"5" help:"Steps to time."`
	Warmup   int    `default:"2" help:"Steps before those, which are not timed."`
	Alone    bool   `help:"Run column 0 by itself, with all threads; what it would wait for is there at once."`
	Winograd string `default:"on" enum:"on,off" help:"on: convolutions by Winograd's algorithm where that is faster; off: all by the definition."`
	Carrier  string `default:"auto" enum:"auto,peer,shm,grpc" help:"Carrier of the exchange between the cells: auto takes the fastest; peer copies from GPU to GPU; shm and grpc are used even within this process."`
	Device   string `default:"cpu" help:"Device to drive: see worker devices."`
	TF32     bool   `name:"tf32" help:"Compute products on tensor cores, less exactly."`
	JSON     bool   `help:"Print as JSON, with the phases of every cell."`
	Paced    bool   `hidden:"" help:"With --alone: wait for a line on standard input before every step, and print its seconds behind it."`
}

// Limits of flags; what is sensible ends well before.
const (
	maxBenchSteps   = 1_000_000
	maxBenchBatch   = 1 << 20
	maxBenchColumns = 64
)

// check refuses flags that cannot be.
func (c *benchCmd) check() error {
	for _, f := range []struct {
		name         string
		value, least int
		most         int
		instead      string
	}{
		{"columns", c.Columns, 1, maxBenchColumns, "use 1, 2 or 4"},
		{"batch", c.Batch, 1, maxBenchBatch, "leave it out to take 128"},
		{"steps", c.Steps, 1, maxBenchSteps, "leave it out to time 5"},
		{"warmup", c.Warmup, 0, maxBenchSteps, "leave it out to take 2"},
	} {
		if f.value < f.least || f.value > f.most {
			return usageError{fmt.Errorf("--%s %d; it must be between %d and %d: %s", f.name, f.value, f.least, f.most,
				f.instead)}
		}
	}
	if c.Paced && !c.Alone {
		return usageError{errors.New("--paced without --alone: cells that exchange cannot be held one by one; add --alone")}
	}
	return checkThreads(c.Threads)
}

// Run times steps of a network on this machine and says where the time goes.
func (c *benchCmd) Run(ctx context.Context, con console) error {
	return c.run(ctx, con, func() func() time.Time { return time.Now })
}

// run is Run with clocks of the caller's, one for each cell.
func (c *benchCmd) run(ctx context.Context, con console, clock func() func() time.Time) error {
	if err := c.check(); err != nil {
		return err
	}
	j, plan, err := c.plan()
	if err != nil {
		return err
	}
	rig, err := c.open(ctx, j, plan)
	if err != nil {
		return also(err, rig.close())
	}
	r := c.report(rig)
	if !c.JSON {
		if err := r.head(con.out, busy()); err != nil {
			return also(err, rig.close())
		}
	}
	if c.Paced {
		rig.pace = newPace(con)
	}
	err = rig.measure(ctx, clock, c.Warmup+c.Steps)
	if err = also(err, rig.close()); err != nil {
		return err
	}
	r.fill(rig)
	if c.JSON {
		return printJSON(con.out, r)
	}
	return r.table(con.out)
}

// plan makes the job of a bench. The rate is so small that the weights stay near where they begin, however many steps:
// the speed is the same.
func (c *benchCmd) plan() (*job.Job, *shard.Plan, error) { return c.planAt("1.0e-6") }

// planAt makes a job: the network in so many columns under the recipe that a job gets if it says nothing but the rate,
// on a dataset that exists in memory only.
func (c *benchCmd) planAt(rate string) (*job.Job, *shard.Plan, error) {
	network, text, err := shard.Load(c.Network)
	if err != nil {
		return nil, nil, err
	}
	j, err := job.Parse("bench", []byte(fmt.Sprintf("job: bench\nnetwork: bench\ncolumns: %d\nwinograd: %s\nseed: 1\n"+
		"data: {train: none}\nrecipe: {batch: %d, steps: %d, rate: %s}\naugment: {crop: random, pad: %d, flip: true}\n",
		c.Columns, c.Winograd, c.Batch, c.Warmup+c.Steps, rate, storedPad(network.Input))))
	if err != nil {
		return nil, nil, err
	}
	j.Network = c.Network
	if err := j.Resolve(text, syntheticPack(network, c.Batch), nil); err != nil {
		return nil, nil, err
	}
	plan, err := j.Plan()
	return j, plan, err
}

// cells are the cells that run, and all there are.
func (c *benchCmd) cells() (local, all []exchange.Cell) {
	for k := range c.Columns {
		all = append(all, exchange.Cell{Column: k})
	}
	if c.Alone {
		return all[:1], all
	}
	return all, all
}
