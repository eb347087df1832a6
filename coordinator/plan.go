package main

import "colonnade/shard"

// planCmd is `coordinator plan`.
type planCmd struct {
	Network  string `arg:"" name:"NETWORK" help:"Name of an embedded network, a network file, or a job file, to see its recipe too."`
	Columns  int    `short:"k" default:"2" help:"Columns to split it into."`
	Channels int    `help:"Channels of the input, where the network allows several. Default: the most."`
	Classes  int    `help:"Classes, if not the network's own."`
	Images   int    `help:"Of a job file: as if its packs had so many images; they need not be there."`
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
	switch {
	case c.Images < 0:
		return usagef("--images %d; give the images to train on", c.Images)
	case isJob(c.Network) && c.JSON:
		return usagef("--json is for networks; leave it out to see a job's recipe")
	case isJob(c.Network):
		return planJob(con, c.Network, c.Images)
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
