package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"colonnade/coordinator/raftnode"
	"colonnade/proto/clusterpb"
)

// memberCmd groups the commands about coordinators.
type memberCmd struct {
	List   memberListCmd   `cmd:"" help:"List the cluster's coordinators."`
	Add    memberAddCmd    `cmd:"" help:"Add a coordinator that waits to be added, or write down that one is reached at another address now."`
	Remove memberRemoveCmd `cmd:"" help:"Take a coordinator out of the cluster; it ends by itself."`
}

type memberListCmd struct{ clientFlags }

// Run lists the coordinators.
func (c *memberListCmd) Run(con console) error {
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		reply, err := client.ListMembers(ctx, &clusterpb.ListMembersRequest{})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, reply)
		}
		return showMembers(con.out, reply.Members, true)
	})
}

// showMembers prints a table of coordinators and, by the leader's word, what it means when some of them fail.
func showMembers(out io.Writer, members []*clusterpb.Member, byLeader bool) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "COORDINATOR\tADDRESS\tROLE\tLAST CONTACT")
	for _, m := range members {
		last := "-"
		if byLeader {
			last = contact(m)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", m.Id, m.Address, m.Role, last)
	}
	if err := w.Flush(); err != nil || !byLeader {
		return err
	}
	_, err := fmt.Fprintln(out, "\n"+tolerance(members))
	return err
}

// contact is when the leader last heard of a member.
func contact(m *clusterpb.Member) string {
	switch {
	case m.Role == raftnode.Leads:
		return "-"
	case m.Answers:
		return "now"
	case m.Contacted:
		return (time.Duration(m.SilentMs) * time.Millisecond).Round(100*time.Millisecond).String() + " ago"
	}
	return "never"
}

// tolerance says how many more of the members may fail.
func tolerance(members []*clusterpb.Member) string {
	voters, answer := 0, 0
	for _, m := range members {
		if m.Role != raftnode.Joins {
			voters++
			if m.Answers {
				answer++
			}
		}
	}
	spare := max(answer-voters/2-1, 0)
	s := fmt.Sprintf("%d of %d coordinators answer, %d more may fail", answer, voters, spare)
	switch {
	case voters == 1:
		s = "one coordinator: while it is away, training goes on and nothing is written down; add two more with: " +
			"coordinator start --join ADDR --data DIR"
	case voters%2 == 0:
		s += fmt.Sprintf("\n%d are no safer than %d: add one more, or remove one", voters, voters-1)
	}
	return s
}

type memberAddCmd struct {
	clientFlags
	Address string `arg:"" name:"ADDRESS" help:"Where the coordinator to add is reached, host:port. It was started with --join."`
	ID      string `placeholder:"ID" help:"Id it must have. Default: whichever it has."`
}

// Run adds a coordinator.
func (c *memberAddCmd) Run(con console) error {
	if err := checkAddress("ADDRESS", c.Address); err != nil {
		return err
	}
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		reply, err := client.AddMember(ctx, &clusterpb.AddMemberRequest{Id: c.ID, Address: c.Address})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, reply)
		}
		return showMembers(con.out, reply.Members, true)
	})
}

type memberRemoveCmd struct {
	clientFlags
	Member string `arg:"" name:"COORDINATOR" help:"Id of the coordinator, its beginning, or its address."`
}

// Run removes a coordinator.
func (c *memberRemoveCmd) Run(con console) error {
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		known, err := client.ListMembers(ctx, &clusterpb.ListMembersRequest{})
		if err != nil {
			return err
		}
		id, err := memberNamed(known.Members, c.Member)
		if err != nil {
			return err
		}
		reply, err := client.RemoveMember(ctx, &clusterpb.RemoveMemberRequest{Id: id})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, reply)
		}
		return showMembers(con.out, reply.Members, true)
	})
}

// memberNamed finds the one member that an operator can mean.
func memberNamed(members []*clusterpb.Member, name string) (string, error) {
	var found []string
	for _, m := range members {
		if m.Id == name || m.Address == name {
			return m.Id, nil
		}
		if name != "" && strings.HasPrefix(m.Id, name) {
			found = append(found, m.Id)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("there is no coordinator %q; see: coordinator member list", name)
	}
	return "", fmt.Errorf("%q is the beginning of %s; give more of it", name, strings.Join(found, " and "))
}
