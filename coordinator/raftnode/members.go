package raftnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// MaxMembers is how many nodes a cluster may have: two may fail of five, and more only make every write slower.
const MaxMembers = 5

// Roles of a member.
const (
	Leads   = "leader"
	Follows = "follower"
	Joins   = "joining" // it catches up and does not vote yet
)

// Member is a node of a cluster.
type Member struct {
	ID, Address, Role string
	Answers           bool      // the leader hears of it; only the leader knows
	Contact           time.Time // when the leader last heard of a member that does not answer; zero: never
}

// Members are the cluster's nodes as this one knows them, by id.
func (n *Node) Members() ([]Member, error) {
	servers, err := n.Nodes()
	if err != nil {
		return nil, err
	}
	leader := n.Leader()
	var out []Member
	for _, s := range servers {
		m := Member{ID: string(s.ID), Address: string(s.Address), Role: Follows}
		switch {
		case s.Suffrage != raft.Voter:
			m.Role = Joins
		case m.ID == leader:
			m.Role = Leads
		}
		if n.IsLeader() {
			m.Contact, m.Answers = n.watch.of(s.ID)
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out, nil
}

// Addresses are those at which the members are reached, if there are several.
func (n *Node) Addresses() []string {
	servers, err := n.Nodes()
	if err != nil || len(servers) < 2 {
		return nil
	}
	var out []string
	for _, s := range servers {
		out = append(out, string(s.Address))
	}
	return out
}

// judge answers a hello.
func (n *Node) judge(h hello) answer {
	a := answer{accepted: true, node: n.id, cluster: n.Cluster(), index: n.raft.AppliedIndex()}
	switch {
	case h.to != "" && h.to != n.id:
		return a.refused("here is coordinator %s, not %s", n.id, h.to)
	case h.kind == forProbe:
		return a
	case h.kind == forInvite && a.cluster == "":
		if err := n.adopt(h.cluster); err != nil {
			return a.refused("its disk: %v", err)
		}
		a.cluster = n.Cluster()
	case a.cluster == "":
		return a.refused("coordinator %s waits to be added to a cluster", n.id)
	}
	if a.cluster != h.cluster {
		return a.refused("coordinator %s is of %s, not of %s", n.id, a.cluster, h.cluster)
	}
	if h.kind == forGone && !n.IsLeader() && n.gone(n.LeaderAddress()) {
		a.index = n.raft.LastIndex()
		return a.refused(noLeader)
	}
	return a
}

// askLimit bounds one question to another node.
const askLimit = 2 * time.Second

// ask says hello to a node and returns what it answers.
func (n *Node) ask(kind byte, id, address string) (answer, error) {
	conn, a, err := n.peers.greet(raft.ServerAddress(address), hello{kind: kind, cluster: n.Cluster(), from: n.id, to: id},
		askLimit)
	if conn != nil {
		conn.Close()
	}
	return a, err
}

// catchUp bounds how long a new node may take to get all that is in the log before it votes.
const (
	catchUp      = 30 * time.Second
	catchUpAgain = 20 * time.Millisecond
)

// Admit makes the node at an address a member, or writes down that a member has another address now. An empty id is
// that of whoever answers. It returns when the node votes; asking again does no harm. Only the leader can.
func (n *Node) Admit(ctx context.Context, id, address string) error {
	if !n.IsLeader() {
		return ErrNotLeader
	}
	select { // one change at a time
	case n.changing <- struct{}{}:
		defer func() { <-n.changing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := n.checkOwn(ctx, id); err != nil {
		return err
	}
	servers, err := n.Nodes()
	if err != nil {
		return err
	}
	if id != "" { // before it is invited for nothing
		if _, err := admissible(servers, id, address); err != nil {
			return err
		}
	}
	a, err := n.ask(forInvite, id, address)
	switch {
	case errors.Is(err, ErrRefused):
		return fmt.Errorf("%w: %s: %w; a coordinator that is to join is started in a new --data with --join", ErrMembership,
			address, err)
	case err != nil:
		return fmt.Errorf("the leader has %w a coordinator at %s: %w; start it with --advertise HOST:PORT at which all "+
			"others reach it", ErrUnreachable, address, err)
	}
	id = a.node
	old, err := admissible(servers, id, address)
	if err != nil {
		return err
	}
	server := raft.ServerID(id)
	switch {
	case old != nil && old.Suffrage == raft.Voter && string(old.Address) == address:
		return nil
	case old != nil && old.Suffrage == raft.Voter: // it has moved
		return n.wait(ctx, func() raft.Future {
			return n.raft.AddVoter(server, raft.ServerAddress(address), 0, applyTimeout)
		})
	}
	// It votes only when it knows what it votes about: until then the majority is one of the others.
	if err := n.wait(ctx, func() raft.Future {
		return n.raft.AddNonvoter(server, raft.ServerAddress(address), 0, applyTimeout)
	}); err != nil {
		return err
	}
	if err := n.waitFor(ctx, id, address, n.raft.CommitIndex()); err != nil {
		return err
	}
	return n.wait(ctx, func() raft.Future {
		return n.raft.AddVoter(server, raft.ServerAddress(address), 0, applyTimeout)
	})
}

// checkOwn wants that this node can be reached by others, and has the log say where, if it is about to have any.
func (n *Node) checkOwn(ctx context.Context, id string) error {
	host, port, err := net.SplitHostPort(n.Address())
	if ip := net.ParseIP(host); err == nil && (port == "0" || host == "" || ip != nil && ip.IsUnspecified()) {
		return fmt.Errorf("%w: the leader does not know at which address others reach it; start it again with --advertise "+
			"HOST:PORT", ErrMembership)
	}
	if id == n.id {
		return nil
	}
	servers, err := n.Nodes()
	if err != nil {
		return err
	}
	for _, s := range servers {
		if string(s.ID) == n.id && s.Address != n.cfg.Address {
			return n.wait(ctx, func() raft.Future { return n.raft.AddVoter(s.ID, n.cfg.Address, 0, applyTimeout) })
		}
	}
	return nil
}

// admissible returns what the cluster knows of a node, if it may be a member at an address.
func admissible(servers []raft.Server, id, address string) (old *raft.Server, err error) {
	for _, s := range servers {
		switch {
		case string(s.ID) == id:
			old = &s
		case string(s.Address) == address:
			return nil, fmt.Errorf("%w: coordinator %s is a member at %s already; if it is gone for good, first: coordinator "+
				"member remove %s", ErrMembership, s.ID, address, s.ID)
		}
	}
	if old == nil && len(servers) >= MaxMembers {
		return nil, fmt.Errorf("%w: the cluster has %d coordinators, and no use for more; first: coordinator member "+
			"remove ID", ErrMembership, len(servers))
	}
	return old, nil
}

// waitFor waits until a node has applied the log up to an index.
func (n *Node) waitFor(ctx context.Context, id, address string, index uint64) error {
	limit := time.NewTimer(catchUp)
	defer limit.Stop()
	again := time.NewTicker(catchUpAgain)
	defer again.Stop()
	for {
		a, err := n.ask(forProbe, id, address)
		if err == nil && a.index >= index {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it is at entry %d of %d", a.index, index)
		}
		if !n.IsLeader() {
			return ErrNotLeader
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-limit.C:
			return fmt.Errorf("coordinator %s has not caught up within %v: %w; see its log, then add it again", id, catchUp, err)
		}
	}
}

// Remove takes a node out of the cluster; of one that is no member there is nothing to do. A leader that is to go hands
// the lead over first and answers ErrNotLeader: the next one takes it out. Only the leader can.
func (n *Node) Remove(ctx context.Context, id string) error {
	if !n.IsLeader() {
		return ErrNotLeader
	}
	select { // one change at a time
	case n.changing <- struct{}{}:
		defer func() { <-n.changing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	all, err := n.Members()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(m Member) bool { return m.ID == id })
	if i < 0 {
		return nil
	}
	left := slices.Delete(slices.Clone(all), i, i+1)
	n.probe(left)
	if err := removable(left); err != nil {
		return err
	}
	if id == n.id {
		if err := n.wait(ctx, func() raft.Future { return n.raft.LeadershipTransfer() }); err != nil {
			return fmt.Errorf("hand the lead over: %w", err)
		}
		return fmt.Errorf("%w: it has handed the lead over, to be taken out", ErrNotLeader)
	}
	return n.wait(ctx, func() raft.Future { return n.raft.RemoveServer(raft.ServerID(id), 0, applyTimeout) })
}

// handOver bounds how long a leader that is about to stop waits for the next.
const handOver = time.Second

// HandOver has another member lead, if this one does and there is one, so that stopping it leaves no gap. Whether that
// works out is not important: it is what would happen anyway, only sooner.
func (n *Node) HandOver(ctx context.Context) {
	if !n.IsLeader() || len(n.Addresses()) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	if err := n.wait(ctx, func() raft.Future { return n.raft.LeadershipTransfer() }); err != nil {
		n.cfg.Log.Info("the lead is not handed over", "err", err)
	}
}

// probe asks all members whether they answer: a leader of late does not know yet who is silent.
func (n *Node) probe(members []Member) {
	var wg sync.WaitGroup
	for i := range members {
		m := &members[i]
		wg.Go(func() {
			_, err := n.ask(forProbe, m.ID, m.Address)
			m.Answers = m.ID == n.id || err == nil
		})
	}
	wg.Wait()
}

// removable wants that those who would be left could go on.
func removable(left []Member) error {
	voters, answer, silent := 0, 0, ""
	for _, m := range left {
		if m.Role == Joins {
			continue
		}
		voters++
		if m.Answers {
			answer++
		} else {
			silent = m.ID
		}
	}
	switch {
	case voters == 0:
		return fmt.Errorf("%w: the last coordinator cannot be taken out; stop it instead", ErrMembership)
	case answer <= voters/2:
		return fmt.Errorf("%w: of the %d coordinators left only %d would answer, too few to go on; first start %s again, or "+
			"take it out", ErrMembership, voters, answer, silent)
	}
	return nil
}

// contacts knows which members do not answer the leader's heartbeats.
type contacts struct {
	raft     *raft.Raft
	observer *raft.Observer
	seen     chan raft.Observation
	done     chan struct{}
	ended    chan struct{}

	mu     sync.Mutex
	silent map[raft.ServerID]time.Time
}

// watchContacts begins to watch, until stop.
func watchContacts(r *raft.Raft) *contacts {
	c := &contacts{raft: r, seen: make(chan raft.Observation, 64), done: make(chan struct{}), ended: make(chan struct{}),
		silent: map[raft.ServerID]time.Time{}}
	c.observer = raft.NewObserver(c.seen, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.FailedHeartbeatObservation, raft.ResumedHeartbeatObservation, raft.LeaderObservation:
			return true
		}
		return false
	})
	r.RegisterObserver(c.observer)
	go c.run()
	return c
}

func (c *contacts) run() {
	defer close(c.ended)
	for {
		select {
		case <-c.done:
			return
		case o := <-c.seen:
			c.note(o.Data)
		}
	}
}

func (c *contacts) note(data any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch d := data.(type) {
	case raft.FailedHeartbeatObservation:
		c.silent[d.PeerID] = d.LastContact
	case raft.ResumedHeartbeatObservation:
		delete(c.silent, d.PeerID)
	case raft.LeaderObservation: // what an earlier leader saw is not this one's to say
		clear(c.silent)
	}
}

// of says when a member was last heard of, and whether it answers now.
func (c *contacts) of(id raft.ServerID) (last time.Time, answers bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, silent := c.silent[id]
	return last, !silent
}

func (c *contacts) stop() {
	c.raft.DeregisterObserver(c.observer)
	close(c.done)
	<-c.ended
}
