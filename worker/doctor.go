package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"colonnade/checkpoint/cli"
	"colonnade/checkpoint/doctor"
	"colonnade/cudakern"
	"colonnade/proto/clusterpb"
)

// doctorCmd is `worker doctor`.
type doctorCmd struct {
	Coordinator []string `sep:"," placeholder:"ADDR,..." env:"COLONNADE_COORDINATOR" help:"Coordinators, host:port, comma-separated, as run has them."`
	Device      string   `default:"cpu" help:"Device to drive, as run has it."`
	Data        string   `placeholder:"DIR" help:"Directory of this worker, as run has it."`
	Listen      string   `default:"127.0.0.1:0" help:"Address for the exchange with other workers, as run has it."`
	HTTP        string   `name:"http" default:"none" placeholder:"ADDR" help:"Address of the worker's metrics, as run has it; none: no such port."`
	SHM         string   `name:"shm" default:"/dev/shm" placeholder:"DIR" help:"Directory of memory that cells' states lie in."`
	JSON        bool     `help:"Print as JSON."`
}

// What a worker should have for full-size AlexNet: two columns' weights and momentum, twice, are 1 GB; checkpoints are
// half of that each, and some are kept.
const (
	wantDisk   = 4 << 30
	wantMemory = 3 << 30
	wantShared = 1 << 30
)

// answerIn is how long a coordinator may take.
const answerIn = 3 * time.Second

// Run looks and prints. What is bad makes it fail.
func (c *doctorCmd) Run(ctx context.Context, con console) error {
	all := []doctor.Finding{c.device(), doctor.Memory(doctor.MemoryLeft(), wantMemory),
		doctor.SharedMemory(c.SHM, wantShared)}
	if c.Data != "" {
		all = append(all, doctor.Directory("data", c.Data, wantDisk)...)
	}
	all = append(all, doctor.Listen("address", "--listen", c.Listen, func() string { return "" }))
	if c.HTTP != noAddress {
		all = append(all, doctor.Listen("HTTP port", "--http", c.HTTP, func() string { return "" }))
	}
	for _, a := range c.Coordinator {
		all = append(all, coordinatorAt(ctx, a)...)
	}
	return doctor.Report(con.out, c.JSON, all)
}

// device opens the device, which takes what it needs to say its name.
func (c *doctorCmd) device() doctor.Finding {
	open, err := findDevice(c.Device)
	var d cudakern.Device
	if err == nil {
		d, err = open(cudakern.Settings{Threads: cores()})
	}
	if err != nil {
		return doctor.Err("device", doctor.Bad, err, "see: worker devices")
	}
	defer d.Close()
	return doctor.Finding{What: "device", Grade: doctor.OK, Says: fmt.Sprintf("%s, %s, %d threads", c.Device,
		d.Info().Model, cores())}
}

// coordinatorAt looks at a coordinator.
func coordinatorAt(ctx context.Context, address string) []doctor.Finding {
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return []doctor.Finding{{What: "coordinator", Grade: doctor.Bad, Says: fmt.Sprintf("%s: %v", address, err),
			Mend: "give host:port"}}
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	before := time.Now()
	status, err := clusterpb.NewOperatorClient(conn).Status(ctx, &clusterpb.StatusRequest{Local: true})
	after := time.Now()
	if err != nil {
		return []doctor.Finding{{What: "coordinator", Grade: doctor.Bad, Says: address + " does not answer",
			Mend: "start it, or let TCP through to it: coordinator doctor there says more"}}
	}
	out := []doctor.Finding{
		doctor.Of("coordinator", status.Leader != "", doctor.Warn, address+" answers",
			"but knows no leader: start the others"),
		doctor.Versions(cli.Version(), "coordinator "+address, status.Version)}
	if status.Now != nil {
		out = append(out, doctor.Clock("coordinator "+address, status.Now.AsTime(), before, after))
	}
	return out
}
