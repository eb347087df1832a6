package main

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"colonnade/checkpoint"
	"colonnade/checkpoint/model"
	"colonnade/checkpoint/tensors"
	"colonnade/shard"
	"colonnade/shard/job"
)

type checkpointImportCmd struct {
	File     string  `arg:"" name:"FILE" help:"Model: safetensors, a state_dict by torch.save, npz or ONNX; of this program, of the module it writes, or torchvision's AlexNet."`
	Out      string  `required:"" placeholder:"FILE" help:"Model to write as safetensors, for start.from in a job and for: worker predict."`
	Job      string  `placeholder:"JOB.yaml" help:"Job whose network, columns, scale and pack it is for."`
	Network  string  `placeholder:"NAME" help:"Without a job: the network, or a network file. Default: what the file says itself."`
	Columns  int     `placeholder:"K" help:"Without a job: its columns."`
	Channels int     `help:"Without a job: channels of its input, where the network allows several. Default: the most."`
	Scale    float64 `help:"Without a job: what pixels less their mean are multiplied by."`
	Mean     string  `placeholder:"PLACE" help:"Without a job: image, the default: a crop sees the mean image at its own place; or centre: its centre is subtracted from every crop, as alexnet-source is trained."`
	Dir      string  `placeholder:"DIR" help:"Also write the checkpoint files of step 0 of the job into this directory."`
	JSON     bool    `help:"Print as JSON."`
}

// Run imports a model.
func (c *checkpointImportCmd) Run(con console) error {
	if c.Job != "" && (c.Network != "" || c.Columns != 0 || c.Channels != 0 || c.Scale != 0 || c.Mean != "") {
		return usagef("--job says network, columns, channels, scale and mean; leave these out")
	}
	if c.Mean != "" && c.Mean != job.MeanImage && c.Mean != job.MeanCentre {
		return usagef("--mean %s; use image or centre", c.Mean)
	}
	if c.Dir != "" && c.Job == "" {
		return usagef("--dir wants checkpoint files of a job; name it with --job")
	}
	f, err := tensors.Open(c.File)
	if err != nil {
		return err
	}
	defer f.Close()
	about, j, err := c.about(f)
	if err != nil {
		return fmt.Errorf("import %s: %w", c.File, err)
	}
	s, err := fill(f, about)
	if err != nil {
		return fmt.Errorf("import %s: %w", c.File, err)
	}
	all, write, err := model.Export(about, s, "safetensors", nil)
	if err != nil {
		return err
	}
	if err := c.write(j, s, write); err != nil {
		return err
	}
	if c.JSON {
		return printJSON(con.out, map[string]any{"file": c.Out, "from": c.File, "format": f.Format, "network": about.Name,
			"columns": about.Columns, "classes": len(about.Classes), "tensors": len(all)})
	}
	fmt.Fprintf(con.out, "wrote %s: %s in %d columns, %d classes, from %s; begin a job with it: start: {from: %s}\n",
		c.Out,
		about.Name, about.Columns, len(about.Classes), f.Format, c.Out)
	return nil
}

// about is what the model is: as the job has it, as the file says itself, or as the flags say.
func (c *checkpointImportCmd) about(f *tensors.File) (*model.About, *job.Job, error) {
	mean, err := model.MeanOf(f)
	if err != nil {
		return nil, nil, err
	}
	if c.Job != "" {
		j, err := readJob(c.Job)
		if err != nil {
			return nil, nil, err
		}
		about, err := model.AboutJob(j, "")
		if err == nil && mean != nil {
			about.Mean = mean
		}
		return about, j, err
	}
	own, err := model.AboutOf(f)
	if err != nil {
		return nil, nil, err
	}
	if own != nil && c.Network == "" {
		if c.Columns != 0 {
			own.Columns = c.Columns
		}
		if c.Mean != "" {
			own.CentreMean = c.Mean == job.MeanCentre
		}
		return own, nil, nil
	}
	if c.Network == "" || c.Columns < 1 || !(c.Scale > 0) {
		return nil, nil, usagef("the file does not say what it is; name --job JOB.yaml, or --network, --columns and --scale")
	}
	network, text, err := shard.Load(c.Network)
	if err != nil {
		return nil, nil, err
	}
	about := &model.About{Text: text, Name: network.Name, Columns: c.Columns, Channels: c.Channels, Scale: c.Scale,
		Mean: mean, CentreMean: c.Mean == job.MeanCentre || c.Mean == "" && own != nil && own.CentreMean}
	if about.Channels == 0 {
		about.Channels = network.Input.Channels[len(network.Input.Channels)-1]
	}
	for i := range model.Classes(f, network) {
		about.Classes = append(about.Classes, strconv.Itoa(i))
	}
	return about, nil, nil
}

// fill reads the tensors into a state of the network.
func fill(f *tensors.File, about *model.About) (*model.State, error) {
	plan, err := about.Plan()
	if err != nil {
		return nil, err
	}
	in := plan.Network.Input
	if n := about.Channels * in.Height * in.Width; about.Mean != nil && len(about.Mean) != n {
		return nil, fmt.Errorf("%w: its mean image has %d values, the network's input %d", model.ErrModel, len(about.Mean), n)
	}
	s, err := model.LoadFile(plan, f, nil)
	if err != nil {
		return nil, err
	}
	if !model.IsTorchvision(f) {
		return s, nil
	}
	if about.Mean, err = s.FromTorchvision(about.Scale); err != nil {
		return nil, err
	}
	if about.Height == 0 { // as torchvision's own transforms: the shorter side to 256, then the centre of 224
		about.Height, about.Width = in.Height+in.Height/7, in.Width+in.Width/7
	}
	return s, nil
}

// write writes the model and, where they are wanted, the checkpoint files of step 0 of its job, as if it had been
// trained to there: all of it or nothing.
func (c *checkpointImportCmd) write(j *job.Job, s *model.State, write func(io.Writer) error) error {
	if c.Dir == "" {
		return tensors.Create(c.Out, write)
	}
	staged, err := checkpoint.Stage(c.Dir, j.Name, 0, j.Encode(), func(root string) error {
		for column := range j.Columns {
			m := checkpoint.Meta{Job: j.Name, Column: column, PlanDigest: s.Plan.Digest(), Numerics: "imported"}
			if _, err := s.Write(context.Background(), root, m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("--dir %s: %w", c.Dir, err)
	}
	if err := tensors.Create(c.Out, write); err != nil {
		staged.Drop()
		return err
	}
	return staged.Keep()
}
