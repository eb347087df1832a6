// Package raftnode is one coordinator node: hashicorp/raft over a bbolt log of our own, the state machine behind it,
// and the data directory both live in.
package raftnode

import (
	"context"
	"crypto/rand"
	"encoding/hex"
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
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// Errors that a caller decides on.
var (
	// ErrNotLeader means that this node does not lead, or has lost the lead before it knew what came of a command: that
	// one may take effect yet. Send it again to the leader; commands are made so that the second does no harm.
	ErrNotLeader = errors.New("not the leader")
	ErrInUse     = errors.New("data directory is in use")
)

// Config is what a node is made of.
type Config struct {
	Directory string             // of this node alone
	Address   raft.ServerAddress // that other nodes reach this one at
	Streams   raft.StreamLayer   // connections between nodes; closed with the node
	Log       *slog.Logger
	Now       func() time.Time // stamps commands
	Join      bool             // a new directory waits until the leader of a cluster adds this node
	Trailing  uint64           // log entries kept behind a snapshot for nodes that lag; 0: raft's 10,240
}

// Times of the raft protocol, as measured best for nodes on one network: a lost leader is replaced in a third of a
// second.
const (
	heartbeatTimeout = 150 * time.Millisecond
	electionTimeout  = 150 * time.Millisecond
	leaderLease      = 100 * time.Millisecond
	commitTimeout    = 5 * time.Millisecond
	keepSnapshots    = 2
)

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
	raft  *raft.Raft

	mu      sync.Mutex
	closing bool
	waits   sync.WaitGroup // for raft's answers; none begins once closing is set
	closed  func() error
}

// New opens or makes a node in its directory and starts it. A new directory becomes a cluster of this one node, or
// waits to be added to one.
func New(cfg Config) (n *Node, err error) {
	n = &Node{cfg: cfg, fsm: newAdapter()}
	n.closed = sync.OnceValue(n.shutdown)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
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
	n.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: cfg.Streams, MaxPool: 2,
		Timeout: time.Second, Logger: n.logger()})
	rc := raft.DefaultConfig()
	rc.LocalID, rc.Logger = raft.ServerID(n.id), n.logger()
	rc.HeartbeatTimeout, rc.ElectionTimeout = heartbeatTimeout, electionTimeout
	rc.LeaderLeaseTimeout, rc.CommitTimeout = leaderLease, commitTimeout
	if cfg.Trailing > 0 {
		rc.TrailingLogs = cfg.Trailing
	}
	known, err := raft.HasExistingState(n.store, n.store, snapshots)
	if err != nil {
		return n, fmt.Errorf("read raft state in %s: %w", cfg.Directory, err)
	}
	if err := n.start(rc, snapshots); err != nil {
		return n, fmt.Errorf("start raft in %s: %w", cfg.Directory, err)
	}
	if !known && !cfg.Join {
		alone := raft.Configuration{Servers: []raft.Server{{ID: rc.LocalID, Address: cfg.Address}}}
		if err := n.raft.BootstrapCluster(alone).Error(); err != nil {
			return n, fmt.Errorf("make cluster: %w", err)
		}
	}
	return n, nil
}

// claim makes the directory, locks it and reads or makes the node's id.
func (n *Node) claim() (err error) {
	dir := n.cfg.Directory
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("data directory: %w; choose another --data", err)
	}
	if n.lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return fmt.Errorf("data directory: %w; choose another --data", err)
	}
	if err := unix.Flock(int(n.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%w: another coordinator uses %s; stop it or choose another --data", ErrInUse, dir)
	}
	n.id, err = nodeID(dir)
	return err
}

// nodeID reads a directory's node id, or makes one in a new directory. A directory that has a log but no id is refused:
// under another id the node would not be of its own cluster.
func nodeID(dir string) (string, error) {
	path := filepath.Join(dir, "node.id")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read node id: %w", err)
	}
	if id := strings.TrimSpace(string(b)); id != "" {
		return id, nil
	}
	if fileSize(filepath.Join(dir, logFile)) > 0 {
		return "", fmt.Errorf("%w: %s is missing or empty, but there is a log; put it back from a backup, or choose another"+
			" --data", ErrCorruptLog, path)
	}
	id := NewID()
	if err := writeFile(path, id+"\n"); err != nil {
		return "", fmt.Errorf("write node id: %w; choose another --data", err)
	}
	return id, nil
}

// writeFile makes a file that is there as a whole or not at all, also after the power fails.
func writeFile(path, text string) error {
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// start starts raft, which panics over a log with a gap behind its newest snapshot.
func (n *Node) start(rc *raft.Config, snapshots raft.SnapshotStore) (err error) {
	defer caught(&err)()
	n.raft, err = raft.NewRaft(rc, n.fsm, n.store, n.store, snapshots, n.trans)
	return err
}

// NewID makes an id nobody else has.
func NewID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
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

// Term is raft's term.
func (n *Node) Term() uint64 { return n.raft.CurrentTerm() }

// View returns the applied state and a channel that is closed at the next change.
func (n *Node) View() (fsm.View, <-chan struct{}) { return n.fsm.view() }

// Barrier waits until everything committed before is applied here: a new leader's view is whole after it.
func (n *Node) Barrier(ctx context.Context) error {
	return n.wait(ctx, func() raft.Future { return n.raft.Barrier(applyTimeout) })
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
			errors.Is(err, raft.ErrRaftShutdown) {
			return fmt.Errorf("%w: %w", ErrNotLeader, err)
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// AddVoter adds a node to the cluster, or tells it that a node is reached at another address. Only the leader can.
func (n *Node) AddVoter(ctx context.Context, id string, address raft.ServerAddress) error {
	return n.wait(ctx, func() raft.Future { return n.raft.AddVoter(raft.ServerID(id), address, 0, applyTimeout) })
}

// RemoveNode takes a node out of the cluster. Only the leader can.
func (n *Node) RemoveNode(ctx context.Context, id string) error {
	return n.wait(ctx, func() raft.Future { return n.raft.RemoveServer(raft.ServerID(id), 0, applyTimeout) })
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

// Close stops the node and gives its directory back.
func (n *Node) Close() error { return n.closed() }

func (n *Node) shutdown() error {
	n.mu.Lock()
	n.closing = true
	n.mu.Unlock()
	// Raft answers everything while it runs, if only because it has lost the lead, but not all that it is shut down under.
	n.waits.Wait()
	var errs []error
	if n.raft != nil {
		errs = append(errs, n.raft.Shutdown().Error())
	}
	if n.trans != nil {
		n.trans.CloseStreams() // our connections; the others' end with them
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

// logger passes raft's own log on. Its everyday messages are for debugging.
func (n *Node) logger() hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Info, DisableTime: true,
		Output: logWriter{n.cfg.Log}})
}

// logWriter turns hclog's lines into slog's records.
type logWriter struct{ log *slog.Logger }

var _ io.Writer = logWriter{}

func (w logWriter) Write(b []byte) (int, error) {
	line := strings.TrimSpace(string(b))
	level := slog.LevelDebug
	if strings.HasPrefix(line, "[ERROR]") {
		level = slog.LevelWarn
	}
	_, line, _ = strings.Cut(line, "]")
	w.log.Log(context.Background(), level, strings.TrimSpace(line))
	return len(b), nil
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
