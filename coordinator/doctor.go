package main

import (
	"context"
	"fmt"
	"time"

	"colonnade/checkpoint/cli"
	"colonnade/checkpoint/doctor"
	"colonnade/proto/clusterpb"
)

// doctorCmd is `coordinator doctor`.
type doctorCmd struct {
	clientFlags
	Data   string `placeholder:"DIR" help:"Directory of this coordinator's log and state, as start has it."`
	Listen string `default:"${address}" placeholder:"ADDR" help:"Address for workers, operators and other coordinators, as start has it."`
}

// What a coordinator should have: its log and snapshots are small, but a full disk stops it.
const (
	wantDisk   = 1 << 30
	wantMemory = 256 << 20
)

// Run looks and prints. What is bad makes it fail.
func (c *doctorCmd) Run(con console) error {
	all := []doctor.Finding{doctor.Memory(doctor.MemoryLeft(), wantMemory)}
	if c.Data != "" {
		all = append(all, doctor.Directory("data", c.Data, wantDisk)...)
	}
	status, found := c.cluster()
	all = append(all, doctor.Listen("address", c.Listen, func() string {
		if status == nil || status.Node == "" {
			return ""
		}
		return "a coordinator of " + status.Cluster
	}))
	return doctor.Report(con.out, c.JSON, append(all, found...))
}

// cluster looks at the coordinators that answer.
func (c *doctorCmd) cluster() (*clusterpb.StatusReply, []doctor.Finding) {
	var status *clusterpb.StatusReply
	var before, after time.Time
	err := c.ask(func(ctx context.Context, client clusterpb.OperatorClient) (err error) {
		before = time.Now()
		status, err = client.Status(ctx, &clusterpb.StatusRequest{Local: true})
		after = time.Now()
		return err
	})
	if err != nil {
		return nil, []doctor.Finding{{What: "cluster", Grade: doctor.Warn, Says: cli.OneLine(err),
			Mend: "right if this is to be the first coordinator"}}
	}
	out := []doctor.Finding{doctor.Of("leader", status.Leader != "", doctor.Bad, "there is one: "+status.Leader,
		"no majority of the coordinators answers: start those that are down; training goes on meanwhile"),
		doctor.Versions(version(), status.Version)}
	if status.Leader == "" {
		out[0].Says = "there is none"
	}
	if status.Now != nil {
		out = append(out, doctor.Clock("coordinator "+status.Node, status.Now.AsTime(), before, after))
	}
	answer := 0
	for _, m := range status.Members {
		if m.Answers || m.Id == status.Node {
			answer++
		}
	}
	if n := len(status.Members); status.Leader == status.Node && n > 0 {
		out = append(out, doctor.Of("coordinators", n > 1 && answer == n, doctor.Warn,
			fmt.Sprintf("%d of %d answer", answer, n), mendMembers(n, answer)))
	}
	return status, out
}

func mendMembers(n, answer int) string {
	if answer < n {
		return "start those that are down: coordinator member list says which"
	}
	return "one that is lost takes the control plane with it: start two more with --join"
}
