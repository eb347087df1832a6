package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
)

// A checkpoint directory holds JOB/STEP/rRcC.ckpt, STEP in twelve digits.

var validJob = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$`)

// Path is where the file of a cell's state lies below the checkpoint directory, slash-separated.
func Path(job string, step uint64, replica, column int) (string, error) {
	if !validJob.MatchString(job) || replica < 0 || column < 0 {
		return "", fmt.Errorf("checkpoint of job %q, cell r%dc%d: no valid name", job, replica, column)
	}
	return path.Join(job, fmt.Sprintf("%012d", step), fmt.Sprintf("r%dc%d.ckpt", replica, column)), nil
}

// Remove removes all files of a job's step, if there are any.
func Remove(root, job string, step uint64) error {
	name, err := Path(job, step, 0, 0)
	if err != nil {
		return err
	}
	dir := filepath.Join(root, filepath.FromSlash(path.Dir(name)))
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove checkpoint: %w", err)
	}
	if err := syncDirectory(filepath.Dir(dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove checkpoint: %w", err)
	}
	return nil
}

// Sweep removes what writes of a cell's state left behind that were cut off. Nobody may be writing that cell's state:
// call it before a run of the cell begins. Other cells' files stay, since their workers may share the directory. A
// missing directory is an empty one.
func Sweep(root, job string, replica, column int) error {
	name, err := Path(job, 0, replica, column)
	if err != nil {
		return err
	}
	dir := filepath.Join(root, job)
	steps, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sweep checkpoints: %w", err)
	}
	for _, e := range steps {
		if _, err := strconv.ParseUint(e.Name(), 10, 64); err != nil || len(e.Name()) != 12 {
			continue // not ours
		}
		err := os.Remove(filepath.Join(dir, e.Name(), path.Base(name)+".tmp"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweep checkpoints: %w", err)
		}
	}
	return nil
}
