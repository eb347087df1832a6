package fsm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"colonnade/proto/commandpb"
)

// ErrBackup means that bytes are not a backup this program can restore.
var ErrBackup = errors.New("bad backup")

// backupMagic begins a backup file; behind it are the SHA-256 of the rest, and the rest: a commandpb.Backup.
var backupMagic = []byte("colonnade backup 1\n")

// EncodeBackup gives the bytes of a backup of a state, made now.
func EncodeBackup(v View, nowUnixNs int64) ([]byte, error) {
	snapshot, err := v.Encode()
	if err != nil {
		return nil, err
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&commandpb.Backup{Version: Version, Cluster: v.Cluster,
		Index: v.Index, MadeUnixNs: nowUnixNs, Snapshot: snapshot})
	if err != nil {
		return nil, fmt.Errorf("encode backup: %w", err)
	}
	sum := sha256.Sum256(b)
	return slices.Concat(backupMagic, sum[:], b), nil
}

// DecodeBackup reads a backup and the state in it.
func DecodeBackup(b []byte) (*commandpb.Backup, *State, error) {
	rest, ok := bytes.CutPrefix(b, backupMagic)
	if !ok || len(rest) < sha256.Size {
		return nil, nil, fmt.Errorf("%w: it does not begin as one", ErrBackup)
	}
	if sum := sha256.Sum256(rest[sha256.Size:]); !bytes.Equal(sum[:], rest[:sha256.Size]) {
		return nil, nil, fmt.Errorf("%w: its checksum does not match, it is damaged or incomplete", ErrBackup)
	}
	var k commandpb.Backup
	if err := proto.Unmarshal(rest[sha256.Size:], &k); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	if k.Version < 1 || k.Version > Version {
		return nil, nil, fmt.Errorf("%w: of version %d, this program reads %d; install a newer one", ErrBackup, k.Version,
			Version)
	}
	s, err := Decode(bytes.NewReader(k.Snapshot))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	if s.v.Cluster != k.Cluster || s.v.Cluster == "" || s.v.Index != k.Index {
		return nil, nil, fmt.Errorf("%w: it says that it is of %q at entry %d, its state is of %q at entry %d", ErrBackup,
			k.Cluster, k.Index, s.v.Cluster, s.v.Index)
	}
	return &k, s, nil
}

// restoredGenerations is how far a restored job's generation is put ahead: further than the cluster that was backed up
// can have gone since, so that no generation ever is two.
const restoredGenerations = 1_000_000

// Restored makes the state of another cluster of one that was backed up. Nobody is there yet, no generation runs, and
// what the old cluster has begun since is never taken for this one's. Checkpoints are those of the backup.
func (s *State) Restored(k *commandpb.Backup, cluster string, nowUnixNs int64) {
	a := &applier{s, s.v.Index, nowUnixNs}
	s.v.Lineage = append(slices.Clip(s.v.Lineage), &commandpb.LineageRecord{Cluster: k.Cluster, Index: k.Index,
		MadeUnixNs: k.MadeUnixNs, RestoredUnixNs: nowUnixNs})
	s.v.Cluster = cluster
	reason := "restored from a backup"
	a.event("cluster", "", "", "restored from a backup of %s at entry %d", k.Cluster, k.Index)
	for _, name := range s.v.JobNames() {
		j, _ := a.job(name)
		if j.State == Running || j.State == Stopping {
			a.end(j, reason)
		}
		if j.State != Done {
			j.Generation += restoredGenerations
		}
		a.keep(j)
	}
	for _, r := range s.v.Evaluations {
		if r.State == Running {
			r = copyEvaluation(r)
			r.Generation, r.Given = r.Generation+restoredGenerations, nil
			s.keepEvaluation(r)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.v.Workers)) {
		if w := s.v.Workers[id]; !w.Lost {
			s.keepWorker(id, &commandpb.WorkerRecord{Registered: w.Registered, RegisteredUnixNs: w.RegisteredUnixNs,
				Lost: true, LostReason: reason, LostUnixNs: nowUnixNs})
		}
	}
}
