//go:build !cgo

// Package cpu is the CPU device. This build has none of it: it was made without cgo.
package cpu

import (
	"fmt"

	"colonnade/cudakern"
)

// New refuses: the device's arithmetic is C++.
func New(...Option) (cudakern.Device, error) {
	return nil, fmt.Errorf("this program was built without cgo: %w; build it with CGO_ENABLED=1", cudakern.ErrUnsupported)
}
