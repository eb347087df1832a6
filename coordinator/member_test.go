package main

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"colonnade/coordinator/raftnode"
)

// trio is three coordinators of one cluster in this process.
type trio struct {
	t           *testing.T
	nodes       []*cluster
	directories []string
}

// calm coordinators do not elect another leader because this machine is busy.
var calm = raftnode.Config{Election: time.Second}

func loopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// startTrio starts three coordinators, two of which join the first, and points the commands at all of them.
func startTrio(t *testing.T) *trio {
	t.Helper()
	r := &trio{t: t}
	for i := range 3 {
		r.directories = append(r.directories, t.TempDir())
		cfg := nodeConfig{directory: r.directories[i], listener: loopback(t), raft: calm}
		if i > 0 {
			cfg.join = []string{r.nodes[0].address}
		}
		r.nodes = append(r.nodes, serveNode(t, cfg))
	}
	r.until("all three vote", func() bool {
		members, err := r.nodes[0].node.raft.Members()
		return err == nil && len(members) == 3 && !slices.ContainsFunc(members, func(m raftnode.Member) bool {
			return m.Role == raftnode.Joins
		})
	})
	t.Setenv("COLONNADE_COORDINATOR", strings.Join(r.addresses(), ","))
	return r
}

func (r *trio) addresses() (out []string) {
	for _, n := range r.nodes {
		out = append(out, n.address)
	}
	return out
}

