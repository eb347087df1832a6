package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"colonnade/cudakern/cuda"
	"colonnade/proto/clusterpb"
)

// healthEvery is how often a GPU is asked how it is.
const healthEvery = 5 * time.Second

// gauge has what a GPU was last heard to say of itself. A nil gauge has nothing.
type gauge struct {
	mu    sync.Mutex
	last  *clusterpb.DeviceHealth
	fresh bool // and not taken yet
}

// set notes what a GPU says.
func (g *gauge) set(h *clusterpb.DeviceHealth) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last, g.fresh = h, true
}

// take returns what is new for the coordinator; nil: nothing is.
func (g *gauge) take() *clusterpb.DeviceHealth {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.fresh {
		return nil
	}
	g.fresh = false
	return proto.CloneOf(g.last)
}

// read returns what was heard last; nil: nothing was.
func (g *gauge) read() *clusterpb.DeviceHealth {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last
}

// measureGPU asks the GPU that a worker drives how it is until ctx ends; wait returns when that is over. A worker
// without a GPU has a nil gauge.
func measureGPU(ctx context.Context, device *clusterpb.Device, log *slog.Logger) (g *gauge, wait func()) {
	if !isGPU(device.Name) {
		return nil, func() {}
	}
	uuid := ""
	for _, one := range cuda.List().GPUs {
		if one.Name == device.Name {
			uuid = one.UUID
		}
	}
	g = &gauge{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(healthEvery)
		defer tick.Stop()
		for {
			h, err := cuda.Health(uuid)
			if err != nil {
				log.Info("the GPU's temperature and memory are not known", "device", device.Name, "why", err)
				return
			}
			g.set(healthPB(h))
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return g, func() { <-done }
}

// healthPB is a GPU's health as the coordinator is told.
func healthPB(g cuda.GPU) *clusterpb.DeviceHealth {
	out := &clusterpb.DeviceHealth{Watts: g.Watts, WattsLimit: g.WattsLimit, FreeBytes: g.Free,
		EccUncorrected: g.ECCErrors, SlowedBy: g.Slowed, Warnings: g.Warnings}
	if g.Temperature != nil {
		out.Celsius = proto.Int32(int32(*g.Temperature))
	}
	if g.Busy != nil {
		out.BusyPercent = proto.Int32(int32(*g.Busy))
	}
	return out
}
