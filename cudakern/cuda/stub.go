//go:build !cuda || !cgo

// Package cuda is the CUDA device. This build has none of it: it was made without the tag cuda.
package cuda

import (
	"context"
	"fmt"

	"colonnade/cudakern"
)

// errNone is why there is nothing here.
var errNone = fmt.Errorf("this program was built without CUDA: %w; build it with scripts/setup.sh's use_cuda",
	cudakern.ErrUnsupported)

// List has nothing to list.
func List() Driver { return Driver{Error: errNone.Error()} }

// Watch has nothing to watch.
func Watch(context.Context, string, func(uint64, bool)) (func(), error) { return nil, errNone }

// Health knows nothing.
func Health(string) (GPU, error) { return GPU{}, errNone }

// New refuses: the device is reached through a C library.
func New(name string, _ ...Option) (cudakern.Device, error) {
	return nil, fmt.Errorf("%s: %w, or take a device of: worker devices", name, errNone)
}
