package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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
	HTTP   string `name:"http" default:"${web}" placeholder:"ADDR" help:"Address of the dashboard, as start has it; none: no such port."`
}

// What a coordinator should have: its log and snapshots are small, but a full disk stops it.
const (
	wantDisk   = 1 << 30
	wantMemory = 256 << 20
)

// answerIn is how long a coordinator may take that is asked by itself.
const answerIn = 3 * time.Second

// Run looks and prints. What is bad makes it fail.
func (c *doctorCmd) Run(con console) error {
	for flag, address := range map[string]string{"--listen": c.Listen, "--http": c.HTTP} {
		if address == noAddress && flag == "--http" {
			continue
		}
		if err := checkAddress(flag, address); err != nil {
			return err
		}
	}
	all := []doctor.Finding{doctor.Memory(doctor.MemoryLeft(), wantMemory)}
	if c.Data != "" {
		all = append(all, doctor.Directory("data", c.Data, wantDisk)...)
	}
	here := "" // the coordinator that runs already
	all = append(all, doctor.Listen("address", "--listen", c.Listen, func() string {
		if s := askAt(c.Listen); s.err == nil {
			here = fmt.Sprintf("coordinator %s of cluster %s", s.status.Node, s.status.Cluster)
		}
		return here
	}))
	if c.HTTP != noAddress {
		all = append(all, doctor.Listen("HTTP port", "--http", c.HTTP, func() string {
			if here != "" && isPage(c.HTTP) {
				return "a coordinator, as --listen is"
			}
			return ""
		}))
	}
	return doctor.Report(con.out, c.JSON, append(all, c.cluster()...))
}

// told is what a coordinator says of itself, and when it was asked.
type told struct {
	status        *clusterpb.StatusReply
	before, after time.Time
	err           error
}

func ask(f *clientFlags) (t told) {
	t.err = f.ask(func(ctx context.Context, client clusterpb.OperatorClient) (err error) {
		t.before = time.Now()
		t.status, err = client.Status(ctx, &clusterpb.StatusRequest{Local: true})
		t.after = time.Now()
		return err
	})
	return t
}

// askAt asks the coordinator at an address.
func askAt(address string) told {
	return ask(&clientFlags{Coordinator: []string{address}, Timeout: answerIn})
}

// judged compares a coordinator's program and clock with ours.
func (t told) judged() []doctor.Finding {
	name := "coordinator " + t.status.Node
	out := []doctor.Finding{doctor.Versions(cli.Version(), name, t.status.Version)}
	if t.status.Now != nil {
		out = append(out, doctor.Clock(name, t.status.Now.AsTime(), t.before, t.after))
	}
	return out
}

// isPage says whether what answers at an address is a coordinator's dashboard.
func isPage(address string) bool {
	client := http.Client{Timeout: answerIn}
	defer client.CloseIdleConnections()
	r, err := client.Get("http://" + address + "/")
	if err != nil {
		return false
	}
	defer r.Body.Close()
	page, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	return err == nil && bytes.Contains(page, []byte("<title>Colonnade</title>"))
}

// cluster looks at the coordinators: one that answers, and those that it knows of.
func (c *doctorCmd) cluster() []doctor.Finding {
	first := ask(&c.clientFlags)
	if first.err != nil {
		f := doctor.Err("cluster", doctor.Warn, errors.New(cli.OneLine(first.err)), "")
		f.Mend = "right if this is to be the first coordinator; else start that one, or name one that runs: " +
			"--coordinator ADDR"
		return []doctor.Finding{f}
	}
	s := first.status
	leader := doctor.Of("leader", s.Leader != "", doctor.Bad, "there is one: "+s.Leader,
		"no majority of the coordinators answers: start those that are down; training goes on meanwhile")
	if s.Leader == "" {
		leader.Says = "there is none"
	}
	out := append([]doctor.Finding{leader}, first.judged()...)
	answer := 1
	for _, m := range s.Members {
		if m.Id == s.Node {
			continue
		}
		peer := askAt(m.Address)
		if peer.err != nil {
			out = append(out, doctor.Finding{What: "coordinator", Grade: doctor.Warn,
				Says: fmt.Sprintf("%s at %s does not answer", m.Id, m.Address), Mend: "start it, or let TCP through to it; one " +
					"that will not come back: coordinator member remove " + m.Id})
			continue
		}
		answer++
		out = append(out, peer.judged()...)
	}
	n := max(len(s.Members), 1)
	return append(out, doctor.Of("coordinators", n > 1 && answer == n, doctor.Warn,
		fmt.Sprintf("%d of %d answer", answer, n), mendMembers(n, answer)))
}

func mendMembers(n, answer int) string {
	if answer < n {
		return fmt.Sprintf("%d have to: start those that are down", n/2+1)
	}
	return "one that is lost takes the control plane with it: start two more with --join"
}
