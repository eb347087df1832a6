//go:build cuda && cgo

package cuda

import (
	"fmt"
	"os"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"colonnade/cudakern"
)

// libraryVariable names the library to ask for health instead of libnvidia-ml.so.1: for tests.
const libraryVariable = "COLONNADE_LIBNVML"

// management is NVML, once it has been started. Nothing of it may be called before: the library is loaded then, and a
// call into what is not loaded ends the process.
var management = sync.OnceValues(func() (nvml.Interface, error) {
	var options []nvml.LibraryOption
	if path := os.Getenv(libraryVariable); path != "" {
		options = append(options, nvml.WithLibraryPath(path))
	}
	lib := nvml.New(options...)
	if rc := lib.Init(); rc != nvml.SUCCESS {
		return nil, fmt.Errorf("NVML does not start: code %d: %w", int(rc), cudakern.ErrUnsupported)
	}
	return lib, nil
})
