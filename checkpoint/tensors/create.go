package tensors

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Replaceable refuses a path that a file must not take the place of: a directory, or a device such as /dev/null, which
// a renamed file would do away with.
func Replaceable(path string) error {
	switch info, err := os.Stat(path); {
	case err != nil: // not there yet; what else is wrong with it shows when it is made
	case info.IsDir():
		return fmt.Errorf("%s is a directory; name a file", path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no plain file and would be replaced by one; name another file", path)
	}
	return nil
}

// New is a file to be made.
type New struct {
	Path  string
	Write func(io.Writer) error
}

// Create writes a file that appears under its name only when it is whole and on disk; on an error nothing is left
// behind, and what was there before stays.
func Create(path string, write func(io.Writer) error) error { return CreateAll(New{path, write}) }

// CreateAll is Create for files that belong together: none appears before all are whole and on disk.
func CreateAll(files ...New) (err error) {
	var ready []string
	defer func() {
		for _, t := range ready { // those that have their names by now are no longer there
			os.Remove(t)
		}
	}()
	for _, f := range files {
		temporary, err := f.prepare()
		if err != nil {
			return f.failed(err)
		}
		ready = append(ready, temporary)
	}
	for i, f := range files {
		if err := f.publish(ready[i]); err != nil {
			return f.failed(err)
		}
	}
	return nil
}

// prepare writes the file beside its place.
func (n New) prepare() (temporary string, err error) {
	if err := Replaceable(n.Path); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Dir(n.Path), "."+filepath.Base(n.Path)+".*.tmp")
	if err != nil {
		return "", fmt.Errorf("%w; name a file in a directory that can be written to", err)
	}
	w := bufio.NewWriterSize(f, pieceBytes)
	err = n.Write(w)
	for _, next := range []func() error{w.Flush, func() error { return f.Chmod(0o644) }, f.Sync} {
		if err == nil {
			err = next()
		}
	}
	if closing := f.Close(); err == nil { // of several errors the first says it all
		err = closing
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return f.Name(), err
}

// publish gives the file its name, for good.
func (n New) publish(temporary string) error {
	if err := os.Rename(temporary, n.Path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(n.Path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// failed says which file an error is of, in one line, and what to do about a disk that is full.
func (n New) failed(err error) error {
	next := ""
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		next = "; free some space there, or name a file elsewhere"
	}
	return fmt.Errorf("write %s: %w%s", n.Path, err, next)
}
