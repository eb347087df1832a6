package raftnode

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// refused wants an error of a kind, in one line that says what to do.
func refused(t *testing.T, err, want error, parts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%v, want %v", err, want)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a line: %v", err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("lacks %q: %v", p, err)
		}
	}
}

// startAs starts node i of a cluster in a directory of its own, as a new cluster or as one that waits to join.
func (c *cluster) startAs(i int, dir string, join bool) *Node {
	c.t.Helper()
	n, err := New(Config{Directory: dir, Address: addressOf(i), Streams: c.net.listen(addressOf(i)), Join: join,
		Log: slog.New(slog.DiscardHandler), Now: time.Now})
	must(c.t, err)
	return n
}

func TestWhoMayJoin(t *testing.T) {
	d := dirs(t)
	other := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, d)
		defer c.close()
		leader := c.nodes[c.leader()]

		must(t, leader.Admit(t.Context(), c.nodes[1].ID(), "node-1")) // again
		refused(t, leader.Admit(t.Context(), "", "nowhere"), ErrUnreachable, "nowhere", "--advertise")
		refused(t, leader.Admit(t.Context(), "someone", "node-1"), ErrMembership, c.nodes[1].ID(), "member remove")

		alone := c.startAs(7, other, false)
		refused(t, leader.Admit(t.Context(), alone.ID(), "node-7"), ErrMembership, alone.Cluster(), leader.Cluster())
		must(t, alone.Close())

		// One at a member's old address is another node: it gets no vote there, and no place.
		away := (c.leader() + 1) % 3
		id := c.nodes[away].ID()
		c.stop(away)
		wiped := c.startAs(away, t.TempDir(), true)
		refused(t, c.nodes[c.leader()].Admit(t.Context(), wiped.ID(), string(addressOf(away))), ErrMembership, id,
			"coordinator member remove "+id)
		time.Sleep(time.Minute) // synctest's time
		if wiped.raft.LastIndex() != 0 || wiped.Leader() != "" {
			t.Errorf("a node in another's place was sent the log: it is at %d, led by %q", wiped.raft.LastIndex(),
				wiped.Leader())
		}
		must(t, c.nodes[c.leader()].Remove(t.Context(), id))
		must(t, c.nodes[c.leader()].Admit(t.Context(), wiped.ID(), string(addressOf(away))))
		c.nodes[away] = wiped
		c.submit("with")
		c.same(1)
	})
}

// Raft speaks only to the node that is meant, of the cluster that is meant.
func TestHello(t *testing.T) {
	d := dirs(t)
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, d)
		defer c.close()
		waits := c.startAs(8, t.TempDir(), true)
		defer waits.Close()
		from := c.nodes[0].peers
		for _, tt := range []struct {
			to    raft.ServerAddress
			hello hello
			want  string // in the refusal; empty: none
		}{
			{"node-1", hello{kind: forRaft, cluster: c.nodes[0].Cluster(), to: c.nodes[1].ID()}, ""},
			{"node-1", hello{kind: forRaft, cluster: c.nodes[0].Cluster(), to: c.nodes[2].ID()}, "here is coordinator"},
			{"node-1", hello{kind: forRaft, cluster: "other", to: c.nodes[1].ID()}, "not of other"},
			{"node-1", hello{kind: forInvite, cluster: "other"}, "not of other"},
			{"node-1", hello{kind: forProbe, cluster: "other"}, ""},
			{"node-8", hello{kind: forRaft, cluster: "other"}, "waits to be added"},
			{"node-8", hello{kind: forProbe}, ""},
			{"node-8", hello{kind: forInvite, cluster: "mine"}, ""},
			{"node-8", hello{kind: forInvite, cluster: "other"}, "is of mine, not of other"},
			{"node-8", hello{kind: forRaft, cluster: "mine"}, ""},
		} {
			conn, a, err := from.greet(tt.to, tt.hello, time.Second)
			if conn != nil && err == nil {
				conn.Close()
			}
			if tt.want == "" && (err != nil || a.node == "") {
				t.Errorf("%s, %+v: %v, %v", tt.to, tt.hello, a, err)
			}
			if tt.want != "" && (!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%s, %+v: %v, want %q", tt.to, tt.hello, err, tt.want)
			}
		}
	})
}

