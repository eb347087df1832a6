// Package raftnode is one coordinator node: hashicorp/raft over a bbolt log of our own, the state machine behind it,
// and the data directory both live in.
package raftnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"colonnade/coordinator/boltfile"
	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// Errors that a caller decides on.
var (
	// ErrNotLeader means that this node does not lead, or has lost the lead before it knew what came of a command: that
	// one may take effect yet. Send it again to the leader; commands are made so that the second does no harm.
	ErrNotLeader = errors.New("not the leader")
	ErrInUse     = errors.New("data directory is in use")
	// ErrMembership means that a node cannot become, be or stop being a member as asked, now or ever.
	ErrMembership = errors.New("cannot be a member")
	// ErrUnreachable means that a node is not to be had at the address it gave.
	ErrUnreachable = errors.New("not reached")
)

// Address is where a node is reached, host:port, and Streams are the connections between nodes: raft's own types, for
// those who know no raft.
type (
	Address = raft.ServerAddress
	Streams = raft.StreamLayer
)

// Config is what a node is made of.
type Config struct {
	Directory string  // of this node alone
	Address   Address // that other nodes reach this one at
	Streams   Streams // connections between nodes; closed with the node
	Log       *slog.Logger
	Now       func() time.Time // stamps commands
	Join      bool             // a new directory waits until the leader of a cluster adds this node
	Trailing  uint64           // log entries kept behind a snapshot for nodes that lag; 0: DefaultTrailing

	// Snapshots compact the log when so many entries are new (0: DefaultSnapshotEntries), looked at in about so long a
	// time (0: DefaultSnapshotEvery).
	SnapshotEntries uint64
	SnapshotEvery   time.Duration

	// Election is for how long a follower hears nothing of its leader before it wants to be the next (0:
	// DefaultElection). Every other time of the protocol follows from it.
	Election time.Duration
}

// Defaults of a Config.
const (
	DefaultTrailing        = 10_240
	DefaultSnapshotEntries = 8_192
	DefaultSnapshotEvery   = 2 * time.Minute
	DefaultElection        = 150 * time.Millisecond
)

// commitTimeout is how long the leader lets pass without an entry before it tells followers what is committed. Nothing
// that is acknowledged and no election waits for it: only a follower's own view, of which nobody decides anything. At 5
// ms, three idle coordinators took 0.16 cores from the workers beside them.
const (
	commitTimeout = 50 * time.Millisecond
	keepSnapshots = 2
)

// raftConfig is raft's configuration of a node. A leader's lease is shorter than the time after which another may be
// elected, so that there never are two.
func (n *Node) raftConfig() *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID, rc.Logger = raft.ServerID(n.id), n.logger()
	election := cmp.Or(n.cfg.Election, DefaultElection)
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = election, election, election*2/3
	rc.CommitTimeout = commitTimeout
	rc.TrailingLogs = cmp.Or(n.cfg.Trailing, DefaultTrailing)
	rc.SnapshotThreshold = cmp.Or(n.cfg.SnapshotEntries, DefaultSnapshotEntries)
	rc.SnapshotInterval = cmp.Or(n.cfg.SnapshotEvery, DefaultSnapshotEvery)
	// A node that was taken out says so and ends as a whole; see the program.
	rc.ShutdownOnRemove = false
	return rc
}

// logFile is the name of the log in the data directory.
const logFile = "raft.db"

// Node is a running node. Make it with New, Close it at the end.
type Node struct {
	cfg   Config
	id    string
	lock  *os.File
	store *store
	fsm   *adapter
	trans *raft.NetworkTransport
	peers *streams
	raft  *raft.Raft
	watch *contacts

	changing chan struct{} // holds a token while members change
	quit     chan struct{} // closed when closing is set

	mu      sync.Mutex
	cluster string // id; empty while the node waits to be added to one
	closing bool
	looking bool // whether the leader is gone
	// lookAgain: another of its connections has ended meanwhile.
	lookAgain bool
	waits     sync.WaitGroup // for raft's answers; none begins once closing is set
	closed    func() error
}

