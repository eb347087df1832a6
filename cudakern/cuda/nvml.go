//go:build cuda && cgo

package cuda

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// libraryVariable names the library to ask for health instead of libnvidia-ml.so.1: for tests.
const libraryVariable = "COLONNADE_LIBNVML"

// management is NVIDIA's management library, once it has been started. Nothing of it may be called before: it is loaded
// then, and a call into what is not loaded ends the process. The same goes for functions that an older one lacks: every
// call but the few that all have is behind has.
type management struct{ lib nvml.Interface }

// startManagement loads the library at its first call. It is never unloaded: nothing is held by it.
var startManagement = sync.OnceValues(func() (*management, error) {
	var options []nvml.LibraryOption
	if path := os.Getenv(libraryVariable); path != "" {
		options = append(options, nvml.WithLibraryPath(path))
	}
	lib := nvml.New(options...)
	if rc := lib.Init(); rc != nvml.SUCCESS {
		return nil, cannot("NVIDIA's management library does not start: %v", said(rc))
	}
	return &management{lib}, nil
})

// said is a return code as an error that has nothing to do with the library any more: its own text is asked of the
// library, which may not be loaded.
func said(rc nvml.Return) error {
	names := map[nvml.Return]string{nvml.ERROR_LIBRARY_NOT_FOUND: "no libnvidia-ml.so.1; it comes with the driver",
		nvml.ERROR_DRIVER_NOT_LOADED: "the driver is not loaded", nvml.ERROR_NO_PERMISSION: "no permission",
		nvml.ERROR_NOT_SUPPORTED: "not supported", nvml.ERROR_GPU_IS_LOST: "the GPU is lost",
		nvml.ERROR_FUNCTION_NOT_FOUND:      "a function is missing; the driver is old",
		nvml.ERROR_LIB_RM_VERSION_MISMATCH: "the driver was updated, and the one that is loaded is older; restart"}
	if s := names[rc]; s != "" {
		return fmt.Errorf("%s (NVML %d)", s, int(rc))
	}
	return fmt.Errorf("NVML %d", int(rc))
}

// has says whether the library has a function.
func (m *management) has(symbol string) bool { return m.lib.Extensions().LookupSymbol(symbol) == nil }

// device finds a GPU by its UUID: the driver's numbers are others than the library's where CUDA_VISIBLE_DEVICES is set.
func (m *management) device(uuid string) (nvml.Device, error) {
	if !m.has("nvmlDeviceGetHandleByUUID") {
		return nil, said(nvml.ERROR_FUNCTION_NOT_FOUND)
	}
	d, rc := m.lib.DeviceGetHandleByUUID(uuid)
	if rc != nvml.SUCCESS {
		return nil, said(rc)
	}
	return d, nil
}

// ask sets what a function of the library answers, if there is the function and it answers.
func ask[T any](m *management, symbol string, to **T, f func() (T, nvml.Return)) {
	if !m.has(symbol) {
		return
	}
	if v, rc := f(); rc == nvml.SUCCESS {
		*to = &v
	}
}

// release is the driver's release.
func (m *management) release() string {
	var s *string
	ask(m, "nvmlSystemGetDriverVersion", &s, m.lib.SystemGetDriverVersion)
	if s == nil {
		return ""
	}
	return *s
}

// health fills in what the library says of a GPU.
func (m *management) health(g *GPU) {
	d, err := m.device(g.UUID)
	if err != nil {
		g.Warnings = append(g.Warnings, fmt.Sprintf("nothing is known of its health: %v", err))
		return
	}
	ask(m, "nvmlDeviceGetMemoryInfo", &g.Free, func() (int64, nvml.Return) {
		i, rc := d.GetMemoryInfo()
		return int64(i.Free), rc
	})
	ask(m, "nvmlDeviceGetTemperature", &g.Temperature, func() (int, nvml.Return) {
		t, rc := d.GetTemperature(nvml.TEMPERATURE_GPU)
		return int(t), rc
	})
	ask(m, "nvmlDeviceGetPowerUsage", &g.Watts, func() (float64, nvml.Return) {
		p, rc := d.GetPowerUsage()
		return float64(p) / 1000, rc
	})
	ask(m, "nvmlDeviceGetEnforcedPowerLimit", &g.WattsLimit, func() (float64, nvml.Return) {
		p, rc := d.GetEnforcedPowerLimit()
		return float64(p) / 1000, rc
	})
	ask(m, "nvmlDeviceGetUtilizationRates", &g.Busy, func() (int, nvml.Return) {
		u, rc := d.GetUtilizationRates()
		return int(u.Gpu), rc
	})
	ask(m, "nvmlDeviceGetEccMode", &g.ECC, func() (bool, nvml.Return) {
		now, _, rc := d.GetEccMode()
		return now == nvml.FEATURE_ENABLED, rc
	})
	ask(m, "nvmlDeviceGetTotalEccErrors", &g.ECCErrors, func() (uint64, nvml.Return) {
		return d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
	})
	var reasons *uint64
	ask(m, "nvmlDeviceGetCurrentClocksThrottleReasons", &reasons, d.GetCurrentClocksThrottleReasons)
	if reasons != nil {
		g.Slowed = slowed(*reasons)
	}
	g.Warnings = append(g.Warnings, warnings(g)...)
}