// What is no hello ends the connection, and nothing else.
func TestNoHello(t *testing.T) {
	n := lead(t, alone(t, t.TempDir()))
	address := n.cfg.Streams.Addr().String()
	good := hello{kind: forProbe, from: "x"}.encode()
	for name, b := range map[string][]byte{"nothing": nil, "half": good[:3],
		"another version": append([]byte{9}, good[1:]...), "noise": []byte("GET / HTTP/1.1\r\n\r\n")} {
		conn, err := net.Dial("tcp", address)
		must(t, err)
		_, err = conn.Write(b)
		must(t, err)
		_ = conn.(*net.TCPConn).CloseWrite() // fails if the other side was quicker to end it
		must(t, conn.SetReadDeadline(time.Now().Add(time.Minute)))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
	}
	conn, err := net.Dial("tcp", address)
	must(t, err)
	a, err := greet(conn, hello{kind: forProbe}, time.Minute)
	if err != nil || a.node != n.ID() || a.cluster != n.Cluster() {
		t.Errorf("after that: %+v, %v", a, err)
	}
	conn.Close()
}

func TestAdmissible(t *testing.T) {
	var five []raft.Server
	for i := range MaxMembers {
		five = append(five, raft.Server{ID: raft.ServerID(fmt.Sprint(i)), Address: addressOf(i)})
	}
	_, err := admissible(five, "new", "new")
	refused(t, err, ErrMembership, "5 coordinators", "member remove")
	if old, err := admissible(five, "3", "new"); err != nil || old.Address != addressOf(3) {
		t.Errorf("one that has moved: %v, %v", old, err)
	}
	if old, err := admissible(five[:4], "new", "new"); err != nil || old != nil {
		t.Errorf("a fifth: %v, %v", old, err)
	}
}

func TestWhoMayLeave(t *testing.T) {
	d := dirs(t)
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, d)
		defer c.close()
		must(t, c.nodes[c.leader()].Remove(t.Context(), "nobody"))

		// With one of three away, taking out another one that answers would leave one of two: too few.
		old := c.leader()
		away, here := (old+1)%3, (old+2)%3
		c.stop(away)
		time.Sleep(10 * time.Second) // synctest's time, for the leader to notice
		leader := c.nodes[c.leader()]
		members, err := leader.Members()
		must(t, err)
		for _, m := range members {
			if want := m.Address != string(addressOf(away)); m.Answers != want {
				t.Errorf("%+v answers: want %v", m, want)
			}
			if m.Role != Follows && m.ID != leader.ID() || m.ID == leader.ID() && m.Role != Leads {
				t.Errorf("%+v", m)
			}
		}
		refused(t, leader.Remove(t.Context(), c.nodes[here].ID()), ErrMembership, "2 coordinators left only 1")
		c.start(away)
		c.same(0)
		time.Sleep(10 * time.Second) // synctest's time

		// A leader hands over first.
		old = c.leader()
		gone := c.nodes[old]
		err = gone.Remove(t.Context(), gone.ID())
		refused(t, err, ErrNotLeader)
		for c.leader() == old {
			time.Sleep(10 * time.Millisecond) // synctest's time
		}
		must(t, c.nodes[c.leader()].Remove(t.Context(), gone.ID()))
		c.stop(old)
		c.submit("two")
		c.same(1)
		last := c.leader()
		for i, n := range c.nodes {
			if n != nil && i != last {
				must(t, c.nodes[last].Remove(t.Context(), n.ID()))
				c.stop(i)
			}
		}
		refused(t, c.nodes[c.leader()].Remove(t.Context(), c.nodes[last].ID()), ErrMembership, "last coordinator")
		c.submit("one")
		c.same(2)
	})
}

