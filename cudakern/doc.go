// Package cudakern is the boundary between training and the device that computes: buffers, streams and ops. It knows
// shapes and layouts, nothing of networks, layers or columns.
//
// Devices: ref (float64 in pure Go: the oracle every other device is tested against), cpu (float32, oneDNN behind cgo)
// and, in its own package, cuda. All of them pass kerntest.RunAll.
//
// # Ops
//
// An op is an object made once for fixed shapes (Device.NewConv and its kin) and run many times. Making it chooses the
// algorithm, the layouts of its operands and its workspace; running it allocates nothing. Running an op enqueues it on
// a stream: when the call returns the work may not have been done, but everything enqueued later on the same stream
// sees its result. The CPU devices do the work before they return, which satisfies the same contract.
//
// # Layouts
//
// A buffer carries a Layout. Plain is dense NCHW (or N x features, or out x in x kh x kw for weights) in float32;
// others are the device's own, blocked as its kernels like it. An op states the layouts it wants (Conv.Layouts);
// who wires ops together allocates buffers in those layouts and puts a Reorder between two that differ. Elementwise
// ops (Add, SGD, ReLU) take any layout so long as their operands agree. Padding inside a blocked layout is zero and
// stays zero.
//
// # Ownership
//
// Alloc and Free, nothing is finalized. A buffer belongs to whoever allocated it; ops keep no buffer after a call is
// done but may keep workspace of their own until Close. Device.Live counts buffers and ops that have not been given
// back; it is zero at the end of every test.
//
// # Threads
//
// A device may be used from any goroutine that owns one of its streams: calls on one stream must not overlap in time,
// calls on different streams may. A CUDA device runs every driver call on one locked OS thread of its own; ref
// computes on the calling thread, cpu cuts an op among as many threads as it was opened with (Settings.Threads).
//
// # Determinism
//
// The same op on the same bytes gives the same bytes, on every run, whatever else the device is doing. Info.Numerics
// names all that the bits depend on (device kind, library version, instruction set, algorithm).
package cudakern