// until polls a condition that nothing tells of.
func (r *trio) until(what string, holds func() bool) {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit / 2); !holds(); <-tick.C {
		if time.Now().After(end) {
			r.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// leader waits until one of those that run leads.
func (r *trio) leader() (found int) {
	r.t.Helper()
	r.until("one leads", func() bool {
		found = slices.IndexFunc(r.nodes, func(n *cluster) bool { return n.ctx.Err() == nil && n.node.raft.IsLeader() })
		return found >= 0
	})
	return found
}

// restart starts a node again in its directory and at its address.
func (r *trio) restart(i int, join ...string) {
	r.t.Helper()
	l, err := net.Listen("tcp", r.nodes[i].address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.nodes[i] = serveNode(r.t, nodeConfig{directory: r.directories[i], listener: l, join: join, raft: calm})
}

func TestThreeCoordinators(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	r := startTrio(t)
	leader := r.leader()
	follower := (leader + 1) % 3
	like(t, succeeds(t, "member", "list"), `COORDINATOR +ADDRESS +ROLE +LAST CONTACT\n`+
		`(\w+ +127\.0\.0\.1:\d+ +(leader +-|follower +now)\n){3}\n3 of 3 coordinators answer, 1 more may fail\n`)
	roles := map[any]int{}
	for i := range 3 {
		roles[object(t, succeeds(t, "member", "list", "--json"), "members", i, "role")]++
	}
	if roles["leader"] != 1 || roles["follower"] != 2 {
		t.Errorf("roles %v", roles)
	}

	// Whom a command asks makes no difference.
	one := r.nodes[follower].address
	succeeds(t, "job", "submit", "--coordinator", one, writeJob(t, dir, "job.yaml"))
	says(t, succeeds(t, "job", "list", "--coordinator", one), `JOB .*\nj +queued .*`)
	says(t, succeeds(t, "job", "show", "j", "--coordinator", nobody(t)+","+one), `j: queued.*`)
	says(t, succeeds(t, "status", "--coordinator", one), `cluster-\w+, node `+r.nodes[leader].node.raft.ID()+`, leader .*`)
	says(t, succeeds(t, "status", "--local", "--coordinator", one), `cluster-\w+, node `+r.nodes[follower].node.raft.ID()+
		`, leader `+r.nodes[leader].node.raft.ID()+`\n.*`)

	// The leader goes; the others go on, and it comes back to what they have.
	r.nodes[leader].stop()
	succeeds(t, "job", "stop", "j")
	says(t, succeeds(t, "job", "show", "j"), `j: stopped.*`)
	next := r.leader()
	id := r.nodes[leader].node.raft.ID()
	r.until("its silence is noticed", func() bool {
		return strings.Contains(succeeds(t, "member", "list"), "2 of 3 coordinators answer, 0 more may fail")
	})
	wrong{"too few would be left", words("member remove " + r.nodes[3-leader-next].address), exitFailure,
		[]string{"too few to go on; first start " + id}}.refused(t)
	r.restart(leader)
	r.until("it has all again", func() bool {
		v, _ := r.nodes[leader].node.raft.View()
		return v.Jobs["j"] != nil && v.Jobs["j"].State == "stopped"
	})

	// All go, and come back.
	for _, n := range r.nodes {
		n.stop()
	}
	wrong{"nobody is there", words("job show j"), exitFailure, []string{"no coordinator answers at " +
		strings.Join(r.addresses(), ", ")}}.refused(t)
	for i := range r.nodes {
		r.restart(i)
	}
	r.leader()
	says(t, succeeds(t, "job", "show", "j"), `j: stopped.*`)
}

func TestMembersLeave(t *testing.T) {
	t.Chdir(t.TempDir())
	r := startTrio(t)
	wrong{"nobody", words("member remove nobody"), exitFailure,
		[]string{`no coordinator "nobody"; see: coordinator member list`}}.refused(t)
	wrong{"any", []string{"member", "remove", ""}, exitFailure, []string{"; see: coordinator member list"}}.refused(t)
	gone := r.leader() // the hardest to take out
	id := r.nodes[gone].node.raft.ID()
	like(t, succeeds(t, "member", "remove", id[:8]),
		`COORDINATOR .*2 of 2 coordinators answer, 0 more may fail\n2 are no safer than 1: add one more, or remove one\n`)
	<-r.nodes[gone].ended // by itself
	if err := r.nodes[gone].err; !errors.Is(err, errRemoved) || !strings.Contains(err.Error(), "to bring it back: "+
		"coordinator start --data "+r.directories[gone]+" --join 127.0.0.1:") {
		t.Errorf("it ended with %v", err)
	}
	like(t, succeeds(t, "member", "remove", r.nodes[(gone+1)%3].address), `.*\none coordinator: while it is away, `+
		`training goes on and nothing is written down; add two more with: coordinator start --join ADDR --data DIR\n`)
	<-r.nodes[(gone+1)%3].ended
	last := r.nodes[(gone+2)%3]
	wrong{"the last", words("member remove " + last.address), exitFailure,
		[]string{"last coordinator", "; stop it"}}.refused(t)

	// One that was taken out comes back when it asks to.
	r.restart(gone, last.address)
	r.until("it is a member again", func() bool {
		return strings.Contains(succeeds(t, "member", "list"), "2 of 2 coordinators answer")
	})
}

// A coordinator that waits to be named is a member once it is.
func TestMemberAdd(t *testing.T) {
	t.Chdir(t.TempDir())
	c := startCluster(t)
	waits := serveNode(t, nodeConfig{directory: t.TempDir(), listener: loopback(t), join: []string{joinWait}})
	other := serveCluster(t, t.TempDir(), loopback(t))
	like(t, succeeds(t, "member", "add", waits.address), `COORDINATOR .*2 of 2 coordinators answer.*`)
	like(t, succeeds(t, "member", "add", waits.address), `COORDINATOR .*2 of 2 coordinators answer.*`) // again
	wrong{"of another cluster", words("member add " + other.address), exitFailure,
		[]string{"cannot be a member: " + other.address, " is of cluster-", "; a coordinator that is to join"}}.refused(t)
	wrong{"another one", words("member add --id x " + waits.address), exitFailure,
		[]string{"is a member at " + waits.address, "member remove"}}.refused(t)
	wrong{"nobody", words("member add " + nobody(t)), exitFailure, []string{"not reached", "; start it with"}}.refused(t)
	wrong{"no address", words("member add nowhere"), exitUsage, []string{"nowhere", "; give host:port"}}.refused(t)
	if got, want := waits.node.raft.Cluster(), c.node.raft.Cluster(); got != want {
		t.Errorf("it is of %s, not of %s", got, want)
	}
}

// A coordinator that moves is found where it is now.
func TestMembersMove(t *testing.T) {
	t.Chdir(t.TempDir())
	r := startTrio(t)
	moves := (r.leader() + 1) % 3
	r.nodes[moves].stop()
	r.nodes[moves] = serveNode(t, nodeConfig{directory: r.directories[moves], listener: loopback(t), raft: calm})
	r.until("it is known at its new address", func() bool {
		out := succeeds(t, "member", "list")
		return strings.Contains(out, r.nodes[moves].address) && strings.Contains(out, "3 of 3 coordinators answer")
	})
}

func TestWhoCannotJoin(t *testing.T) {
	t.Chdir(t.TempDir())
	c := startCluster(t)
	other := serveCluster(t, t.TempDir(), loopback(t))
	other.stop()
	free := " --listen 127.0.0.1:0 --http none --log-level error"
	for _, w := range []wrong{
		{"directory of another cluster", words("start --data " + other.node.cfg.directory + free + " --join " + c.address),
			exitFailure, []string{"join: cannot be a member: this is " + c.node.raft.Cluster() + ", not " +
				other.node.raft.Cluster(), "; choose another --join, or another --data"}},
		{"another cluster than meant", words("start --data new --cluster cluster-x" + free + " --join " + c.address),
			exitFailure, []string{"this is " + c.node.raft.Cluster() + ", not cluster-x", "; choose another"}},
		{"cluster without join", words("start --data d --cluster x" + free), exitUsage, []string{"--cluster x", "; name"}},
		{"join nowhere", words("start --data d --join here" + free), exitUsage, []string{"--join here", "; give host:port"}},
		{"reached nowhere", words("start --data d --http none --insecure --listen :0 --join " + c.address), exitUsage,
			[]string{"do not reach this coordinator at :0; give --advertise HOST:PORT"}},
		{"no address to be reached at", words("start --data d --advertise 0.0.0.0:1" + free), exitUsage,
			[]string{"0.0.0.0:1; "}},
		{"bad address", words("start --data d --advertise x" + free), exitUsage,
			[]string{"--advertise x", "; give host:port"}},
		{"restore and join", words("start --data d --restore f" + free + " --join " + c.address), exitUsage,
			[]string{"--restore makes a new cluster", "; restore one coordinator"}},
		{"timeout", words("start --data d --election-timeout 1ms" + free), exitUsage,
			[]string{"--election-timeout 1ms; give"}},
		{"snapshots", words("start --data d --snapshot-entries 0" + free), exitUsage, []string{"--snapshot-entries 0; give"}},
		{"interval", words("start --data d --snapshot-interval 0s" + free), exitUsage,
			[]string{"--snapshot-interval 0s; give"}},
		{"trailing", words("start --data d --trailing-entries 0" + free), exitUsage, []string{"--trailing-entries 0; give"}},
	} {
		t.Run(w.name, func(t *testing.T) { w.lastLine(t) })
	}
}

// lastLine is refused for a command that may log before it ends.
func (w wrong) lastLine(t *testing.T) {
	t.Helper()
	r := command(w.args...)
	lines := strings.Split(strings.TrimSpace(r.err), "\n")
	line := lines[len(lines)-1]
	if r.status != w.status || r.out != "" || !strings.HasPrefix(line, "coordinator: ") {
		t.Errorf("status %d\n%s%s", r.status, r.out, r.err)
	}
	for _, want := range w.want {
		if !strings.Contains(line, want) {
			t.Errorf("the line lacks %q: %s", want, line)
		}
	}
}

func TestBackupAndRestore(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	r := startTrio(t)
	succeeds(t, "job", "submit", writeJob(t, dir, "job.yaml"))
	like(t, succeeds(t, "backup", "b"), `b: cluster-\w+ at entry \d+, 1 jobs, \d+ bytes; restore it with: coordinator `+
		`start --data DIR --restore b\n`)
	var s saved
	err := json.Unmarshal([]byte(succeeds(t, "backup", "b2", "--json")), &s)
	if err != nil || s.Jobs != 1 || s.File != "b2" {
		t.Errorf("%+v: %v", s, err)
	}
	wrong{"over another", words("backup b"), exitFailure, []string{"b exists; choose another file"}}.refused(t)
	wrong{"nowhere", words("backup none/b"), exitFailure, []string{"write backup", "; choose another file"}}.refused(t)
	if found, _ := filepath.Glob(".backup-*"); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
	free := " --listen 127.0.0.1:0 --http none --log-level error"
	if err := os.WriteFile("noise", []byte("noise"), 0o644); err != nil {
		t.Fatal(err)
	}
	check(t, dir, []wrong{
		{"no backup", words("start --data new --restore none" + free), exitFailure,
			[]string{"read backup", "; make one with"}},
		{"not one", words("start --data new --restore noise" + free), exitFailure,
			[]string{"--restore noise: bad backup: it does not begin as one; "}},
		{"over a cluster", words("start --data " + r.directories[0] + " --restore b" + free), exitFailure,
			[]string{"is not empty; a backup is restored into a new directory"}},
	})

	// The old cluster goes on; the new one has its jobs and says where they come from.
	l := loopback(t)
	start := startCmd{Data: "new", Restore: "b"}
	cfg := nodeConfig{directory: "new", listener: l, log: r.nodes[0].node.cfg.log}
	if err := start.restore(cfg); err != nil {
		t.Fatal(err)
	}
	c := serveNode(t, cfg)
	if err := c.node.control.Ready(c.ctx); err != nil {
		t.Fatal(err)
	}
	at := func(s string) []string { return words(s + " --coordinator " + c.address) }
	says(t, succeeds(t, at("job show j")...), `j: queued, step 0 of 20, generation 1000000.*`)
	says(t, succeeds(t, at("status")...), `cluster-\w+, .*restored .* from a backup of `+
		r.nodes[0].node.raft.Cluster()+`.*`)
	succeeds(t, at("job stop j")...)
	says(t, succeeds(t, "job", "show", "j"), `j: queued.*`)
}
