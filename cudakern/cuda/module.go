//go:build cuda && cgo

package cuda

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"sync"

	"gorgonia.org/cu"

	"colonnade/cudakern"
)

//go:embed kernels/*.ptx
var images embed.FS

// Images of the kernels, by letter. Both have the same kernels under the same names, and give the same bits.
var imageFiles = map[byte]string{
	'A': "kernels/colonnade_sm70.ptx", // every GPU since Volta
	'B': "kernels/colonnade_sm80.ptx", // since Ampere: copies into shared memory that pass registers by, and TF32
}

// ptxVariable names a file of PTX to load instead: for tests.
const ptxVariable = "COLONNADE_CUDA_PTX"

// loadKernels loads the image that suits the GPU, or the older one if the driver will not have it.
func loadKernels(capability int) (cu.Module, byte, error) {
	if path := os.Getenv(ptxVariable); path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return cu.Module{}, 0, fmt.Errorf("%s: %w", ptxVariable, err)
		}
		m, err := loadImage(path, string(text))
		return m, 'X', err
	}
	var refused error
	for _, letter := range imageOrder(capability) {
		text, err := images.ReadFile(imageFiles[letter])
		if err != nil {
			return cu.Module{}, 0, fmt.Errorf("image %c of the kernels: %w", letter, err)
		}
		m, err := loadImage("image "+string(letter), string(text))
		if err == nil {
			return m, letter, nil
		}
		if refused = err; !refusal(err) {
			break
		}
	}
	return cu.Module{}, 0, refused
}

// imageOrder is the images that suit a GPU, the best first.
func imageOrder(capability int) []byte {
	if capability >= 80 {
		return []byte{'B', 'A'}
	}
	return []byte{'A'}
}

// refusal says whether the driver does not understand an image, so that an older one may do.
func refusal(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && (e.Code == codeInvalidPTX || e.Code == codeUnsupportedPTX || e.Code == codeNoBinary)
}

func loadImage(what, text string) (cu.Module, error) {
	m, log, err := loadModule(text)
	if err == nil {
		return m, nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		e.Detail = what
		if log != "" {
			e.Detail += ": " + log
		}
	}
	if refusal(err) {
		err = fmt.Errorf("the driver (CUDA %s) does not take our kernels' PTX; install a newer driver: %w",
			version(cu.Version()), err)
	}
	return m, err
}

// version is a driver's number as people know it: 12.4 for 12040.
func version(v int) string { return fmt.Sprintf("%d.%d", v/1000, v%1000/10) }

// function is a kernel.
type function struct {
	f      cu.Function
	mu     sync.Mutex
	shared int // dynamic shared memory it has been allowed
}

// kernel finds a kernel by name; on the device's thread.
func (d *Device) kernel(name string) (*function, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.functions[name]; f != nil {
		return f, nil
	}
	f, err := d.module.Function(name)
	if err != nil {
		err = &Error{Call: "cuModuleGetFunction", Kernel: name, Detail: "image " + string(d.image), Code: codeOf(err)}
		return nil, fmt.Errorf("the kernels have no %s: %w", name, errors.Join(err, cudakern.ErrUnsupported))
	}
	out := &function{f: f}
	d.functions[name] = out
	return out, nil
}
