package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"colonnade/checkpoint"
	"colonnade/checkpoint/model"
	"colonnade/checkpoint/tensors"
	"colonnade/proto/clusterpb"
	"colonnade/shard"
	"colonnade/shard/job"
)

type checkpointExportCmd struct {
	clientFlags
	Job         string  `arg:"" name:"JOB" help:"Job, or a model as safetensors that is to be written in another format."`
	Step        *uint64 `placeholder:"N" help:"Step. Default: the newest good checkpoint."`
	Format      string  `default:"safetensors" enum:"safetensors,pytorch,npz,onnx" help:"safetensors, pytorch (a state_dict), npz (numpy) or onnx. Default: ${default}."`
	Out         string  `placeholder:"FILE" help:"File to write; beside it FILE.py, the network in PyTorch. Default: JOB-STEP.EXT."`
	Column      *int    `placeholder:"N" help:"One column's parameters as they are, not the whole network; no onnx."`
	Dir         string  `placeholder:"DIR" help:"Read the checkpoints in this directory of a worker's, and ask no coordinator."`
	Pack        string  `placeholder:"FILE" help:"The training pack, if it is not where the job has it: its mean image goes with the model."`
	WithoutPack bool    `help:"Without mean image and names of classes."`
}

// extensions are the usual ends of files' names.
var extensions = map[string]string{"safetensors": ".safetensors", "pytorch": ".pt", "npz": ".npz", "onnx": ".onnx"}

// exported is what an export came to.
type exported struct {
	Job        string `json:"job"`
	Step       uint64 `json:"step"`
	Format     string `json:"format"`
	File       string `json:"file"`
	Module     string `json:"module,omitempty"`
	Bytes      int64  `json:"bytes"`
	Tensors    int    `json:"tensors"`
	Parameters int64  `json:"parameters"`
}

// Run exports a checkpoint. Its files must lie on this machine.
func (c *checkpointExportCmd) Run(con console) error {
	if c.Column != nil && c.Format == "onnx" {
		return usagef("--column with --format onnx: a column alone computes nothing that can be run; use safetensors, " +
			"pytorch or npz")
	}
	if strings.HasSuffix(c.Job, ".safetensors") {
		return c.convert(con)
	}
	j, s, step, err := c.load()
	if err != nil {
		return err
	}
	if c.Column != nil && (*c.Column < 0 || *c.Column >= j.Columns) {
		return usagef("--column %d: job %s has columns 0 to %d; give one of them", *c.Column, j.Name, j.Columns-1)
	}
	var about *model.About
	if c.WithoutPack || c.Column != nil {
		about, err = model.AboutJobWithoutPack(j)
	} else {
		about, err = model.AboutJob(j, c.Pack)
	}
	if err != nil {
		return err
	}
	e := exported{Job: j.Name, Step: step, Format: c.Format, File: c.Out}
	if e.File == "" {
		e.File = fmt.Sprintf("%s-%d%s", j.Name, step, extensions[c.Format])
	}
	if err := c.write(&e, about, s); err != nil {
		return err
	}
	return c.print(con, &e, fmt.Sprintf("step %d of %s", step, j.Name))
}

// convert writes a model file in another format.
func (c *checkpointExportCmd) convert(con console) error {
	if c.Step != nil || c.Dir != "" || c.Column != nil || c.Pack != "" || c.WithoutPack {
		return usagef("%s is a model file, and --step, --dir, --column, "+
			"--pack and --without-pack are for jobs; leave them out", c.Job)
	}
	about, s, err := model.Read(c.Job)
	if err != nil {
		return err
	}
	e := exported{Format: c.Format, File: c.Out}
	if e.File == "" {
		e.File = strings.TrimSuffix(c.Job, ".safetensors") + extensions[c.Format]
	}
	if err := c.write(&e, about, s); err != nil {
		return err
	}
	return c.print(con, &e, c.Job)
}

// print says what was written, and of what.
func (c *checkpointExportCmd) print(con console, e *exported, of string) error {
	if c.JSON {
		return printJSON(con.out, e)
	}
	fmt.Fprintf(con.out, "wrote %s: %s, %d parameters in %d tensors, %.1f MB\n", e.File, of, e.Parameters, e.Tensors,
		float64(e.Bytes)/1e6)
	if e.Module != "" {
		fmt.Fprintf(con.out, "wrote %s: the network in PyTorch; net = load(%q)\n", e.Module, e.File)
	}
	return nil
}