// A leader that is about to stop has the next one lead before it does.
func TestHandOver(t *testing.T) {
	d := dirs(t)
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, d)
		defer c.close()
		old := c.leader()
		c.nodes[(old+1)%3].HandOver(t.Context()) // does not lead
		if !c.nodes[old].IsLeader() {
			t.Fatal("the lead was taken from another")
		}
		began := time.Now()
		c.nodes[old].HandOver(t.Context())
		if next := c.leader(); next == old || time.Since(began) > DefaultElection {
			t.Errorf("node %d leads after node %d, after %v", next, old, time.Since(began))
		}
	})
	n := lead(t, alone(t, t.TempDir()))
	n.HandOver(t.Context())
	if !n.IsLeader() {
		t.Error("one that is alone has given up the lead")
	}
}

// A directory from when a node was its whole cluster, and reached nowhere, becomes one of three.
func TestLonelyDirectoryGrows(t *testing.T) {
	d := dirs(t)
	n := lead(t, alone(t, d[0]))
	_, err := n.Apply(t.Context(), submit("old"))
	must(t, err)
	must(t, n.Close())
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, d)
		defer c.close()
		c.same(1)
		members, err := c.nodes[c.leader()].Members()
		must(t, err)
		for _, m := range members {
			if strings.HasPrefix(m.Address, "127") {
				t.Errorf("%+v", m)
			}
		}
		old := c.leader()
		c.stop(old) // the others find each other, and it them
		c.submit("new")
		c.start(old)
		c.same(2)
	})
}

// A node that others cannot reach admits nobody.
func TestAdmitWantsAnAddress(t *testing.T) {
	n := lead(t, alone(t, t.TempDir()))
	refused(t, n.Admit(t.Context(), "", "127.0.0.1:1"), ErrMembership, "--advertise HOST:PORT")
}

// A node is known at the address it had last, also when it leads.
func TestNodesMove(t *testing.T) {
	d := dirs(t)
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, d)
		defer c.close()
		moving := (c.leader() + 1) % 3
		id := c.nodes[moving].ID()
		c.stop(moving)
		c.nodes[moving] = c.startAs(9, d[moving], false)
		must(t, c.nodes[c.leader()].Admit(t.Context(), id, "node-9"))
		c.submit("moved")
		c.same(1)
		members, err := c.nodes[c.leader()].Members()
		must(t, err)
		found := false
		for _, m := range members {
			found = found || m.ID == id && m.Address == "node-9" && m.Role == Follows
		}
		if !found || len(members) != 3 {
			t.Errorf("members are %+v", members)
		}
	})
}

func TestJoiningDirectoryStaysOne(t *testing.T) {
	dir := t.TempDir()
	cfg := alone(t, dir)
	cfg.Join = true
	n, err := New(cfg)
	must(t, err)
	must(t, n.adopt("cluster-x"))
	must(t, n.Close())
	_, err = New(alone(t, dir))
	refused(t, err, ErrMembership, "cluster-x", "--join")
	cfg = alone(t, dir)
	cfg.Join = true
	n, err = New(cfg)
	must(t, err)
	if n.Cluster() != "cluster-x" {
		t.Errorf("it is of %q", n.Cluster())
	}
	must(t, n.Close())
}

func initCluster(id string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_InitCluster{InitCluster: &commandpb.InitCluster{Cluster: id}}}
}

// A directory of a program that did not write the cluster's id down is of the cluster that its log or snapshot names.
func TestClusterOfOldDirectories(t *testing.T) {
	for _, compacted := range []bool{false, true} {
		dir := t.TempDir()
		cfg := alone(t, dir)
		cfg.Trailing = 1
		n := lead(t, cfg)
		_, err := n.Apply(t.Context(), initCluster("cluster-old"))
		must(t, err)
		for i := range 5 {
			_, err := n.Apply(t.Context(), submit(fmt.Sprint(i)))
			must(t, err)
		}
		if compacted {
			must(t, n.Snapshot(t.Context()))
		}
		must(t, n.Close())
		put(t, filepath.Join(dir, logFile), bucketStable, keyCluster, nil)
		n = lead(t, alone(t, dir))
		if n.Cluster() != "cluster-old" {
			t.Errorf("compacted %v: it is of %q", compacted, n.Cluster())
		}
		must(t, n.Close())
	}
}

