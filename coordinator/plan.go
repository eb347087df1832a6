package main

import "colonnade/shard"

// planCmd is `coordinator plan`.
type planCmd struct {
	Network  string `arg:"" name:"NETWORK" help:"Name of an embedded network, or a network file."`
	Columns  int    `short:"k" default:"2" help:"Columns to split it into."`
	Channels int    `help:"Channels of the input, where the network allows several. Default: the most."`
	Classes  int    `help:"Classes, if not the network's own."`
	JSON     bool   `help:"Print as JSON."`
}

// Run draws the plan.
func (c *planCmd) Run(con console) error {
	switch {
	case c.Columns < 1:
		return usagef("--columns %d; use 1, 2 or 4", c.Columns)
	case c.Channels < 0:
		return usagef("--channels %d; leave it out to take the network's", c.Channels)
	case c.Classes < 0:
		return usagef("--classes %d; leave it out to take the network's", c.Classes)
	}
	network, _, err := shard.Load(c.Network)
	if err != nil {
		return err
	}
	channels := c.Channels
	if channels == 0 {
		channels = network.Input.Channels[len(network.Input.Channels)-1]
	}
	if network, err = network.Resolve(channels, c.Classes); err != nil {
		return err
	}
	plan, err := shard.NewPlan(network, c.Columns)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, plan)
	}
	return plan.Text(con.out)
}