// Health asks the management library how a GPU is; of what it returns only health and warnings are set.
func Health(uuid string) (GPU, error) {
	m, err := startManagement()
	if err != nil {
		return GPU{}, err
	}
	g := GPU{UUID: uuid}
	m.health(&g)
	return g, nil
}

// slowdowns are reasons for a lower clock that an owner can do something about.
var slowdowns = []struct {
	bit  uint64
	what string
}{{0x4, "its power limit"}, {0x8, "hardware slowdown"}, {0x20, "heat (the driver's limit)"},
	{0x40, "heat (the GPU's own limit)"}, {0x80, "the power supply's brake"}}

func slowed(reasons uint64) (out []string) {
	for _, s := range slowdowns {
		if reasons&s.bit != 0 {
			out = append(out, s.what)
		}
	}
	return out
}

// hot is a temperature at which GPUs slow down or soon will.
const hot = 87

// warnings are what of a GPU's health an owner should look at.
func warnings(g *GPU) (out []string) {
	if g.ECCErrors != nil && *g.ECCErrors > 0 {
		out = append(out, fmt.Sprintf("%d memory errors that ECC could not correct: restart it, and replace it if they come "+
			"back", *g.ECCErrors))
	}
	if g.Temperature != nil && *g.Temperature >= hot {
		out = append(out, fmt.Sprintf("%d degrees Celsius: look at its cooling", *g.Temperature))
	}
	for _, s := range g.Slowed {
		if s != slowdowns[0].what { // the power limit is where a GPU at work should be
			out = append(out, "slowed down by "+s)
		}
	}
	return out
}

// path says how two GPUs are connected.
func (m *management) path(a, b string) string {
	da, err := m.device(a)
	if err != nil {
		return ""
	}
	db, err := m.device(b)
	if err != nil {
		return ""
	}
	if n := m.nvlinks(da); n > 0 && m.nvlinks(db) > 0 {
		return fmt.Sprintf("NVLink x%d", n)
	}
	if !m.has("nvmlDeviceGetTopologyCommonAncestor") {
		return ""
	}
	level, rc := da.GetTopologyCommonAncestor(db)
	if rc != nvml.SUCCESS {
		return ""
	}
	return map[nvml.GpuTopologyLevel]string{nvml.TOPOLOGY_INTERNAL: "one board", nvml.TOPOLOGY_SINGLE: "one PCIe switch",
		nvml.TOPOLOGY_MULTIPLE: "several PCIe switches", nvml.TOPOLOGY_HOSTBRIDGE: "one PCIe host bridge",
		nvml.TOPOLOGY_NODE: "one processor's bridges", nvml.TOPOLOGY_SYSTEM: "between processors"}[level]
}

// nvlinks counts a GPU's links that are up.
func (m *management) nvlinks(d nvml.Device) (n int) {
	if !m.has("nvmlDeviceGetNvLinkState") {
		return 0
	}
	for link := range nvml.NVLINK_MAX_LINKS {
		if state, rc := d.GetNvLinkState(link); rc == nvml.SUCCESS && state == nvml.FEATURE_ENABLED {
			n++
		}
	}
	return n
}

// deadly are Xid errors after which a GPU computes nothing until it is reset: what is running on it is lost.
var deadly = []uint64{48, 62, 64, 74, 79, 92, 94, 95, 109, 119, 120, 140, 143}

// Watch tells report of every Xid error that the driver logs for a GPU until ctx ends, and whether the GPU is lost by
// it. It returns at once, and nil too where the driver cannot tell; wait returns when the watching has ended.
func Watch(ctx context.Context, uuid string, report func(xid uint64, lost bool)) (wait func(), err error) {
	m, err := startManagement()
	if err != nil {
		return nil, err
	}
	for _, s := range []string{"nvmlEventSetCreate", "nvmlDeviceRegisterEvents", "nvmlEventSetWait_v2",
		"nvmlEventSetFree"} {
		if !m.has(s) {
			return nil, cannot("watch for Xid errors: %v", said(nvml.ERROR_FUNCTION_NOT_FOUND))
		}
	}
	d, err := m.device(uuid)
	if err != nil {
		return nil, fmt.Errorf("watch for Xid errors: %w", err)
	}
	set, rc := m.lib.EventSetCreate()
	if rc != nvml.SUCCESS {
		return nil, fmt.Errorf("watch for Xid errors: %w", said(rc))
	}
	if rc := d.RegisterEvents(nvml.EventTypeXidCriticalError, set); rc != nvml.SUCCESS {
		set.Free()
		return nil, fmt.Errorf("watch for Xid errors: %w", said(rc))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer set.Free()
		for ctx.Err() == nil {
			e, rc := set.Wait(watchMillis)
			switch rc {
			case nvml.SUCCESS:
				report(e.EventData, slices.Contains(deadly, e.EventData))
			case nvml.ERROR_TIMEOUT:
			default: // the library itself is lost: the next call of the driver will say more
				return
			}
		}
	}()
	return func() { <-done }, nil
}

// watchMillis is how long a watch may outlive its context.
const watchMillis = 500
