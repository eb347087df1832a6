//go:build cuda && cgo

package cuda

// #include <colonnade_driver.h>
import "C"

import (
	"fmt"
	"strconv"
	"strings"

	"gorgonia.org/cu"

	"colonnade/cudakern"
)

// driverWorks says why no GPU can be driven, nil if one can.
func driverWorks() error {
	rc := int(C.colonnadeDriverInit())
	if why := C.GoString(C.colonnadeDriverReason()); why != "" {
		return fmt.Errorf("no CUDA driver (%s); install NVIDIA's driver: %w", why, cudakern.ErrUnsupported)
	}
	switch {
	case rc == codeNoDevice:
		return fmt.Errorf("the CUDA driver finds no GPU; see nvidia-smi, and CUDA_VISIBLE_DEVICES if it is set: %w",
			cudakern.ErrUnsupported)
	case rc != 0:
		return fmt.Errorf("the CUDA driver does not start: %w", &Error{Call: "cuInit", Code: rc})
	}
	return nil
}

// find is the GPU that a name means.
func find(name string) (cu.Device, error) {
	n, err := cu.NumDevices()
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, failed(err, "cuDeviceGetCount", ""))
	}
	which := strings.TrimPrefix(name, "cuda:")
	if i, err := strconv.Atoi(which); err == nil {
		if i < 0 || i >= n {
			return 0, fmt.Errorf("%s: there are %d GPUs, cuda:0 to cuda:%d; see: worker devices: %w", name, n, n-1,
				cudakern.ErrUnsupported)
		}
		d, err := cu.GetDevice(i)
		return d, failed(err, "cuDeviceGet", name)
	}
	var found []cu.Device
	for i := range n {
		d, err := cu.GetDevice(i)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, failed(err, "cuDeviceGet", strconv.Itoa(i)))
		}
		id, err := d.UUID()
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, failed(err, "cuDeviceGetUuid", strconv.Itoa(i)))
		}
		if uuid := "GPU-" + id.String(); strings.HasPrefix(uuid, which) && which != "" {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return 0, fmt.Errorf("%s: no GPU of that name; see: worker devices: %w", name, cudakern.ErrUnsupported)
	}
	return 0, fmt.Errorf("%s: %d GPUs begin so; write more of the UUID: %w", name, len(found), cudakern.ErrUnsupported)
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
