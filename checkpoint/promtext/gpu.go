package promtext

import "colonnade/proto/clusterpb"

// GPUGauge is a family of what GPUs say of themselves.
type GPUGauge struct {
	name, kind, help string
	value            func(*clusterpb.DeviceHealth) *float64 // nil: it does not say
}

// GPUGauges are all of them.
var GPUGauges = []GPUGauge{
	{"colonnade_gpu_temperature_celsius", "gauge", "Temperature of a worker's GPU.",
		func(h *clusterpb.DeviceHealth) *float64 { return number(h.Celsius) }},
	{"colonnade_gpu_power_watts", "gauge", "Power that a worker's GPU draws.",
		func(h *clusterpb.DeviceHealth) *float64 { return number(h.Watts) }},
	{"colonnade_gpu_power_limit_watts", "gauge", "Power that a worker's GPU may draw.",
		func(h *clusterpb.DeviceHealth) *float64 { return number(h.WattsLimit) }},
	{"colonnade_gpu_busy_ratio", "gauge", "Share of time in which a worker's GPU computes.",
		func(h *clusterpb.DeviceHealth) *float64 {
			if h.BusyPercent == nil {
				return nil
			}
			v := float64(*h.BusyPercent) / 100
			return &v
		}},
	{"colonnade_gpu_memory_free_bytes", "gauge", "Free memory of a worker's GPU.",
		func(h *clusterpb.DeviceHealth) *float64 { return number(h.FreeBytes) }},
	{"colonnade_gpu_ecc_uncorrected_errors_total", "counter",
		"Errors of a GPU's memory that ECC could not correct, since its driver was loaded.",
		func(h *clusterpb.DeviceHealth) *float64 { return number(h.EccUncorrected) }},
	{"colonnade_gpu_warnings", "gauge", "Warnings of a worker's GPU: what an owner should look at.",
		func(h *clusterpb.DeviceHealth) *float64 { n := len(h.Warnings); return number(&n) }},
}

func number[T int | int32 | int64 | uint64 | float64](v *T) *float64 {
	if v == nil {
		return nil
	}
	out := float64(*v)
	return &out
}

// Begin begins the family.
func (g GPUGauge) Begin(e *Exposition) { e.Family(g.name, g.kind, g.help) }

// Sample writes what a GPU says, if it says anything. h may be nil.
func (g GPUGauge) Sample(e *Exposition, h *clusterpb.DeviceHealth, labels ...string) {
	if h == nil {
		return
	}
	if v := g.value(h); v != nil {
		e.Sample(g.name, *v, labels...)
	}
}