// backedUp is a backup of a cluster with a job.
func backedUp(t *testing.T) []byte {
	t.Helper()
	n := lead(t, alone(t, t.TempDir()))
	_, err := n.Apply(t.Context(), initCluster(n.Cluster()))
	must(t, err)
	_, err = n.Apply(t.Context(), submit("one"))
	must(t, err)
	v, _ := n.View()
	b, err := fsm.EncodeBackup(v, time.Now().UnixNano())
	must(t, err)
	must(t, n.Close())
	return b
}

func TestRestore(t *testing.T) {
	b := backedUp(t)
	k, _, err := fsm.DecodeBackup(b)
	must(t, err)
	dir := filepath.Join(t.TempDir(), "new")
	cfg := alone(t, dir)
	must(t, Restore(cfg, b))
	refused(t, Restore(alone(t, dir), b), ErrInUse, "not empty", "choose another --data")
	for range 2 {
		n := lead(t, alone(t, dir))
		v, _ := n.View()
		if v.Jobs["one"] == nil || v.Cluster == k.Cluster || v.Cluster != n.Cluster() || len(v.Lineage) != 1 ||
			v.Lineage[0].Cluster != k.Cluster {
			t.Fatalf("restored: cluster %s, lineage %v, jobs %v", v.Cluster, v.Lineage, v.Jobs)
		}
		must(t, n.Snapshot(t.Context()))
		_, err := n.Apply(t.Context(), submit(fmt.Sprint("after-", v.Index)))
		must(t, err)
		must(t, n.Close())
	}
	n := lead(t, alone(t, dir))
	if v, _ := n.View(); len(v.Jobs) != 3 {
		t.Errorf("%d jobs after two restarts", len(v.Jobs))
	}
	must(t, n.Close())
}

func TestRestoreRefuses(t *testing.T) {
	b := backedUp(t)
	dir := filepath.Join(t.TempDir(), "new")
	for name, bad := range map[string][]byte{"nothing": nil, "noise": []byte("noise"), "half": b[:len(b)/2],
		"a bit": append(append([]byte(nil), b[:len(b)-1]...), b[len(b)-1]^1)} {
		err := Restore(alone(t, dir), bad)
		if !errors.Is(err, fsm.ErrBackup) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the directory was made: %v", name, err)
		}
	}
	// One that ended in the middle is no cluster.
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, restoringFile), nil, 0o644))
	_, err := New(alone(t, dir))
	refused(t, err, ErrInUse, "interrupted", "restore again")
}

// A follower that joins later has the restored state too: it is in a snapshot, not in the log.
func TestRestoredClusterGrows(t *testing.T) {
	b := backedUp(t)
	d := dirs(t)
	d[0] = filepath.Join(d[0], "new")
	must(t, Restore(Config{Directory: d[0], Address: addressOf(0), Log: slog.New(slog.DiscardHandler), Now: time.Now}, b))
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, d)
		defer c.close()
		c.submit("more")
		c.same(2)
	})
}

func TestWarningsAreNotRepeated(t *testing.T) {
	var b bytes.Buffer
	n := &Node{cfg: Config{Log: slog.New(slog.NewTextHandler(&b, nil))}}
	l := n.logger()
	for i := range 50 {
		l.Error("failed to heartbeat to", "peer", "a:1", "backoff time", time.Duration(i), "error", fmt.Errorf("e %d", i))
		l.Error("failed to heartbeat to", "peer", "b:1", "backoff time", time.Duration(i), "error", fmt.Errorf("e %d", i))
	}
	if got := strings.Count(b.String(), "level=WARN"); got != 2 {
		t.Errorf("%d warnings:\n%s", got, b.String())
	}
}
