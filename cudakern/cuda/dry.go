//go:build cuda && cgo

package cuda

import (
	"fmt"

	"colonnade/cudakern"
)

// Needs says how much of the GPU's memory build will take: it is run on a device like this one that only keeps the
// books. What it makes must be given back by it; that nothing can be computed does not show.
func (d *Device) Needs(build func(cudakern.Device) error) (int64, error) {
	dry := &Device{config: d.config, name: d.name, props: d.props, image: d.image, dry: true,
		streams: map[*stream]struct{}{}, functions: map[string]*function{}}
	dry.heap.slabBytes = d.slab
	err := build(dry)
	var bytes int64
	for _, s := range dry.heap.slabs {
		bytes += s.bytes
	}
	if n := dry.Live(); err == nil && n != 0 {
		err = fmt.Errorf("%d buffers, streams and ops were not given back", n)
	}
	if err != nil {
		return 0, fmt.Errorf("find out what memory of %s is needed: %w", d.name, err)
	}
	return bytes, nil
}

// Fits says whether n bytes can be had now. The error says what is wanted and what is free.
func (d *Device) Fits(n int64) error {
	free, total, err := d.memory()
	if err != nil {
		return err
	}
	if have := free + d.unused(); n > have {
		return fmt.Errorf("%s of memory wanted, %s of %s free on %s (%s): %w", sizeOf(n), sizeOf(have), sizeOf(total), d.name,
			d.props.model, cudakern.ErrMemory)
	}
	return nil
}
