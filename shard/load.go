package shard

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// MaxFile bounds files that a user writes, in bytes: networks and jobs are a few kilobytes.
const MaxFile = 1 << 20

// ReadFile reads a file of at most MaxFile bytes. A missing one is fs.ErrNotExist.
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a directory", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > MaxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, MaxFile)
	}
	return b, nil
}

// Load reads an embedded network, or else a file, and returns its text too.
func Load(name string) (*Network, string, error) {
	if text, err := EmbeddedText(name); err == nil {
		network, err := Parse(name+".yaml", []byte(text))
		return network, text, err
	}
	text, err := ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("no network %q: it is neither a file nor one of %s; name one of these", name,
			strings.Join(EmbeddedNames(), ", "))
	}
	if err != nil {
		return nil, "", fmt.Errorf("read network: %w; name a network file, or one of %s", err,
			strings.Join(EmbeddedNames(), ", "))
	}
	network, err := Parse(name, text)
	return network, string(text), err
}
