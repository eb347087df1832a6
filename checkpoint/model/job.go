package model

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"colonnade/checkpoint"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/shard/pack"
)

// AboutJob says how a job's network takes images. The mean image and the classes' names are those of the training
// pack, which is looked for where the job has it, or at path unless that is empty.
func AboutJob(j *job.Job, path string) (*About, error) {
	plan, err := j.Plan()
	if err != nil {
		return nil, err
	}
	a := aboutWithoutPack(j, plan)
	if path == "" {
		path = j.Train.Path
	}
	h, mean, err := pack.ReadMean(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w; its mean image and names of classes go with the model: name it with --pack FILE, or do "+
			"without: --without-pack", err)
	}
	if err != nil {
		return nil, err
	}
	if id := fmt.Sprintf("%x", h.ID); id != j.Train.ID {
		return nil, fmt.Errorf("%w: %s has identity %.12s, job %s was trained on %.12s; name that one with --pack FILE",
			ErrModel,
			path, id, j.Name, j.Train.ID)
	}
	in := plan.Network.Input
	a.Mean = Frame(mean, h.Channels, h.Height, h.Width, in.Height, in.Width)
	copy(a.Classes, h.Classes)
	return a, nil
}

// AboutJobWithoutPack is AboutJob without a mean image, and with numbers for names.
func AboutJobWithoutPack(j *job.Job) (*About, error) {
	plan, err := j.Plan()
	if err != nil {
		return nil, err
	}
	return aboutWithoutPack(j, plan), nil
}

func aboutWithoutPack(j *job.Job, plan *shard.Plan) *About {
	a := &About{Text: j.NetworkText, Name: plan.Network.Name, Columns: j.Columns, Channels: j.Train.Channels,
		Height: j.Train.Height, Width: j.Train.Width, Scale: j.Augment.Scale, CentreMean: j.Augment.CentreMean()}
	for i := range plan.Network.Classes {
		a.Classes = append(a.Classes, strconv.Itoa(i))
	}
	return a
}

// FromDirectory loads a job's step, nil for the newest that is whole, from a directory of checkpoints, without a
// coordinator: the job lies beside them.
func FromDirectory(ctx context.Context, root, name string, step *uint64) (*job.Job, *State, uint64, error) {
	raw, err := checkpoint.ReadSpec(root, name)
	if err != nil {
		return nil, nil, 0, err
	}
	j, err := job.Decode(raw)
	if err != nil {
		return nil, nil, 0, err
	}
	plan, err := j.Plan()
	if err != nil {
		return nil, nil, 0, err
	}
	at, files, err := checkpoint.Find(root, name, step, j.Columns)
	if err != nil {
		return nil, nil, 0, err
	}
	s := NewState(plan)
	for c, path := range files {
		want := checkpoint.Want{Meta: checkpoint.Meta{Job: name, Step: at, Column: c, PlanDigest: plan.Digest()}}
		if err := s.Load(ctx, c, path, want); err != nil {
			return nil, nil, 0, err
		}
	}
	return j, s, at, nil
}
