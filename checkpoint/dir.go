package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
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

// Sweep removes what writes and copies of a cell's files left behind that were cut off, whatever their generation. Call
// it before a run of the cell begins: a worker that was cut off and still writes for a generation that is over only
// fails to. Other cells' files stay, since their workers may share the directory. A missing directory is an empty one.
func Sweep(root, job string, replica, column int) error {
	if _, err := stepDirectory(job, 0); err != nil {
		return err
	}
	dir := filepath.Join(root, job)
	left, err := fs.Glob(os.DirFS(dir), fmt.Sprintf("%s/r%dc%d.g*.tmp", strings.Repeat("[0-9]", 12), replica, column))
	if err != nil {
		return fmt.Errorf("sweep checkpoints: %w", err)
	}
	for _, name := range left {
		if err := os.Remove(filepath.Join(dir, filepath.FromSlash(name))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweep checkpoints: %w", err)
		}
	}
	return nil
}