// New opens or makes a node in its directory and starts it. A new directory becomes a cluster of this one node, or
// waits to be added to one.
func New(cfg Config) (n *Node, err error) {
	n = &Node{cfg: cfg, fsm: newAdapter(), changing: make(chan struct{}, 1), quit: make(chan struct{})}
	n.closed = sync.OnceValue(n.shutdown)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if err := checkRestored(cfg.Directory); err != nil {
		return n, err
	}
	if err := n.claim(); err != nil {
		return n, err
	}
	if n.store, err = openStore(filepath.Join(cfg.Directory, logFile)); err != nil {
		return n, err
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(cfg.Directory, keepSnapshots, n.logger())
	if err != nil {
		return n, fmt.Errorf("open snapshots in %s: %w", cfg.Directory, err)
	}
	known, err := raft.HasExistingState(n.store, n.store, snapshots)
	if err != nil {
		return n, fmt.Errorf("read raft state in %s: %w", cfg.Directory, err)
	}
	if err := n.identify(known, snapshots); err != nil {
		return n, err
	}
	own := func() hello { return hello{kind: forRaft, cluster: n.Cluster(), from: n.id} }
	n.peers = newStreams(cfg.Streams, cfg.Address, own, n.judge, n.ended)
	n.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: n.peers, MaxPool: 2,
		Timeout: time.Second, Logger: n.logger()})
	rc := n.raftConfig()
	if err := n.start(rc, snapshots); err != nil {
		return n, fmt.Errorf("start raft in %s: %w", cfg.Directory, err)
	}
	n.watch = watchContacts(n.raft)
	n.peers.start() // what it is asked takes raft to answer
	if !known && !cfg.Join {
		alone := raft.Configuration{Servers: []raft.Server{{ID: rc.LocalID, Address: cfg.Address}}}
		if err := n.raft.BootstrapCluster(alone).Error(); err != nil {
			return n, fmt.Errorf("make cluster: %w", err)
		}
	}
	n.store.raft.Store(true)
	return n, nil
}

// start starts raft, which panics over a log with a gap behind its newest snapshot.
func (n *Node) start(rc *raft.Config, snapshots raft.SnapshotStore) (err error) {
	defer boltfile.Caught(&err, ErrCorruptLog)()
	n.raft, err = raft.NewRaft(rc, n.fsm, n.store, n.store, snapshots, transport{n.trans})
	return err
}

// ID is the node's own.
func (n *Node) ID() string { return n.id }

// Leadership says true when this node becomes the leader and false when it stops being it.
func (n *Node) Leadership() <-chan bool { return n.raft.LeaderCh() }

// IsLeader says whether this node leads.
func (n *Node) IsLeader() bool { return n.raft.State() == raft.Leader }

// Leader is the leader's id, as far as this node knows.
func (n *Node) Leader() string {
	_, id := n.raft.LeaderWithID()
	return string(id)
}

// LeaderAddress is where the leader is reached, as far as this node knows; empty if it knows of none.
func (n *Node) LeaderAddress() string {
	address, _ := n.raft.LeaderWithID()
	return string(address)
}

// Address is where others reach this node.
func (n *Node) Address() string { return string(n.cfg.Address) }

// Term is raft's term.
func (n *Node) Term() uint64 { return n.raft.CurrentTerm() }

// View returns the applied state and a channel that is closed at the next change.
func (n *Node) View() (fsm.View, <-chan struct{}) { return n.fsm.view() }

// Barrier waits until everything committed before is applied here: a new leader's view is whole after it.
func (n *Node) Barrier(ctx context.Context) error {
	return n.wait(ctx, func() raft.Future { return n.raft.Barrier(applyTimeout) })
}

// VerifyLeader asks a majority whether this node still leads. Everything that any leader acknowledged before the call
// is in the view after it, if the view was whole when this node began to lead and the term is still that one.
func (n *Node) VerifyLeader(ctx context.Context) error {
	return n.wait(ctx, func() raft.Future { return n.raft.VerifyLeader() })
}

// applyTimeout bounds how long a command waits to be accepted.
const applyTimeout = 5 * time.Second

// Apply writes a command into the log and waits until it is applied. A refusal is the command's error; ErrNotLeader
// means that it was not written.
func (n *Node) Apply(ctx context.Context, c *commandpb.Command) (fsm.Result, error) {
	c.Version, c.DecidedUnixNs = fsm.Version, n.cfg.Now().UnixNano()
	b, err := proto.Marshal(c)
	if err != nil {
		return fsm.Result{}, fmt.Errorf("encode command: %w", err)
	}
	var f raft.ApplyFuture
	if err := n.wait(ctx, func() raft.Future { f = n.raft.Apply(b, applyTimeout); return f }); err != nil {
		return fsm.Result{}, err
	}
	r := f.Response().(fsm.Result)
	return r, r.Refused
}

