// Package boltfile opens bbolt files that may be damaged: bbolt itself checks little of what it maps, and some of its
// panics are on goroutines where nobody can catch them.
package boltfile

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Timeout is how long another process may keep a file locked.
const Timeout = time.Second

// Options are what a file is opened with to be written, after Check. Its list of free pages is kept in the file:
// without it, bbolt walks the file on a goroutine of its own whenever it is opened.
func Options() *bolt.Options {
	return &bolt.Options{FreelistType: bolt.FreelistMapType, Timeout: Timeout}
}

// Caught turns panics and faults of code that reads a damaged database into errors that are `damaged`.
//
//	defer boltfile.Caught(&err, damaged)()
func Caught(err *error, damaged error) func() {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		if r := recover(); r != nil {
			*err = fmt.Errorf("%w: its database cannot be read: %v", damaged, r)
		}
	}
}

// Check reads all of a file with `all`, through a handle that can change nothing, and then has bbolt check that no page
// of it is used twice: what is written next would destroy something. In this order, since bbolt checks on a goroutine
// of its own, whose faults nobody can catch.
//
// made is false of a file that is not there, is empty, or was left by a process that ended before its first
// transaction. Errors are `damaged`, but for those of the operating system and of a file that is in use.
func Check(path string, damaged error, all func(*bolt.Tx) error) (made bool, err error) {
	if info, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || (err == nil && info.Size() == 0) {
		return false, nil
	}
	defer Caught(&err, damaged)()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, PreLoadFreelist: true, Timeout: Timeout})
	var pathError *os.PathError
	if errors.As(err, &pathError) || errors.Is(err, bolterrors.ErrTimeout) {
		return false, err
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", damaged, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }() // also when the view panics
	err = db.View(func(tx *bolt.Tx) error {
		if made = tx.ID() > 1; !made { // as bbolt makes it
			return nil
		}
		if size := tx.Size(); size > Size(path) {
			return fmt.Errorf("%w: %d bytes of %d are there", damaged, Size(path), size)
		}
		if err := all(tx); err != nil {
			return err
		}
		if err := checkPages(tx, damaged); err != nil {
			return err
		}
		var first error
		for err := range tx.Check() { // to its end, which ends its goroutine
			if first == nil {
				first = fmt.Errorf("%w: %w", damaged, err)
			}
		}
		return first
	})
	return made, err
}

// Size is a file's size in bytes; 0 if it is not there.
func Size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// checkPages wants every page to end before the file does: bbolt counts from a page to its end without looking.
func checkPages(tx *bolt.Tx, damaged error) error {
	end := int(tx.Size()) / tx.DB().Info().PageSize
	for id := 0; ; {
		p, err := tx.Page(id)
		if err != nil || p == nil {
			return err
		}
		if id++; p.Type == "free" {
			continue
		}
		if id += p.OverflowCount; id > end {
			return fmt.Errorf("%w: page %d goes on beyond the end", damaged, p.ID)
		}
	}
}
