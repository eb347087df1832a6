//go:build !cuda || !cgo

// Package cuda is the CUDA device. This build has none of it: it was made without the tag cuda.
package cuda

import (
	"fmt"

	"colonnade/cudakern"
)

// New refuses: the device is reached through a C library.
func New(name string, _ ...Option) (cudakern.Device, error) {
	return nil, fmt.Errorf("%s: this program was built without CUDA: %w; build it with scripts/setup.sh's use_cuda, "+
		"or take a device of: worker devices", name, cudakern.ErrUnsupported)
}