// write writes the file and, beside it, the module.
func (c *checkpointExportCmd) write(e *exported, about *model.About, s *model.State) error {
	e.Module = strings.TrimSuffix(e.File, filepath.Ext(e.File)) + ".py"
	if c.Column != nil || c.Format == "onnx" {
		e.Module = ""
	}
	if e.Module == e.File {
		return usagef("--out %s: that is the name of the module that comes beside it; name it %s", e.File,
			strings.TrimSuffix(e.File, ".py")+extensions[c.Format])
	}
	var module []byte
	if e.Module != "" {
		var err error
		if module, err = model.Python(about, s.Plan); err != nil {
			return err
		}
	}
	all, write, err := model.Export(about, s, c.Format, c.Column)
	if err != nil {
		return err
	}
	for _, t := range all {
		n := int64(1)
		for _, d := range t.Shape {
			n *= int64(d)
		}
		if e.Tensors++; t.Name != model.MeanName {
			e.Parameters += n
		}
	}
	files := []tensors.New{{Path: e.File, Write: write}}
	if module != nil {
		files = append(files, tensors.New{Path: e.Module,
			Write: func(w io.Writer) error { _, err := w.Write(module); return err }})
	}
	if err := tensors.CreateAll(files...); err != nil {
		return err
	}
	if info, err := os.Stat(e.File); err == nil {
		e.Bytes = info.Size()
	}
	return nil
}

// load reads the checkpoint: from a directory, or where the coordinator says that it lies.
func (c *checkpointExportCmd) load() (*job.Job, *model.State, uint64, error) {
	if c.Dir != "" {
		return model.FromDirectory(context.Background(), c.Dir, c.Job, c.Step)
	}
	var at *checkpointFiles
	err := c.ask(func(ctx context.Context, client clusterpb.OperatorClient) (err error) {
		at, err = findCheckpoint(ctx, client, c.Job, c.Step)
		return err
	})
	if err != nil {
		return nil, nil, 0, err
	}
	s, err := at.load(context.Background())
	if err != nil {
		return nil, nil, 0, err
	}
	return at.job, s, at.manifest.Step, nil
}

// checkpointFiles are a job's checkpoint and where its files may lie on this machine.
type checkpointFiles struct {
	job         *job.Job
	plan        *shard.Plan
	manifest    *clusterpb.Manifest
	directories []string
}

// findCheckpoint asks the leader of a job's step, of the newest good one if step is nil.
func findCheckpoint(ctx context.Context, client clusterpb.OperatorClient, name string, step *uint64) (*checkpointFiles,
	error) {
	described, err := client.GetJob(ctx, &clusterpb.GetJobRequest{Name: name})
	if err != nil {
		return nil, err
	}
	reply, err := manifests(ctx, client, name)
	if err != nil {
		return nil, err
	}
	c := &checkpointFiles{directories: reply.Directories}
	if c.manifest, err = at(reply.Checkpoints, name, step); err != nil {
		return nil, err
	}
	if c.job, err = job.Decode(described.Spec); err != nil {
		return nil, err
	}
	c.plan, err = c.job.Plan()
	return c, err
}

// load reads all of it.
func (c *checkpointFiles) load(ctx context.Context) (*model.State, error) {
	s := model.NewState(c.plan)
	for k := range c.job.Columns {
		path, want, err := c.file(k)
		if err != nil {
			return nil, err
		}
		if err := s.Load(ctx, k, path, want); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// file finds the file of a column of replica 0, in the first directory on this machine that has it.
func (c *checkpointFiles) file(column int) (string, checkpoint.Want, error) {
	m := c.manifest
	i := slices.IndexFunc(m.Files, func(f *clusterpb.CheckpointFile) bool {
		return f.Cell.Replica == 0 && int(f.Cell.Column) == column
	})
	if i < 0 {
		return "", checkpoint.Want{}, fmt.Errorf("the checkpoint of step %d has no file of column %d; take another --step",
			m.Step, column)
	}
	f := m.Files[i]
	want, err := checkpoint.Promised(f.Bytes, f.Xxh3, f.Sha256, f.Digest)
	if err != nil {
		return "", want, fmt.Errorf("manifest of step %d: %w", m.Step, err)
	}
	want.Meta = checkpoint.Meta{Job: m.Job, Step: m.Step, Column: column, PlanDigest: c.plan.Digest(),
		Numerics: m.Numerics}
	for _, d := range c.directories {
		path := filepath.Join(d, filepath.FromSlash(f.Path))
		if _, err := os.Stat(path); err == nil {
			return path, want, nil
		}
	}
	return "", want, fmt.Errorf("%w: %s is not in any of %v on this machine; worker %s wrote it: "+
		"export there, with --dir DIR",
		checkpoint.ErrMissing, f.Path, c.directories, f.Worker)
}
