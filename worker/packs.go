package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/shard/pack"
	"colonnade/worker/data"
)

// packs are a job's datasets, open and known to be the ones the job was submitted with.
type packs struct {
	train *data.Pack
	test  *data.Pack // nil: the job has none
}

// errWrongPack means that a file is a sound pack, but not the job's.
var errWrongPack = errors.New("wrong pack")

// openPacks opens a job's packs, each where find says that it lies.
func openPacks(j *job.Job, find func(*job.Pack) (string, error)) (*packs, error) {
	p := &packs{}
	var err error
	if p.train, err = openPack(j.Train, find); err != nil {
		return nil, fmt.Errorf("training data: %w", err)
	}
	if _, ok := p.train.Header.Colour(); !ok && j.Augment.Colour != nil {
		return nil, errors.Join(fmt.Errorf("training data: %s has no colour components for augment.colour: it is grey, or "+
			"older; make it again with: worker data pack", p.train.Path()), p.train.Close())
	}
	if j.Test == nil {
		return p, nil
	}
	if p.test, err = openPack(j.Test, find); err != nil {
		return nil, errors.Join(fmt.Errorf("test data: %w", err), p.close())
	}
	return p, nil
}

// openPack opens one pack and checks that its contents are what the job names.
func openPack(want *job.Pack, find func(*job.Pack) (string, error)) (*data.Pack, error) {
	path, err := find(want)
	if err != nil {
		return nil, err
	}
	p, err := data.Open(path)
	if err != nil {
		return nil, err
	}
	if id := fmt.Sprintf("%x", p.ID); id != want.ID {
		return nil, errors.Join(fmt.Errorf("%w: %s has identity %.12s, the job was submitted with %.12s; "+
			"put that pack back, or submit a job under another name", errWrongPack, path, id, want.ID), p.Close())
	}
	return p, nil
}

// errNoPack means that a pack does not lie on this machine.
var errNoPack = errors.New("no pack")

// findPack says where a pack lies on this machine: at the job's own path or, where that has no such file, in a
// directory of packs, by identity.
func findPack(want *job.Pack, directory string) (string, error) {
	_, err := pack.ReadFile(want.Path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return want.Path, nil // opening it says what is wrong
	}
	if path, err := packIn(directory, want.ID); path != "" || err != nil {
		return path, err
	}
	return "", fmt.Errorf("%w at %s, and none of identity %.12s in %s; copy it to either place and try again",
		errNoPack, want.Path, want.ID, directory)
}

// packIn looks for a pack by its identity in a directory; empty: it has none.
func packIn(directory, id string) (string, error) {
	files, err := filepath.Glob(filepath.Join(directory, "*.pack"))
	if err != nil {
		return "", fmt.Errorf("look for packs in %s: %w", directory, err)
	}
	for _, f := range files {
		if h, err := pack.ReadFile(f); err == nil && fmt.Sprintf("%x", h.ID) == id {
			return f, nil
		}
	}
	return "", nil
}

// source gives one cell its batches.
func (p *packs) source(j *job.Job, plan *shard.Plan, replica int) *data.Loader {
	in := plan.Network.Input
	return data.NewLoader(j, replica, p.train, p.test, in.Height, in.Width)
}

func (p *packs) close() error {
	err := p.train.Close()
	if p.test != nil {
		err = errors.Join(err, p.test.Close())
	}
	return err
}
