//go:build cuda && cgo

package cuda

import (
	"fmt"

	"gorgonia.org/cu"
)

// List says what GPUs there are without opening any.
func List() Driver {
	d := Driver{}
	if v := cu.Version(); v > 0 {
		d.Version = version(v)
	}
	m, err := startManagement()
	if err != nil {
		d.Health = err.Error()
	} else {
		d.Release = m.release()
	}
	if err := driverWorks(); err != nil {
		d.Error = err.Error()
		return d
	}
	n, err := cu.NumDevices()
	if err != nil {
		d.Error = failed(err, "cuDeviceGetCount", "").Error()
		return d
	}
	var devices []cu.Device
	for i := range n {
		dev, err := cu.GetDevice(i)
		if err != nil {
			d.Error = failed(err, "cuDeviceGet", fmt.Sprint(i)).Error()
			return d
		}
		g := describe(dev)
		g.CUDA, g.Driver = d.Version, d.Release
		if m != nil && g.UUID != "" {
			m.health(&g)
		}
		d.GPUs, devices = append(d.GPUs, g), append(devices, dev)
	}
	for i := range devices {
		for j := range devices {
			if i == j {
				continue
			}
			l := Link{To: d.GPUs[j].Name, Peer: reach(devices[i], devices[j])}
			if m != nil {
				l.Path = m.path(d.GPUs[i].UUID, d.GPUs[j].UUID)
			}
			d.GPUs[i].Links = append(d.GPUs[i].Links, l)
		}
	}
	return d
}

// describe is what the driver says of a GPU.
func describe(dev cu.Device) GPU {
	g := GPU{Name: fmt.Sprintf("cuda:%d", int(dev)), Bus: busID(dev)}
	if id, err := dev.UUID(); err == nil {
		g.UUID = "GPU-" + id.String()
	}
	p, err := properties(dev)
	if err != nil {
		g.Warnings = append(g.Warnings, err.Error())
		return g
	}
	g.Model, g.Processors, g.Memory = p.model, p.processors, p.memory
	g.Capability = fmt.Sprintf("%d.%d", p.major, p.minor)
	g.Image, g.Numerics = string(imageOrder(p.capability())[0]), numerics(false)
	g.Flops, g.Bandwidth = p.flops(), p.bandwidth()
	if p.capability() < oldestCapability {
		g.Warnings = append(g.Warnings, "its compute capability is below 7.0: our kernels do not run on it")
	}
	return g
}

// reach says whether two GPUs can use each other's memory.
func reach(a, b cu.Device) bool {
	there, err := a.CanAccessPeer(b)
	back, berr := b.CanAccessPeer(a)
	return err == nil && berr == nil && there != 0 && back != 0
}

// lanes is how many float32 multiply-adds a processor (SM) starts in a cycle, by compute capability.
func lanes(capability int) int {
	switch {
	case capability < 80: // Volta, Turing
		return 64
	case capability == 80: // A100
		return 64
	}
	return 128
}

// flops is the float32 rate at the driver's clock, 2 for a multiply-add.
func (p props) flops() float64 {
	return 2 * float64(lanes(p.capability())) * float64(p.processors) * float64(p.clock) * 1e3
}

// bandwidth is the memory's rate in bytes a second: two transfers a clock.
func (p props) bandwidth() float64 { return 2 * float64(p.memoryClock) * 1e3 * float64(p.bus) / 8 }
