package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
)

// backupCmd is `coordinator backup`.
type backupCmd struct {
	clientFlags
	File string `arg:"" name:"FILE" help:"File to write; it must not exist."`
}

// saved is what a backup holds.
type saved struct {
	File    string `json:"file"`
	Bytes   int    `json:"bytes"`
	Cluster string `json:"cluster"`
	Index   uint64 `json:"index"`
	Jobs    int    `json:"jobs"`
}

// Run writes the cluster's state into a file.
func (c *backupCmd) Run(con console) error {
	if _, err := os.Lstat(c.File); err == nil {
		return fmt.Errorf("%s exists; choose another file, or remove it", c.File)
	}
	var all []byte
	err := c.ask(func(ctx context.Context, client clusterpb.OperatorClient) (err error) {
		all, err = fetchBackup(ctx, client)
		return err
	})
	if err != nil {
		return err
	}
	k, state, err := fsm.DecodeBackup(all)
	if err != nil {
		return fmt.Errorf("what the coordinator sent: %w; try again", err)
	}
	if err := writeWhole(c.File, all); err != nil {
		return fmt.Errorf("write backup: %w; choose another file", err)
	}
	s := saved{c.File, len(all), k.Cluster, k.Index, len(state.View().Jobs)}
	if c.JSON {
		return printJSON(con.out, s)
	}
	_, err = fmt.Fprintf(con.out, "%s: %s at entry %d, %d jobs, %d bytes; restore it with: coordinator start --data DIR "+
		"--restore %s\n", s.File, s.Cluster, s.Index, s.Jobs, s.Bytes, s.File)
	return err
}

// fetchBackup gets a backup from the leader, from the next one if that goes away meanwhile.
func fetchBackup(ctx context.Context, client clusterpb.OperatorClient) ([]byte, error) {
	for {
		// Finds the leader, or says that there is none: streams go where the last answer came from.
		if _, err := client.ListMembers(ctx, &clusterpb.ListMembersRequest{}); err != nil {
			return nil, err
		}
		b, err := receiveBackup(ctx, client)
		if err == nil || status.Code(err) != codes.Unavailable {
			return b, err
		}
		again := time.NewTimer(leaderPoll)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return nil, err
		}
	}
}

func receiveBackup(ctx context.Context, client clusterpb.OperatorClient) ([]byte, error) {
	stream, err := client.Backup(ctx, &clusterpb.BackupRequest{})
	if err != nil {
		return nil, err
	}
	var all []byte
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, chunk.Data...)
	}
}

// writeWhole makes a file that is there as a whole, for good, or not at all.
func writeWhole(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".backup-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