// wait asks raft for something and waits for the answer, or ctx. A command that has been asked for when ctx ends may
// take effect yet.
func (n *Node) wait(ctx context.Context, ask func() raft.Future) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	n.mu.Lock()
	if n.closing {
		n.mu.Unlock()
		return fmt.Errorf("%w: this node is closed", ErrNotLeader)
	}
	n.waits.Add(1)
	n.mu.Unlock()
	done := make(chan error, 1)
	go func() { // ends with raft's answer, for which Close waits
		defer n.waits.Done()
		done <- ask().Error()
	}()
	select {
	case err := <-done:
		if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) ||
			errors.Is(err, raft.ErrRaftShutdown) || errors.Is(err, ErrDisk) ||
			errors.Is(err, raft.ErrLeadershipTransferInProgress) {
			return fmt.Errorf("%w: %w", ErrNotLeader, err)
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Nodes are the cluster's nodes as this one knows them.
func (n *Node) Nodes() ([]raft.Server, error) {
	f := n.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return f.Configuration().Servers, nil
}

// Snapshot compacts the log now. A log with nothing new in it is left alone.
func (n *Node) Snapshot(ctx context.Context) error {
	err := n.wait(ctx, func() raft.Future { return n.raft.Snapshot() })
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}

// Broken is closed when the node could not write to its disk: it does nothing any more, and must be closed.
func (n *Node) Broken() <-chan struct{} { return n.store.broken }

// Failure is what went wrong then, ErrDisk.
func (n *Node) Failure() error { return n.store.failure() }

// Close stops the node and gives its directory back.
func (n *Node) Close() error { return n.closed() }

func (n *Node) shutdown() error {
	n.mu.Lock()
	n.closing = true
	n.mu.Unlock()
	if n.quit != nil {
		close(n.quit)
	}
	// Raft answers everything while it runs, if only because it has lost the lead, but not all that it is shut down under.
	n.await()
	var errs []error
	if n.watch != nil {
		n.watch.stop()
	}
	if n.raft != nil {
		errs = append(errs, n.raft.Shutdown().Error())
	}
	if n.trans != nil {
		n.trans.CloseStreams() // that this node has dialled
		errs = append(errs, n.trans.Close())
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	if n.lock != nil {
		errs = append(errs, n.lock.Close())
	}
	return errors.Join(errs...)
}

// await waits for what raft was asked, for a moment only if its disk has failed: it may not answer then.
func (n *Node) await() {
	if n.store == nil || n.Failure() == nil {
		n.waits.Wait()
		return
	}
	answered := make(chan struct{})
	go func() { // ends with raft's answers, or with the process
		n.waits.Wait()
		close(answered)
	}()
	limit := time.NewTimer(brokenLimit)
	defer limit.Stop()
	select {
	case <-answered:
	case <-limit.C:
	}
}

// brokenLimit is how long a node whose disk has failed waits for raft's answers.
const brokenLimit = time.Second

// logger passes raft's own log on. Its everyday messages are for debugging.
func (n *Node) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, DisableTime: true,
		Output: logWriter{n.cfg.Log, &sync.Mutex{}, map[string]time.Time{}}})
}

// logWriter turns hclog's lines into slog's records. What raft warns of again and again, that a node is still away say,
// it says once in a while only.
type logWriter struct {
	log *slog.Logger

	mu   *sync.Mutex
	last map[string]time.Time // by what is said
}

var _ io.Writer = logWriter{}

const (
	warnAgain = 30 * time.Second
	maxWarned = 1000 // different ones
)

func (w logWriter) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	level := slog.LevelDebug
	if strings.HasPrefix(line, "[ERROR]") && w.first(line) {
		level = slog.LevelWarn
	}
	_, line, _ = strings.Cut(line, "]")
	w.log.Log(context.Background(), level, strings.TrimSpace(line))
	return len(b), nil
}

// first says whether something has not been said for a while, apart from its times and causes.
func (w logWriter) first(line string) bool {
	what, _, _ := strings.Cut(line, " error=")
	what, _, _ = strings.Cut(what, " backoff time=")
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if last, ok := w.last[what]; ok && now.Sub(last) < warnAgain {
		return false
	}
	if len(w.last) >= maxWarned {
		clear(w.last)
	}
	w.last[what] = now
	return true
}

// Loopback is a stream layer for a node that is its whole cluster: nobody connects to it.
type Loopback struct{ Listener net.Listener }

// Accept, Close and Addr implement net.Listener.
func (l Loopback) Accept() (net.Conn, error) { return l.Listener.Accept() }
func (l Loopback) Close() error              { return l.Listener.Close() }
func (l Loopback) Addr() net.Addr            { return l.Listener.Addr() }

// Dial implements raft.StreamLayer.
func (l Loopback) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(address), timeout)
}
