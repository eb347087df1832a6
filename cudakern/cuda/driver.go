//go:build cuda && cgo

package cuda

// #include <colonnade_driver.h>
import "C"

import (
	"fmt"
	"strconv"
	"strings"

	"gorgonia.org/cu"
)

// oldestDriver is the version of CUDA that takes PTX 6.3, as image A of the kernels is.
const oldestDriver = 10000

// driverWorks says why no GPU can be driven, nil if one can.
func driverWorks() error {
	rc := int(C.colonnadeDriverInit())
	if why := C.GoString(C.colonnadeDriverReason()); why != "" {
		return cannot("no CUDA driver (%s); install NVIDIA's driver", why)
	}
	return startError(rc, cu.Version())
}

// startError is what cuInit's answer and the driver's version mean.
func startError(rc, driver int) error {
	switch {
	case rc == codeNoDevice:
		return cannot("the CUDA driver finds no GPU; see nvidia-smi, and CUDA_VISIBLE_DEVICES if it is set")
	case rc == codeMismatch:
		return cannot("the CUDA driver was updated, and the kernel's part of it is older; restart the machine")
	case rc != 0:
		return fmt.Errorf("the CUDA driver does not start; see nvidia-smi: %w", &Error{Call: "cuInit", Code: rc})
	}
	if driver > 0 && driver < oldestDriver {
		return cannot("the CUDA driver is too old: it speaks CUDA %s, and our kernels need %s; install a newer driver",
			version(driver), version(oldestDriver))
	}
	return nil
}

// find is the GPU that a name means.
func find(name string) (cu.Device, error) {
	n, err := cu.NumDevices()
	if err != nil {
		return 0, failed(err, "cuDeviceGetCount", "")
	}
	which := strings.TrimPrefix(name, "cuda:")
	if i, err := strconv.Atoi(which); err == nil {
		switch {
		case i < 0 || i >= n && n == 1:
			return 0, cannot("the only GPU is cuda:0; see: worker devices")
		case i >= n:
			return 0, cannot("there are %d GPUs, cuda:0 to cuda:%d; see: worker devices", n, n-1)
		}
		d, err := cu.GetDevice(i)
		return d, failed(err, "cuDeviceGet", name)
	}
	var found []cu.Device
	for i := range n {
		d, err := cu.GetDevice(i)
		if err != nil {
			return 0, failed(err, "cuDeviceGet", strconv.Itoa(i))
		}
		id, err := d.UUID()
		if err != nil {
			return 0, failed(err, "cuDeviceGetUuid", strconv.Itoa(i))
		}
		if strings.HasPrefix("GPU-"+id.String(), which) && len(which) > len("GPU-") {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return 0, cannot("no GPU of that name; see: worker devices")
	}
	return 0, cannot("%d GPUs begin so; write more of the UUID", len(found))
}

// sharedOptIn is CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, which gorgonia.org/cu does not know.
const sharedOptIn cu.DeviceAttribute = 97

// properties asks the driver what a GPU is.
func properties(d cu.Device) (p props, err error) {
	if p.model, err = d.Name(); err != nil {
		return p, failed(err, "cuDeviceGetName", d.String())
	}
	if p.memory, err = d.TotalMem(); err != nil {
		return p, failed(err, "cuDeviceTotalMem", d.String())
	}
	for _, a := range []struct {
		of cu.DeviceAttribute
		to *int
	}{{cu.ComputeCapabilityMajor, &p.major}, {cu.ComputeCapabilityMinor, &p.minor},
		{cu.MultiprocessorCount, &p.processors}, {cu.MaxSharedMemoryPerBlock, &p.shared}, {cu.ClockRate, &p.clock},
		{cu.MemoryClockRate, &p.memoryClock}, {cu.GlobalMemoryBusWidth, &p.bus}} {
		if *a.to, err = d.Attribute(a.of); err != nil {
			return p, failed(err, "cuDeviceGetAttribute", fmt.Sprintf("%v of %s", a.of, d))
		}
	}
	if p.sharedMost, err = d.Attribute(sharedOptIn); err != nil || p.sharedMost < p.shared {
		p.sharedMost = p.shared // a driver that does not know the question
	}
	return p, nil
}
