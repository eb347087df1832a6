package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A checkpoint directory holds JOB/STEP/rRcC.gG.ckpt, STEP in twelve digits, G the generation that wrote the file. Two
// generations never write to one name: a worker that was cut off for a while and finishes a file of a generation that
// is over cannot replace one that is committed.

var validJob = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)

// Path is where the file of a cell's state lies below the checkpoint directory, slash-separated.
func Path(m Meta) (string, error) {
	dir, err := stepDirectory(m.Job, m.Step)
	if err != nil || m.Replica < 0 || m.Column < 0 {
		return "", fmt.Errorf("checkpoint of job %q, cell r%dc%d: no valid name", m.Job, m.Replica, m.Column)
	}
	return path.Join(dir, fmt.Sprintf("r%dc%d.g%d.ckpt", m.Replica, m.Column, m.Generation)), nil
}

// stepDirectory is where the files of a job's step lie, below the checkpoint directory.
func stepDirectory(job string, step uint64) (string, error) {
	if !validJob.MatchString(job) {
		return "", fmt.Errorf("checkpoint of job %q: no valid name", job)
	}
	return path.Join(job, fmt.Sprintf("%012d", step)), nil
}

// Remove removes all files of a job's step, if there are any.
func Remove(root, job string, step uint64) error {
	name, err := stepDirectory(job, step)
	if err != nil {
		return err
	}
	dir := filepath.Join(root, filepath.FromSlash(name))
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove checkpoint: %w", err)
	}
	if err := syncDirectory(filepath.Dir(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove checkpoint: %w", err)
	}
	return nil
}

// Sweep removes what no manifest knows: files of writes that were cut off, and steps of a job that keep refuses. A
// missing directory is an empty one.
func Sweep(root, job string, keep func(step uint64) bool) error {
	if !validJob.MatchString(job) {
		return fmt.Errorf("sweep checkpoints of job %q: no valid name", job)
	}
	steps, err := os.ReadDir(filepath.Join(root, job))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sweep checkpoints: %w", err)
	}
	for _, e := range steps {
		step, err := strconv.ParseUint(e.Name(), 10, 64)
		if err != nil || len(e.Name()) != 12 {
			continue // not ours
		}
		if !keep(step) {
			if err := Remove(root, job, step); err != nil {
				return err
			}
			continue
		}
		if err := removeTemporary(filepath.Join(root, job, e.Name())); err != nil {
			return fmt.Errorf("sweep checkpoints: %w", err)
		}
	}
	return nil
}

func removeTemporary(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), ".tmp") {
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// Retain says which of the committed, good steps may go when the newest `keep` of them are to stay.
func Retain(steps []uint64, keep int) (drop []uint64) {
	sorted := slices.Clone(steps)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	return sorted[:max(0, len(sorted)-max(keep, 1))]
}
