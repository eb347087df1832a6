package raftnode

import (
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// A leader whose process has ended need not be waited for as long as one that is silent: its connections end, and its
// machine, which is still there, refuses new ones. The others then ask each other whether they find the same. If a
// majority does, the one whose log goes furthest, the first of those by id, wants to lead at once, as if the leader had
// handed over to it; any other does if nobody leads a while later. Raft decides, as always: who has not all that was
// committed is not elected, and if all of this comes to nothing the followers' own patience ends a moment later.
//
// A majority must find it, or a node that alone is kept from a leader, by a firewall say, would take the lead from it
// again and again.

// Times of it. turn is longer than an election takes.
const (
	goneAsk   = 100 * time.Millisecond
	goneAgain = 10 * time.Millisecond
	goneTries = 10
	settling  = 5 * time.Millisecond // until what the leader had sent is in the log
	turn      = 100 * time.Millisecond
)

// noLeader is how a node says that its leader does not answer it either.
const noLeader = "no leader answers"

// gone says whether nobody is at an address of a machine that is there.
func (n *Node) gone(address string) bool {
	if address == "" {
		return true
	}
	conn, err := n.cfg.Streams.Dial(raft.ServerAddress(address), goneAsk)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// goes says whether a leader whose connection has ended is gone in a moment: a process closes what it has one after
// another. It is not if it is heard of.
func (n *Node) goes(leader, address string) bool {
	began := time.Now()
	for range goneTries {
		if n.Leader() != leader || n.raft.LastContact().After(began) {
			return false
		}
		if n.gone(address) {
			return true
		}
		if !n.pause(goneAgain) {
			return false
		}
	}
	return false
}

// ended is told that a connection from a node has ended, and has it seen to if that was the leader's.
func (n *Node) ended(node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing || n.Leader() != node || n.IsLeader() {
		return
	}
	if n.looking {
		n.lookAgain = true // the leader may have been there when it was looked for
		return
	}
	n.looking = true
	n.waits.Add(1)
	go func() { // ends in a moment, for which Close waits
		defer n.waits.Done()
		for again := true; again; {
			n.succeed(node)
			n.mu.Lock()
			again = n.lookAgain && !n.closing
			n.looking, n.lookAgain = again, false
			n.mu.Unlock()
		}
	}()
}

// succeed wants this node to lead in the place of one that is gone.
func (n *Node) succeed(leader string) {
	address, term := n.LeaderAddress(), n.Term()
	if !n.goes(leader, address) {
		return
	}
	servers, err := n.Nodes()
	if err != nil {
		return
	}
	var others []raft.Server // that vote
	voters, mine := 0, false
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		switch id := string(s.ID); {
		case id == n.id:
			mine = true
		case id != leader:
			others = append(others, s)
		}
	}
	if !mine || !n.pause(settling) {
		return
	}
	agreed, first := n.agreed(others, voters)
	if agreed && !first {
		agreed = false
		if n.pause(turn) {
			agreed, _ = n.agreed(others, voters)
		}
	}
	// It may lead again, in another term.
	still := n.Leader() == "" || n.Leader() == leader && n.Term() == term
	if !agreed || !still || n.raft.State() != raft.Follower {
		return
	}
	n.cfg.Log.Info("the leader's process has ended: standing for election", "leader", leader)
	// Raft is asked as a leader that hands over would ask it.
	own := meant(raft.ServerID(n.id), n.cfg.Address)
	request := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax,
		ID: []byte(n.id), Addr: []byte(n.cfg.Address)}}
	if err := n.trans.TimeoutNow(raft.ServerID(n.id), own, request, &raft.TimeoutNowResponse{}); err != nil {
		n.cfg.Log.Info("cannot stand for election yet", "err", err)
	}
}

// pause waits, unless the node is closed meanwhile.
func (n *Node) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-n.quit:
		return false
	}
}

// agreed asks others whether they have no leader either, and says whether a majority of voters has none, this node
// among them, and whether this node is the first of those: nobody's log goes on behind its own, and of those that end
// where it does none has a lower id.
func (n *Node) agreed(others []raft.Server, voters int) (majority, first bool) {
	answers := make([]answer, len(others))
	var asked sync.WaitGroup
	for i, s := range others {
		asked.Go(func() { // ends within goneAsk
			question := hello{kind: forGone, cluster: n.Cluster(), from: n.id, to: string(s.ID)}
			_, answers[i], _ = n.peers.greet(s.Address, question, goneAsk)
		})
	}
	asked.Wait()
	own, without := n.raft.LastIndex(), 1
	first = true
	for i, a := range answers {
		if a.refusal != noLeader {
			continue
		}
		without++
		if a.index > own || a.index == own && string(others[i].ID) < n.id {
			first = false
		}
	}
	return 2*without > voters, first
}
