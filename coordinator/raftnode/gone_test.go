package raftnode

import (
	"testing"
	"testing/synctest"
	"time"
)

// A leader whose process has ended is replaced before the others' patience ends, which is as long as DefaultElection at
// least; everything here takes no time but what is waited for.
func TestLeaderGone(t *testing.T) {
	d := dirs(t)
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, d)
		defer c.close()
		for range 10 {
			old := c.leader()
			c.submit("before")
			began := time.Now()
			c.stop(old) // it hands over nothing
			if now := c.leader(); now == old {
				t.Fatalf("node %d still leads", old)
			}
			if took := time.Since(began); took >= DefaultElection {
				t.Errorf("without a leader for %v", took)
			}
			c.start(old)
			c.same(1)
			time.Sleep(time.Second) // virtual: until all who looked for the last one have seen the next
		}
	})
}

// A node that alone is refused by the leader, by a firewall between them, does not take the lead from it.
func TestLeaderGoneForOneOnly(t *testing.T) {
	d := dirs(t)
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, d)
		defer c.close()
		c.submit("before")
		old := c.leader()
		term := c.nodes[old].Term()
		c.net.firewall(addressOf(old), addressOf((old+1)%3))
		time.Sleep(time.Minute) // virtual
		if now := c.leader(); now != old || c.nodes[old].Term() != term {
			t.Errorf("node %d leads in term %d, node %d did in %d", now, c.nodes[now].Term(), old, term)
		}
	})
}
