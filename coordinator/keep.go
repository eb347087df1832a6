package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"colonnade/checkpoint/cli"
	"colonnade/coordinator/raftnode"
	"colonnade/coordinator/rpc"
	"colonnade/proto/clusterpb"
)

// errRemoved ends a coordinator that was taken out of its cluster.
var errRemoved = errors.New("this coordinator was taken out of its cluster")

const (
	keepEvery  = 200 * time.Millisecond // to look whether this node has a leader
	lostAfter  = 3 * time.Second        // without one to ask the others whether it is still a member
	joinAgain  = 500 * time.Millisecond // between two requests to be added
	joinLimit  = 40 * time.Second       // for one of them: catching up is part of it
	reachLimit = 10 * time.Second       // for the leader to find this node where it says it is
)

// keepMembership has this node become a member of the cluster it is to join, at the address that it has now, and ends
// it when it is no member any more.
func (n *node) keepMembership(ctx context.Context) error {
	if err := n.join(ctx); err != nil {
		return err
	}
	alone := time.Now() // since when there has been no leader
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		switch {
		case n.raft.Leader() != "":
			alone = time.Now()
		case time.Since(alone) > lostAfter && len(n.others()) > 0:
			if err := n.stillMember(ctx); err != nil {
				return err
			}
			alone = time.Now()
		}
	}
}

// join asks to be added where that is needed: this node was told to join, or it is known at another address.
func (n *node) join(ctx context.Context) error {
	ask := n.cfg.join
	if slices.Equal(ask, []string{joinWait}) {
		return nil
	}
	if ask == nil {
		if ask = n.moved(); ask == nil {
			return nil
		}
	}
	client, err := rpc.NewClient(ask)
	if err != nil {
		return err
	}
	defer client.Close()
	return n.askToJoin(ctx, clusterpb.NewOperatorClient(client))
}

// askToJoin asks until this node is a member, or cannot be.
func (n *node) askToJoin(ctx context.Context, client clusterpb.OperatorClient) error {
	log := n.cfg.log
	var told string
	var unreached time.Time // since when the leader says so
	for ctx.Err() == nil {
		err := n.askOnce(ctx, client)
		known := rpc.FromStatus(err)
		switch {
		case err == nil:
			log.Info("this coordinator is a member", "cluster", n.raft.Cluster())
			return nil
		case ctx.Err() != nil:
			return nil
		case errors.Is(known, raftnode.ErrMembership) || status.Code(err) == codes.InvalidArgument:
			return fmt.Errorf("join: %w", known)
		case !errors.Is(known, raftnode.ErrUnreachable):
			unreached = time.Time{}
		case unreached.IsZero():
			unreached = time.Now()
		case time.Since(unreached) > reachLimit:
			return fmt.Errorf("join: %w", known)
		}
		if text := cli.OneLine(known); text != told {
			log.Warn("not a member yet", "err", text)
			told = text
		}
		again := time.NewTimer(joinAgain)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
		}
	}
	return nil
}

// askOnce asks once, in the name of the cluster this node is of.
func (n *node) askOnce(ctx context.Context, client clusterpb.OperatorClient) error {
	cluster := n.raft.Cluster()
	if want := n.cfg.cluster; want != "" && cluster != "" && cluster != want {
		return fmt.Errorf("%w: %s is of %s, not of %s; choose another --data or --cluster", raftnode.ErrMembership,
			n.cfg.directory, cluster, want)
	}
	if cluster == "" {
		cluster = n.cfg.cluster
	}
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	_, err := client.AddMember(ctx, &clusterpb.AddMemberRequest{Id: n.raft.ID(), Address: n.raft.Address(),
		Cluster: cluster})
	return err
}

// moved returns whom to tell that this node is reached at another address than the cluster knows; nil if it is not, or
// if there is nobody else.
func (n *node) moved() []string {
	members, err := n.raft.Members()
	if err != nil || len(members) < 2 {
		return nil
	}
	for _, m := range members {
		if m.ID == n.raft.ID() && m.Address != n.raft.Address() {
			return n.others()
		}
	}
	return nil
}

// others are the addresses of the other members.
func (n *node) others() []string {
	members, err := n.raft.Members()
	if err != nil {
		return nil
	}
	var out []string
	for _, m := range members {
		if m.ID != n.raft.ID() {
			out = append(out, m.Address)
		}
	}
	return out
}

// stillMember asks the others, if they have a leader, whether this node is one of them.
func (n *node) stillMember(ctx context.Context) error {
	client, err := rpc.NewClient(n.others())
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, lostAfter)
	defer cancel()
	reply, err := clusterpb.NewOperatorClient(client).ListMembers(ctx, &clusterpb.ListMembersRequest{})
	if err != nil || reply.Cluster != n.raft.Cluster() {
		return nil // they may have none either: that is no verdict
	}
	for _, m := range reply.Members {
		if m.Id == n.raft.ID() {
			return nil
		}
	}
	return fmt.Errorf("%w %s; to bring it back: coordinator start --data %s --join %s", errRemoved, reply.Cluster,
		n.cfg.directory, reply.Members[0].Address)
}
