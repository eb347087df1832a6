package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"colonnade/checkpoint"
	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
)

// checkpointCmd groups the commands about checkpoints.
type checkpointCmd struct {
	List   checkpointListCmd   `cmd:"" help:"List a job's checkpoints."`
	Verify checkpointVerifyCmd `cmd:"" help:"Read every file of a job's checkpoints and check it against its manifest."`
	Export checkpointExportCmd `cmd:"" help:"Write the whole network's weights, columns merged, for PyTorch, numpy or ONNX."`
	Import checkpointImportCmd `cmd:"" help:"Read a model of PyTorch, numpy, ONNX or ours, check it, and write what a job begins with."`
	Digest checkpointDigestCmd `cmd:"" help:"Print the digest of a checkpoint: SHA-256 of the whole state."`
	Now    checkpointNowCmd    `cmd:"" help:"Have a running job write a checkpoint at the next step boundary, and go on."`
	Pin    checkpointPinCmd    `cmd:"" help:"Keep a checkpoint for good, however many newer ones there are."`
	Unpin  checkpointUnpinCmd  `cmd:"" help:"Leave a pinned checkpoint to retention again."`
	Delete checkpointDeleteCmd `cmd:"" help:"Delete a checkpoint and its files."`
	Fork   checkpointForkCmd   `cmd:"" help:"Begin a new job with a checkpoint of another one, with another recipe."`
}

// manifests asks for a job's committed checkpoints, by step.
func manifests(ctx context.Context, client clusterpb.OperatorClient, name string) (
	*clusterpb.ListCheckpointsReply, error) {
	reply, err := client.ListCheckpoints(ctx, &clusterpb.GetJobRequest{Name: name})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// at returns the manifest of a step, or the newest good one.
func at(all []*clusterpb.Manifest, job string, step *uint64) (*clusterpb.Manifest, error) {
	var newest *clusterpb.Manifest
	for _, m := range all {
		if step != nil && m.Step == *step {
			return m, nil
		}
		if m.Bad == "" {
			newest = m
		}
	}
	if step == nil && newest != nil {
		return newest, nil
	}
	if step == nil {
		return nil, fmt.Errorf("job %s has no checkpoint yet; see: coordinator job show %s", job, job)
	}
	return nil, fmt.Errorf("job %s has no checkpoint of step %d; see: coordinator checkpoint list %s", job, *step, job)
}

type checkpointListCmd struct {
	clientFlags
	Job string `arg:"" name:"JOB" help:"Job."`
}

// Run lists a job's checkpoints.
func (c *checkpointListCmd) Run(con console) error {
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		reply, err := manifests(ctx, client, c.Job)
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, reply)
		}
		if len(reply.Checkpoints) == 0 {
			fmt.Fprintf(con.out, "no checkpoints of %s yet; see: coordinator job show %s\n", c.Job, c.Job)
			return nil
		}
		w := tabwriter.NewWriter(con.out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "STEP\tCOMMITTED\tFILES\tBYTES\tDIGEST\tSTATE")
		for _, m := range reply.Checkpoints {
			var bytes int64
			for _, f := range m.Files {
				bytes += f.Bytes
			}
			state := "good"
			if m.Pinned {
				state = "good, pinned"
			}
			if m.Job != c.Job {
				state += ", of " + m.Job
			}
			if m.Bad != "" {
				state = "bad: " + m.Bad
			}
			fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%.6x\t%s\n", m.Step, m.Committed.AsTime().Local().Format("2006-01-02 15:04:05"),
				len(m.Files), bytes, m.Digest, state)
		}
		return w.Flush()
	})
}

type checkpointVerifyCmd struct {
	clientFlags
	Job  string  `arg:"" name:"JOB" help:"Job."`
	Step *uint64 `placeholder:"N" help:"Only the checkpoint of this step."`
}

// verified is the verdict on one file.
type verified struct {
	Step  uint64 `json:"step"`
	Cell  string `json:"cell"`
	Path  string `json:"path"`
	Error string `json:"error,omitempty"`
}

// Run verifies checkpoint files. They must lie on this machine.
func (c *checkpointVerifyCmd) Run(con console) error {
	var reply *clusterpb.ListCheckpointsReply
	err := c.ask(func(ctx context.Context, client clusterpb.OperatorClient) (err error) {
		reply, err = manifests(ctx, client, c.Job)
		return err
	})
	if err != nil {
		return err
	}
	todo := reply.Checkpoints
	if c.Step != nil || len(todo) == 0 {
		m, err := at(todo, c.Job, c.Step)
		if err != nil {
			return err
		}
		todo = []*clusterpb.Manifest{m}
	}
	var results []verified
	bad := 0
	for _, m := range todo {
		for _, f := range m.Files {
			v := verified{Step: m.Step, Cell: fsm.CellName(f.Cell)}
			if v.Path, err = verifyFile(m, f, reply.Directories); err != nil {
				v.Error = err.Error()
				bad++
			}
			results = append(results, v)
		}
	}
	if err := c.print(con.out, results); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d files cannot be used; put them back, or let the job fall back to the newest step "+
			"whose files are all good: coordinator job resume %s", bad, len(results), c.Job)
	}
	return nil
}

func (c *checkpointVerifyCmd) print(out io.Writer, results []verified) error {
	if c.JSON {
		return printJSON(out, results)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "STEP\tCELL\tRESULT\tFILE")
	for _, v := range results {
		result := "ok"
		if v.Error != "" {
			result = v.Error
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", v.Step, v.Cell, result, v.Path)
	}
	return w.Flush()
}

// verifyFile looks for a checkpoint file in the workers' directories and checks it.
func verifyFile(m *clusterpb.Manifest, f *clusterpb.CheckpointFile, directories []string) (string, error) {
	if len(m.PlanDigest) != 32 {
		return "", errors.New("the manifest has no digests")
	}
	want, err := checkpoint.Promised(f.Bytes, f.Xxh3, f.Sha256, f.Digest)
	if err != nil {
		return "", err
	}
	want.Meta = checkpoint.Meta{Job: m.Job, Step: m.Step, Replica: int(f.Cell.Replica), Column: int(f.Cell.Column),
		PlanDigest: [32]byte(m.PlanDigest), Numerics: m.Numerics}
	for _, d := range directories {
		path := filepath.Join(d, filepath.FromSlash(f.Path))
		if _, err := os.Stat(path); err == nil {
			_, _, err := checkpoint.Verify(context.Background(), path, want)
			return path, err
		}
	}
	return f.Path, fmt.Errorf("%w: not in any of %v on this machine", checkpoint.ErrMissing, directories)
}

type checkpointDigestCmd struct {
	clientFlags
	Job  string  `arg:"" name:"JOB" help:"Job."`
	Step *uint64 `placeholder:"N" help:"Step. Default: the newest good checkpoint."`
}

// Run prints a checkpoint's digest.
func (c *checkpointDigestCmd) Run(con console) error {
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		reply, err := manifests(ctx, client, c.Job)
		if err != nil {
			return err
		}
		m, err := at(reply.Checkpoints, c.Job, c.Step)
		if err != nil {
			return err
		}
		if c.JSON {
			return printJSON(con.out, map[string]any{"job": c.Job, "step": m.Step, "digest": fmt.Sprintf("%x", m.Digest)})
		}
		fmt.Fprintf(con.out, "digest %x  step %d\n", m.Digest, m.Step)
		return nil
	})
}
