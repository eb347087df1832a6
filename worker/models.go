package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"colonnade/checkpoint"
	"colonnade/checkpoint/model"
	"colonnade/shard/job"
)

// loadedModel is a model to predict with, wherever it came from.
type loadedModel struct {
	name  string // for messages
	job   *job.Job
	about *model.About
	state *model.State

	directory string // of the job's checkpoints; empty: it is a file of its own
}

var stepDirectory = regexp.MustCompile(`^[0-9]{12}$`)

// openModel reads a model: an export as safetensors, or a checkpoint of a worker's directory: DIR/JOB/STEP, DIR/JOB
// (its newest step), DIR if it has one job, or a file of the step. A pack tells a checkpoint's mean image and names of
// classes, if it is not where the job has it.
func openModel(ctx context.Context, path, pack string) (*loadedModel, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open model: %w; name a model file, or a directory of checkpoints", err)
	}
	if !info.IsDir() && filepath.Ext(path) != ".ckpt" {
		a, s, err := model.Read(path)
		if err != nil {
			return nil, err
		}
		return &loadedModel{name: path, about: a, state: s}, nil
	}
	dir := filepath.Clean(path)
	if !info.IsDir() {
		dir = filepath.Dir(dir)
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var step *uint64
	if base := filepath.Base(dir); stepDirectory.MatchString(base) {
		n, err := strconv.ParseUint(base, 10, 64)
		if err != nil {
			return nil, err
		}
		step, dir = &n, filepath.Dir(dir)
	}
	root, name := filepath.Dir(dir), filepath.Base(dir)
	if _, err := checkpoint.ReadSpec(root, name); errors.Is(err, checkpoint.ErrMissing) && step == nil {
		names, lerr := checkpoint.Jobs(dir)
		if lerr != nil {
			return nil, lerr
		}
		switch len(names) {
		case 0:
			return nil, fmt.Errorf("no checkpoints of a job in %s: %w", dir, err)
		case 1:
			root, name = dir, names[0]
		default:
			return nil, fmt.Errorf("%s has checkpoints of several jobs; name one: %s", dir,
				filepath.Join(path, strings.Join(names, ", "+path+"/")))
		}
	}
	j, s, at, err := model.FromDirectory(ctx, root, name, step)
	if err != nil {
		return nil, err
	}
	a, err := model.AboutJob(j, pack)
	if err != nil {
		return nil, err
	}
	return &loadedModel{name: fmt.Sprintf("%s step %d", name, at), job: j, about: a, state: s,
		directory: filepath.Join(root, name)}, nil
}
