package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Staged are all files of a job's step, whole and on disk, beside the place where they belong: Keep moves them there at
// once, Drop does away with them.
type Staged struct {
	stage    string   // directory they are in
	from, to string   // the step's directory, or the job's where there is none yet
	made     []string // directories that were made for them, the outermost first
}

// Stage writes a step of a job that has none there yet, by files, which is given a directory that stands for root, with
// the job's canonical bytes beside them. On an error nothing is left but what was there.
func Stage(root, job string, step uint64, spec []byte, files func(root string) error) (s *Staged, err error) {
	name, err := stepDirectory(job, step)
	if err != nil {
		return nil, err
	}
	s = &Staged{stage: filepath.Join(root, "."+job+".stage.tmp")}
	if err := s.place(root, job, name, step, spec); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Drop()
		}
	}()
	for dir := filepath.Clean(root); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		s.made = append([]string{dir}, s.made...)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, fmt.Errorf("write checkpoint: %w; name another directory", err)
	}
	if err := os.RemoveAll(s.stage); err != nil { // of a run that was killed
		return nil, fmt.Errorf("write checkpoint: %w", err)
	}
	if err := WriteSpec(s.stage, job, spec); err != nil {
		return nil, err
	}
	return s, files(s.stage)
}

// place finds out what is to be moved where, and refuses to mix jobs or to take a step's place.
func (s *Staged) place(root, job, step string, number uint64, spec []byte) error {
	s.from, s.to = filepath.Join(s.stage, job), filepath.Join(root, job)
	entries, err := os.ReadDir(s.to)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write checkpoint: %w; name another directory", err)
	}
	if old, err := os.ReadFile(filepath.Join(s.to, specFile)); err != nil || string(old) != string(spec) {
		return fmt.Errorf("write checkpoint: in %s is something else than job %s, which would be mixed with it; remove it, "+
			"or name another directory", s.to, job)
	}
	s.from, s.to = filepath.Join(s.stage, filepath.FromSlash(step)), filepath.Join(root, filepath.FromSlash(step))
	if _, err := os.Stat(s.to); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("write checkpoint: job %s has step %d in %s already; remove that directory, or "+
			"name another one", job, number, s.to))
	}
	return nil
}

// Keep gives the files their place, for good.
func (s *Staged) Keep() error {
	if err := os.Rename(s.from, s.to); err != nil {
		s.Drop()
		return fmt.Errorf("write checkpoint: %w", err)
	}
	for _, dir := range append(s.made, s.to) {
		if err := syncDirectory(filepath.Dir(dir)); err != nil {
			return fmt.Errorf("write checkpoint: %w", err)
		}
	}
	if err := os.RemoveAll(s.stage); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}

// Drop leaves nothing but what was there.
func (s *Staged) Drop() {
	os.RemoveAll(s.stage)
	for i := len(s.made) - 1; i >= 0; i-- {
		os.Remove(s.made[i]) // unless something else is in it by now
	}
}
