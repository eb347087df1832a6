package raftnode

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"

	"colonnade/coordinator/boltfile"
)

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
	if boltfile.Size(filepath.Join(dir, logFile)) > 0 {
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
	return syncDirectory(filepath.Dir(path))
}

// syncDirectory has a directory's entries last.
func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// NewID makes an id nobody else has.
func NewID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Keys of the store that are not raft's.
var (
	keyCluster = []byte("colonnade.cluster") // id of the cluster that this node is of
	keyInvited = []byte("colonnade.invited") // it is there because a leader has said so, and not of this node's making
)

// identify finds out which cluster this node is of. A new node makes an id of one, unless it is to join one: then it
// has none until a leader invites it.
func (n *Node) identify(known bool, snapshots raft.SnapshotStore) error {
	id, err := n.store.Get(keyCluster)
	switch {
	case err == nil && !known && !n.cfg.Join:
		if _, err := n.store.Get(keyInvited); err == nil {
			return fmt.Errorf("%w: %s was on its way into cluster %s; start it with --join, or choose another --data",
				ErrMembership, n.cfg.Directory, id)
		}
		n.cluster = string(id)
		return nil
	case err == nil:
		n.cluster = string(id)
		return nil
	case !errors.Is(err, errNotFound):
		return err
	}
	if known { // by a program that did not write it here
		n.cluster, err = n.clusterOfOld(snapshots)
		if err != nil {
			return err
		}
	}
	if n.cluster == "" && (known || !n.cfg.Join) {
		n.cluster = NewCluster()
	}
	if n.cluster == "" {
		return nil
	}
	return n.store.Set(keyCluster, []byte(n.cluster))
}

// NewCluster makes the id of a cluster.
func NewCluster() string { return "cluster-" + NewID() }

// clusterOfOld looks in the newest snapshot and in the log for the cluster's id; there is none if the node ended before
// it had written that down.
func (n *Node) clusterOfOld(snapshots raft.SnapshotStore) (string, error) {
	list, err := snapshots.List()
	if err != nil {
		return "", fmt.Errorf("list snapshots: %w", err)
	}
	for _, meta := range list {
		_, r, err := snapshots.Open(meta.ID)
		if err != nil {
			continue // raft passes it over too
		}
		s, err := fsm.Decode(r)
		r.Close()
		if err == nil && s.View().Cluster != "" {
			return s.View().Cluster, nil
		}
	}
	first, err := n.store.FirstIndex()
	if err != nil {
		return "", err
	}
	last, err := n.store.LastIndex()
	if err != nil {
		return "", err
	}
	for i := first; i <= last && i > 0; i++ {
		var l raft.Log
		if err := n.store.GetLog(i, &l); errors.Is(err, raft.ErrLogNotFound) {
			continue
		} else if err != nil {
			return "", err
		}
		var c commandpb.Command
		if l.Type == raft.LogCommand && proto.Unmarshal(l.Data, &c) == nil && c.GetInitCluster() != nil {
			return c.GetInitCluster().Cluster, nil
		}
	}
	return "", nil
}

// Cluster is the id of the cluster that this node is of; empty while it waits to be added to one.
func (n *Node) Cluster() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cluster
}

// adopt makes a node that waits one of a cluster, for good.
func (n *Node) adopt(cluster string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cluster != "" || cluster == "" {
		return nil
	}
	if err := n.store.Set(keyInvited, []byte{1}); err != nil {
		return err
	}
	if err := n.store.Set(keyCluster, []byte(cluster)); err != nil {
		return err
	}
	n.cluster = cluster
	n.cfg.Log.Info("invited into a cluster", "cluster", cluster)
	return nil
}
