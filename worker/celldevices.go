package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"colonnade/cudakern"
	"colonnade/proto/clusterpb"
	"colonnade/worker/exchange"
)

// cellDevices are the devices of an assignment's cells: each cell has one of its own, opened with its share of the
// worker's threads.
type cellDevices map[exchange.Cell]cudakern.Device

// openDevices opens a device for every cell of an assignment, as its job wants convolutions computed. On an error it
// returns those it has opened, too.
func (h *host) openDevices(a *clusterpb.Assign, direct bool) (cellDevices, error) {
	var cells []exchange.Cell
	for _, c := range a.Cells {
		cells = append(cells, cellOf(c))
	}
	slices.SortFunc(cells, compareCells) // whatever order they came in, each gets the same share
	devices := cellDevices{}
	for i, c := range cells {
		d, err := h.open(cudakern.Settings{Threads: share(h.threads, i, len(cells)), Direct: direct})
		if err != nil {
			if err = fmt.Errorf("cell %s: %w", c, err); errors.Is(err, cudakern.ErrUnsupported) {
				err = permanentError{err}
			}
			return devices, err
		}
		devices[c] = d
	}
	return devices, nil
}

// numerics is what the bits depend on: the same for all, which are of one kind and opened with the same settings but
// for their threads.
func (d cellDevices) numerics() string {
	for _, device := range d {
		return device.Info().Numerics
	}
	return ""
}

// close closes the devices; their cells must have been closed.
func (d cellDevices) close() (err error) {
	for _, c := range slices.SortedFunc(maps.Keys(d), compareCells) {
		if e := d[c].Close(); e != nil {
			err = also(err, fmt.Errorf("cell %s: %w", c, e))
		}
	}
	return err
}

// compareCells puts cells in (replica, column) order.
func compareCells(a, b exchange.Cell) int {
	return cmp.Or(cmp.Compare(a.Replica, b.Replica), cmp.Compare(a.Column, b.Column))
}

// also is both errors in one line, for a report; either may be nil.
func also(err, more error) error {
	switch {
	case err == nil:
		return more
	case more == nil:
		return err
	}
	return fmt.Errorf("%w; and %w", err, more)
}

// describe opens a device for a look at it, with and without Winograd's algorithm: what the coordinator is told. A
// device that cannot do without it says so here, and is given no job that wants that.
func describe(open func(cudakern.Settings) (cudakern.Device, error), threads int) (*clusterpb.Device, error) {
	info, err := infoOf(open, cudakern.Settings{Threads: threads})
	if err != nil {
		return nil, err
	}
	direct, err := infoOf(open, cudakern.Settings{Threads: threads, Direct: true})
	if err != nil && !errors.Is(err, cudakern.ErrUnsupported) {
		return nil, err
	}
	return &clusterpb.Device{Name: info.Name, Model: info.Model, Numerics: info.Numerics, MemoryBytes: info.Memory,
		DirectNumerics: direct.Numerics, Threads: int32(threads)}, nil
}

// infoOf opens a device, asks what it is, and closes it.
func infoOf(open func(cudakern.Settings) (cudakern.Device, error), s cudakern.Settings) (cudakern.Info, error) {
	d, err := open(s)
	if err != nil {
		return cudakern.Info{}, err
	}
	return d.Info(), d.Close()
}
