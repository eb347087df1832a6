package raftnode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"colonnade/coordinator/fsm"
)

// restoringFile marks a directory in which a restore has begun and has not ended.
const restoringFile = "restoring"

// Restore makes, in a new directory, a node that is a new cluster with the state of a backup. The directory must not
// exist, or be empty.
func Restore(cfg Config, backup []byte) (err error) {
	k, state, err := fsm.DecodeBackup(backup)
	if err != nil {
		return err
	}
	if err := checkEmpty(cfg.Directory); err != nil {
		return err
	}
	n := &Node{cfg: cfg}
	n.closed = n.shutdown
	defer func() { err = errors.Join(err, n.shutdown()) }()
	marker := filepath.Join(cfg.Directory, restoringFile)
	if err := os.MkdirAll(cfg.Directory, 0o755); err != nil {
		return fmt.Errorf("data directory: %w; choose another --data", err)
	}
	if err := writeFile(marker, "a backup is being restored here\n"); err != nil {
		return fmt.Errorf("data directory: %w; choose another --data", err)
	}
	if err := n.claim(); err != nil {
		return err
	}
	cluster := NewCluster()
	state.Restored(k, cluster, cfg.Now().UnixNano())
	if err := n.writeRestored(state.View(), cluster); err != nil {
		return fmt.Errorf("restore into %s: %w; remove it and restore again", cfg.Directory, err)
	}
	if err := removeFile(marker); err != nil {
		return fmt.Errorf("restore into %s: %w; remove it and restore again", cfg.Directory, err)
	}
	cfg.Log.Info("restored a backup", "of", k.Cluster, "entry", k.Index, "cluster", cluster)
	return nil
}

// checkEmpty wants a directory that nobody has anything in.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("data directory: %w; choose another --data", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("%w: %s is not empty; a backup is restored into a new directory: choose another --data, or start "+
			"without --restore to go on with what is there", ErrInUse, dir)
	}
	return nil
}

// writeRestored writes a snapshot of a state and all else that a node starts from: it is the whole cluster.
func (n *Node) writeRestored(v fsm.View, cluster string) (err error) {
	if n.store, err = openStore(filepath.Join(n.cfg.Directory, logFile)); err != nil {
		return err
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(n.cfg.Directory, keepSnapshots, n.logger())
	if err != nil {
		return err
	}
	// The transport is asked for nothing but to write an address down in the way of old versions.
	_, trans := raft.NewInmemTransport(n.cfg.Address)
	defer trans.Close()
	const term = 1
	alone := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(n.id), Address: n.cfg.Address}}}
	sink, err := snapshots.Create(raft.SnapshotVersionMax, max(v.Index, 1), term, alone, 1, trans)
	if err != nil {
		return err
	}
	if err := (snapshot{v}).Persist(sink); err != nil {
		return err
	}
	if err := n.store.Set(keyTerm, indexKey(term)); err != nil {
		return err
	}
	return n.store.Set(keyCluster, []byte(cluster))
}

// removeFile removes a file for good, also if the power fails.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// checkRestored refuses a directory in which a restore did not come to its end.
func checkRestored(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, restoringFile)); err == nil {
		return fmt.Errorf("%w: the restore into %s was interrupted; remove the directory and restore again", ErrInUse, dir)
	}
	return nil
}
