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

// specFile is the canonical job in its directory: with it the files say what they are of without a coordinator.
const specFile = "job.yaml"

// WriteSpec puts a job's canonical bytes beside its checkpoints.
func WriteSpec(root, job string, spec []byte) error {
	if _, err := stepDirectory(job, 0); err != nil {
		return err
	}
	path := filepath.Join(root, job, specFile)
	if old, err := os.ReadFile(path); err == nil && string(old) == string(spec) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write job beside its checkpoints: %w%s", err, hint(err))
	}
	f, err := os.CreateTemp(filepath.Dir(path), specFile+".*.tmp")
	if err != nil {
		return fmt.Errorf("write job beside its checkpoints: %w%s", err, hint(err))
	}
	if _, err = f.Write(spec); err == nil {
		err = errors.Join(f.Chmod(0o644), f.Sync())
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDirectory(filepath.Dir(path))
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write job beside its checkpoints: %w%s", err, hint(err))
	}
	return nil
}

// ReadSpec reads what WriteSpec wrote.
func ReadSpec(root, job string) ([]byte, error) {
	if _, err := stepDirectory(job, 0); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(root, job, specFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil,
			fmt.Errorf("%w: no %s in %s, which workers put beside a job's checkpoints; name the directory that holds "+
				"the directory %s", ErrMissing, specFile, filepath.Join(root, job), job)
	}
	return b, err
}

// Jobs lists the jobs that have a directory with their canonical bytes below root.
func Jobs(root string) ([]string, error) {
	found, err := fs.Glob(os.DirFS(root), "*/"+specFile)
	if err != nil {
		return nil, err
	}
	for i := range found {
		found[i] = path.Dir(found[i])
	}
	return found, nil
}

var stepName = regexp.MustCompile(`^[0-9]{12}$`)

// Find looks for the files of replica 0 in a directory without asking for manifests: those of a step, or of the newest
// step of which every column has one, by column. Of one column's files the newest generation's is taken.
func Find(root, job string, step *uint64, columns int) (at uint64, files []string, err error) {
	if _, err := stepDirectory(job, 0); err != nil {
		return 0, nil, err
	}
	entries, err := os.ReadDir(filepath.Join(root, job))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, nil, fmt.Errorf("look for checkpoints: %w", err)
	}
	for i := len(entries) - 1; i >= 0; i-- { // they are sorted by name, so by step
		name := entries[i].Name()
		if !stepName.MatchString(name) {
			continue
		}
		if _, err := fmt.Sscanf(name, "%d", &at); err != nil || step != nil && at != *step {
			continue
		}
		if files = columnFiles(filepath.Join(root, job, name), columns); files != nil {
			return at, files, nil
		}
	}
	what := "no step"
	if step != nil {
		what = fmt.Sprintf("not step %d", *step)
	}
	return 0, nil, fmt.Errorf("%w: in %s is %s with a file of each of %d columns", ErrMissing, filepath.Join(root, job),
		what, columns)
}

// columnFiles are the newest files of replica 0, nil if a column has none.
func columnFiles(dir string, columns int) []string {
	files, newest := make([]string, columns), make([]uint64, columns)
	entries, _ := os.ReadDir(dir) // what cannot be read has no files
	for _, e := range entries {
		var column int
		var generation uint64
		n, err := fmt.Sscanf(e.Name(), "r0c%d.g%d.ckpt", &column, &generation)
		if err != nil || n != 2 || column < 0 || column >= columns ||
			e.Name() != fmt.Sprintf("r0c%d.g%d.ckpt", column, generation) {
			continue
		}
		if files[column] == "" || generation > newest[column] {
			files[column], newest[column] = filepath.Join(dir, e.Name()), generation
		}
	}
	for _, f := range files {
		if f == "" {
			return nil
		}
	}
	return files
}
