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

// Node is a running node. Make it with New, Close it at the end.
type Node struct {
	cfg   Config
	id    string
	lock  *os.File
	store *store
	fsm   *adapter
	trans *raft.NetworkTransport
	raft  *raft.Raft
}

// New opens or makes a node in its directory and starts it. A new directory becomes a cluster of this one node.
func New(cfg Config) (n *Node, err error) {
	n = &Node{cfg: cfg, fsm: newAdapter()}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if err := n.claim(); err != nil {
		return n, err
	}
	if n.store, err = openStore(filepath.Join(cfg.Directory, "raft.db")); err != nil {
		return n, err
	}
	if err := n.store.check(); err != nil {
		return n, fmt.Errorf("%s: %w", cfg.Directory, err)
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
	known, err := raft.HasExistingState(n.store, n.store, snapshots)
	if err != nil {
		return n, fmt.Errorf("read raft state in %s: %w", cfg.Directory, err)
	}
	if n.raft, err = raft.NewRaft(rc, n.fsm, n.store, n.store, snapshots, n.trans); err != nil {
		return n, fmt.Errorf("start raft in %s: %w", cfg.Directory, err)
	}
	if !known {
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
	path := filepath.Join(dir, "node.id")
	b, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(b)) != "" {
		n.id = strings.TrimSpace(string(b))
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read node id: %w", err)
	}
	n.id = NewID()
	if err := os.WriteFile(path+".tmp", []byte(n.id+"\n"), 0o644); err != nil {
		return fmt.Errorf("write node id: %w", err)
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("write node id: %w", err)
	}
	return nil
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
	return n.wait(ctx, n.raft.Barrier(applyTimeout))
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
	f := n.raft.Apply(b, applyTimeout)
	if err := n.wait(ctx, f); err != nil {
		return fsm.Result{}, err
	}
	r := f.Response().(fsm.Result)
	return r, r.Refused
}

// wait waits for a raft future, or ctx.
func (n *Node) wait(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }() // ends with the future, which raft always answers
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

// Snapshot compacts the log now.
func (n *Node) Snapshot() error { return n.raft.Snapshot().Error() }

// Close stops the node and gives its directory back.
func (n *Node) Close() error {
	var errs []error
	if n.raft != nil {
		errs = append(errs, n.raft.Shutdown().Error())
	}
	if n.trans != nil {
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
