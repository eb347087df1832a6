package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"

	"colonnade/checkpoint"
	"colonnade/proto/clusterpb"
)

// localFlags are of `coordinator evaluate --local`.
type localFlags struct {
	Local   bool   `help:"Compute on this machine, where the checkpoints' files must lie, by a worker program of its own: with another device or other numerics than the cluster's."`
	Pack    string `placeholder:"FILE" help:"With --local: training pack, if it is not where the job has it."`
	Device  string `placeholder:"NAME" help:"With --local: device to compute on; see: worker devices. Default: cpu."`
	Threads int    `help:"With --local: threads. Default: all cores this process may use."`
	Program string `placeholder:"FILE" help:"With --local: worker program. Default: worker, beside this program."`
}

// runLocal evaluates jobs' checkpoints, whose files must lie on this machine, with a worker program of its own.
func (c *evaluateCmd) runLocal(con console) (err error) {
	program, err := (&devCmd{Program: c.Program}).program()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "colonnade-evaluate-")
	if err != nil {
		return fmt.Errorf("evaluate: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	args := []string{"evaluate", "--views", strconv.Itoa(c.Views), "--batch", strconv.Itoa(c.Batch), "--device",
		cmp.Or(c.Device, "cpu")}
	for i, job := range c.Jobs {
		at, err := c.gather(filepath.Join(dir, strconv.Itoa(i)), job)
		if err != nil {
			return err
		}
		args = append(args, "--checkpoint", at)
	}
	if c.Images != "" {
		args = append(args, "--data", c.Images)
	}
	if c.Pack != "" {
		args = append(args, "--pack", c.Pack)
	}
	if c.Threads != 0 {
		args = append(args, "--threads", strconv.Itoa(c.Threads))
	}
	if c.JSON {
		args = append(args, "--json")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = con.out, con.err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = workerStop
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("evaluate: the worker program %w; it has said why", err)
	}
	return nil
}

// gather links a job's checkpoint files, each from the directory that has it, into one of ours, verified against their
// manifest, and puts the job beside them. It returns the step's directory.
func (c *evaluateCmd) gather(root, name string) (string, error) {
	var spec []byte
	var m *clusterpb.Manifest
	var directories []string
	err := c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		described, err := client.GetJob(ctx, &clusterpb.GetJobRequest{Name: name})
		if err != nil {
			return err
		}
		reply, err := manifests(ctx, client, name)
		if err != nil {
			return err
		}
		spec, directories = described.Spec, reply.Directories
		m, err = at(reply.Checkpoints, name, c.Step)
		return err
	})
	if err != nil {
		return "", err
	}
	if err := checkpoint.WriteSpec(root, name, spec); err != nil {
		return "", err
	}
	step := ""
	for _, f := range m.Files {
		if f.Cell.Replica != 0 {
			continue
		}
		path, err := verifyFile(m, f, directories)
		if err != nil {
			return "", fmt.Errorf("%w; evaluate where it lies, with: worker evaluate --checkpoint DIR", err)
		}
		if path, err = filepath.Abs(path); err != nil {
			return "", err
		}
		link := filepath.Join(root, filepath.FromSlash(f.Path))
		step = filepath.Dir(link)
		if err := errors.Join(os.MkdirAll(step, 0o755), os.Symlink(path, link)); err != nil {
			return "", fmt.Errorf("evaluate: %w", err)
		}
	}
	return step, nil
}
