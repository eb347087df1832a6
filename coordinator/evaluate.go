package main

import (
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

// evaluateCmd is `coordinator evaluate`.
type evaluateCmd struct {
	clientFlags
	Jobs    []string `arg:"" name:"JOB" help:"Job; of several the mean of their predictions, as the paper's ensembles."`
	Step    *uint64  `placeholder:"N" help:"Step. Default: each job's newest good checkpoint."`
	Views   int      `default:"1" help:"1: the centre; 10: corners, centre and their mirrors, averaged (paper, section 4.1)."`
	Images  string   `name:"data" placeholder:"PACK" help:"Images to test on. Default: the test pack of the first job."`
	Pack    string   `placeholder:"FILE" help:"Training pack, if it is not where the job has it."`
	Batch   int      `default:"64" help:"Images at once."`
	Device  string   `default:"cpu" help:"Device to compute on; see: worker devices."`
	Threads int      `help:"Threads. Default: all cores this process may use."`
	Program string   `placeholder:"FILE" help:"Worker program. Default: worker, beside this program."`
}

// Run evaluates jobs' checkpoints, whose files must lie on this machine, with a worker program of its own: what trains
// goes on undisturbed, but for the processors that this takes.
func (c *evaluateCmd) Run(con console) (err error) {
	program, err := (&devCmd{Program: c.Program}).program()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "colonnade-evaluate-")
	if err != nil {
		return fmt.Errorf("evaluate: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	args := []string{"evaluate", "--views", strconv.Itoa(c.Views), "--batch", strconv.Itoa(c.Batch), "--device", c.Device}
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
